"""Cuts a Keras model where its graph can begin: what takes text, looks up or hashes becomes encoders that run before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_model import inference
from lepton_converters.keras_names import TEXT_LAYERS, unique_names
from lepton_converters.text_steps import make_step, refusal
from lepton_runtime.encoders import TEXT, Encoder, encode
from lepton_runtime.errors import ParityError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TextModel:
    """A model whose first layers run before its graph.

    Attributes:
        model: What is behind those layers; the rest of its layers are the whole model's own.
        encoders: What those layers do, in the order in which they run.
        layers: Those layers, one an encoder.
        raw: The inputs of the model as it was, in its order.
        infer: From those to its flat outputs, in inference mode; ``None`` if ``model`` is no more a part of it.
    """

    model: "keras.Model"
    encoders: tuple[Encoder, ...]
    layers: tuple[Any, ...]  # Any: Keras has no type hints
    raw: tuple[TensorSpec, ...]
    infer: Callable[[list[Any]], list[Any]] | None

    def check_encoders(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """What the encoders make of raw values, the values included, after it was found to be what their layers make of them.

        Raises:
            ParityError: An encoder gives something else than the Keras layer that it stands for.
        """
        import tensorflow as tf

        found = encode(self.encoders, values)
        tensors = {spec.name: tf.convert_to_tensor(values[spec.name], spec.dtype) for spec in self.raw}
        for encoder, layer in zip(self.encoders, self.layers, strict=True):
            taken = [tensors[spec.name] for spec in encoder.inputs]
            tensors[encoder.output.name] = layer(taken if len(taken) > 1 else taken[0])
            ours, keras_own = found[encoder.output.name], np.asarray(tensors[encoder.output.name])
            if ours.shape != keras_own.shape or not np.array_equal(ours, keras_own):
                row = 0 if ours.shape != keras_own.shape else int(np.argwhere(ours != keras_own)[0][0])
                sample = {name: array[row].tolist() for name, array in values.items()}
                raise ParityError(
                    f"the encoder of {type(layer).__name__} {layer.name!r} must give what the Keras layer gives, it gives something else "
                    f"for {sample}; please report this, with the layer's settings"
                )
        return found


def cut_text_layers(model: "keras.Model", *, raw: Sequence[tuple[str, Any]], batch: int | None) -> TextModel | None:
    """The model cut behind its text layers, or ``None`` for one that has none and takes no text.

    Args:
        model: A functional model.
        raw: Names and symbolic tensors of its inputs, in its order.
        batch: The length of the batch axis; ``None`` leaves it free.

    Raises:
        UnsupportedError: A text layer, or where it stands, cannot be taken out of the graph.
    """
    if not has_text_layers(model) and all(tensor.dtype != TEXT for _, tensor in raw):
        return None
    keras = import_keras()
    cutter = _Cutter(model, raw, batch)
    outputs = keras.tree.map_structure(cutter.enter, cutter.run(model, cutter.raw))
    behind = keras.Model(cutter.inputs(), outputs, name=model.name)
    encoders, layers = zip(*cutter.in_order([tensor.name for tensor in behind.inputs]), strict=True)
    return TextModel(behind, encoders, layers, tuple(value.spec for value in cutter.raw), inference(model))


def check_no_feature_space(model: Any) -> None:
    """Refuse a FeatureSpace by itself: it is no model, yet its layers can be a part of one.

    Raises:
        UnsupportedError: It is one.
    """
    if type(model).__name__ == "FeatureSpace":
        raise UnsupportedError(
            "a Keras model is needed, found a FeatureSpace by itself; build the model that it feeds: "
            "keras.Model(space.get_inputs(), network(space.get_encoded_features()))"
        )


def has_text_layers(layer: Any) -> bool:
    """Whether a model or a layer holds one that no graph can hold, however deep."""
    return any(_is_text_layer(inner) for inner in _inner_layers(layer))


def _inner_layers(layer: Any) -> Iterator[Any]:
    for inner in getattr(layer, "_layers", ()):
        yield inner
        yield from _inner_layers(inner)


def _is_text_layer(operation: Any) -> bool:
    """Whether it is one of Keras' own; a class derived from one may do anything else."""
    return type(operation).__name__ in TEXT_LAYERS and type(operation).__module__.startswith("keras.")


@dataclass(eq=False)
class _Value:
    """What exists before the graph: a raw input, or what a layer makes of some.

    Attributes:
        spec: What it looks like.
        position: Of the first raw input that it comes from.
        tensor: The same in the graph, once something there takes it.
        maker: The layer and its input, of a value that both the graph and an encoder can make.
        is_encoded: Whether an encoder makes it.
    """

    spec: TensorSpec
    position: int
    tensor: Any = None
    maker: "tuple[Any, _Value] | None" = None
    is_encoded: bool = False


