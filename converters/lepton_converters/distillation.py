"""How far a network's answers are from those of the one that it is to be like, and from labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_converters.keras_source import KerasSource
from lepton_runtime.labels import class_output, class_scores
from lepton_runtime.tensors import Array

_TEMPERATURE = 2.0
_LABEL_SHARE = 0.5  # of the loss, where there are labels
_SMALLEST = 1e-7  # probability; Source: keras.config.epsilon


@dataclass(frozen=True)
class Objective:
    """What fine-tuning makes smaller, and what it is judged by.

    Attributes:
        operators: What computes the values of each output, as TensorFlow calls it; ``Softmax`` gives probabilities.
        classes: The place of the output that holds class scores, or ``None``.
        metric: ``accuracy`` with labels; ``agreement``, how often the best class is that of the float model; or ``fidelity``, how
            much of the mean square of the float model's outputs is left when that of the difference is taken off.
    """

    operators: tuple[str, ...]
    classes: int | None
    metric: str

    @classmethod
    def of(cls, source: KerasSource, *, is_labeled: bool) -> "Objective":
        """What fits the model's outputs; other outputs than probabilities may be scores or not, so only labels say so."""
        operators = tuple(source.last_operators)
        place = source.outputs.index(found) if source.has_class_scores() and (found := class_output(source.outputs)) else None
        is_classifier = place is not None and (is_labeled or operators[place] in ("Softmax", "Sigmoid"))
        return cls(operators, place if is_classifier else None, "accuracy" if is_labeled else "agreement" if is_classifier else "fidelity")

    def loss(self, outputs: Sequence[Any], wanted: Sequence[Any], labels: Any | None) -> Any:  # Any: TensorFlow has no type hints
        """The distance from the float model's outputs, and with labels as much of the cross-entropy; a scalar tensor.

        Args:
            outputs: One tensor an output, ``(batch, …)``.
            wanted: The float model's.
            labels: ``(batch,)`` int32, or ``None``.
        """
        import tensorflow as tf

        distances = [_distance(*values) for values in zip(outputs, wanted, self.operators, strict=True)]
        distance = tf.add_n(distances) / len(distances)
        if labels is None or self.classes is None:
            return distance
        entropy = _cross_entropy(outputs[self.classes], labels, self.operators[self.classes])
        return (1 - _LABEL_SHARE) * distance + _LABEL_SHARE * entropy

    def score(self, outputs: Sequence[Array], wanted: Sequence[Array], labels: Array | None) -> float:
        """The metric, 1 at the best."""
        if self.classes is None:
            shares = [_left(values, aims) for values, aims in zip(outputs, wanted, strict=True)]
            return float(np.mean(shares))
        answers, others = (class_scores(values[self.classes]).argmax(axis=1) for values in (outputs, wanted))
        return float((answers == (others if labels is None else labels)).mean())


def _left(values: Array, aims: Array) -> float:
    power = float(np.square(aims, dtype=np.float64).mean())
    return 1 - float(np.square(values.astype(np.float64) - aims).mean()) / (power or 1.0)


def _distance(values: Any, wanted: Any, operator: str) -> Any:
    """Kullback-Leibler divergence of probabilities, else the mean square as a share of what is wanted.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: softened by a temperature, whose
    square keeps the gradient's size.
    """
    import tensorflow as tf

    if operator == "Softmax":
        student, teacher = (tf.nn.log_softmax(_logarithm(given) / _TEMPERATURE) for given in (values, wanted))
        return _TEMPERATURE**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1))
    if operator == "Sigmoid":
        pairs = ((values, wanted), (1 - values, 1 - wanted))
        return tf.add_n([tf.reduce_mean(aim * (_logarithm(aim) - _logarithm(given))) for given, aim in pairs])
    return tf.reduce_mean(tf.square(values - wanted)) / (tf.reduce_mean(tf.square(wanted)) + _SMALLEST)


def _cross_entropy(scores: Any, labels: Any, operator: str) -> Any:
    """Of a classifier that ends in a softmax, in sigmoids (one for each class, or one unit for two), or in logits."""
    import tensorflow as tf

    if operator == "Sigmoid":
        is_class = tf.cast(labels[:, None] if scores.shape[1] == 1 else tf.one_hot(labels, scores.shape[1]), tf.float32)
        return -tf.reduce_mean(is_class * _logarithm(scores) + (1 - is_class) * _logarithm(1 - scores))
    logits = _logarithm(scores) if operator == "Softmax" else scores
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _logarithm(probabilities: Any) -> Any:
    import tensorflow as tf

    return tf.math.log(tf.maximum(probabilities, _SMALLEST))
