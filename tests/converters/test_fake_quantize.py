"""Rounding to 8 bits, and the gradient that passes it."""

import numpy as np
import pytest

from lepton_converters.fake_quantize import quantize_activation, quantize_weight


@pytest.fixture(scope="module", autouse=True)
def _tensorflow(keras) -> None:
    """TensorFlow as the converters load it."""


def test_the_gradient_is_1_inside_of_the_range_and_0_outside() -> None:
    import tensorflow as tf

    values = tf.constant([-2.0, -0.9, 0.0, 1.7, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        rounded = quantize_activation(values, -1.0, 2.0)
    np.testing.assert_array_equal(tape.gradient(rounded, values), [0, 1, 1, 1, 0])


def test_halves_are_rounded_to_even() -> None:
    rounded = quantize_activation(np.float32([0.5, 1.5, 2.5, 254.5, 300]), 0.0, 255.0)
    np.testing.assert_array_equal(rounded, [0, 2, 2, 254, 255])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.7), (0.3, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_zero_stays_zero_and_there_are_256_steps(low: float, high: float) -> None:
    values = np.linspace(min(low, 0), max(high, 0), 5000, dtype=np.float32)
    rounded = np.asarray(quantize_activation(np.append(values, np.float32(0)), low, high))
    assert rounded[-1] == 0
    assert len(np.unique(rounded)) == (256 if high > low else 1)
    step = (max(high, 0) - min(low, 0)) / 255
    # Half a step, and at an end as much again that the range was shifted by.
    assert np.abs(rounded[:-1] - values).max() <= 1.001 * step


@pytest.mark.parametrize("largest", [64, 127])
def test_each_channel_of_weights_has_its_own_steps_up_to_the_largest_integer(largest: int) -> None:
    import tensorflow as tf

    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 4, 5)).astype(np.float32) * [1, 10, 0.1, 0, 1e-3], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        rounded = quantize_weight(kernel, axes=[0, 1, 2], largest=largest)
    integers = np.asarray(rounded) / np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-30) * largest
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-4)
    np.testing.assert_allclose(np.abs(integers).max(axis=(0, 1, 2)), [largest, largest, largest, 0, largest], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(rounded, kernel), np.ones(kernel.shape))
