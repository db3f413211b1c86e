"""What a model file holds, read without TensorFlow: its configuration, and whether it is whole."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lepton_runtime.bundle import MANIFEST_FILE
from lepton_runtime.errors import InputError, MissingExtraError, UnsupportedError

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_CONFIG_BYTES = 64 * 2**20


def check_file(path: Path, *, trust_code: bool = False) -> None:
    """Look into a model file without TensorFlow, before anything heavy starts.

    Raises:
        InputError: It is missing, damaged or no Keras model.
        UnsupportedError: It holds a Lambda layer, or is a SavedModel, and its code is not trusted.
    """
    if (path / MANIFEST_FILE).is_file():
        raise InputError(f"a model is a .keras or .h5 file, {str(path)!r} is a bundle already; give the model that it was made of")
    if path.is_dir():
        _check_folder(path, trust_code=trust_code)
        return
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        raise InputError(f"a .keras or .h5 file is needed, {str(path)!r} cannot be read: {error.strerror}") from error
    if magic.startswith(_ZIP_MAGIC):
        config = _zip_config(path)
    elif magic == _HDF5_MAGIC:
        config = _hdf5_config(path)
    else:
        raise InputError(f"{str(path)!r} must be a .keras or .h5 file, its content is neither; save it with model.save('model.keras')")
    names = list(_find_lambda_layers(config))
    if names and not trust_code:
        raise UnsupportedError(
            f"{str(path)!r} holds code in the Lambda layer {names[0]!r}, which would run on this machine; "
            "if you trust whoever made the file, add --trust-code"
        )


def _check_folder(path: Path, *, trust_code: bool) -> None:
    if not (path / "saved_model.pb").is_file():
        raise InputError(
            f"a model is a .keras or .h5 file, or a SavedModel folder with saved_model.pb, found the folder {str(path)!r}; "
            "save the model with model.save('model.keras')"
        )
    if not trust_code:
        raise UnsupportedError(
            f"the SavedModel {str(path)!r} is a program, which would run on this machine; if you trust whoever made it, add --trust-code"
        )


def _zip_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
                raise InputError(f"{str(path)!r} must have a config.json under 64 MiB; it is not a usual Keras model")
            damaged = archive.testzip()
            if damaged:
                raise InputError(f"{str(path)!r} is damaged: the checksum of {damaged!r} in it does not match; copy it again")
            return json.loads(archive.read("config.json"))
    except KeyError as error:
        raise InputError(f"{str(path)!r} must be a .keras file, it is another zip file: {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} must be a whole .keras file, it is damaged or cut short ({error}); copy it again") from error


def _hdf5_config(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError('reading .h5 files needs h5py: pip install "lepton-edge[convert]"') from error
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} must be a whole .h5 file, it is damaged or cut short ({error}); copy it again") from error
    if config is None:
        raise InputError(f"{str(path)!r} must hold a whole model, it holds weights only; save it with model.save, not save_weights")
    try:
        return json.loads(config)
    except ValueError as error:
        raise InputError(f"{str(path)!r} must hold a readable model configuration: {error}; copy it again") from error


def _find_lambda_layers(config: Any) -> Iterator[str]:
    """Names of Lambda layers anywhere in a nested configuration."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get("class_name") == "Lambda":
                settings = value.get("config")
                yield str(settings.get("name", "Lambda") if isinstance(settings, dict) else "Lambda")
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
