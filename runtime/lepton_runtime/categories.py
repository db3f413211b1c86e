"""Ids of categories as they are, or as rows with one number a category; and the settings of the steps that make them."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from lepton_runtime.errors import InputError
from lepton_runtime.tensors import Array

Output = Literal["int", "one_hot", "multi_hot", "count", "tf_idf"]
Shape = tuple[int | None, ...]


def encode_ids(ids: Array, output: Output, depth: int | None, *, weights: Sequence[float] | None = None) -> Array:
    """The ids themselves, or float32 rows of ``depth`` numbers: one row an id (``one_hot``), or one row a row of ids.

    Source: keras numerical_utils.encode_categorical_inputs.

    >>> encode_ids(np.array([[2, 2, 0]]), "count", 3)
    array([[1., 0., 2.]], dtype=float32)
    """
    if output == "int":
        return ids
    if output != "one_hot":
        return count_ids(ids.tolist(), output, depth or 0, weights=weights)
    squeezed = ids[..., 0] if ids.ndim > 1 and ids.shape[-1] == 1 else ids
    return np.asarray(squeezed[..., None] == np.arange(depth or 0), np.float32)


def encoded_shape(shape: Shape, output: Output, depth: int | None) -> Shape:
    """The shape that :func:`encode_ids` gives ids of that shape.

    >>> encoded_shape((None, 1), "one_hot", 5), encoded_shape((None, 7), "multi_hot", 5)
    ((None, 5), (None, 5))
    """
    if output == "int":
        return shape
    if output == "one_hot":
        return (*(shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape), depth)
    return (*shape[:-1], depth)


def count_ids(rows: Sequence[Sequence[int]], output: Output, depth: int, *, weights: Sequence[float] | None) -> Array:
    """How often each id comes in a row, ``(rows, depth)``, or whether it does; ids that have no place there do not count."""
    counts = np.zeros((len(rows), depth), np.float32)
    for number, row in enumerate(rows):
        counts[number] = np.bincount([place for place in row if 0 <= place < depth], minlength=depth)
    if output == "multi_hot":
        return np.minimum(counts, np.float32(1))
    return counts if weights is None else counts * np.array(weights, np.float32)


def whole_numbers(values: Array) -> Array:
    """Numbers as TensorFlow makes them whole: cut off towards zero.

    Raises:
        InputError: One is not finite, or too large.
    """
    if values.dtype.kind == "f" and not (np.abs(values) < 2.0**63).all():
        raise InputError(
            f"numbers that are looked up must be finite and below 2**63, found {values.min()} to {values.max()}; clean them first"
        )
    return values.astype(np.int64)


def step_settings(step: Any) -> dict[str, Any]:  # Any: whatever dataclass a step is
    """Every setting of a step but its vocabulary, ready for JSON."""
    values = {field.name: getattr(step, field.name) for field in fields(step) if field.name != "vocabulary"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise unless a setting has one of its values.

    Raises:
        InputError: It has not.
    """
    if value not in choices:
        raise InputError(f"{name!r} is one of {', '.join(map(str, choices))}, found {value!r}")


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise unless a setting is a whole number of at least ``least``.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, int) or value < least:
        raise InputError(f"{name!r} is a whole number from {least}, found {value!r}")
