"""Temporary files, of this process and of those that were killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_runtime.durable import remove_stale, temporary_folder, temporary_place, write_durably


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def killed(code: str, folder: Path) -> None:
    """Run code in a process that kills itself."""
    code = f"import os, signal\n{code}\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(folder)}, cwd=folder, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_folder_of_a_process_that_was_killed_is_removed_by_the_next(temporary: Path) -> None:
    (temporary / "lepton-edge-work").mkdir()  # not ours to remove
    with temporary_folder() as own:
        code = (
            "from lepton_runtime.durable import temporary_folder\nwith temporary_folder() as folder:\n    open(folder + '/x', 'w').close()"
        )
        killed(code, temporary)
        assert len(list(temporary.iterdir())) == 5
        with temporary_folder():
            assert Path(own).is_dir()
    assert [path.name for path in temporary.iterdir()] == ["lepton-edge-work"]


def test_names_that_others_made_up_are_left_alone(temporary: Path) -> None:
    for name in ("lepton-edge-²-x", "lepton-edge-99999999999999999999-x", "lepton-edge-x.lock", "lepton-edge-²²²²²²²²²²²²²²²².lock"):
        (temporary / name).mkdir()
    with temporary_folder():
        assert len(list(temporary.iterdir())) == 6
    assert len(list(temporary.iterdir())) == 4


def test_what_a_process_left_beside_its_output_is_removed(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom lepton_runtime.durable import temporary_place\n"
    killed(code + "with temporary_place(Path('out')) as place:\n    place.mkdir()", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    remove_stale(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_does_not_come_to_its_place_is_removed(tmp_path: Path) -> None:
    with temporary_place(tmp_path / "out") as place:
        write_durably(place, b"half")
        assert place in list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
