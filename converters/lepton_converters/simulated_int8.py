"""The arithmetic of a static-int8 file, simulated in TensorFlow while a Keras model is traced, so that gradients pass through it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from lepton_converters.compiled_function import compile_function
from lepton_converters.distillation import Answers
from lepton_converters.fake_quantize import quantize_activation, quantize_weight
from lepton_converters.frozen_graph import exported_form
from lepton_converters.keras_model import layers_of
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.quantizer import find_ranges
from lepton_converters.rounded_trace import RoundedTrace
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.formats import Format, Target
from lepton_runtime.tensors import Array

_NEAR = 1e-4  # of the largest value: two runtimes differ by 1e-6 of it in a MobileNetV2 or V3, a step of 8 bits is 4e-3
_MOST_UNMATCHED = 0.5  # of what the file rounds; what is trained with less than half of its rounding is another network


class NotFiniteError(InputError):
    """A loss, a weight or a value within the network is NaN or infinite."""


class SimulatedInt8:
    """A model that answers as its static-int8 ONNX file does, to within a step or so of rounding.

    What is rounded is not decided here: it is what the exporter's own graph of the model rounds. Its tensors are found among
    TensorFlow's by their values, for names and layouts are others.

    Attributes:
        operators: How many operators with weights compute in 8 bits.
        floating: The names of recurrent layers, which stay in float as they do in the file.
        unmatched: The layers, or tensors of the file that have no name of one, whose values the file rounds and this does not.
    """

    def __init__(self, source: KerasSource, graph: OnnxFloatGraph, *, target: Target, batch: Mapping[str, Array]) -> None:
        """Find what is to be rounded.

        Args:
            source: The model, whose inputs have a known shape, batch included.
            graph: The same model, as the exporter quantizes it.
            target: The CPU that the file is for.
            batch: Inputs to find tensors by.

        Raises:
            UnsupportedError: TensorFlow cannot trace the model, or the file would compute it in another way.
        """
        import tensorflow as tf

        operators = [operator for block in graph.blocks for operator in block.operators if operator.weight]
        if not operators:
            raise UnsupportedError(
                f"fine-tuning is for models with convolutions or Dense layers, {source.name!r} has none that 8 bits are used for"
            )
        self._source = source
        self._largest_weight = graph.weight_scheme(operators[0], target).largest
        self._names: list[str] = []  # of TensorFlow's tensors, by their numbers
        numbers: dict[Any, int] = {}
        sources: list[set[int]] = []

        def describe(number: int, value: Any) -> Any:
            sources.append({numbers[given.ref()] for given in value.op.inputs if given.ref() in numbers})
            numbers[value.ref()] = number
            self._names.append(value.op.name)
            return _fingerprint_of(value)

        trace, fingerprints = self._observer(describe)
        self.operators, self.floating = trace.operators, tuple(dict.fromkeys(trace.floating))
        if self.operators != len(operators):
            raise UnsupportedError(
                f"to be simulated, each of {self.operators} operators with weights must be one of the file's, which has {len(operators)}"
            )
        self._points, missing = _find(fingerprints(batch), sources, graph, batch)
        self.unmatched = tuple(dict.fromkeys(self._layer_of(name) for name in missing))
        if len(missing) > _MOST_UNMATCHED * len(graph.rounded):
            raise UnsupportedError(
                f"to be simulated, what the file rounds must be tensors of TensorFlow's, {len(missing)} of {len(graph.rounded)} are none: "
                f"{', '.join(self.unmatched)}"
            )
        self._measured = sorted(set(self._points.values()))
        _, self._observe = self._observer(lambda number, value: value if number in self._measured else None)
        self._ranges = tf.Variable(tf.zeros((len(self._measured), 2)), trainable=False)

    def calibrate(self, batches: Iterable[Mapping[str, Array]], *, ranges: str) -> None:
        """Find ranges over those inputs, with the weights as they are now, as the exporter does.

        Args:
            batches: The inputs.
            ranges: How; see :func:`lepton_converters.quantizer.find_ranges`.

        Raises:
            NotFiniteError: A value that is rounded is not finite.
        """
        statistics = {self._names[number]: TensorStatistics(self._names[number]) for number in self._measured}
        count = 0
        for batch in batches:
            for entry, values in zip(statistics.values(), self._observe(batch), strict=True):
                if not np.isfinite(values).all():
                    raise NotFiniteError(
                        f"the values of {self._layer_of(entry.name)!r} must be finite for 8 bits to hold them, "
                        "found NaN or infinity; mend the model or the samples"
                    )
                entry.add(values, first_sample=count)
            count += len(next(iter(batch.values())))
        found = find_ranges(statistics, ranges)
        self._ranges.assign([found[name] for name in statistics])

    def call(self, tensors: Sequence[Any]) -> Answers:  # Any: TensorFlow has no type hints
        """The answers for flat inputs, of any number of samples; to be called while a ``tf.function`` is traced."""
        places = {number: self._measured.index(measured) for number, measured in self._points.items()}

        def activation(number: int, value: Any) -> Any:
            place = places.get(number)
            return value if place is None else quantize_activation(value, self._ranges[place, 0], self._ranges[place, 1])

        def weight(kernel: Any, axes: list[int]) -> Any:
            return quantize_weight(kernel, axes=axes, largest=self._largest_weight)

        trace = RoundedTrace(activation, weight)
        answers = self._run(trace, tensors)
        if trace.count != len(self._names):
            raise UnsupportedError(
                f"to be simulated, a model must compute a batch of any size alike, it makes {trace.count} tensors of one of "
                f"{tensors[0].shape[0]} samples and {len(self._names)} of one of {self._source.inputs[0].shape[0]}; try that --batch-size"
            )
        return answers

    def _observer(self, look: Callable[[int, Any], Any | None]) -> tuple[RoundedTrace, Callable[[Mapping[str, Array]], list[Array]]]:
        """A trace of the float model, and a function of inputs that gives what it found.

        Args:
            look: Gives what is to be known of a tensor, by its number, or ``None``.
        """
        import tensorflow as tf

        found: list[Any] = []

        def activation(number: int, value: Any) -> Any:
            known = look(number, value)
            if known is not None:
                found.append(known)
            return value

        def observe(*tensors: Any) -> list[Any]:
            self._run(trace, tensors)
            return found

        trace = RoundedTrace(activation, lambda kernel, axes: kernel)
        compiled = compile_function(observe, [tf.TensorSpec(spec.shape, spec.dtype) for spec in self._source.inputs])

        def run(batch: Mapping[str, Array]) -> list[Array]:
            given = [tf.convert_to_tensor(batch[spec.name], spec.dtype) for spec in self._source.inputs]
            return [np.asarray(values) for values in compiled(*given)]

        return trace, run

    def _run(self, trace: RoundedTrace, tensors: Sequence[Any]) -> Answers:
        import tensorflow as tf

        with exported_form(Format.ONNX), trace.active():
            outputs = self._source.call([tf.identity(tensor) for tensor in tensors])  # inputs are activations, too
        return Answers.traced(outputs, [trace.read(output) for output in outputs])

    def _layer_of(self, tensor: str) -> str:
        """The name of the innermost layer that a tensor's path leads through; the path where it leads through none."""
        names = {layer.name for layer in layers_of(self._source.model)} if self._source.model else set()
        return next((part for part in reversed(tensor.split("/")) if part in names), tensor)


