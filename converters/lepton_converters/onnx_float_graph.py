"""ONNX float graphs (NCHW inside) as quantization sees them."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime

from lepton_converters.artifact import Artifact
from lepton_converters.float_graph import Block, Operator, Ranges, Window, gathered
from lepton_converters.onnx_artifact import make_artifact, silent_options
from lepton_converters.onnx_canonical import canonicalize
from lepton_converters.onnx_doors import integer_input, integer_output
from lepton_converters.onnx_optimize import optimize_eight_bit
from lepton_converters.onnx_quantize import quantize_static
from lepton_converters.recipe import IntegerIo
from lepton_converters.weight_rounding import WeightScheme
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.tensors import Array, TensorSpec

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MIXING = ("Add", "Mul", "Concat")
_POOLS = ("AveragePool", "GlobalAveragePool")
_CUTS = ("Relu", "Clip")
# Only move 8-bit values, or choose among them.
_MOVERS = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Resize", "Split")
_OTHER_RANGES = ("Resize", "Split")  # of what they give: means of what they take, or one part of it
# Functions of one value; what follows is computed in float from one tensor of 8 bits, so that nothing is rounded twice.
_UNARY = (
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Elu", "Selu", "Softplus"),
    *("Softsign", "LeakyRelu", "PRelu", "Pow", "Min", "Max", "Sub", "Div", "Add", "Mul", "Relu", "Clip", "Gelu", "Where", "Softmax"),
)


class OnnxFloatGraph:
    """An ONNX network in canonical form; see :class:`lepton_converters.float_graph.FloatGraph`."""

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        route: str,
        shares_scales: bool = False,
    ) -> None:
        """Look into a network.

        Args:
            model: The float graph with batch normalization folded; nodes are named after their first output.
            inputs: What it takes.
            outputs: What it gives.
            route: How it was made.
            shares_scales: Whether each operator's weights get one scale for all channels.
        """
        self._model = model
        self._shares_scales = shares_scales
        self._inputs, self._outputs, self._route = inputs, outputs, route
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    format = Format.ONNX

    @property
    def digest(self) -> str:
        """The SHA-256 of the network."""
        return hashlib.sha256(self._model.SerializeToString(deterministic=True)).hexdigest()  # scales of weights change no activation

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What can be quantized."""
        return self._all_blocks

    @cached_property
    def _all_blocks(self) -> tuple[Block, ...]:
        return gathered(self._operators)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations whose ranges are needed."""
        return self._all_tensors

    @cached_property
    def _all_tensors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for operator in self._operators for name in (*operator.inputs, operator.output)))

    @property
    def rounded(self) -> dict[str, str]:
        """The activations that are 8 bits where every block is quantized, each with that of which it has the range.

        Source: onnxruntime, ``quantization/registry.py``: a ``QDQDirect8BitOp`` gives its output the range of its input.
        """
        nodes = {name for names in self._nodes.values() for name in names}
        floats = {operator.output for operator in self._operators if self._goes_on_in_float(operator, nodes)}
        found = {name: name for name in self.tensors if name not in floats}
        makers = {name: node for node in self._model.graph.node for name in node.output}
        for name in found:
            source = name
            while source in makers and makers[source].op_type in (*_MOVERS, "AveragePool"):
                source = makers[source].input[0]
                found[name] = source if source in found else found[name]
        return found

    def channel_axis(self, tensor: str) -> int | None:
        """The axis of an activation's channels."""
        rank = len(self._shapes.get(tensor, ()))
        return self._channel_axes.get(tensor, 1 if rank == 4 else -1) % rank if rank > 1 else None

    def reader_count(self, tensor: str) -> int:
        """How many operators take an activation."""
        outputs = [value.name for value in self._model.graph.output]
        return len(self._readers.get(tensor, [])) + outputs.count(tensor)

    def values(self, batches: Iterator[Mapping[str, Array]], tensors: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Those activations, batch by batch."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors)
        given = {value.name for value in self._model.graph.input}
        computed = [name for name in tensors if name not in given]
        session = onnxruntime.InferenceSession(model.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"])
        for batch in batches:
            found = dict(zip(computed, session.run(computed, dict(batch)), strict=True)) if computed else {}
            yield {name: np.asarray(found[name] if name in found else batch[name]) for name in tensors}

    def constant(self, name: str) -> Array:
        """A weight or bias."""
        return np.asarray(onnx.numpy_helper.to_array(self._constants[name]))

    def with_constants(self, constants: Mapping[str, Array]) -> "OnnxFloatGraph":
        """The same network with other weights and biases."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in constants:
                tensor.CopyFrom(onnx.numpy_helper.from_array(constants[tensor.name].astype(np.float32), tensor.name))
        return self._of(model, shares_scales=self._shares_scales)

    def with_shared_scales(self) -> "OnnxFloatGraph | None":
        """The network with one scale for each operator's weights, if it is fully connected.

        onnxruntime 1.32 takes 0.7 times as long for its products of matrices then; a convolution takes no less.
        """
        kinds = {operator.kind for operator in self._operators if operator.weight}
        return self._of(self._model, shares_scales=True) if kinds and kinds <= {"Gemm", "MatMul"} and not self._shares_scales else None

    def _of(self, model: onnx.ModelProto, *, shares_scales: bool) -> "OnnxFloatGraph":
        doors = {"inputs": self._inputs, "outputs": self._outputs}
        return OnnxFloatGraph(model, **doors, route=self._route, shares_scales=shares_scales)

    def weight_scheme(self, operator: Operator, target: Target) -> WeightScheme:
        """How the weights of an operator become integers."""
        return WeightScheme(operator.output_axis, largest=64 if target.saturates else 127, is_shared=self._shares_scales)

    def quantize(self, ranges: Ranges, *, in_float: frozenset[str], target: Target, io: IntegerIo) -> Artifact:
        """The ``static-int8`` artifact."""
        kept = [operator for block in self.blocks if block.name not in in_float for operator in block.operators]
        nodes = {name for operator in kept for name in self._nodes[operator.output]}
        movers, moved = self._movers(kept, ranges)
        doors = frozenset() if io == "float" else {spec.name for spec in self._outputs}
        softmaxes = [node.name for node in self._model.graph.node if node.output[0] in doors and node.op_type in ("Softmax", "Sigmoid")]
        keeps = [] if io != "float" else [operator.output for operator in kept if self._goes_on_in_float(operator, nodes)]
        inner = {name: ranges[operator.output] for operator in kept for name in self._nodes[operator.output]}  # before the activation
        scales = {
            operator.weight: (self.weight_scheme(operator, target).scales(self.constant(operator.weight)), operator.output_axis)
            for operator in kept
            if operator.weight
        }
        model = quantize_static(
            self._model,
            {**ranges, **moved, **inner, **dict.fromkeys(softmaxes, (0.0, 1.0))},
            nodes=sorted(nodes | movers | set(softmaxes)) if nodes else [],
            keeps_float=keeps,
            scales=scales,
            has_signed_activations=target.has_signed_activations,
        )
        inputs, outputs = self._inputs, self._outputs
        if io != "float":
            inputs = tuple(integer_input(model.graph, spec, io) for spec in inputs)
            outputs = tuple(integer_output(model.graph, spec, io) for spec in outputs)
        model = optimize_eight_bit(canonicalize(model), target=target)  # shapes are inferred of what is in order only
        return make_artifact(canonicalize(model), Precision.STATIC_INT8, inputs, outputs, self._route)

    def _movers(self, kept: Sequence[Operator], ranges: Ranges) -> tuple[set[str], dict[str, tuple[float, float]]]:
        """The nodes that move values of 8 bits, and the ranges of what only those take, to pass it on to operators in 8 bits.

        Others stay float: onnxruntime's quantizer rounds what a Pad or a Split takes, whether anybody else does or not.
        """
        held = {name: ranges[name] for operator in kept for name in (*operator.inputs, operator.output)}
        movers = {node.name: node for node in self._model.graph.node if node.op_type in _MOVERS}
        doors = {value.name for value in self._model.graph.output}
        moved: dict[str, tuple[float, float]] = {}
        for node in reversed(movers.values()):
            taken, readers = node.input[0], self._readers[node.input[0]]
            if taken in held or taken in doors or any(reader.name not in movers or reader.op_type in _OTHER_RANGES for reader in readers):
                continue
            if all(reader.output[0] in held for reader in readers):
                lows, highs = zip(*(held[reader.output[0]] for reader in readers), strict=True)
                held[taken] = moved[taken] = min(lows), max(highs)
        names = set()
        for node in movers.values():
            if node.input[0] in held and (node.op_type != "Pad" or node.output[0] in held or self._pads_with_zeros(node)):
                held.update((name, held[node.input[0]]) for name in node.output if name not in held)
                names.add(node.name)
        return names, moved

    def _pads_with_zeros(self, node: onnx.NodeProto) -> bool:
        """Whether a Pad gives no values that its input has not, or zeros, which every range has."""
        mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"constant")
        if mode != b"constant" or len(node.input) < 3 or not node.input[2]:
            return True
        return node.input[2] in self._constants and not self.constant(node.input[2]).any()

    def _goes_on_in_float(self, operator: Operator, nodes: Collection[str]) -> bool:
        """Whether an 8-bit operator that can give float32 is read by float operators only."""
        readers = self._readers.get(operator.output, [])
        return operator.kind in ("Gemm", "MatMul") and not any(node.name in nodes or node.op_type in _MOVERS for node in readers)

    @cached_property
    def _shapes(self) -> dict[str, list[int]]:
        graph = onnx.shape_inference.infer_shapes(self._model).graph
        values = (*graph.value_info, *graph.input, *graph.output)
        return {
            value.name: [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]
            for value in values
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }

    @cached_property
    def _channel_axes(self) -> dict[str, int]:
        """Of what operators with weights take and give; where two differ, the one that gives it tells."""
        weighted = [operator for operator in self._operators if operator.weight]
        taken = {operator.inputs[0]: operator.channel_axis for operator in weighted}
        return taken | {operator.output: operator.channel_axis for operator in weighted}

    @cached_property
    def _nodes(self) -> dict[str, list[str]]:
        """The nodes of each operator: its own, and the activation that is fused."""
        return {operator.output: names for operator, names in self._found}

    @cached_property
    def _operators(self) -> tuple[Operator, ...]:
        return tuple(operator for operator, _ in self._found)

    @cached_property
    def _found(self) -> list[tuple[Operator, list[str]]]:
        """Operators and their nodes; what would be rounded to 8 bits only for float operators to go on is none."""
        dropped: set[str] = set()
        while True:
            found = self._walk(dropped)
            inputs = {name for operator, _ in found for name in operator.inputs}
            useless = {operator.output for operator, _ in found if operator.weight is None and not self._is_taken(operator.output, inputs)}
            if not useless:
                return found
            dropped |= useless

    def _is_taken(self, tensor: str, inputs: Collection[str]) -> bool:
        """Whether all that read a tensor are operators, or only move it, or compute a function of it, for operators."""
        readers = self._readers.get(tensor, [])
        if not readers:
            return False
        for node in readers:
            if tensor in inputs and (node.op_type in _LINEAR + _MIXING + _POOLS):
                continue
            is_passed_on = node.op_type in (*_MOVERS, *_UNARY) and self._is_taken(node.output[0], inputs)
            if not is_passed_on:
                return False
        return True

    def _walk(self, dropped: Collection[str]) -> list[tuple[Operator, list[str]]]:
        """The operators whose inputs 8 bits can hold, in the order in which they run.

        Each tensor is known by its origin: the 8-bit tensor that it is a function of.
        """
        origin = {spec.name: spec.name for spec in self._inputs if np.dtype(spec.dtype).kind == "f"}
        found: list[tuple[Operator, list[str]]] = []
        fused: dict[str, int] = {}
        for node in self._model.graph.node:
            given = [name for name in node.input if name and name not in self._constants]
            origins = [origin.get(name) for name in given]
            made = node.output[0] if node.output else ""
            if node.op_type in _CUTS and given and given[0] in fused and len(self._readers[given[0]]) == 1:
                position = fused.pop(given[0])
                operator, names = found[position]
                found[position] = (replace(operator, output=made, activation=self._cut(node)), [*names, node.name])
                origin[made] = made
            elif self._is_linear(node):
                found.append((self._linear(node), [node.name]))
                fused[made] = len(found) - 1
                origin[made] = made
            elif None in origins or not origins or made in dropped:
                continue  # of what no 8-bit tensor is the origin, such as the inside of a LayerNorm
            elif node.op_type in _MOVERS:
                is_whole = origins[0] == given[0]
                origin.update((name, name if is_whole else str(origins[0])) for name in node.output)
            elif (node.op_type in _MIXING and len(set(origins)) > 1) or node.op_type in _POOLS:
                found.append((Operator(node.op_type, tuple(given), made, values=self._size(made)), [node.name]))
                fused[made] = len(found) - 1
                origin[made] = made
            elif node.op_type in _UNARY and len(set(origins)) == 1 and origins[0]:
                origin[made] = origins[0]
        return found

    def _cut(self, node: onnx.NodeProto) -> str:
        """The activation that a cut is. A floor other than 0 is none that factors pass."""
        if node.op_type == "Relu":
            return "relu"
        floor = self._constants.get(node.input[1]) if len(node.input) > 1 else None
        return "relu6" if floor is not None and not onnx.numpy_helper.to_array(floor).any() else "other"

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _LINEAR or node.input[0] in self._constants or node.input[1] not in self._constants:
            return False
        return bool(self._constants[node.input[1]].data_type == onnx.TensorProto.FLOAT)

    def _linear(self, node: onnx.NodeProto) -> Operator:
        weight = self._constants[node.input[1]]
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        shape = list(weight.dims)
        values = self._size(node.output[0])
        if node.op_type == "Gemm":
            output_axis, input_axis = (0, 1) if attributes.get("transB") else (1, 0)
        elif node.op_type == "MatMul":
            output_axis, input_axis = len(shape) - 1, len(shape) - 2
        else:
            output_axis, input_axis = (0, 1) if node.op_type == "Conv" else (1, 0)
        groups = attributes.get("group", 1)
        is_depthwise = groups > 1 and shape[1] == 1
        products = values * math.prod(shape) // max(1, shape[output_axis] * (groups if node.op_type == "ConvTranspose" else 1))
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in self._constants else None
        return Operator(
            node.op_type,
            (node.input[0],),
            node.output[0],
            weight=node.input[1],
            bias=bias,
            output_axis=output_axis,
            input_axis=None if is_depthwise else input_axis,
            activation="linear",
            products=products,
            values=values,
            window=self._window(node, shape, attributes) if node.op_type == "Conv" else None,
            channel_axis=1 if "Conv" in node.op_type else -1,
        )

    def _window(self, node: onnx.NodeProto, shape: Sequence[int], attributes: Mapping[str, Any]) -> Window | None:
        """What a convolution sees; ``None`` for grouped ones, whose weights are not fitted."""
        kernel, sizes = tuple(shape[2:]), tuple(self._shapes.get(node.output[0], [])[2:])
        given = tuple(self._shapes.get(node.input[0], [])[2:])
        groups = attributes.get("group", 1)
        if (groups > 1 and (shape[1] != 1 or groups != shape[0])) or len(sizes) != len(kernel) or len(given) != len(kernel):
            return None
        strides, dilations = (tuple(attributes.get(name, [1] * len(kernel))) for name in ("strides", "dilations"))
        automatic = attributes.get("auto_pad", b"NOTSET")
        if automatic in (b"NOTSET", b"VALID"):
            pads = tuple(attributes.get("pads", [0] * 2 * len(kernel)))[: len(kernel)]
        else:
            pads = tuple(
                (max(0, (size - 1) * stride + (length - 1) * dilation + 1 - before) + (automatic == b"SAME_LOWER")) // 2
                for size, stride, length, dilation, before in zip(sizes, strides, kernel, dilations, given, strict=True)
            )
        return Window(kernel, strides, dilations, pads, sizes)

    def _size(self, tensor: str) -> int:
        """How many values one sample has."""
        return math.prod(self._shapes.get(tensor, [1])[1:])
