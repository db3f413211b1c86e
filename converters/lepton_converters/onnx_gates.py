"""Rewrites of activations and gates into the forms that engines compute in one step."""

import numpy as np
import onnx_ir as ir

from lepton_converters.onnx_values import add_constant, axes_of, constant_of, input_of, operands_of, producer_of, put_before, replace_node
from lepton_runtime.tensors import Array


def make_hard_sigmoid(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``clip(x + b, 0, c) / c`` as HardSigmoid, which onnxruntime computes within the convolution in front of it.

    A hard-swish is ``x`` times that. The sum may be in the bias of a convolution already.
    """
    operands = operands_of(node) if node.op_type == "Mul" else None
    if operands is None or not _is_number(operands):
        return False
    clip = producer_of(operands[0], "Clip")
    low, high = (constant_of(input_of(clip, position)) if clip is not None else None for position in (1, 2))
    alpha = float(operands[1].reshape(()))
    if clip is None or low is None or high is None or float(low) != 0 or float(high) <= 0:
        return False
    if not np.isclose(float(high) * alpha, 1, rtol=1e-6, atol=0):
        return False
    value, beta = clip.inputs[0], 0.0
    total = producer_of(value, "Add")
    shifted = operands_of(total) if total is not None else None
    if total is not None and shifted is not None and _is_number(shifted):
        value, beta = shifted[0], alpha * float(shifted[1].reshape(()))
    attributes = {"alpha": ir.AttrFloat32("alpha", alpha), "beta": ir.AttrFloat32("beta", beta)}
    name, like = f"{node.outputs[0].name}/gate", node.outputs[0]
    replace_node(graph, node, put_before(graph, node, "HardSigmoid", [value], name=name, like=like, attributes=attributes))
    return True


def _is_number(operands: tuple[ir.Value, Array]) -> bool:
    """Whether a value meets a single number, of float32, that leaves its axes as they are."""
    value, constant = operands
    axes = axes_of(value)
    return constant.size == 1 and constant.dtype == np.float32 and axes is not None and constant.ndim <= len(axes)


def make_gate_of_a_picture(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a gate, one number a channel, be repeated over the picture that it multiplies.

    onnxruntime computes repetitions and products of equal shapes in the layout of its convolutions; for a product of a picture and
    single numbers it leaves this layout and comes back.
    """
    if node.op_type != "Mul":
        return False
    for gate, picture in (tuple(node.inputs), tuple(reversed(node.inputs))):
        small, large = axes_of(gate), axes_of(picture)
        if (
            gate is None
            or gate.const_value is not None
            or gate.dtype != ir.DataType.FLOAT
            or small is None
            or large is None
            or len(small) != 4
            or len(large) != 4
        ):
            continue
        height, width = large[2:]
        if small[2:] != [1, 1] or height is None or width is None or height * width == 1 or small[1] != large[1]:
            continue
        name, output = node.outputs[0].name, node.outputs[0]
        scales = add_constant(graph, f"{name}/scales", np.array([1, 1, height, width], np.float32))
        settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        attributes = {key: ir.AttrString(key, text) for key, text in settings.items()}
        inputs = [gate, None, scales]
        repeated = put_before(graph, node, "Resize", inputs, name=f"{name}/gate", like=output, attributes=attributes)
        replace_node(graph, node, put_before(graph, node, "Mul", [picture, repeated], name=f"{name}/gated", like=output))
        return True
    return False