class _Cutter:
    """Runs a functional model once, symbolically: its text layers become encoders, the others a new graph."""

    def __init__(self, model: Any, raw: Sequence[tuple[str, Any]], batch: int | None) -> None:
        self._encoders: dict[str, tuple[Encoder, Any]] = {}  # with their layers, by what they give
        self.raw = [_Value(TensorSpec(name, (batch, *x.shape[1:]), str(x.dtype)), position) for position, (name, x) in enumerate(raw)]
        self._values = list(self.raw)
        self._names = [*(name for name, _ in raw), *(layer.name for layer in _inner_layers(model) if not _is_text_layer(layer))]
        self._batch = next((x.shape[0] for _, x in raw if x.shape[0] is not None), None)

    def run(self, model: Any, inputs: Sequence[Any]) -> Any:
        """The structured outputs for flat inputs.

        Source: keras Functional.call; with call_fn each operation is handed to us in place of being called.
        """
        return model._run_through_graph(inputs, call_fn=self._call)

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """What an operation of the model gives: a value before the graph, or a tensor in it."""
        keras = import_keras()
        leaves = keras.tree.flatten((args, kwargs))
        values = [leaf for leaf in leaves if isinstance(leaf, _Value)]
        if _is_text_layer(operation):
            if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
                must = "must take inputs of the model, or what other such layers make of them"
                raise refusal(operation, must, "it takes what the network computes", "do that before, in the data")
            return self._encode(operation, values)
        if has_text_layers(operation):
            return self._run_inner(operation, args, kwargs)
        if type(operation) is keras.layers.Discretization and operation.output_mode == "int" and values:
            taken = values[0]
            return self._add(_Value(TensorSpec(operation.name, taken.spec.shape, "int32"), taken.position, maker=(operation, taken)))
        text = next((value for value in values if value.spec.dtype == TEXT), None)
        if text is not None:
            advice = f"only {', '.join(sorted(TEXT_LAYERS))} can; do the rest before, in the data"
            raise refusal(operation, "must take numbers", f"it takes the text {text.spec.name!r}", advice)
        entered: Any = keras.tree.map_structure(self.enter, [args, kwargs])
        return operation(*entered[0], **entered[1])

    def _run_inner(self, model: Any, args: Any, kwargs: Any) -> Any:
        """The outputs of a model inside the model, as if its layers were the outer one's own."""
        keras = import_keras()
        given = keras.tree.flatten(args)
        inner = keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) and model.inputs else model
        ranks = [len(value.spec.shape if isinstance(value, _Value) else value.shape) for value in given]
        is_plain = hasattr(inner, "_run_through_graph") and all(value is None for value in kwargs.values())
        if not is_plain or ranks != [len(tensor.shape) for tensor in inner.inputs]:
            must = "holds text or lookup layers and must be a functional or sequential model, called on inputs of its own shapes"
            raise refusal(model, must, "it is not", "move those layers out of it, to the model's inputs")
        outputs = self.run(inner, given)
        return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs

    def _encode(self, layer: Any, values: Sequence[_Value]) -> _Value:
        for value in values:
            if value.maker is not None and not value.is_encoded:
                maker, taken = value.maker
                value.spec, value.is_encoded = self._add_encoder(maker, [taken]), True
        return self._add(_Value(self._add_encoder(layer, values), min(value.position for value in values), is_encoded=True))

    def _add_encoder(self, layer: Any, values: Sequence[_Value]) -> TensorSpec:
        inputs = tuple(value.spec for value in values)
        step = make_step(layer, inputs)
        (name,) = unique_names([layer.name], taken=self._names)  # a shared layer has several results
        self._names.append(name)
        spec = TensorSpec(name, step.output_shape(inputs[0].shape), step.dtype)
        self._encoders[spec.name] = (Encoder(inputs, spec, step), layer)
        return spec

    def _add(self, value: _Value) -> _Value:
        self._values.append(value)
        return value

    def enter(self, value: Any) -> Any:
        """The tensor in the graph for a value before it; anything else as it is."""
        if not isinstance(value, _Value):
            return value
        if value.tensor is None and value.maker is not None:
            layer, taken = value.maker
            value.tensor = layer(self.enter(taken))
        elif value.tensor is None:
            shape = (self._batch, *value.spec.shape[1:])
            value.tensor = import_keras().Input(batch_shape=shape, dtype=value.spec.dtype, name=value.spec.name)
        return value.tensor

    def inputs(self) -> list[Any]:
        """The graph's inputs, in the order of the raw inputs that they come from."""
        encoded = {spec.name for encoder, _ in self._encoders.values() for spec in encoder.inputs}
        for value in self.raw:
            if value.spec.name not in encoded and value.spec.dtype == TEXT:
                raise UnsupportedError(f"every text input must be used, {value.spec.name!r} is not; build the model without it")
            if value.spec.name not in encoded:
                self.enter(value)
        entered = [value for value in self._values if value.tensor is not None and value.maker is None]
        return [value.tensor for value in sorted(entered, key=lambda value: value.position)]

    def in_order(self, names: Sequence[str]) -> list[tuple[Encoder, Any]]:
        """The encoders that these inputs of the graph need, and their layers, each behind those it takes from."""
        found: dict[str, tuple[Encoder, Any]] = {}

        def add(name: str) -> None:
            if name in self._encoders and name not in found:
                for spec in self._encoders[name][0].inputs:
                    add(spec.name)
                found[name] = self._encoders[name]

        for name in names:
            add(name)
        return list(found.values())
