"""Recurrent layers traced as one operator a layer, instead of Keras' loop over the steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_names import HARD_SIGMOID
from lepton_converters.legacy_layers import hard_sigmoid_of_keras_2
from lepton_converters.replaced import replaced
from lepton_runtime.tensors import Array


@dataclass(frozen=True)
class Cell:
    """What a recurrent cell computes, in the words of Keras.

    Attributes:
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        units: The length of its state.
        kernel: ``(features, gates * units)``; gates in Keras' order, LSTM ``i f c o`` and GRU ``z r h``.
        recurrent_kernel: ``(units, gates * units)``.
        bias: ``(gates * units,)``; ``(2, 3 * units)`` for a GRU that resets after the product; or ``None``.
        activation: The name of the Keras activation of the output.
        recurrent_activation: Of the gates; ``None`` for an ``RNN``.
        resets_after: Whether a GRU multiplies with its reset gate after the recurrent product.
    """

    kind: str
    units: int
    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    activation: str
    recurrent_activation: str | None
    resets_after: bool


class Operator(Protocol):
    """Emits one recurrent operator into the graph that is being traced."""

    def supports(self, cell: Cell, states: Sequence[Any], *, gives_states: bool) -> bool:
        """Whether the target format has an operator for it.

        Args:
            cell: What it computes.
            states: What it starts from, one ``(batch, units)`` a state.
            gives_states: Whether the last states are read.
        """
        ...

    def emit(self, cell: Cell, sequence: Any, states: Sequence[Any], *, lengths: Any | None, backwards: bool) -> tuple[Any, list[Any]]:
        """The operator's outputs of all steps, in the order in which they are read, and its last states.

        Args:
            cell: What it computes.
            sequence: ``(batch, steps, features)``.
            states: One ``(batch, units)`` a state.
            lengths: ``(batch,)`` int32, how many steps of each row count, or ``None`` for all.
            backwards: Whether it reads from the last step to the first; never with ``lengths``.

        Returns:
            ``(batch, steps, units)``, and one ``(batch, units)`` a state, where they are read.
        """
        ...


@contextmanager
def traced_recurrence(operator: Operator | None, *, unrolls: bool = False) -> Iterator[None]:
    """Layers of known cells become that operator while a model is traced; others stay loops, as Keras has them.

    Args:
        operator: What stands for a layer; ``None`` for none.
        unrolls: Write the cell once a step instead of a loop, for what cannot hold loops.

    Source: ``inner_loop`` is where Keras 3 layers hand their steps to a backend's fused operators.
    """
    keras = import_keras()
    kinds = (keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
    originals = {kind: kind.inner_loop for kind in kinds if "inner_loop" in vars(kind)}

    def replacing(original: Any) -> Any:
        def inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            found = _run(operator, layer, sequences, initial_state, mask) if operator and not training else None
            if found is not None:
                return found
            if not (unrolls or training) or sequences.shape[1] is None:
                return original(layer, sequences, initial_state, mask, training=training)
            return _unroll(original, layer, sequences, initial_state, mask, training=training)

        return inner_loop

    with replaced([(kind, "inner_loop", replacing(original)) for kind, original in originals.items()]):
        yield


def _run(operator: Operator, layer: Any, sequences: Any, initial_state: Any, mask: Any) -> tuple[Any, Any, Any] | None:
    """What ``inner_loop`` gives: last output, all outputs, states; ``None`` if a cell has no operator."""
    import tensorflow as tf

    keras = import_keras()
    is_stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    cells = [cell for cell in map(_describe, layer.cell.cells if is_stacked else [layer.cell]) if cell]
    initial_state = initial_state if keras.tree.is_nested(initial_state) else [initial_state]
    given = [keras.tree.flatten(states) for states in initial_state] if is_stacked else [keras.tree.flatten(initial_state)]
    gives_states = layer.return_state or layer.stateful
    if len(cells) != len(given) or len(sequences.shape) != 3:
        return None
    if not all(operator.supports(cell, states, gives_states=gives_states) for cell, states in zip(cells, given, strict=True)):
        return None
    steps = None
    backwards = layer.go_backwards
    if mask is not None:
        sequences, steps = _front(sequences, mask, backwards=backwards)
        backwards = False
    states: list[list[Any]] = []
    for cell, initial in zip(cells, given, strict=True):
        sequences, last = operator.emit(cell, sequences, initial, lengths=steps and steps.lengths, backwards=backwards)
        backwards = False  # the next cell of a stack reads what this one gave, in that order
        states.append(last)
    last_output = states[-1][0]
    if steps is not None and gives_states:
        # Where no step counts a state stays as it was; ONNX' operators give zeros.
        kept = steps.lengths[:, None] > 0
        states = [
            [tf.where(kept, new, old) for new, old in zip(last, initial, strict=True)] for last, initial in zip(states, given, strict=True)
        ]
    if steps is not None and (layer.return_sequences or layer.zero_output_for_mask):
        sequences = _expand(sequences, steps, keeps_last=not layer.zero_output_for_mask)
        last_output = sequences[:, -1]
    return last_output, sequences, keras.tree.pack_sequence_as(initial_state, keras.tree.flatten(states))


def _unroll(original: Any, layer: Any, sequences: Any, initial_state: Any, mask: Any, *, training: bool) -> Any:
    """What ``inner_loop`` gives, without a loop; and without a choice at each step, where the last states are not read."""
    before = layer.unroll, layer.return_sequences, layer.go_backwards
    layer.unroll = True
    try:
        if mask is None or layer.return_state or layer.stateful or len(sequences.shape) != 3:
            return original(layer, sequences, initial_state, mask, training=training)
        sequences, steps = _front(sequences, mask, backwards=layer.go_backwards)
        layer.return_sequences, layer.go_backwards = True, False
        _, outputs, states = original(layer, sequences, initial_state, None, training=training)
    finally:
        layer.unroll, layer.return_sequences, layer.go_backwards = before
    if not layer.return_sequences and not layer.zero_output_for_mask:
        return last_step(outputs, steps.lengths), outputs, states
    outputs = _expand(outputs, steps, keeps_last=not layer.zero_output_for_mask)
    return outputs[:, -1], outputs, states


def _describe(cell: Any) -> Cell | None:
    """The cell's numbers, or ``None`` for a cell of the user's own or one that drops steps."""
    keras = import_keras()
    kinds = {keras.layers.LSTMCell: "LSTM", keras.layers.GRUCell: "GRU", keras.layers.SimpleRNNCell: "RNN"}
    kind = kinds.get(type(cell))
    if kind is None:
        return None

    def numbers(variable: Any) -> Array:
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)

    import tensorflow as tf

    with tf.init_scope():
        return Cell(
            kind=kind,
            units=cell.units,
            kernel=numbers(cell.kernel),
            recurrent_kernel=numbers(cell.recurrent_kernel),
            bias=numbers(cell.bias) if cell.use_bias else None,
            activation=_activation_name(cell.activation),
            recurrent_activation=None if kind == "RNN" else _activation_name(cell.recurrent_activation),
            resets_after=kind == "GRU" and cell.reset_after,
        )


def _activation_name(activation: Any) -> str:
    """Keras' name for a function of its own, or of an older Keras; empty for others."""
    name = import_keras().activations.serialize(activation)
    if activation is hard_sigmoid_of_keras_2:
        return HARD_SIGMOID
    return name if isinstance(name, str) else ""


