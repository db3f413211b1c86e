"""Keras itself, and the user's own layers and functions."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lepton_converters.quiet import quiet_tensorflow
from lepton_runtime.errors import InputError, MissingExtraError

CustomObjects = Sequence[str] | Mapping[str, Any]


@cache
def import_keras() -> Any:  # Any: Keras has no type hints
    """Keras on TensorFlow, imported without its chatter, and the rest of the ``[convert]`` extra checked.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with quiet_tensorflow():
            import ai_edge_litert  # noqa: F401
            import keras
            import onnx_ir  # noqa: F401
            import tensorflow  # noqa: F401
            import tf2onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"exporting needs TensorFlow, Keras and tf2onnx ({error.name or error} is not installed here); "
            'on a workstation: pip install "lepton-edge[convert]", then copy the bundle to the device'
        ) from error
    return keras


def read_custom_objects(given: CustomObjects) -> dict[str, Any]:
    """The user's own layers and functions by name, as Keras looks them up.

    Args:
        given: Objects by name, or texts ``module:name`` of what to import: a class, a function, or a mapping of those.
            Modules are looked for in the current folder, too; importing one runs it.

    Raises:
        InputError: There is no such module or name.
    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in given:
        value = _import(text)
        if isinstance(value, Mapping):
            found |= value
        else:
            found[text.partition(":")[2]] = value
            found[getattr(value, "__name__", text)] = value
    return found


def split_custom_object(text: str) -> tuple[str, str]:
    """Module and name of a text ``module:name``.

    Raises:
        InputError: It is none.
    """
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise InputError(f"--custom-objects takes module:name, such as my_layers:Scale for class Scale in my_layers.py, found {text!r}")
    return module, name


def _import(text: str) -> Any:  # Any: whatever the user has made
    module, name = split_custom_object(text)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's own code may raise anything
        raise InputError(f"--custom-objects {text!r} must be importable from here; {type(error).__name__}: {error}") from error
