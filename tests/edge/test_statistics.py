from itertools import combinations, product

import numpy as np
import pytest

from lepton_edge.latency.statistics import (
    _rank_sum_counts,
    _signed_rank_counts,
    median_interval,
    paired_ratio,
    percentile,
    samples_needed,
    trend,
    unpaired_ratio,
)
from tests.edge.made import noise


@pytest.mark.parametrize(("percent", "count"), [(90, 64), (99, 662), (99.9, 6636)])
def test_a_percentile_is_known_from_mlperfs_number_of_samples_on(percent: float, count: int) -> None:
    assert samples_needed(percent) == count
    assert percentile(np.arange(count, dtype=float), percent) is not None
    assert percentile(np.arange(count - 1, dtype=float), percent) is None


def test_the_distributions_of_ranks_are_those_of_every_arrangement() -> None:
    signs = [sum(rank for rank, sign in enumerate(pattern, 1) if sign) for pattern in product((0, 1), repeat=7)]
    assert list(_signed_rank_counts(7)) == [signs.count(value) for value in range(max(signs) + 1)]
    wins = [sum(a > b for a in chosen for b in set(range(7)) - set(chosen)) for chosen in combinations(range(7), 3)]
    assert list(_rank_sum_counts(4, 3)) == [wins.count(value) for value in range(max(wins) + 1)]


@pytest.mark.parametrize("ratio_of", [paired_ratio, unpaired_ratio])
def test_equal_candidates_are_called_different_one_time_in_twenty(ratio_of) -> None:
    generator = np.random.default_rng(5)
    verdicts = [ratio_of(*np.exp(generator.normal(0, 0.02, (2, 10)))).verdict for _ in range(1000)]
    assert 20 <= 1000 - verdicts.count("cannot tell") <= 70


@pytest.mark.parametrize("ratio_of", [paired_ratio, unpaired_ratio])
def test_five_percent_are_found_through_two_percent_of_noise(ratio_of) -> None:
    generator = np.random.default_rng(6)
    ratios = [ratio_of(*(np.exp(generator.normal(0, 0.02, (2, 10))) * [[1], [1.05]])) for _ in range(200)]
    assert sum(ratio.verdict == "slower" for ratio in ratios) >= 190
    assert np.median([ratio.value for ratio in ratios]) == pytest.approx(1.05, abs=0.005)
    assert all(ratio.low <= ratio.value <= ratio.high for ratio in ratios)


def test_too_few_processes_tell_nothing() -> None:
    assert paired_ratio([1.0] * 5, [2.0] * 5).low is None
    assert paired_ratio([1.0] * 6, [2.0] * 6).verdict == "slower"
    assert unpaired_ratio([1.0] * 3, [2.0] * 3).verdict == "cannot tell"


def test_drift_that_hits_both_does_not_hide_a_paired_difference() -> None:
    drift = np.linspace(1, 2, 10)
    assert paired_ratio(drift, 0.97 * drift).verdict == "faster"
    assert unpaired_ratio(drift, 0.97 * drift).verdict == "cannot tell"


def test_the_interval_of_a_median_knows_that_processes_differ() -> None:
    same = [[noise(200, seed=10 * process + block) for block in range(4)] for process in range(6)]
    low, high = median_interval(same)
    assert low < np.median(np.concatenate(same, axis=None)) < high
    apart = [[(1 + 0.05 * process) * block for block in blocks] for process, blocks in enumerate(same)]
    wide_low, wide_high = median_interval(apart)
    assert wide_high - wide_low > 20 * (high - low)
    assert median_interval(same) == (low, high)
    assert median_interval([[noise(10)]]) is None


def test_a_trend_is_told_from_noise() -> None:
    times, values = np.arange(60.0), np.random.default_rng(1).normal(100, 1, 60)
    assert trend(times, values)[1] > 0.01
    change, doubt = trend(times, values + 0.2 * times)
    assert change == pytest.approx(11.8, abs=1.5)
    assert doubt < 1e-6
    assert trend(times, np.full(60, 7.0)) == (0.0, 1.0)


@pytest.mark.simulation
@pytest.mark.parametrize(("processes", "blocks"), [(6, 4), (10, 2), (1, 20)])
def test_the_interval_holds_the_median_nineteen_times_of_twenty(processes: int, blocks: int) -> None:
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(150):
        offsets = generator.normal(1, 0.01 if processes > 1 else 0, (processes, 1)) * generator.normal(1, 0.005, (processes, blocks))
        low, high = median_interval([[offset * generator.normal(1, 0.002, 30) for offset in row] for row in offsets])
        held += low <= 1 <= high
    assert 0.9 <= held / 150 <= 0.995  # the standard error of such a share is 0.018


def test_many_processes_are_compared_by_the_normal_distribution() -> None:
    generator = np.random.default_rng(4)
    base, new = np.exp(generator.normal(0, 0.02, (2, 51)))
    many = unpaired_ratio(base, new)
    assert many.low < many.value < many.high
    exact = unpaired_ratio(base[:50], new[:50])
    assert (many.low, many.high) == pytest.approx((exact.low, exact.high), abs=0.003)
    assert unpaired_ratio(base, np.tile(1.1 * new, 100)).verdict == "slower"
