"""From a model to the artifacts that were asked for, and what could not be made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_converters.artifact import Artifact
from lepton_converters.dataset import Sample
from lepton_converters.keras_source import KerasSource
from lepton_converters.recipe import Recipe
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision, Target

if TYPE_CHECKING:
    from lepton_converters.quantizer import Quantizer


@dataclass(frozen=True)
class Step:
    """One step of an export or a fine-tuning, told to whoever shows progress.

    Attributes:
        name: ``read``, ``convert``, ``quantize``, ``verify`` or ``write``; of a fine-tuning also ``answer``, ``train`` and ``judge``.
        subject: The file it works on.
        detail: What came out, in words; empty while it is under way.
        fraction: How much of it is done, 0 to 1.
        doing: What is under way, in words.
    """

    name: str
    subject: str
    detail: str = ""
    fraction: float = 0.0
    doing: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A target that is not in the bundle.

    Attributes:
        format: The file format.
        precision: The numeric precision.
        reason: Why, in words.
    """

    format: Format
    precision: Precision
    reason: str


def convert(
    source: KerasSource,
    recipe: Recipe,
    quantizer: "Quantizer | None",
    samples: Sequence[Sample],
    on_step: Callable[[Step], None],
    *,
    target: Target = Target.ANY,
) -> tuple[list[Artifact], list[LeftOut]]:
    """One artifact a target; a target that cannot be made is left out, unless it was asked for by name.

    Args:
        source: The trained model.
        recipe: The targets.
        quantizer: For those that are calibrated.
        samples: A few, to tell whether a route's result is right.
        on_step: Told what is happening.
        target: The CPU that ONNX artifacts of float32 are for; they run on all.

    Raises:
        UnsupportedError: A target that was asked for by name cannot be made, or none can.
    """
    from lepton_converters.onnx_export import OnnxExporter
    from lepton_converters.parity import Probe
    from lepton_converters.tflite_export import TfliteExporter

    on_step(Step("convert", "graph"))
    accept = Probe(source, samples).check
    tflite = TfliteExporter(source, accept=accept)
    exporters: dict[Format, TfliteExporter | OnnxExporter] = {
        Format.ONNX: OnnxExporter(source, tflite=tflite, accept=accept, target=target),
        Format.TFLITE: tflite,
    }
    artifacts: list[Artifact] = []
    left_out: list[LeftOut] = []
    for position, (format_, precision) in enumerate(recipe.targets):
        on_step(Step("convert", f"model.{precision}.{format_}", fraction=position / len(recipe.targets)))
        try:
            artifact = exporters[format_].make(precision, quantizer=quantizer)
        except UnsupportedError as error:
            if recipe.must_make(format_, precision):
                raise
            left_out.append(LeftOut(format_, precision, f"not converted: {error}"))
            continue
        artifacts.append(artifact)
        on_step(Step("convert", artifact.file, _detail(artifact), (position + 1) / len(recipe.targets)))
    check_named(recipe, {artifact.precision for artifact in artifacts}, left_out)
    return artifacts, left_out


def check_named(recipe: Recipe, made: set[Precision], left_out: Sequence[LeftOut]) -> None:
    """Refuse to go on where nothing can be made, or a precision that was asked for by name in no format.

    Raises:
        UnsupportedError: The text says why.
    """
    missing = recipe.named - made
    if missing or not made:
        reasons = [f"{entry.format}: {entry.reason}" for entry in left_out if not made or entry.precision in missing]
        raise UnsupportedError("; ".join(dict.fromkeys(reasons)))


def _detail(artifact: Artifact) -> str:
    size, made = f"{len(artifact.model) / 1000:,.0f} kB", artifact.quantization
    if made is None:
        return size
    kept = f"{len(made.float_blocks)} of {made.blocks} blocks in float, " if made.float_blocks else ""
    words = [", equalized"] * made.equalized + [", shared scales"] * made.shared_scales
    return f"{size}, {kept}{made.ranges} ranges, {made.rounding} weights{''.join(words)}"
