"""A Keras model out of a file of any generation."""

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.legacy_config import modernize
from lepton_converters.legacy_layers import LEGACY_LAYERS, legacy_objects, register_legacy
from lepton_converters.legacy_weights import load_legacy_archive, load_legacy_weights
from lepton_converters.model_file import ModelFile, check_file
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.weight_limit import limited_weights
from lepton_runtime.durable import temporary_folder
from lepton_runtime.errors import InputError, LeptonError, UnsupportedError

if TYPE_CHECKING:
    import keras

# What Keras' loaders were seen to raise for files that do not hold what they should.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, EOFError, RuntimeError, ImportError)
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown \w+(?: function)?:) '?([\w>]+)")

# What Keras 3 no longer has, and the values at which a layer does the same without it; None stands for any value.
_FORGOTTEN: dict[str, tuple[Any, ...] | None] = {
    "groups": (1,),
    "time_major": (False,),
    "ragged": (False,),
    "noise_shape": (None,),
    "mode": (0, "auto"),
    "renorm": (False,),
    "virtual_batch_size": (None,),
    "softmax_robust_masking": (False,),
    "output_padding": (None,),
    "dropout": (0, None),
    "zero_output_for_mask": (False,),
    "output_mask": (None,),
    "num_constants": (None, 0),
    "vocabulary": (None,),
    "adjustment": (None,),
    "fused": None,
    "consume_less": None,
    "implementation": None,
    "rng_type": None,
    "trainable": None,
    "dtype": None,
    "input_dim": None,
    "input_length": None,
    "query_shape": None,
    "key_shape": None,
    "value_shape": None,
    "batch_size": None,
    "experimental_autocast": None,
}


def load_model(path: Path, *, trust_code: bool, custom_objects: Mapping[str, Any], is_compiled: bool = False) -> "keras.Model":
    """The model in a ``.keras`` or ``.h5`` file, by whatever Keras it was written.

    Keras gets a copy, written by the process that could read the file, and makes no more weights than it has.

    Args:
        path: The file.
        trust_code: Load Lambda layers.
        custom_objects: The model's own layers and functions by name.
        is_compiled: With its loss, metrics and optimizer, if Keras 3 wrote the file and can load them.

    Raises:
        InputError: It is damaged, or Keras cannot load it.
        UnsupportedError: It is a program that is not trusted, or a layer of Keras 1 or 2 has a setting that Keras 3 has not.
    """
    register_legacy()
    with temporary_folder() as folder:
        draft = Path(folder, "draft")
        file = check_file(path, trust_code=trust_code, copy=draft)
        copy = draft.rename(Path(folder, f"model{file.kind}"))  # Keras goes by the ending
        return _load(copy, file, path, trust_code=trust_code, custom_objects=custom_objects, is_compiled=is_compiled)


def _load(
    copy: Path, file: ModelFile, path: Path, *, trust_code: bool, custom_objects: Mapping[str, Any], is_compiled: bool
) -> "keras.Model":
    keras = import_keras()
    try:
        with limited_weights(file.parameters or 0, path), quiet_tensorflow():
            if file.is_legacy:
                return _load_legacy(copy, file, trust_code=trust_code, custom_objects=custom_objects)
            settings = {"safe_mode": not trust_code, "custom_objects": dict(custom_objects)}
            if is_compiled:
                with suppress(*_LOAD_ERRORS):  # of the model itself, they are raised again
                    return keras.saving.load_model(copy, compile=True, **settings)
            return keras.saving.load_model(copy, compile=False, **settings)
    except LeptonError:
        raise
    except _LOAD_ERRORS as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            name = unknown[1].rpartition(">")[2]
            raise InputError(
                f"every layer and function in {str(path)!r} must be known, {name!r} is not one of Keras'; "
                f"name it with --custom-objects module:{name}, where module.py is the file that defines it"
            ) from error
        by = f", which Keras {file.keras_version or 1} wrote" if file.is_legacy else ""
        raise InputError(f"Keras {keras.__version__} must be able to load {str(path)!r}{by}: {reason_of(error)}") from error


def _load_legacy(path: Path, file: ModelFile, *, trust_code: bool, custom_objects: Mapping[str, Any]) -> "keras.Model":
    """The model of a file of Keras 1 or 2: built from a modern configuration, with the file's weights."""
    keras = import_keras()
    objects = {**legacy_objects(), **custom_objects}
    model = keras.saving.deserialize_keras_object(_fitted(modernize(file.config)), custom_objects=objects, safe_mode=not trust_code)
    if file.kind == ".h5":
        load_legacy_weights(model, path)
        return model
    model.load_weights(load_legacy_archive(path, path.parent))  # the copy's own folder
    return model


def _fitted(config: Any) -> Any:
    """A modern configuration in which every layer has only what its class in this Keras takes."""
    keras = import_keras()
    if isinstance(config, list):
        return [_fitted(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__keras_tensor__":  # Keras wants a shape and a type, and reads neither
        return {**config, "config": {**config["config"], "shape": [None], "dtype": "float32"}}
    config = {key: _fitted(value) for key, value in config.items()}
    kind, registered = config.get("class_name"), config.get("registered_name")
    if registered and ">" in registered and keras.saving.get_registered_object(registered) is None:
        config["registered_name"] = registered.rpartition(">")[2]  # its module was not imported, or registers it no longer
    layer = LEGACY_LAYERS.get(str(kind)) or (getattr(keras.layers, str(kind), None) if config.get("module") == "keras.layers" else None)
    if layer is not None and isinstance(config.get("config"), dict):
        config["config"] = _without_forgotten(str(kind), layer, config["config"])
    return config


def _without_forgotten(kind: str, layer: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """A layer's settings without those that Keras 3 does not know, if it does the same without them."""
    accepted: set[str] = set()
    for parent in inspect.getmro(layer):
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters
            accepted |= set(parameters)
            if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    kept = {name: value for name, value in settings.items() if name in accepted}
    for name in sorted(set(settings) - accepted):
        value = settings[name]
        allowed = _FORGOTTEN.get(name, ())
        if allowed is not None and value not in allowed:
            raise UnsupportedError(
                f"every setting of a layer must be known to Keras 3, {kind} {settings.get('name')!r} has {name}={value!r}; "
                "save the model as a SavedModel with the Keras that made it, and export that with --trust-code"
            )
    return kept
