"""8-bit and 16-bit ONNX graphs: the one room that talks to onnxruntime's quantizer."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_quant_input_suffix

from lepton_converters.float_graph import Ranges
from lepton_converters.onnx_weights import stored_smaller
from lepton_runtime.durable import temporary_folder
from lepton_runtime.errors import OutputError
from lepton_runtime.tensors import Array

# Weights that dynamic-int8 only stores in 8 bits: their place among an operator's inputs, and the axis of a scale each.
_STORED = {
    "Conv": [(1, 0)],
    "ConvTranspose": [(1, 1)],
    "LSTM": [(1, 1), (2, 1)],
    "GRU": [(1, 1), (2, 1)],
    "RNN": [(1, 1), (2, 1)],
    "Gather": [(0, 0)],
}
_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm")  # by onnxruntime itself; see _keep_apart
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
}


def quantize_static(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    nodes: Sequence[str],
    keeps_float: Collection[str],
    scales: Mapping[str, tuple[Array, int]],
    has_signed_activations: bool,
) -> onnx.ModelProto:
    """The graph with 8-bit weights and activations, as QuantizeLinear and DequantizeLinear pairs (QDQ).

    Weights are signed, with a scale a channel. Unsigned activations run 2 to 18 times faster on x86 than signed ones, the
    quantizer's default.

    Args:
        model: The float graph with batch normalization folded.
        ranges: Of the activations that these nodes take and give.
        nodes: What is to compute in 8 bits, or only moves 8-bit values.
        keeps_float: Tensors that stay float32 although 8-bit nodes make them: only float operators take them.
        scales: For each weight, the value of the integer 1 in each channel, and the axis of channels.
        has_signed_activations: Whether activations are signed.
    """
    if not nodes:
        return model
    wanted = frozenset(nodes)
    data: dict[str, TensorData | tuple[Array, ...]]
    data = {name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    with _quiet_quantizer():
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if has_signed_activations else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in wanted}),
            extra_options={**_STATIC_OPTIONS, "TensorQuantOverrides": {name: _channels(*found) for name, found in scales.items()}},
        )
        quantized: onnx.ModelProto = quantizer.quantize_model()
    quantized.ir_version = model.ir_version
    del quantized.graph.value_info[:]
    _take_out_pairs(quantized.graph, keeps_float)
    _keep_apart(quantized.graph)
    return quantized


def _channels(scales: Array, axis: int) -> list[dict[str, object]]:
    """The scales of a weight as the quantizer takes them."""
    return [{"axis": axis, "scale": np.array(scale, np.float32), "zero_point": np.array(0, np.int8)} for scale in scales]


def _take_out_pairs(graph: onnx.GraphProto, tensors: Collection[str]) -> None:
    """Let those tensors go on as they are, without being rounded to 8 bits."""
    quantizes = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    dequantizes = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    names = {value.name for value in graph.output}
    for name in tensors:
        first = quantizes.get(add_quant_input_suffix(name) if name in names else name)  # an output has its name behind the pair
        second = first and dequantizes.get(first.output[0])
        if first is None or second is None:
            continue
        graph.node.remove(first)
        graph.node.remove(second)
        old, new = (first.input[0], name) if name in names else (second.output[0], name)
        for node in graph.node:
            node.input[:] = [new if given == old else given for given in node.input]
            node.output[:] = [new if made == old else made for made in node.output]


def _keep_apart(graph: onnx.GraphProto) -> None:
    """Put a sum of one term, which changes nothing, between 8-bit values and operators that stay in float.

    Else onnxruntime quantizes the weights of these by itself when it loads the file, with one scale for all channels.
    Source: onnxruntime pull requests 22969 and 25673, WeightBiasQuantization, since 1.21.
    """
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name for tensor in graph.initializer}
    ordered: list[onnx.NodeProto] = []
    for node in map(_copied, graph.node):
        is_float = node.op_type in _REQUANTIZED and node.input[1] in constants
        if is_float and node.input[0] in dequantized:
            apart = f"{node.output[0]}/apart"
            ordered.append(onnx.helper.make_node("Sum", [node.input[0]], [apart], name=apart))
            node.input[0] = apart
        ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy: onnx.NodeProto = onnx.NodeProto.FromString(node.SerializeToString())
    return copy


def quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with 8-bit weights and ranges taken from each input as it comes; needs no data.

    Dense layers compute in 8 bits. Convolutions, recurrent layers and embeddings keep 8-bit weights in the file, with a
    scale a channel, unit or entry, and compute in float32: onnxruntime has no 8-bit GRU, and its ConvInteger took 1.6 to
    3.6 times as long as its float convolution on the four networks of ``benchmarks/dynamic_convolution.py`` (onnxruntime
    1.32, x86-64 with VNNI).
    """
    with _quiet_quantizer(), _folder_for(model) as folder:
        ort_quantize_dynamic(
            model,
            folder / "quantized.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # 7 bits: 16-bit sums of two products of 8 bits may saturate. Source: onnxruntime's quantization guide
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

    return stored_smaller(quantized, store)


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Its advice to run steps that have been run kept silent."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def _folder_for(model: onnx.ModelProto) -> Iterator[Path]:
    """A folder for the quantizer's files.

    Raises:
        OutputError: It has no room; the quantizer itself would write half a file and say nothing.
    """
    with temporary_folder() as folder:
        _check_room(Path(folder) / "room", size_bytes=4 * model.ByteSize())
        yield Path(folder)


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
