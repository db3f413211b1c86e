"""The name, shape and number type of one model input or output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_runtime.errors import InputError

# The number type differs from model to model and is checked at run time against the TensorSpec.
Array = NDArray[Any]

NUMBER_TYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
"""The number types of models' inputs and outputs, by numpy's names; numpy itself takes far more for one, and fails at some."""


@dataclass(frozen=True)
class TensorSpec:
    """What one input or output of a model looks like.

    Attributes:
        name: The Keras name.
        shape: Axis lengths with the batch axis first; ``None`` is a free axis.
        dtype: A numpy name such as ``"float32"`` or ``"uint8"``.
        scale: For an integer tensor that stands for real numbers, ``real = scale * (integer - zero_point)``.
        zero_point: See ``scale``. Both are ``None`` for other tensors.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __str__(self) -> str:
        axes = "×".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name} {axes} {self.dtype}"

    def check(self, array: Array, *, finite: bool = False) -> None:
        """Raise if ``array`` cannot be fed as it is.

        Nothing is ever cast in silence: a byte-swapped or masked array would be misread by the engines
        without a word.

        Args:
            array: The candidate, batch axis included.
            finite: Also refuse NaN and infinity, at the cost of one pass over the array.

        Raises:
            InputError: Type, number type, rank, shape or (if asked) a value does not fit.
        """
        if isinstance(array, np.ma.MaskedArray):
            raise InputError(
                f"input {self.name!r} must be a plain numpy array, found MaskedArray; say what stands for masked values: array.filled(x)"
            )
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"input {self.name!r} must be a plain numpy array, found {type(array).__name__}; use numpy.asarray(values, {self.dtype!r})"
            )
        if array.dtype != np.dtype(self.dtype):
            found = array.dtype if array.dtype.isnative else array.dtype.str
            raise InputError(f"input {self.name!r} must be {self.dtype}, found {found}; {self._dtype_hint(array)}")
        if not fits_shape(array.shape, self.shape):
            raise InputError(
                f"input {self.name!r} must have shape {_shape_text(self.shape)}, found {_shape_text(array.shape)}; "
                f"{self._shape_hint(array)}"
            )
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise InputError(f"input {self.name!r} must be finite, found {count} of {array.size} NaN or infinite; clean the data first")

    def _dtype_hint(self, array: Array) -> str:
        if array.dtype == np.uint8 and self.dtype.startswith("float"):
            return f"predict takes raw pixels, and preprocess makes this input of them; of other values array.astype({self.dtype!r})"
        if self.scale is None or self.zero_point is None or array.dtype.kind != "f":
            return f"convert it on purpose, for example array.astype({self.dtype!r})"
        return (
            f"its integers stand for real numbers (scale {self.scale!r}, zero point {self.zero_point}): "
            "quantize them with session.artifact.inputs[i].quantize(array)"
        )

    def _shape_hint(self, array: Array) -> str:
        if array.shape == self.shape[1:]:
            return "add the batch axis: array[None]"
        if len(self.shape) == 4 and array.ndim == 4 and array.shape[1] == self.shape[3] != self.shape[1]:
            return "channels come last (batch, height, width, channels): array.transpose(0, 2, 3, 1)"
        return "resize or reshape it first"

    def quantize(self, array: Array) -> Array:
        """Real numbers as this tensor holds them: unchanged unless it is a scaled integer.

        Source: ONNX operator QuantizeLinear: round half to even, then saturate.
        """
        if self.scale is None or self.zero_point is None:
            return array
        limits = np.iinfo(self.dtype)
        steps: Array = np.rint(np.asarray(array, np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, array: Array) -> Array:
        """The real numbers that this tensor's values stand for, float32 if it is a scaled integer."""
        if self.scale is None or self.zero_point is None:
            return array
        real: Array = (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return real


def fits_shape(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether an array's axes are as many and as long as wanted; a free axis, ``None``, may have any length but 0.

    >>> fits_shape((64, 96, 3), (None, None, 3))
    True
    """
    return len(found) == len(wanted) and all(
        (length > 0) if axis is None else length == axis for length, axis in zip(found, wanted, strict=True)
    )


def cast_exactly(array: Array, dtype: str) -> Array:
    """The values as another number type; real numbers become integers only if they are whole and in range.

    Raises:
        InputError: An integer type cannot hold a value.

    >>> cast_exactly(np.array([1.0, 2.0]), "int32")
    array([1, 2], dtype=int32)
    """
    if np.dtype(dtype).kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        is_whole = array.dtype.kind != "f" or bool(np.isfinite(array).all() and (array == np.rint(array)).all())
        if not is_whole or array.min() < limits.min or array.max() > limits.max:
            raise InputError(
                f"an input of {dtype} must get whole numbers from {limits.min} to {limits.max}, "
                f"found {array.dtype} from {array.min()} to {array.max()}; convert them on purpose"
            )
    return array.astype(dtype)


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if axis is None else str(axis) for axis in shape) + ")"
