"""Percentiles, intervals and ratios from raw samples, with no assumption about how latencies are distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import erfc, exp, pi, sqrt, tan
from statistics import NormalDist

import numpy as np

from lepton_runtime.tensors import Array

CONFIDENCE = 0.95
FEWEST_PAIRS = 6  # of 2 ** 6 sign patterns the two outermost are 3 %; of fewer they are more than 5 %
_TAIL_CONFIDENCE = 0.99
_RESAMPLES = 1000
_KEPT_PER_BLOCK = 101  # quantiles that stand for a block in a resample
_LARGEST_EXACT = 2500  # pairs of processes; above, a normal distribution is as good


@cache
def samples_needed(percent: float) -> int:
    """How many samples it takes before a percentile is known: 64 for p90, 662 for p99.

    The smallest number at which, with 99 % confidence, more than one sample is expected to lie above it.

    Source: MLPerf inference policies, "early stopping"; with one sample over the latency, P(Binomial(n, 1-p) <= 1) <= 0.01.

    >>> [samples_needed(percent) for percent in (50, 90, 99, 99.9)]
    [11, 64, 662, 6636]
    """
    over = 1 - percent / 100
    few, many = 1, 2
    while _at_most_one(many, over) > 1 - _TAIL_CONFIDENCE:
        few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if _at_most_one(middle, over) <= 1 - _TAIL_CONFIDENCE else (middle, many)
    return many


def _at_most_one(count: int, over: float) -> float:
    return float((1 - over) ** count + count * over * (1 - over) ** (count - 1))


def percentile(samples: Array, percent: float) -> float | None:
    """The value that this share of the samples stays under or equals; ``None`` if there are too few to know it."""
    return float(np.percentile(samples, percent)) if len(samples) >= samples_needed(percent) else None


def median_deviation(samples: Array) -> float:
    """The median absolute deviation from the median (MAD)."""
    return float(np.median(np.abs(samples - np.median(samples))))


def median_interval(groups: Sequence[Sequence[Array]]) -> tuple[float, float] | None:
    """An interval that holds the median at 95 % confidence, by a bootstrap that keeps together what belongs together.

    Samples of one moment, and of one process, are alike; drawing them one by one would promise too much. So
    processes are drawn first, then blocks of time within each. The same samples give the same interval.

    Args:
        groups: For each process its blocks, each ``(samples,)``.

    Returns:
        The lower and the upper end; ``None`` with fewer than two blocks.

    Source: Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8 (hierarchical data).
    """
    if sum(map(len, groups)) < 2:
        return None
    quantiles = np.linspace(0, 100, _KEPT_PER_BLOCK)
    shrunk = [[block if len(block) <= _KEPT_PER_BLOCK else np.percentile(block, quantiles) for block in blocks] for blocks in groups]
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(_RESAMPLES):
        drawn = [shrunk[number] for number in generator.integers(0, len(shrunk), len(shrunk))]
        parts = [blocks[number] for blocks in drawn for number in generator.integers(0, len(blocks), len(blocks))]
        medians.append(np.median(np.concatenate(parts)))
    ends = np.percentile(medians, [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)])
    middle = float(np.median(np.concatenate([samples for blocks in groups for samples in blocks])))
    low, high = middle + _small_sample_factor(len(groups) if len(groups) > 1 else len(groups[0])) * (ends - middle)
    return float(low), float(high)


def _small_sample_factor(count: int) -> float:
    """How much wider than a bootstrap's the interval of a few must be: it draws from what is there, and that varies too little.

    Source: Davison and Hinkley 1997, section 2.4 for the square root; Student's quantile for the normal one.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return sqrt(count / (count - 1)) * student_quantile((1 + CONFIDENCE) / 2, count - 1) / z


def student_quantile(probability: float, free: int) -> float:
    """The value that a Student-distributed one stays under with that probability.

    Args:
        probability: From 0.5 to 1.
        free: Degrees of freedom; exact for 1 and 2, within 1 % up to 0.995 for more.

    Source: Abramowitz and Stegun 1964, 26.7.5; the closed forms of one and two degrees are those of 26.7.3 and 26.7.4, turned round.

    >>> [round(student_quantile(0.975, free), 2) for free in (1, 2, 3, 10)]
    [12.71, 4.3, 3.18, 2.23]
    """
    if free == 1:
        return tan(pi * (probability - 0.5))
    if free == 2:
        centered = 2 * probability - 1
        return centered * sqrt(2 / (1 - centered**2))
    z = NormalDist().inv_cdf(probability)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return float(z + sum(term / free**power for power, term in enumerate((*terms, fourth), 1)))


