"""How far a network's answers are from those of the one that it is to be like, and from labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_converters.keras_source import computing
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.labels import class_output, class_scores
from lepton_runtime.tensors import Array, TensorSpec

_TEMPERATURE = 2.0  # the least that shows what a network that is sure of itself thinks of the other classes
_LABEL_SHARE = 0.5  # of the loss: few labels alone would be learned by heart, the float model's answers alone keep its mistakes
_LEAST_VARIANCE = 1e-6  # of the mean square: what varies by less than a thousandth of its size, 8 bits do not show


@dataclass(frozen=True)
class Answers:
    """What a network answers, tensors or arrays, one an output.

    Attributes:
        values: The outputs.
        logits: What the softmax or sigmoid is given that makes an output; the output itself where another operator makes it.
    """

    values: tuple[Any, ...]  # Any: TensorFlow has no type hints
    logits: tuple[Any, ...]

    @classmethod
    def traced(cls, outputs: Sequence[Any], values: Sequence[Any]) -> "Answers":
        """The answers of a model that is being traced.

        Args:
            outputs: What it gives.
            values: What is read in the place of that.
        """
        import tensorflow as tf

        pairs = zip(outputs, values, strict=True)
        return cls(
            tuple(values),
            tuple(tf.reshape(computing(output.op).inputs[0], output.shape) if operator_of(output) else value for output, value in pairs),
        )

    @classmethod
    def of_flat(cls, arrays: Sequence[Array]) -> "Answers":
        """The answers that :attr:`flat` lists."""
        return cls(tuple(arrays[: len(arrays) // 2]), tuple(arrays[len(arrays) // 2 :]))

    @property
    def flat(self) -> list[Any]:
        """Values, then logits."""
        return [*self.values, *self.logits]


def operator_of(output: Any) -> str | None:
    """``Softmax`` or ``Sigmoid`` where it makes an output of a model that is being traced, of as many classes, else ``None``."""
    operator = computing(output.op)
    is_plain = operator.type == "Sigmoid" or (operator.type == "Softmax" and output.shape[-1] == operator.inputs[0].shape[-1])
    return str(operator.type) if is_plain else None


@dataclass(frozen=True)
class Head:
    """One output, and how it is judged.

    Attributes:
        place: Among the model's outputs.
        operator: ``Softmax`` or ``Sigmoid`` if it holds probabilities, else ``None``.
        metric: ``accuracy`` of classes with labels; ``agreement``, how often the best class is that of the float model; or
            ``fidelity``, what of the variance of the float model's output is left when the mean square of the difference is taken off.
        variance: Of the float model's output from sample to sample, a mean over its values.
    """

    place: int
    operator: str | None
    metric: str
    variance: float

    def distance(self, given: Any, wanted: Any) -> Any:
        """Kullback-Leibler divergence of the probabilities of logits; of other outputs the mean square as a share of the variance.

        Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: softened by a temperature, whose
        square keeps the gradient's size.
        """
        import tensorflow as tf

        if self.operator == "Softmax":
            student, teacher = (tf.nn.log_softmax(logits / _TEMPERATURE) for logits in (given, wanted))
            # What is masked by -inf has no part in the sum.
            parts = tf.math.multiply_no_nan(teacher - student, tf.exp(teacher))
            return _TEMPERATURE**2 * tf.reduce_mean(tf.reduce_sum(parts, axis=-1))
        if self.operator == "Sigmoid":
            cross, own = (tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(wanted), logits) for logits in (given, wanted))
            return tf.reduce_mean(cross - own)
        return tf.reduce_mean(tf.square(given - wanted)) / self.variance

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """Of a classifier that ends in sigmoids (one for each class, or one unit for two), in a softmax, or in logits."""
        import tensorflow as tf

        if self.operator != "Sigmoid":
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        is_class = labels[:, None] if logits.shape[1] == 1 else tf.one_hot(labels, logits.shape[1])
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(is_class, tf.float32), logits))

    def scores(self, values: Array, wanted: Array, labels: Array | None) -> Array:
        """The metric of each sample, 1 at the best, ``(samples,)`` float64."""
        if self.metric == "fidelity":
            squares = np.square(values.astype(np.float64) - wanted).reshape(len(values), -1).mean(axis=1)
            return np.asarray(1 - squares / self.variance)
        answers, others = (class_scores(given).argmax(axis=1) for given in (values, wanted))
        return np.asarray(answers == (labels if self.metric == "accuracy" else others), np.float64)


@dataclass(frozen=True)
class Objective:
    """What fine-tuning makes smaller, and what it is judged by: a mean over the outputs of real numbers.

    Attributes:
        heads: One for each of them.
    """

    heads: tuple[Head, ...]

    @classmethod
    def of(
        cls, outputs: Sequence[TensorSpec], operators: Sequence[str | None], values: Sequence[Array], *, is_labeled: bool
    ) -> "Objective":
        """What fits the model's outputs.

        Labels are those of the first output of shape ``(batch, classes)``. Without them only probabilities are known to be classes.

        Args:
            outputs: The model's.
            operators: See :func:`operator_of`.
            values: The float model's on the samples that are trained on.
            is_labeled: Whether there are labels.

        Raises:
            InputError: There are labels, but no scores of real numbers.
            UnsupportedError: No output holds real numbers.
        """
        floats = [place for place, array in enumerate(values) if array.dtype.kind == "f"]  # Keras takes what a Lambda gives for floats
        listed = ", ".join(map(str, outputs))
        if not floats:
            raise UnsupportedError(f"fine-tuning needs an output of real numbers, found {listed}; cut off what makes others of them")
        labeled = outputs.index(found) if is_labeled and (found := class_output(outputs)) else None
        if is_labeled and labeled not in floats:
            raise InputError(f"labels need an output of (batch, classes) of real numbers as the first of that shape, found {listed}")

        def metric(place: int) -> str:
            if place == labeled:
                return "accuracy"
            return "agreement" if len(outputs[place].shape) == 2 and operators[place] else "fidelity"

        return cls(tuple(Head(place, operators[place], metric(place), _variance(values[place])) for place in floats))

    @property
    def metric(self) -> str:
        """What the score is; where outputs are judged in several ways, their names joined by ``and``."""
        return " and ".join(dict.fromkeys(head.metric for head in self.heads))

    def loss(self, given: Sequence[Any], wanted: Sequence[Any], labels: Any | None) -> Any:
        """The distance from the float model's answers, and with labels as much of the cross-entropy; a scalar tensor.

        Args:
            given: The logits of :class:`Answers`, one tensor an output, ``(batch, …)``.
            wanted: The float model's.
            labels: ``(batch,)`` int32, or ``None``.
        """
        import tensorflow as tf

        distance = tf.add_n([head.distance(given[head.place], wanted[head.place]) for head in self.heads]) / len(self.heads)
        labeled = next((head for head in self.heads if head.metric == "accuracy"), None)
        if labels is None or labeled is None:
            return distance
        return (1 - _LABEL_SHARE) * distance + _LABEL_SHARE * labeled.cross_entropy(given[labeled.place], labels)

    def scores(self, values: Sequence[Array], wanted: Sequence[Array], labels: Array | None) -> Array:
        """The score of each sample, 1 at the best, ``(samples,)`` float64."""
        return np.asarray(np.mean([head.scores(values[head.place], wanted[head.place], labels) for head in self.heads], axis=0))

    def accuracy(self, values: Sequence[Array], labels: Array | None) -> float | None:
        """How often the best class is the label; ``None`` without labels."""
        found = [head.scores(values[head.place], values[head.place], labels) for head in self.heads if head.metric == "accuracy"]
        return float(found[0].mean()) if found else None


def _variance(values: Array) -> float:
    """Of an output from sample to sample; never 0."""
    least = _LEAST_VARIANCE * float(np.square(values, dtype=np.float64).mean())
    return max(float(values.var(axis=0, dtype=np.float64).mean()), least) or 1.0
