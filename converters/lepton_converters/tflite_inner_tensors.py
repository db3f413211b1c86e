"""Activations inside of TFLite files; see :class:`lepton_converters.inner_tensors.InnerTensors`."""

import copy
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lepton_converters.float_graph import Block, Operator, gathered
from lepton_converters.tensor_program import FROM_FRAME, TO_ANSWER
from lepton_converters.tflite_content import BuiltinRun, operator_codes, read_content
from lepton_converters.tflite_float_graph import KINDS, MOVERS
from lepton_runtime.tensors import Array, TensorSpec


class TfliteInnerTensors:
    """A float file, or a quantized one."""

    def __init__(self, model: bytes, names: Sequence[str]) -> None:
        """Find tensors in a file.

        Args:
            model: The file's content.
            names: Of the tensors, as the float file calls them; not all need be there.
        """
        self._model = model
        content = read_content(model)
        graph, codes = content.subgraphs[0], operator_codes(content)
        indices: dict[str, int] = {}
        for operator in graph.operators:
            for index in operator.outputs:
                # At the outputs of the network, the name goes to the real numbers that are made of the integers.
                held = operator.inputs[0] if codes[int(operator.opcodeIndex)] == "DEQUANTIZE" else index
                indices.setdefault(graph.tensors[index].name.decode(), int(held))
        indices |= _renumbered(set(names) - set(indices), set(indices) - set(names), indices)
        specs = {name: _spec(name, graph.tensors[indices[name]]) for name in names if name in indices}
        self.specs = {name: spec for name, spec in specs.items() if spec is not None}
        self._indices = {name: indices[name] for name in self.specs}

    def values(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors as the file holds them."""
        return dict(zip(self.specs, self._whole.run(list(inputs.values())), strict=True))

    def values_apart(self, inputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """The same, each from the others that are given."""
        arrays = [spec.quantize(given[name]) for name, spec in self.specs.items()]
        return dict(zip(self.specs, self._apart.run([*inputs.values(), *arrays]), strict=True))

    def answers(self, inputs: Mapping[str, Array], errors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, with an error added to each tensor."""
        found = self._disturbed.run([*inputs.values(), *(errors[name] for name in self._indices)])
        return {f"output_{position}": values for position, values in enumerate(found)}

    @cached_property
    def _disturbed(self) -> BuiltinRun:
        content = read_content(self._model)
        graph = content.subgraphs[0]
        errors, moved = (_copies(graph, self._indices.values(), kind) for kind in (b"/error", b"/moved"))
        operators = []
        for operator in graph.operators:
            operator.inputs = [moved.get(int(index), int(index)) for index in operator.inputs]
            sums = [_sum(content, (int(index), errors[index]), moved[index]) for index in operator.outputs if index in moved]
            operators += [operator, *sums]
        graph.operators = operators
        graph.outputs = [moved.get(int(index), int(index)) for index in graph.outputs]
        graph.inputs = [*graph.inputs, *errors.values()]
        return BuiltinRun(content)

    @cached_property
    def _whole(self) -> BuiltinRun:
        content = read_content(self._model)
        content.subgraphs[0].outputs = list(self._indices.values())
        return BuiltinRun(content)

    @cached_property
    def _apart(self) -> BuiltinRun:
        content = read_content(self._model)
        graph = content.subgraphs[0]
        graph.outputs = list(self._indices.values())
        given = _copies(graph, graph.outputs, b"/given")
        for operator in graph.operators:
            operator.inputs = [given.get(int(index), int(index)) for index in operator.inputs]
        graph.inputs = [*graph.inputs, *given.values()]
        return BuiltinRun(content)


def _copies(graph: Any, indices: Iterable[int], kind: bytes) -> dict[int, int]:
    """The numbers of new tensors like those, by theirs, each named after its own."""
    made: dict[int, int] = {}
    for index in indices:
        made[index] = len(graph.tensors)
        graph.tensors.append(copy.copy(graph.tensors[index]))
        graph.tensors[-1].name = graph.tensors[index].name + kind
    return made


def _sum(content: Any, terms: tuple[int, int], total: int) -> Any:
    """An operator that adds two tensors of a file."""
    from tensorflow.lite.python import schema_py_generated as schema

    code = schema.BuiltinOperator.ADD
    known = [number for number, each in enumerate(content.operatorCodes) if max(each.builtinCode, each.deprecatedBuiltinCode) == code]
    if not known:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = code
        made.version = 1
        content.operatorCodes.append(made)
    operator = schema.OperatorT()
    operator.opcodeIndex = known[0] if known else len(content.operatorCodes) - 1
    operator.inputs, operator.outputs = list(terms), [total]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    return operator


def _renumbered(missing: Collection[str], others: Collection[str], indices: Mapping[str, int]) -> dict[str, int]:
    """The tensors that only one of the others can be: TensorFlow numbers names, and lists what it merged, for each file anew."""
    wanted, held = Counter(map(_last_operator, missing)), Counter(map(_last_operator, others))
    found = {_last_operator(name): indices[name] for name in others}
    return {name: found[last] for name in missing if wanted[last := _last_operator(name)] == held[last] == 1}


def _last_operator(name: str) -> str:
    """The operator that made a tensor, without the number that sets it apart from others of its name.

    >>> _last_operator("net/re_lu_1/Relu;net/conv_1/convolution;net/conv_1/sub1")
    'net/re_lu_1/Relu'
    >>> _last_operator("net/conv_1/convolution2")
    'net/conv_1/convolution'
    """
    return re.sub(r"(?<=[a-z])\d+$", "", name.partition(";")[0])


def tflite_blocks(model: bytes) -> tuple[Block, ...]:
    """The layers of a float file, with all operators but those that only move values, and those before and behind the network."""
    content = read_content(model)
    graph, codes = content.subgraphs[0], operator_codes(content)
    operators = []
    for operator in graph.operators:
        code = codes[int(operator.opcodeIndex)]
        made = graph.tensors[operator.outputs[0]] if len(operator.outputs) else None
        is_added = made is not None and made.name.decode().startswith((f"{FROM_FRAME}/", f"{TO_ANSWER}/"))
        if made is not None and code not in MOVERS and _dtype(made) == "float32" and not is_added:
            inputs = tuple(graph.tensors[index].name.decode() for index in operator.inputs if index >= 0)
            operators.append(Operator(KINDS.get(code, code.title()), inputs, made.name.decode()))
    return gathered(operators)


def _spec(name: str, tensor: Any) -> TensorSpec | None:
    """What a tensor is; ``None`` if it holds neither real numbers nor integers that stand for some."""
    dtype, quantization = _dtype(tensor), tensor.quantization
    if dtype == "float32":
        return TensorSpec(name, (), dtype)
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    return TensorSpec(name, (), dtype, float(quantization.scale[0]), int(quantization.zeroPoint[0]))


def _dtype(tensor: Any) -> str:
    from tensorflow.lite.tools import flatbuffer_utils

    return str(flatbuffer_utils.type_to_name(tensor.type)).lower()
