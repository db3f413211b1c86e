"""Programs as operators of a TFLite file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_converters.tensor_program import Operation, Program, Tensor
from lepton_converters.tflite_content import packed, read_content
from lepton_runtime.tensors import Array

# The operator, its options, and the version of the operator that takes what programs give it.
_OPERATORS: dict[str, tuple[str, str, int]] = {
    "transpose": ("TRANSPOSE", "TransposeOptions", 1),
    "reshape": ("RESHAPE", "ReshapeOptions", 1),
    "take": ("GATHER", "GatherOptions", 1),
    "slice": ("SLICE", "SliceOptions", 1),
    "concatenate": ("CONCATENATION", "ConcatenationOptions", 1),
    "cast": ("CAST", "CastOptions", 1),
    "add": ("ADD", "AddOptions", 1),
    "subtract": ("SUB", "SubOptions", 1),
    "multiply": ("MUL", "MulOptions", 1),
    "divide": ("DIV", "DivOptions", 1),
    "maximum": ("MAXIMUM", "MaximumMinimumOptions", 1),
    "minimum": ("MINIMUM", "MaximumMinimumOptions", 1),
    "floor": ("FLOOR", "", 1),
    "exponential": ("EXP", "ExpOptions", 1),
    "sigmoid": ("LOGISTIC", "", 1),
    "softmax": ("SOFTMAX", "SoftmaxOptions", 1),
    "greater": ("GREATER", "GreaterOptions", 1),
    "both": ("LOGICAL_AND", "LogicalAndOptions", 1),
    "select": ("SELECT_V2", "SelectV2Options", 1),
    "top_k": ("TOPK_V2", "TopKV2Options", 1),
    "suppress": ("NON_MAX_SUPPRESSION_V4", "NonMaxSuppressionV4Options", 1),
    "dense": ("FULLY_CONNECTED", "FullyConnectedOptions", 6),
    "products": ("BATCH_MATMUL", "BatchMatMulOptions", 1),
}
# Source: tensorflow/compiler/mlir/lite/tools/versioning/runtime_version.cc: of BATCH_MATMUL, the youngest of these operators.
_OLDEST_RUNTIME = "2.3.0"
_TYPES = {"float32": "FLOAT32", "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "int8": "INT8", "bool": "BOOL"}


def put_before(model: bytes, program: Program, given: Tensor, result: Tensor) -> bytes:
    """The file with the program in front of its only input.

    Args:
        model: Whose input is replaced.
        program: What runs first.
        given: What the program takes: the new input.
        result: What it gives to the model.
    """
    content = read_content(model)
    graph = content.subgraphs[0]
    old = graph.inputs[0]
    graph.tensors[old].name = result.name.encode()
    written = _Written(content, {result.name: old})
    new = written.tensor(given)
    graph.operators = [written.operator(operation) for operation in program.operations] + graph.operators
    graph.inputs = [new]
    for signature in content.signatureDefs or []:
        for entry in signature.inputs:
            entry.name, entry.tensorIndex = given.name.encode(), new
    _require(content, _OLDEST_RUNTIME)
    return packed(content)


def put_behind(model: bytes, program: Program, taken: Sequence[Tensor], given: Mapping[str, Tensor]) -> bytes:
    """The file with the program behind its outputs.

    Args:
        model: Whose outputs are replaced.
        program: What runs last.
        taken: The outputs as the program takes them, in their order.
        given: What it gives, by the names of the new outputs.
    """
    content = read_content(model)
    graph = content.subgraphs[0]
    written = _Written(content, dict(zip((value.name for value in taken), graph.outputs, strict=True)))
    graph.operators = [*graph.operators, *(written.operator(operation) for operation in program.operations)]
    graph.outputs = [written.tensor(value) for value in given.values()]
    for name, place in zip(given, graph.outputs, strict=True):
        graph.tensors[place].name = name.encode()
    for signature in content.signatureDefs or []:
        signature.outputs = [written.signature_entry(name, place) for name, place in zip(given, graph.outputs, strict=True)]
    _require(content, _OLDEST_RUNTIME)
    return packed(content)


def _require(content: Any, oldest: str) -> None:
    """Raise the runtime that a file says it needs, where it needs less so far."""
    for entry in content.metadata:
        if entry.name == b"min_runtime_version":
            buffer = content.buffers[entry.buffer]
            known = bytes(buffer.data).rstrip(b"\0").decode()
            version = max(known, oldest, key=lambda text: [int(part) for part in text.split(".") if part])
            buffer.data = np.frombuffer(version.encode().ljust(16, b"\0"), np.uint8)


def _whole_numbers(operation: Operation) -> list[Any]:
    """What an operator takes as further inputs."""
    if operation.kind in ("transpose", "reshape"):
        return [operation.order]
    if operation.kind == "top_k":
        return [operation.order[0]]
    if operation.kind == "slice":
        (start, length), axes = operation.order, range(len(operation.outputs[0].shape))
        return [[start if axis == operation.axis else 0 for axis in axes], [length if axis == operation.axis else -1 for axis in axes]]
    return []


def _changed(kind: str, value: Tensor | Array, place: int) -> Tensor | Array:
    """An input in the form that TFLite wants."""
    if kind == "dense" and place == 1:
        return np.ascontiguousarray(np.asarray(value).T)
    if kind == "suppress" and place == 3:  # it lets a box go that shares just that part, too; ONNX' does not
        return np.asarray(np.nextafter(np.asarray(value), np.float32(2)))
    return value


class _Written:
    """Writes operations as operators, and their values into the first graph of a file."""

    def __init__(self, content: Any, places: dict[str, int]) -> None:
        from tensorflow.lite.python import schema_py_generated

        self._schema: Any = schema_py_generated
        self._content = content
        self._places = places
        self._constants = 0

    def operator(self, operation: Operation) -> Any:
        name, options, version = _OPERATORS[operation.kind]
        made = self._schema.OperatorT()
        made.opcodeIndex = self._code(name, version)
        if options:
            made.builtinOptions = getattr(self._schema, f"{options}T")()
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
            self._set(made.builtinOptions, operation)
        inputs = [_changed(operation.kind, value, place) for place, value in enumerate(operation.inputs)]
        inputs += [np.array(numbers, np.int32) for numbers in _whole_numbers(operation)]
        made.inputs = [self.tensor(value) if isinstance(value, Tensor) else self._constant(value) for value in inputs]
        made.outputs = [self.tensor(value) for value in operation.outputs]
        return made

    def _set(self, options: Any, operation: Operation) -> None:
        match operation.kind:
            case "reshape":
                options.newShape = list(operation.order)
            case "take" | "concatenate":
                options.axis = operation.axis
            case "softmax":
                options.beta = 1.0
            case "dense":
                options.keepNumDims = True
            case "cast":
                options.inDataType, options.outDataType = (
                    getattr(self._schema.TensorType, _TYPES[str(value.dtype)]) for value in (operation.inputs[0], operation.outputs[0])
                )

    def signature_entry(self, name: str, place: int) -> Any:
        made = self._schema.TensorMapT()
        made.name, made.tensorIndex = name.encode(), place
        return made

    def tensor(self, value: Tensor) -> int:
        if value.name not in self._places:
            self._places[value.name] = self._new(value.name, value.shape, value.dtype, 0)
        return self._places[value.name]

    def _constant(self, values: Array) -> int:
        values = np.asarray(values)
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._content.buffers.append(buffer)
        self._constants += 1
        return self._new(f"constant/{self._constants}", values.shape, np.dtype(values.dtype).name, len(self._content.buffers) - 1)

    def _new(self, name: str, shape: Sequence[int], dtype: str, buffer: int) -> int:
        made = self._schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), list(shape), buffer
        made.type = getattr(self._schema.TensorType, _TYPES[dtype])
        tensors = self._content.subgraphs[0].tensors
        tensors.append(made)
        return len(tensors) - 1

    def _code(self, name: str, version: int) -> int:
        builtin = getattr(self._schema.BuiltinOperator, name)
        for index, code in enumerate(self._content.operatorCodes):
            if code.builtinCode == builtin and code.version == version:
                return index
        made = self._schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = builtin, min(builtin, 127), version
        self._content.operatorCodes.append(made)
        return len(self._content.operatorCodes) - 1
