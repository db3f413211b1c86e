"""A Keras model out of a file of any generation."""

import json
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.legacy_config import modernize
from lepton_converters.legacy_layers import legacy_objects
from lepton_converters.legacy_weights import load_legacy_archive, load_legacy_weights
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.errors import InputError

if TYPE_CHECKING:
    import keras

# What Keras' loaders were seen to raise for files that do not hold what they should.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, EOFError, RuntimeError, ImportError)
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown \w+(?: function)?:) '?([\w>]+)")


def load_model(path: Path, *, trust_code: bool, custom_objects: Mapping[str, Any]) -> "keras.Model":
    """The model in a ``.keras`` or ``.h5`` file, by whatever Keras it was written.

    Raises:
        InputError: Keras cannot load it.
        UnsupportedError: A layer of Keras 1 or 2 has a setting that Keras 3 has not.
    """
    keras = import_keras()
    config, version = _origin(path)
    is_legacy = version.startswith(("1", "2"))
    try:
        with quiet_tensorflow():
            if is_legacy:
                return _load_legacy(path, config, trust_code=trust_code, custom_objects=custom_objects)
            return keras.saving.load_model(path, compile=False, safe_mode=not trust_code, custom_objects=dict(custom_objects))
    except _LOAD_ERRORS as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            name = unknown[1].rpartition(">")[2]
            raise InputError(
                f"every layer and function in {str(path)!r} must be known, {name!r} is not one of Keras'; "
                f"name it with --custom-objects module:{name}, where module.py is the file that defines it"
            ) from error
        by = f", which Keras {version} wrote" if is_legacy else ""
        raise InputError(f"Keras {keras.__version__} must be able to load {str(path)!r}{by}: {reason_of(error)}") from error


def _origin(path: Path) -> tuple[Any, str]:
    """The configuration in a file, and the version of the Keras that wrote it; ``1`` wrote none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
            return json.loads(archive.read("config.json")), str(metadata.get("keras_version", "3"))
    import h5py

    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version", file["model_weights"].attrs.get("keras_version", "1") if "model_weights" in file else "1")
        return json.loads(file.attrs["model_config"]), version.decode() if isinstance(version, bytes) else str(version)


def _load_legacy(path: Path, config: Any, *, trust_code: bool, custom_objects: Mapping[str, Any]) -> "keras.Model":
    """The model of a file of Keras 1 or 2: built from a modern configuration, with the file's weights."""
    keras = import_keras()
    objects = {**legacy_objects(), **custom_objects}
    model = keras.saving.deserialize_keras_object(modernize(config), custom_objects=objects, safe_mode=not trust_code)
    if not zipfile.is_zipfile(path):
        load_legacy_weights(model, path)
        return model
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        model.load_weights(load_legacy_archive(path, Path(folder)))
    return model
