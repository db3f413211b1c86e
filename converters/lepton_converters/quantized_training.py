"""Training a network as its static-int8 file computes, on samples in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Any

import numpy as np

from lepton_converters.compiled_function import compile_function
from lepton_converters.dataset import Sample
from lepton_converters.distillation import Answers, Objective, operator_of
from lepton_converters.epoch import Epoch, Training, best_epoch
from lepton_converters.frozen_graph import exported_form
from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_model import layers_of
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_export import OnnxExporter
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.parity import Probe
from lepton_converters.simulated_int8 import NotFiniteError, SimulatedInt8
from lepton_converters.source_specs import filled
from lepton_converters.tflite_export import TfliteExporter
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format, Target
from lepton_runtime.tensors import Array, TensorSpec

CALIBRATION_SAMPLES = 200  # as many as an export takes unless it is told otherwise
_RANGES = "by-tensor"  # an export takes others only where it cannot tell them apart
_PROBES = 2
_LOOKED_AT = 8  # samples at a time where ranges are measured: every activation of theirs is in memory


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

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Inputs in their order, all of ``size``: the last sample is repeated."""
        for start in range(0, self.count, size):
            yield {name: filled(values[start : start + size], size) for name, values in self.inputs.items()}


class QuantizedTrainer:
    """Trains the weights of a source's model where they are.

    Ranges are measured anew before each epoch, with the weights as they are then and as an export measures them, and stay for the
    epoch: what is trained and what is judged is what an export would make.

    Attributes:
        objective: What is made smaller, and what it is judged by.
        simulated: The model as its file computes.
        float_before: The score of the float network as it was.
        float_accuracy: How often its best class is the label, ``None`` without labels.
    """

    def __init__(
        self,
        source: KerasSource,
        *,
        training: Samples,
        held_back: Samples,
        target: Target,
        on_progress: Callable[[str, str, float], None] = lambda name, subject, fraction: None,
    ) -> None:
        """Ask the float network for the answers that are to be kept.

        Args:
            source: The model, with a batch axis of known length.
            training: What to train and calibrate on, a batch at the least.
            held_back: What to judge by.
            target: The CPU that the file is for.
            on_progress: Told what is done, to what, and which share of it is over.

        Raises:
            InputError: The model fails on the samples, or its answers are not finite.
            UnsupportedError: It cannot be simulated.
        """
        self._source, self._training, self._held_back, self._on_progress = source, training, held_back, on_progress
        few = _few_at_a_time(source)
        self._batch, self._few = (each.inputs[0].shape[0] or 1 for each in (source, few))
        operators: list[str | None] = []

        def exact(*tensors: Any) -> list[Any]:
            with exported_form(Format.ONNX):
                outputs = few.call(list(tensors))
            operators[:] = map(operator_of, outputs)
            return Answers.traced(outputs, outputs).flat

        self._exact = compile_function(exact, _signature(few.inputs))
        wanted, self._judged = self._float_answers(training), self._float_answers(held_back)
        self._wanted = wanted.logits
        self.objective = Objective.of(source.outputs, operators, wanted.values, is_labeled=training.labels is not None)
        self.float_before = float(self._scores(self._judged).mean())
        self.float_accuracy = self.objective.accuracy(self._judged.values, held_back.labels)
        on_progress("convert", "graph", 0.0)
        batch = next(training.batches(self._few))
        self.simulated = SimulatedInt8(few, _float_graph(few, training), target=target, batch=batch)
        self._infer = compile_function(lambda *tensors: self.simulated.call(tensors).flat, _signature(few.inputs))

    def float_score(self) -> float:
        """The network's own score with its present weights."""
        return float(self._scores(self._float_answers(self._held_back)).mean())

    def answers(self, samples: Samples) -> tuple[Answers, Answers]:
        """The float network's and those of its static-int8 file, with the present weights and the ranges that were measured last."""
        return self._float_answers(samples), self._int8_answers(samples)

    def run(
        self, *, epochs: int, learning_rate: float, seed: int, on_epoch: Callable[[Epoch], None], keep_frozen: bool = False
    ) -> Training:
        """Train, and leave the weights of the best epoch, and ranges that fit them.

        It ends early where an epoch makes the loss, weights or values within the network infinite or NaN.

        Args:
            epochs: How many times to go through the samples.
            learning_rate: Of the first step; it falls to zero along a cosine.
            seed: Of the order of the samples.
            on_epoch: Told what each gave; first, as number 0, what there is to begin with.
            keep_frozen: Leave the weights of layers with ``trainable=False`` as they are.

        Raises:
            InputError: There is nothing to train, values are not finite to begin with, or a batch does not fit in memory.
        """
        variables = _trained_variables(self._source.model, keep_frozen=keep_frozen)
        step = self._step(variables, learning_rate, self._training.count // self._batch * epochs)
        generator = np.random.default_rng(seed)
        done: list[Epoch] = []
        scores: list[Array] = []
        kept: list[Array] = []
        best, diverged = 0, None
        for number in range(epochs + 1):
            started = monotonic()
            try:
                order = generator.permutation(self._training.count) if number else None
                loss = None if order is None else self._train(step, variables, order, subject=f"epoch {number}/{epochs}")
                held_loss, found = self._judge()
            except NotFiniteError:
                if number == 0:
                    raise
                diverged = number
                break
            scores.append(found)
            done.append(Epoch(number, epochs, loss, held_loss, float(found.mean()), monotonic() - started))
            on_epoch(done[-1])
            best = best_epoch([epoch.held_loss for epoch in done], scores)
            if best == number:
                kept = [np.asarray(variable) for variable in variables]
        for variable, values in zip(variables, kept, strict=True):
            variable.assign(values)
        if diverged is not None or best != done[-1].number:  # else the ranges are those that the last epoch was judged by
            self._calibrate()
        return Training(tuple(done), done[best], diverged)

    def _train(self, step: Callable[..., Any], variables: Sequence[Any], order: Array, *, subject: str) -> float:
        """The mean loss of one time through the samples in that order; a last batch that is not full is left out.

        Raises:
            NotFiniteError: The loss or a weight is not finite.
        """
        losses: list[float] = []
        steps = len(order) // self._batch
        for places in order[: steps * self._batch].reshape(steps, self._batch):
            losses.append(float(step(*self._batch_of(places))))
            if not np.isfinite(losses[-1]):
                raise NotFiniteError(f"the loss must be finite, found {losses[-1]}; lower --learning-rate")
            self._on_progress("train", subject, len(losses) / steps)
        if not all(np.isfinite(np.asarray(variable)).all() for variable in variables):
            raise NotFiniteError("weights must be finite, found NaN or infinity; lower --learning-rate")
        return float(np.mean(losses))

    def _judge(self) -> tuple[float, Array]:
        """The loss and the scores of the static-int8 file that the present weights would give, on the held-back samples.

        Raises:
            NotFiniteError: An answer, or a value within the network, is not finite.
        """
        import tensorflow as tf

        self._calibrate()
        answers = self._int8_answers(self._held_back)
        if not all(np.isfinite(values).all() for values in answers.values):
            raise NotFiniteError("the answers in 8 bits must be finite, found NaN or infinity; check the model's weights")
        tensors, wanted = ([tf.constant(logits) for logits in given.logits] for given in (answers, self._judged))
        return float(self.objective.loss(tensors, wanted, self._held_back.labels)), self._scores(answers)

    def _calibrate(self) -> None:
        """Find the ranges of the present weights."""
        most = min(CALIBRATION_SAMPLES, self._training.count) // self._few  # whole batches: no sample counts twice
        self.simulated.calibrate(islice(self._training.batches(self._few), most), ranges=_RANGES)

    def _scores(self, answers: Answers) -> Array:
        return self.objective.scores(answers.values, self._judged.values, self._held_back.labels)

    def _step(self, variables: Sequence[Any], learning_rate: float, steps: int) -> Callable[..., Any]:
        """One step of the training: a function of inputs, wanted logits and labels, if there are any, that gives the loss."""
        import tensorflow as tf

        keras = import_keras()
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
        optimizer.build(variables)

        def step(inputs: list[Any], wanted: list[Any], *labels: Any) -> Any:
            loss = self.objective.loss(self.simulated.call(inputs).logits, wanted, labels[0] if labels else None)
            # Not with a tape: operators that were made again for folded weights are not on it.
            gradients = tf.gradients(loss, [variable.value for variable in variables])
            pairs = [(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True) if gradient is not None]
            optimizer.apply_gradients(pairs)
            return loss

        wanted = [tf.TensorSpec((self._batch, *logits.shape[1:]), logits.dtype) for logits in self._wanted]
        labels = [] if self._training.labels is None else [tf.TensorSpec((self._batch,), tf.int32)]
        return compile_function(step, [_signature(self._source.inputs), wanted, *labels])

    def _batch_of(self, places: Array) -> tuple[list[Any], list[Any]] | tuple[list[Any], list[Any], Any]:
        import tensorflow as tf

        inputs = self._tensors({name: values[places] for name, values in self._training.inputs.items()})
        wanted = [tf.constant(values[places]) for values in self._wanted]
        labels = self._training.labels
        return (inputs, wanted) if labels is None else (inputs, wanted, tf.constant(labels[places]))

    def _tensors(self, batch: Mapping[str, Array]) -> list[Any]:
        import tensorflow as tf

        return [tf.convert_to_tensor(batch[spec.name], spec.dtype) for spec in self._source.inputs]

    def _float_answers(self, samples: Samples) -> Answers:
        answers = self._answers(self._exact, samples, step="answer", subject="float network")
        if not all(np.isfinite(values).all() for values in answers.values):
            raise InputError(
                "the float network's own answers must be finite, found NaN or infinity; check its weights and --scale, --mean, --std"
            )
        return answers

    def _int8_answers(self, samples: Samples) -> Answers:
        return self._answers(self._infer, samples, step="judge", subject="int8, simulated")

    def _answers(self, function: Callable[..., Any], samples: Samples, *, step: str, subject: str) -> Answers:
        """What a compiled function of a few inputs gives for all samples, as arrays."""
        parts = []
        for number, batch in enumerate(samples.batches(self._few), 1):
            parts.append(list(map(np.asarray, function(*self._tensors(batch)))))
            self._on_progress(step, subject, min(1.0, number * self._few / samples.count))
        return Answers.of_flat([np.concatenate(arrays)[: samples.count] for arrays in zip(*parts, strict=True)])


def _few_at_a_time(source: KerasSource) -> KerasSource:
    """The source for batches of a few samples, if its model takes any number."""
    batch = source.inputs[0].shape[0] or 1
    if source.model is None or any(tensor.shape[0] is not None for tensor in source.model.inputs):
        return source
    inputs, outputs = (
        tuple(replace(spec, shape=(min(batch, _LOOKED_AT), *spec.shape[1:])) for spec in specs) for specs in (source.inputs, source.outputs)
    )
    return replace(source, inputs=inputs, outputs=outputs)


def _signature(inputs: Sequence[TensorSpec]) -> list[Any]:
    import tensorflow as tf

    return [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]


def _float_graph(source: KerasSource, samples: Samples) -> OnnxFloatGraph:
    """The network as the exporter quantizes it."""
    probes = [Sample({name: values[number] for name, values in samples.inputs.items()}, None) for number in range(_PROBES)]
    accept = Probe(source, probes[: samples.count]).check
    return OnnxExporter(source, tflite=TfliteExporter(source, accept=accept), accept=accept).float_graph()


def _trained_variables(model: Any, *, keep_frozen: bool) -> list[Any]:
    """Everything that a training changes, of frozen layers, too, which lose to rounding like the others; no statistics.

    Raises:
        InputError: Frozen layers are to be kept, and all are.

    Source: keras/src/layers/layer.py keeps what ``trainable=False`` freezes among ``_trainable_variables``.
    """
    every = [variable for layer in [model, *layers_of(model)] for variable in layer._trainable_variables]
    found = [variable for variable in (model.trainable_variables if keep_frozen else every) if variable.dtype == "float32"]
    if keep_frozen and not found:
        raise InputError("there must be a layer to train, all are frozen; leave --keep-frozen out, or set trainable=True for some")
    return list({id(variable): variable for variable in found}.values())
