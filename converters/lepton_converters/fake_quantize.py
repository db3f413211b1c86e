"""Rounding as 8-bit arithmetic does it, on float32 tensors that gradients pass through."""

from collections.abc import Sequence
from typing import Any

_STEPS = 255  # of 8 bits, from one end of a range to the other


def quantize_activation(values: Any, low: Any, high: Any) -> Any:  # Any: TensorFlow has no type hints
    """The values on the steps of a range; the gradient is that of a clip: 1 inside of the range, 0 outside.

    The range is shifted by less than a step so that zero is one of them. TensorFlow's own operator for this rounds half up, and
    values of photos, which lie on a lattice themselves, are often halves.

    Args:
        values: What is rounded.
        low: The lower end of the range, a scalar.
        high: The upper end.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3.1; the ONNX operator QuantizeLinear, which divides and rounds half to even.
    """
    import tensorflow as tf

    low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    step = (high - low) / _STEPS
    step = tf.where(step > 0, step, tf.ones_like(step))
    zero = tf.round(-low / step)
    inside = tf.clip_by_value(values, -zero * step, (_STEPS - zero) * step)
    return inside + tf.stop_gradient(tf.round(inside / step) * step - inside)


def quantize_weight(kernel: Any, *, axes: Sequence[int], largest: int) -> Any:
    """The weights on symmetric steps, one size for each channel; the gradient is that of the weights.

    Args:
        kernel: The weights, of any shape.
        axes: All axes but those of the output channels.
        largest: The largest integer.
    """
    import tensorflow as tf

    step = tf.reduce_max(tf.abs(kernel), axis=axes, keepdims=True) / largest
    step = tf.where(step > 0, step, tf.ones_like(step))
    return kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)
