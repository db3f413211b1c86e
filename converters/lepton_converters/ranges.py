"""The range of real numbers that a tensor's integers stand for, found in its statistics by one of five methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np

from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.tensors import Array

LEVELS = 256  # of 8 bits
_PERCENTILE = 99.99
_WORTHWHILE_DB = 1.0  # a fifth of the squared error
# How many octaves the search takes an end in and out by, at each look closer around the best. Beyond ten, bins are wider than steps.
_LOOKS = (np.linspace(-10, 0, 21), np.linspace(-3, 3, 13), *(np.arange(-3, 4) / part for part in (6, 24, 96)))
_SLIVER = 1 / 1024  # of a bin


class RangeMethod(StrEnum):
    """How a range is found; see :func:`find_range`."""

    MIN_MAX = "min-max"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


@dataclass(frozen=True)
class Range:
    """From where to where integers reach; 0 lies in it, for padding and ReLU need it exactly, and it is never empty."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= 0 <= self.high and self.low < self.high < np.inf and self.low > -np.inf):
            raise ValueError(f"a range is finite, not empty and includes 0, found {self.low!r} to {self.high!r}")

    @classmethod
    def around(cls, low: float, high: float) -> Self:
        """The narrowest range that holds these and 0; 0 to 1 if there is nothing but 0.

        >>> Range.around(2.0, 6.0)
        Range(low=0.0, high=6.0)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        # What float32 cannot tell from 0 is 0: a scale would underflow.
        return cls(low, high) if high - low > np.finfo(np.float32).tiny * LEVELS else cls(0.0, 1.0)


def find_range(statistics: TensorStatistics, method: RangeMethod, *, levels: int = LEVELS) -> Range:
    """The range of a tensor by one method.

    ``min-max`` loses no value. ``moving-average`` damps single batches; batches of one sample it damps so much that a good part
    of the values is lost. ``percentile`` cuts half of 0.01 % of the values off at each end. ``entropy`` changes the
    distribution of the values the least, and ``mse`` the values themselves: both ends are searched for, one alone where all values
    are on one side of 0.

    Args:
        statistics: Of the tensor.
        method: How.
        levels: How many integers there are.

    Raises:
        InputError: No value of the tensor was measured.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, for the entropy; Banner et al., "Post training 4-bit quantization
    of convolutional networks for rapid-deployment", NeurIPS 2019, for the mean squared error.
    """
    extremes = Range.around(statistics.low, statistics.high)
    match method:
        case RangeMethod.MIN_MAX:
            return extremes
        case RangeMethod.MOVING_AVERAGE:
            return Range.around(statistics.moving_low, statistics.moving_high)
        case RangeMethod.PERCENTILE:
            return Range.around(*_percentiles(statistics, _PERCENTILE))
    density = _Density.of(statistics)
    cost = density.divergence if method is RangeMethod.ENTROPY else density.squared_error
    return _search(lambda low, high: cost(Range(low, high), levels), extremes)


def best_range(statistics: TensorStatistics, ranges: Mapping[RangeMethod, Range], *, levels: int = LEVELS) -> RangeMethod:
    """The method of the least squared error where that is worth it, else the extremes.

    Extremes stay unless another method takes a fifth of the squared error (1 dB) away. Ask only for tensors whose values all
    matter alike: the error of one tensor says nothing about what depends on it. A softmax, and whoever compares scores, lives on
    the few largest values, which clipping makes equal; and rare outliers may carry the answer, as in the residual stream of
    transformers. Take ``min-max`` there, or measure the accuracy of the network itself.

    Args:
        statistics: Of the tensor.
        ranges: What each method found, ``min-max`` among them.
        levels: How many integers there are.
    """
    errors = {method: quantization_error(statistics, range_, levels=levels) for method, range_ in ranges.items()}
    best = min(errors, key=lambda method: errors[method])
    return best if errors[best] < errors[RangeMethod.MIN_MAX] * 10 ** (-_WORTHWHILE_DB / 10) else RangeMethod.MIN_MAX


def quantization_error(statistics: TensorStatistics, range_: Range, *, levels: int = LEVELS) -> float:
    """The mean squared error of a value by rounding to one of the levels and by clipping.

    It is exact but for one assumption: values spread evenly within a bin of the histogram. Values that lie on levels, such as
    pixels or the zeros of a ReLU, have a smaller error in truth.

    Args:
        statistics: Of the tensor.
        range_: Of the integers; it is moved a little, as every quantizer does, so that 0 is one of them.
        levels: How many integers there are.

    Raises:
        InputError: No value of the tensor was measured.
    """
    return _Density.of(statistics).squared_error(range_, levels)


def clipped_share(statistics: TensorStatistics, range_: Range) -> float:
    """The share of the values, 0 to 1, that lie outside of a range.

    Raises:
        InputError: No value of the tensor was measured.
    """
    density = _Density.of(statistics)
    # The bins of the extremes may reach a little further than the extremes.
    low = -np.inf if range_.low <= statistics.low else range_.low
    high = np.inf if range_.high >= statistics.high else range_.high
    return density.mean(density.edges - np.clip(density.edges, low, high))


@dataclass(frozen=True)
class _Density:
    """The bins from the smallest value to the largest; the outer ones are cut off there."""

    counts: Array  # (bins,)
    nonzero: Array  # (bins,), without the values that are exactly 0
    edges: Array  # (bins + 1,) float64
    weights: Array  # (bins + 1,) float64, of an antiderivative at the edges in the mean over all values

    @classmethod
    def of(cls, statistics: TensorStatistics) -> Self:
        low, high = statistics.low, statistics.high
        counts, edges = statistics.counts, statistics.edges
        first, last = np.flatnonzero(counts)[[0, -1]]
        edges = edges[first : last + 2].copy()
        # A bin is never of no width: the largest value may be all that is in the last.
        least = (edges[1] - edges[0]) * _SLIVER
        edges[0] = min(low, edges[1] - least)
        edges[-1] = max(high, edges[-2] + least)
        nonzero = counts.copy()
        nonzero[counts.size // 2] -= statistics.zeros
        counts, nonzero = counts[first : last + 1], nonzero[first : last + 1]
        density = nonzero / np.diff(edges) / counts.sum()
        return cls(counts, nonzero, edges, -np.diff(density, prepend=0, append=0))

    def mean(self, integral: Array) -> float:
        """The mean over all values of a function that is 0 at 0, and whose antiderivative at the edges is given."""
        return float(np.dot(integral, self.weights))

    def squared_error(self, range_: Range, levels: int) -> float:
        """The mean of ``(x - nearest(x))**2``."""
        step, lowest, highest = _grid(range_, levels)
        inside = np.clip(self.edges, lowest, highest)
        nearest = np.rint(inside / step)
        # The antiderivative from 0: a whole step adds step**3 / 12, and what is left of one, or beyond the range, a cube.
        rest = inside - nearest * step
        return self.mean(nearest * (step**3 / 12) + rest**3 / 3 + (self.edges - inside) ** 3 / 3)

    def divergence(self, range_: Range, levels: int) -> float:
        """How much is lost of the distribution, in nats: from the clipped one to what the levels can say of it.

        The clipped one has all values beyond the range in its outermost bins. The levels were filled without those, and spread
        their values over all their bins that are not empty. Exact zeros are left out: they keep their level in every range, and
        the spike that half of all values make after a ReLU would drown everything else. Infinite for fewer bins than levels,
        which would say nothing of rounding.

        Source: Migacz, "8-bit Inference with TensorRT", GTC 2017.
        """
        step, lowest, highest = _grid(range_, levels)
        centers = (self.edges[:-1] + self.edges[1:]) / 2
        inside = (centers >= range_.low) & (centers <= range_.high)
        used = np.flatnonzero((self.nonzero > 0) & inside)
        if not used.size or inside.sum() < levels:
            return np.inf
        inner = self.nonzero[used].astype(np.float64)
        clipped = inner.copy()
        clipped[0] += self.nonzero[: used[0]].sum()
        clipped[-1] += self.nonzero[used[-1] + 1 :].sum()
        level = np.rint(np.clip(centers[used], lowest, highest) / step).astype(np.intp)
        level -= level[0]
        spread = (np.bincount(level, weights=inner) / np.maximum(np.bincount(level), 1))[level]
        total = clipped.sum()
        return float(np.dot(clipped, np.log(clipped * inner.sum() / (spread * total))) / total)


def _grid(range_: Range, levels: int) -> tuple[float, float, float]:
    """The step of the integers, and the real numbers of the first and the last, with one of them at 0.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
    2018, section 3: the boundaries are nudged so that 0 is representable.
    """
    step = (range_.high - range_.low) / (levels - 1)
    zero_point = int(np.rint(-range_.low / step))
    return step, -zero_point * step, (levels - 1 - zero_point) * step


def _percentiles(statistics: TensorStatistics, percentile: float) -> tuple[float, float]:
    """Where the ends of the histogram hold what the percentile leaves, half of it each."""
    density = _Density.of(statistics)
    shares = np.concatenate([[0], np.cumsum(density.counts)]) / density.counts.sum()
    tail = (1 - percentile / 100) / 2
    low, high = np.interp([tail, 1 - tail], shares, density.edges)
    return max(float(low), statistics.low), min(float(high), statistics.high)


def _search(cost: Callable[[float, float], float], extremes: Range) -> Range:
    """The range of the least cost among fractions of the extremes.

    Both ends move together, then one after the other, at first in long strides. That gets to the bottom, for what clipping costs
    at an end and what rounding costs are convex, but for ripples.
    """
    moves = np.array([[1, 1]] if 0 in (extremes.low, extremes.high) else [[1, 1], [1, 0], [0, 1]])
    best = np.ones(2)
    least = cost(extremes.low, extremes.high)
    for octaves in _LOOKS:
        for move in moves:
            for ends in np.unique(np.minimum(best * 2 ** (octaves[:, None] * move), 1), axis=0):
                found = cost(extremes.low * ends[0], extremes.high * ends[1])
                if found < least:
                    best, least = ends, found
    return Range(float(extremes.low * best[0]), float(extremes.high * best[1]))
