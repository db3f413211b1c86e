"""TFLite files from a frozen graph, with built-in operators only."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.calibration import Calibration
from lepton_converters.keras_source import KerasSource
from lepton_converters.quiet import quiet_tensorflow
from lepton_converters.recipe import IntegerIo
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.tensors import Array, TensorSpec

_LOOPS = {"While", "StatelessWhile", "Enter", "Exit", "LoopCond", "NextIteration", "TensorListReserve"}


def make_tflite(source: KerasSource, graph: Any, precision: Precision, *, calibration: Calibration | None, io: IntegerIo) -> Artifact:
    """One TFLite artifact.

    Args:
        source: The trained model.
        graph: Its frozen graph, from :func:`lepton_converters.frozen_graph.freeze`.
        precision: Which.
        calibration: For ``static-int8`` and ``int16x8``.
        io: The number type at the doors of ``static-int8``.

    Raises:
        UnsupportedError: It cannot be made at this precision with built-in operators.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    # Without the model as second argument: with it the converter goes through a SavedModel, which renames the
    # inputs and outputs and does not keep their order.
    with quiet_tensorflow():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph])
    converter.target_spec.supported_ops = [_operators(tf.lite.OpsSet, precision)]
    if precision != Precision.FP32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == Precision.FP16:
        converter.target_spec.supported_types = [tf.float16]
    if precision.needs_calibration:
        loops = sorted({node.op for node in graph.graph.as_graph_def().node} & _LOOPS)
        if loops:
            raise UnsupportedError(
                f"{precision} needs a graph without loops, found {', '.join(loops)}: TensorFlow crashes on calibrating one"
            )
        if calibration is None:
            raise UnsupportedError(f"{precision} must be calibrated, found no samples; give --calib PATH")
        samples = calibration

        def representative_dataset() -> Iterator[list[Array]]:
            for batch in samples.batches():
                yield [batch[spec.name] for spec in source.inputs]

        converter.representative_dataset = representative_dataset
    if precision == Precision.STATIC_INT8 and io != "float":
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io)
    try:
        with quiet_tensorflow():
            model: bytes = converter.convert()
    except (ConverterError, ValueError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        lines = [line for word in (" ops: ", "error: ") for line in lines if word in line] or lines
        raise UnsupportedError(f"every operator must have a built-in TFLite form at {precision}: {lines[0].strip()[:300]}") from error
    inputs, outputs = _doors(model, source)
    return Artifact(Format.TFLITE, precision, model, inputs, outputs, {"tensorflow-lite": _oldest_runtime(model)})


def _operators(ops: Any, precision: Precision) -> Any:
    if precision == Precision.STATIC_INT8:
        return ops.TFLITE_BUILTINS_INT8
    if precision == Precision.INT16X8:
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS


def _oldest_runtime(model: bytes) -> str:
    """The first TensorFlow Lite release that runs the file, as the converter noted in it.

    Source: the metadata entry "min_runtime_version" of the TFLite schema.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    content: Any = schema.Model.GetRootAs(model, 0)  # Any: generated code without types
    for number in range(content.MetadataLength()):
        entry = content.Metadata(number)
        if entry.Name() == b"min_runtime_version":
            return bytes(content.Buffers(entry.Buffer()).DataAsNumpy()).rstrip(b"\0").decode()
    raise UnsupportedError("the TFLite file must name the runtime it needs, TensorFlow wrote none into it")


def _doors(model: bytes, source: KerasSource) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The file's own inputs and outputs, with the scale and zero point of integers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    found = []
    for specs, details in ((source.inputs, interpreter.get_input_details()), (source.outputs, interpreter.get_output_details())):
        if len(specs) != len(details):
            raise UnsupportedError(
                f"the TFLite file must keep {[spec.name for spec in specs]}, found {[detail['name'] for detail in details]}"
            )
        found.append(tuple(_door(spec, detail) for spec, detail in zip(specs, details, strict=True)))
    return found[0], found[1]


def _door(spec: TensorSpec, detail: Any) -> TensorSpec:
    dtype = np.dtype(detail["dtype"]).name
    if dtype == spec.dtype:
        return spec
    scale, zero_point = detail["quantization"]
    return TensorSpec(spec.name, spec.shape, dtype, float(scale), int(zero_point))
