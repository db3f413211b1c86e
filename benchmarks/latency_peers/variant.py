"""Who runs a network: the rows of the comparison."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: For the command line and the results.
        title: For the page.
        kind: What it computes in; ``dynamic`` 8 bits count as 8 bits.
        engine: What runs it, see :mod:`latency_peers.worker`.
        file: What it runs, in the network's folder.
        environment: The peer whose own interpreter runs it; empty for the one at work.
        step: What of :mod:`latency_peers.make` makes the file.
    """

    name: str
    title: str
    kind: Kind
    engine: str
    file: str
    environment: str = ""
    step: str = "keras"

    @property
    def is_ours(self) -> bool:
        """Whether it is no peer."""
        return self.engine.startswith("lepton")


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("keras", "Keras, `predict`", "fp32", "keras", "model.keras"),
        Variant("keras-onnx", "Keras' ONNX export on onnxruntime", "fp32", "onnxruntime", "keras.onnx"),
        Variant("litert", "TensorFlow's converter on LiteRT", "fp32", "litert", "tf-fp32.tflite"),
        Variant("openvino", "Keras' ONNX export on OpenVINO", "fp32", "openvino", "keras.onnx"),
        Variant("ort-openvino", "Keras' ONNX export on onnxruntime-openvino", "fp32", "onnxruntime", "keras.onnx", "onnxruntime-openvino"),
        Variant("ncnn", "ncnn", "fp32", "ncnn", "ncnn.param", "ncnn", "ncnn"),
        Variant("mnn", "MNN", "fp32", "mnn", "model.mnn", "mnn", "mnn"),
        Variant("ours-onnx", "**lepton-edge on onnxruntime**", "fp32", "lepton", "model.fp32.onnx"),
        Variant("ours-tflite", "**lepton-edge on LiteRT**", "fp32", "lepton", "model.fp32.tflite"),
        Variant("ours-tuned-float", "**lepton-edge, tuned among float files**", "fp32", "lepton-tuned", "float"),
        Variant(
            "ort-default", "`quantize_static` defaults on onnxruntime", "int8", "onnxruntime", "ort-default.onnx", step="quantize_static"
        ),
        Variant("litert-int8", "TensorFlow's converter on LiteRT", "int8", "litert", "tf-int8.tflite"),
        Variant("litert-dynamic", "the same with dynamic ranges", "int8", "litert", "tf-dynamic.tflite"),
        Variant("nncf", "NNCF on OpenVINO", "int8", "openvino", "nncf.xml", "nncf", "nncf"),
        Variant("ours-onnx-int8", "**lepton-edge on onnxruntime**", "int8", "lepton", "model.static-int8.onnx"),
        Variant("ours-tflite-int8", "**lepton-edge on LiteRT**", "int8", "lepton", "model.static-int8.tflite"),
        Variant("ours-tuned", "**lepton-edge, tuned within 0.5pp**", "int8", "lepton-tuned", "budget"),
    )
}
"""Every row by its name, in the order of the page."""
ENVIRONMENTS = tuple(dict.fromkeys(variant.environment for variant in VARIANTS.values() if variant.environment))
