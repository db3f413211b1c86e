"""NumPy archives read row by row; numpy itself would unpack a whole array."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from lepton_runtime.errors import InputError
from lepton_runtime.tensors import Array


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and number type of each array, without reading the arrays."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    headers[member.removesuffix(".npy")] = _npy_header(stream)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{str(path)!r} must be a NumPy archive of plain numbers in C order: {error}") from error
    return headers


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and number type; the stream is left at the first row.

    Source: the NPY format, numpy.lib.format.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran and len(shape) > 1:
        raise ValueError("an array is in Fortran order; save numpy.ascontiguousarray(array)")
    if dtype.hasobject:
        raise ValueError("an array holds Python objects")
    return shape, dtype


def npz_rows(path: Path, name: str, indices: Sequence[int]) -> Iterator[Array]:
    """Rows in ascending order, one at a time: numpy would unpack the whole array."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, dtype = _npy_header(stream)
            row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            position = 0
            for index in indices:
                while position < index:
                    stream.read(row_bytes)
                    position += 1
                data = stream.read(row_bytes)
                position += 1
                yield np.frombuffer(data, dtype).reshape(shape[1:])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{str(path)!r} must be a whole NumPy archive, {name!r} in it is damaged: {error}; copy it again") from error
