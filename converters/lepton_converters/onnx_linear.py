"""Rewrites that fold constants into the weights of linear operators, from behind and from in front of them."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lepton_converters.folded_preprocessing import are_alike, fits_16_bits
from lepton_converters.onnx_values import (
    add_constant,
    axes_of,
    constant_of,
    has_one_reader,
    input_of,
    ints_of,
    operands_of,
    producer_of,
    put_before,
    replace_node,
)
from lepton_runtime.tensors import Array

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def fold_behind(graph: ir.Graph, node: ir.Node) -> bool:
    """Fold a Mul or Add of constants into the linear operator in front of it.

    tf2onnx leaves a BatchNormalization as these; quantized on their own, they cost accuracy and time. The arithmetic is done in
    float64 and rounded once.
    """
    operands = operands_of(node) if node.op_type in ("Mul", "Add") and node.domain in ("", "ai.onnx") else None
    if operands is None:
        return False
    value, constant = operands
    mover = producer_of(value, "Squeeze", "Reshape")
    linear = producer_of(mover.inputs[0] if mover is not None and _keeps_channels(mover) else value, *_LINEAR)
    folded = _folded_weights(node.op_type, linear, value, constant) if linear is not None else None
    if linear is None or folded is None:
        return False
    _replace(graph, linear, value, node, *folded)
    return True


def fold_factor(graph: ir.Graph, node: ir.Node) -> bool:
    """Fold a product with constants into the convolution behind it, as the rescaling and normalization of pictures.

    Behind a sum of constants it is drawn through first: ``a x + b = a (x + b / a)``. The sum stays: what lies beyond the border of a
    picture is zero behind it, and would not be with the sum in the bias. Channels of unlike factors are left alone: what is quantized
    then would waste the 8 bits that they share. So is what would make numbers too small or too large for float16.
    """
    affine = _Affine.of(node)
    if affine is None:
        return False
    if affine.node.op_type == "Add":
        return _draw_behind(graph, affine.node, affine.value, affine.constant)
    scaled = affine.products
    if not are_alike(affine.numbers) or not fits_16_bits(scaled, tuple(range(1, scaled.ndim))):
        return False
    node.replace_input_with(1, add_constant(graph, f"{node.outputs[0].name}/scaled", scaled.astype(np.float32)))
    replace_node(graph, affine.node, affine.value)
    return True


@dataclass(frozen=True)
class _Affine:
    """A product or sum with a number a channel in front of a convolution, perhaps in front of the transposition of its picture.

    Attributes:
        node: It.
        value: What it takes.
        constant: With what, in whatever shape.
        numbers: The same, one a channel.
        products: The convolution's weights, each with the number of the channel that it meets.
    """

    node: ir.Node
    value: ir.Value
    constant: Array
    numbers: Array
    products: Array

    @classmethod
    def of(cls, conv: ir.Node) -> "_Affine | None":
        """What stands in front of a node; ``None`` if that is no such thing, or the node no convolution of constant weights."""
        if conv.op_type != "Conv" or conv.domain not in ("", "ai.onnx"):
            return None
        transpose = producer_of(conv.inputs[0], "Transpose")
        node = producer_of(transpose.inputs[0] if transpose is not None else conv.inputs[0], "Mul", "Add")
        operands = operands_of(node) if node is not None else None
        weights = constant_of(input_of(conv, 1))
        has_free_bias = input_of(conv, 2) is not None and constant_of(input_of(conv, 2)) is None
        if node is None or operands is None or weights is None or weights.dtype != np.float32 or has_free_bias:
            return None
        value, constant = operands
        order = ints_of(transpose, "perm", []) if transpose is not None else list(range(weights.ndim))
        if len(order) != weights.ndim:
            return None
        axis = order[1]
        axes, groups = axes_of(value), conv.attributes.get_int("group", 1)
        channels = weights.shape[1] * groups
        numbers = _per_channel(constant, len(axes), axis, channels) if axes is not None and axes[axis] == channels else None
        if numbers is None:
            return None
        factors = np.repeat(numbers.reshape(groups, -1), len(weights) // groups, axis=0)
        products = weights * factors.reshape(*factors.shape, *[1] * (weights.ndim - 2))
        return cls(node, value, constant, numbers, products)


def _draw_behind(graph: ir.Graph, total: ir.Node, value: ir.Value, added: Array) -> bool:
    """Put the product of constants in front of a sum of constants behind it; whether it was done."""
    product = producer_of(value, "Mul")
    operands = operands_of(product) if product is not None else None
    if product is None or operands is None:
        return False
    source, factor = operands
    if not are_alike(factor):
        return False
    with np.errstate(over="ignore"):
        before = (added / factor.astype(np.float64)).astype(np.float32)
    if not (np.abs(before) <= np.finfo(np.float16).max).all():
        return False
    name = total.outputs[0].name
    shift = add_constant(graph, f"{name}/shift", before)
    shifted = put_before(graph, total, "Add", [source, shift], name=f"{name}/shifted", like=value)
    scaled = put_before(graph, total, "Mul", [shifted, add_constant(graph, f"{name}/factor", factor)], name=f"{name}/scaled", like=value)
    replace_node(graph, total, scaled)
    return True


def _keeps_channels(mover: ir.Node) -> bool:
    """Whether the channels of a linear operator are still on one axis behind a Squeeze or Reshape.

    Conv1D is a Conv with one row more, and Dense on sequences a MatMul of all steps at once.
    """
    before, after = mover.inputs[0], mover.outputs[0]
    if before is None or before.shape is None or after.shape is None or not has_one_reader(before):
        return False
    producer = before.producer()
    if producer is not None and producer.op_type.startswith("Conv"):
        return mover.op_type == "Squeeze" and list(before.shape)[:2] == list(after.shape)[:2]
    if before.shape.rank() == 0 or after.shape.rank() == 0:
        return False
    return isinstance(before.shape[-1], int) and before.shape[-1] == after.shape[-1]


def _folded_weights(op_type: str, linear: ir.Node, value: ir.Value, constant: Array) -> tuple[Array, Array | None] | None:
    """The linear operator's new weights and bias, or ``None`` if the constant is not one number a channel.

    Args:
        op_type: ``Mul`` or ``Add``.
        linear: What is folded into.
        value: What the constant meets: the linear operator's output, perhaps in another shape.
        constant: The other operand.
    """
    weights, bias = (constant_of(input_of(linear, position)) for position in (1, 2))
    if weights is None or (input_of(linear, 2) is not None and bias is None):
        return None
    axis = _channel_axis(linear, weights)
    shape = linear.outputs[0].shape
    if axis is None or shape is None or value.shape is None or weights.dtype != np.float32 or constant.dtype != np.float32:
        return None
    groups = linear.attributes.get_int("group", 1) if linear.op_type == "ConvTranspose" else 1
    rank = value.shape.rank()
    per_channel = _per_channel(constant, rank, 1 if linear.op_type.startswith("Conv") else rank - 1, weights.shape[axis])
    if per_channel is None or groups != 1:
        return None
    if op_type == "Mul":
        broadcast = [-1 if position == axis else 1 for position in range(weights.ndim)]
        scaled = (weights.astype(np.float64) * per_channel.reshape(broadcast)).astype(np.float32)
        return scaled, None if bias is None else (bias * per_channel).astype(np.float32)
    if linear.op_type == "MatMul" and shape.rank() != 2:
        return None  # Gemm takes matrices only
    return weights, ((0.0 if bias is None else bias) + per_channel).astype(np.float32)


def _channel_axis(linear: ir.Node, weights: Array) -> int | None:
    """The axis of the weights that runs over the output channels."""
    if linear.op_type == "Conv":
        return 0
    if linear.op_type == "ConvTranspose":
        return 1
    if weights.ndim != 2:
        return None
    attributes = linear.attributes
    if linear.op_type == "Gemm" and any(attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    return 0 if linear.op_type == "Gemm" and attributes.get_int("transB", False) else 1


def _per_channel(constant: Array, rank: int, axis: int, channels: int) -> Array | None:
    """The constant as float64 ``(channels,)`` if it broadcasts along the channel axis alone."""
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(length != 1 for position, length in enumerate(shape) if position != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))


def _replace(graph: ir.Graph, linear: ir.Node, value: ir.Value, node: ir.Node, weights: Array, bias: Array | None) -> None:
    """Put one linear operator in the place of two nodes."""
    # Named after the node's output, which nothing else is named after.
    inputs = [linear.inputs[0], add_constant(graph, f"{node.outputs[0].name}/weight", weights)]
    if bias is not None:
        inputs.append(add_constant(graph, f"{node.outputs[0].name}/bias", bias))
    op_type = "Gemm" if linear.op_type == "MatMul" and bias is not None else linear.op_type
    merged = ir.Node("", op_type, inputs, linear.attributes.values(), name=linear.name)
    old, new = linear.outputs[0], merged.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(linear, merged)
    ir.convenience.replace_all_uses_with(old, new)
    # What the node gave is now given by what it was given, under the node's name.
    given, made = new if value is old else value, node.outputs[0]
    ir.convenience.replace_all_uses_with(made, given, replace_graph_outputs=True)
    graph.remove([node, linear], safe=True)
    given.name = made.name
