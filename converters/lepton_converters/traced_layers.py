"""Keras' functions, while a model is traced, in operators that the converters know, with the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lepton_converters.keras_kernels import channels_first, channels_last, is_channels_first
from lepton_converters.replaced import replaced

_SEPARABLE_METHODS = ("area", "bicubic", "lanczos3", "lanczos5")


@contextmanager
def traced_layers(*, lacks_3d: bool) -> Iterator[None]:
    """Convolutions, pooling and resizing in forms that can be converted, until the context ends.

    Convolutions are channels last already (see :mod:`lepton_converters.keras_kernels`). Grouped 3D ones become one
    convolution a group, and what neither format has becomes a product with a constant matrix.

    Args:
        lacks_3d: Whether the format has no 3D pooling, and no dilation of 3D and of transposed convolutions: TFLite.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn

    max_pool, average_pool = (_pool(pool) if lacks_3d else pool for pool in (nn.max_pool, nn.average_pool))
    functions = [
        (nn, "conv", _conv(nn.conv, fills_kernel=lacks_3d)),
        (nn, "conv_transpose", _conv_transpose(nn.conv_transpose, fills_kernel=lacks_3d)),
        (nn, "max_pool", max_pool),
        (nn, "average_pool", average_pool),
        (nn, "adaptive_max_pool", _adaptive_pool(max_pool, _largest_of_windows)),
        (nn, "adaptive_average_pool", _adaptive_pool(average_pool, _mean_of_windows)),
        (tf.image, "resize", _resize(tf.image.resize)),
    ]
    with replaced(functions):
        yield


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
        if is_channels_first(data_format):
            return channels_first(pool(channels_last(inputs), pool_size, strides, padding, "channels_last"))
        size, steps = _tuple(pool_size, 3), _tuple(pool_size if strides is None else strides, 3)
        (depth, height, width), channels = _known(inputs), inputs.shape[-1]
        planes = original(tf.reshape(inputs, (-1, height, width, channels)), size[1:], steps[1:], padding, "channels_last")
        height, width = planes.shape[1:3]
        columns = tf.reshape(planes, (-1, depth, height * width, channels))
        pooled = original(columns, (size[0], 1), (steps[0], 1), padding, "channels_last")
        return tf.reshape(pooled, (-1, pooled.shape[1], height, width, channels))

    return pool


def _adaptive_pool(plain: Callable[..., Any], pooled: Callable[[Any, int, int], Any]) -> Callable[..., Any]:
    """Usual pooling where the windows are alike, else axis by axis; Keras pools with two window sizes and picks from both."""

    def adaptive_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Any:
        if is_channels_first(data_format):
            return channels_first(adaptive_pool(channels_last(inputs), output_size, "channels_last"))
        sizes = _tuple(output_size, len(inputs.shape) - 2)
        lengths = _known(inputs)
        if all(length % size == 0 for length, size in zip(lengths, sizes, strict=True)):
            window = tuple(length // size for length, size in zip(lengths, sizes, strict=True))
            return plain(inputs, window, window, "valid", "channels_last")
        for axis, size in enumerate(sizes, 1):
            inputs = pooled(inputs, axis, size)
        return inputs

    return adaptive_pool


def _known(inputs: Any) -> list[int]:
    """The spatial lengths of a tensor with its channels last, which what replaces Keras' pooling must know."""
    lengths = list(inputs.shape[1:-1])
    if None in lengths:
        raise ValueError(f"adaptive and 3D pooling need inputs of known size, found {tuple(inputs.shape)}; fix it with --size")
    return lengths


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


def _resize(original: Callable[..., Any]) -> Callable[..., Any]:
    """Bicubic, Lanczos and antialiased resizing as a product with TensorFlow's own weights, an axis at a time."""

    def resize(images: Any, size: Any, method: str = "bilinear", *arguments: Any, antialias: bool = False, **settings: Any) -> Any:
        import tensorflow as tf

        *_, height, width, _ = images.shape
        is_known = None not in (height, width)
        if arguments or any(settings.values()) or not is_known or not (method in _SEPARABLE_METHODS or antialias):
            # Neither format resizes integers of every type.
            real = tf.cast(images, tf.float32) if images.dtype.is_integer else images
            resized = original(real, size, method, *arguments, antialias=antialias, **settings)
            return tf.cast(resized, images.dtype) if method == "nearest" else resized
        resized = tf.cast(images, tf.float32)
        for axis, length, wanted in ((-3, int(height), size[0]), (-2, int(width), size[1])):
            with tf.init_scope():
                # Resizing is linear: what it makes of single pixels, one a channel, are its weights.
                pixels = tf.reshape(tf.eye(length), (1, length, 1, length))
                weights = np.asarray(original(pixels, (int(wanted), 1), method, antialias=antialias))[0, :, 0]
            resized = _along(resized, axis % len(images.shape), tf.constant(weights))
        return resized

    return resize


def _along(values: Any, axis: int, matrix: Any) -> Any:
    """The product of a matrix ``(new, old)`` with each line along one axis."""
    import tensorflow as tf

    order = [place for place in range(len(values.shape)) if place != axis] + [axis]
    product = tf.matmul(tf.transpose(values, order), matrix, transpose_b=True)
    return tf.transpose(product, np.argsort(order))


def _tuple(value: Any, length: int) -> Sequence[int]:
    return (value,) * length if isinstance(value, int) else tuple(value)
