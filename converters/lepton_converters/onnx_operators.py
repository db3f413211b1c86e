"""ONNX forms (channels last, as TensorFlow's graph has them) of operators that tf2onnx lacks or writes badly."""

from typing import Any

import numpy as np
import onnx

from lepton_converters.onnx_recurrent import MARKER, recurrent_node

_LOWEST_INDEX = np.iinfo(np.int64).min


def _reverse(context: Any, node: Any, name: str, arguments: list[Any]) -> None:  # Any: tf2onnx has no type hints
    """ReverseV2 as a Slice that steps backwards; tf2onnx writes a ReverseSequence between transpositions."""
    from tf2onnx import utils

    axes = [int(axis) for axis in np.atleast_1d(node.inputs[1].get_tensor_value())]

    def constant(values: list[int]) -> str:
        return str(context.make_const(utils.make_name("reverse"), np.array(values, np.int64)).output[0])

    source, outputs, shapes, dtypes = node.input[0], node.output, node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    back = [-1] * len(axes)
    inputs = [source, constant(back), constant([_LOWEST_INDEX] * len(axes)), constant(axes), constant(back)]
    context.make_node("Slice", inputs, outputs=outputs, shapes=shapes, dtypes=dtypes, name=name)


HANDLERS: dict[str, tuple[Any, list[Any]]] = {MARKER: (recurrent_node, []), "ReverseV2": (_reverse, [])}
"""By TensorFlow's name of the operator, as tf2onnx takes them."""


def repair_transposed_convolutions(model: onnx.ModelProto) -> None:
    """Write the output padding of transposed convolutions as such, in place; tf2onnx writes negative pads, which nothing runs.

    Source: ONNX operator ConvTranspose: an output is longer by its output padding, and shorter by its pads.
    """
    for node in model.graph.node:
        pads = next((attribute for attribute in node.attribute if attribute.name == "pads"), None)
        if node.op_type != "ConvTranspose" or pads is None or min(pads.ints, default=0) >= 0:
            continue
        spatial = len(pads.ints) // 2
        totals = [pads.ints[axis] + pads.ints[axis + spatial] for axis in range(spatial)]
        node.attribute.append(onnx.helper.make_attribute("output_padding", [max(0, -total) for total in totals]))
        for axis, total in enumerate(totals):
            if total < 0:
                pads.ints[axis] = pads.ints[axis + spatial] = 0


def replace_erfc(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with ``1 - Erf(x)`` for TensorFlow's ``Erfc(x)``, of the exact GELU, which tf2onnx leaves as it is."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = []
    for node in result.graph.node:
        if node.op_type == "Erfc":
            erf, one = f"{node.output[0]}/erf", f"{node.output[0]}/one"
            result.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), one))
            nodes += [onnx.helper.make_node("Erf", node.input, [erf]), onnx.helper.make_node("Sub", [one, erf], node.output)]
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
