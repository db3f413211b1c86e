"""8-bit and 16-bit ONNX graphs: the one room that talks to onnxruntime's quantizer."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic
from onnxruntime.quantization import quantize_static as ort_quantize_static

from lepton_converters.calibration import Calibration
from lepton_converters.recipe import IntegerIo
from lepton_runtime.errors import OutputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

# Operators that onnxruntime has 8-bit kernels for, or that only move 8-bit values. Softmax and sigmoid are not
# among them: 256 steps cut their tails off, and they cost next to nothing in float.
_STATIC_OPS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Concat", "MaxPool"),
    *("AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Resize", "Split"),
)
# 7-bit weights: on a CPU without VNNI or dot product the 16-bit sums of 8-bit products saturate, and a network
# that was right on this machine is wrong on that one. Source: onnxruntime's quantization guide, "reduce_range".
_REDUCE_RANGE = True
# Weights that dynamic-int8 only stores in 8 bits: their place among an operator's inputs, and the axis of a scale each.
_STORED = {
    "Conv": [(1, 0)],
    "ConvTranspose": [(1, 1)],
    "LSTM": [(1, 1), (2, 1)],
    "GRU": [(1, 1), (2, 1)],
    "RNN": [(1, 1), (2, 1)],
    "Gather": [(0, 0)],
}
_STATIC_OPTIONS = {
    "ActivationSymmetric": False,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": False,
    "DedicatedQDQPair": False,
    "EnableSubgraph": False,
    "ForceQuantizeNoInputCheck": False,
    "MatMulConstBOnly": True,
    "OpTypesToExcludeOutputQuantization": [],
    "QDQDisableWeightAdjustForInt32Bias": False,
    "QDQKeepRemovableActivations": False,
    "QuantizeBias": True,
    "UseQDQContribOps": False,
    # Ranges are the extremes over all samples. CalibMaxIntermediateOutputs stays unset: onnxruntime 1.32 drops
    # what it had collected each time that limit is reached. Only two numbers a tensor and sample are kept.
    "CalibMovingAverage": False,
    "CalibTensorRangeSymmetric": False,
}
_MOVING_OPS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_INTEGER_TYPES = {"int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8}
_SMALLEST_STORED = 32  # values; below that a cast node is larger than what it saves


def quantize_static(
    model: onnx.ModelProto, calibration: Calibration, *, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], io: IntegerIo
) -> tuple[onnx.ModelProto, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The graph with 8-bit weights and activations, as QuantizeLinear and DequantizeLinear pairs (QDQ).

    Activations are unsigned, weights signed with a scale a channel: on x86 that runs 2 to 18 times faster than
    the quantizer's defaults.

    Args:
        model: The float graph with batch normalization folded.
        calibration: Samples to measure the ranges on.
        inputs: The float model's inputs.
        outputs: The float model's outputs.
        io: ``float`` keeps float32 at the doors, ``int8`` and ``uint8`` take and give integers.

    Returns:
        The graph, and its inputs and outputs with their scales.

    Raises:
        UnsupportedError: Integers are asked for at a door that is not quantized.
    """

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the samples on one by one."""

        def __init__(self) -> None:
            self._batches = calibration.batches()

        def get_next(self) -> dict[str, Array] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(self._batches, None)

    with _quiet_quantizer(model) as folder:
        ort_quantize_static(
            model,
            folder / "quantized.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_STATIC_OPS, *(["Softmax", "Sigmoid"] if io != "float" else [])],
            per_channel=True,
            reduce_range=_REDUCE_RANGE,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=None,
            nodes_to_exclude=None,
            use_external_data_format=False,
            calibrate_method=CalibrationMethod.MinMax,
            calibration_providers=["CPUExecutionProvider"],
            extra_options=_STATIC_OPTIONS,
        )
        quantized = onnx.load(folder / "quantized.onnx")
    quantized.ir_version = model.ir_version
    if io == "float":
        return quantized, inputs, outputs
    input_specs = tuple(_integer_input(quantized.graph, spec, io) for spec in inputs)
    output_specs = tuple(_integer_output(quantized.graph, spec, io) for spec in outputs)
    return quantized, input_specs, output_specs


def _integer_input(graph: onnx.GraphProto, spec: TensorSpec, io: IntegerIo) -> TensorSpec:
    """Let a graph input be what its QuantizeLinear makes of it; operators between that only move values stay."""
    if np.dtype(spec.dtype).kind != "f":
        return spec
    name = spec.name
    while True:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type not in _MOVING_OPS:
            break
        name = readers[0].output[0]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        raise UnsupportedError(
            f"--io {io} needs an input that is quantized first, {spec.name!r} goes into {', '.join(node.op_type for node in readers)}; "
            "move rescaling and normalization out of the model into --scale, --mean and --std"
        )
    quantize = readers[0]
    scale, zero_point = _quantization(graph, quantize)
    value = next(value for value in graph.input if value.name == spec.name)
    value.type.tensor_type.elem_type = _INTEGER_TYPES[io]
    if io == "uint8":
        for node in graph.node:
            node.input[:] = [name if given == quantize.output[0] else given for given in node.input]
        graph.node.remove(quantize)
        return TensorSpec(spec.name, spec.shape, io, scale, zero_point)
    real = f"{spec.name}/real"
    graph.node.append(_scale_node(graph, "DequantizeLinear", name, real, scale, np.int8(zero_point - 128)))
    quantize.input[0] = real
    return TensorSpec(spec.name, spec.shape, io, scale, zero_point - 128)


def _integer_output(graph: onnx.GraphProto, spec: TensorSpec, io: IntegerIo) -> TensorSpec:
    """Let a graph output be what its DequantizeLinear was made of."""
    if np.dtype(spec.dtype).kind != "f":
        return spec
    producer = next((node for node in graph.node if spec.name in node.output), None)
    if producer is None or producer.op_type != "DequantizeLinear":
        raise UnsupportedError(
            f"--io {io} needs outputs that can be quantized, {spec.name!r} comes from {producer.op_type if producer else 'an input'}; "
            "leave --io out"
        )
    scale, zero_point = _quantization(graph, producer)
    value = next(value for value in graph.output if value.name == spec.name)
    value.type.tensor_type.elem_type = _INTEGER_TYPES[io]
    # The real numbers move to a name of their own, with whoever reads them.
    inner, real = producer.input[0], f"{spec.name}/real"
    for node in graph.node:
        node.input[:] = [real if name == spec.name else name for name in node.input]
    producer.output[0] = real
    if io == "uint8":
        for node in graph.node:
            node.input[:] = [spec.name if name == inner else name for name in node.input]
            node.output[:] = [spec.name if name == inner else name for name in node.output]
        return TensorSpec(spec.name, spec.shape, io, scale, zero_point)
    graph.node.append(_scale_node(graph, "QuantizeLinear", real, spec.name, scale, np.int8(zero_point - 128)))
    return TensorSpec(spec.name, spec.shape, io, scale, zero_point - 128)


def _quantization(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[float, int]:
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in node.input}
    return float(values[node.input[1]]), int(values[node.input[2]])


def _scale_node(graph: onnx.GraphProto, op_type: str, given: str, made: str, scale: float, zero_point: np.int8) -> onnx.NodeProto:
    names = [f"{made}/scale", f"{made}/zero_point"]
    values: list[Array] = [np.array(scale, np.float32), np.array(zero_point, np.int8)]
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True))
    return onnx.helper.make_node(op_type, [given, *names], [made])


def quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with 8-bit weights and ranges taken from each input as it comes; needs no data.

    Dense layers compute in 8 bits. Convolutions, recurrent layers and embeddings keep 8-bit weights in the file, with a
    scale a channel, unit or entry, and compute in float32: onnxruntime has no 8-bit GRU, and its ConvInteger took 1.6 to
    3.6 times as long as its float convolution on the four networks of ``benchmarks/dynamic_convolution.py`` (onnxruntime
    1.32, x86-64 with VNNI).
    """
    with _quiet_quantizer(model) as folder:
        ort_quantize_dynamic(
            model,
            folder / "quantized.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=_REDUCE_RANGE,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=None,
            nodes_to_exclude=None,
            use_external_data_format=False,
            extra_options={
                "WeightSymmetric": True,
                "MatMulConstBOnly": True,
                "EnableSubgraph": False,
                "ForceQuantizeNoInputCheck": False,
            },
        )
        quantized = onnx.load(folder / "quantized.onnx")
    quantized.ir_version = model.ir_version
    axes = {node.input[place]: axis for node in quantized.graph.node for place, axis in _STORED.get(node.op_type, ())}

    def store(name: str, values: Array) -> tuple[Array, Array | None] | None:
        if name not in axes:
            return None
        others = tuple(axis for axis in range(values.ndim) if axis != axes[name])
        scale = np.abs(values).max(axis=others, keepdims=True).astype(np.float32) / np.float32(127)
        scale[scale == 0] = 1
        return np.rint(values / scale).astype(np.int8), scale

    return _stored_smaller(quantized, store)


