"""What a source takes and gives, checked and as specs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

Tensor = tuple[str, tuple[int | None, ...], str]
"""Name, shape with its batch axis, and number type."""


def described(tensors: list[tuple[str, Any]]) -> list[Tensor]:
    """Named symbolic tensors of Keras in plain values."""
    return [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]


def specs_of(tensors: Sequence[Tensor], *, batch: int | None) -> tuple[TensorSpec, ...]:
    """The specs of tensors, with the batch axis that was asked for.

    Raises:
        UnsupportedError: One is text.
    """
    specs = []
    for name, shape, dtype in tensors:
        if dtype == "string":
            raise UnsupportedError(f"inputs and outputs must be numbers, {name!r} is text; export the part behind the text layers")
        specs.append(TensorSpec(name, (batch, *shape[1:]), dtype))
    return tuple(specs)


def sized_input(spec: TensorSpec, size: Sequence[int]) -> TensorSpec:
    """An input with lengths for its free axes, batch aside; one without any as it is.

    Raises:
        InputError: There are more or fewer lengths than free axes.
    """
    free = [position for position, axis in enumerate(spec.shape) if axis is None and position > 0]
    if not free:
        return spec
    if len(free) != len(size) or min(size) < 1:
        raise InputError(
            f"--size gives a length for each of the {len(free)} free axes of {spec}, found {'x'.join(map(str, size))}; "
            f"give {'HEIGHTxWIDTH' if len(free) == 2 else f'{len(free)} lengths from 1'}"
        )
    lengths = dict(zip(free, size, strict=True))
    return replace(spec, shape=tuple(lengths.get(position, axis) for position, axis in enumerate(spec.shape)))


def batch_of_signature(name: str, tensors: Sequence[Tensor], batch: int | None) -> int | None:
    """The number of samples that a signature takes and no other; ``None`` if it takes any.

    Raises:
        UnsupportedError: There is no batch axis, or ``batch`` is another number.
    """
    lengths = {shape[0] if shape else 0 for _, shape, _ in tensors} - {None}
    fixed = lengths.pop() if len(lengths) == 1 else None
    if lengths or fixed == 0:
        listed = ", ".join(f"{key} {shape}" for key, shape, _ in tensors)
        raise UnsupportedError(
            f"the first axis of every input and output must be the same batch axis, the signature {name!r} has {listed}; "
            "save the SavedModel with a signature that has one"
        )
    if fixed is not None and batch not in (1, fixed):
        raise UnsupportedError(
            f"the signature {name!r} takes {fixed} samples a call and no other number, found --batch {batch or 'dynamic'}; "
            f"give --batch {fixed}"
        )
    return fixed


def batch_of_states(state: Tensor, batch: int | None) -> int | None:
    """The number of samples that a stateful model was built for, which is the only one it takes."""
    name, shape, _ = state
    if batch not in (1, shape[0]):
        raise UnsupportedError(
            f"a stateful model takes the number of samples it was built for, {shape[0]} ({name!r}), found --batch {batch or 'dynamic'}; "
            f"give --batch {shape[0]}, or build it again with another batch_size"
        )
    return shape[0]


def filled(array: Array, length: int) -> Array:
    """As many rows as a call takes, the last one repeated."""
    missing = length - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def check_weights(weights: Sequence[tuple[str, Array]]) -> None:
    """Refuse a model that a diverged training left.

    Raises:
        InputError: A weight is not finite.
    """
    for name, values in weights:
        if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
            raise InputError(
                f"every weight must be finite, {name!r} holds {int((~np.isfinite(values)).sum())} NaN or infinite values "
                f"of {values.size}; train it again"
            )
