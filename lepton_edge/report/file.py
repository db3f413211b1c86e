"""A file whole or not at all."""

import os
from pathlib import Path

from lepton_runtime.durable import remove_stale, sync, temporary_place, write_durably
from lepton_runtime.errors import OutputError


def write_text(text: str, path: Path, *, option: str) -> None:
    """Write a text file in UTF-8; see :func:`write_bytes`."""
    write_bytes(text.encode("utf-8"), path, option=option)


def write_bytes(data: bytes, path: Path, *, option: str) -> None:
    """Write a file beside its place, flush it to the disk, and only then put it there.

    Args:
        data: What it holds.
        path: Where; what is there is replaced. Something that is no file, such as ``/dev/stderr``, is written to.
        option: How errors call it.

    Raises:
        OutputError: It cannot be written; nothing is left behind.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        remove_stale(path)
        with temporary_place(path) as temporary:
            write_durably(temporary, data)
            os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(f"{option} needs a file that can be written, {str(path)!r} cannot: {error.strerror}") from error


def check_writable(path: Path, *, option: str) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        OutputError: Its folder is missing or closed.
    """
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else "its folder is missing or closed" if not path.exists() else "it is write-protected"
        raise OutputError(f"{option} needs a file that can be written, {str(path)!r} cannot: {reason}")
