"""Rewrites into the chains of operators that engines know as one: GELU and layer normalization."""

import math

import numpy as np
import onnx_ir as ir

from lepton_converters.onnx_values import (
    add_constant,
    axes_of,
    constant_of,
    operands_of,
    producer_of,
    put_before,
    replace_node,
    shaped,
)
from lepton_runtime.tensors import Array

_RTOL = 1e-6  # of a constant that was computed in float32
_HALF = 0.5


def make_gelu(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``x / 2 * (1 + erf(x / sqrt(2)))``, in whatever order, or with ``1 - erf(-x / sqrt(2))``, in the order that engines know."""
    value = _gelu_input(node) if node.op_type == "Mul" else None
    if value is None or not _keeps_rank(value, node):
        return False
    name, like = node.outputs[0].name, node.outputs[0]
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
    root, one, half = (add_constant(graph, f"{name}/{key}", np.array(number, np.float32)) for key, number in numbers.items())
    made = put_before(graph, node, "Div", [value, root], name=f"{name}/scaled", like=like)
    made = put_before(graph, node, "Erf", [made], name=f"{name}/erf", like=like)
    made = put_before(graph, node, "Add", [made, one], name=f"{name}/share", like=like)
    made = put_before(graph, node, "Mul", [value, made], name=f"{name}/doubled", like=like)
    replace_node(graph, node, put_before(graph, node, "Mul", [made, half], name=f"{name}/gelu", like=like))
    return True


def _gelu_input(product: ir.Node) -> ir.Value | None:
    """What a GELU that ends in a product takes; ``None`` if it is none, or has the known order already."""
    halved = _without_half(product)
    for value, share in (halved, halved[::-1]):
        total = producer_of(share, "Add", "Sub")
        sign, erf = _beside_one(total) if total is not None else (0, None)
        scaling = producer_of(erf.inputs[0], "Mul", "Div") if erf is not None else None
        factor, source = _scaled(scaling) if scaling is not None else (0.0, None)
        if source is not None and source is value and math.isclose(sign * factor, math.sqrt(0.5), rel_tol=_RTOL):
            outer = operands_of(product)
            is_last = outer is not None and _number(outer[1]) == _HALF
            is_known = scaling is not None and scaling.op_type == "Div" and scaling.inputs[0] is value and sign > 0 and is_last
            return None if is_known else value
    return None


def _without_half(product: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """The other two factors of a product of three of which one is a half."""
    for inner_value, other in (tuple(product.inputs), tuple(reversed(product.inputs))):
        inner = producer_of(inner_value, "Mul")
        if inner is None:
            continue
        operands, constant = operands_of(inner), constant_of(other)
        if constant is not None and _number(constant) == _HALF:
            return inner.inputs[0], inner.inputs[1]
        if operands is not None and _number(operands[1]) == _HALF:
            return operands[0], other
    return None, None


def _beside_one(total: ir.Node) -> tuple[int, ir.Node | None]:
    """The sign and the node of the erf that is added to one, or taken from it."""
    operands = operands_of(total)
    is_taken = total.op_type == "Sub"
    if operands is None or _number(operands[1]) != 1 or (is_taken and operands[0] is total.inputs[0]):
        return 0, None
    return -1 if is_taken else 1, producer_of(operands[0], "Erf")


def _scaled(node: ir.Node) -> tuple[float, ir.Value | None]:
    """The factor and the value of ``c * x``, ``c * -x`` or ``x / c``."""
    operands = operands_of(node)
    number = _number(operands[1]) if operands is not None else None
    if operands is None or not number or (node.op_type == "Div" and node.inputs[0] is not operands[0]):
        return 0.0, None
    factor = 1 / number if node.op_type == "Div" else number
    negation = producer_of(operands[0], "Neg")
    return (factor, operands[0]) if negation is None else (-factor, negation.inputs[0])


def make_layer_normalization(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``x * g / s + (b - m * g / s)``, Keras' layer normalization, as ``(x - m) / s * g + b``, which engines compute in one step.

    It is more exact, too: two large numbers need not cancel.
    """
    parts = _normalization_parts(node) if node.op_type == "Add" else None
    axes = axes_of(parts[0]) if parts is not None else None
    if parts is None or axes is None or axes[-1] is None or not _keeps_rank(parts[0], node):
        return False
    value, epsilon, scale, offset = parts
    scales, offsets = _vector(scale, axes[-1], 1.0), _vector(offset, axes[-1], 0.0)
    if scales is None or offsets is None:
        return False
    name, like, few = node.outputs[0].name, node.outputs[0], shaped(value, [*axes[:-1], 1])
    numbers = {"two": np.array(2, np.float32), "epsilon": epsilon, "scale": scales, "offset": offsets}
    two, tiny, factor, shift = (add_constant(graph, f"{name}/{key}", constant) for key, constant in numbers.items())
    mean = _mean(graph, node, value, name=f"{name}/mean", like=few)
    apart = put_before(graph, node, "Sub", [value, mean], name=f"{name}/apart", like=like)
    square = put_before(graph, node, "Pow", [apart, two], name=f"{name}/square", like=like)
    variance = _mean(graph, node, square, name=f"{name}/variance", like=few)
    total = put_before(graph, node, "Add", [variance, tiny], name=f"{name}/total", like=few)
    deviation = put_before(graph, node, "Sqrt", [total], name=f"{name}/deviation", like=few)
    normal = put_before(graph, node, "Div", [apart, deviation], name=f"{name}/normal", like=like)
    scaled = put_before(graph, node, "Mul", [normal, factor], name=f"{name}/scaled", like=like)
    replace_node(graph, node, put_before(graph, node, "Add", [scaled, shift], name=f"{name}/normalized", like=like))
    return True


def _normalization_parts(total: ir.Node) -> tuple[ir.Value, Array, Array | None, Array | None] | None:
    """What a layer normalization that ends in a sum takes: its value and epsilon, and its factors and offsets, if it has any."""
    for product_value, rest in (tuple(total.inputs), tuple(reversed(total.inputs))):
        moved_value, offset = _without_constant(rest, "Add")
        product, moved = producer_of(product_value, "Mul"), producer_of(moved_value, "Mul")
        if product is None or moved is None:
            continue
        for value, factor in (tuple(product.inputs), tuple(reversed(product.inputs))):
            if value is None or factor is None or factor not in moved.inputs:
                continue
            negation = producer_of(next((other for other in moved.inputs if other is not factor), None), "Neg")
            inverse, scale = _without_constant(factor, "Mul")
            variance, epsilon = _variance_of(inverse)
            mean = negation.inputs[0] if negation is not None else None
            if epsilon is not None and mean is not None and _mean_of(mean) is value and _squared(_mean_of(variance)) == (value, mean):
                return value, epsilon, scale, offset
    return None


def _without_constant(value: ir.Value | None, op_type: str) -> tuple[ir.Value | None, Array | None]:
    """The value and the constant of a sum or product; the value itself where there is no constant."""
    node = value.producer() if value is not None else None
    operands = operands_of(node) if node is not None and node.op_type == op_type else None
    return (value, None) if operands is None else operands


def _variance_of(inverse: ir.Value | None) -> tuple[ir.Value | None, Array | None]:
    """The variance and the epsilon of ``1 / sqrt(variance + epsilon)``."""
    reciprocal = inverse.producer() if inverse is not None else None
    root = producer_of(reciprocal.inputs[0], "Sqrt") if reciprocal is not None and reciprocal.op_type == "Reciprocal" else None
    added = producer_of(root.inputs[0], "Add") if root is not None else None
    variance, epsilon = _without_constant(added.outputs[0], "Add") if added is not None else (None, None)
    is_number = epsilon is not None and _number(epsilon) is not None
    return variance, epsilon.reshape(()) if epsilon is not None and is_number else None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """What the mean over the last axis, which stays, is taken of."""
    node = value.producer() if value is not None else None
    axes = axes_of(node.inputs[0]) if node is not None else None
    if node is None or axes is None:
        return None
    if node.op_type == "GlobalAveragePool":
        return node.inputs[0] if len(axes) == 3 else None
    if node.op_type != "ReduceMean" or not node.attributes.get_int("keepdims", 1):
        return None
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    over = given.tolist() if given is not None else list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else []
    return node.inputs[0] if over in ([-1], [len(axes) - 1]) else None


def _squared(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None] | None:
    """The two values whose difference is multiplied by itself."""
    product = producer_of(value, "Mul")
    if product is None or product.inputs[0] is not product.inputs[1] or product.inputs[0] is None:
        return None
    difference = product.inputs[0].producer()
    return (difference.inputs[0], difference.inputs[1]) if difference is not None and difference.op_type == "Sub" else None


def _mean(graph: ir.Graph, node: ir.Node, value: ir.Value, *, name: str, like: ir.Value) -> ir.Value:
    """The mean over the last axis, which stays."""
    attributes: dict[str, ir.Attr] = {"keepdims": ir.AttrInt64("keepdims", 1)}
    inputs = [value]
    if graph.opset_imports.get("", 0) >= 18:  # Source: the ONNX operators' changelog, ReduceMean
        inputs.append(add_constant(graph, f"{name}/axes", np.array([-1], np.int64)))
    else:
        attributes["axes"] = ir.AttrInt64s("axes", [-1])
    return put_before(graph, node, "ReduceMean", inputs, name=name, like=like, attributes=attributes)


def _vector(constant: Array | None, channels: int, default: float) -> Array | None:
    """A number a channel, from one that stands on the last axis, or is the same for all; ``None`` for all else."""
    if constant is None:
        return np.full(channels, default, np.float32)
    if constant.dtype != np.float32 or constant.size not in (1, channels) or constant.size != math.prod(constant.shape[-1:]):
        return None
    return np.array(np.broadcast_to(constant.reshape(-1), (channels,)))


def _keeps_rank(value: ir.Value, node: ir.Node) -> bool:
    """Whether a value is known to have as many axes as what comes of it: constants may have more."""
    before, after = axes_of(value), axes_of(node.outputs[0])
    return before is not None and after is not None and len(before) == len(after)


def _number(constant: Array) -> float | None:
    """A constant that is a single float32."""
    return float(constant.reshape(())) if constant.size == 1 and constant.dtype == np.float32 else None
