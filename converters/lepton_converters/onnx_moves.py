"""Rewrites of ONNX graphs that spare moves of values: reversals, reshapes, paddings and broadcasts over a picture's few channels."""

import numpy as np
import onnx_ir as ir

from lepton_converters.onnx_values import (
    PICTURE_CHANNELS,
    TO_NCHW,
    add_constant,
    axes_of,
    constant_of,
    has_given_pads,
    input_of,
    ints_of,
    operands_of,
    producer_of,
    put_before,
    remove_unread,
    replace_node,
    sees_picture,
    shaped,
)

_RESHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


def cancel_reversal(graph: ir.Graph, node: ir.Node) -> bool:
    """Take out a reversal of a reversal, which a Bidirectional layer makes."""
    before = node.inputs[0].producer() if _is_reversal(node) and node.inputs[0] is not None else None
    if before is None or before.inputs[0] is None or not _is_reversal(before):
        return False
    axes = _reversed_axes(node)
    if axes is None or axes != _reversed_axes(before):
        return False
    if node.outputs[0].is_graph_output():
        return False
    ir.convenience.replace_all_uses_with(node.outputs[0], before.inputs[0])
    graph.remove(node, safe=True)
    return True


def _is_reversal(node: ir.Node) -> bool:
    """Whether it is a Slice of whole axes in steps of -1."""
    if node.op_type != "Slice":
        return False
    starts, ends, steps = (constant_of(input_of(node, position)) for position in (1, 2, 4))
    if starts is None or ends is None or steps is None:
        return False
    return bool((starts == -1).all() and (ends == np.iinfo(np.int64).min).all() and (steps == -1).all())


def _reversed_axes(node: ir.Node) -> list[int] | None:
    """Along which axes; ``None`` if that is computed."""
    starts, axes = constant_of(input_of(node, 1)), constant_of(input_of(node, 3))
    if input_of(node, 3) is None and starts is not None:
        return list(range(len(starts)))
    return None if axes is None else axes.tolist()


def skip_reshapes(graph: ir.Graph, node: ir.Node) -> bool:
    """Take out a chain of reshapes that gives back the shape it was given, as between a mean and the convolution of a gate."""
    if node.op_type not in _RESHAPING or node.outputs[0].is_graph_output():
        return False
    wanted, value = axes_of(node.outputs[0]), node.inputs[0]
    while value is not None:
        found = axes_of(value)
        # As many values in the same axes: the first, if it is free, has the same length, too.
        if wanted is not None and found is not None and len(found) == len(wanted) and None not in wanted[1:] and found[1:] == wanted[1:]:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            remove_unread(graph, node.outputs)
            return True
        before = value.producer()
        if before is None or before.op_type not in _RESHAPING:
            return False
        value = before.inputs[0]
    return False


