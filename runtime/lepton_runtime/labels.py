"""From a model's scores to named answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Prediction:
    """One named answer: the label, and the model's own score for it (a probability if the model ends in one)."""

    label: str
    score: float


def class_output(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The output that holds class scores: the first of shape ``(batch, classes)``, or ``None``."""
    return next((spec for spec in outputs if len(spec.shape) == 2), None)


def class_scores(output: Array) -> Array:
    """One score a class, ``(batch, classes)`` with at least two classes.

    A single sigmoid unit ``(batch, 1)`` is read as the probability of the second of two classes, which is
    how Keras trains a binary classifier. Whether a unit is one is known on export only: ask for scores of a unit
    whose bundle names two labels, and of no other.

    >>> class_scores(np.float32([[0.25]]))
    array([[0.75, 0.25]], dtype=float32)
    """
    return np.concatenate([1 - output, output], axis=1) if output.shape[1] == 1 else output


def rank_labels(scores: Array, labels: Sequence[str] | None, *, count: int = 5) -> list[Prediction]:
    """The best answers first.

    Args:
        scores: ``(classes,)``, or ``(1,)`` for a binary classifier's second class.
        labels: One name a class; without them the class number is the name.
        count: How many answers at the most.
    """
    scores = class_scores(scores[None])[0]
    best = np.argsort(-scores, kind="stable")[:count]
    return [Prediction(str(labels[index]) if labels else str(index), float(scores[index])) for index in best]
