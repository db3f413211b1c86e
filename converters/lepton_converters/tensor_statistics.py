"""What is known about one tensor after any number of batches: extremes and a histogram, in constant memory and one pass."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from lepton_runtime.errors import InputError
from lepton_runtime.tensors import Array

BINS = 4096
_MIDDLE = BINS // 2
_NARROWEST = -64  # the first histogram reaches from -2**-64 to 2**-64
_CHUNK = 1 << 15  # values that are counted at a time: they and their bins stay in the cache
_FOLD = 1024
# Source: the averaging constant of onnxruntime's MinMaxCalibrater and of PyTorch's MovingAverageMinMaxObserver.
_MOMENTUM = 0.01


class TensorStatistics:
    """Extremes of a tensor, moving averages of them, and histograms of its even and of its odd samples.

    The histogram is symmetric around 0 and reaches to a power of two, the least that is larger than every value. When a larger
    value comes, it is doubled: two bins become one, exactly, for every edge is a whole multiple of a power of two. So the
    counts depend neither on the order of the samples nor on how they were batched; only the moving averages do.

    Attributes:
        name: The tensor's name, for messages.
        channel_axis: The axis whose extremes are kept one by one, or ``None``.
    """

    def __init__(self, name: str, *, channel_axis: int | None = None) -> None:
        self.name = name
        self.channel_axis = channel_axis
        self._exponent = _NARROWEST
        self._half_counts = np.zeros((2, BINS), np.int64)
        self._lows = np.full(1, np.inf, np.float32)  # (channels,)
        self._highs = np.full(1, -np.inf, np.float32)
        self._moving: Array = np.zeros(2)
        self._zeros = 0

    def add(self, values: Array, *, first_sample: int) -> None:
        """Take one batch in; for a moment that costs as much memory as the batch.

        Args:
            values: ``(samples, …)``, as many channels as before. A batch of no values changes nothing.
            first_sample: The number of its first sample, which tells even samples from odd ones.

        Raises:
            InputError: A value is NaN or infinite, or the number of channels is another one.
        """
        values = np.ascontiguousarray(values, np.float32)
        if not values.size:
            return
        lows, highs = _extremes(values, self.channel_axis)
        batch: Array = np.array([lows.min(), highs.max()], np.float64)
        self._check(values, batch)
        self._moving = batch if self.count == 0 else self._moving + _MOMENTUM * (batch - self._moving)
        largest = float(np.abs(batch).max())
        self._widen(int(np.frexp(largest)[1]) if largest else _NARROWEST)
        self._lows, self._highs = np.minimum(self._lows, lows), np.maximum(self._highs, highs)
        for half, counts in enumerate(self._half_counts):
            self._count(values[(half - first_sample) % 2 :: 2].reshape(-1), counts)

    @property
    def count(self) -> int:
        """How many values there were."""
        return int(self._half_counts.sum())

    @property
    def low(self) -> float:
        """The smallest value, exactly."""
        self._check_any()
        return float(self._lows.min())

    @property
    def high(self) -> float:
        """The largest value, exactly."""
        self._check_any()
        return float(self._highs.max())

    @property
    def moving_low(self) -> float:
        """The exponential moving average of the batches' smallest values."""
        self._check_any()
        return float(self._moving[0])

    @property
    def moving_high(self) -> float:
        """The exponential moving average of the batches' largest values."""
        self._check_any()
        return float(self._moving[1])

    @property
    def channel_lows(self) -> Array:
        """The smallest value of each channel, ``(channels,)`` float32; of the tensor, if it has no channel axis."""
        self._check_any()
        return self._lows.copy()

    @property
    def channel_highs(self) -> Array:
        """The largest value of each channel, ``(channels,)`` float32; of the tensor, if it has no channel axis."""
        self._check_any()
        return self._highs.copy()

    @property
    def half_counts(self) -> Array:
        """How many values of even and of odd samples lie in each bin, ``(2, bins)`` int64."""
        return self._half_counts.copy()

    @property
    def counts(self) -> Array:
        """How many values lie in each bin, ``(bins,)`` int64."""
        total: Array = self._half_counts.sum(axis=0)
        return total

    @property
    def zeros(self) -> int:
        """How many values are exactly 0: often half of them, and without any error in every range."""
        return self._zeros

    @property
    def edges(self) -> Array:
        """Where bins start and end, ``(bins + 1,)`` float64; a bin holds the values from its start up to below its end."""
        return np.ldexp(np.arange(-_MIDDLE, _MIDDLE + 1, dtype=np.float64) / _MIDDLE, self._exponent)

    def to_arrays(self) -> dict[str, Array]:
        """Everything, as plain arrays for a file."""
        return {
            "name": np.array(self.name),
            "channel_axis": np.array([] if self.channel_axis is None else [self.channel_axis], np.int64),
            "exponent": np.array(self._exponent),
            "half_counts": self._half_counts,
            "lows": self._lows,
            "highs": self._highs,
            "moving": self._moving,
            "zeros": np.array(self._zeros),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """The statistics that :meth:`to_arrays` made these of, ready for more batches."""
        axis = arrays["channel_axis"].tolist()
        statistics = cls(str(arrays["name"]), channel_axis=axis[0] if axis else None)
        statistics._exponent = int(arrays["exponent"])
        statistics._half_counts = arrays["half_counts"].copy()
        statistics._lows, statistics._highs = arrays["lows"].copy(), arrays["highs"].copy()
        statistics._moving = arrays["moving"].copy()
        statistics._zeros = int(arrays["zeros"])
        return statistics

    def _check(self, values: Array, batch: Array) -> None:
        if not np.isfinite(batch).all():
            count = int(values.size - np.isfinite(values).sum())
            raise InputError(
                f"tensor {self.name!r} must be finite to be calibrated, found {count} of {values.size} values NaN or infinite; "
                "clean the data, or mend the model: 8 bits can hold neither"
            )
        if self.channel_axis is not None and self.count and values.shape[self.channel_axis] != len(self._lows):
            raise InputError(
                f"tensor {self.name!r} must keep its {len(self._lows)} channels, found {values.shape[self.channel_axis]}; "
                "calibrate with samples of one shape"
            )

    def _check_any(self) -> None:
        if not self.count:
            raise InputError(f"tensor {self.name!r} must have been measured, found no value of it; calibrate with samples that reach it")

    def _widen(self, exponent: int) -> None:
        """Double the histogram until it reaches to ``2**exponent``."""
        while self._exponent < exponent:
            if not self._half_counts.any():
                self._exponent = exponent
                return
            pairs = self._half_counts.reshape(2, _MIDDLE, 2).sum(axis=2)
            self._half_counts = np.pad(pairs, ((0, 0), (_MIDDLE // 2, _MIDDLE // 2)))
            self._exponent += 1

    def _count(self, values: Array, counts: Array) -> None:
        """Add the values to their bins. To multiply by a power of two is exact, and so is the bin."""
        scale = np.float32(np.ldexp(_MIDDLE, -self._exponent))
        scaled = np.empty(min(_CHUNK, values.size), np.float32)
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            self._zeros += chunk.size - int(np.count_nonzero(chunk))
            places = np.floor(np.multiply(chunk, scale, out=scaled[: chunk.size]), out=scaled[: chunk.size]).astype(np.intp)
            places += _MIDDLE
            counts += np.bincount(places, minlength=BINS)


def _extremes(values: Array, axis: int | None) -> tuple[Array, Array]:
    """The smallest and the largest values, ``(channels,)`` each, of an array in C order."""
    if axis is None:
        return values.min(keepdims=True).reshape(1), values.max(keepdims=True).reshape(1)
    axis %= values.ndim
    channels, inner = values.shape[axis], int(np.prod(values.shape[axis + 1 :], dtype=np.int64))
    if inner > 1:
        blocks = values.reshape(-1, channels, inner)
        return blocks.min(axis=2).min(axis=0), blocks.max(axis=2).max(axis=0)
    # Rows of a few channels are short, and numpy takes its time with each: many of them make one long row.
    flat, repeats = values.reshape(-1), max(1, min(_FOLD // channels, values.size // channels))
    whole = flat.size - flat.size % (channels * repeats)
    parts = [part for part in (flat[:whole].reshape(-1, channels * repeats), flat[whole:].reshape(-1, channels)) if part.size]
    low = [part.min(axis=0).reshape(-1, channels).min(axis=0) for part in parts]
    high = [part.max(axis=0).reshape(-1, channels).max(axis=0) for part in parts]
    return np.minimum.reduce(low), np.maximum.reduce(high)
