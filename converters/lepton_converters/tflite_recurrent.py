"""TFLite's fused LSTM operator, by the signed function that TensorFlow's converter knows it by."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_converters.recurrent import Cell, last_step


class TfliteRecurrence:
    """Calls functions that TensorFlow's converter replaces with UNIDIRECTIONAL_SEQUENCE_LSTM; TFLite fuses no GRU.

    The operator starts from its variables, which the runtime sets to zero before each call.

    Attributes:
        count: How many were called.

    Source: "tf.api_implements" in TensorFlow's pass prepare-composite-functions, which fuses a Keras LSTM.
    """

    def __init__(self) -> None:
        self.count = 0

    def supports(self, cell: Cell, states: Sequence[Any], *, gives_states: bool) -> bool:
        """Whether it is Keras' usual LSTM, from zero, of a fixed batch, whose last states nobody reads."""
        is_usual = (cell.kind, cell.activation, cell.recurrent_activation) == ("LSTM", "tanh", "sigmoid")
        return is_usual and not gives_states and all(map(_is_zero, states))

    def emit(self, cell: Cell, sequence: Any, states: Sequence[Any], *, lengths: Any | None, backwards: bool) -> tuple[Any, list[Any]]:
        """See :class:`lepton_converters.recurrent.Operator`."""
        import tensorflow as tf

        self.count += 1
        sequence = tf.reverse(sequence, [1]) if backwards else sequence
        # The outputs' values are the operator's; this body only gives them their shapes.
        attributes = {"api_implements": f"lstm_{self.count}", "go_backwards": False, "time_major": False}
        body = tf.function(_shapes_of_lstm, experimental_attributes=attributes, autograph=False)
        bias = np.zeros(4 * cell.units, np.float32) if cell.bias is None else cell.bias
        inputs = [sequence, *states, *map(tf.constant, (cell.kernel, cell.recurrent_kernel, bias))]
        called = body.get_concrete_function(*(tf.TensorSpec(value.shape, value.dtype) for value in inputs))
        outputs = called(*inputs)[1]
        return outputs, [last_step(outputs, lengths), *states[1:]]  # the others are not read, see supports


def _shapes_of_lstm(sequence: Any, hidden: Any, carry: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> tuple[Any, ...]:
    """Keras' five results: last output, all outputs, both states, and where it ran."""
    import tensorflow as tf

    outputs = tf.matmul(sequence, kernel[:, : recurrent_kernel.shape[0]])
    return outputs[:, -1], outputs, hidden, carry, tf.constant(0.0)


def _is_zero(tensor: Any) -> bool:
    """Whether its value is known while tracing, batch included, and zero."""
    import tensorflow as tf

    value = tf.get_static_value(tensor)
    return value is not None and not np.any(value)
