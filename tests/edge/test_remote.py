"""``--device``: commands on another machine, which is this one behind a real ``sshd``."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_edge.digits import shipped_bundle
from lepton_edge.remote.run import check_address, run_there
from lepton_edge.remote.wheel import build_wheel
from lepton_edge.report.document import load_report
from lepton_runtime.errors import InputError
from tests.edge.sshd import SSHD, Cable, Device, start

pytestmark = [pytest.mark.skipif(SSHD is None, reason="needs sshd: apt-get install openssh-server"), pytest.mark.simulation]
ADDRESS = "ssh://device"
SHORT = ("--precision", "fp32", "--engine", "onnxruntime", "--processes", "2", "--runs", "20", "--seconds", "0.05")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device, process = start(tmp_path_factory.mktemp("device"))
    yield device
    process.terminate()
    process.wait()


@pytest.fixture
def reached(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("LEPTON_EDGE_SSH", device.ssh())
    return device


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The digits, in a folder of their own."""
    return Path(shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle"))


def keys_of(value: object) -> object:
    """The names in a document, without its values."""
    if isinstance(value, dict):
        return {name: keys_of(inner) for name, inner in value.items() if name != "versions"}  # there only what a device needs
    return [keys_of(value[0])] if isinstance(value, list) and value else None


def test_a_benchmark_there_has_the_schema_of_one_here(lepton_edge, reached: Device, bundle: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    assert lepton_edge("benchmark", bundle, *SHORT, "--json", here).code == 0
    outcome = lepton_edge("benchmark", bundle, *SHORT, "--json", there, "--device", ADDRESS)
    assert outcome.code == 0, outcome.err
    assert "fp32.onnx" in outcome.out
    documents = [json.loads(path.read_text()) for path in (here, there)]
    assert keys_of(documents[0]) == keys_of(documents[1])
    report = load_report(there)
    assert report.results[0].candidate.bundle == "digits.bundle"
    assert report.command.endswith(f"--device {ADDRESS}")
    lepton_edge("benchmark", bundle, *SHORT, "--json", there, "--device", ADDRESS).refused(1, because="exists; add --force")
    printed = lepton_edge("benchmark", bundle / "model.fp32.onnx", *SHORT[2:], "--json", "-", "--device", ADDRESS)
    assert keys_of(json.loads(printed.out)) == keys_of(documents[0])
    assert list((reached.cache / "runs").iterdir()) == []


def test_only_what_is_not_there_is_sent(reached: Device, bundle: Path) -> None:
    states: list[str] = []
    for _ in range(2):
        states.clear()
        assert run_there(ADDRESS, ["inspect", "digits.bundle"], {"digits.bundle": bundle}, on_state=states.append).code == 0
    assert states == [f"connecting to {ADDRESS}", ""]
    kept = reached.cache / "blobs" / hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    kept.write_bytes(kept.read_bytes()[::-1])  # as a failing card leaves it
    states.clear()
    assert run_there(ADDRESS, ["doctor", "digits.bundle"], {"digits.bundle": bundle}, on_state=states.append).code == 0
    assert sum(state.startswith("sending ") for state in states) == 1


def test_tuning_there_is_kept_there_and_here(lepton_edge, reached: Device, bundle: Path) -> None:
    outcome = lepton_edge("tune", bundle, "--precision", "fp32", "--threads", 1, "--device", ADDRESS)
    assert outcome.code == 0, outcome.err
    beside = bundle.with_name("digits.bundle.tuned.json")
    (there,) = (reached.folder / "home/data/lepton-edge/tuned").glob("*.json")
    assert json.loads(beside.read_text()) == json.loads(there.read_text())
    assert f"Wrote {beside}, too" in outcome.err
    checked = lepton_edge("doctor", bundle, "--device", ADDRESS)
    assert "is opened" in checked.out


def test_two_of_one_name_and_an_archive_and_options_of_several_values(lepton_edge, reached: Device, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    shutil.copytree(bundle, tmp_path / "old/digits.bundle")
    archive = shutil.make_archive(str(tmp_path / "-zipped"), "zip", bundle)
    options = (*SHORT[:2], *SHORT[4:], "--threads", "1", "--threads", 2, "--engine", "onnxruntime", "--strict")
    outcome = lepton_edge("benchmark", bundle, tmp_path / "old/digits.bundle", archive, *options, "--json", "-", "--device", ADDRESS)
    results = json.loads(outcome.out)["results"]
    names = ["digits.bundle", "2/digits.bundle", "-zipped.zip"]
    assert [(entry["bundle"], entry["threads"]) for entry in results] == [(name, threads) for name in names for threads in (1, 2)]
    assert outcome.code in (0, 5)


def test_an_answer_of_something_else_is_an_error(lepton_edge, reached: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'lepton-edge agent {\\"python\\": \\"3.11.2\\", \\"fits\\": true}'
    path = program(tmp_path / "bin", "python3", f'echo "{said}"; echo "[1]"; exec /bin/sleep 1')
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(path=path))
    lepton_edge("doctor", "--device", ADDRESS).refused(1, because="must answer as lepton-edge does, something else does: TypeError")


def test_what_fails_there_fails_here_alike(lepton_edge, reached: Device, bundle: Path, tmp_path: Path) -> None:
    outcome = lepton_edge("benchmark", bundle, "--precision", "int16x8", "--engine", "onnxruntime", "--device", ADDRESS)
    outcome.refused(1, because="found nothing for int16x8, onnxruntime")
    (bundle / "model.fp32.onnx").write_bytes(b"damaged")
    lepton_edge("selfcheck", bundle, "--device", ADDRESS).refused(1, because="damaged or was changed: copy the bundle again")


def test_a_login_script_may_print(lepton_edge, reached: Device, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(key="noisy"))
    outcome = lepton_edge("selfcheck", bundle, "--device", ADDRESS)
    assert (outcome.code, "Welcome" in outcome.out) == (0, False)


@pytest.mark.parametrize("text", ["pi@host", "http://host", "ssh://", "ssh://host/path", "ssh://user:secret@host", "ssh://host:port"])
def test_an_address_is_one_of_ssh(text: str) -> None:
    with pytest.raises(InputError, match="a device is ssh://USER@HOST"):
        check_address(text)


def test_who_is_not_let_in_is_told(lepton_edge, reached: Device, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(key="stranger"))
    lepton_edge("doctor", "--device", ADDRESS).refused(1, because=r"ssh can log in to, it cannot: .*Permission denied \(publickey\)")
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(known="nobody"))
    outcome = lepton_edge("doctor", "--device", ADDRESS)
    assert (outcome.code, "Host key verification failed" in outcome.err) == (1, True)
    monkeypatch.setenv("LEPTON_EDGE_SSH", "no-such-ssh")
    lepton_edge("doctor", "--device", ADDRESS).refused(1, because="needs the program 'no-such-ssh'")
    monkeypatch.setenv("LEPTON_EDGE_SSH", "ssh -F none -o BatchMode=yes -p 1")
    lepton_edge("doctor", "--device", "ssh://127.0.0.1").refused(1, because="Connection refused")


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


def test_an_old_python_gives_way_to_a_newer_one_or_is_refused(
    lepton_edge, reached: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(path=path))
    lepton_edge("doctor", "--device", ADDRESS).refused(
        1, because="must run python3, it does not: .*python3: .*not found; on Debian: sudo apt"
    )
    program(path, "python3", f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])' \"$2\"")
    lepton_edge("doctor", "--device", ADDRESS).refused(1, because=r"a Python from 3\.11 to 3\.13, found 3\.9\.2 and none of these")
    program(path, "python3.12", f'exec {sys.executable} "$@"')
    assert lepton_edge("doctor", "--device", ADDRESS).code == 0


def test_a_full_disk_is_named_before_and_while_files_are_sent(
    lepton_edge, reached: Device, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lepton_edge("selfcheck", bundle, "--device", ADDRESS).code == 0  # now the environment is there, whichever test comes first
    path = program(tmp_path / "bin", "python3", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(path=path))
    fake = "import shutil\nfrom collections import namedtuple\nshutil.disk_usage = lambda path: namedtuple('u', 'free')(2_000_000)\n"
    (tmp_path / "sitecustomize.py").write_text(fake)
    lepton_edge("selfcheck", bundle, "--device", ADDRESS).refused(1, because=r"must have 2\d MB of free space, found 2 MB; delete")
    (tmp_path / "sitecustomize.py").write_text("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n")
    shutil.rmtree(reached.cache / "blobs")
    lepton_edge("selfcheck", bundle, "--device", ADDRESS).refused(1, because="must be one that can be written, it is not: File too large")
    assert list((reached.cache / "blobs").iterdir()) == []


def test_a_card_may_take_longer_than_the_silence_that_is_allowed(
    reached: Device, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_edge.remote.run._SILENCE_SECONDS", 3)
    size = (bundle / "golden.npz").stat().st_size  # of the last file that is sent
    fake = f"import os, time\nkept = os.fsync\nos.fsync = lambda file: (kept(file), os.fstat(file).st_size == {size} and time.sleep(7))\n"
    (tmp_path / "sitecustomize.py").write_text(fake)
    path = program(tmp_path / "bin", "python3", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(path=path))
    shutil.rmtree(reached.cache / "blobs", ignore_errors=True)
    states: list[str] = []
    assert run_there(ADDRESS, ["--version"], {"digits.bundle": bundle}, on_state=states.append).code == 0
    assert any(state.startswith("sending digits.bundle/golden.npz") for state in states)


def test_pip_that_fails_there_says_why(lepton_edge, reached: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(
        tmp_path / "bin", "python3", f'PIP_NO_INDEX=1 PIP_FIND_LINKS= XDG_CACHE_HOME={tmp_path}/cache exec {sys.executable} "$@"'
    )
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(path=path))
    lepton_edge("doctor", "--device", ADDRESS).refused(
        1, because="pip must install lepton-edge there, it ended with 1: Could not find a version"
    )


def test_a_pulled_network_ends_both_sides(lepton_edge, reached: Device, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("lepton_edge.remote.run._SILENCE_SECONDS", 3)
    cable = Cable(reached)
    options = "-o ServerAliveInterval=1 -o ServerAliveCountMax=2"
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(port=cable.port, options=options))

    def pull() -> None:
        reached.wait(runs=True)
        cable.is_pulled.set()

    pulling = threading.Thread(target=pull)
    pulling.start()
    outcome = lepton_edge("benchmark", bundle, "--precision", "fp32", "--engine", "onnxruntime", "--duration", "60s", "--device", ADDRESS)
    pulling.join()
    assert outcome.code == 1
    assert (
        f"error: the connection to {ADDRESS} must last, it was lost: Timeout, server 127.0.0.1 not responding.; what ran there"
        in outcome.err
    )
    reached.wait(runs=False)
    cable.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_there_once_it_is_ended_here(
    reached: Device, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("LEPTON_EDGE_SSH", reached.ssh(shared=reached.folder / "shared"))
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "lepton_edge", "benchmark", str(bundle / "model.fp32.onnx"), "--duration", "60s"]
    command += ["--json", str(result), "--device", ADDRESS]
    environment = {**os.environ, "LEPTON_EDGE_PROGRESS": "1"}
    # Ctrl-C of a terminal is for all of its processes, ssh's too.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stderr is not None
    seen = ""
    while not re.search(r"[1-9] %", seen):  # it has measured something
        seen += (read := process.stderr.read(1))
        assert read, seen
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    reached.wait(runs=False)
    if number == signal.SIGKILL:
        return
    assert process.returncode == 130
    assert load_report(result).is_partial
    assert "interrupted: what was measured is kept and marked partial" in err


def test_the_wheel_of_this_installation_is_whole(tmp_path: Path) -> None:
    name, data = build_wheel()
    assert build_wheel() == (name, data)
    (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "there"), str(tmp_path / name)]
    subprocess.run(command, check=True, capture_output=True)
    script = "import lepton_edge, lepton_runtime, lepton_converters; print(lepton_edge.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path / "there"))
