"""What a bundle says about itself: the one place that reads and writes a manifest key."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from lepton_runtime.answers import Answers
from lepton_runtime.errors import BundleError, LeptonError
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.labels import class_output
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import NUMBER_TYPES, TensorSpec

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**33  # no device loads more
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Record = TypeVar("_Record")


class _UnknownKeyError(KeyError):
    """A key that this version does not know: a newer one has written it."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle.

    Attributes:
        file: A plain name inside the bundle.
        size_bytes: Its exact length.
        sha256: Its digest, in lower-case hexadecimal.
    """

    file: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not _FILE_NAME.fullmatch(self.file):
            raise BundleError(f"a bundle's files have plain names inside its folder, found {self.file!r}; do not use this bundle")
        if (
            not isinstance(self.sha256, str)
            or not _SHA256.fullmatch(self.sha256)
            or type(self.size_bytes) is not int
            or not 0 <= self.size_bytes <= MAX_FILE_BYTES
        ):
            raise BundleError(f"{self.file!r} must have a size and a SHA-256 digest in the manifest; export the bundle again")


@dataclass(frozen=True)
class Parity:
    """How far an artifact's outputs are from the source model's, on inputs it was not calibrated on.

    Attributes:
        max_abs: Largest absolute difference over all outputs.
        cosine: Cosine similarity of all outputs taken as one vector, 0 to 1 for alike directions.
        top1_agreement: Share of samples with the same best class; ``None`` if no output holds class scores.
        samples: On how many samples.
    """

    max_abs: float
    cosine: float
    top1_agreement: float | None
    samples: int


@dataclass(frozen=True)
class BlockRecord:
    """What quantizing one block costs, measured on samples that no range was measured on.

    Attributes:
        name: The layer's name, from the names of its tensors.
        alone: The error of the network's answers with this block in 8 bits and all others in float.
        cumulative: The same with this block and all that run before it in 8 bits.
        saved: How much of the error of the quantized network goes away with this block alone in float.
        drop: The accuracy lost with this block alone in 8 bits, 0 to 1; ``None`` without labels.
        saved_error: The standard error of ``saved``, from sample to sample; ``None`` with a single one.
    """

    name: str
    alone: float
    cumulative: float
    saved: float
    drop: float | None
    saved_error: float | None = None


@dataclass(frozen=True)
class SearchStep:
    """One measurement of the search for blocks that must stay in float.

    Attributes:
        float_blocks: How many blocks were in float.
        changed: The block that was added or taken back last; empty where several were.
        drop: The accuracy lost, 0 to 1, as the float network's probabilities tell on the samples of the search.
        margin: How far the drop on as many other samples may be from it by chance; both together must keep to the budget.
    """

    float_blocks: int
    changed: str
    drop: float
    margin: float


@dataclass(frozen=True)
class Quantization:
    """How a ``static-int8`` artifact was made, enough to make it again.

    Attributes:
        target: The CPUs that it is for, a name of :class:`lepton_runtime.formats.Target`.
        ranges: How the ranges of activations were found.
        equalized: Whether channels were brought to like ranges across layers.
        rounding: How weights became integers: ``nearest``, ``bias-corrected``, ``fitted`` to the activations, or ``clipped`` before.
        float_blocks: Blocks that compute in float32.
        blocks: How many there are that could compute in 8 bits.
        measured: What each block costs; empty where no search was needed, and none was asked for.
        steps: Of the search, in order.
        shared_scales: Whether all channels of an operator's weights have one scale.
    """

    target: str
    ranges: str
    equalized: bool
    rounding: str
    float_blocks: tuple[str, ...]
    blocks: int
    measured: tuple[BlockRecord, ...] = ()
    steps: tuple[SearchStep, ...] = ()
    shared_scales: bool = False


@dataclass(frozen=True)
class ArtifactRecord(FileRecord):
    """One converted model of the bundle.

    Attributes:
        format: The file format.
        precision: The numeric precision.
        inputs: What the file takes, in the source model's order.
        outputs: What it gives, in the source model's order.
        requires: The oldest versions that can run it, such as ``{"onnxruntime": "1.7"}``.
        parity: Against the source model.
        accuracy: Share of right answers on the evaluation data, 0 to 1; ``None`` without such data.
        verdict: What the verification found, in words.
        passed: Whether it is within the budget; a bundle holds failed artifacts only on request.
        route: The way from Keras to the file, one of those that :mod:`lepton_converters` tries in turn.
        quantization: How it was quantized; ``None`` for other precisions than ``static-int8``, and where TensorFlow did it alone.
    """

    format: Format
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: Mapping[str, str | int]
    parity: Parity
    accuracy: float | None
    verdict: str
    passed: bool
    route: str = "graph"
    quantization: Quantization | None = None


@dataclass(frozen=True)
class EncoderRecord:
    """One step from raw values, such as a text, to what the models take; see :mod:`lepton_runtime.encoders`.

    Attributes:
        kind: Which step.
        inputs: What it takes: raw inputs, their number type ``string`` for text, or results of steps before it.
        output: What it gives: one of the models' inputs, or of a later step's.
        settings: Of the step, JSON values.
        vocabulary: The file with what it knows, or ``None``.
    """

    kind: str
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    settings: Mapping[str, Any]
    vocabulary: FileRecord | None


@dataclass(frozen=True)
class Evaluation:
    """The task's accuracy of the source model, and the budget that artifacts were held to.

    Attributes:
        accuracy: Share of right answers of the source model, 0 to 1.
        samples: On how many samples.
        max_drop: The budget as it was given, such as ``"1pp"``.
    """

    accuracy: float
    samples: int
    max_drop: str


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        source: File name and digest of the source model; ``None`` values for a model given in memory.
        inputs: The source model's inputs, in its order; the frame, where the models take it as a camera gives it.
        outputs: The source model's outputs, in its order; the answers, where the models go on to these.
        preprocessing: From a raw sample to the input; ``None`` for a model with several inputs, or with encoders.
        labels: One name a class, or ``None``.
        artifacts: The converted models.
        golden: A NumPy archive with a few inputs, the source model's outputs and each artifact's.
        evaluation: ``None`` if no labelled data was given.
        license: As given on export.
        settings: What the export was asked for, to repeat it.
        versions: Of the packages that made the bundle.
        removed_layers: Names of layers that work in training only, which no artifact holds.
        encoders: From raw values to the inputs, in the order in which they run.
        noise_inputs: Names of inputs that a session fills with uniform noise from 0 to 1, for dropout that is kept.
        serial: A number that goes up from release to release, or ``None``; a device does not go back to a lower one.
        documents: Files about the bundle, for people and other tools: ``model-card.md``, ``sbom.cdx.json``.
        answers: The steps behind the network that the models hold, or ``None``.
        notes: What else is not as it was in the source model's file, in words.
    """

    source: Mapping[str, str | None]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | FrameInput | None
    labels: tuple[str, ...] | None
    artifacts: tuple[ArtifactRecord, ...]
    golden: FileRecord
    evaluation: Evaluation | None = None
    license: str | None = None
    settings: Mapping[str, str | int | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    removed_layers: tuple[str, ...] = ()
    encoders: tuple[EncoderRecord, ...] = ()
    notes: tuple[str, ...] = ()
    noise_inputs: tuple[str, ...] = ()
    answers: Answers | None = None
    serial: int | None = None
    documents: tuple[FileRecord, ...] = ()

    @property
    def given_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs without the noise that a session draws."""
        return tuple(spec for spec in self.inputs if spec.name not in self.noise_inputs)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the bundle but the manifest and its digest."""
        vocabularies = dict.fromkeys(encoder.vocabulary for encoder in self.encoders if encoder.vocabulary is not None)
        return (*self.artifacts, self.golden, *vocabularies, *self.documents)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values, schema version first."""
        values = asdict(self)
        values["preprocessing"] = self.preprocessing.to_dict() if self.preprocessing else None
        return {"schema_version": SCHEMA_VERSION, **values}

    def to_json(self) -> bytes:
        """The manifest's file: the same bytes for the same content."""
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def check_answers(self) -> None:
        """Refuse steps before and behind the models that these cannot have, labels that are no names, and a serial that is no number.

        Raises:
            BundleError: There are some.
        """
        names = [record.file for record in self.files]
        if len(set(names)) < len(names) or {"manifest.json", "manifest.sha256", "manifest.sig"} & set(names):
            raise BundleError("a bundle's files have names of their own, found one twice or one of the manifest's; do not use this bundle")
        if not self.inputs or not all(record.inputs and record.outputs for record in self.artifacts):
            raise BundleError("a bundle's models take and give something, found one that does not; do not use this bundle")
        if self.serial is not None and (type(self.serial) is not int or self.serial < 0):
            raise BundleError(f"a bundle's serial number is a whole number from 0, found {self.serial!r}; do not use this bundle")
        if self.labels is not None and not all(isinstance(label, str) for label in self.labels):
            raise BundleError("a bundle's labels are names, found something else in manifest.json; do not use this bundle")
        classes = {_classes(record.outputs) for record in self.artifacts} - {None}
        if self.labels and self.answers is None and classes - {len(self.labels)}:
            raise BundleError(f"a bundle has one label a class, found {len(self.labels)} for {classes.pop()}; do not use this bundle")
        if isinstance(self.preprocessing, FrameInput) and [spec.shape[1:] for spec in self.inputs] != [self.preprocessing.shape]:
            raise BundleError(f"a bundle's models must take its frame, {self.preprocessing}; do not use this bundle")
        if self.answers is not None and (self.answers.top_k is not None or self.answers.boxes):
            wanted = {"scores", "classes"} | ({"boxes"} if self.answers.boxes else set())
            if self.answers.top_k is None or any({spec.name for spec in record.outputs} != wanted for record in self.artifacts):
                raise BundleError(f"a bundle's models must give its answers, {', '.join(sorted(wanted))}; do not use this bundle")

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """The manifest that a file's bytes hold.

        Raises:
            BundleError: It is not JSON, of a newer schema or version, or lacks something.
        """
        maker = ""
        try:
            values = json.loads(data)
            version = values.pop("schema_version")
            maker = str(values.get("versions", {}).get("lepton-edge", "")).encode("ascii", "backslashreplace").decode()
            if version != SCHEMA_VERSION:
                raise BundleError(
                    f"this version of lepton-edge reads bundles of schema {SCHEMA_VERSION}, found schema {version!r}; "
                    "update with: pip install --upgrade lepton-edge"
                )
            read = {
                "source": dict(values["source"]),
                "inputs": _specs(values["inputs"]),
                "outputs": _specs(values["outputs"]),
                "preprocessing": _optional(_preprocessing, values["preprocessing"]),
                "labels": _optional(tuple, values["labels"]),
                "artifacts": tuple(map(_artifact, values["artifacts"])),
                "golden": _record(FileRecord, values["golden"]),
                "evaluation": _optional(lambda found: _record(Evaluation, found), values["evaluation"]),
                "removed_layers": tuple(values["removed_layers"]),
                "encoders": tuple(map(_encoder, values.get("encoders", ()))),
                "notes": tuple(values.get("notes", ())),
                "noise_inputs": tuple(values.get("noise_inputs", ())),
                "answers": _optional(_answers, values.get("answers")),
                "documents": tuple(_record(FileRecord, found) for found in values.get("documents", ())),
            }
            manifest = _record(cls, {**values, **read})
            manifest.check_answers()
            return manifest
        except BundleError:
            raise
        except _UnknownKeyError as error:
            raise BundleError(
                f"a bundle must hold what this version of lepton-edge knows, found the key {error} in manifest.json: a newer version"
                f"{f' ({maker})' if maker else ''} made it; update with: pip install --upgrade lepton-edge"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, LeptonError) as error:
            raise BundleError(
                f"manifest.json must be a complete manifest of schema {SCHEMA_VERSION}, found a fault at {error}; export the bundle again"
            ) from error


def _classes(outputs: Sequence[TensorSpec]) -> int | None:
    """How many classes the outputs have scores for; ``None`` where that is not known."""
    spec = class_output(outputs)
    if spec is None or spec.shape[1] is None:
        return None
    return max(2, spec.shape[1])  # a single unit stands for two


def _record(kind: type[_Record], values: Mapping[str, Any]) -> _Record:
    """The record that JSON values describe, all of which it must know."""
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]  # every kind is a dataclass
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        raise _UnknownKeyError(unknown)
    return kind(**values)


