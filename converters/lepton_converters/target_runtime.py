"""Which runtime reads what an export writes, and which one a model will need."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lepton_converters.layer_config import LayerConfig
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format, Precision, did_you_mean

ONNXRUNTIME_OF_OPSET = {13: "1.7", 14: "1.8", 15: "1.10", 16: "1.11", 17: "1.12", 18: "1.14"}
"""The first onnxruntime release that runs an opset. Source: onnxruntime's table "ONNX Runtime compatibility"."""

# What was measured to need more than opset 13. Source: the lowest version of each handler in tf2onnx 1.17.
_OPSETS = {"BitwiseInvert": 18, "BitwiseNot": 18, "ScatterUpdate": 16, "SegmentSum": 16, "SegmentMax": 16, "SegmentMin": 16}
_LOWEST_OPSET = 13

# TensorFlow Lite releases that layers and activations were measured to need, in real numbers and at static-int8, where that is
# more than 2.2. Source: the entry "min_runtime_version" that TensorFlow 2.21 writes into the files.
_TFLITE_RUNTIMES = {
    **dict.fromkeys(("Attention", "AdditiveAttention", "MultiHeadAttention", "GroupedQueryAttention", "Resizing"), ("2.3", "2.3")),
    **dict.fromkeys(("UnitNormalization", "LayerNormalization", "RMSNormalization"), ("2.2", "2.5")),
    **dict.fromkeys(("GroupNormalization", "Dot"), ("2.3", "2.5")),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D", "UpSampling3D", "RepeatVector"), ("2.2", "2.8")),
    **dict.fromkeys(("Conv3D", "ConvLSTM3D"), ("2.5", "2.5")),
    **dict.fromkeys(("Conv3DTranspose", "ZeroPadding3D"), ("2.6", "2.6")),
    **dict.fromkeys(("selu", "celu", "exponential"), ("2.2", "2.12")),
    **dict.fromkeys(("softplus", "mish", "log_sigmoid"), ("2.2", "2.15")),
    **dict.fromkeys(("softsign", "hard_shrink"), ("2.2", "2.4")),
    "sparsemax": ("2.4", "2.4"),
    "gelu": ("2.9", "2.9"),
    "squareplus": ("2.2", "2.21"),
    "Discretization": ("2.8", "2.8"),
    "MelSpectrogram": ("2.5", "2.21"),
    "ContrastLimitedAdaptiveHistogramEqualization": ("2.12", "2.12"),
}
_GROUPED = ("2.9", "2.9")
_LOWEST_TFLITE = "2.2"
_FORMAT_OF_RUNTIME = {"onnxruntime": Format.ONNX, "tensorflow-lite": Format.TFLITE, "litert": Format.TFLITE}
_FIRST_LITERT = (2, 17)  # LiteRT 1.0 came out of TensorFlow Lite 2.17, and counts its own releases from there


@dataclass(frozen=True)
class TargetRuntime:
    """A release of a runtime that shall load the result.

    Attributes:
        name: ``onnxruntime``, ``tensorflow-lite`` or ``litert``.
        version: Such as ``1.16`` or ``1.16.3``.
    """

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> "TargetRuntime":
        """The release that a text such as ``onnxruntime==1.16`` names.

        Raises:
            InputError: It names none.

        >>> TargetRuntime.parse("onnxruntime==1.16")
        TargetRuntime(name='onnxruntime', version='1.16')
        """
        name, _, version = text.partition("==")
        if name not in _FORMAT_OF_RUNTIME or not re.fullmatch(r"\d+(\.\d+)*", version):
            guess = did_you_mean(name, list(_FORMAT_OF_RUNTIME)) if name not in _FORMAT_OF_RUNTIME else ""
            names = " or ".join(f"{known}==VERSION" for known in _FORMAT_OF_RUNTIME)
            raise InputError(f"--target-runtime takes {names}, such as onnxruntime==1.16, found {text!r}{guess}")
        return cls(name, version)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def format(self) -> Format:
        """What it reads."""
        return _FORMAT_OF_RUNTIME[self.name]

    def reads(self, needed: str) -> bool:
        """Whether it is at least as new as the release that a file needs."""
        release = _FIRST_LITERT if self.name == "litert" else _numbers(self.version)
        return release >= _numbers(needed)


def predict_opset(layers: Iterable[LayerConfig]) -> int:
    """The opset that an ONNX export of these layers will most likely have."""
    return max((_OPSETS.get(layer.kind, _LOWEST_OPSET) for layer in layers), default=_LOWEST_OPSET)


def predict_runtime(layers: Iterable[LayerConfig], format_: Format, precision: Precision) -> str:
    """The oldest release of onnxruntime, or TensorFlow Lite, that most likely loads what these layers become."""
    if format_ == Format.ONNX:
        return ONNXRUNTIME_OF_OPSET[predict_opset(layers)]
    column = 1 if precision == Precision.STATIC_INT8 else 0
    return max((needs[column] for layer in layers for needs in _tflite_needs(layer)), key=_numbers, default=_LOWEST_TFLITE)


def _tflite_needs(layer: LayerConfig) -> list[tuple[str, str]]:
    names: list[Any] = [layer.kind, layer.settings.get("activation")]  # Any: JSON
    needs = [_TFLITE_RUNTIMES[name] for name in names if isinstance(name, str) and name in _TFLITE_RUNTIMES]
    is_grouped = layer.kind.startswith("Conv") and layer.settings.get("groups", 1) != 1
    return needs + [_GROUPED] * is_grouped


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
