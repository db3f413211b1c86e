import math

import numpy as np
import pytest

from lepton_converters.ranges import (
    Range,
    RangeMethod,
    best_range,
    clipped_share,
    find_range,
    quantization_error,
)
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime import InputError

GENERATOR = np.random.default_rng(9)
COUNT = 60_000
TENSORS = {
    "two-sided": GENERATOR.normal(size=COUNT),
    "one-sided": np.maximum(GENERATOR.normal(size=COUNT), 0),
    "heavy tails": GENERATOR.standard_t(3, size=COUNT),
    "one-sided, heavy tail": np.maximum(GENERATOR.standard_t(3, size=COUNT), 0),
    "lopsided": GENERATOR.gamma(2, size=COUNT) - 0.5,
    "negative": -GENERATOR.gamma(2, size=COUNT),
}
TENSORS = {name: values.astype(np.float32) for name, values in TENSORS.items()}
METHODS = list(RangeMethod)


def measured(values: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics("x")
    statistics.add(np.float32(values).reshape(2, -1), first_sample=0)
    return statistics


def rounded(values: np.ndarray, found: Range, levels: int) -> np.ndarray:
    """What a quantizer and a dequantizer make of the values."""
    scale = (found.high - found.low) / (levels - 1)
    zero_point = round(-found.low / scale)
    return (np.clip(np.rint(values / scale) + zero_point, 0, levels - 1) - zero_point) * scale


def divergence(statistics: TensorStatistics, found: Range, levels: int) -> float:
    """Kullback and Leibler's, bin by bin in plain Python."""
    edges, counts, smallest, largest = statistics.edges.tolist(), statistics.counts.tolist(), statistics.low, statistics.high
    counts[len(counts) // 2] -= statistics.zeros
    scale = (found.high - found.low) / (levels - 1)
    zero_point = round(-found.low / scale)
    inside: dict[int, list[tuple[int, int]]] = {}
    occupied: list[int] = []
    for number, count in enumerate(counts):
        # The outermost bins end at the extremes.
        start, end = max(edges[number], smallest), min(edges[number + 1], largest)
        if count and found.low <= (start + end) / 2 <= found.high:
            level = min(max(round((start + end) / 2 / scale) + zero_point, 0), levels - 1)
            inside.setdefault(level, []).append((number, count))
            occupied.append(number)
    reference = {number: counts[number] for number in occupied}
    reference[occupied[0]] += sum(counts[: occupied[0]])
    reference[occupied[-1]] += sum(counts[occupied[-1] + 1 :])
    total, kept = sum(reference.values()), sum(counts[number] for number in occupied)
    said = {number: sum(count for _, count in group) / len(group) for group in inside.values() for number, _ in group}
    return math.fsum(count / total * math.log(count / total / (said[number] / kept)) for number, count in reference.items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [*TENSORS.values(), np.float32([5, 6]), np.float32([-5, -6]), np.zeros(2), np.float32([1e-42] * 2)])
def test_every_range_includes_zero_and_is_never_empty(values: np.ndarray, method: RangeMethod) -> None:
    found = find_range(measured(values), method)
    assert found.low <= 0 <= found.high
    assert np.float32((found.high - found.low) / 255) > np.finfo(np.float32).tiny


def test_min_max_takes_the_extremes_in() -> None:
    assert find_range(measured(np.float32([-2, 3])), RangeMethod.MIN_MAX) == Range(-2, 3)
    assert find_range(measured(np.float32([2, 3])), RangeMethod.MIN_MAX) == Range(0, 3)


def test_moving_average_damps_one_batch() -> None:
    statistics = TensorStatistics("x")
    for number, value in enumerate([1, 1, 101]):
        statistics.add(np.float32([[0, value]]), first_sample=number)
    assert find_range(statistics, RangeMethod.MOVING_AVERAGE).high == pytest.approx(2)


@pytest.mark.parametrize("name", ["two-sided", "heavy tails", "one-sided"])
def test_percentile_cuts_as_many_values_as_sorting_them_says(name: str) -> None:
    statistics = measured(TENSORS[name])
    found = find_range(statistics, RangeMethod.PERCENTILE)
    ordered = np.sort(TENSORS[name])
    tail = round(COUNT * 0.00005)
    width = statistics.edges[1] - statistics.edges[0]
    assert ordered[tail - 1] - width <= found.low <= ordered[tail] + width
    assert ordered[-tail - 1] - width <= found.high <= ordered[-tail] + width


@pytest.mark.parametrize("name", TENSORS)
def test_entropy_is_as_low_as_that_of_any_range_tried_by_brute_force(name: str) -> None:
    statistics = measured(TENSORS[name])
    found = find_range(statistics, RangeMethod.ENTROPY)
    ends = [fraction / 5 for fraction in range(1, 6)]
    lows = [statistics.low * end for end in ends] if statistics.low < 0 else [0.0]
    highs = [statistics.high * end for end in ends] if statistics.high > 0 else [0.0]
    width = statistics.edges[1] - statistics.edges[0]
    # Ranges of fewer bins than levels say nothing of rounding.
    tried = [Range(low, high) for low in lows for high in highs if high - low > 257 * width]
    # Ripples: which bins share a level changes with every step of an end.
    assert divergence(statistics, found, 256) <= 1.02 * min(divergence(statistics, one, 256) for one in tried)


def test_entropy_cuts_outliers_off_and_keeps_the_rest() -> None:
    values = np.append(np.maximum(GENERATOR.normal(size=COUNT - 1), 0), 60)
    found = find_range(measured(values), RangeMethod.ENTROPY)
    assert 3 < found.high < 10


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_as_low_as_in_a_dense_grid(name: str, levels: int) -> None:
    statistics = measured(TENSORS[name])
    found = find_range(statistics, RangeMethod.MSE, levels=levels)
    fractions = np.linspace(0.1, 1, 13)
    lows = statistics.low * fractions if statistics.low < 0 else np.zeros(1)
    highs = statistics.high * fractions if statistics.high > 0 else np.zeros(1)
    tried = {Range.around(low, high) for low in lows for high in highs}
    least = min(quantization_error(statistics, one, levels=levels) for one in tried)
    assert quantization_error(statistics, found, levels=levels) <= 1.005 * least


@pytest.mark.parametrize("levels", [15, 256, 65536])
@pytest.mark.parametrize("name", TENSORS)
def test_the_error_is_what_rounding_every_value_makes(name: str, levels: int) -> None:
    values = TENSORS[name].astype(np.float64)
    found = Range.around(float(values.min() * 0.4), float(values.max() * 0.7))
    truth = ((values - rounded(values, found, levels)) ** 2).mean()
    # Values are not quite even within a bin, least of all in the thin tails.
    assert quantization_error(measured(values), found, levels=levels) == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("name", TENSORS)
def test_the_clipped_share_is_that_of_the_values(name: str) -> None:
    values, statistics = TENSORS[name].astype(np.float64), measured(TENSORS[name])
    found = Range.around(float(values.min() * 0.25), float(values.max() * 0.25))
    assert clipped_share(statistics, found) == pytest.approx(((values < found.low) | (values > found.high)).mean(), rel=0.02)
    assert clipped_share(statistics, find_range(statistics, RangeMethod.MIN_MAX)) == 0


def test_a_constant_tensor_has_no_error_in_its_own_range() -> None:
    for value in (3.0, -3.0, 4.0):
        statistics = measured(np.full(8, value))
        found = find_range(statistics, RangeMethod.MIN_MAX)
        assert quantization_error(statistics, found) < 1e-11 * value**2
        assert clipped_share(statistics, found) == 0


def found_ranges(statistics: TensorStatistics, levels: int = 256) -> dict[RangeMethod, Range]:
    return {method: find_range(statistics, method, levels=levels) for method in RangeMethod}


def test_a_range_is_chosen_by_error_where_clipping_pays() -> None:
    statistics = measured(TENSORS["two-sided"])
    assert best_range(statistics, found_ranges(statistics, 16), levels=16) is RangeMethod.MSE


def test_the_extremes_stay_where_clipping_gains_next_to_nothing() -> None:
    statistics = measured(GENERATOR.random(COUNT))
    assert best_range(statistics, found_ranges(statistics)) is RangeMethod.MIN_MAX


def test_a_range_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"includes 0, found 1\.0 to 2\.0"):
        Range(1.0, 2.0)


def test_a_tensor_that_was_not_measured_has_no_range() -> None:
    with pytest.raises(InputError, match="'y' must have been measured"):
        find_range(TensorStatistics("y"), RangeMethod.MSE)
