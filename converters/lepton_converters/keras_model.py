"""Any Keras model as a functional one in float32, which knows the structure, names and order of what it takes and gives."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton_converters.kept_dropout import explicit_training
from lepton_converters.keras_kernels import plain_convolutions
from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_names import DROPOUT, unique_names
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.errors import UnsupportedError

if TYPE_CHECKING:
    import keras

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


def _has_inputs(model: Any) -> bool:
    """Whether it is a functional model, or a sequential one that is built."""
    return isinstance(model, import_keras().Model) and bool(getattr(model, "inputs", None))


def notes_on_types(model: "keras.Model") -> tuple[str, ...]:
    """What to know about the number types of the inputs that :func:`functional` gives it, in words."""
    if _has_inputs(model):
        return ()
    return (
        "its inputs are taken as float32, since a subclassed model does not say their types; "
        "for another, wrap it with keras.Input(…, dtype=…): keras.Model(inputs, model(inputs))",
    )


def functional(model: "keras.Model") -> "keras.Model":
    """The model as a functional one; a subclassed model is called on the shapes that it was built with.

    Raises:
        UnsupportedError: It has never been called, so nobody knows what it takes.
    """
    keras = import_keras()
    is_built = _has_inputs(model)
    if isinstance(model, keras.Sequential) and is_built:
        # Fresh from a file it has inputs and outputs, yet its .input raises that it has never been called.
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if is_built and hasattr(model, "output_names"):
        return model
    built = model.get_build_config() if isinstance(model, keras.Model) else None
    if not built or isinstance(model, keras.Sequential):
        raise UnsupportedError(
            f"a functional, a built sequential or a subclassed Keras model that was called is needed, found {type(model).__name__} without "
            "known inputs; call it once on a batch and save it again, or wrap it: keras.Model(inputs, model(inputs))"
        )
    first = next(iter(inspect.signature(model.call).parameters), "input")
    shapes = built.get("shapes_dict") or {f"{first}_shape": built.get("input_shape")}
    inputs = {name.removesuffix("_shape"): _placeholders(shape, name.removesuffix("_shape"), model) for name, shape in shapes.items()}
    try:
        with quiet_tensorflow():
            outputs = model(**inputs)
            return keras.Model(inputs if len(inputs) > 1 else inputs.popitem()[1], outputs, name=model.name)
    except _build_errors() as error:
        raise UnsupportedError(
            f"{type(model).__name__} must be callable on float32 arrays of the shapes it was built with ({shapes}): {reason_of(error)}; "
            "or wrap it, which also says other number types: keras.Model(inputs, model(inputs))"
        ) from error


def _placeholders(shape: Any, name: str, model: "keras.Model") -> Any:  # Any: Keras' nested structures
    """An ``Input`` for each shape in a nested structure of them, named by its place in it."""
    keras = import_keras()
    if isinstance(shape, dict):
        return {key: _placeholders(value, key, model) for key, value in shape.items()}
    if not isinstance(shape, list | tuple):
        raise UnsupportedError(f"the input {name!r} of {type(model).__name__} must have a known shape, found {shape!r}; call it once")
    if all(axis is None or isinstance(axis, int) for axis in shape):
        return keras.Input(tuple(shape[1:]), name=name, dtype="float32")
    return [_placeholders(value, f"{name}_{position}", model) for position, value in enumerate(shape)]


def _build_errors() -> tuple[type[Exception], ...]:
    """What Keras and a user's own layers were seen to raise when they are built or called on something they do not expect."""
    import tensorflow as tf

    return (ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, RuntimeError, tf.errors.OpError)


def float_types(model: "keras.Model") -> list[str]:
    """Which number types other than float32 the model computes or stores in."""
    used = {str(getattr(layer, kind, "")) for layer in layers_of(model) for kind in ("compute_dtype", "variable_dtype")}
    used |= {str(tensor.dtype) for tensor in (*model.inputs, *model.outputs)}
    return sorted(used & set(_OTHER_FLOATS))


def as_float32(model: "keras.Model") -> "keras.Model":
    """A copy of a functional model that computes in float32, with the same weights.

    Raises:
        UnsupportedError: A layer computes in another type all the same, or cannot be copied.
    """
    keras = import_keras()

    def copy(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Lambda):  # its code is here already, and need not be read from a configuration
            arguments = {"output_shape": layer._output_shape, "mask": layer.mask, "arguments": layer.arguments}
            return keras.layers.Lambda(layer.function, **arguments, name=layer.name, dtype="float32")
        return type(layer).from_config(_in_float32(layer.get_config()))

    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(
            batch_shape=tensor.shape, dtype="float32" if tensor.dtype in _OTHER_FLOATS else tensor.dtype, name=tensor.name
        ),
        model.input,
    )
    classes = {type(layer).__name__: type(layer) for layer in layers_of(model) if not type(layer).__module__.startswith("keras.")}
    policy = keras.config.dtype_policy()
    try:
        with quiet_tensorflow(), keras.saving.custom_object_scope(classes):
            keras.config.set_dtype_policy("float32")
            result = keras.models.clone_model(model, input_tensors=inputs, clone_function=copy, recursive=True)
            for layer in model.layers:
                if layer.weights:  # an input's layer may have another name in the copy: that of its tensor
                    result.get_layer(layer.name).set_weights([weight.astype("float32") for weight in layer.get_weights()])
    except _build_errors() as error:
        raise UnsupportedError(
            f"the model must be convertible to float32, copying its layers failed: {reason_of(error)}; build it under "
            "keras.config.set_dtype_policy('float32') and load its weights"
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)
    left = float_types(result)
    if left:
        raise UnsupportedError(
            f"layers must compute in float32, this model computes in {', '.join(left)} even when it is built for float32; "
            "give its own layers a dtype argument that they pass on"
        )
    return result