def trend(times: Array, values: Array) -> tuple[float, float]:
    """How much values change from the first to the last, and how likely so clear a trend is by chance.

    Args:
        times: ``(values,)``, ascending.
        values: ``(values,)``.

    Source: Sen 1968 for the slope (the median of all slopes between two); Mann 1945 for the doubt (normal approximation).
    """
    step = max(1, len(values) // 500)  # all pairs of an hour of seconds would be six million
    times, values = times[::step], values[::step]
    first, second = np.triu_indices(len(values), 1)
    differences = values[second] - values[first]
    slope = np.median(differences / (times[second] - times[first]))
    count = len(values)
    deviation = sqrt(count * (count - 1) * (2 * count + 5) / 18)
    score = abs(float(np.sign(differences).sum())) - 1
    return float(slope * (times[-1] - times[0])), erfc(max(0.0, score) / deviation / sqrt(2))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate takes as another.

    Attributes:
        value: The estimate; 2 is twice as long.
        low: Lower end of its interval; ``None`` if there are too few processes for one.
        high: Upper end.
        processes: How many processes, or pairs of processes, it rests on.
    """

    value: float
    low: float | None
    high: float | None
    processes: int

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``cannot tell``."""
        if self.low is None or self.high is None or self.low <= 1 <= self.high:
            return "cannot tell"
        return "faster" if self.high < 1 else "slower"


def paired_ratio(base: Sequence[float], new: Sequence[float], *, confidence: float = CONFIDENCE) -> Ratio:
    """New against base where both were measured side by side, pair by pair.

    Args:
        base: The median of each process, in any unit.
        new: The medians of the processes beside them.
        confidence: Of the interval.

    Source: Hollander and Wolfe 1999, section 3.3: the estimate and the exact interval that belong to Wilcoxon's
        signed-rank test, here of log ratios.
    """
    logs = np.log(np.asarray(new) / np.asarray(base))
    count = len(logs)
    means = np.sort([(logs[i] + logs[j]) / 2 for i in range(count) for j in range(i, count)])
    return _ratio(means, _cut(_signed_rank_counts(count), confidence), count)


def unpaired_ratio(base: Sequence[float], new: Sequence[float], *, confidence: float = CONFIDENCE) -> Ratio:
    """New against base where each was measured on its own.

    Args:
        base: The median of each process, in any unit.
        new: The medians of the other's processes.
        confidence: Of the interval.

    Source: Hollander and Wolfe 1999, section 4.2 and 4.3: the estimate and the exact interval that belong to the
        Wilcoxon-Mann-Whitney test, here of logarithms.
    """
    differences = np.sort(np.subtract.outer(np.log(new), np.log(base)).ravel())
    many, few = len(base) * len(new), min(len(base), len(new))
    if many > _LARGEST_EXACT:
        deviation = sqrt(many * (len(base) + len(new) + 1) / 12)
        return _ratio(differences, int(many / 2 - NormalDist().inv_cdf((1 + confidence) / 2) * deviation), few)
    return _ratio(differences, _cut(_rank_sum_counts(len(base), len(new)), confidence), few)


def _cut(counts: Sequence[int], confidence: float) -> int:
    """How many of the ordered candidates the test cuts off at each end, by how often each value of its statistic arises."""
    allowed, below = (1 - confidence) / 2 * sum(counts), 0
    for cut, count in enumerate(counts):
        below += count
        if below > allowed:
            return cut
    return len(counts)


def _ratio(ordered: Array, cut: int, processes: int) -> Ratio:
    """The middle of the ordered candidates, and the outermost that are not cut off; with none cut off there is no interval."""
    value = exp(float(np.median(ordered)))
    if cut < 1 or 2 * cut > len(ordered):
        return Ratio(value, None, None, processes)
    return Ratio(value, exp(float(ordered[cut - 1])), exp(float(ordered[-cut])), processes)


@cache
def _signed_rank_counts(count: int) -> tuple[int, ...]:
    """How many of the sign patterns of ``count`` values give each value of the signed-rank statistic."""
    ways = [1]
    for rank in range(1, count + 1):
        ways = [a + b for a, b in zip(ways + [0] * rank, [0] * rank + ways, strict=True)]
    return tuple(ways)


@cache
def _rank_sum_counts(base: int, new: int) -> tuple[int, ...]:
    """How many arrangements of two groups give each value of the Mann-Whitney statistic."""
    if base == 0 or new == 0:
        return (1,)
    # The largest value belongs to one group or the other: Mann and Whitney 1947, the recurrence below equation 3.
    first = [0] * new + list(_rank_sum_counts(base - 1, new))
    second = list(_rank_sum_counts(base, new - 1))
    length = base * new + 1
    return tuple(a + b for a, b in zip(first + [0] * (length - len(first)), second + [0] * (length - len(second)), strict=True))
