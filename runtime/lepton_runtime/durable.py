"""Files that are on the disk, and not only in memory, when the power fails."""

import os
from pathlib import Path


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
