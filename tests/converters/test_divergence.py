import numpy as np
import pytest

from lepton_converters.divergence import divergence, is_lower


def test_the_same_answers_have_no_error() -> None:
    answers = {"scores": np.float32([[0.9, 0.1], [0.5, 0.5]]), "boxes": np.float32([[1, 2, 3], [4, 5, 6]])}
    assert not divergence(answers, answers).any()


def test_probabilities_are_compared_by_the_kullback_leibler_divergence() -> None:
    reference, found = np.float32([[0.5, 0.5], [0.9, 0.1]]), np.float32([[0.9, 0.1], [0.9, 0.1]])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    np.testing.assert_allclose(divergence({"scores": reference}, {"scores": found}), [expected, 0], rtol=1e-5, atol=1e-7)


def test_a_probability_of_zero_is_a_large_error_and_a_finite_one() -> None:
    (error,) = divergence({"scores": np.float32([[0.0, 1.0]])}, {"scores": np.float32([[1.0, 0.0]])})
    assert 10 < error < 20


def test_other_outputs_are_compared_by_their_share_of_the_mean_square() -> None:
    reference = np.float32([[2, -2], [2, 2]])
    found = reference + np.float32([[1, 1], [0, 2]])
    np.testing.assert_allclose(divergence({"y": reference}, {"y": found}), [1 / 4, 2 / 4])
    np.testing.assert_allclose(divergence({"y": 100 * reference}, {"y": 100 * found}), [1 / 4, 2 / 4])


def test_errors_of_several_outputs_add_up() -> None:
    reference, found = np.float32([[2, -2]]), np.float32([[3, -1]])
    both = divergence({"a": reference, "b": reference}, {"a": found, "b": reference})
    np.testing.assert_allclose(both, divergence({"a": reference}, {"a": found}))


def test_an_error_is_lower_only_by_more_than_a_standard_error() -> None:
    generator = np.random.default_rng(0)
    error = generator.uniform(1, 2, 100)
    assert is_lower(error - 0.1, error)
    assert not is_lower(error, error - 0.1)
    assert not is_lower(error, error)
    assert not is_lower(generator.permutation(error), error)


@pytest.mark.parametrize("saved", [0.0, 0.005])
def test_less_than_a_hundredth_is_not_lower(saved: float) -> None:
    error = np.ones(100)
    assert not is_lower(error - saved, error)


def test_one_sample_says_nothing() -> None:
    assert not is_lower(np.zeros(1), np.ones(1))
