"""Convolutions the way converters and every CPU understand them: channels last."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within it, Keras computes ``channels_first`` convolutions between two transpositions.

    TensorFlow Lite has no such kernels, and TensorFlow's own on a CPU depend on how it was built.

    Source: keras/src/backend/tensorflow/nn.py of Keras 3.15, ``conv`` and ``conv_transpose``.
    """
    import_keras()
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn

    functions = [
        (nn, "conv", _conv(nn.conv)),
        (nn, "conv_transpose", _conv_transpose(nn.conv_transpose)),
        (tf.nn, "bias_add", _bias_add(tf.nn.bias_add)),
    ]
    with replaced(functions):
        yield


def _conv(original: Any) -> Any:  # Any: TensorFlow has no type hints
    def conv(inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid", data_format: Any = None, dilation_rate: Any = 1) -> Any:
        is_first = is_channels_first(data_format)
        inputs = channels_last(inputs) if is_first else inputs
        outputs = original(inputs, kernel, strides, padding, "channels_last", dilation_rate)
        return channels_first(outputs) if is_first else outputs

    return conv


def _conv_transpose(original: Any) -> Any:
    def conv_transpose(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: Any = None,
        dilation_rate: Any = 1,
    ) -> Any:
        is_first = is_channels_first(data_format)
        inputs = channels_last(inputs) if is_first else inputs
        outputs = original(inputs, kernel, strides, padding, output_padding, "channels_last", dilation_rate)
        return channels_first(outputs) if is_first else outputs

    return conv_transpose


def _bias_add(original: Any) -> Any:
    """TensorFlow Lite's converter transposes every NCHW ``BiasAdd`` as if it had four axes."""
    import tensorflow as tf

    def bias_add(value: Any, bias: Any, data_format: str | None = None, name: str | None = None) -> Any:
        if data_format == "NCHW":
            return tf.add(value, tf.reshape(bias, [1, -1] + [1] * (len(value.shape) - 2)), name=name)
        return original(value, bias, data_format, name)

    return bias_add


def is_channels_first(data_format: str | None) -> bool:
    """Whether a layer's data format, or Keras' own where it has none, is channels first."""
    return bool((data_format or import_keras().config.image_data_format()) == "channels_first")


def channels_last(tensor: Any) -> Any:
    """``(batch, channels, …)`` as ``(batch, …, channels)``."""
    import tensorflow as tf

    return tf.transpose(tensor, [0, *range(2, len(tensor.shape)), 1])


def channels_first(tensor: Any) -> Any:
    """``(batch, …, channels)`` as ``(batch, channels, …)``."""
    import tensorflow as tf

    rank = len(tensor.shape)
    return tf.transpose(tensor, [0, rank - 1, *range(1, rank - 1)])
