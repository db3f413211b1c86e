"""TFLite files as artifacts, and what they say about themselves."""

from typing import Any

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.keras_source import KerasSource
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.tensors import TensorSpec


def make_artifact(model: bytes, precision: Precision, source: KerasSource, route: str) -> Artifact:
    """The artifact of a finished file.

    Raises:
        UnsupportedError: It lacks an input or output of the model, or does not say which runtime it needs.
    """
    inputs, outputs = _doors(model, source)
    return Artifact(Format.TFLITE, precision, model, inputs, outputs, {"tensorflow-lite": oldest_runtime(model)}, route)


def oldest_runtime(model: bytes) -> str:
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
