"""Which artifact of a bundle is opened, and on which engine."""

from lepton_runtime.bundle import Bundle
from lepton_runtime.cpu import may_saturate
from lepton_runtime.engines import ENGINES, ENGINES_OF_FORMAT, check_engine, engine_of, is_installed
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Precision
from lepton_runtime.manifest import ArtifactRecord

_ORDER = list(Precision)


def choose_artifact(bundle: Bundle, *, precision: str | None = None, engine: str | None = None) -> ArtifactRecord:
    """The artifact that fits, the one closest to the source model first; last those whose answers may be wrong on this CPU.

    Raises:
        InputError: None fits; the text lists what there is.
    """
    wanted = Precision.parse(precision) if precision else None
    if engine is not None:
        check_engine(engine)
    able = [record for record in bundle.manifest.artifacts if engine is None or engine in ENGINES_OF_FORMAT[record.format]]
    fitting = [record for record in able if (record.precision == wanted if wanted else record.passed)]
    if able and not fitting and not wanted:
        raise InputError(
            f"an artifact of {str(bundle.path)!r} must have kept to the accuracy budget, {', '.join(record.file for record in able)} "
            "broke it; --precision NAME takes one all the same"
        )
    if not fitting:
        found = ", ".join(f"{record.precision} ({' or '.join(ENGINES_OF_FORMAT[record.format])})" for record in bundle.manifest.artifacts)
        asked = " ".join(filter(None, (precision, engine)))
        raise InputError(f"{str(bundle.path)!r} holds {found or 'nothing'}, found nothing for {asked or 'default use'}")
    return min(fitting, key=lambda record: (bool(may_saturate(record)), ENGINES.index(engine_of(record)), _ORDER.index(record.precision)))


def other_choices(
    bundle: Bundle, record: ArtifactRecord, engine: str, *, only_engine: str | None = None
) -> list[tuple[ArtifactRecord, str]]:
    """What may be opened in place of an artifact on an engine, the best first: of the nearest precision, with ``fp32`` at last.

    Only what kept to the accuracy budget of its export, on engines that are installed.

    Args:
        bundle: What holds them.
        record: The artifact that is not to be opened.
        engine: On this engine.
        only_engine: The only one that may be taken.
    """
    place = _ORDER.index(record.precision)
    found = [
        (other, name)
        for other in bundle.manifest.artifacts
        for name in ENGINES_OF_FORMAT[other.format]
        if other.passed and (other.file, name) != (record.file, engine) and name in (only_engine or name,) and is_installed(name)
    ]

    def rank(choice: tuple[ArtifactRecord, str]) -> tuple[bool, bool, int, int]:
        other, name = choice
        distance = abs(_ORDER.index(other.precision) - place)
        return bool(may_saturate(other)), other.precision is Precision.FP32 and distance > 0, distance, ENGINES.index(name)

    return sorted(found, key=rank)