def _find(
    seen: Sequence[Array], sources: Sequence[set[int]], graph: OnnxFloatGraph, batch: Mapping[str, Array]
) -> tuple[dict[int, int], list[str]]:
    """Which of TensorFlow's tensors have the values of those that are rounded, without what is only moved from one of them.

    Tensors that have the same values by chance, as a residual of a branch that adds next to nothing, are told apart by their order,
    which both graphs have from the network.

    Args:
        seen: The fingerprint of each of TensorFlow's tensors.
        sources: Those that each is computed from.
        graph: The exporter's.
        batch: The inputs of both.

    Returns:
        The number of each, with that of which it has the range; and which of the exporter's tensors were not found: constants
        that are added up in another order, for one, make sums that TensorFlow never has.
    """
    known = np.array(seen)
    near: dict[str, set[int]] = {}
    for name, values in chain.from_iterable(made.items() for made in graph.values(iter([batch]), tuple(graph.rounded))):
        wanted = _fingerprint(values)
        is_near = (known[:, 0] == wanted[0]) & (np.abs(known[:, 1:] - wanted[1:]) <= _NEAR * np.abs(wanted[1:3]).max()).all(axis=1)
        near[name] = set(np.flatnonzero(is_near).tolist())
    moved = {name for name, source in graph.rounded.items() if source != name and near[name] & near[source]}
    found: dict[str, set[int]] = {}
    taken: set[int] = set()
    names = [name for name in graph.rounded if name not in moved]
    for place, name in enumerate(names):
        free = near[name] - taken
        first = {number for number in free if not sources[number] & free}
        wanted_later = set().union(*(near[other] for other in names[place + 1 :]))
        found[name] = first - wanted_later or set(sorted(first)[:1])
        for number in sorted(free):
            if number in found[name] or (sources[number] and sources[number] <= taken and len(sources[number]) == 1):
                taken.add(number)
    points = {number: min(found[graph.rounded[name]] or {number}) for name, numbers in found.items() for number in numbers}
    return points, [name for name in names if not found[name]]


def _fingerprint(values: Array) -> Array:
    """What tells a tensor from others, and stays when it is transposed or reshaped: its size and moments, ``(7,)`` float64."""
    wide = values.astype(np.float64)
    largest = np.abs(wide).max() or 1.0
    powers = (np.mean(wide * (wide / largest) ** power) for power in (2, 3))
    return np.array([wide.size, wide.min(), wide.max(), wide.mean(), np.sqrt(np.square(wide).mean()), *powers])


def _fingerprint_of(value: Any) -> Any:
    """The same of a TensorFlow tensor."""
    import tensorflow as tf

    largest = tf.reduce_max(tf.abs(value))
    powers = [tf.reduce_mean(value * tf.math.divide_no_nan(value, largest) ** power) for power in (2, 3)]
    reduced = (tf.reduce_min(value), tf.reduce_max(value), tf.reduce_mean(value), tf.sqrt(tf.reduce_mean(tf.square(value))))
    return tf.stack([tf.cast(number, tf.float64) for number in (tf.size(value), *reduced, *powers)])
