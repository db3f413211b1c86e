"""The process that reads model files: what they say, and a copy of them that holds nothing else.

HDF5 goes in circles in some damaged files and asks for all memory in others, so that a ``.keras`` or ``.h5`` file is read here: by a
process of its own, with limits on computing time and memory. What Keras gets is what this process could read, written anew.

Source: HDFGroup/hdf5 issue 1707; CVE-2026-0897 (declared sizes), CVE-2026-1669 (links).
"""

import errno
import io
import json
import os
import re
import resource
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from lepton_converters.model_file import ModelFile, limit_seconds
from lepton_runtime.errors import InputError, LeptonError, MissingExtraError, OutputError

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_MEMORY_BYTES = 2**30  # beside twice the file
_MAX_CONFIG_BYTES = 64 * 2**20
_MAX_DEPTH = 150  # of a configuration: some 35 models, each inside the next
_MAX_GROWTH, _SMALL_BYTES = 100, 2**20  # of what is packed or declared, if it is more than a little
_PART_BYTES = 16 * 2**20
_CONFIG, _METADATA, _WEIGHTS, _ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
_NOT_WEIGHTS = {b"optimizer", b"metrics", b"seed_generator"}  # what Keras saves beside them
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, SystemError)  # the last where h5py itself is confused


def main() -> None:
    """Read the file that the command names, and write what it says as JSON."""
    request = json.loads(sys.argv[1])
    path, copy, size = Path(request["path"]), request["copy"], request["size"]
    try:
        _limit(size)
        answer: dict[str, Any] = {"file": asdict(_read(path, is_verified=request["is_verified"], copy=Path(copy) if copy else None))}
    except LeptonError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        text = (
            f"{str(path)!r} must be readable with {(_MEMORY_BYTES + 2 * size) >> 20} MB of memory, it asks for more; it is no usual model"
        )
        answer = {"error": "InputError", "text": text}
    except OSError as error:
        answer = {"error": "InputError", "text": f"a .keras or .h5 file is needed, {str(path)!r} cannot be read: {error.strerror}"}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def _limit(size: int) -> None:
    """Let the kernel end this process where it computes for too long, and refuse it memory where it asks for too much."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_CPU, limit_seconds(size), spare=5)
    if sys.platform == "linux":  # others do not keep to it
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        memory = pages * resource.getpagesize() + _MEMORY_BYTES + 2 * size
        _lower(resource.RLIMIT_AS, memory)


def _lower(kind: int, limit: int, *, spare: int = 0) -> None:
    """Set a limit, if there is none that is lower; the kernel kills by the second number what goes on after the first."""
    hard = resource.getrlimit(kind)[1]
    highest = limit + spare if hard == resource.RLIM_INFINITY else min(hard, limit + spare)
    resource.setrlimit(kind, (min(limit, highest), highest))


def _read(path: Path, *, is_verified: bool, copy: Path | None) -> ModelFile:
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic.startswith(_ZIP_MAGIC):
        return _read_zip(path, is_verified=is_verified, copy=copy)
    if magic == _HDF5_MAGIC:
        return _read_hdf5(path, copy)
    raise InputError(f"{str(path)!r} must be a .keras or .h5 file, its content is neither; save it with model.save('model.keras')")


def _read_zip(path: Path, *, is_verified: bool, copy: Path | None) -> ModelFile:
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            _check_members(archive, path)
            config = _read_json(archive, _CONFIG, path)
            damaged = archive.testzip() if is_verified else None
            if damaged:
                raise InputError(f"{str(path)!r} is damaged: the checksum of {damaged!r} in it does not match; copy it again")
            names = archive.namelist()
            metadata = _read_json(archive, _METADATA, path) if _METADATA in names else None
            version = metadata.get("keras_version") if isinstance(metadata, dict) else None
            parameters = _count_stored(archive, stream) if _WEIGHTS in names else None
            file = ModelFile(
                path.name,
                ".keras",
                version if isinstance(version, str) else None,
                path.stat().st_size,
                parameters,
                config,
                isinstance(config, dict) and bool(config.get("compile_config")),
            )
            if copy:
                with _room(copy, path):
                    return _copied_zip(archive, file, path, copy)
            return file
    except KeyError as error:
        raise InputError(f"{str(path)!r} must be a .keras file, it is another zip file: {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} must be a whole .keras file, it is damaged or cut short ({error}); copy it again") from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse what no Keras packs: names twice or elsewhere, and what unpacks to much more than it is."""
    names = archive.namelist()
    for entry in archive.infolist():
        name = entry.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or names.count(name) > 1:
            raise InputError(f"each part of {str(path)!r} must have a name of its own inside of it, found {name!r}; save the model again")
        if entry.file_size > max(_SMALL_BYTES, _MAX_GROWTH * entry.compress_size):
            raise InputError(
                f"a part of a .keras file must unpack to at most {_MAX_GROWTH} times its size, {name!r} in {str(path)!r} has "
                f"{entry.compress_size:,} bytes that say they are {entry.file_size:,}; save the model again"
            )


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    if archive.getinfo(name).file_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{str(path)!r} must have a {name} under {_MAX_CONFIG_BYTES >> 20} MiB; it is not a usual Keras model")
    return _parsed(archive.read(name), path)