def pad_within(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a convolution pad its input with zeros by itself; a MaxPool, too, if what it takes is never negative."""
    if node.op_type not in ("Conv", "MaxPool") or not has_given_pads(node):
        return False
    pad = producer_of(node.inputs[0], "Pad")
    pads = constant_of(input_of(pad, 1)) if pad is not None else None
    if (
        pad is None
        or pads is None
        or pad.inputs[0] is None
        or input_of(pad, 3) is not None
        or pad.attributes.get_string("mode", "constant") != "constant"
    ):
        return False
    value = constant_of(input_of(pad, 2))
    rank = len(pads) // 2
    given, inner = pads.reshape(2, rank), ints_of(node, "pads", [0] * 2 * (rank - 2))
    if (input_of(pad, 2) is not None and (value is None or value.any())) or given.min() < 0 or given[:, :2].any():
        return False
    total = [int(number) for number in given[:, 2:].reshape(-1) + inner]
    if node.op_type == "MaxPool":
        if len(node.outputs) > 1:
            return False  # places count the padded values
        kernel = ints_of(node, "kernel_shape", [])
        is_plain = not node.attributes.get_int("ceil_mode", 0) and set(ints_of(node, "dilations", [1])) == {1}
        # A window beyond the border alone would be lower than zero.
        if not is_plain or not _is_positive(pad.inputs[0]) or any(number >= size for number, size in zip(total, 2 * kernel, strict=True)):
            return False
    node.attributes["pads"] = ir.AttrInt64s("pads", total)
    node.attributes.pop("auto_pad", None)
    replace_node(graph, pad, pad.inputs[0])
    return True


def _is_positive(value: ir.Value | None) -> bool:
    """Whether a value is known never to be negative."""
    node = value.producer() if value is not None else None
    if node is None:
        return False
    lowest = constant_of(input_of(node, 1)) if node.op_type == "Clip" else None
    return node.op_type in _NOT_NEGATIVE or (lowest is not None and float(lowest) >= 0)


def widen(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a number a channel meet whole rows of a picture, channels last: three numbers at a time keep no vector unit busy.

    Source: onnxruntime 1.32, a sum of (1, 224, 224, 3) and (3,) took 418 µs, of rows of 672 about 20.
    """
    operands = operands_of(node) if node.op_type in ("Add", "Mul") else None
    if operands is None:
        return False
    value, constant = operands
    axes = axes_of(value)
    if (
        axes is None
        or len(axes) != 4
        or constant.ndim > 4
        or axes[2] is None
        or axes[3] is None
        or not 1 < axes[3] <= PICTURE_CHANNELS
        or axes[2] == 1
    ):
        return False
    if constant.size != axes[3] or constant.shape[-1] != axes[3]:
        return False
    name, output = node.outputs[0].name, node.outputs[0]
    wide = [axes[2] * axes[3]]
    rows = add_constant(graph, f"{name}/rows", np.array([0, 0, -1], np.int64))
    given = put_before(graph, node, "Reshape", [value, rows], name=f"{name}/wide_input", like=shaped(value, [*axes[:2], *wide]))
    tiled = add_constant(graph, f"{name}/tiled", np.tile(constant.reshape(-1), axes[2]))
    made = put_before(graph, node, node.op_type, [given, tiled], name=f"{name}/wide", like=given)
    back = add_constant(graph, f"{name}/picture", np.array([0, 0, axes[2], axes[3]], np.int64))
    replace_node(graph, node, put_before(graph, node, "Reshape", [made, back], name=f"{name}/narrow", like=output))
    return True


def convolve_rows(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a convolution of a picture see its rows, channels last, as rows of one channel, instead of a transposed picture.

    A window of so many pixels is one of so many times three numbers, and so are its steps and borders. It is exact.
    """
    transpose = producer_of(node.inputs[0], "Transpose") if node.op_type == "Conv" else None
    axes = axes_of(transpose.inputs[0]) if transpose is not None else None
    weights = constant_of(input_of(node, 1))
    if transpose is None or axes is None or weights is None or ints_of(transpose, "perm", []) != TO_NCHW:
        return False
    if axes[2] is None or axes[3] is None or not sees_picture(node, axes[3]):
        return False
    channels, value = axes[3], transpose.inputs[0]
    widened = producer_of(value, "Reshape")
    if widened is not None and _gives_rows_back(widened, axes[2] * channels):
        value = widened.inputs[0]
    top, left, bottom, right = ints_of(node, "pads", [0] * 4)
    steps, kernel = ints_of(node, "strides", [1, 1]), weights.shape[2:]
    node.attributes["pads"] = ir.AttrInt64s("pads", [top, left * channels, bottom, right * channels])
    node.attributes["strides"] = ir.AttrInt64s("strides", [steps[0], steps[1] * channels])
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [kernel[0], kernel[1] * channels])
    node.attributes.pop("auto_pad", None)
    flat = weights.transpose(0, 2, 3, 1).reshape(len(weights), 1, kernel[0], -1)
    node.replace_input_with(1, add_constant(graph, f"{node.outputs[0].name}/rows", np.ascontiguousarray(flat)))
    name = transpose.outputs[0].name
    shape = add_constant(graph, f"{name}/rows", np.array([0, 1, -1, axes[2] * channels], np.int64))
    like = shaped(transpose.outputs[0], [axes[0], 1, axes[1], axes[2] * channels])
    rows = put_before(graph, transpose, "Reshape", [value, shape], name=f"{name}/as_rows", like=like)
    replace_node(graph, transpose, rows)
    return True


def _gives_rows_back(reshape: ir.Node, length: int) -> bool:
    """Whether a Reshape is the one behind :func:`widen`: of rows of that length, whose batch and height it keeps."""
    axes, shape = axes_of(reshape.inputs[0]), constant_of(input_of(reshape, 1))
    return axes is not None and len(axes) == 3 and axes[2] == length and shape is not None and not shape[:2].any()
