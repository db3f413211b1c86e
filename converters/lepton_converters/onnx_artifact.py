"""ONNX graphs as artifacts."""

import onnx
import onnxruntime

from lepton_converters.artifact import Artifact
from lepton_converters.target_runtime import ONNXRUNTIME_OF_OPSET
from lepton_runtime.formats import Format, Precision
from lepton_runtime.tensors import TensorSpec


def make_artifact(
    model: onnx.ModelProto, precision: Precision, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], route: str
) -> Artifact:
    """The artifact of a finished graph."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    requires = {"onnxruntime": ONNXRUNTIME_OF_OPSET[opset], "opset": opset, "ir_version": model.ir_version}
    return Artifact(Format.ONNX, precision, model.SerializeToString(deterministic=True), inputs, outputs, requires, route)


def silent_options() -> onnxruntime.SessionOptions:
    """Session options under which onnxruntime says nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options
