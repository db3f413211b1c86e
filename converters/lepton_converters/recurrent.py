"""Recurrent layers traced as one operator a layer, instead of Keras' loop over the steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lepton_converters.keras_loading import import_keras
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

    def replaced(original: Any) -> Any:
        def inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            found = _run(operator, layer, sequences, initial_state, mask) if operator and not training else None
            if found is not None:
                return found
            before, layer.unroll = layer.unroll, layer.unroll or (unrolls and sequences.shape[1] is not None)
            try:
                return original(layer, sequences, initial_state, mask, training=training)
            finally:
                layer.unroll = before

        return inner_loop

    for kind, original in originals.items():
        kind.inner_loop = replaced(original)
    try:
        yield
    finally:
        for kind, original in originals.items():
            kind.inner_loop = original


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
    mask = None if mask is None else _flat_mask(mask)
    lengths = None
    backwards = layer.go_backwards
    if mask is not None:
        if backwards:
            sequences, mask, backwards = tf.reverse(sequences, [1]), tf.reverse(mask, [1]), False
        sequences, lengths = _compact(sequences, mask)
    states: list[list[Any]] = []
    for cell, initial in zip(cells, given, strict=True):
        sequences, last = operator.emit(cell, sequences, initial, lengths=lengths, backwards=backwards)
        backwards = False  # the next cell of a stack reads what this one gave, in that order
        states.append(last)
    last_output = states[-1][0]
    if mask is not None and (layer.return_sequences or layer.zero_output_for_mask):
        sequences = _expand(sequences, mask, keeps_last=not layer.zero_output_for_mask)
        last_output = sequences[:, -1]
    return last_output, sequences, keras.tree.pack_sequence_as(initial_state, keras.tree.flatten(states))


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
            activation=keras.activations.serialize(cell.activation),
            recurrent_activation=None if kind == "RNN" else keras.activations.serialize(cell.recurrent_activation),
            resets_after=kind == "GRU" and cell.reset_after,
        )


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
    return tf.squeeze(tf.matmul(tf.cast(is_last, outputs.dtype)[:, None], outputs), 1)


def _compact(sequences: Any, mask: Any) -> tuple[Any, Any]:
    """The steps that count moved to the front, in their order, and how many there are in each row.

    A masked step leaves the state as it is, so that only the order of the others matters. The move is a product
    with a matrix of zeros and ones: exact, of plain operators, ``steps²`` multiplications a feature.
    """
    import tensorflow as tf

    counts = tf.cast(mask, tf.int32)
    lengths = tf.reduce_sum(counts, axis=1)
    place = tf.cumsum(counts, axis=1) - 1
    steps = tf.range(tf.shape(mask)[1])
    is_moved = tf.logical_and(tf.equal(place[:, None, :], steps[None, :, None]), mask[:, None, :])
    return tf.matmul(tf.cast(is_moved, sequences.dtype), sequences), lengths


def _expand(outputs: Any, mask: Any, *, keeps_last: bool) -> Any:
    """The outputs back in their places; at a masked step the one before it, or zeros."""
    import tensorflow as tf

    place = tf.cumsum(tf.cast(mask, tf.int32), axis=1) - 1
    steps = tf.range(tf.shape(mask)[1])
    is_moved = tf.equal(place[:, :, None], steps[None, None, :])
    if not keeps_last:
        is_moved = tf.logical_and(is_moved, mask[:, :, None])
    return tf.matmul(tf.cast(is_moved, outputs.dtype), outputs)
