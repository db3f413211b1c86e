"""ONNX files from a frozen graph, at the lowest opset that holds it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnxruntime

from lepton_converters.artifact import Artifact
from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.memory import release_memory
from lepton_converters.onnx_artifact import make_artifact, silent_options
from lepton_converters.onnx_canonical import canonicalize
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.onnx_graph import convert_graph, convert_tflite, fold_constants
from lepton_converters.onnx_operators import repair_transposed_convolutions, replace_erfc
from lepton_converters.onnx_optimize import optimize, optimize_float, with_wide_offsets
from lepton_converters.onnx_quantize import quantize_dynamic
from lepton_converters.onnx_recurrent import OnnxRecurrence
from lepton_converters.onnx_weights import store_weights_fp16
from lepton_converters.quantizer import Quantizer
from lepton_converters.quiet import reason_of
from lepton_converters.tflite_export import TfliteExporter, remembered, told_once
from lepton_runtime.durable import temporary_folder
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.tensors import TensorSpec

# 13 is the first whose QuantizeLinear takes a scale a channel; the later ones bring operators that some layers need.
_OPSETS = (13, 14, 15, 16, 17, 18)


class OnnxExporter:
    """Makes the ONNX artifacts of one model; all start from one float32 graph.

    Routes, in the order in which they are tried: ``graph``, the frozen graph with recurrent layers as ONNX' own
    operators; ``tflite``, the float32 TFLite file, whose compiler knows other operators than tf2onnx does.
    """

    def __init__(
        self, source: KerasSource, *, tflite: TfliteExporter, accept: Callable[[Artifact], None], target: Target = Target.ANY
    ) -> None:
        """Prepare for one model.

        Args:
            source: The trained model.
            tflite: Makes the file of the second route.
            accept: Raises UnsupportedError for an artifact that does not answer as the model does.
            target: The CPU that graphs of float32 are for; they run on all.
        """
        self._source = source
        self._tflite = tflite
        self._accept = accept
        self._base = remembered(self._make_base)
        self._float_form = remembered(lambda: canonicalize(optimize_float(self._base()[0], target=target)))

    def _make_base(self) -> tuple[onnx.ModelProto, str]:
        """The float32 graph, optimized and in canonical form, and its route."""
        faults = []
        for route, convert in (("graph", self._convert_graph), ("tflite", self._convert_tflite)):
            try:
                model = convert()
                self._accept(make_artifact(model, Precision.FP32, self._source.inputs, self._source.outputs, route))
            except UnsupportedError as error:
                faults.append((route, str(error)))
                continue
            return model, route
        raise UnsupportedError(told_once(faults))

    def float_graph(self) -> OnnxFloatGraph:
        """What is quantized.

        Raises:
            UnsupportedError: The model cannot be converted.
        """
        base, route = self._base()
        return OnnxFloatGraph(canonicalize(with_wide_offsets(base)), inputs=self._source.inputs, outputs=self._source.outputs, route=route)

    def make(self, precision: Precision, *, quantizer: Quantizer | None) -> Artifact:
        """One ONNX artifact.

        Args:
            precision: Which.
            quantizer: For ``static-int8``.

        Raises:
            UnsupportedError: It cannot be made at this precision.
        """
        route = self._base()[1]
        doors = self._source.inputs, self._source.outputs
        if precision == Precision.STATIC_INT8:
            if quantizer is None:
                raise UnsupportedError("static-int8 must be calibrated, found no samples; give --calib PATH")
            artifact = quantizer.quantize(self.float_graph())
        else:
            model = self._float_form()
            change = {Precision.FP16: store_weights_fp16, Precision.DYNAMIC_INT8: quantize_dynamic}.get(precision)
            artifact = make_artifact(canonicalize(change(model)) if change else model, precision, *doors, route)
        self._accept(artifact)
        return artifact

    def _convert_graph(self) -> onnx.ModelProto:
        graph = fold_constants(freeze(self._source, Format.ONNX, recurrence=OnnxRecurrence()))
        return self._lowest(lambda opset: convert_graph(graph, opset))

    def _convert_tflite(self) -> onnx.ModelProto:
        artifact = self._tflite.make(Precision.FP32, quantizer=None)
        with temporary_folder() as folder:
            path = Path(folder) / artifact.file
            path.write_bytes(artifact.model)
            return self._lowest(lambda opset: convert_tflite(str(path), opset))

    def _lowest(self, convert: Callable[[int], onnx.ModelProto]) -> onnx.ModelProto:
        """The graph at the lowest opset that holds it."""
        reason = ""
        for opset in _OPSETS:
            try:
                model = convert(opset)
            except (ValueError, RuntimeError, KeyError, AssertionError, NotImplementedError, AttributeError, TypeError) as error:
                # tf2onnx raises these for an operator that it cannot map, or not at this opset.
                reason = reason_of(error)
                continue
            release_memory(4 * self._source.parameters)
            repair_transposed_convolutions(model)
            model = replace_erfc(model)
            unknown = sorted({node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, opset, node.domain)})
            if unknown:
                # tf2onnx says so in its log only, and leaves the TensorFlow operator in.
                reason = f"no form for {', '.join(unknown)}"
                continue
            _check_doors(model, self._source)
            model = _rename_doors(model, self._source)
            model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
            model = canonicalize(optimize(model))
            release_memory(4 * self._source.parameters)
            try:
                onnxruntime.InferenceSession(model.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"])
            except Exception as error:  # noqa: BLE001  # its own exception classes share no base but this
                reason = f"onnxruntime cannot load the result: {reason_of(error)}"
                continue
            return model
        raise UnsupportedError(f"every operator must have an ONNX form up to opset {_OPSETS[-1]}, tf2onnx says: {reason}")


def _check_doors(model: onnx.ModelProto, source: KerasSource) -> None:
    """Refuse a graph that wants more inputs than the model has: it could not be run."""
    names = {tensor.name for tensor in model.graph.initializer}
    found = [value.name for value in model.graph.input if value.name not in names]
    if len(found) != len(source.inputs) or len(model.graph.output) != len(source.outputs):
        raise UnsupportedError(
            f"the ONNX graph must have {len(source.inputs)} inputs and {len(source.outputs)} outputs, tf2onnx wrote "
            f"{found} and {[value.name for value in model.graph.output]}"
        )


def _rename_doors(model: onnx.ModelProto, source: KerasSource) -> onnx.ModelProto:
    """Give inputs and outputs the Keras names and shapes; inner values that had such a name step aside."""
    doors = [*zip(model.graph.input, source.inputs, strict=True), *zip(model.graph.output, source.outputs, strict=True)]
    names = {value.name: spec.name for value, spec in doors}
    wanted = set(names.values())

    def rename(name: str) -> str:
        return names.get(name, f"{name}/inner" if name in wanted else name)

    for node in model.graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = rename(tensor.name)
    del model.graph.value_info[:]
    for value, spec in doors:
        value.CopyFrom(_value_info(value, spec))
    return model


def _value_info(value: onnx.ValueInfoProto, spec: TensorSpec) -> onnx.ValueInfoProto:
    axes: Sequence[int | str] = ["batch" if axis is None and position == 0 else axis or "" for position, axis in enumerate(spec.shape)]
    return onnx.helper.make_tensor_value_info(spec.name, value.type.tensor_type.elem_type, axes)
