"""The layers in a model's configuration, whichever Keras wrote it, and how they feed each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lepton_converters.keras_names import LEGACY_PACKAGE, unique_names
from lepton_converters.layer_shape import Shape, output_shape
from lepton_converters.model_file import serialized_objects
from lepton_runtime.errors import InputError

_Place = tuple[str, int, int]  # of a tensor: the layer that gives it, in which of its calls, and which of its outputs
MODELS = ("Functional", "Sequential", "Model")
INPUT = "InputLayer"
# Settings of a layer that hold other layers: those of wrappers, recurrent layers and pipelines.
INNER = ("layer", "forward_layer", "backward_layer", "cell", "cells", "layers")
_SHAPES = ("batch_shape", "batch_input_shape")


@dataclass(frozen=True)
class TensorConfig:
    """One tensor between two layers, or one input or output of the model.

    Attributes:
        name: The layer whose output it is; of an input or output of the model its name.
        shape: Batch axis first, ``None`` for a free axis; ``None`` as a whole if nobody recorded it.
        dtype: Its number type, ``string`` for text; ``None`` if nobody recorded it.
    """

    name: str
    shape: Shape | None = None
    dtype: str | None = None

    def __str__(self) -> str:
        axes = "of unknown shape" if self.shape is None else "×".join("?" if axis is None else str(axis) for axis in self.shape)
        return " ".join(filter(None, (self.name, axes, self.dtype)))


@dataclass(frozen=True)
class LayerConfig:
    """One layer, or one operation between layers.

    Attributes:
        name: As Keras has it; behind the name of the model or wrapper that holds it, ``encoder/dense``.
        kind: The name of its class.
        module: Where the class comes from; ``None`` for a class of the user's own, an empty text in files that don't say.
        settings: What it was made with.
        feeds: What it takes, of all its calls.
        arguments: What it is called with besides.
        holder: The beginning of its name that comes from the model or wrapper that holds it: ``encoder/``, or empty.
        package: Under which a class of the user's own is registered, or empty: importing its module makes Keras know it.
    """

    name: str
    kind: str
    module: str | None
    settings: Mapping[str, Any]
    feeds: tuple[TensorConfig, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    holder: str = ""
    package: str = ""


@dataclass(frozen=True)
class ModelConfig:
    """A model as its file describes it.

    Attributes:
        whole: The model itself, as if it were a layer.
        layers: All of them, those inside others behind their holder, in the file's order.
        inputs: What the model takes, by the names that Keras gives.
        outputs: What it gives.
    """

    whole: LayerConfig
    layers: tuple[LayerConfig, ...]
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]


def read_model_config(config: Any) -> ModelConfig:
    """The model that a configuration describes.

    Raises:
        InputError: It is not what any Keras writes.
    """
    try:
        return _read_model(config, "")
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
        text = f"{type(error).__name__}: {error}"
        raise InputError(
            f"the model's configuration must be one that Keras writes, it cannot be followed ({text}); save it again"
        ) from error


def _read_model(config: Any, prefix: str) -> ModelConfig:
    settings = config["config"]
    settings = {"layers": settings} if isinstance(settings, list) else settings  # Sequential of Keras 1
    entries = list(_entries(settings.get("layers")))
    kind, module = _class(config)
    if _is_graph(settings):
        layers, inputs, outputs = _read_graph(settings, entries, prefix)
    else:
        layers, inputs, outputs = _read_chain(entries, prefix)
    whole = LayerConfig(str(settings.get("name", kind)), kind, module, settings, package=package_of(config))
    return ModelConfig(whole, tuple(layers), inputs, outputs)


def _class(config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The class's name without its package, and its module: empty where old files don't say."""
    kind = str(config["class_name"]).rpartition(">")[2]
    return kind, None if package_of(config) not in ("", LEGACY_PACKAGE) else config.get("module", "")


def package_of(config: Mapping[str, Any]) -> str:
    """Under which package a class or function of the user's own is registered, or an empty text."""
    return str(config.get("registered_name") or "").rpartition(">")[0] or str(config["class_name"]).rpartition(">")[0]


def _read_chain(entries: Sequence[Any], prefix: str) -> tuple[list[LayerConfig], tuple[TensorConfig, ...], tuple[TensorConfig, ...]]:
    """A sequential model: each layer feeds the next."""
    layers: list[LayerConfig] = []
    inputs: tuple[TensorConfig, ...] = ()
    last = None
    for entry in entries:
        settings = entry["config"]
        name = _name(entry)
        if not inputs:
            shape = next((settings[key] for key in _SHAPES if settings.get(key)), None)
            is_input = entry["class_name"] == INPUT
            inputs = (TensorConfig(name if is_input else f"{name}_input", _shape(shape), _dtype(settings, is_input=is_input)),)
            last = last or inputs[0]
        feeds = (replace(last, shape=last.shape or _built_shape(entry)),) if last and entry["class_name"] != INPUT else ()
        found, [shape] = _read_layer(entry, prefix, [feeds], {})
        layers += found
        last = TensorConfig(name, shape, inputs[0].dtype if entry["class_name"] == INPUT else None)
    return layers, inputs, (last,) if last else ()


