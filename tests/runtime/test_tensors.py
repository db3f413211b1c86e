import numpy as np
import pytest

from lepton_runtime import InputError, TensorSpec
from lepton_runtime.labels import Prediction, rank_labels


def test_integers_stand_for_real_numbers_and_back() -> None:
    spec = TensorSpec("x", (1, 4), "int8", scale=0.5, zero_point=-3)
    real = np.float32([[-100, 0.24, 0.26, 100]])
    np.testing.assert_array_equal(spec.quantize(real), np.int8([[-128, -3, -2, 127]]))
    np.testing.assert_array_equal(spec.dequantize(spec.quantize(real)), np.float32([[-62.5, 0, 0.5, 65]]))


def test_real_numbers_for_scaled_integers_are_to_be_quantized() -> None:
    spec = TensorSpec("x", (1, 2), "uint8", scale=0.5, zero_point=3)
    with pytest.raises(InputError, match=r"uint8, found float32; .*\(scale 0\.5, zero point 3\): quantize them .*inputs\[i\]\.quantize"):
        spec.check(np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match=r"uint8, found int64; .*astype\('uint8'\)"):
        spec.check(np.zeros((1, 2), np.int64))


def test_half_steps_round_to_even() -> None:
    spec = TensorSpec("x", (4,), "uint8", scale=1.0, zero_point=0)
    np.testing.assert_array_equal(spec.quantize(np.float32([0.5, 1.5, 2.5, 3.5])), np.uint8([0, 2, 2, 4]))


def test_a_free_axis_takes_any_length_but_none() -> None:
    spec = TensorSpec("x", (None, 2), "float32")
    spec.check(np.zeros((5, 2), np.float32))
    with pytest.raises(InputError, match=r"shape \(any, 2\), found \(0, 2\)"):
        spec.check(np.zeros((0, 2), np.float32))


def test_answers_come_best_first_and_ties_in_order() -> None:
    assert rank_labels(np.float32([0.2, 0.6, 0.2]), ["a", "b", "c"], count=2) == [
        Prediction("b", pytest.approx(0.6)),
        Prediction("a", pytest.approx(0.2)),
    ]


def test_one_sigmoid_unit_is_the_second_of_two_classes() -> None:
    assert [answer.label for answer in rank_labels(np.float32([0.9]), ["cat", "dog"])] == ["dog", "cat"]
