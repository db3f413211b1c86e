"""One converted model, not yet verified and not yet on disk."""

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_runtime.formats import Format, Precision
from lepton_runtime.manifest import Quantization
from lepton_runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Artifact:
    """One converted model.

    Attributes:
        format: The file format.
        precision: The numeric precision.
        model: The file's content.
        inputs: What it takes, in the source model's order; integers with their scale and zero point.
        outputs: What it gives, in the source model's order.
        requires: The oldest versions that can run it.
        route: The way from Keras to the file that was taken.
        quantization: How it was quantized, where that was chosen.
    """

    format: Format
    precision: Precision
    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: Mapping[str, str | int]
    route: str
    quantization: Quantization | None = None

    @property
    def file(self) -> str:
        """Its file name in a bundle."""
        return f"model.{self.precision}.{self.format}"
