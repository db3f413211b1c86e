"""How far artifacts are from the Keras model: numerically, and on the task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner, best_classes
from lepton_converters.budget import Budget
from lepton_converters.calibration import grouped, stack, stack_raw
from lepton_converters.dataset import Sample
from lepton_converters.expected_drop import CONFIDENCE
from lepton_converters.keras_source import KerasSource
from lepton_runtime.errors import BundleError, InputError, UnsupportedError
from lepton_runtime.formats import Precision
from lepton_runtime.labels import class_output
from lepton_runtime.manifest import Parity
from lepton_runtime.tensors import Array

GOLDEN_SAMPLES = 4
_ROWS = 3  # of a free batch: whoever fixed it to 1 would be found out
_GROUP = 32  # samples that Keras answers at once
_FLOAT_TOLERANCE = {Precision.FP32: 1e-4, Precision.FP16: 2e-2}  # of an output's largest value
_LOWEST_COSINE = 0.8  # with nothing else to judge by
_SMALLEST_RANGE = 1e-3  # outputs below it are judged as if they reached it


@dataclass(frozen=True)
class ParityReport:
    """What the verification of one artifact found.

    Attributes:
        parity: Against the Keras model.
        accuracy: On the labelled samples, or ``None`` without any.
        relative: Largest difference as a share of the largest value of its output.
        is_finite: Whether every output is a finite number.
        margin: How far the accuracy lost on as many other samples may be from what is lost here, 0 to 1; ``None`` without labels.
    """

    parity: Parity
    accuracy: float | None
    relative: float
    is_finite: bool
    margin: float | None = None


@dataclass(frozen=True)
class Verification:
    """What one pass over the verification samples found.

    Attributes:
        reports: One an artifact, in their order.
        accuracy: Of the Keras model, or ``None`` without labels.
        samples: How many there were.
        counts: How many of them had each label; empty without labels.
        golden: Arrays for ``golden.npz``.
    """

    reports: tuple[ParityReport, ...]
    accuracy: float | None
    samples: int
    counts: tuple[int, ...]
    golden: Mapping[str, Array]


@dataclass
class _Tally:
    """Sums over samples; nothing grows with their number."""

    differences: dict[str, float] = field(default_factory=dict)  # the largest, by output
    ranges: dict[str, float] = field(default_factory=dict)
    products: float = 0.0
    squares: float = 0.0
    reference_squares: float = 0.0
    agreeing: int = 0
    right: int = 0
    either: int = 0  # right, or Keras was, and not both
    is_finite: bool = True

    def add(self, outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        for name, expected in reference.items():
            wanted, found = expected.astype(np.float64), outputs[name].astype(np.float64)
            if not np.isfinite(found).all():
                self.is_finite = False
                continue
            self.differences[name] = float(np.abs(found - wanted).max(initial=self.differences.get(name, 0.0)))
            self.ranges[name] = float(np.abs(wanted).max(initial=self.ranges.get(name, 0.0)))
            self.products += float((found * wanted).sum())
            self.squares += float((found * found).sum())
            self.reference_squares += float((wanted * wanted).sum())

    def report(self, *, samples: int, labeled: int, has_classes: bool) -> ParityReport:
        norm = (self.squares * self.reference_squares) ** 0.5
        both_zero = self.squares == self.reference_squares == 0
        cosine = 1.0 if both_zero else self.products / norm if norm else 0.0
        max_abs = max(self.differences.values(), default=0.0)
        relative = max((found / max(self.ranges[name], _SMALLEST_RANGE) for name, found in self.differences.items()), default=0.0)
        parity = Parity(max_abs, min(1.0, cosine), self.agreeing / samples if has_classes else None, samples)
        if not labeled:
            return ParityReport(parity, None, relative, self.is_finite)
        # Source: Agresti and Min 2005, as in expected_drop; the drop itself adds next to nothing.
        margin = CONFIDENCE * (self.either + 1) ** 0.5 / labeled
        return ParityReport(parity, self.right / labeled, relative, self.is_finite, margin)


def verify(
    source: KerasSource,
    artifacts: Sequence[Artifact],
    samples: Iterator[Sample],
    *,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Verification:
    """Each artifact on its own engine, and the Keras model, on the same samples, in one streamed pass.

    Args:
        source: The trained model.
        artifacts: What was made of it.
        samples: That no artifact was calibrated on.
        on_progress: Told how many samples are done.

    Raises:
        InputError: There are no samples, or labels do not fit the outputs.
        ParityError: An encoder gives something else than the Keras layer it stands for.
        BundleError: An engine cannot load what was made for it.
    """
    runners = [ArtifactRunner(artifact) for artifact in artifacts]
    tallies = [_Tally() for _ in artifacts]
    batch = source.inputs[0].shape[0] or _ROWS
    classes = class_output(source.outputs)
    width = (classes.shape[1] or 0) if classes else 0
    golden: dict[str, Array] = {}
    counts = np.zeros(max(width, 2), np.int64)
    right = count = 0
    for group in grouped(samples, -(-_GROUP // batch) * batch):
        reference = source.predict_raw(stack_raw(group, len(group)))
        if not all(np.isfinite(output).all() for output in reference.values()):
            raise InputError(
                "the Keras model's own outputs must be finite, found NaN or infinity; check its weights and --scale, --mean, --std"
            )
        labels = np.array([-1 if sample.label is None else sample.label for sample in group])
        if labels.max() >= max(width, 2):
            raise InputError(f"labels must be class numbers below {max(width, 2)}, as the model's outputs, found {labels.max()}")
        expected = best_classes(reference, classes)
        right += int((expected == labels).sum())
        counts += np.bincount(labels[labels >= 0], minlength=len(counts))
        for runner, tally in zip(runners, tallies, strict=True):
            outputs = runner.answers(group, batch)
            tally.add(outputs, reference)
            found = best_classes(outputs, classes)
            tally.agreeing += int((found == expected).sum())
            tally.right += int((found == labels).sum())
            tally.either += int(((found == labels) != (expected == labels)).sum())
        if not golden:
            golden = _golden(source, runners, group[:GOLDEN_SAMPLES], source.inputs[0].shape[0] or 1)
        count += len(group)
        on_progress(count)
    if count == 0:
        raise InputError("verification needs samples that were not calibrated on, found none; give others, or a smaller --calib-samples")
    labeled = int(counts.sum())
    reports = tuple(tally.report(samples=count, labeled=labeled, has_classes=width > 1 or labeled > 0) for tally in tallies)
    return Verification(reports, right / labeled if labeled else None, count, tuple(counts.tolist()) if labeled else (), golden)


def _golden(source: KerasSource, runners: Sequence[ArtifactRunner], samples: Sequence[Sample], batch: int) -> dict[str, Array]:
    """A few inputs, the Keras model's outputs, and each artifact's as its file gives them."""
    rows = -(-len(samples) // batch) * batch
    inputs, raw = stack(samples, rows), stack_raw(samples, rows)
    arrays = {f"input/{name}": values for name, values in inputs.items()}
    arrays |= {f"raw/{name}": values for name, values in raw.items() if source.encoders}
    repeated = [Sample({name: values[row] for name, values in inputs.items()}, None) for row in range(rows)]
    arrays |= {f"output/{name}": values for name, values in source.predict_raw(raw).items()}
    for runner in runners:
        arrays |= {f"{runner.artifact.file}/{name}": values for name, values in runner.raw(repeated, batch).items()}
    return arrays


class Probe:
    """Tells in a moment whether an artifact answers as the Keras model does, before time goes into the full verification."""

    def __init__(self, source: KerasSource, samples: Sequence[Sample]) -> None:
        """Let the Keras model answer.

        Args:
            source: The trained model.
            samples: A few.
        """
        self._batch = source.inputs[0].shape[0] or _ROWS
        self._groups = [(group, source.predict(stack(group, len(group)))) for group in grouped(iter(samples), self._batch)]

    def check(self, artifact: Artifact) -> None:
        """Refuse what its own engine cannot load or run, and a float artifact that does not give the model's numbers.

        Raises:
            UnsupportedError: The text says what was found.
        """
        try:
            runner = ArtifactRunner(artifact)
            answers = [runner.answers(group, self._batch) for group, _ in self._groups]
        except (BundleError, InputError) as error:
            raise UnsupportedError(str(error)) from error
        tolerance = _FLOAT_TOLERANCE.get(artifact.precision)
        for outputs, (_, reference) in zip(answers, self._groups, strict=True):
            for name, expected in reference.items():
                if outputs[name].shape != expected.shape:
                    raise UnsupportedError(f"output {name!r} must have Keras' shape {expected.shape}, found {outputs[name].shape}")
                if tolerance is None or not np.isfinite(expected).all():
                    continue
                difference = np.abs(outputs[name].astype(np.float64) - expected).max(initial=0.0)
                if not difference <= tolerance * max(float(np.abs(expected).max(initial=0.0)), _SMALLEST_RANGE):
                    raise UnsupportedError(f"output {name!r} must give Keras' numbers at {artifact.precision}, differs by {difference:.2g}")


@dataclass(frozen=True)
class Verdict:
    """Whether an artifact may be used, and why, in the words of the table and the manifest."""

    text: str
    passed: bool


def judge(precision: Precision, report: ParityReport, *, budget: Budget | None, source_accuracy: float | None) -> Verdict:
    """The verdict on one artifact.

    A float artifact must give the Keras model's numbers; with labelled data every artifact must keep to the
    accuracy budget. Without it, an 8-bit artifact is measured, and refused only if its answers are of another kind.

    Args:
        precision: Of the artifact.
        report: What was found.
        budget: How much accuracy may be lost.
        source_accuracy: Of the Keras model.
    """
    parity = report.parity
    if not report.is_finite:
        return Verdict("REFUSED: outputs are not finite", False)
    tolerance = _FLOAT_TOLERANCE.get(precision)
    if tolerance is not None and report.relative > tolerance:
        return Verdict(f"REFUSED: differs from Keras by {parity.max_abs:.2g}", False)
    if report.accuracy is None and parity.cosine < _LOWEST_COSINE:
        return Verdict(f"REFUSED: unlike Keras (cosine {parity.cosine:.2f}); --eval measures what it costs", False)
    if budget is None or report.accuracy is None or source_accuracy is None:
        return Verdict("same as Keras" if precision == Precision.FP32 else "measured, no budget", True)
    if not budget.allows(report.accuracy, source_accuracy=source_accuracy):
        drop = 100 * (source_accuracy - report.accuracy)
        text = f"REFUSED: drop of {drop:.2f}pp is over the budget of {budget.text}"
        if report.margin is not None and budget.allows(report.accuracy + report.margin, source_accuracy=source_accuracy):
            text += f", by no more than chance (± {100 * report.margin:.2f}pp): more --eval samples tell"
        return Verdict(text, False)
    return Verdict("same as Keras" if precision == Precision.FP32 else f"within budget ({budget.text})", True)
