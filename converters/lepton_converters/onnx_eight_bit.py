"""Rewrites of 8-bit ONNX graphs, which hold QuantizeLinear and DequantizeLinear pairs (QDQ)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from lepton_converters.onnx_values import (
    TO_NCHW,
    TO_NHWC,
    add_constant,
    axes_of,
    constant_of,
    first_reader,
    input_of,
    ints_of,
    producer_of,
    put_before,
    sees_picture,
    shaped,
)
from lepton_runtime.tensors import Array

_PIXELS = 4  # of a block, at least
_ELEMENTWISE = ("Add", "Div", "Erf", "HardSigmoid", "Mul", "Sigmoid", "Softplus", "Sub", "Tanh")


@dataclass(frozen=True)
class _Blocks:
    """Neighboring pixels of a row as channels of one.

    Attributes:
        pixels: How many pixels there are in a block.
        made: How many neighboring results are made of a block.
        left: How many blocks a result sees to the left of its own.
        width: How many blocks it sees.
        right: How many blocks beyond the right border are seen.
        first: The first pixel that the first result of a block sees, counted from the block's own first.
        step: How many pixels lie between results.
    """

    pixels: int
    made: int
    left: int
    width: int
    right: int
    first: int
    step: int

    @classmethod
    def of(cls, *, kernel: int, step: int, before: int, length: int, results: int) -> Self | None:
        """The blocks of a row, or ``None`` if it cannot be divided into them.

        Args:
            kernel: How many pixels a result sees.
            step: How many pixels lie between results.
            before: How many pixels are added beyond the left border.
            length: How many pixels there are.
            results: How many are made.
        """
        made = -(-_PIXELS // step)
        pixels = made * step
        if length % pixels or results % made:
            return None
        left = -(-before // pixels)
        width = ((made - 1) * step + kernel - 1 - before) // pixels + left + 1
        right = results // made - 1 + width - left - length // pixels
        return cls(pixels, made, left, width, right, -before, step) if right >= 0 else None

    def weights(self, values: Array) -> Array:
        """``(made * outputs, pixels * channels, height, width)`` of ``(outputs, channels, height, kernel)``; zero for what is not seen."""
        outputs, channels, height, kernel = values.shape
        blocked = np.zeros((self.made, outputs, self.pixels, channels, height, self.width), values.dtype)
        for result in range(self.made):
            for tap in range(kernel):
                block, pixel = divmod(result * self.step + tap + self.first, self.pixels)
                blocked[result, :, pixel, :, :, block + self.left] = values[..., tap]
        return blocked.reshape(self.made * outputs, self.pixels * channels, height, self.width)


def convolve_blocks(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a first convolution see neighboring pixels as channels of one, and make as many of its results at once.

    Three channels leave most of a vector of 8-bit numbers empty. Weights of what a result does not see are zero: it is exact. With
    channels last, as onnxruntime computes in 8 bits, the reshapes move nothing.
    """
    transpose = _picture_of(node)
    source = transpose.inputs[0] if transpose is not None else None
    axes, made = axes_of(source), axes_of(node.outputs[0])
    weight, bias = (_stored(input_of(node, position)) for position in (1, 2))
    values = constant_of(weight.inputs[0]) if weight is not None else None
    if transpose is None or source is None or axes is None or made is None or weight is None or values is None:
        return False
    zero_point = constant_of(input_of(weight, 2))  # where it is not 0, an integer 0 is no weight of 0
    if (bias is None) != (len(node.inputs) < 3) or node.outputs[0].is_graph_output() or (zero_point is not None and zero_point.any()):
        return False
    blocks, following = _blocks_of(node, values.shape, axes, made), first_reader(graph, node.outputs[0])
    if blocks is None or following is None:
        return False
    name, shape = node.outputs[0].name, [*axes[:2], (axes[2] or 0) // blocks.pixels, blocks.pixels * values.shape[1]]
    numbers = add_constant(graph, f"{name}/block_shape", np.array([0, -1, *shape[2:]], np.int64))
    given = put_before(graph, transpose, "Reshape", [source, numbers], name=f"{name}/taken", like=shaped(source, shape))
    transpose.replace_input_with(0, given)
    for value in _between(transpose, node):
        value.shape = ir.Shape([shape[0], shape[3], shape[1], shape[2]])
    node.replace_input_with(1, _repeated(graph, node, weight, blocks.weights(values), blocks.made))
    if bias is not None:
        node.replace_input_with(2, _repeated(graph, node, bias, None, blocks.made))
    top, _, bottom, _ = ints_of(node, "pads", [0] * 4)
    node.attributes["pads"] = ir.AttrInt64s("pads", [top, blocks.left, bottom, blocks.right])
    node.attributes["strides"] = ir.AttrInt64s("strides", [ints_of(node, "strides", [1, 1])[0], 1])
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [values.shape[2], blocks.width])
    _put_apart(graph, node, following, made, blocks.made)
    return True


def _picture_of(node: ir.Node) -> ir.Node | None:
    """The transposition that gives an 8-bit convolution its picture."""
    dequantize = producer_of(node.inputs[0], "DequantizeLinear") if node.op_type == "Conv" else None
    value = dequantize.inputs[0] if dequantize is not None else None
    quantize = producer_of(value, "QuantizeLinear")
    transpose = producer_of(quantize.inputs[0] if quantize is not None else value, "Transpose")
    return transpose if transpose is not None and ints_of(transpose, "perm", []) == TO_NCHW else None


