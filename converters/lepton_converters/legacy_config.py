"""Configurations of Keras 1 and 2, as Keras 3 reads them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lepton_converters.keras_names import FORMER_LAYERS, HARD_SIGMOID, KERAS_LAYERS
from lepton_runtime.errors import UnsupportedError

Config = dict[str, Any]  # Any: JSON

_MODELS = ("Functional", "Model", "Sequential")
_RENAMED_CLASSES = {
    **{f"Convolution{rank}D": f"Conv{rank}D" for rank in (1, 2, 3)},
    "SeparableConvolution2D": "SeparableConv2D",
    "Deconvolution2D": "Conv2DTranspose",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConvolution1D": "Conv1D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNLSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "Policy": "DTypePolicy",
    "RandomCrop": "CroppedToSize",
}
_MERGES = {"concat": "Concatenate", "sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "min": "Minimum", "dot": "Dot"}
# Names of Keras 1. Source: keras/legacy/interfaces.py of Keras 2.
_RENAMED_SETTINGS = {
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "border_mode": "padding",
    "dim_ordering": "data_format",
    "subsample": "strides",
    "subsample_length": "strides",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "pool_length": "pool_size",
    "stride": "strides",
    "length": "size",
    "p": "rate",
    "sigma": "stddev",
    "input_dtype": "dtype",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "concat_axis": "axis",
    "dot_axes": "axes",
    "batch_input_shape": "batch_shape",
}
_ORDERINGS = {"tf": "channels_last", "th": "channels_first"}
# What only training reads: weights come from the file.
_TRAINING_ENDS = ("_initializer", "_regularizer", "_constraint", "_init", "_learning_rate_multiplier")
_TRAINING_NAMES = ("init", "inner_init", "W_regularizer", "U_regularizer", "b_regularizer", "W_constraint", "b_constraint", "seed")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional")


def modernize(config: Config) -> Config:
    """A whole model's configuration, or one layer's, as Keras 3 writes it; what it does when it runs stays the same.

    Settings that only training reads are left out. Keras 1 and 2 had another ``hard_sigmoid``: theirs is kept.

    Args:
        config: With ``class_name`` and ``config``, as Keras 1 or 2 wrote it.

    Raises:
        UnsupportedError: A Merge layer of Keras 1 does what no layer of Keras 3 does.
    """
    kind = str(_RENAMED_CLASSES.get(config["class_name"], config["class_name"]))
    settings = config["config"]
    if kind in _MODELS or (isinstance(settings, dict) and "layers" in settings and "output_layers" in settings):
        is_sequential = kind == "Sequential"
        return _object("Sequential" if is_sequential else "Functional", _sequential(settings) if is_sequential else _functional(settings))
    if kind == "Merge":
        mode = settings.get("mode")
        if mode not in _MERGES:
            raise UnsupportedError(
                f"a Merge layer of Keras 1 must have a mode of {', '.join(_MERGES)}, {settings.get('name')!r} has {mode!r}; "
                "build the model again with a layer of Keras 3"
            )
        kind = _MERGES[mode]
        kept = {"concat": ("concat_axis",), "dot": ("dot_axes",)}.get(mode, ())
        settings = {key: value for key, value in settings.items() if key in ("name", "trainable", *kept)}
    return _object(kind, _settings(kind, settings, was=config["class_name"]), registered_name=config.get("registered_name"))


def _object(kind: str, settings: Any, *, registered_name: str | None = None) -> Config:
    if kind == "Functional":  # which is in no public module
        module: str | None = "keras.src.models.functional"
    elif kind in ("Sequential", "DTypePolicy"):
        module = "keras"
    else:
        module = "keras.layers" if kind in KERAS_LAYERS | FORMER_LAYERS else None
    name = kind if kind in FORMER_LAYERS else None if module else registered_name or kind
    return {"module": module, "class_name": kind.rpartition(">")[2], "config": settings, "registered_name": name}


def _settings(kind: str, settings: Mapping[str, Any], *, was: str) -> Config:
    """The settings of one layer."""
    is_own = kind not in KERAS_LAYERS | FORMER_LAYERS  # whose words nobody knows
    found: Config = {}
    for old, value in settings.items():
        if not is_own and (old.endswith(_TRAINING_ENDS) or old in _TRAINING_NAMES):
            continue
        is_width = old == "output_dim" and kind != "Embedding"  # where it still is the name
        name = old if is_own and old != "batch_input_shape" else "units" if is_width else _RENAMED_SETTINGS.get(old, old)
        found[name] = _value(name, value)
    if "nb_row" in found:
        found["kernel_size"] = [found.pop("nb_row"), found.pop("nb_col")]
    if "kernel_dim1" in found:
        found["kernel_size"] = [found.pop(f"kernel_dim{axis}") for axis in (1, 2, 3)]
    if isinstance(found.get("name"), str):
        found["name"] = renamed_layer(found["name"])
    if kind == "GRU":
        found.setdefault("reset_after", was == "CuDNNGRU")  # Keras 3 has another default
    if kind == "LeakyReLU" and "alpha" in found:
        found["negative_slope"] = found.pop("alpha")
    if kind == "Lambda":
        found = _lambda(found)
    if was.startswith("CuDNN"):
        found |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
    return found


def _value(name: str, value: Any) -> Any:
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return modernize(value) if name != "function" else value
    if name == "cells":
        return [_value("cell", cell) for cell in value]
    if name in ("activation", "recurrent_activation") and value == "hard_sigmoid":
        return {"module": "keras.activations", "class_name": "function", "config": HARD_SIGMOID, "registered_name": HARD_SIGMOID}
    if name == "data_format":
        return _ORDERINGS.get(str(value), value)
    if name == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def _lambda(settings: Config) -> Config:
    """Keras 1 and 2 wrote bytecode as a list, or the name of a function."""
    function = settings["function"]
    if isinstance(function, list):
        function = {"class_name": "__lambda__", "config": dict(zip(("code", "defaults", "closure"), function, strict=True))}
    elif isinstance(function, str):
        function = {"module": "builtins", "class_name": "function", "config": function, "registered_name": function}
    dropped = ("module", "function_type", "output_shape_type", "output_shape_module")
    return {**{name: value for name, value in settings.items() if name not in dropped}, "function": function}


def renamed_layer(name: str) -> str:
    """The name that a layer of Keras 1 or 2 has in Keras 3, which has no slash in them."""
    return name.replace("/", "_")


def _sequential(settings: Any) -> Config:
    """Keras 1 and 2.0 wrote a list of layers; in all, the first layer may hold the shape of the input."""
    given = settings if isinstance(settings, list) else settings["layers"]
    layers = [modernize(layer) for layer in given]
    first = layers[0]["config"]
    shape = first.pop("batch_shape", None) if layers[0]["class_name"] != "InputLayer" else None
    if isinstance(shape, list):
        dtype = first.get("dtype") if isinstance(first.get("dtype"), str) else "float32"
        dtype = "float32" if dtype.startswith("mixed_") else dtype
        layers.insert(0, _object("InputLayer", {"batch_shape": shape, "dtype": dtype, "name": f"{first['name']}_input"}))
    for layer in layers:
        if layer["class_name"] != "InputLayer":
            layer["config"].pop("batch_shape", None)
    name = settings.get("name") if isinstance(settings, dict) else "sequential"
    return {**({"name": renamed_layer(name)} if name else {}), "layers": layers}


def _functional(settings: Mapping[str, Any]) -> Config:
    names = {layer["name"] for layer in settings["layers"]}
    layers = []
    for layer in settings["layers"]:
        made = modernize(layer)
        made["name"] = renamed_layer(layer["name"])
        if isinstance(made["config"], dict):
            made["config"]["name"] = made["name"]
        made["inbound_nodes"] = [_node(node, names, made["class_name"]) for node in layer["inbound_nodes"]]
        if made["class_name"] != "InputLayer":
            made["config"].pop("batch_shape", None)  # Keras 1 and 2 note it in a model's first layer
        layers.append(made)
    doors = {key: _renamed(settings[key], names) for key in ("input_layers", "output_layers")}
    _renumber(layers, doors)
    doors = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in doors.items()}
    kept = {key: settings[key] for key in ("trainable",) if key in settings}
    return {**kept, "name": renamed_layer(settings["name"]), "layers": layers, **doors}


def _renumber(layers: Sequence[Config], doors: Config) -> None:
    """Count the calls of each layer from 0: Keras 2 also counted a nested Sequential's own, which is not in the file."""
    calls = {layer["name"]: len(layer["inbound_nodes"]) for layer in layers}
    references = [*_histories([layer["inbound_nodes"] for layer in layers]), *_doors_in(list(doors.values()), calls)]
    for name, count in calls.items():
        mine = [reference for reference in references if reference[0] == name]
        extra = max((reference[1] for reference in mine), default=0) + 1 - count
        if count and extra > 0:
            for reference in mine:
                reference[1] = max(0, reference[1] - extra)


