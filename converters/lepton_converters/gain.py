"""How much a training wins, on samples that chose its best epoch or on others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_converters.artifact_runner import best_classes
from lepton_converters.calibration import grouped, stack
from lepton_converters.conversion import Step
from lepton_converters.dataset import Dataset, Sample
from lepton_converters.epoch import Epoch, Training
from lepton_converters.keras_source import KerasSource
from lepton_converters.quantized_training import QuantizedTrainer, Samples
from lepton_converters.training_data import check_range
from lepton_runtime.errors import ParityError
from lepton_runtime.labels import class_output


@dataclass(frozen=True)
class Gain:
    """What a training gave.

    Attributes:
        metric: What the scores are, 1 at the best; see :class:`lepton_converters.distillation.Objective`.
        training: Its epochs, and which of them was kept.
        before: The score of the float network and that of its simulated int8 file, before.
        after: The same with the new weights.
    """

    metric: str
    training: Training
    before: tuple[float, float]
    after: tuple[float, float]


def train(
    source: KerasSource,
    trainer: QuantizedTrainer,
    *,
    evaluated: Dataset | None,
    epochs: int,
    learning_rate: float,
    seed: int,
    keep_frozen: bool,
    on_step: Callable[[Step], None],
) -> Gain:
    """Train, leave the weights of the best epoch, and score before and after.

    Args:
        source: The model.
        trainer: Of the same.
        evaluated: Labelled samples to score on, which are streamed; ``None``: those that the trainer holds back.
        epochs: See :meth:`QuantizedTrainer.run`, as for the next three.
        learning_rate: Of the first step.
        seed: Of the order of the samples.
        keep_frozen: Whether frozen layers are left as they are.
        on_step: Told what is happening.

    Raises:
        InputError: A sample cannot be read, or its label is none of the model's classes.
        ParityError: No epoch was better than the beginning.
    """
    scores: list[tuple[float, float]] = []

    def score(epoch: Epoch) -> None:
        """With the weights and the ranges that the trainer has now, which must be those of this epoch."""
        if evaluated is None:
            scores.append((trainer.float_score() if epoch.number else trainer.float_before, epoch.score))
        else:
            scores.append(_accuracies(source, evaluated, trainer, on_step))

    def tell(epoch: Epoch) -> None:
        on_step(_step(epoch))
        if epoch.number == 0:
            score(epoch)

    training = trainer.run(epochs=epochs, learning_rate=learning_rate, seed=seed, on_epoch=tell, keep_frozen=keep_frozen)
    metric = trainer.objective.metric
    if training.best is training.epochs[0]:
        raise ParityError(_nothing_won(metric, trainer.float_before, training))
    score(training.best)
    return Gain("accuracy" if evaluated else metric, training, *scores)


def _accuracies(source: KerasSource, dataset: Dataset, trainer: QuantizedTrainer, on_step: Callable[[Step], None]) -> tuple[float, float]:
    """How often the float network is right, and how often its simulated int8 file."""
    names, classes = [spec.name for spec in source.outputs], class_output(source.outputs)
    right, count = np.zeros(2), 0
    for group in grouped(dataset.samples(range(dataset.count)), source.inputs[0].shape[0] or 1):
        samples = _labelled(group)
        check_range(source, samples.labels)
        found = [best_classes(dict(zip(names, answers.values, strict=True)), classes) for answers in trainer.answers(samples)]
        right += [(best == samples.labels).sum() for best in found]
        count += len(group)
        on_step(Step("judge", dataset.path, fraction=count / dataset.count))
    of_float, of_int8 = (right / count).tolist()
    return of_float, of_int8


def _labelled(group: Sequence[Sample]) -> Samples:
    return Samples(stack(group, len(group)), np.array([sample.label for sample in group], np.int32))


def _step(epoch: Epoch) -> Step:
    loss = "" if epoch.loss is None else f"loss {epoch.loss:.4f}, "
    scores = f"held back {epoch.held_loss:.4f}, int8 {100 * epoch.score:.2f} %"
    return Step("train", f"epoch {epoch.number}/{epoch.count}" if epoch.number else "before", loss + scores, 1)


def _nothing_won(metric: str, float_before: float, training: Training) -> str:
    first, *others = (f"{100 * epoch.score:.2f} % at a loss of {epoch.held_loss:.4f}" for epoch in training.epochs)
    advice = "more samples or epochs, or another --learning-rate"
    if training.diverged is not None:
        others.append(f"NaN or infinity in epoch {training.diverged}, for the training diverged")
        advice = "a lower --learning-rate"
    return (
        f"an epoch must be better than the beginning, int8 {metric} was {first} (float {100 * float_before:.2f} %) and then "
        f"{', '.join(others)}; nothing was written: try {advice}"
    )