def _parsed(text: Any, path: Path) -> Any:
    """A configuration that is not nested deeper than what reads it can go."""
    try:
        config = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} must hold a readable model configuration: {error}; copy it again") from error
    level, depth = [config], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > _MAX_DEPTH:
            raise InputError(f"the configuration in {str(path)!r} must be nested at most {_MAX_DEPTH} deep; it is no usual Keras model")
    return config


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _count_stored(archive: zipfile.ZipFile, stream: BinaryIO) -> int | None:
    """The weights in the HDF5 file inside, which Keras stores as it is: its tables are read where they lie."""
    entry = archive.getinfo(_WEIGHTS)
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    try:
        import h5py
    except ImportError:
        return None
    # A local header is 30 bytes, the last four of which are the lengths of name and extra field. Source: APPNOTE 4.3.7.
    stream.seek(entry.header_offset + 26)
    lengths = stream.read(4)
    start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    try:
        with h5py.File(_Window(stream, start, entry.file_size), "r") as file:
            return _count_weights(file, _NOT_WEIGHTS)
    except _HDF5_ERRORS as error:
        raise ValueError(f"{_WEIGHTS}: {error}") from error


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        self._stream, self._start, self._length, self._position = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def readinto(self, buffer: Any, /) -> int:  # Any: whatever takes bytes
        data = os.pread(self._stream.fileno(), min(len(buffer), max(0, self._length - self._position)), self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextmanager
def _room(copy: Path, path: Path) -> Iterator[None]:
    """Say where there is no room for a copy; HDF5 has the system's number in its text."""
    try:
        yield
    except _HDF5_ERRORS as error:
        told = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        megabytes = max(1, 2 * path.stat().st_size // 10**6)
        raise OutputError(
            f"the temporary folder {str(copy.parent.parent)!r} must have room for {megabytes:,} MB: {os.strerror(number)}; "
            "free some, or set TMPDIR"
        ) from error


def _copied_zip(archive: zipfile.ZipFile, file: ModelFile, path: Path, copy: Path) -> ModelFile:
    """Write what Keras reads of the file anew, with the number of weights in it."""
    if _WEIGHTS not in archive.namelist():
        raise InputError(f"{str(path)!r} must hold its weights as {_WEIGHTS}; save the model again with model.save")
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder, zipfile.ZipFile(copy, "w") as written:
        found = Path(archive.extract(_WEIGHTS, folder))
        try:
            with _room(copy, path):
                parameters = _copy_hdf5(found, found.with_suffix(".copy"), path)
        except _HDF5_ERRORS as error:
            raise ValueError(f"{_WEIGHTS}: {error}") from error
        found.unlink()
        written.write(found.with_suffix(".copy"), _WEIGHTS)
        for entry in archive.infolist():
            if entry.filename in (_CONFIG, _METADATA) or entry.filename.startswith(_ASSETS):
                written.writestr(entry.filename, archive.read(entry))
    return replace(file, parameters=parameters)


def _read_hdf5(path: Path, copy: Path | None) -> ModelFile:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError('reading .h5 files needs h5py: pip install "lepton-edge[convert]"') from error
    try:
        if copy:
            with _room(copy, path):
                _copy_hdf5(path, copy, path)
        with h5py.File(copy or path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
            if config is None:
                raise InputError(f"{str(path)!r} must hold a whole model, it holds weights only; save it with model.save, not save_weights")
            parameters = _count_weights(file["model_weights"]) if "model_weights" in file else _count_weights(file) if copy else None
            is_compiled = "training_config" in file.attrs
    except _HDF5_ERRORS as error:
        raise InputError(f"{str(path)!r} must be a whole .h5 file, it is damaged or cut short ({error}); copy it again") from error
    version = version.decode() if isinstance(version, bytes) else version
    version = version if isinstance(version, str) else None
    return ModelFile(path.name, ".h5", version, path.stat().st_size, parameters, _parsed(config, path), is_compiled)


def _copy_hdf5(path: Path, copy: Path, named: Path) -> int:
    """Write all that is in an HDF5 file anew, in the plainest form there is, and say how many weights that is.

    Raises:
        InputError: Something in it is in another file, or larger than the file can hold.
    """
    import h5py

    with h5py.File(path, "r") as file, h5py.File(copy, "w", libver="latest") as written:
        _check_links(file, named)
        _copy_attributes(file, written)

        room = max(_SMALL_BYTES, _MAX_GROWTH * path.stat().st_size)

        def visit(name: str, item: Any) -> None:  # each object once, groups before what is in them
            nonlocal room
            if not isinstance(item, h5py.Dataset):
                _copy_attributes(item, written.require_group(name))
                return
            room -= item.nbytes if item.shape is not None else 0
            _check_stored(name, item, named, room)
            if item.shape is None:
                made = written.create_dataset(name, data=h5py.Empty(item.dtype))
            else:
                made = written.create_dataset(name, item.shape, item.dtype)  # in one piece
                for part in _parts(item):
                    made[part] = item[part]
            _copy_attributes(item, made)

        file.visititems(visit)
        return _count_weights(written, _NOT_WEIGHTS)


def _copy_attributes(source: Any, target: Any) -> None:  # Any: h5py has no type hints
    for name in source.attrs:
        kind = source.attrs.get_id(name)
        target.attrs.create(name, source.attrs[name], shape=kind.shape, dtype=kind.dtype)


def _parts(item: Any) -> Iterator[Any]:
    """Places in an array that together are all of it, each of a few megabytes along the first axis."""
    if not item.shape or not item.size:
        yield from [()] if item.shape == () else []
        return
    rows = max(1, _PART_BYTES * item.shape[0] // max(1, item.nbytes))
    for start in range(0, item.shape[0], rows):
        yield slice(start, start + rows)


def _check_links(file: Any, path: Path) -> None:
    """Refuse weights that lie elsewhere: a file could take in any other that this user may read."""
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]  # a compiled module without stubs

    def visit(name: str, link: Any) -> str | None:
        if not isinstance(link, h5py.HardLink):
            other = f" in {link.filename!r}" if isinstance(link, h5py.ExternalLink) else ""
            return f"{name!r} is a link to {link.path!r}{other}"
        item = file[name]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            return f"{name!r} is an array whose values are in another file"
        if h5o.get_info(item.id).rc > 1:
            return f"{name!r} is there by two names"
        return None

    found = file.visititems_links(visit)
    if found:
        raise InputError(f"all weights must be in {path.name!r} itself, {found}; save the model again with model.save")


def _check_stored(name: str, item: Any, path: Path, room: int) -> None:
    """Refuse weights that lie nowhere: arrays that are larger than what is stored of them, or that together are too many for the file."""
    stored = item.id.get_storage_size()
    if item.id.get_create_plist().get_nfilters():
        stored *= _MAX_GROWTH  # they are compressed
    if item.shape is not None and (item.nbytes > stored or room < 0):
        raise InputError(
            f"all weights must be in {path.name!r} itself, {name!r} is to have {item.nbytes:,} bytes and the file holds "
            f"{item.id.get_storage_size():,} of them; save the model again with model.save"
        )


def _count_weights(group: Any, skipped: Collection[bytes] = ()) -> int:
    """How many numbers are in the arrays of a group; h5py's own objects would take twice as long."""
    from h5py import h5d, h5o  # pyright: ignore[reportAttributeAccessIssue]  # compiled modules without stubs

    found: list[bytes] = []

    def visit(name: bytes, info: Any) -> None:
        if info.type == h5o.TYPE_DATASET and name.partition(b"/")[0] not in skipped:
            found.append(name)

    h5o.visit(group.id, visit, info=True)
    return sum(h5d.open(group.id, name).get_space().get_simple_extent_npoints() for name in found)


if __name__ == "__main__":
    main()
