"""Finished artifacts, changed in their own format."""

from collections.abc import Callable
from dataclasses import replace

import onnx

from lepton_converters.artifact import Artifact
from lepton_converters.tflite_artifact import oldest_runtime
from lepton_runtime.formats import Format


def rewritten(
    artifact: Artifact, *, onnx_file: Callable[[onnx.ModelProto], onnx.ModelProto], tflite_file: Callable[[bytes], bytes]
) -> Artifact:
    """The artifact with another content; what it takes and gives is not looked at.

    Args:
        artifact: Whose content is changed.
        onnx_file: Changes it, if it is ONNX.
        tflite_file: Changes it, if it is TFLite.
    """
    if artifact.format == Format.ONNX:
        model = onnx_file(onnx.load_from_string(artifact.model))
        return replace(artifact, model=model.SerializeToString(deterministic=True))
    content = tflite_file(artifact.model)
    return replace(artifact, model=content, requires={"tensorflow-lite": oldest_runtime(content)})
