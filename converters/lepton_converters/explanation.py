"""Where a bundle's ``static-int8`` artifact loses what its ``fp32`` artifact knows: block by block, and on which samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner, best_classes
from lepton_converters.block_tracing import BlockExplanation, BlockTracing
from lepton_converters.calibration import grouped, stack, with_noise
from lepton_converters.dataset import Dataset, Sample, open_dataset
from lepton_converters.divergence import divergence
from lepton_converters.float_graph import Block
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.onnx_inner_tensors import OnnxInnerTensors
from lepton_converters.raw_dataset import open_raw_dataset
from lepton_converters.tflite_inner_tensors import TfliteInnerTensors, tflite_blocks
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.labels import class_output, class_scores
from lepton_runtime.manifest import ArtifactRecord, Quantization
from lepton_runtime.tensors import Array, TensorSpec

_GROUP = 64  # samples whose answers are compared at once
_FREE_BATCH = 8  # samples whose activations are in memory at once, where the network takes any number
_MOST_CHANGED = 24


@dataclass(frozen=True)
class Answer:
    """The best class, and its score."""

    number: int
    score: float


@dataclass(frozen=True)
class ChangedSample:
    """A sample that the two files answer differently.

    Attributes:
        number: Its place in the data.
        label: The number of its class, or ``None``.
        in_float: The answer of the float file.
        in_8_bits: The answer of the quantized file.
        divergence: How far the two answers are from each other.
        inputs: What both were given; before the encoders, of a model that has some.
    """

    number: int
    label: int | None
    in_float: Answer
    in_8_bits: Answer
    divergence: float
    inputs: Mapping[str, Array]


@dataclass(frozen=True)
class Explanation:
    """Where one artifact loses accuracy.

    Attributes:
        bundle: Its file name.
        file: The quantized file.
        float_file: What it is compared with.
        format: Of both.
        samples: On how many samples.
        labeled: How many of them have a label.
        agreement: The share of samples with the same best class; ``None`` if no output holds class scores.
        divergence: How far the answers are from the float file's, see :func:`lepton_converters.divergence.divergence`.
        accuracy: The share of labelled samples that are answered right, or ``None``.
        float_accuracy: The same of the float file.
        blocks: In the order in which they run.
        unmatched: Blocks of the float file of which the quantized one holds no tensor by that name.
        routes: How the float file and the quantized one were made; of different networks inside, if they differ.
        changed: Samples that are answered differently, those that differ most first; 24 at the most.
        labels: The names of the classes, or ``None``.
        quantization: How the artifact was made; ``None`` where TensorFlow chose.
    """

    bundle: str
    file: str
    float_file: str
    format: Format
    samples: int
    labeled: int
    agreement: float | None
    divergence: float
    accuracy: float | None
    float_accuracy: float | None
    blocks: tuple[BlockExplanation, ...]
    unmatched: tuple[str, ...]
    routes: tuple[str, str]
    changed: tuple[ChangedSample, ...]
    labels: tuple[str, ...] | None
    quantization: Quantization | None

    @property
    def worst(self) -> tuple[BlockExplanation, ...]:
        """The blocks to keep in float first: by what that alone would save, where it was measured, then by what they do to the answers.

        Those in float come last, for what they add is their inputs' rounding.
        """
        return tuple(sorted(self.blocks, key=lambda block: (block.in_float, -block.surely_saved, -block.effect, block.own_snr_db)))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values of samples, as JSON values."""
        values = asdict(self)
        for changed in values["changed"]:
            del changed["inputs"]
        return values


