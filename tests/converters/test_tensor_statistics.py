import numpy as np
import pytest

from lepton_converters.tensor_statistics import BINS, TensorStatistics
from lepton_runtime import InputError

GENERATOR = np.random.default_rng(5)
SAMPLES = GENERATOR.standard_t(3, size=(24, 6, 5, 7)).astype(np.float32)
SAMPLES[:, :, :, 2] = np.maximum(SAMPLES[:, :, :, 2], 0)


def measured(values: np.ndarray, *, batch: int = 4, channel_axis: int | None = None) -> TensorStatistics:
    statistics = TensorStatistics("x", channel_axis=channel_axis)
    for start in range(0, len(values), batch):
        statistics.add(values[start : start + batch], first_sample=start)
    return statistics


def test_the_counts_are_numpys() -> None:
    statistics = measured(SAMPLES)
    counts, _ = np.histogram(SAMPLES.astype(np.float64), statistics.edges)
    assert (statistics.counts == counts).all()
    assert statistics.count == SAMPLES.size
    assert statistics.zeros == (SAMPLES == 0).sum()


def test_the_histogram_reaches_to_the_power_of_two_beyond_the_largest_value() -> None:
    statistics = measured(np.float32([[1.0], [-4.0]]))
    assert statistics.edges[0] == -8
    assert statistics.edges[-1] == 8
    assert len(statistics.edges) == BINS + 1


@pytest.mark.parametrize("values", [SAMPLES, SAMPLES * np.float32(1e-30), SAMPLES * np.float32(1e35)])
def test_neither_the_order_nor_the_batches_change_a_bit_of_the_histogram(values: np.ndarray) -> None:
    by_size = values[np.argsort(np.abs(values).reshape(len(values), -1).max(axis=1))]
    doubling, falling = measured(by_size, batch=1), measured(by_size[::-1], batch=1)
    assert (doubling.counts == falling.counts).all()
    assert (doubling.edges == falling.edges).all()
    assert (measured(values, batch=1).half_counts == measured(values, batch=10).half_counts).all()


def test_extremes_are_exact() -> None:
    statistics = measured(SAMPLES)
    assert (statistics.low, statistics.high) == (SAMPLES.min(), SAMPLES.max())


def test_even_and_odd_samples_are_told_apart_whatever_the_batch() -> None:
    for batch in (1, 3, 24):
        statistics = measured(SAMPLES, batch=batch)
        assert (statistics.half_counts[1] == measured(SAMPLES[1::2]).counts).all()


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_extremes_of_channels_are_exact(axis: int) -> None:
    statistics = measured(SAMPLES, batch=7, channel_axis=axis)
    others = tuple(number for number in range(4) if number != axis % 4)
    assert (statistics.channel_lows == SAMPLES.min(axis=others)).all()
    assert (statistics.channel_highs == SAMPLES.max(axis=others)).all()


def test_many_values_of_few_channels_are_folded_without_losing_one() -> None:
    values = np.zeros((1, 3001, 3), np.float32)
    values[0, -1] = [-1, 5, 7]
    statistics = measured(values, channel_axis=-1)
    assert statistics.channel_lows.tolist() == [-1, 0, 0]
    assert statistics.channel_highs.tolist() == [0, 5, 7]


def test_the_moving_average_starts_with_the_first_batch_and_takes_a_hundredth_of_each_next() -> None:
    statistics = measured(np.float32([[-1, 1], [-3, 2], [0, 12]]), batch=1)
    assert statistics.moving_low == pytest.approx(0.99 * (0.99 * -1 + 0.01 * -3))
    assert statistics.moving_high == pytest.approx(0.99 * (0.99 * 1 + 0.01 * 2) + 0.01 * 12)


def test_statistics_from_arrays_go_on_to_the_same_bits() -> None:
    whole = measured(SAMPLES, channel_axis=-1)
    half = TensorStatistics.from_arrays(measured(SAMPLES[:12], channel_axis=-1).to_arrays())
    for start in range(12, 24, 4):
        half.add(SAMPLES[start : start + 4], first_sample=start)
    arrays = half.to_arrays()
    assert {name: array.tobytes() for name, array in whole.to_arrays().items()} == {name: arrays[name].tobytes() for name in arrays}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(value: float) -> None:
    statistics = TensorStatistics("conv/Relu:0")
    values = np.float32([[1, 2, value, value]])
    with pytest.raises(InputError, match=r"tensor 'conv/Relu:0' must be finite .* found 2 of 4 values NaN or infinite; clean the data"):
        statistics.add(values, first_sample=0)
    assert statistics.count == 0


def test_another_number_of_channels_is_refused() -> None:
    statistics = measured(SAMPLES, channel_axis=-1)
    with pytest.raises(InputError, match="tensor 'x' must keep its 7 channels, found 5"):
        statistics.add(SAMPLES[..., :5], first_sample=24)


def test_a_tensor_without_values_has_no_extremes() -> None:
    statistics = measured(np.zeros((3, 0), np.float32))
    with pytest.raises(InputError, match="'x' must have been measured, found no value of it"):
        _ = statistics.low


def test_other_number_types_are_counted_as_they_are() -> None:
    statistics = measured(np.arange(256, dtype=np.uint8).reshape(2, 128))
    assert (statistics.low, statistics.high) == (0, 255)
    assert measured(SAMPLES.astype(np.float16)).high == SAMPLES.astype(np.float16).max()
