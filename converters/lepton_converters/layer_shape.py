"""The shape of what a layer gives, for files that don't record it; the usual layers only."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int | None, ...]
Settings = Mapping[str, Any]

_SAME = {
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Softmax", "Identity", "Masking", "ActivityRegularization"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization", "Normalization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("Rescaling", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"),
}


def output_shape(kind: str, settings: Settings, inputs: Sequence[Shape | None]) -> Shape | None:
    """The shape of a layer's first output.

    Args:
        kind: The layer's class.
        settings: What it was made with.
        inputs: Shapes of what it takes, batch axis first; of an ``InputLayer`` nothing.

    Returns:
        Batch axis first, ``None`` for a free axis; ``None`` as a whole for what is not known here.
    """
    if kind == "InputLayer":
        shape = settings.get("batch_shape") or settings.get("batch_input_shape")
        return tuple(shape) if isinstance(shape, list) else None
    known = [shape for shape in inputs if shape]
    if not known or len(known) < len(inputs):
        return None
    if kind in _SAME:
        rank = max(map(len, known))
        return tuple(map(_broadcast, *((1,) * (rank - len(shape)) + shape for shape in known)))
    if kind == "Concatenate":
        return _concatenate(known, settings.get("axis", -1))
    rule = _RULES.get(kind.rstrip("123D")) or _RULES.get(kind)
    return rule(known[0], settings) if rule else None


def _broadcast(*axes: int | None) -> int | None:
    lengths = [axis for axis in axes if axis != 1]
    return next((axis for axis in lengths if axis is not None), None) if lengths else 1


def _concatenate(shapes: Sequence[Shape], axis: int) -> Shape:
    result = list(shapes[0])
    result[axis] = _sum(shape[axis] for shape in shapes)
    return tuple(result)


def _reshape(shape: Shape, settings: Settings) -> Shape:
    target = tuple(settings["target_shape"])
    size = _product(shape[1:])
    rest = None if size is None else size // max(1, -math.prod(target))
    return (shape[0], *(rest if axis == -1 else axis for axis in target))


def _recurrent(shape: Shape, settings: Settings) -> Shape:
    steps = shape[1:2] if settings.get("return_sequences") else ()
    return (shape[0], *steps, settings["units"])


def _bidirectional(shape: Shape, settings: Settings) -> Shape | None:
    inner = settings["layer"]
    result = output_shape(inner["class_name"], inner["config"], [shape])
    return result and (*result[:-1], _times(result[-1], 2 if settings.get("merge_mode") == "concat" else 1))


def _time_distributed(shape: Shape, settings: Settings) -> Shape | None:
    inner = settings["layer"]
    result = output_shape(inner["class_name"], inner["config"], [(shape[0], *shape[2:])])
    return result and (shape[0], shape[1], *result[1:])


def _convolution(shape: Shape, settings: Settings) -> Shape:
    return _resized(shape, settings, lambda axes: _slide(axes, settings["kernel_size"], settings), settings["filters"])


def _depthwise(shape: Shape, settings: Settings) -> Shape:
    channels = _times(shape[_channel_axis(settings)], settings.get("depth_multiplier", 1))
    return _resized(shape, settings, lambda axes: _slide(axes, settings["kernel_size"], settings), channels)


def _transpose(shape: Shape, settings: Settings) -> Shape | None:
    if settings.get("output_padding") is not None or set(_each(settings.get("dilation_rate", 1), 3)) != {1}:
        return None

    def grow(axes: Sequence[int | None]) -> list[int | None]:
        windows, strides = (_each(settings[key], len(axes)) for key in ("kernel_size", "strides"))
        more = [
            0 if settings.get("padding") == "same" else max(window - stride, 0) for window, stride in zip(windows, strides, strict=True)
        ]
        return [axis and axis * stride + extra for axis, stride, extra in zip(axes, strides, more, strict=True)]

    return _resized(shape, settings, grow, settings["filters"])


def _pooling(shape: Shape, settings: Settings) -> Shape:
    window = settings["pool_size"]
    return _resized(shape, settings, lambda axes: _slide(axes, window, {**settings, "strides": settings.get("strides") or window}))


def _global_pooling(shape: Shape, settings: Settings) -> Shape:
    result = _resized(shape, settings, lambda axes: [1] * len(axes))
    return result if settings.get("keepdims") else (shape[0], shape[_channel_axis(settings)])


def _up_sampling(shape: Shape, settings: Settings) -> Shape:
    return _resized(shape, settings, lambda axes: list(map(_times, axes, _each(settings["size"], len(axes)))))


def _padding(shape: Shape, settings: Settings) -> Shape:
    return _resized(
        shape,
        settings,
        lambda axes: [axis and axis + more for axis, more in zip(axes, _borders(settings["padding"], len(axes)), strict=True)],
    )


def _cropping(shape: Shape, settings: Settings) -> Shape:
    return _resized(
        shape,
        settings,
        lambda axes: [axis and axis - less for axis, less in zip(axes, _borders(settings["cropping"], len(axes)), strict=True)],
    )


_RULES: dict[str, Callable[[Shape, Settings], Shape | None]] = {
    "Dense": lambda shape, settings: (*shape[:-1], settings["units"]),
    "Embedding": lambda shape, settings: (*shape, settings["output_dim"]),
    "MultiHeadAttention": lambda shape, settings: shape if settings.get("output_shape") is None else None,
    "Flatten": lambda shape, settings: (shape[0], _product(shape[1:])),
    "Permute": lambda shape, settings: (shape[0], *(shape[axis] for axis in settings["dims"])),
    "RepeatVector": lambda shape, settings: (shape[0], settings["n"], *shape[1:]),
    "Reshape": _reshape,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "Conv": _convolution,
    "SeparableConv": _convolution,
    "DepthwiseConv": _depthwise,
    "Conv1DTranspose": _transpose,
    "Conv2DTranspose": _transpose,
    "Conv3DTranspose": _transpose,
    "MaxPooling": _pooling,
    "AveragePooling": _pooling,
    "GlobalMaxPooling": _global_pooling,
    "GlobalAveragePooling": _global_pooling,
    "UpSampling": _up_sampling,
    "ZeroPadding": _padding,
    "Cropping": _cropping,
    "Resizing": lambda shape, settings: _resized(shape, settings, lambda axes: [settings["height"], settings["width"]]),
    "CenterCrop": lambda shape, settings: _resized(shape, settings, lambda axes: [settings["height"], settings["width"]]),
}


def _resized(
    shape: Shape, settings: Settings, resize: Callable[[Sequence[int | None]], Sequence[int | None]], channels: int | None = None
) -> Shape:
    """The shape with other lengths of its spatial axes, and with that many channels if given."""
    if _channel_axis(settings) == 1:
        return (shape[0], channels or shape[1], *resize(shape[2:]))
    return (shape[0], *resize(shape[1:-1]), channels or shape[-1])


def _slide(axes: Sequence[int | None], window: Any, settings: Settings) -> list[int | None]:
    """How often a window fits on each axis."""
    windows, strides, dilations = (
        _each(value, len(axes)) for value in (window, settings.get("strides", 1), settings.get("dilation_rate", 1))
    )
    is_padded = settings.get("padding", "valid") in ("same", "causal")
    lengths = [0 if is_padded else (size - 1) * dilation for size, dilation in zip(windows, dilations, strict=True)]
    return [axis and (axis - length - 1) // stride + 1 for axis, length, stride in zip(axes, lengths, strides, strict=True)]


def _borders(value: Any, rank: int) -> list[int]:
    """How much is added or cut on both sides of each axis together."""
    if rank == 1 and not isinstance(value, int):
        value = [value]
    return [2 * part if isinstance(part, int) else sum(part) for part in ([value] * rank if isinstance(value, int) else value)]


def _each(value: Any, rank: int) -> Sequence[int]:
    return [value] * rank if isinstance(value, int) else value[:rank]


def _channel_axis(settings: Settings) -> int:
    return 1 if settings.get("data_format") == "channels_first" else -1


def _times(axis: int | None, factor: int) -> int | None:
    return None if axis is None else axis * factor


def _sum(axes: Any) -> int | None:
    lengths = list(axes)
    return None if None in lengths else sum(lengths)


def _product(axes: Shape) -> int | None:
    return None if None in axes else math.prod(axis or 0 for axis in axes)
