"""Integers at the doors of quantized ONNX graphs."""

import numpy as np
import onnx

from lepton_converters.recipe import IntegerIo
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

MOVING_OPS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_INTEGER_TYPES = {"int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8}


def integer_input(graph: onnx.GraphProto, spec: TensorSpec, io: IntegerIo) -> TensorSpec:
    """Let a graph input be what its QuantizeLinear makes of it; operators between that only move values stay."""
    if np.dtype(spec.dtype).kind != "f":
        return spec
    name = spec.name
    while True:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type not in MOVING_OPS:
            break
        name = readers[0].output[0]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        raise UnsupportedError(
            f"--io {io} needs an input that is quantized first, {spec.name!r} goes into {', '.join(node.op_type for node in readers)}; "
            "move rescaling and normalization out of the model into --scale, --mean and --std"
        )
    quantize = readers[0]
    scale, zero_point, dtype = _quantization(graph, quantize)
    value = next(value for value in graph.input if value.name == spec.name)
    value.type.tensor_type.elem_type = _INTEGER_TYPES[io]
    if io == dtype:
        for node in graph.node:
            node.input[:] = [name if given == quantize.output[0] else given for given in node.input]
        graph.node.remove(quantize)
        return TensorSpec(spec.name, spec.shape, io, scale, zero_point)
    real, shifted = f"{spec.name}/real", _shifted(zero_point, dtype, io)
    graph.node.append(_scale_node(graph, "DequantizeLinear", name, real, scale, shifted, io))
    quantize.input[0] = real
    return TensorSpec(spec.name, spec.shape, io, scale, shifted)


def integer_output(graph: onnx.GraphProto, spec: TensorSpec, io: IntegerIo) -> TensorSpec:
    """Let a graph output be what its DequantizeLinear was made of."""
    if np.dtype(spec.dtype).kind != "f":
        return spec
    producer = next((node for node in graph.node if spec.name in node.output), None)
    if producer is None or producer.op_type != "DequantizeLinear":
        raise UnsupportedError(
            f"--io {io} needs outputs that can be quantized, {spec.name!r} comes from {producer.op_type if producer else 'an input'}; "
            "leave --io out"
        )
    scale, zero_point, dtype = _quantization(graph, producer)
    value = next(value for value in graph.output if value.name == spec.name)
    value.type.tensor_type.elem_type = _INTEGER_TYPES[io]
    # The real numbers move to a name of their own, with whoever reads them.
    inner, real = producer.input[0], f"{spec.name}/real"
    for node in graph.node:
        node.input[:] = [real if name == spec.name else name for name in node.input]
    producer.output[0] = real
    if io == dtype:
        for node in graph.node:
            node.input[:] = [spec.name if name == inner else name for name in node.input]
            node.output[:] = [spec.name if name == inner else name for name in node.output]
        return TensorSpec(spec.name, spec.shape, io, scale, zero_point)
    shifted = _shifted(zero_point, dtype, io)
    graph.node.append(_scale_node(graph, "QuantizeLinear", real, spec.name, scale, shifted, io))
    return TensorSpec(spec.name, spec.shape, io, scale, shifted)


def _quantization(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[float, int, str]:
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in node.input}
    zero_point = values[node.input[2]]
    return float(values[node.input[1]]), int(zero_point), zero_point.dtype.name


def _shifted(zero_point: int, dtype: str, io: IntegerIo) -> int:
    return zero_point - int(np.iinfo(dtype).min) + int(np.iinfo(io).min)


def _scale_node(
    graph: onnx.GraphProto, op_type: str, given: str, made: str, scale: float, zero_point: int, dtype: IntegerIo
) -> onnx.NodeProto:
    names = [f"{made}/scale", f"{made}/zero_point"]
    values: list[Array] = [np.array(scale, np.float32), np.array(zero_point, dtype)]
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True))
    return onnx.helper.make_node(op_type, [given, *names], [made])
