"""The file formats and numeric precisions that an artifact can have."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from lepton_runtime.errors import InputError

_Names = TypeVar("_Names", bound=StrEnum)


def did_you_mean(text: str, names: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the nearest name, or an empty text."""
    import difflib  # only for a mistake: it would cost every start 2 ms

    near = [name for name in names if len(text) > 2 and text in name] or difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _named(names: type[_Names], text: str, *, kind: str) -> _Names:
    """The one of that name."""
    if text not in list(names):
        raise InputError(f"a {kind} is one of {', '.join(names)}, found {text!r}{did_you_mean(text, list(names))}")
    return names(text)


class Format(StrEnum):
    """The file format of an artifact."""

    ONNX = "onnx"
    TFLITE = "tflite"

    @classmethod
    def parse(cls, text: str) -> "Format":
        """The format of that name.

        Raises:
            InputError: There is none; the text lists them.
        """
        return _named(cls, text, kind="format")


class Precision(StrEnum):
    """How an artifact stores its weights and computes.

    ``fp32`` is the source model's own precision. ``fp16`` stores weights in 16 bits and computes in
    float32. ``dynamic-int8`` stores 8-bit weights and needs no data. ``static-int8`` computes in 8 bits
    with ranges measured on calibration data; ``int16x8`` does so with 16-bit activations.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    DYNAMIC_INT8 = "dynamic-int8"
    STATIC_INT8 = "static-int8"
    INT16X8 = "int16x8"

    @property
    def needs_calibration(self) -> bool:
        """Whether this precision is made with calibration data."""
        return self in (Precision.STATIC_INT8, Precision.INT16X8)

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """The precision of that name.

        Raises:
            InputError: There is none; the text lists them and the nearest one.

        >>> Precision.parse("static-int8")
        <Precision.STATIC_INT8: 'static-int8'>
        """
        return _named(cls, text, kind="precision")


class Target(StrEnum):
    """The CPUs that an 8-bit ONNX artifact is made for.

    They differ in how they add up products of 8-bit numbers: an x86 without VNNI in 16 bits that saturate. ``any`` is right
    everywhere, with 7-bit weights. TFLite artifacts are right everywhere at full 8 bits.
    Source: onnxruntime's quantization guide, "when and why do I need to try U8U8".
    """

    ANY = "any"
    X86_VNNI = "x86-vnni"
    X86_AVX2 = "x86-avx2"
    ARM_DOTPROD = "arm-dotprod"
    ARM_V8 = "arm-v8"

    @property
    def saturates(self) -> bool:
        """Whether two products of 8-bit numbers may be added up in 16 bits."""
        return self in (Target.ANY, Target.X86_AVX2)

    @property
    def has_signed_activations(self) -> bool:
        """Whether signed activations run fastest.

        Source: instructions counted for onnxruntime 1.32: 8 % fewer than unsigned ones with dot products, 5 % more without.
        """
        return self == Target.ARM_DOTPROD

    @classmethod
    def parse(cls, text: str) -> "Target":
        """The target of that name.

        Raises:
            InputError: There is none; the text lists them.
        """
        return _named(cls, text, kind="target")


PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    Format.ONNX: (Precision.FP32, Precision.FP16, Precision.DYNAMIC_INT8, Precision.STATIC_INT8),
    Format.TFLITE: tuple(Precision),
}
"""What can be made in each format, the closest to the source model first."""
