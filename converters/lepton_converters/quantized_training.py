"""Training a network as its static-int8 file computes, on samples in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from lepton_converters.dataset import Sample
from lepton_converters.distillation import Objective
from lepton_converters.frozen_graph import refusing
from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_model import layers_of
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_export import OnnxExporter
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.parity import Probe
from lepton_converters.quiet import quiet_tensorflow
from lepton_converters.simulated_int8 import SimulatedInt8
from lepton_converters.source_specs import filled
from lepton_converters.tflite_export import TfliteExporter
from lepton_runtime.formats import Target
from lepton_runtime.tensors import Array

_CALIBRATION_SAMPLES = 200  # as many as an export takes unless it is told otherwise
_RANGES = "by-tensor"  # an export takes others only where it cannot tell them apart
_PROBES = 2


@dataclass(frozen=True)
class Samples:
    """Samples in memory.

    Attributes:
        inputs: One array an input, ``(samples, …)``.
        labels: ``(samples,)`` int32, or ``None``.
    """

    inputs: Mapping[str, Array]
    labels: Array | None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int, *, most: int | None = None) -> Iterator[dict[str, Array]]:
        """Inputs in their order, all of ``size``: the last sample is repeated."""
        for start in range(0, min(self.count, most or self.count), size):
            yield {name: filled(values[start : start + size], size) for name, values in self.inputs.items()}


@dataclass(frozen=True)
class Epoch:
    """How far the training is.

    Attributes:
        number: How many epochs are over; 0 before the first.
        count: How many there will be.
        loss: The mean over the epoch; ``None`` before the first.
        held_loss: The simulated int8 network's on the held-back samples.
        score: The metric of the same.
        seconds: How long it took.
    """

    number: int
    count: int
    loss: float | None
    held_loss: float
    score: float
    seconds: float


def best_epoch(epochs: Sequence[Epoch], *, samples: int) -> Epoch:
    """The one of the best score, and of scores that chance could have made of one another, that of the lowest loss.

    Args:
        epochs: In their order, of which the first counts as the best until another one is better.
        samples: How many the scores are of; a share of so many has the standard error of a binomial distribution.
    """
    best = epochs[0]
    for epoch in epochs[1:]:
        share = min(max(best.score, 0.0), 1.0)
        is_clear = abs(epoch.score - best.score) > (share * (1 - share) / samples) ** 0.5
        if epoch.score > best.score if is_clear else epoch.held_loss < best.held_loss:
            best = epoch
    return best


class QuantizedTrainer:
    """Trains the weights of a source's model where they are.

    Ranges are measured anew before each epoch, with the weights as they are then and as an export measures them, and stay for the
    epoch: what is trained and what is judged is what an export would make.
    """

    def __init__(self, source: KerasSource, *, training: Samples, held_back: Samples, target: Target) -> None:
        """Ask the float network for the answers that are to be kept.

        Args:
            source: The model, with a batch axis of known length.
            training: What to train and calibrate on, a batch at the least.
            held_back: What to judge by.
            target: The CPU that the file is for.

        Raises:
            InputError: The model fails on the samples.
            UnsupportedError: It cannot be simulated.
        """
        self._source, self._training, self._held_back = source, training, held_back
        self._batch = source.inputs[0].shape[0] or 1
        self._wanted, self._judged = self._float_answers(training), self._float_answers(held_back)
        self.objective = Objective.of(source, is_labeled=training.labels is not None)
        self.simulated = SimulatedInt8(source, _float_graph(source, training), target=target, batch=next(training.batches(self._batch)))
        self._infer = self._compiled(lambda *inputs: self.simulated.call(inputs), self.simulated.signature)

    def float_score(self) -> float:
        """The network's own score with its present weights."""
        return self.objective.score(self._float_answers(self._held_back), self._judged, self._held_back.labels)

    def int8_score(self) -> tuple[float, float]:
        """The loss and the score of the static-int8 file that its present weights would give, on the held-back samples."""
        import tensorflow as tf

        self.simulated.calibrate(self._training.batches(self._batch, most=_CALIBRATION_SAMPLES), ranges=_RANGES)
        parts = [[np.asarray(output) for output in self._infer(*self._tensors(batch))] for batch in self._held_back.batches(self._batch)]
        answers = [np.concatenate(arrays)[: self._held_back.count] for arrays in zip(*parts, strict=True)]
        labels = self._held_back.labels
        loss = self.objective.loss(list(map(tf.constant, answers)), list(map(tf.constant, self._judged)), labels)
        return float(loss), self.objective.score(answers, self._judged, labels)

    def run(self, *, epochs: int, learning_rate: float, seed: int, on_epoch: Callable[[Epoch], None]) -> tuple[Epoch, ...]:
        """Train, and leave the weights of the best epoch.

        Args:
            epochs: How many times to go through the samples.
            learning_rate: Of the first step; it falls to zero along a cosine.
            seed: Of the order of the samples.
            on_epoch: Told what each gave; first, as number 0, what there is to begin with.

        Returns:
            All of these, from number 0 on.
        """
        variables = _trained_variables(self._source.model)
        steps = self._training.count // self._batch
        step = self._step(variables, learning_rate, steps * epochs)
        generator = np.random.default_rng(seed)
        started = monotonic()
        done = [Epoch(0, epochs, None, *self.int8_score(), monotonic() - started)]
        on_epoch(done[0])
        kept = [np.asarray(variable) for variable in variables]
        for number in range(1, epochs + 1):
            started = monotonic()
            order = generator.permutation(self._training.count)
            losses = [float(step(*self._batch_of(order[place * self._batch : (place + 1) * self._batch]))) for place in range(steps)]
            done.append(Epoch(number, epochs, float(np.mean(losses)), *self.int8_score(), monotonic() - started))
            on_epoch(done[-1])
            if best_epoch(done, samples=self._held_back.count) is done[-1]:
                kept = [np.asarray(variable) for variable in variables]
        for variable, values in zip(variables, kept, strict=True):
            variable.assign(values)
        self.int8_score()  # so that the ranges fit the weights
        return tuple(done)

    def _step(self, variables: Sequence[Any], learning_rate: float, steps: int) -> Any:
        """One step of the training: a function of inputs, wanted outputs and labels that gives the loss."""
        import tensorflow as tf

        keras = import_keras()
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
        optimizer.build(variables)

        def step(inputs: list[Any], wanted: list[Any], labels: Any | None) -> Any:
            loss = self.objective.loss(self.simulated.call(inputs), wanted, labels)
            # Not with a tape: operators that were made again for folded weights are not on it.
            gradients = tf.gradients(loss, [variable.value for variable in variables])
            pairs = [(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True) if gradient is not None]
            optimizer.apply_gradients(pairs)
            return loss

        return self._compiled(step)

    def _compiled(self, function: Callable[..., Any], signature: Any = None) -> Any:
        import tensorflow as tf

        compiled = tf.function(function, input_signature=signature, autograph=False)

        def run(*arguments: Any) -> Any:
            with refusing():
                return compiled(*arguments)

        return run

    def _tensors(self, batch: Mapping[str, Array]) -> list[Any]:
        import tensorflow as tf

        return [tf.convert_to_tensor(batch[spec.name], spec.dtype) for spec in self._source.inputs]

    def _batch_of(self, places: Array) -> tuple[list[Any], list[Any], Any | None]:
        import tensorflow as tf

        labels = self._training.labels
        inputs = self._tensors({name: values[places] for name, values in self._training.inputs.items()})
        return inputs, [tf.constant(values[places]) for values in self._wanted], None if labels is None else tf.constant(labels[places])

    def _float_answers(self, samples: Samples) -> list[Array]:
        """One array an output, ``(samples, …)``."""
        with quiet_tensorflow():
            parts = [self._source.predict(batch) for batch in samples.batches(self._batch)]
        return [np.concatenate([part[spec.name] for part in parts])[: samples.count] for spec in self._source.outputs]


def _float_graph(source: KerasSource, samples: Samples) -> OnnxFloatGraph:
    """The network as the exporter quantizes it."""
    probes = [Sample({name: values[number] for name, values in samples.inputs.items()}, None) for number in range(_PROBES)]
    accept = Probe(source, probes[: samples.count]).check
    return OnnxExporter(source, tflite=TfliteExporter(source, accept=accept), accept=accept).float_graph()


def _trained_variables(model: Any) -> list[Any]:
    """Everything that a training changes, of frozen layers, too, which lose to rounding like the others; no statistics.

    Source: keras/src/layers/layer.py keeps what ``trainable=False`` freezes among ``_trainable_variables``.
    """
    found = [variable for layer in [model, *layers_of(model)] for variable in layer._trainable_variables]
    return list({id(variable): variable for variable in found if variable.dtype == "float32"}.values())
