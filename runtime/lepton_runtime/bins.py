"""Values to numbered bins, by a hash or by boundaries: Keras' hashing layers, and what they may need before them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_runtime.categories import Output, Shape, check_choice, check_count, encode_ids, encoded_shape, step_settings, whole_numbers
from lepton_runtime.hashing import Salt, fingerprint64, fingerprint_cat64, hash_text, read_salt
from lepton_runtime.tensors import Array

_CROSSING_KEY = 0xDECAFCAFFE  # Source: tensorflow/python/ops/sparse_ops.py, _DEFAULT_HASH_KEY


@dataclass(frozen=True)
class Hashing:
    """Bins by a hash: Keras' layer of that name.

    Attributes:
        num_bins: How many.
        mask_value: What gets bin 0, which nothing else gets then; ``None`` for nothing.
        salt: The key of SipHash, or ``None`` for FarmHash.
        output: What is made of the bins.
        dtype: The number type of the result.
    """

    num_bins: int
    mask_value: str | float | None = None
    salt: Salt | None = None
    output: Output = "int"
    dtype: str = "int64"

    def __post_init__(self) -> None:
        check_choice("output", self.output, ("int", "one_hot", "multi_hot", "count"))
        check_count("num_bins", self.num_bins, least=1)

    def apply(self, values: Array) -> Array:
        """Bins of the values' shape, or their encoding.

        Source: keras Hashing._hash_values_to_bins.

        Args:
            values: Words as numpy's ``str``, or numbers.
        """
        has_mask = self.mask_value is not None and self.num_bins > 1
        bins = self.num_bins - has_mask
        texts = values if values.dtype.kind == "U" else whole_numbers(values)
        numbers = [hash_text(str(text), self.salt) % bins + has_mask for text in texts.ravel().tolist()]
        found = np.array(numbers, np.int64).reshape(values.shape)
        if has_mask:
            found = np.where(values == self.mask_value, 0, found)
        return encode_ids(found, self.output, self.num_bins).astype(self.dtype)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the result for values of that shape."""
        return encoded_shape(shape, self.output, self.num_bins)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return step_settings(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Hashing":
        """The step that :meth:`to_dict` describes.

        Raises:
            InputError: A value does not fit.
        """
        return cls(**{**settings, "salt": read_salt(settings["salt"])})


@dataclass(frozen=True)
class HashedCrossing:
    """Bins by a hash of several values together: Keras' layer of that name.

    Attributes:
        num_bins: How many.
        output: What is made of the bins.
        dtype: The number type of the result.
    """

    num_bins: int
    output: Output = "int"
    dtype: str = "int64"

    def __post_init__(self) -> None:
        check_choice("output", self.output, ("int", "one_hot"))
        check_count("num_bins", self.num_bins, least=1)

    def apply(self, *values: Array) -> Array:
        """Bins of the values' shape, ``(batch,)`` or ``(batch, 1)``, or their encoding.

        Source: tensorflow/core/kernels/sparse_cross_op.cc, HashCrosser.
        """
        columns = [map(_crossing_value, column.ravel().tolist()) for column in values]
        numbers = []
        for row in zip(*columns, strict=True):
            crossed = _CROSSING_KEY
            for value in row:
                crossed = fingerprint_cat64(crossed, value)
            numbers.append(crossed % self.num_bins)
        found = np.array(numbers, np.int64).reshape(values[0].shape)
        return encode_ids(found, self.output, self.num_bins).astype(self.dtype)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the result for values of that shape."""
        return encoded_shape(shape, self.output, self.num_bins)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return step_settings(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "HashedCrossing":
        """The step that :meth:`to_dict` describes.

        Raises:
            InputError: A value does not fit.
        """
        return cls(**settings)


@dataclass(frozen=True)
class Discretization:
    """The number of the range that a value lies in, where another step needs it: Keras' layer of that name.

    Attributes:
        boundaries: Between the ranges, ascending.
    """

    boundaries: tuple[float, ...]
    dtype = "int32"

    def apply(self, values: Array) -> Array:
        """How many boundaries are not above a value, of the values' shape; all for NaN.

        Source: tensorflow/core/kernels/bucketize_op.cc.
        """
        found = np.searchsorted(np.array(self.boundaries, np.float32), values.astype(np.float32), side="right")
        return np.asarray(found, np.int32)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the result for values of that shape."""
        return shape

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return step_settings(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Discretization":
        """The step that :meth:`to_dict` describes."""
        return cls(tuple(map(float, settings["boundaries"])))


def _crossing_value(value: str | int) -> int:
    return fingerprint64(value.encode()) if isinstance(value, str) else value % 2**64
