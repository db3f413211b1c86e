"""Rewrites of ONNX graphs (NCHW inside) that keep their meaning."""

import numpy as np
import onnx
import onnx_ir as ir

from lepton_runtime.tensors import Array

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with batch normalization folded into what stands before it, each Dense layer as one Gemm, no reversal twice.

    tf2onnx leaves a BatchNormalization as Mul and Add; quantized on their own, they cost accuracy and time.
    The arithmetic is done in float64 and rounded once.
    """
    rewritten = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    while any(_fold(rewritten.graph, node) or _cancel_reversal(rewritten.graph, node) for node in list(rewritten.graph)):
        pass
    return ir.to_proto(rewritten)


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    """Fold one Mul or Add of constants into the linear operator before it; whether it was done."""
    if node.op_type not in ("Mul", "Add") or node.domain not in ("", "ai.onnx"):
        return False
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        if value is None or other is None or other.const_value is None or not _has_one_reader(value):
            continue
        linear = value.producer()
        if linear is not None and linear.op_type in ("Squeeze", "Reshape") and _keeps_channels(linear):
            linear = linear.inputs[0].producer() if linear.inputs[0] is not None else None
        if linear is None or linear.op_type not in _LINEAR or not _has_one_reader(linear.outputs[0]):
            continue
        folded = _folded_weights(node.op_type, linear, value, other.const_value.numpy())
        if folded is None:
            continue
        weights, bias = folded
        _replace(graph, linear, value, node, weights, bias)
        return True
    return False


def _cancel_reversal(graph: ir.Graph, node: ir.Node) -> bool:
    """Take out a reversal of a reversal, which a Bidirectional layer makes; whether it was done."""
    if not _is_reversal(node) or node.outputs[0].is_graph_output() or node.inputs[0] is None:
        return False
    before = node.inputs[0].producer()
    if before is None or before.inputs[0] is None or not _is_reversal(before) or _constant(before, 3) != _constant(node, 3):
        return False
    ir.convenience.replace_all_uses_with(node.outputs[0], before.inputs[0])
    graph.remove(node, safe=True)
    return True


def _is_reversal(node: ir.Node) -> bool:
    """Whether it is a Slice of whole axes in steps of -1."""
    if node.op_type != "Slice" or len(node.inputs) < 5:
        return False
    starts, ends, steps = (_constant(node, position) for position in (1, 2, 4))
    return set(starts) == {-1} and set(ends) == {np.iinfo(np.int64).min} and set(steps) == {-1}


def _constant(node: ir.Node, position: int) -> list[int]:
    value = node.inputs[position]
    return [] if value is None or value.const_value is None else value.const_value.numpy().tolist()


def _has_one_reader(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _keeps_channels(mover: ir.Node) -> bool:
    """Whether the channels of a linear operator are still on one axis behind a Squeeze or Reshape.

    Conv1D is a Conv with one row more, and Dense on sequences a MatMul of all steps at once.
    """
    before, after = mover.inputs[0], mover.outputs[0]
    if before is None or before.shape is None or after.shape is None or not _has_one_reader(before):
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
    if len(linear.inputs) < 2 or linear.inputs[1] is None or linear.inputs[1].const_value is None:
        return None
    weights = linear.inputs[1].const_value.numpy()
    bias_value = linear.inputs[2] if len(linear.inputs) > 2 else None
    if bias_value is not None and bias_value.const_value is None:
        return None
    bias = bias_value.const_value.numpy() if bias_value is not None and bias_value.const_value is not None else None
    axis = _channel_axis(linear, weights)
    shape = linear.outputs[0].shape
    if axis is None or shape is None or value.shape is None or weights.dtype != np.float32 or constant.dtype != np.float32:
        return None
    groups = linear.attributes["group"].as_int() if linear.op_type == "ConvTranspose" and "group" in linear.attributes else 1
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

    def constant(values: Array, kind: str) -> ir.Value:
        # Named after the node's output, which nothing else is named after.
        tensor = ir.tensor(values, name=f"{node.outputs[0].name}/{kind}")
        made = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape(values.shape), type=ir.TensorType(ir.DataType.FLOAT))
        graph.register_initializer(made)
        return made

    inputs = [linear.inputs[0], constant(weights, "weight")]
    if bias is not None:
        inputs.append(constant(bias, "bias"))
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