def _in_float32(config: Any) -> Any:
    """A layer's configuration, nested ones included, with float32 for every other real number type."""
    if isinstance(config, list | tuple):
        return [_in_float32(value) for value in config]
    if not isinstance(config, dict):
        return config
    is_policy = config.get("class_name") == "DTypePolicy"
    name = config.get("config", {}).get("name") if is_policy else None
    if name is not None and any(kind in name for kind in _OTHER_FLOATS):
        return {**config, "config": {**config["config"], "name": "float32"}}
    return {
        key: "float32" if key == "dtype" and isinstance(value, str) and any(kind in value for kind in _OTHER_FLOATS) else _in_float32(value)
        for key, value in config.items()
    }


def layers_of(model: "keras.Model") -> Iterator[Any]:
    """Every layer, those of nested models and wrappers included, each once."""
    seen: set[int] = set()
    pending = list(model.layers)
    while pending:
        layer = pending.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        pending = [*getattr(layer, "_layers", ()), *pending]


def named(model: "keras.Model", kind: str, *, taken: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Names and symbolic tensors of the model's inputs or outputs, in its own order.

    Args:
        model: A functional model.
        kind: ``input`` or ``output``.
        taken: Names that others have: an ONNX graph cannot call an input and an output the same.
    """
    keras = import_keras()
    structure = getattr(model, kind)
    tensors = keras.tree.flatten(structure)
    if isinstance(structure, dict):
        names = ["_".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(structure)]
    elif kind == "input":
        names = [tensor.name for tensor in tensors]
    else:
        names = list(model.output_names)
    return list(zip(unique_names(names, taken=taken), tensors, strict=True))


def states_of(model: "keras.Model") -> list[tuple[str, Any]]:
    """Name and variable of each state that a recurrent layer keeps from call to call."""
    keras = import_keras()
    return [
        (f"{layer.name}_state_{position}", variable)
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for position, variable in enumerate(keras.tree.flatten(layer.states))
    ]


def random_on_purpose(model: "keras.Model") -> list[Any]:
    """The layers that drop or blur values and that the model calls with ``training=True``."""

    def is_random(layer: Any) -> bool:
        inner = [layer, *layers_of(layer)] if hasattr(layer, "layers") else [layer, *getattr(layer, "_layers", ())]
        rates = ("dropout", "recurrent_dropout")
        return any(_is_dropout(part) or any(_rate(part, rate) for rate in rates) for part in inner)

    graphs = [layer for layer in [model, *layers_of(model)] if hasattr(layer, "_nodes_by_depth")]
    nodes = [node for graph in graphs for nodes in graph._nodes_by_depth.values() for node in nodes]
    found = [node.operation for node in nodes if node.arguments.kwargs.get("training") is True and is_random(node.operation)]
    return list({id(layer): layer for layer in found}.values())


def is_keras(kind: type) -> bool:
    """Whether a class is Keras' own, or stands for one that Keras has no longer: the names of others say nothing."""
    return kind.__module__.partition(".")[0] in ("keras", "lepton_converters")


def _is_dropout(layer: Any) -> bool:
    """Whether it is a layer of Keras that drops or blurs values, or the user's own kind of one."""
    return any(is_keras(kind) and kind.__name__.startswith(DROPOUT) for kind in type(layer).__mro__)


def check_random(model: "keras.Model", *, keep_dropout: bool) -> None:
    """Refuse what would be converted to something else than it is."""
    on_purpose = random_on_purpose(model)
    if on_purpose and not keep_dropout:
        raise UnsupportedError(
            f"layers that work in training only must not be used otherwise, {on_purpose[0].name!r} is called with training=True: "
            "--keep-dropout keeps it, and makes its noise an input; or build the model without training=True"
        )
    other = [layer for layer in on_purpose if type(layer).__name__.startswith(("Gaussian", "Alpha"))]
    if other:
        raise UnsupportedError(
            f"only Dropout, SpatialDropout, and the dropout of recurrent and attention layers can be kept, {other[0].name!r} is a "
            f"{type(other[0]).__name__}; build the model without it"
        )


def _rate(layer: Any, name: str) -> float:
    rate = getattr(layer, name, 0)
    return rate if isinstance(rate, int | float) else 0


def inference(model: "keras.Model", *, keeps_dropout: bool = False) -> Callable[[list[Any]], list[Any]]:
    """A function from the model's flat inputs to its flat outputs, in inference mode, that changes nothing.

    Of a stateful model, the states stand behind the inputs, and what they become behind the outputs.

    Args:
        model: A functional model.
        keeps_dropout: Leave layers that drop values and are called with ``training=True`` as they are.
    """
    keras = import_keras()
    on_purpose = random_on_purpose(model) if keeps_dropout else []
    structure = model.input
    states = [variable for _, variable in states_of(model)]

    def infer(tensors: list[Any]) -> list[Any]:
        count = len(tensors) - len(states)
        structured = keras.tree.pack_sequence_as(structure, tensors[:count])
        # What a layer assigns, such as the state of a generator, stays in the scope.
        scope = keras.StatelessScope(state_mapping=list(zip(states, tensors[count:], strict=True)))
        with plain_convolutions(), explicit_training(on_purpose), scope:
            outputs = keras.tree.flatten(model(structured, training=False))
        return [*outputs, *map(scope.get_current_value, states)]

    return infer
