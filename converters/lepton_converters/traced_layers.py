"""Keras' functions, while a model is traced, in operators that the converters know, with the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lepton_converters.keras_loading import import_keras


@contextmanager
def traced_layers(*, lacks_3d: bool) -> Iterator[None]:
    """Convolutions, pooling and resizing in forms that can be converted, until the context ends.

    Convolutions are channels last already (see :mod:`lepton_converters.keras_kernels`). Grouped 3D ones become one
    convolution a group, and what neither format has becomes a product with a constant matrix.

    Args:
        lacks_3d: Whether the format has no 3D pooling, and no dilation of 3D and of transposed convolutions: TFLite.
    """
    import_keras()
    from keras.src.backend.tensorflow import nn

    replaced = [
        (nn, "conv", _conv(nn.conv, fills_kernel=lacks_3d)),
        (nn, "conv_transpose", _conv_transpose(nn.conv_transpose, fills_kernel=lacks_3d)),
        (nn, "adaptive_average_pool", _adaptive_pool(nn.adaptive_average_pool, _mean_of_windows)),
    ]
    if lacks_3d:
        replaced += [
            (nn, "max_pool", _pool(nn.max_pool)),
            (nn, "average_pool", _pool(nn.average_pool)),
            (nn, "adaptive_max_pool", _adaptive_pool(nn.adaptive_max_pool, _largest_of_windows)),
        ]
    originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def _conv(original: Callable[..., Any], *, fills_kernel: bool) -> Callable[..., Any]:
    def conv(
        inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid", data_format: str | None = None, dilation_rate: Any = 1
    ) -> Any:
        import tensorflow as tf

        kernel = tf.convert_to_tensor(kernel)
        if len(inputs.shape) < 5:
            return original(inputs, kernel, strides, padding, data_format, dilation_rate)
        if fills_kernel:
            kernel, dilation_rate = _filled(kernel, dilation_rate), 1
        groups = inputs.shape[-1] // kernel.shape[-2]
        parts = zip(tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        made = [original(part, weights, strides, padding, data_format, dilation_rate) for part, weights in parts]
        return tf.concat(made, axis=-1) if groups > 1 else made[0]

    return conv


def _conv_transpose(original: Callable[..., Any], *, fills_kernel: bool) -> Callable[..., Any]:
    def conv_transpose(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        import tensorflow as tf

        kernel = tf.convert_to_tensor(kernel)
        if fills_kernel:
            kernel, dilation_rate = _filled(kernel, dilation_rate), 1
        return original(inputs, kernel, strides, padding, output_padding, data_format, dilation_rate)

    return conv_transpose


def _filled(kernel: Any, dilation_rate: Any) -> Any:
    """The kernel with zeros between its taps, which is what dilation means."""
    import tensorflow as tf

    spatial = len(kernel.shape) - 2
    rates = _tuple(dilation_rate, spatial)
    for axis, rate in enumerate(rates):
        if rate > 1:
            places = np.zeros((kernel.shape[axis], (kernel.shape[axis] - 1) * rate + 1), np.float32)
            places[np.arange(kernel.shape[axis]), np.arange(kernel.shape[axis]) * rate] = 1
            kernel = _along(kernel, axis, tf.constant(places.T))
    return kernel


def _pool(original: Callable[..., Any]) -> Callable[..., Any]:
    """3D pooling as 2D pooling over height and width, then over depth; means of equally large windows are exact."""

    def pool(inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None) -> Any:
        import tensorflow as tf

        if len(inputs.shape) < 5:
            return original(inputs, pool_size, strides, padding, data_format)
        if _is_channels_first(data_format):
            return _first(pool(_last(inputs), pool_size, strides, padding, "channels_last"))
        size, steps = _tuple(pool_size, 3), _tuple(pool_size if strides is None else strides, 3)
        depth, height, width, channels = inputs.shape[1:]
        planes = original(tf.reshape(inputs, (-1, height, width, channels)), size[1:], steps[1:], padding, "channels_last")
        height, width = planes.shape[1:3]
        columns = tf.reshape(planes, (-1, depth, height * width, channels))
        pooled = original(columns, (size[0], 1), (steps[0], 1), padding, "channels_last")
        return tf.reshape(pooled, (-1, pooled.shape[1], height, width, channels))

    return pool


def _adaptive_pool(original: Callable[..., Any], pooled: Callable[[Any, int, int], Any]) -> Callable[..., Any]:
    """Axis by axis; Keras' own way of two window sizes fails in a graph for an output of one, and needs 3D pooling."""

    def adaptive_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Any:
        sizes = _tuple(output_size, len(inputs.shape) - 2)
        if all(size > 1 for size in sizes) and len(sizes) < 3:
            return original(inputs, output_size, data_format)
        if _is_channels_first(data_format):
            return _first(adaptive_pool(_last(inputs), output_size, "channels_last"))
        for axis, size in enumerate(sizes, 1):
            inputs = pooled(inputs, axis, size)
        return inputs

    return adaptive_pool


def _windows(length: int, size: int) -> list[tuple[int, int]]:
    return [(place * length // size, -(-(place + 1) * length // size)) for place in range(size)]


def _mean_of_windows(inputs: Any, axis: int, size: int) -> Any:
    import tensorflow as tf

    matrix = np.zeros((size, inputs.shape[axis]), np.float32)
    for place, (start, end) in enumerate(_windows(inputs.shape[axis], size)):
        matrix[place, start:end] = 1 / (end - start)
    return _along(inputs, axis, tf.constant(matrix))


def _largest_of_windows(inputs: Any, axis: int, size: int) -> Any:
    import tensorflow as tf

    parts = [tf.gather(inputs, range(start, end), axis=axis) for start, end in _windows(inputs.shape[axis], size)]
    return tf.stack([tf.reduce_max(part, axis=axis) for part in parts], axis=axis)


def _along(values: Any, axis: int, matrix: Any) -> Any:
    """The product of a matrix ``(new, old)`` with each line along one axis."""
    import tensorflow as tf

    order = [place for place in range(len(values.shape)) if place != axis] + [axis]
    product = tf.matmul(tf.transpose(values, order), matrix, transpose_b=True)
    return tf.transpose(product, np.argsort(order))


def _is_channels_first(data_format: str | None) -> bool:
    return bool((data_format or import_keras().config.image_data_format()) == "channels_first")


def _last(values: Any) -> Any:
    import tensorflow as tf

    rank = len(values.shape)
    return tf.transpose(values, (0, *range(2, rank), 1))


def _first(values: Any) -> Any:
    import tensorflow as tf

    rank = len(values.shape)
    return tf.transpose(values, (0, rank - 1, *range(1, rank - 1)))


def _tuple(value: Any, length: int) -> Sequence[int]:
    return (value,) * length if isinstance(value, int) else tuple(value)
