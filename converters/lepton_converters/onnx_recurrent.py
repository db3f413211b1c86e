"""LSTM, GRU and RNN operators of ONNX (time first inside), from a marked TensorFlow graph."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_converters.keras_names import HARD_SIGMOID
from lepton_converters.recurrent import Cell
from lepton_runtime.tensors import Array

MARKER = "PyFuncStateless"
"""The TensorFlow operator that stands for a recurrent one until tf2onnx comes to it: any inputs, any outputs, never run."""

# Keras' gate order, and ONNX' as places in it. Source: ONNX operators LSTM (iofc), GRU (zrh) and RNN; Keras' cells.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
# Keras' names to ONNX', with alpha and beta of those that take them. Source: ONNX operator LSTM, attribute "activations".
_ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "sigmoid": ("Sigmoid", None, None),
    "tanh": ("Tanh", None, None),
    "relu": ("Relu", None, None),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    HARD_SIGMOID: ("HardSigmoid", 0.2, 0.5),
    "linear": ("Affine", 1.0, 0.0),
    "elu": ("Elu", 1.0, None),
    "softsign": ("Softsign", None, None),
    "softplus": ("Softplus", None, None),
}


class OnnxRecurrence:
    """Marks the places of recurrent operators in a TensorFlow graph; see :func:`recurrent_node`."""

    def supports(self, cell: Cell, states: Sequence[Any], *, gives_states: bool) -> bool:
        """Whether ONNX has the cell's activations."""
        return {cell.activation, cell.recurrent_activation or "tanh"} <= set(_ACTIVATIONS)

    def emit(self, cell: Cell, sequence: Any, states: Sequence[Any], *, lengths: Any | None, backwards: bool) -> tuple[Any, list[Any]]:
        """See :class:`lepton_converters.recurrent.Operator`."""
        import tensorflow as tf

        token = {
            "kind": cell.kind,
            "units": cell.units,
            "activations": _activations(cell),
            "resets_after": cell.resets_after,
            "has_lengths": lengths is not None,
            "backwards": backwards,
        }
        weights = [tf.constant(array) for array in _weights(cell)]
        inputs = [sequence, *states, *([] if lengths is None else [lengths]), *weights]
        types = [tf.float32] * (1 + len(states))
        outputs, *last = tf.raw_ops.PyFuncStateless(input=inputs, token=json.dumps(token), Tout=types)
        batch, steps = sequence.shape[:2]
        outputs = tf.ensure_shape(outputs, (batch, steps, cell.units))
        # ONNX gives each output at the place of its step, Keras in the order of reading.
        outputs = tf.reverse(outputs, [1]) if backwards else outputs
        return outputs, [tf.ensure_shape(state, (batch, cell.units)) for state in last]


def _activations(cell: Cell) -> list[tuple[str, float | None, float | None]]:
    if cell.recurrent_activation is None:
        return [_ACTIVATIONS[cell.activation]]
    repeated = [cell.activation] * (_STATES[cell.kind])
    return [_ACTIVATIONS[name] for name in (cell.recurrent_activation, *repeated)]


def _weights(cell: Cell) -> tuple[Array, Array, Array]:
    """ONNX' W ``(1, gates * units, features)``, R ``(1, gates * units, units)`` and B ``(1, 2 * gates * units)``."""
    order = _GATES[cell.kind]

    def arranged(array: Array) -> Array:
        gates = np.split(array, len(order), axis=-1)
        return np.concatenate([gates[place] for place in order], axis=-1)

    bias = np.zeros((2, len(order) * cell.units), np.float32)
    if cell.bias is not None:
        bias[: cell.bias.ndim] = cell.bias
    both = np.concatenate([arranged(row) for row in bias])
    return arranged(cell.kernel).T[None].copy(), arranged(cell.recurrent_kernel).T[None].copy(), both[None]


def recurrent_node(context: Any, node: Any, name: str, arguments: list[Any]) -> None:  # Any: tf2onnx has no type hints
    """Put the ONNX operator in the place of its mark, with the transpositions to time first and back."""
    token = json.loads(node.get_attr_value("token"))
    states = _STATES[token["kind"]]
    sequence, *rest = node.input
    initial, rest = rest[:states], rest[states:]
    lengths = rest.pop(0) if token["has_lengths"] else ""
    weights = rest
    shapes, dtypes, outputs = list(node.output_shapes), list(node.output_dtypes), list(node.output)
    context.remove_node(node.name)

    def make(kind: str, inputs: list[str], **settings: Any) -> Any:
        return context.make_node(kind, inputs, op_name_scope=name, **settings)

    axes = np.array([0], np.int64)
    expanded = [_unsqueezed(context, make, name, axes) for name in initial]
    names, alphas, betas = zip(*token["activations"], strict=True)
    attributes: dict[str, Any] = {"hidden_size": token["units"], "activations": list(names)}
    if token["backwards"]:
        attributes["direction"] = "reverse"
    for name, values in (("activation_alpha", alphas), ("activation_beta", betas)):
        taken = [value for value in values if value is not None]
        if taken:
            attributes[name] = taken
    if token["kind"] == "GRU":
        attributes["linear_before_reset"] = int(token["resets_after"])
    first = make("Transpose", [sequence], attr={"perm": [1, 0, 2]})
    operator = make(
        token["kind"],
        [first.output[0], *weights, lengths, *expanded],
        attr=attributes,
        output_count=1 + states,
        dtypes=[dtypes[0]] * (1 + states),
    )
    # (steps, 1, batch, units) to (batch, steps, units), by Keras' order of axes.
    squeezed = _squeezed(context, make, operator.output[0], 1, None)
    make("Transpose", [squeezed], attr={"perm": [1, 0, 2]}, outputs=[outputs[0]], shapes=[shapes[0]], dtypes=[dtypes[0]])
    for given, wanted, shape in zip(operator.output[1:], outputs[1:], shapes[1:], strict=True):
        _squeezed(context, make, given, 0, (wanted, shape, dtypes[0]))


def _unsqueezed(context: Any, make: Any, name: str, axes: Array) -> str:
    return str(make("Unsqueeze", [name, context.make_const(context_name("axes"), axes).output[0]]).output[0])


def _squeezed(context: Any, make: Any, name: str, axis: int, wanted: tuple[str, Any, Any] | None) -> str:
    axes = context.make_const(context_name("axes"), np.array([axis], np.int64)).output[0]
    if wanted is None:
        return str(make("Squeeze", [name, axes]).output[0])
    output, shape, dtype = wanted
    return str(make("Squeeze", [name, axes], outputs=[output], shapes=[shape], dtypes=[dtype]).output[0])


def context_name(stem: str) -> str:
    """A name that no other value of the graph has."""
    from tf2onnx import utils

    return str(utils.make_name(stem))
