"""Which artifacts an export makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError
from lepton_runtime.formats import PRECISIONS, Format, Precision
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
    if io != "float" and Precision.STATIC_INT8 not in wanted:
        advice = " and ".join(["add static-int8 to --precision"] * bool(precisions) + ["give --calib PATH"] * (not has_calibration))
        raise InputError(f"--io {io} is for static-int8, which is not among what is made: {', '.join(wanted)}; {advice}")
    targets = [(format_, precision) for format_ in kinds for precision in wanted if precision in PRECISIONS[format_]]
    return Recipe(tuple(targets), frozenset(wanted if precisions else ()), frozenset(kinds if formats else ()), io)


def read_quantization(bundle: str | Path) -> dict[Format, Quantization]:
    """How the ``static-int8`` artifacts of a bundle were made, by format.

    Raises:
        BundleError: It is no bundle, or damaged.
        InputError: It has none.
    """
    records = Bundle.open(bundle).manifest.artifacts
    found = {record.format: record.quantization for record in records if record.quantization is not None}
    if not found:
        raise InputError(f"--recipe takes a bundle with static-int8 artifacts, {str(bundle)!r} has none whose making is recorded")
    return found