def _read_graph(
    settings: Mapping[str, Any], entries: Sequence[Any], prefix: str
) -> tuple[list[LayerConfig], tuple[TensorConfig, ...], tuple[TensorConfig, ...]]:
    """A functional model: layers name what they take; Keras 3 also notes its shape."""
    calls = {_name(entry): [_read_call(node) for node in entry.get("inbound_nodes", [])] for entry in entries}
    known: dict[_Place, TensorConfig] = {}
    for nodes in calls.values():
        for tensors, _ in nodes:
            known |= {place: feed for place, feed in tensors if feed.shape is not None}
    layers: list[LayerConfig] = []
    for entry in entries:
        name = _name(entry)
        each = [tuple(known.get(place, feed) for place, feed in tensors) for tensors, _ in calls[name]]
        if len(each) == 1 and len(each[0]) == 1 and each[0][0].shape is None:
            each = [(replace(each[0][0], shape=_built_shape(entry)),)]
        arguments = {key: value for _, given in calls[name] for key, value in given.items()}
        found, shapes = _read_layer(entry, prefix, each or [()], arguments)
        layers += found
        dtype = _dtype(entry["config"], is_input=True) if entry["class_name"] == INPUT else None
        if _class(entry)[0] in MODELS:
            shapes += shapes[-1:]  # some Keras count the call that built a model inside as its first
        for number, shape in enumerate(shapes):
            known.setdefault((name, number, 0), TensorConfig(name, shape, dtype))
    doors = []
    for key in ("input_layers", "output_layers"):
        places = list(_read_places(settings[key]))
        names = _door_names(settings[key], [name for name, _, _ in places])
        doors.append(tuple(replace(known.get(place, TensorConfig("")), name=name) for name, place in zip(names, places, strict=True)))
    return layers, doors[0], doors[1]


def _read_layer(
    entry: Mapping[str, Any], prefix: str, calls: Sequence[tuple[TensorConfig, ...]], arguments: Mapping[str, Any]
) -> tuple[list[LayerConfig], list[Shape | None]]:
    """A layer with all layers inside it, and the shape of what it gives in each call."""
    kind, module = _class(entry)
    feeds = tuple(feed for call in calls for feed in call)
    settings, name = entry["config"], prefix + _name(entry)
    if kind in MODELS or _is_graph(settings):
        inner = _read_model(entry, f"{name}/")
        # A class of the user's own may compute something else than its layers say.
        holder = [] if kind in MODELS else [LayerConfig(name, kind, module, settings, feeds, arguments, prefix, package_of(entry))]
        return [*holder, *inner.layers], [inner.outputs[0].shape if inner.outputs else None] * len(calls)
    layer = LayerConfig(name, kind, module, settings, feeds, arguments, prefix, package_of(entry))
    held = [
        found for key in INNER for inner_entry in _entries(settings.get(key)) for found in _read_layer(inner_entry, f"{name}/", [], {})[0]
    ]
    if ".ops" in (module or ""):  # an operation may take constants, too
        return [layer, *held], [None] * len(calls)
    return [layer, *held], [output_shape(kind, settings, [feed.shape for feed in call]) for call in calls]


def _is_graph(settings: Any) -> bool:
    return isinstance(settings, dict) and {"layers", "input_layers", "output_layers"} <= settings.keys()


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    """Serialized layers, of a list or alone; a user's own class may keep anything under such a name."""
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict) and "class_name" in entry and isinstance(entry.get("config"), dict | list):
            yield entry


def _name(entry: Mapping[str, Any]) -> str:
    settings = entry["config"]
    return str(entry.get("name") or (settings.get("name") if isinstance(settings, dict) else None) or entry["class_name"])


def _read_call(node: Any) -> tuple[list[tuple[_Place, TensorConfig]], dict[str, Any]]:
    """What one call of a layer takes: place and shape of each tensor; and its other arguments."""
    if isinstance(node, dict):  # Keras 3
        tensors = []
        for value in serialized_objects([node.get("args", []), node.get("kwargs", {})]):
            if value["class_name"] == "__keras_tensor__":
                settings = value["config"]
                name, call, position = settings["keras_history"]
                tensors.append(((name, call, position), TensorConfig(name, _shape(settings["shape"]), settings.get("dtype"))))
        return tensors, {key: value for key, value in node.get("kwargs", {}).items() if not isinstance(value, dict | list)}
    arguments: dict[str, Any] = {}
    places = list(_read_places(node, arguments))
    return [(place, TensorConfig(place[0])) for place in places], arguments


def _read_places(value: Any, arguments: dict[str, Any] | None = None) -> Iterator[_Place]:
    """The place of each tensor in a nested ``[layer, call, position, arguments]``, as Keras 1 and 2 write it."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
        yield value[0], value[1], value[2]
        given = value[3] if len(value) > 3 and isinstance(value[3], dict) else {}
        if arguments is not None:
            arguments |= {key: entry for key, entry in given.items() if not isinstance(entry, dict | list)}
        yield from _read_places(given, arguments)
        return
    for entry in value:
        yield from _read_places(entry, arguments)


def _door_names(structure: Any, layers: Sequence[str]) -> list[str]:
    """Names of a model's inputs or outputs: their layers', or their keys; one that comes again is numbered."""
    keyed = structure if isinstance(structure, dict) and len(structure) == len(layers) else None
    return unique_names([*map(str, keyed)] if keyed else layers)


def _built_shape(entry: Mapping[str, Any]) -> Shape | None:
    """The shape that a layer noted when it was built, if it takes one tensor."""
    built = entry.get("build_config")
    return _shape(built.get("input_shape")) if isinstance(built, dict) else None


def _shape(value: Any) -> Shape | None:
    if not isinstance(value, list | tuple) or not all(axis is None or isinstance(axis, int) for axis in value):
        return None
    return tuple(value)


def _dtype(settings: Mapping[str, Any], *, is_input: bool) -> str:
    """The number type of an input; a first layer without one takes real numbers, but for an embedding."""
    dtype = settings.get("dtype")
    return dtype if is_input and isinstance(dtype, str) else "float32"
