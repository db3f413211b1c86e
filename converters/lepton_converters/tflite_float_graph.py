"""TFLite float graphs as quantization sees them."""

import copy
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.float_graph import Block, Operator, Ranges, Window, gathered, layer_name
from lepton_converters.keras_source import KerasSource
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.recipe import IntegerIo
from lepton_converters.tflite_artifact import make_artifact
from lepton_converters.tflite_content import BuiltinRun, operator_codes, packed, read_content
from lepton_converters.weight_rounding import WeightScheme
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.tensors import Array

KINDS = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "TRANSPOSE_CONV": "ConvTranspose",
    "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul",
    "ADD": "Add",
    "MUL": "Mul",
    "CONCATENATION": "Concat",
}
MOVERS = {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "PAD", "PADV2", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V"}
MOVERS |= {"UNPACK", "PACK", "GATHER", "SHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "QUANTIZE", "DEQUANTIZE", "CAST"}
# What 256 even steps cannot hold: the inside of a normalization, and exponentials.
_BEYOND_8_BITS = {"SQUARED_DIFFERENCE", "RSQRT", "SQRT", "POW", "EXP", "LOG", "DIV", "SQUARE"}
_LAST = {"SOFTMAX", "LOGISTIC"}
# Of each operator with weights: the axis of output channels, and of input channels.
_WEIGHT_AXES = {"CONV_2D": (0, 3), "DEPTHWISE_CONV_2D": (3, None), "TRANSPOSE_CONV": (0, 3), "FULLY_CONNECTED": (0, 1)}
_ACTIVATIONS = {0: "linear", 1: "relu", 3: "relu6"}


class TfliteFloatGraph:
    """A TFLite network that TensorFlow prepared for quantization; see :class:`lepton_converters.float_graph.FloatGraph`."""

    def __init__(self, content: Any, *, source: KerasSource, route: str) -> None:
        """Look into a network.

        Args:
            content: The file as an object of TensorFlow's ``flatbuffer_utils``, with a range for each activation.
            source: The model it was made of.
            route: How it was made.
        """
        self._content = content  # Any: generated code without types
        self._source, self._route = source, route
        self._tensors = content.subgraphs[0].tensors
        self._names = [tensor.name.decode() for tensor in self._tensors]

    @classmethod
    def read(cls, model: bytes, *, source: KerasSource, route: str) -> "TfliteFloatGraph":
        """The network in a file."""
        return cls(read_content(model), source=source, route=route)

    format = Format.TFLITE

    @property
    def digest(self) -> str:
        """The SHA-256 of the network."""
        return hashlib.sha256(self._file()).hexdigest()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What can be quantized; a layer that 8 bits cannot hold is none."""
        return self._all_blocks

    @cached_property
    def _all_blocks(self) -> tuple[Block, ...]:
        beyond = {name for name, kinds in self._kinds_of_layers.items() if kinds & _BEYOND_8_BITS}
        return tuple(block for block in gathered([operator for operator, _ in self._found]) if block.name not in beyond)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations whose ranges are needed: those that TensorFlow measured itself."""
        return self._all_tensors

    @cached_property
    def _all_tensors(self) -> tuple[str, ...]:
        graph = self._content.subgraphs[0]
        taken = {int(index) for operator in graph.operators for index in (*operator.inputs, *operator.outputs) if index >= 0}
        ranged = [index for index in sorted(taken) if _has_range(self._tensors[index])]
        return tuple(dict.fromkeys(self._names[index] for index in ranged))

    def channel_axis(self, tensor: str) -> int | None:
        """The axis of an activation's channels."""
        rank = len(self._shape(self._index[tensor]))
        return rank - 1 if rank > 1 else None

    def reader_count(self, tensor: str) -> int:
        """How many operators take an activation."""
        graph, index = self._content.subgraphs[0], self._index[tensor]
        return sum(list(taken).count(index) for taken in ([op.inputs for op in graph.operators] + [graph.outputs]))

    def values(self, batches: Iterator[Mapping[str, Array]], tensors: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Those activations, batch by batch."""
        content = self._copied()
        content.subgraphs[0].outputs = [self._index[name] for name in tensors]
        run = BuiltinRun(content)
        for batch in batches:
            yield dict(zip(tensors, run.run([batch[spec.name] for spec in self._source.inputs]), strict=True))

    def constant(self, name: str) -> Array:
        """A weight or bias."""
        index = self._index[name]
        data = self._content.buffers[self._tensors[index].buffer].data
        return np.frombuffer(bytes(data), np.float32).reshape(self._shape(index))

    def with_constants(self, constants: Mapping[str, Array]) -> "TfliteFloatGraph":
        """The same network with other weights and biases."""
        content = self._copied()
        tensors = content.subgraphs[0].tensors
        content.buffers = list(content.buffers)
        for name, values in constants.items():
            index = self._index[name]
            buffer = copy.copy(content.buffers[tensors[index].buffer])
            buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
            tensors[index] = copy.copy(tensors[index])
            tensors[index].buffer = len(content.buffers)  # others may share the old one
            content.buffers.append(buffer)
        return TfliteFloatGraph(content, source=self._source, route=self._route)

    def with_shared_scales(self) -> None:
        """No other form is faster."""

    def weight_scheme(self, operator: Operator, target: Target) -> WeightScheme:
        """How the weights of an operator become integers."""
        return WeightScheme(operator.output_axis, largest=127)

    def quantize(self, ranges: Ranges, *, in_float: frozenset[str], target: Target, io: IntegerIo) -> Artifact:
        """The ``static-int8`` artifact; every CPU runs the same one.

        Raises:
            UnsupportedError: TensorFlow cannot make it.
        """
        import tensorflow as tf
        from tensorflow.lite.python.convert import deduplicate_readonly_buffers, mlir_quantize
        from tensorflow.lite.python.convert_phase import ConverterError

        names = {block.name for block in self.blocks} - in_float
        in_8_bits = {output for name, output in self._outputs if name in names or self._is_door(output, io)}
        graph = self._content.subgraphs[0]
        integers = in_8_bits | ({int(index) for index in (*graph.inputs, *graph.outputs)} if io != "float" else set())
        kept = [self._names[output] for _, output in self._outputs if output not in in_8_bits]
        kept += [self._names[output] for output in self._moved_in_float(integers)]
        doors = {"input_data_type": tf.dtypes.as_dtype(io), "output_data_type": tf.dtypes.as_dtype(io)} if io != "float" else {}
        try:
            with quiet_tensorflow():
                model = mlir_quantize(self._with_ranges(ranges), denylisted_nodes=kept, **doors)
                model = deduplicate_readonly_buffers(model)
        except (ConverterError, ValueError, RuntimeError) as error:
            raise UnsupportedError(f"every operator must have a built-in TFLite form at static-int8: {reason_of(error)}") from error
        return make_artifact(bytes(model), Precision.STATIC_INT8, self._source, self._route)

    def _is_door(self, output: int, io: IntegerIo) -> bool:
        return io != "float" and output in self._content.subgraphs[0].outputs

    def _moved_in_float(self, integers: Collection[int]) -> list[int]:
        """What operators give that only move values, which nothing in 8 bits gives or takes: TensorFlow would round them, and back.

        Args:
            integers: What operators in 8 bits give, and the doors that are integers.
        """
        ends = [([int(i) for i in op.inputs], [int(i) for i in op.outputs], self._code(op)) for op in self._content.subgraphs[0].operators]
        given, taken = set(integers), {index for inputs, outputs, _ in ends if outputs[0] in integers for index in inputs}
        movers = [(inputs, outputs) for inputs, outputs, code in ends if code in MOVERS]
        for inputs, outputs in movers:
            given.update(outputs if not given.isdisjoint(inputs) else ())
        for inputs, outputs in reversed(movers):
            taken.update(inputs if not taken.isdisjoint(outputs) else ())
        return [outputs[0] for _, outputs in movers if given.isdisjoint(outputs) and taken.isdisjoint(outputs)]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in reversed(list(enumerate(self._names)))}

    @cached_property
    def _outputs(self) -> list[tuple[str, int]]:
        """The block, and the output, of each operator that computes; a name no block has for those that stay in float."""
        found = {index: operator.output for operator, index in self._found}
        members = {operator.output: block.name for block in self.blocks for operator in block.operators}
        return [(members.get(found.get(int(op.outputs[0]), ""), ""), int(op.outputs[0])) for op in self._computing]

    @cached_property
    def _computing(self) -> list[Any]:
        operators = self._content.subgraphs[0].operators
        return [op for op in operators if self._code(op) not in MOVERS and _has_range(self._tensors[op.outputs[0]])]

    @cached_property
    def _kinds_of_layers(self) -> dict[str, set[str]]:
        kinds: dict[str, set[str]] = {}
        for op in self._computing:
            kinds.setdefault(layer_name(self._names[op.outputs[0]]), set()).add(self._code(op))
        return kinds

    @cached_property
    def _found(self) -> list[tuple[Operator, int]]:
        """Operators that can compute in 8 bits, and the tensor that each gives."""
        last = {int(index) for index in self._content.subgraphs[0].outputs}
        return [
            (self._operator(op), int(op.outputs[0]))
            for op in self._computing
            # The tails of the scores: 256 steps would cut them off, and in float they cost next to nothing.
            if not (self._code(op) in _LAST and int(op.outputs[0]) in last)
        ]

    def _operator(self, op: Any) -> Operator:
        code = self._code(op)
        constants = [int(index) for index in op.inputs if index >= 0 and self._is_constant(int(index))]
        inputs = tuple(self._names[index] for index in op.inputs if index >= 0 and _has_range(self._tensors[index]))
        output = int(op.outputs[0])
        values = math.prod(self._shape(output)[1:])
        kind = KINDS.get(code, code.title())
        if code not in _WEIGHT_AXES or not constants:
            return Operator(kind, inputs, self._names[output], values=values)
        output_axis, input_axis = _WEIGHT_AXES[code]
        weight = constants[1] if code == "TRANSPOSE_CONV" and len(constants) > 1 else constants[0]
        shape = self._shape(weight)
        biases = [index for index in constants if index != weight and len(self._shape(index)) == 1 and code != "TRANSPOSE_CONV"]
        return Operator(
            kind,
            inputs,
            self._names[output],
            weight=self._names[weight],
            bias=self._names[biases[0]] if biases else None,
            output_axis=output_axis,
            input_axis=input_axis,
            activation=_ACTIVATIONS.get(getattr(op.builtinOptions, "fusedActivationFunction", 0), "other"),
            products=values * math.prod(shape) // max(1, shape[output_axis]),
            values=values,
            window=self._window(op, shape) if code in ("CONV_2D", "DEPTHWISE_CONV_2D") else None,
        )

    def _window(self, op: Any, shape: Sequence[int]) -> Window | None:
        """What a convolution sees; ``None`` for grouped ones, and those that make several channels of one: they are not fitted."""
        options = op.builtinOptions
        if shape[3] != self._shape(int(op.inputs[0]))[3]:
            return None
        kernel, given, sizes = shape[1:3], self._shape(int(op.inputs[0]))[1:3], self._shape(int(op.outputs[0]))[1:3]
        strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
        # Source: TFLite schema, Padding: SAME is 0, VALID is 1; of an odd number of zeros, the fewer come first.
        pads = tuple(
            max(0, (size - 1) * stride + (length - 1) * dilation + 1 - before) // 2 if options.padding == 0 else 0
            for size, stride, length, dilation, before in zip(sizes, strides, kernel, dilations, given, strict=True)
        )
        return Window(tuple(kernel), strides, dilations, pads, tuple(sizes))

    def _is_constant(self, index: int) -> bool:
        data = self._content.buffers[self._tensors[index].buffer].data
        return data is not None and len(data) > 0

    def _shape(self, index: int) -> list[int]:
        shape = self._tensors[index].shape
        return [] if shape is None else [int(length) for length in shape]

    def _code(self, op: Any) -> str:
        return self._codes[int(op.opcodeIndex)]

    @cached_property
    def _codes(self) -> list[str]:
        return operator_codes(self._content)

    def _copied(self) -> Any:
        """The content, with tensors that can be put in the place of others."""
        content = copy.copy(self._content)
        graph = copy.copy(content.subgraphs[0])
        graph.tensors = list(graph.tensors)
        content.subgraphs = [graph, *content.subgraphs[1:]]
        return content

    def _file(self) -> bytes:
        return packed(self._content)

    def _with_ranges(self, ranges: Ranges) -> bytes:
        """The file with those ranges in the place of the ones that it holds."""
        content = self._copied()
        tensors = content.subgraphs[0].tensors
        for index, name in enumerate(self._names):
            if name in ranges and _has_range(tensors[index]):
                tensors[index] = copy.copy(tensors[index])
                tensors[index].quantization = copy.copy(tensors[index].quantization)
                tensors[index].quantization.min, tensors[index].quantization.max = ([np.float32(end)] for end in ranges[name])
        return packed(content)


def _has_range(tensor: Any) -> bool:
    quantization = tensor.quantization
    return quantization is not None and quantization.min is not None and len(quantization.min) > 0