def store_weights_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights in float16, computing in float32.

    Half the size at the speed of float32: onnxruntime turns the weights back when it loads them. It has next to
    no float16 kernels for CPUs; a graph of float16 operators runs slower there, between casts.
    Source: onnxruntime issue 25824.
    """
    limit = np.finfo(np.float16).max

    def store(_: str, values: Array) -> tuple[Array, Array | None] | None:
        return (values.astype(np.float16), None) if np.abs(values).max() <= limit else None

    return _stored_smaller(model, store)


def _stored_smaller(model: onnx.ModelProto, store: Callable[[str, Array], tuple[Array, Array | None] | None]) -> onnx.ModelProto:
    """The graph with float32 initializers kept in a smaller type, cast (and scaled) back by constant nodes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        is_weight = values.dtype == np.float32 and values.size >= _SMALLEST_STORED
        stored = store(tensor.name, values) if is_weight else None
        if stored is None:
            tensors.append(tensor)
            continue
        small, scale = stored
        name = tensor.name
        tensors.append(onnx.numpy_helper.from_array(small, f"{name}/stored"))
        cast = name if scale is None else f"{name}/cast"
        nodes.append(onnx.helper.make_node("Cast", [f"{name}/stored"], [cast], to=onnx.TensorProto.FLOAT))
        if scale is not None:
            tensors.append(onnx.numpy_helper.from_array(scale, f"{name}/scale"))
            nodes.append(onnx.helper.make_node("Mul", [cast, f"{name}/scale"], [name]))
    nodes.extend(graph.node)
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(ordered)
    return result


@contextmanager
def _quiet_quantizer(model: onnx.ModelProto) -> Iterator[Path]:
    """A folder for the quantizer's files, and its advice to run steps that have been run kept silent.

    Raises:
        OutputError: The folder has no room; the quantizer itself would write half a file and say nothing.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
            _check_room(Path(folder) / "room", size_bytes=4 * model.ByteSize())
            yield Path(folder)
    finally:
        root.setLevel(level)


def _check_room(path: Path, *, size_bytes: int) -> None:
    """Write and remove as much as the quantizer will."""
    try:
        with path.open("wb") as stream:
            for _ in range(-(-size_bytes // 2**20)):
                stream.write(bytes(2**20))
            stream.flush()
            os.fsync(stream.fileno())
        path.unlink()
    except OSError as error:
        raise OutputError(
            f"the temporary folder {str(path.parent.parent)!r} must have room for {max(1, size_bytes // 10**6):,} MB: {error.strerror}; "
            "free some, or set TMPDIR to another folder"
        ) from error
