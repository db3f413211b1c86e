"""Files that are on the disk, and not only in memory, when the power fails; and nothing beside them that nobody needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "lepton-edge-"


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file; it is on the disk when this returns.

    Raises:
        OSError: It is there already, or cannot be written.
    """
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Have what was written to a folder (names, too), or to a file, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_place(path: Path) -> Iterator[Path]:
    """A free name beside the output, or where its folder will be; whatever lies there at the end is removed."""
    temporary = existing_parent(path) / f".{path.name}.tmp-{os.getpid()}"
    try:
        yield temporary
    finally:
        _remove(temporary)


def remove_stale(path: Path) -> None:
    """Remove what processes that were killed have left beside the output."""
    for stale in existing_parent(path).glob(f".{path.name}.tmp-*"):
        process = stale.name.rpartition("-")[2]
        if process.isdigit() and (int(process) == os.getpid() or not _is_alive(int(process))):
            _remove(stale)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder of this process alone; those that processes of this user have left, which were killed, are removed.

    Raises:
        OSError: There is no folder for temporary files.
    """
    import tempfile

    for stale in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        process = stale.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            with suppress(OSError):  # of another user, or gone already
                _remove(stale)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        yield folder


def existing_parent(path: Path) -> Path:
    """The nearest folder that is there, of a path that may not be."""
    for folder in path.absolute().parents:
        if folder.exists():
            return folder
    return Path("/")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
