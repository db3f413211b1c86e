"""A SavedModel folder: one of its signatures, as a function from tensors to tensors."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.errors import InputError, UnsupportedError

_SERVING = "serving_default"


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel.

    Attributes:
        name: Which.
        inputs: Name, shape and number type of each input, batch axis included, in the order of their names: the file keeps
            no other.
        outputs: The same of each output.
        weights: The values of its variables, by name.
        infer: Flat outputs for flat inputs.
    """

    name: str
    inputs: tuple[tuple[str, tuple[int | None, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int | None, ...], str], ...]
    weights: tuple[tuple[str, Any], ...]
    infer: Callable[[list[Any]], list[Any]]


def digest_folder(folder: Path) -> str:
    """One SHA-256 over the names and contents of all files, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{content}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def open_signature(folder: Path, name: str | None) -> Signature:
    """A signature of the SavedModel in a folder, which runs it as the program that it is.

    Args:
        folder: With ``saved_model.pb``.
        name: Of the signature; by default the only one, or ``serving_default``.

    Raises:
        InputError: It cannot be loaded, or has no such signature.
        UnsupportedError: The signature takes or gives something else than numbers.
    """
    import tensorflow as tf

    try:
        with quiet_tensorflow():
            loaded = tf.saved_model.load(str(folder))
    except (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError, RuntimeError) as error:
        raise InputError(f"TensorFlow must be able to load the SavedModel {str(folder)!r}: {reason_of(error)}") from error
    signatures = dict(loaded.signatures)
    name = _choose(folder, list(signatures), name)
    function = signatures[name]
    inputs = tuple((key, _shape(spec, key), spec.dtype.name) for key, spec in sorted(function.structured_input_signature[1].items()))
    outputs = tuple((key, _shape(spec, key), spec.dtype.name) for key, spec in sorted(function.structured_outputs.items()))
    names = [key for key, _, _ in inputs]

    def infer(tensors: list[Any]) -> list[Any]:
        answers = function(**dict(zip(names, tensors, strict=True)))
        return [answers[key] for key, _, _ in outputs]

    # The object owns the variables: it must live as long as the function that uses them.
    infer.saved_model = loaded  # type: ignore[attr-defined]
    return Signature(name, inputs, outputs, tuple((variable.name, np.asarray(variable)) for variable in function.variables), infer)


def _choose(folder: Path, found: list[str], name: str | None) -> str:
    listed = ", ".join(sorted(found)) or "none"
    if name is None and (_SERVING in found or len(found) == 1):
        return _SERVING if _SERVING in found else found[0]
    if name is None or name not in found:
        asked = f"no {name!r}" if name else f"no {_SERVING!r}"
        advice = "choose one with --signature NAME" if found else "save it with signatures"
        raise InputError(f"{str(folder)!r} must have the signature to convert, it has {listed} and {asked}; {advice}")
    return name


def _shape(spec: Any, name: str) -> tuple[int | None, ...]:
    shape = getattr(spec, "shape", None)
    if shape is None or shape.rank is None:
        raise UnsupportedError(f"inputs and outputs of a signature must be tensors of known rank, {name!r} is {spec}; give it a shape")
    return tuple(shape.as_list())