def _between(transpose: ir.Node, node: ir.Node) -> list[ir.Value]:
    """The picture on its way to a convolution: channels first, 8 bits, and real numbers again."""
    found: list[ir.Value] = []
    value = node.inputs[0]
    while value is not None:
        found.append(value)
        maker = value.producer()
        value = None if maker is None or maker is transpose else maker.inputs[0]
    return found


def _stored(value: ir.Value | None) -> ir.Node | None:
    """What makes real numbers of integers that are stored, for one reader."""
    node = producer_of(value, "DequantizeLinear")
    return node if node is not None and all(constant_of(given) is not None for given in node.inputs) else None


def _blocks_of(node: ir.Node, weights: tuple[int, ...], axes: list[int | None], made: list[int | None]) -> _Blocks | None:
    """The blocks for a convolution of a picture; ``None`` if it is none, or would not gain."""
    if len(weights) != 4 or not sees_picture(node, weights[1]) or axes[2] is None or made[3] is None:
        return None
    step, before = ints_of(node, "strides", [1, 1])[1], ints_of(node, "pads", [0] * 4)[1]
    return _Blocks.of(kernel=weights[3], step=step, before=before, length=axes[2], results=made[3])


def _repeated(graph: ir.Graph, node: ir.Node, stored: ir.Node, values: Array | None, times: int) -> ir.Value:
    """Stored integers, or others in their place, with what each channel has repeated for as many results."""
    name, given = stored.outputs[0].name, [constant_of(value) for value in stored.inputs]
    numbers = [np.tile(found, times) if found is not None and found.ndim == 1 else found for found in given]
    if values is not None:
        numbers[0] = values
    inputs = [add_constant(graph, f"{name}/{position}", found) for position, found in enumerate(numbers) if found is not None]
    like = shaped(stored.outputs[0], axes_of(inputs[0]) or [])
    return put_before(graph, node, "DequantizeLinear", inputs, name=f"{name}/blocks", like=like, attributes=stored.attributes)


def _put_apart(graph: ir.Graph, node: ir.Node, following: ir.Node, made: list[int | None], times: int) -> None:
    """Give those who read a convolution of blocks the picture that they know, under the name that they know."""
    output = node.outputs[0]
    name, like, readers = output.name, shaped(output, made), list(output.uses())
    channels, width = made[1] or 0, made[3] or 0
    output.name, output.shape = f"{name}/blocks", ir.Shape([made[0], times * channels, made[2], width // times])
    blocks = [made[0], made[2], width // times, times * channels]
    picture = [made[0], made[2], width, channels]
    perm, back = (ir.AttrInt64s("perm", order) for order in (TO_NHWC, TO_NCHW))
    rows = put_before(graph, following, "Transpose", [output], name=f"{name}/rows", like=shaped(output, blocks), attributes={"perm": perm})
    shape = add_constant(graph, f"{name}/picture_shape", np.array([0, -1, *picture[2:]], np.int64))
    apart = put_before(graph, following, "Reshape", [rows, shape], name=f"{name}/apart", like=shaped(output, picture))
    known = put_before(graph, following, "Transpose", [apart], name=name, like=like, attributes={"perm": back})
    for reader in readers:
        reader.node.replace_input_with(reader.idx, known)


def share_scale(graph: ir.Graph, node: ir.Node) -> bool:
    """Give weights and biases of which all channels have the same scale one for all of them.

    Source: onnxruntime 1.32, QGemm: weights of one scale are multiplied by a faster kernel.
    """
    stored = _stored(node.outputs[0]) if node.op_type == "DequantizeLinear" else None
    scale, zero_point = (constant_of(input_of(node, position)) for position in (1, 2))
    if stored is None or scale is None or scale.size < 2 or zero_point is None or np.ptp(scale) or zero_point.any():
        return False
    for position, numbers in ((1, scale), (2, zero_point)):
        node.replace_input_with(position, add_constant(graph, f"{node.outputs[0].name}/{position}", numbers.reshape(-1)[:1].reshape(())))
    node.attributes.pop("axis", None)
    return True


def share_real_numbers(graph: ir.Graph, node: ir.Node) -> bool:
    """Put a sum of one term, which changes nothing, between 8-bit values and operators that share them in float, as a swish.

    onnxruntime makes real numbers anew for each reader of a DequantizeLinear, and then finds no swish to compute in one step.
    Source: onnxruntime 1.32, EnsureUniqueDQForNodeUnit, QuickGeluFusion.
    """
    if node.op_type != "DequantizeLinear" or constant_of(node.inputs[0]) is not None:
        return False
    value = node.outputs[0]
    readers = list(value.uses())
    if len(readers) < 2 or value.is_graph_output() or not all(_computes_in_float(reader.node) for reader in readers):
        return False
    first = first_reader(graph, value)
    if first is None:
        return False
    shared = put_before(graph, first, "Sum", [value], name=f"{value.name}/shared", like=value)
    for reader in readers:
        reader.node.replace_input_with(reader.idx, shared)
    return True


def _computes_in_float(node: ir.Node) -> bool:
    """Whether an operator is none that onnxruntime computes in 8 bits, or that only moves values, between pairs."""
    if node.op_type not in (*_ELEMENTWISE, "ReduceMean"):
        return False
    makers = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
    is_given_8_bits = all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
    gives_8_bits = all(use.node.op_type == "QuantizeLinear" for output in node.outputs for use in output.uses())
    return not (is_given_8_bits and gives_8_bits)
