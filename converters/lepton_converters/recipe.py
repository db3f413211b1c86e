"""Which artifacts an export makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError
from lepton_runtime.formats import PRECISIONS, Format, Precision, Target
from lepton_runtime.manifest import Quantization

IntegerIo = Literal["float", "int8", "uint8"]


@dataclass(frozen=True)
class Recipe:
    """Which artifacts an export makes.

    Attributes:
        targets: Format and precision of each.
        named: The precisions that were asked for by name, which must not fail in every format.
        named_formats: The formats that were asked for by name.
        io: The number type at the doors of ``static-int8`` artifacts.
    """

    targets: tuple[tuple[Format, Precision], ...]
    named: frozenset[Precision]
    named_formats: frozenset[Format]
    io: IntegerIo

    def must_make(self, format_: Format, precision: Precision) -> bool:
        """Whether both were asked for by name, so that nothing else will do."""
        return format_ in self.named_formats and precision in self.named

    @property
    def needs_calibration(self) -> bool:
        """Whether one of the targets is made with calibration data."""
        return any(precision.needs_calibration for _, precision in self.targets)


def plan_recipe(
    *,
    formats: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    io: IntegerIo = "float",
    measures_blocks: bool = False,
    has_calibration: bool,
) -> Recipe:
    """The artifacts to make: what was asked for, or else everything that can be made.

    Raises:
        InputError: A precision is asked for that has no format or no calibration data.
    """
    kinds = [Format.parse(name) for name in dict.fromkeys(formats or Format)]
    wanted = [Precision.parse(name) for name in dict.fromkeys(precisions or Precision)]
    if not precisions and not has_calibration:
        wanted = [precision for precision in wanted if not precision.needs_calibration]
    for precision in wanted:
        if precision.needs_calibration and not has_calibration:
            raise InputError(f"{precision} needs sample inputs to measure its ranges on, found none; give --calib PATH")
        if precisions and not any(precision in PRECISIONS[format_] for format_ in kinds):
            able = [str(format_) for format_ in Format if precision in PRECISIONS[format_]]
            raise InputError(f"{precision} can be made as {', '.join(able)}, found --format {', '.join(kinds)}")
    options = [f"--io {io}"] * (io != "float") + ["--measure-blocks"] * measures_blocks
    if options and Precision.STATIC_INT8 not in wanted:
        advice = " and ".join(["add static-int8 to --precision"] * bool(precisions) + ["give --calib PATH"] * (not has_calibration))
        raise InputError(f"{options[0]} is for static-int8, which is not among what is made: {', '.join(wanted)}; {advice}")
    targets = [(format_, precision) for format_ in kinds for precision in wanted if precision in PRECISIONS[format_]]
    return Recipe(tuple(targets), frozenset(wanted if precisions else ()), frozenset(kinds if formats else ()), io)


@dataclass(frozen=True)
class Repeated:
    """How the ``static-int8`` artifacts of a bundle were made.

    Attributes:
        records: What was chosen, by format.
        settings: What their export was asked for.
    """

    records: Mapping[Format, Quantization] = field(default_factory=dict)
    settings: Mapping[str, str | int | None] = field(default_factory=dict)

    def target(self, given: str | None) -> Target:
        """The CPUs to make them for again: those of the records, or what is given where there are none.

        Raises:
            InputError: Others are given.
        """
        if not self.records:
            return Target.parse(given or str(Target.ANY))
        onnx = self.records.get(Format.ONNX)  # TFLite files are for any
        made = Target.parse(onnx.target if onnx else str(self.settings.get("target", Target.ANY)))
        if given is not None and Target.parse(given) != made:
            raise InputError(f"--target must be that of the recipe, {made}, found {given}; leave --target or --recipe out")
        return made

    def doubts(self, settings: Mapping[str, str | int | None]) -> list[str]:
        """Why artifacts made with these settings are others than those of the bundle."""
        other = {name: made for name, made in self.settings.items() if name in settings and settings[name] != made}
        if not other:
            return []
        made, found = ", ".join(f"{name} {value}" for name, value in other.items()), ", ".join(str(settings[name]) for name in other)
        return [f"static-int8 files are not the same to the byte as those of the recipe, made with {made}: found {found}"]


def read_repeated(bundle: str | Path) -> Repeated:
    """How the ``static-int8`` artifacts of a bundle were made.

    Raises:
        BundleError: It is no bundle, or damaged.
        InputError: It has none.
    """
    manifest = Bundle.open(bundle).manifest
    found = {record.format: record.quantization for record in manifest.artifacts if record.quantization is not None}
    if not found:
        raise InputError(f"--recipe takes a bundle with static-int8 artifacts, {str(bundle)!r} has none whose making is recorded")
    return Repeated(found, manifest.settings)