def _histories(value: Any) -> Iterator[list[Any]]:
    """Every reference to a tensor in calls of layers, to be changed in place."""
    if isinstance(value, dict):
        if "keras_history" in value:
            yield value["keras_history"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _histories(inner)


def _doors_in(value: Any, names: Collection[str]) -> Iterator[list[Any]]:
    if _is_tensor(value, names):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _doors_in(inner, names)


def _renamed(structure: Any, names: set[str]) -> Any:
    """References to layers in a nested structure, by their new names."""
    if isinstance(structure, dict):
        return {key: _renamed(value, names) for key, value in structure.items()}
    if _is_tensor(structure, names):
        return [renamed_layer(structure[0]), *structure[1:]]
    return [_renamed(value, names) for value in structure] if isinstance(structure, list) else structure


def _is_tensor(value: Any, names: Collection[str]) -> bool:
    """Whether it stands for an output of a layer: name, node, tensor, and perhaps arguments of the call."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and value[0] in (*names, "_CONSTANT_VALUE")
        and isinstance(value[1], int)
    )


def _node(node: Any, names: set[str], kind: str) -> Config:
    """One call of a layer: Keras 1 and 2 wrote the arguments of the call behind each tensor."""
    if isinstance(node, dict) and set(node) == {"args", "kwargs"}:
        return node
    arguments: Config = {}

    def tensors(value: Any) -> Any:
        if _is_tensor(value, names):
            arguments.update(value[3] if len(value) == 4 else {})
            return _tensor(value)
        if isinstance(value, dict):
            return {key: tensors(inner) for key, inner in value.items()}
        return [tensors(inner) for inner in value]

    first = tensors(node)
    if isinstance(first, list) and len(first) == 1:
        first = first[0]
    named = {key: _argument(value, names) for key, value in arguments.items()}
    if isinstance(first, list) and kind in _RECURRENT:
        first, *state = first
        named["initial_state"] = state
    return {"args": [first], "kwargs": named}


def _argument(value: Any, names: set[str]) -> Any:
    if _is_tensor(value, names):
        return _tensor(value)
    if isinstance(value, dict):
        return {key: _argument(inner, names) for key, inner in value.items()}
    return [_argument(inner, names) for inner in value] if isinstance(value, list) else value


def _tensor(reference: Sequence[Any]) -> Any:
    name, node, tensor = reference[:3]
    if name == "_CONSTANT_VALUE":
        return tensor
    history = [renamed_layer(name), node, tensor]
    return {"class_name": "__keras_tensor__", "config": {"shape": None, "dtype": None, "keras_history": history}}
