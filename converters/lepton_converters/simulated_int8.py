"""The arithmetic of a static-int8 file, simulated in TensorFlow while a Keras model is traced, so that gradients pass through it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from lepton_converters.fake_quantize import quantize_activation, quantize_weight
from lepton_converters.frozen_graph import exported_form, refusing
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.quantizer import find_ranges
from lepton_converters.rounded_trace import RoundedTrace
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Target
from lepton_runtime.tensors import Array

_NEAR = 1e-4  # of a tensor's largest value: more than between two runtimes, less than between two tensors


class SimulatedInt8:
    """A model that answers as its static-int8 ONNX file does, to within a step or so of rounding.

    What is rounded is not decided here: it is what the exporter's own graph of the model rounds. Its tensors are found among
    TensorFlow's by their values, for names and layouts are others.

    Attributes:
        blocks: How many operators with weights compute in 8 bits.
        floating: The names of recurrent layers, which stay in float as they do in the file.
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
        self.signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in source.inputs]
        numbers: dict[Any, int] = {}
        sources: list[set[int]] = []

        def look(number: int, value: Any) -> Any:
            sources.append({numbers[given.ref()] for given in value.op.inputs if given.ref() in numbers})
            numbers[value.ref()] = number
            return _fingerprint_of(value)

        scout, fingerprints = self._observer(look)
        self._points = _find(fingerprints(batch), sources, graph, batch)
        self.blocks, self.floating = scout.blocks, tuple(dict.fromkeys(scout.floating))
        if self.blocks != len(operators):
            raise UnsupportedError(
                f"to be simulated, each of {self.blocks} operators with weights must be one of the file's, which has {len(operators)}"
            )
        self._measured = sorted(set(self._points.values()))
        _, self._observe = self._observer(lambda number, value: value if number in self._measured else None)
        self._ranges = tf.Variable(tf.zeros((len(self._measured), 2)), trainable=False)

    def calibrate(self, batches: Iterable[Mapping[str, Array]], *, ranges: str) -> None:
        """Find ranges over those inputs, with the weights as they are now, as the exporter does.

        Args:
            batches: The inputs.
            ranges: How; see :func:`lepton_converters.quantizer.find_ranges`.
        """
        statistics = {str(number): TensorStatistics(str(number)) for number in self._measured}
        count = 0
        for batch in batches:
            for entry, values in zip(statistics.values(), self._observe(batch), strict=True):
                entry.add(values, first_sample=count)
            count += len(next(iter(batch.values())))
        found = find_ranges(statistics, ranges)
        self._ranges.assign([found[name] for name in statistics])

    def call(self, tensors: Sequence[Any]) -> list[Any]:  # Any: TensorFlow has no type hints
        """The flat outputs for flat inputs; to be called while a ``tf.function`` is traced."""
        places = {number: self._measured.index(measured) for number, measured in self._points.items()}

        def activation(number: int, value: Any) -> Any:
            place = places.get(number)
            return value if place is None else quantize_activation(value, self._ranges[place, 0], self._ranges[place, 1])

        def weight(kernel: Any, axes: list[int]) -> Any:
            return quantize_weight(kernel, axes=axes, largest=self._largest_weight)

        return self._run(RoundedTrace(activation, weight), tensors)

    def _observer(self, look: Callable[[int, Any], Any | None]) -> tuple[RoundedTrace, Callable[[Mapping[str, Array]], list[Array]]]:
        """A trace of the float model, and a function of inputs that gives what was seen in its tensors."""
        import tensorflow as tf

        seen: list[Any] = []

        def activation(number: int, value: Any) -> Any:
            found = look(number, value)
            if found is not None:
                seen.append(found)
            return value

        def observe(*tensors: Any) -> list[Any]:
            self._run(trace, tensors)
            return seen

        trace = RoundedTrace(activation, lambda kernel, axes: kernel)
        with refusing():
            compiled = tf.function(observe, input_signature=self.signature, autograph=False).get_concrete_function()

        def run(batch: Mapping[str, Array]) -> list[Array]:
            with refusing():
                found = compiled(*(tf.convert_to_tensor(batch[spec.name], spec.dtype) for spec in self._source.inputs))
            return [np.asarray(values) for values in found]

        return trace, run

    def _run(self, trace: RoundedTrace, tensors: Sequence[Any]) -> list[Any]:
        import tensorflow as tf

        with exported_form(Format.ONNX), trace.active():
            outputs = self._source.call([tf.identity(tensor) for tensor in tensors])  # inputs are activations, too
        return [trace.read(output) for output in outputs]


def _find(seen: Sequence[Array], sources: Sequence[set[int]], graph: OnnxFloatGraph, batch: Mapping[str, Array]) -> dict[int, int]:
    """Which of TensorFlow's tensors have the values of those that are rounded, without what is only moved from one of them.

    Args:
        seen: The fingerprint of each of TensorFlow's tensors.
        sources: Those that each is computed from.
        graph: The exporter's.
        batch: The inputs of both.

    Returns:
        The number of each, and of that of which it has the range.

    Raises:
        UnsupportedError: None has the values of one that is rounded.
    """
    known = np.array(seen)
    found: dict[str, set[int]] = {}
    for name, values in chain.from_iterable(made.items() for made in graph.values(iter([batch]), tuple(graph.rounded))):
        wanted = _fingerprint(values)
        is_near = (known[:, 0] == wanted[0]) & (np.abs(known[:, 1:] - wanted[1:]) <= _NEAR * np.abs(wanted[1:3]).max()).all(axis=1)
        near = set(np.flatnonzero(is_near).tolist())
        if not near:
            raise UnsupportedError(f"to be simulated, what the file rounds must be a tensor of TensorFlow's, tensor {name!r} is none")
        found[name] = {number for number in near if not sources[number] & near}
    return {number: min(found[source]) for name, source in graph.rounded.items() for number in found[name]}


def _fingerprint(values: Array) -> Array:
    """What tells a tensor from others, and stays when it is transposed or reshaped: ``(5,)`` float64."""
    wide = values.astype(np.float64)
    return np.array([wide.size, wide.min(), wide.max(), wide.mean(), np.sqrt(np.square(wide).mean())])


def _fingerprint_of(value: Any) -> Any:
    """The same of a TensorFlow tensor."""
    import tensorflow as tf

    reduced = (tf.reduce_min(value), tf.reduce_max(value), tf.reduce_mean(value), tf.sqrt(tf.reduce_mean(tf.square(value))))
    return tf.stack([tf.cast(number, tf.float64) for number in (tf.size(value), *reduced)])
