"""A Keras model traced in TensorFlow operators that read other weights and activations than the model's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced


@dataclass(frozen=True)
class _LinearOperator:
    """A TensorFlow operator that multiplies by weights.

    Attributes:
        weights: The place of the weights among its inputs.
        channels: The axes of the weights that run over the output channels, from the last one.
    """

    weights: int
    channels: tuple[int, ...]


_LINEAR = {
    "Conv2D": _LinearOperator(1, (-1,)),
    "Conv3D": _LinearOperator(1, (-1,)),
    "DepthwiseConv2dNative": _LinearOperator(1, (-2, -1)),
    "Conv2DBackpropInput": _LinearOperator(1, (-2,)),
    "Conv3DBackpropInputV2": _LinearOperator(1, (-2,)),
    "MatMul": _LinearOperator(1, (-1,)),
    "BatchMatMulV2": _LinearOperator(1, (-1,)),
}


@dataclass
class RoundedTrace:
    """One trace of a model.

    Attributes:
        activation: Gives what is read in the place of a float32 tensor, by its number among those that are made of the inputs. Every
            trace of a model counts them alike.
        weight: Gives what is read in the place of weights, and is told all their axes but those of the output channels.
        operators: How many operators have weights.
        floating: The names of recurrent layers, whose insides stay as they are.
        count: How many tensors have a number.
    """

    activation: Callable[[int, Any], Any]  # Any: TensorFlow has no type hints
    weight: Callable[[Any, list[int]], Any]
    operators: int = 0
    floating: list[str] = field(default_factory=list)
    count: int = 0
    _read: dict[Any, Any] = field(default_factory=dict)  # what is read in the place of a tensor
    _constant: set[Any] = field(default_factory=set)  # tensors made of weights and constants only
    _is_paused: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Operators of the graph that is being traced are created by this one.

        Source: tensorflow/python/framework/op_def_library.py creates every operator of a graph by ``_create_op_internal``.
        """
        import tensorflow as tf
        from tensorflow.python.framework.func_graph import FuncGraph

        traced = tf.compat.v1.get_default_graph()
        original = FuncGraph._create_op_internal

        def create(graph: Any, kind: str, inputs: Any, *arguments: Any, **settings: Any) -> Any:
            if graph is not traced:
                return original(graph, kind, inputs, *arguments, **settings)
            given = list(inputs) if self._is_paused else self._given(kind, list(inputs), settings.get("attrs") or {})
            operator = original(graph, kind, given, *arguments, **settings)
            if kind in ("Const", "ReadVariableOp") or (inputs and all(map(self._is_constant, inputs))):
                self._constant.update(output.ref() for output in operator.outputs)
            elif not self._is_paused:
                self._replace(operator.outputs)
            return operator

        with replaced([(FuncGraph, "_create_op_internal", create), *self._floating_recurrence()]):
            yield

    def read(self, value: Any) -> Any:
        """What is read in the place of a value."""
        import tensorflow as tf

        return self._read.get(value.ref(), value) if isinstance(value, tf.Tensor) else value

    def _given(self, kind: str, inputs: list[Any], attributes: Any) -> list[Any]:
        """What an operator reads in the place of its inputs."""
        given = [self.read(value) for value in inputs]
        linear = _LINEAR.get(kind)
        if linear and self._is_constant(inputs[linear.weights]) and not all(map(self._is_constant, inputs)):
            kernel = inputs[linear.weights]
            self.operators += 1
            is_transposed = any(name in attributes and attributes[name].b for name in ("transpose_b", "adj_y"))
            kept = [len(kernel.shape) + axis for axis in ((-2,) if is_transposed else linear.channels)]
            with self._paused():
                given[linear.weights] = self.weight(kernel, [axis for axis in range(len(kernel.shape)) if axis not in kept])
        return given

    def _replace(self, outputs: Any) -> None:
        import tensorflow as tf

        for output in outputs:
            if output.dtype == tf.float32:
                with self._paused():
                    self._read[output.ref()] = self.activation(self.count, output)
                self.count += 1

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """What is created now stays as it is."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    def _floating_recurrence(self) -> list[tuple[Any, str, Any]]:
        """Recurrent layers stay as they are: the exporter makes one float operator of each."""
        import tensorflow as tf

        keras = import_keras()
        layers, tree = keras.layers, keras.tree

        def floating(original: Any) -> Any:
            def call(layer: Any, *arguments: Any, **settings: Any) -> Any:
                self.floating.append(layer.name)
                arguments, settings = tree.map_structure(self.read, (arguments, settings))
                with self._paused():
                    outputs = original(layer, *arguments, **settings)
                return tree.map_structure(tf.identity, outputs)  # what the others read

            return call

        kinds: list[Any] = [kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, layers.RNN)]
        return [(kind, "call", floating(vars(kind)["call"])) for kind in kinds if "call" in vars(kind)]

    def _is_constant(self, value: Any) -> bool:
        import tensorflow as tf

        return isinstance(value, tf.__internal__.EagerTensor) or value.ref() in self._constant