def _preprocessing(values: dict[str, Any]) -> Preprocessing | FrameInput:
    return FrameInput.from_dict(values) if "pixels" in values else Preprocessing.from_dict(values)


def _answers(values: dict[str, Any]) -> Answers:
    return _record(Answers, {**values, "variances": _optional(tuple, values["variances"])})


def _specs(values: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    for value in values:
        if type(value["name"]) is not str or value["dtype"] not in ("string", *NUMBER_TYPES):
            raise ValueError(f"the name {value['name']!r} or the number type {value['dtype']!r}")
        if not all(axis is None or (type(axis) is int and axis > 0) for axis in value["shape"]):
            raise ValueError(f"the shape {value['shape']!r}")
        scale, zero_point = value.get("scale"), value.get("zero_point")
        is_scaled = isinstance(scale, int | float) and 0 < scale < math.inf and type(zero_point) is int
        if not (is_scaled or (scale is None and zero_point is None)):
            raise ValueError(f"the scale {scale!r} or the zero point {zero_point!r}")
    return tuple(_record(TensorSpec, {**value, "shape": tuple(value["shape"])}) for value in values)


def _artifact(values: dict[str, Any]) -> ArtifactRecord:
    read = {
        "format": Format(values["format"]),
        "precision": Precision(values["precision"]),
        "inputs": _specs(values["inputs"]),
        "outputs": _specs(values["outputs"]),
        "parity": _record(Parity, values["parity"]),
        "quantization": _optional(_quantization, values.get("quantization")),
    }
    return _record(ArtifactRecord, {**values, **read})


def _quantization(values: dict[str, Any]) -> Quantization:
    read = {
        "target": str(Target(values["target"])),
        "float_blocks": tuple(values["float_blocks"]),
        "measured": tuple(_record(BlockRecord, found) for found in values["measured"]),
        "steps": tuple(_record(SearchStep, found) for found in values["steps"]),
    }
    return _record(Quantization, {**values, **read})


def _encoder(values: dict[str, Any]) -> EncoderRecord:
    read = {
        "inputs": _specs(values["inputs"]),
        "output": _specs([values["output"]])[0],
        "settings": dict(values["settings"]),
        "vocabulary": _optional(lambda found: _record(FileRecord, found), values["vocabulary"]),
    }
    return _record(EncoderRecord, {**values, **read})


def _optional(make: Any, value: Any) -> Any:  # Any: JSON in, a record out
    return None if value is None else make(value)
