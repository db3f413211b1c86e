"""Keras itself, the user's own classes, and a model out of a file."""

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import keras

CustomObjects = Sequence[str] | Mapping[str, Any]
# What Keras' loaders were seen to raise for files that do not hold what they should.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, EOFError, RuntimeError, ImportError)
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown \w+(?: function)?:) '?(\w+)")


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


def load_model(path: Path, *, trust_code: bool, custom_objects: Mapping[str, Any]) -> "keras.Model":
    """The model in a ``.keras`` or ``.h5`` file.

    Raises:
        InputError: Keras cannot load it.
    """
    keras = import_keras()

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc, name-defined]
        """Files of Keras 1 and 2 carry a ``groups`` key that Keras 3 refuses.

        Source: keras issue 19441.
        """

        def __init__(self, *args: Any, groups: int = 1, **settings: Any) -> None:
            super().__init__(*args, **settings)

    try:
        with quiet_tensorflow():
            return keras.saving.load_model(
                path, compile=False, safe_mode=not trust_code, custom_objects={"DepthwiseConv2D": DepthwiseConv2D, **custom_objects}
            )
    except _LOAD_ERRORS as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            raise InputError(
                f"every layer and function in {str(path)!r} must be known, {unknown[1]!r} is not one of Keras'; "
                f"name it with --custom-objects module:{unknown[1]}, where module.py is the file that defines it"
            ) from error
        raise InputError(f"Keras {keras.__version__} must be able to load {str(path)!r}: {reason_of(error)}") from error