def explain(
    bundle: str | Path | Bundle,
    data: str,
    *,
    format_: Format | None = None,
    samples: int = 200,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
) -> Explanation:
    """What the 8-bit artifact of a bundle loses, and in which blocks.

    Nothing but the two files is needed. The time is that of a few runs of each on every sample; the memory does not depend on how
    many there are.

    Args:
        bundle: A bundle with an ``fp32`` and a ``static-int8`` artifact of one format.
        data: Sample inputs, raw, see :func:`lepton_converters.dataset.open_dataset`; labels add the accuracy.
        format_: Which; by default ONNX where there is a choice.
        samples: How many to look at, at the most.
        seed: Of their choice.
        on_progress: Told how many of how many samples are done.

    Raises:
        BundleError: The bundle, or one of its files, is damaged.
        InputError: It lacks one of the artifacts, or gives answers instead of scores; or the data does not fit.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if bundle.manifest.answers and bundle.manifest.answers.top_k is not None:
        raise InputError("an explanation compares all scores, this bundle gives the best only; export it without --top-k and --boxes")
    in_float, in_8_bits = _artifacts(bundle, format_)
    dataset = _open(bundle, data)
    # From the other end than an export with the same seed calibrates on.
    numbers = sorted(np.random.default_rng(seed).permutation(dataset.count)[::-1][:samples].tolist())
    record = next(record for record in bundle.manifest.artifacts if record.file == in_8_bits.file)
    classes = class_output(record.outputs) if record.parity.top1_agreement is not None else None
    tracing = _tracing(in_float, in_8_bits, samples=len(numbers))
    answers = _Answers(classes)
    runners = [ArtifactRunner(artifact) for artifact in (in_float, in_8_bits)]
    batch = in_8_bits.inputs[0].shape[0]
    if tracing.needs_factors:
        for part in grouped(dataset.samples(numbers), batch or _FREE_BATCH):
            tracing.learn(stack(part, batch or len(part)))
    done = 0
    for group in grouped(dataset.samples(numbers), -(-_GROUP // (batch or 1)) * (batch or 1)):
        answers.add(group, numbers[done:], *(runner.answers(group, batch or _FREE_BATCH) for runner in runners))
        for part in grouped(iter(group), batch or _FREE_BATCH):
            tracing.add(stack(part, batch or len(part)))
            done += len(part)
            on_progress(done, len(numbers))
    labeled = answers.labeled if classes else 0
    return Explanation(
        bundle=bundle.path.name,
        file=in_8_bits.file,
        float_file=in_float.file,
        format=in_8_bits.format,
        samples=done,
        labeled=labeled,
        agreement=answers.agreeing / done if classes else None,
        divergence=answers.divergence / done,
        accuracy=answers.right[1] / labeled if labeled else None,
        float_accuracy=answers.right[0] / labeled if labeled else None,
        blocks=tracing.blocks(),
        unmatched=tracing.unmatched,
        routes=(in_float.route, in_8_bits.route),
        changed=tuple(answers.changed),
        labels=bundle.manifest.labels,
        quantization=in_8_bits.quantization,
    )


def _artifacts(bundle: Bundle, format_: Format | None) -> tuple[Artifact, Artifact]:
    """The float and the quantized artifact of one format."""
    records = {(record.format, record.precision): record for record in bundle.manifest.artifacts}
    wanted = (Precision.FP32, Precision.STATIC_INT8)
    for found in [format_] if format_ else list(Format):
        pair = [records.get((found, precision)) for precision in wanted]
        if all(pair):
            in_float, in_8_bits = (_artifact(bundle, record) for record in pair if record)
            return in_float, in_8_bits
    held = ", ".join(record.file for record in bundle.manifest.artifacts)
    raise InputError(
        f"explain compares a static-int8 file with the fp32 file of the same format, {str(bundle.path)!r} holds {held}; "
        "export it again with --precision fp32,static-int8 --calib PATH --keep-failed"
    )


def _artifact(bundle: Bundle, record: ArtifactRecord) -> Artifact:
    return Artifact(
        record.format,
        record.precision,
        bundle.read(record),
        record.inputs,
        record.outputs,
        record.requires,
        record.route,
        record.quantization,
    )


def _open(bundle: Bundle, data: str) -> Dataset:
    manifest, encoders = bundle.manifest, bundle.load_encoders()
    if encoders or (len(manifest.given_inputs) > 1 and data.endswith(".csv")):
        dataset = open_raw_dataset(
            data, inputs=manifest.given_inputs, encoders=encoders, labels=manifest.labels, option="--data", has_labels=True
        )
    else:
        steps = manifest.preprocessing
        dataset = open_dataset(data, inputs=manifest.given_inputs, preprocessing=steps, labels=manifest.labels, option="--data")
    noise = [spec for spec in manifest.inputs if spec.name in manifest.noise_inputs]
    return with_noise(dataset, noise) if noise else dataset


def _tracing(in_float: Artifact, in_8_bits: Artifact, *, samples: int) -> BlockTracing:
    """What follows the blocks through both files."""
    blocks: Sequence[Block]
    if in_float.format == Format.ONNX:
        model = onnx.load_from_string(in_float.model)
        graph = OnnxFloatGraph(model, inputs=in_float.inputs, outputs=in_float.outputs, route=in_float.route)
        return BlockTracing(in_float, in_8_bits, graph.blocks, samples=samples, channel_axis=graph.channel_axis, opened=OnnxInnerTensors)
    blocks = tflite_blocks(in_float.model)
    return BlockTracing(in_float, in_8_bits, blocks, samples=samples, channel_axis=lambda tensor: -1, opened=TfliteInnerTensors)


@dataclass
class _Answers:
    """Sums over samples, and the samples whose answer changed the most."""

    classes: TensorSpec | None
    divergence: float = 0.0
    agreeing: int = 0
    labeled: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])  # of the float file, and of the quantized one
    changed: list[ChangedSample] = field(default_factory=list)

    def add(self, group: Sequence[Sample], numbers: Sequence[int], in_float: Mapping[str, Array], in_8_bits: Mapping[str, Array]) -> None:
        distances = divergence(in_float, in_8_bits)
        self.divergence += float(distances.sum())
        if self.classes is None:
            return
        best = [best_classes(outputs, self.classes) for outputs in (in_float, in_8_bits)]
        labels = np.array([-1 if sample.label is None else sample.label for sample in group])
        self.agreeing += int((best[0] == best[1]).sum())
        self.labeled += int((labels >= 0).sum())
        self.right = [before + int((found == labels).sum()) for before, found in zip(self.right, best, strict=True)]
        scores = [class_scores(outputs[self.classes.name]) for outputs in (in_float, in_8_bits)]
        for row in np.flatnonzero(best[0] != best[1]).tolist():
            sample = group[row]
            first, second = (Answer(int(found[row]), float(score[row, found[row]])) for found, score in zip(best, scores, strict=True))
            inputs = sample.inputs if sample.raw is None else sample.raw
            self.changed.append(ChangedSample(numbers[row], sample.label, first, second, float(distances[row]), inputs))
        self.changed = sorted(self.changed, key=lambda changed: -changed.divergence)[:_MOST_CHANGED]
