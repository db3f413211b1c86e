"""Programs as nodes of an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from lepton_converters.tensor_program import Operation, Program, Tensor
from lepton_runtime.tensors import Array

_SAME = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "floor": "Floor",
    "dense": "MatMul",
    "products": "MatMul",
}


def put_before(model: onnx.ModelProto, program: Program, given: Tensor, result: Tensor) -> onnx.ModelProto:
    """The model with the program in front of its only input.

    Args:
        model: Whose input is replaced.
        program: What runs first.
        given: What the program takes: the new input.
        result: What it gives to the model.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    written = _Written(graph, {result.name: graph.input[0].name})
    nodes = [node for operation in program.operations for node in written.nodes(operation)]
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *network])
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(given.name, _type(given.dtype), given.shape))
    return changed


def _type(dtype: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class _Written:
    """Writes operations as nodes, and their constants into a graph."""

    def __init__(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        self._graph = graph
        self._names = names

    def nodes(self, operation: Operation) -> list[onnx.NodeProto]:
        output = operation.outputs[0]
        names = [self._name(value, f"{output.name}/{number}") for number, value in enumerate(operation.inputs)]

        def node(kind: str, *inputs: str, **settings: Any) -> list[onnx.NodeProto]:
            outputs = [self._names.get(value.name, value.name) for value in operation.outputs]
            return [onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **settings)]

        def whole(values: Sequence[int], part: str) -> str:
            return self._name(np.array(values, np.int64), f"{output.name}/{part}")

        match operation.kind:
            case "transpose":
                return node("Transpose", *names, perm=operation.order)
            case "reshape":
                return node("Reshape", *names, whole(operation.order, "shape"))
            case "take":
                return node("Gather", *names, axis=operation.axis)
            case "slice":
                start, length = operation.order
                parts = (whole([start], "start"), whole([start + length], "end"), whole([operation.axis], "axis"))
                return node("Slice", *names, *parts)
            case "concatenate":
                return node("Concat", *names, axis=operation.axis)
            case "cast":
                return node("Cast", *names, to=_type(output.dtype))
            case kind:
                return node(_SAME[kind], *names)

    def _name(self, value: Tensor | Array, constant: str) -> str:
        if isinstance(value, Tensor):
            return self._names.get(value.name, value.name)
        self._graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), constant))
        return constant
