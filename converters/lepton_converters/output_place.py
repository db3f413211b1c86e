"""Where an output is written: beside its place, so that it is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_runtime.errors import OutputError


def check_folder(path: Path) -> None:
    """Refuse an output whose folder cannot be written to, or made.

    Raises:
        OutputError: The nearest folder that exists is not writable.
    """
    folder = _existing_parent(path)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the output's folder must be writable, {str(folder)!r} is not; choose another with --output")


@contextmanager
def temporary_place(path: Path) -> Iterator[Path]:
    """A free name beside the output, or where its folder will be; whatever lies there at the end is removed."""
    temporary = _existing_parent(path) / f".{path.name}.tmp-{os.getpid()}"
    try:
        yield temporary
    finally:
        _remove(temporary)


def remove_stale(path: Path) -> None:
    """Remove what processes that were killed have left beside the output."""
    for stale in _existing_parent(path).glob(f".{path.name}.tmp-*"):
        process = stale.name.rpartition("-")[2]
        if process.isdigit() and (int(process) == os.getpid() or not _is_alive(int(process))):
            _remove(stale)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _existing_parent(path: Path) -> Path:
    for folder in path.absolute().parents:
        if folder.exists():
            return folder
    return Path("/")
