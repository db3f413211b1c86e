import numpy as np
import pytest

from lepton_converters.weight_rounding import WeightScheme, fit_rounding


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (3, 3, 4, 6)).astype(np.float32)


def squared_error(made: np.ndarray, weights: np.ndarray, covariance: np.ndarray) -> float:
    error = made.astype(np.float64) - weights
    return float(np.einsum("ot,tu,ou->", error, covariance, error))


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("largest", [64, 127])
def test_the_largest_weight_of_each_channel_becomes_the_largest_integer(weights: np.ndarray, axis: int, largest: int) -> None:
    scales = WeightScheme(axis, largest).scales(weights)
    assert scales.shape == (weights.shape[axis],)
    assert scales.dtype == np.float32
    limits = np.abs(np.moveaxis(weights, axis, 0)).reshape(len(scales), -1).max(axis=1)
    np.testing.assert_allclose(scales * largest, limits, rtol=1e-6)


def test_rounded_weights_are_whole_multiples_of_their_scale(weights: np.ndarray) -> None:
    scheme = WeightScheme(3, 64)
    integers = scheme.rounded(weights) / scheme.scales(weights)
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-4)
    assert np.abs(np.rint(integers)).max() == 64
    assert np.abs(scheme.rounded(weights) - weights).max() <= scheme.scales(weights).max() / 2 * 1.001


def test_a_channel_of_zeros_stays_one() -> None:
    weights = np.zeros((2, 5), np.float32)
    scheme = WeightScheme(0, 127)
    assert (scheme.scales(weights) > 0).all()
    assert not scheme.rounded(weights).any()
    assert not scheme.clipped(weights).any()


def test_clipping_lowers_the_error_of_a_channel_with_one_large_weight() -> None:
    weights = np.random.default_rng(4).normal(0, 0.1, (2, 400)).astype(np.float32)
    weights[0, 0] = 1.0  # 10 times as large as the others: clipping it costs less than coarse steps for 399
    scheme = WeightScheme(0, 7)

    def errors(made: np.ndarray) -> np.ndarray:
        return ((scheme.rounded(made) - weights).astype(np.float64) ** 2).sum(axis=1)

    clipped = scheme.clipped(weights)
    assert clipped[0, 0] < 1.0
    assert errors(clipped)[0] < 0.9 * errors(weights)[0]
    assert errors(clipped)[1] <= errors(weights)[1]


def test_a_weight_that_counts_most_is_not_clipped() -> None:
    weights = np.random.default_rng(4).normal(0, 0.1, (2, 400)).astype(np.float32)
    weights[0, 0] = 1.0
    importance = np.ones((1, 400))
    importance[0, 0] = 1e6
    assert WeightScheme(0, 7).clipped(weights, importance)[0, 0] == 1.0


@pytest.mark.parametrize("largest", [64, 127])
@pytest.mark.parametrize("seed", range(3))
def test_fitted_rounding_lowers_the_error_of_outputs_and_stays_within_its_integers(largest: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.normal(0, 1, (5, 30)).astype(np.float32)
    activations = generator.normal(0, 1, (400, 4)) @ generator.normal(0, 1, (4, 30))  # they go together
    covariance = np.cov(activations.T)
    scheme = WeightScheme(0, largest)
    scales = scheme.scales(weights)
    integers = fit_rounding(weights, weights, scales, covariance, largest=largest)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() == largest
    made = integers * scales[:, None]
    assert squared_error(made, weights, covariance) < 0.5 * squared_error(scheme.rounded(weights), weights, covariance)


def test_fitted_rounding_keeps_the_scale_of_each_channel() -> None:
    generator = np.random.default_rng(7)
    weights = generator.normal(0, 1, (8, 12)).astype(np.float32)
    activations = generator.normal(0, 1, (100, 2)) @ generator.normal(0, 1, (2, 12))
    scheme = WeightScheme(0, 127)
    scales = scheme.scales(weights)
    made = (fit_rounding(weights, weights, scales, np.cov(activations.T), largest=127) * scales[:, None]).astype(np.float32)
    np.testing.assert_allclose(scheme.scales(made), scales, rtol=1e-6)


def test_activations_that_do_not_go_together_leave_the_nearest_integers() -> None:
    weights = np.random.default_rng(1).normal(0, 1, (4, 9)).astype(np.float32)
    scales = WeightScheme(0, 127).scales(weights)
    integers = fit_rounding(weights, weights, scales, np.diag(np.arange(1.0, 10)), largest=127)
    assert np.array_equal(integers, np.rint(weights / scales[:, None].astype(np.float64)))


def test_activations_that_never_changed_leave_the_nearest_integers() -> None:
    weights = np.random.default_rng(1).normal(0, 1, (4, 9)).astype(np.float32)
    scales = WeightScheme(0, 127).scales(weights)
    integers = fit_rounding(weights, weights, scales, np.zeros((9, 9)), largest=127)
    assert np.array_equal(integers, np.rint(weights / scales[:, None].astype(np.float64)))
