"""Programs as nodes of an ONNX graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lepton_converters.tensor_program import Operation, Program, Tensor
from lepton_runtime.tensors import Array

_KINDS = {
    "transpose": "Transpose",
    "reshape": "Reshape",
    "take": "Gather",
    "slice": "Slice",
    "concatenate": "Concat",
    "cast": "Cast",
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "floor": "Floor",
    "exponential": "Exp",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "greater": "Greater",
    "both": "And",
    "select": "Where",
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
    _rename(graph, {given.name: f"{given.name}/network", graph.input[0].name: result.name})
    written = _Written(graph, {})
    nodes = [node for operation in program.operations for node in written.nodes(operation)]
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *network])
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(given.name, _type(given.dtype), given.shape))
    return changed


def put_behind(model: onnx.ModelProto, program: Program, taken: Sequence[Tensor], given: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The model with the program behind its outputs.

    Args:
        model: Whose outputs are replaced.
        program: What runs last.
        taken: The outputs as the program takes them, in their order.
        given: What it gives, by the names of the new outputs.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    outputs = {output.name: value.name for output, value in zip(graph.output, taken, strict=True)}
    _rename(graph, {name: f"{name}/network" for name in given} | outputs)
    written = _Written(graph, {value.name: name for name, value in given.items()})
    graph.node.extend([node for operation in program.operations for node in written.nodes(operation)])
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, _type(value.dtype), value.shape) for name, value in given.items())
    return changed


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Other names for values, and for nodes that are called after them; also where graphs inside read them.

    What the graph takes and gives keeps its name there.
    """
    del graph.value_info[:]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, names)


def _settings(operation: Operation) -> dict[str, Any]:
    """What an operator takes as attributes."""
    match operation.kind:
        case "transpose":
            return {"perm": operation.order}
        case "take" | "concatenate":
            return {"axis": operation.axis}
        case "softmax":
            return {"axis": -1}
        case "cast":
            return {"to": _type(operation.outputs[0].dtype)}
    return {}


def _type(dtype: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class _Written:
    """Writes operations as nodes, and their constants into a graph."""

    def __init__(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        self._graph = graph
        self._names = names

    def nodes(self, operation: Operation) -> list[onnx.NodeProto]:
        names = [self._name(value, f"{operation.outputs[0].name}/{number}") for number, value in enumerate(operation.inputs)]
        if operation.kind == "top_k":
            return self._top_k(operation, names[0])
        if operation.kind == "suppress":
            return self._suppress(operation, names)
        name = self._names.get(operation.outputs[0].name, operation.outputs[0].name)
        inputs = [*names, *self._whole_numbers(operation)]
        return [onnx.helper.make_node(_KINDS[operation.kind], inputs, [name], name=name, **_settings(operation))]

    def _whole_numbers(self, operation: Operation) -> list[str]:
        """What an operator takes as further inputs."""
        if operation.kind == "reshape":
            parts = {"shape": operation.order}
        elif operation.kind == "slice":
            start, length = operation.order
            parts = {"start": (start,), "end": (start + length,), "axis": (operation.axis,)}
        else:
            parts = {}
        return [self._name(np.array(values, np.int64), f"{operation.outputs[0].name}/{part}") for part, values in parts.items()]

    def _top_k(self, operation: Operation, values: str) -> list[onnx.NodeProto]:
        best, places = (self._names.get(value.name, value.name) for value in operation.outputs)
        count = self._name(np.array(operation.order, np.int64), f"{best}/count")
        make = onnx.helper.make_node
        return [
            make("TopK", [values, count], [best, f"{places}/long"], name=best, axis=-1),
            make("Cast", [f"{places}/long"], [places], name=places, to=onnx.TensorProto.INT32),
        ]

    def _suppress(self, operation: Operation, names: list[str]) -> list[onnx.NodeProto]:
        """As many places as there may be, 0 behind the last: ONNX' operator gives as many as there are."""
        places, number = operation.outputs
        boxes, scores, limit, iou, threshold = names
        steps: list[onnx.NodeProto] = []

        def step(kind: str, inputs: Sequence[str], output: str, **settings: Any) -> str:
            steps.append(onnx.helper.make_node(kind, inputs, [output], name=output, **settings))
            return output

        def whole(values: Sequence[int] | int, part: str) -> str:
            return self._name(np.array(values, np.int64), f"{places.name}/{part}")

        boxes = step("Reshape", [boxes, whole([1, -1, 4], "boxes/shape")], f"{places.name}/boxes")
        scores = step("Reshape", [scores, whole([1, 1, -1], "scores/shape")], f"{places.name}/scores")
        limit = step("Cast", [limit], f"{places.name}/limit", to=onnx.TensorProto.INT64)
        found = step("NonMaxSuppression", [boxes, scores, limit, iou, threshold], f"{places.name}/found")
        found = step("Gather", [found, whole(2, "column")], f"{places.name}/column/taken", axis=1)
        filled = step("Concat", [found, whole([0] * places.shape[0], "zeros")], f"{places.name}/filled", axis=0)
        parts = (whole([0], "start"), whole([places.shape[0]], "end"), whole([0], "axis"))
        step("Cast", [step("Slice", [filled, *parts], f"{places.name}/long")], places.name, to=onnx.TensorProto.INT32)
        count = step("Reshape", [step("Shape", [found], f"{number.name}/shape"), whole([], "scalar")], f"{number.name}/long")
        step("Cast", [count], number.name, to=onnx.TensorProto.INT32)
        return steps

    def _name(self, value: Tensor | Array, constant: str) -> str:
        if isinstance(value, Tensor):
            return self._names.get(value.name, value.name)
        self._graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), constant))
        return constant