def _flat_mask(mask: Any) -> Any:
    """``(batch, steps)`` bool."""
    keras = import_keras()
    mask = keras.tree.flatten(mask)[0]
    return keras.ops.cast(keras.ops.squeeze(mask, -1) if len(mask.shape) == 3 else mask, "bool")


def last_step(outputs: Any, lengths: Any | None) -> Any:
    """The output of each row's last step that counts, ``(batch, units)``; zeros where none does."""
    import tensorflow as tf

    if lengths is None:
        return outputs[:, -1]
    is_last = tf.equal(tf.range(tf.shape(outputs)[1])[None], lengths[:, None] - 1)
    # A choice, not a product with numbers made of truth values: those TFLite takes for its own 8-bit steps.
    return tf.reduce_sum(tf.where(is_last[:, :, None], outputs, tf.zeros_like(outputs)), axis=1)


@dataclass(frozen=True)
class _Steps:
    """Where the outputs of the steps that count belong, in the order of reading.

    Attributes:
        place: ``(batch, steps)`` int32, which of the steps that count this one is, or the last one before it; -1 for none.
        mask: ``(batch, steps)`` bool, whether it counts.
        lengths: ``(batch,)`` int32, how many count.
    """

    place: Any
    mask: Any
    lengths: Any


def _front(sequences: Any, mask: Any, *, backwards: bool) -> tuple[Any, _Steps]:
    """The steps that count moved to the front, in the order of reading.

    A masked step leaves the state as it is, so that only the order of the others matters. The move is a product
    with a matrix of zeros and ones: exact, of plain operators, ``steps²`` multiplications a feature.
    """
    import tensorflow as tf

    mask = _flat_mask(mask)
    counts = tf.cast(mask, tf.int32)
    place = tf.cumsum(counts, axis=1, reverse=backwards) - 1
    steps = tf.range(tf.shape(mask)[1])
    is_moved = tf.logical_and(tf.equal(place[:, None, :], steps[None, :, None]), mask[:, None, :])
    moved = tf.matmul(tf.cast(is_moved, sequences.dtype), sequences)
    if backwards:
        place, mask = tf.reverse(place, [1]), tf.reverse(mask, [1])
    return moved, _Steps(place, mask, tf.reduce_sum(counts, axis=1))


def _expand(outputs: Any, steps: _Steps, *, keeps_last: bool) -> Any:
    """The outputs back in their places; at a masked step the one before it, or zeros."""
    import tensorflow as tf

    numbers = tf.range(tf.shape(steps.place)[1])
    is_moved = tf.equal(steps.place[:, :, None], numbers[None, None, :])
    if not keeps_last:
        is_moved = tf.logical_and(is_moved, steps.mask[:, :, None])
    return tf.matmul(tf.cast(is_moved, outputs.dtype), outputs)
