"""What a model file holds, read without TensorFlow: its configuration, its size, and whether it is whole."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lepton_runtime.bundle import MANIFEST_FILE
from lepton_runtime.errors import InputError, MissingExtraError, UnsupportedError

SAVED_MODEL = "SavedModel"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_CONFIG_BYTES = 64 * 2**20
_NOT_WEIGHTS = {b"optimizer", b"metrics", b"seed_generator"}  # what Keras saves beside them
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError)


@dataclass(frozen=True)
class ModelFile:
    """What a model file says about itself.

    Attributes:
        name: The file's name.
        kind: ``.keras``, ``.h5`` or ``SavedModel``.
        keras_version: Which Keras wrote it; ``None`` if that is not recorded.
        size_bytes: How large it is, a folder with all that is in it.
        parameters: How many weights it has; ``None`` if that takes more than reading shapes.
        config: The configuration, as Keras wrote it; ``None`` for a SavedModel, which is a program.
        is_compiled: Whether it also says with which loss, metrics and optimizer the model was trained.
    """

    name: str
    kind: str
    keras_version: str | None
    size_bytes: int
    parameters: int | None
    config: Any  # Any: JSON
    is_compiled: bool = False

    @property
    def is_legacy(self) -> bool:
        """Whether Keras 1 or 2 wrote it; Keras 1 does not say so."""
        return (self.keras_version or ("1" if self.kind == ".h5" else "3")).startswith(("1", "2"))


def read_model_file(path: Path, *, is_verified: bool = False) -> ModelFile:
    """What a model file says about itself; its weights are not read.

    Args:
        path: A ``.keras`` or ``.h5`` file, or a SavedModel folder.
        is_verified: Also compare the checksums of a ``.keras`` file, which reads all of it (about 0.5 s a gigabyte).

    Raises:
        InputError: It is missing, damaged or no Keras model.
    """
    if (path / MANIFEST_FILE).is_file():
        raise InputError(f"a model is a .keras or .h5 file, {str(path)!r} is a bundle already; give the model that it was made of")
    if path.is_dir():
        return _read_folder(path)
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        raise InputError(f"a .keras or .h5 file is needed, {str(path)!r} cannot be read: {error.strerror}") from error
    if magic.startswith(_ZIP_MAGIC):
        return _read_zip(path, is_verified=is_verified)
    if magic == _HDF5_MAGIC:
        return _read_hdf5(path)
    raise InputError(f"{str(path)!r} must be a .keras or .h5 file, its content is neither; save it with model.save('model.keras')")


def check_file(path: Path, *, trust_code: bool = False) -> None:
    """Look into a model file without TensorFlow, before anything heavy starts; the checksums of a ``.keras`` file are compared.

    Raises:
        InputError: It is missing, damaged or no Keras model.
        UnsupportedError: It holds a Lambda layer, or is a SavedModel, and its code is not trusted.
    """
    file = read_model_file(path, is_verified=True)
    if trust_code:
        return
    if file.kind == SAVED_MODEL:
        raise UnsupportedError(
            f"the SavedModel {str(path)!r} is a program, which would run on this machine; if you trust whoever made it, add --trust-code"
        )
    names = [_name(value) for value in serialized_objects(file.config) if is_code(value)]
    if names:
        raise UnsupportedError(
            f"{str(path)!r} holds code in the Lambda layer {names[0]!r}, which would run on this machine; "
            "if you trust whoever made the file, add --trust-code"
        )


def serialized_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object in a nested configuration, in the file's order: what has a ``class_name``; the configuration itself included."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def is_code(value: dict[str, Any]) -> bool:
    """Whether a serialized object holds Python bytecode, or may: a Lambda layer, or a function without a name."""
    return value["class_name"] in ("Lambda", "__lambda__")


def _name(value: dict[str, Any]) -> str:
    settings = value.get("config")
    return str(settings.get("name", "Lambda") if isinstance(settings, dict) else "Lambda")


def _read_folder(path: Path) -> ModelFile:
    if not (path / "saved_model.pb").is_file():
        raise InputError(
            f"a model is a .keras or .h5 file, or a SavedModel folder with saved_model.pb, found the folder {str(path)!r}; "
            "save the model with model.save('model.keras')"
        )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    version = "2" if (path / "keras_metadata.pb").is_file() else None  # only Keras 2 wrote that file
    return ModelFile(path.name, SAVED_MODEL, version, size, None, None)


def _read_zip(path: Path, *, is_verified: bool) -> ModelFile:
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            config = _read_json(archive, "config.json", path)
            damaged = archive.testzip() if is_verified else None
            if damaged:
                raise InputError(f"{str(path)!r} is damaged: the checksum of {damaged!r} in it does not match; copy it again")
            names = archive.namelist()
            metadata = _read_json(archive, "metadata.json", path) if "metadata.json" in names else None
            version = metadata.get("keras_version") if isinstance(metadata, dict) else None
            parameters = _count_stored(archive, stream) if "model.weights.h5" in names else None
    except KeyError as error:
        raise InputError(f"{str(path)!r} must be a .keras file, it is another zip file: {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} must be a whole .keras file, it is damaged or cut short ({error}); copy it again") from error
    return ModelFile(
        path.name, ".keras", version if isinstance(version, str) else None, path.stat().st_size, parameters, config, _has_compiled(config)
    )


def _has_compiled(config: Any) -> bool:
    return isinstance(config, dict) and bool(config.get("compile_config"))


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    if archive.getinfo(name).file_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{str(path)!r} must have a {name} under 64 MiB; it is not a usual Keras model")
    return json.loads(archive.read(name))


def _count_stored(archive: zipfile.ZipFile, stream: BinaryIO) -> int | None:
    """The weights in the HDF5 file inside, which Keras stores as it is: its tables are read where they lie."""
    entry = archive.getinfo("model.weights.h5")
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
            return _count_weights(file)
    except _HDF5_ERRORS as error:
        raise ValueError(f"model.weights.h5: {error}") from error


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


def _read_hdf5(path: Path) -> ModelFile:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError('reading .h5 files needs h5py: pip install "lepton-edge[convert]"') from error
    try:
        with h5py.File(path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
            if config is None:
                raise InputError(f"{str(path)!r} must hold a whole model, it holds weights only; save it with model.save, not save_weights")
            parameters = _count_weights(file["model_weights"]) if "model_weights" in file else None
            is_compiled = "training_config" in file.attrs
    except _HDF5_ERRORS as error:
        raise InputError(f"{str(path)!r} must be a whole .h5 file, it is damaged or cut short ({error}); copy it again") from error
    try:
        config = json.loads(config)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} must hold a readable model configuration: {error}; copy it again") from error
    version = version.decode() if isinstance(version, bytes) else version
    return ModelFile(path.name, ".h5", version if isinstance(version, str) else None, path.stat().st_size, parameters, config, is_compiled)


def _count_weights(group: Any) -> int:  # Any: h5py has no type hints
    """How many numbers are in the arrays of a group; h5py's own objects would take twice as long."""
    from h5py import h5d, h5o  # pyright: ignore[reportAttributeAccessIssue]  # compiled modules without stubs

    found: list[bytes] = []

    def visit(name: bytes, info: Any) -> None:
        if info.type == h5o.TYPE_DATASET and not _NOT_WEIGHTS & set(name.split(b"/")):
            found.append(name)

    h5o.visit(group.id, visit, info=True)
    return sum(h5d.open(group.id, name).get_space().get_simple_extent_npoints() for name in found)
