"""ONNX files from a frozen graph, at the lowest opset that holds it."""

from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime

from lepton_converters.artifact import Artifact
from lepton_converters.calibration import Calibration
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_optimize import canonicalize, optimize, replace_erfc
from lepton_converters.onnx_quantize import quantize_dynamic, quantize_static, store_weights_fp16
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.recipe import IntegerIo
from lepton_converters.target_runtime import ONNXRUNTIME_OF_OPSET
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.tensors import TensorSpec

# 13 is the first whose QuantizeLinear takes a scale a channel; the later ones bring operators that some layers need.
_OPSETS = (13, 14, 15, 16, 17, 18)


def export_onnx(source: KerasSource, graph: Any) -> onnx.ModelProto:
    """The float32 ONNX graph, optimized and in canonical form, that all ONNX artifacts start from.

    Args:
        source: The trained model.
        graph: Its frozen graph, from :func:`lepton_converters.frozen_graph.freeze`.

    Raises:
        UnsupportedError: An operator has no ONNX form, or onnxruntime cannot load the result.
    """
    import tf2onnx

    reason = ""
    for opset in _OPSETS:
        try:
            with quiet_tensorflow():
                model, _ = tf2onnx.convert.from_graph_def(
                    graph.graph.as_graph_def(),
                    input_names=[tensor.name for tensor in graph.inputs],
                    output_names=[tensor.name for tensor in graph.outputs],
                    opset=opset,
                )
        except (ValueError, RuntimeError, KeyError, AssertionError, NotImplementedError) as error:
            # tf2onnx raises these for an operator that it cannot map, or not at this opset.
            reason = reason_of(error)
            continue
        model = replace_erfc(model)
        unknown = sorted({node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, opset, node.domain)})
        if unknown:
            # tf2onnx says so in its log only, and leaves the TensorFlow operator in.
            reason = f"no form for {', '.join(unknown)}"
            continue
        _check_doors(model, source)
        model = _rename_doors(model, source)
        model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        model = canonicalize(optimize(model))
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), _silent_options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  # its own exception classes share no base but this
            reason = f"onnxruntime cannot load the result: {reason_of(error)}"
            continue
        return model
    raise UnsupportedError(f"every operator must have an ONNX form up to opset {_OPSETS[-1]}, tf2onnx says: {reason}")


def make_onnx(
    source: KerasSource, base: onnx.ModelProto, precision: Precision, *, calibration: Calibration | None, io: IntegerIo
) -> Artifact:
    """One ONNX artifact.

    Args:
        source: The trained model.
        base: From :func:`export_onnx`.
        precision: Which.
        calibration: For ``static-int8``.
        io: The number type at the doors of ``static-int8``.

    Raises:
        UnsupportedError: It cannot be made at this precision.
    """
    model, inputs, outputs = base, source.inputs, source.outputs
    if precision == Precision.FP16:
        model = canonicalize(store_weights_fp16(base))
    elif precision == Precision.DYNAMIC_INT8:
        model = canonicalize(quantize_dynamic(base))
    elif precision == Precision.STATIC_INT8:
        if calibration is None:
            raise UnsupportedError("static-int8 must be calibrated, found no samples; give --calib PATH")
        quantized, inputs, outputs = quantize_static(base, calibration, inputs=inputs, outputs=outputs, io=io)
        model = canonicalize(quantized)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    requires = {"onnxruntime": ONNXRUNTIME_OF_OPSET[opset], "opset": opset, "ir_version": model.ir_version}
    return Artifact(Format.ONNX, precision, model.SerializeToString(deterministic=True), inputs, outputs, requires)


def _silent_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


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
