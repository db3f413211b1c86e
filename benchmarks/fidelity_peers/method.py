"""The rows of the comparison: who quantizes, for which engine, in which environment."""

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["keras", "onnxruntime", "litert", "openvino"]
SUFFIXES: dict[EngineName, str] = {"keras": ".keras", "onnxruntime": ".onnx", "litert": ".tflite", "openvino": ".xml"}
TITLES: dict[EngineName, str] = {"keras": "Keras", "onnxruntime": "onnxruntime", "litert": "LiteRT", "openvino": "OpenVINO"}

_OURS = ("tensorflow", "keras", "tf2onnx", "onnx_ir", "ai_edge_litert.interpreter", "onnxruntime.quantization", "lepton_converters.export")
_ORT = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime.quantization")
_NNCF = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "openvino", "nncf")
_VERSIONS = {"tensorflow": "tensorflow-cpu", "ai_edge_litert.interpreter": "ai-edge-litert", "ai_edge_quantizer": "ai-edge-quantizer"}


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: For the command line and the results.
        title: For the page.
        engine: What runs the file.
        imports: What a conversion needs; loaded before its clock starts and its memory is counted.
        environment: The peer whose own interpreter makes the file; empty for the one at work.
        base: The method whose float32 file its latency is compared with; empty for those that are not.
    """

    name: str
    title: str
    engine: EngineName
    imports: tuple[str, ...]
    environment: str = ""
    base: str = ""

    @property
    def is_plain_peer(self) -> bool:
        """Whether another quantizer makes it without a budget."""
        return bool(self.base) and not self.name.startswith("ours") and "budget" not in self.name

    @property
    def is_tuned(self) -> bool:
        """Whether it is of a network that was trained on."""
        return "tuned" in self.name

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions whose versions matter."""
        names = (_VERSIONS.get(module, module.partition(".")[0]) for module in self.imports)
        return tuple(dict.fromkeys("lepton-edge" if name == "lepton_converters" else name.replace("_", "-") for name in names))


METHODS = {
    method.name: method
    for method in (
        Method("keras", "Keras, float32", "keras", ("tensorflow", "keras")),
        Method("ours-fp32-onnx", "lepton-edge fp32", "onnxruntime", _OURS),
        Method("ours-onnx", "**lepton-edge static-int8**", "onnxruntime", _OURS, base="ours-fp32-onnx"),
        Method("ours-target-onnx", "**lepton-edge static-int8 --target**", "onnxruntime", _OURS, base="ours-fp32-onnx"),
        Method("ours-budget-onnx", "**lepton-edge static-int8 --max-drop 0.5pp**", "onnxruntime", _OURS, base="ours-fp32-onnx"),
        Method("ours-tuned-onnx", "**lepton-edge finetune, then static-int8**", "onnxruntime", _OURS, base="ours-fp32-onnx"),
        Method("ort-default", "onnxruntime, defaults", "onnxruntime", _ORT, base="ours-fp32-onnx"),
        Method("ort-best", "onnxruntime, as its guide says", "onnxruntime", _ORT, base="ours-fp32-onnx"),
        Method("nncf-onnx", "NNCF", "onnxruntime", _NNCF, "nncf", base="ours-fp32-onnx"),
        Method("nncf-budget-onnx", "NNCF with accuracy control", "onnxruntime", _NNCF, "nncf", base="ours-fp32-onnx"),
        Method("ours-fp32-tflite", "lepton-edge fp32", "litert", _OURS),
        Method("ours-tflite", "**lepton-edge static-int8**", "litert", _OURS, base="ours-fp32-tflite"),
        Method("ours-budget-tflite", "**lepton-edge static-int8 --max-drop 0.5pp**", "litert", _OURS, base="ours-fp32-tflite"),
        Method("ours-tuned-tflite", "**lepton-edge finetune, then static-int8**", "litert", _OURS, base="ours-fp32-tflite"),
        Method("tflite", "TensorFlow's converter", "litert", ("tensorflow", "keras"), base="ours-fp32-tflite"),
        Method(
            "ai-edge-quantizer",
            "ai-edge-quantizer",
            "litert",
            ("tensorflow", "keras", "ai_edge_quantizer.recipe", "ai_edge_quantizer.quantizer"),
            "ai-edge-quantizer",
            base="ours-fp32-tflite",
        ),
        Method("openvino-fp32", "OpenVINO, float32", "openvino", _NNCF, "nncf"),
        Method("nncf-openvino", "NNCF", "openvino", _NNCF, "nncf", base="openvino-fp32"),
        Method("nncf-budget-openvino", "NNCF with accuracy control", "openvino", _NNCF, "nncf", base="openvino-fp32"),
    )
}
"""Every method by its name, in the order of the page."""
ENVIRONMENTS = tuple(dict.fromkeys(method.environment for method in METHODS.values() if method.environment))
PLAIN = ("ours-onnx", "ours-target-onnx", "ours-tflite")
"""Ours that are held against the best plain peer of their engine."""
