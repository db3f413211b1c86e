"""Files that are on the disk, and not only in memory, when the power fails; and nothing beside them that nobody needs."""

import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _MARK = "lepton-edge-", ".lock"


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
    with _marked(existing_parent(path), f".{path.name}.tmp-") as temporary:
        yield temporary


def remove_stale(path: Path) -> None:
    """Remove what processes that were killed have left beside the output."""
    _remove_unmarked(existing_parent(path), f".{path.name}.tmp-")


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder of one's own; those that processes have left, which were killed, are removed.

    Raises:
        OSError: There is no folder for temporary files.
    """
    import tempfile

    place = Path(tempfile.gettempdir())
    _remove_unmarked(place, _PREFIX)
    with _marked(place, _PREFIX) as temporary:
        temporary.mkdir(mode=0o700)
        yield str(temporary)


@contextmanager
def _marked(folder: Path, prefix: str) -> Iterator[Path]:
    """A free name, and beside it a file that is locked as long as it is in use, however its process ends."""
    name = f"{prefix}{secrets.token_hex(8)}"
    mark, temporary = folder / f"{name}{_MARK}", folder / name
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _lock(descriptor)  # before it has the name by which others find it
        os.rename(temporary, mark)
        yield temporary
    finally:
        try:
            remove(temporary)
            mark.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _remove_unmarked(folder: Path, prefix: str) -> None:
    """Remove names that nobody uses any more, with their marks; those of other users are theirs."""
    for mark in folder.glob(f"{glob.escape(prefix)}*{_MARK}"):
        if not re.fullmatch(r"[0-9a-f]{16}", mark.name.removeprefix(prefix).removesuffix(_MARK)):
            continue
        with suppress(OSError):
            descriptor = os.open(mark, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor):
                    remove(mark.with_name(mark.name.removesuffix(_MARK)))
                    mark.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the file is this process's now; where there are no locks, nothing is."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is another's, or this file system has no locks
        return False
    return True


def existing_parent(path: Path) -> Path:
    """The nearest folder that is there, of a path that may not be."""
    for folder in path.absolute().parents:
        if folder.exists():
            return folder
    return Path("/")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing if nothing is there."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
