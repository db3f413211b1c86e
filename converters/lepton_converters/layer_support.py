"""Which Keras layers can be converted, to what, and what to do about the others: one table, read from a model's configuration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_converters.keras_names import (
    ACTIVATIONS,
    DROPOUT,
    FORMER_LAYERS,
    KERAS_LAYERS,
    LEGACY_PACKAGE,
    TEXT,
    TEXT_LAYERS,
    is_mathematical,
)
from lepton_converters.layer_config import INNER, INPUT, MODELS, LayerConfig, package_of
from lepton_converters.layer_shape import output_shape
from lepton_converters.model_file import PROGRAMS, is_code, serialized_objects
from lepton_runtime.formats import PRECISIONS, Format, Precision

Target = tuple[Format, Precision]
EVERY: tuple[Target, ...] = tuple((format_, precision) for format_ in Format for precision in PRECISIONS[format_])
TFLITE = tuple(target for target in EVERY if target[0] == Format.TFLITE)
ONNX = tuple(target for target in EVERY if target[0] == Format.ONNX)


def _always(layer: LayerConfig) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """Layers that cannot be converted to some targets.

    Attributes:
        kinds: Their classes.
        reason: What must hold and what was found, behind the layer's name.
        fix: What to do about it.
        applies: Which of them.
        targets: What they cannot be converted to.
    """

    kinds: frozenset[str]
    reason: str
    fix: str
    applies: Callable[[LayerConfig], bool] = _always
    targets: tuple[Target, ...] = EVERY


def _takes(layer: LayerConfig, *, text: bool) -> bool:
    """Whether the layer takes text (or numbers), as far as that is known."""
    return any(feed.dtype is not None and (feed.dtype == TEXT) == text for feed in layer.feeds)


def _is_set(name: str, *values: object) -> Callable[[LayerConfig], bool]:
    """Whether a setting has one of these values."""
    return lambda layer: layer.settings.get(name) in values


def _lacks_vocabulary(layer: LayerConfig) -> bool:
    """An .h5 file keeps a vocabulary that was given, not one that was learnt; only those files name no modules."""
    return layer.module == "" and layer.settings.get("vocabulary") is None


def _has_function(layer: LayerConfig) -> bool:
    return any(not isinstance(layer.settings.get(name), str | None) for name in ("standardize", "split"))


def _counts_other_shapes(layer: LayerConfig) -> bool:
    is_counted = layer.settings.get("output_mode") in ("multi_hot", "count", "tf_idf")
    return is_counted and any(feed.shape is not None and len(feed.shape) != 2 for feed in layer.feeds)


def _ends_in_one(layer: LayerConfig) -> bool:
    """Whether the last axis is pooled to one value: there Keras 3.15 divides by zero, which ends the process."""
    size = layer.settings.get("output_size")
    return size == 1 or (isinstance(size, list) and size[-1:] == [1])


_LOOKUPS = frozenset({"StringLookup", "IntegerLookup"})
_VECTORIZATION = frozenset({"TextVectorization"})

RULES = (
    Rule(
        frozenset({INPUT}),
        "must be a plain tensor, it is a sparse or ragged one",
        "build it with sparse=False and ragged=False",
        lambda layer: bool(layer.settings.get("sparse") or layer.settings.get("ragged")),
    ),
    # Text and lookups, which run before the graph.
    Rule(
        TEXT_LAYERS | {"CategoryEncoding", "Discretization"},
        "must give a plain tensor, it gives a sparse or ragged one",
        "build it with sparse=False and ragged=False",
        lambda layer: bool(layer.settings.get("sparse") or layer.settings.get("ragged")),
    ),
    Rule(
        _LOOKUPS,
        "must turn tokens into ids, with invert=True it turns ids into tokens",
        "leave it out, and give its vocabulary to --labels if it names the classes",
        _is_set("invert", True),
    ),
    Rule(
        _LOOKUPS | _VECTORIZATION,
        "must have a vocabulary, a learnt one is not in .h5 files",
        "save the model as .keras",
        _lacks_vocabulary,
    ),
    Rule(
        frozenset({"StringLookup", "TextVectorization"}),
        "must take text, it takes numbers",
        "give its keras.Input dtype='string'",
        lambda layer: _takes(layer, text=False) and not layer.settings.get("invert"),
    ),
    Rule(
        frozenset({"IntegerLookup", "Discretization"}),
        "must take numbers, it takes text",
        "use a StringLookup for text",
        lambda layer: _takes(layer, text=True),
    ),
    Rule(
        _VECTORIZATION,
        "must have a 'standardize' and 'split' of Keras' own, it has a function, which only Python with Keras can run",
        "use one of Keras' own, or None, and do the rest to the texts before they are given",
        _has_function,
    ),
    Rule(
        _VECTORIZATION,
        "must give a plain tensor, with output_mode='one_hot' it gives a ragged one",
        "use 'multi_hot', or 'int' and an Embedding",
        _is_set("output_mode", "one_hot"),
    ),
    Rule(
        TEXT_LAYERS - _VECTORIZATION,
        "must take values of shape (batch, n) to count them, it takes others",
        "give its keras.Input the shape (1,), or (n,) for n values a sample",
        _counts_other_shapes,
    ),
    # What a format has no operator for.
    Rule(
        frozenset({"Erf", "Cumprod", "Diagonal"}),
        "has no built-in TFLite operator",
        "compute it from others, or make ONNX only: --format onnx",
        targets=TFLITE,
    ),
    Rule(frozenset({"Erfinv"}), "has no operator in ONNX or TFLite", "compute it outside of the network"),
    Rule(
        frozenset(f"AdaptiveMaxPooling{rank}D" for rank in (1, 2, 3)),
        "must leave more than one value on its last axis, Keras 3.15 crashes on one",
        "use GlobalMaxPooling with keepdims=True, or MaxPooling",
        _ends_in_one,
    ),
    # What so few bits cannot hold.
    Rule(
        frozenset({"MelSpectrogram"}),
        "must not give decibels, which 8 bits leave nothing of: the quietest bands count as much as the loudest",
        "compute it before the network, use power_to_db=False, or make fp32 and fp16",
        lambda layer: layer.settings.get("power_to_db", True) is True,
        tuple(target for target in EVERY if target[1] not in (Precision.FP32, Precision.FP16)),
    ),
    Rule(
        frozenset({"STFTSpectrogram"}),
        "must not give angles, which turn around where a number is near zero",
        "use another mode, or make fp32 and dynamic-int8",
        _is_set("mode", "angle"),
        tuple(target for target in EVERY if target[1] not in (Precision.FP32, Precision.DYNAMIC_INT8)),
    ),
    Rule(
        frozenset({"STFTSpectrogram"}),
        "must not give logarithms, which show the rounding of 16-bit weights where a number is near zero",
        "use mode='magnitude', or make another precision",
        lambda layer: layer.settings.get("mode", "log") == "log",
        tuple(target for target in EVERY if target[1] == Precision.FP16),
    ),
    Rule(
        frozenset({"Isfinite", "Isnan", "DivideNoNan", "OneHot", "ContrastLimitedAdaptiveHistogramEqualization"}),
        "has no 8-bit TFLite form that gives its numbers",
        "make ONNX (--format onnx) or another precision",
        targets=tuple(target for target in TFLITE if target[1].needs_calibration),
    ),
    Rule(
        frozenset({"MultiHot"}),
        "has no TFLite form that gives its numbers",
        "use a CategoryEncoding layer, or make ONNX only: --format onnx",
        targets=TFLITE,
    ),
    Rule(
        frozenset({"Embedding", "LayerNormalization", "Cosh", "Sinh", "Tan", "TopK"}),
        "has no TFLite form with 16-bit activations",
        "make another precision",
        targets=((Format.TFLITE, Precision.INT16X8),),
    ),
    # What Keras 3 has no more, or runs in another framework.
    Rule(
        frozenset({"TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "InstanceProperty"}),
        "must be a layer, it is a TensorFlow function that Keras 2 wrapped and Keras 3 cannot load",
        "export a SavedModel with Keras 2 and give that, or build the model with keras.ops and load its weights",
    ),
    Rule(
        frozenset({"TFOpLambda"}),
        "must be one of TensorFlow's mathematical functions, it is another",
        "export a SavedModel with Keras 2 and give that",
        lambda layer: not is_mathematical(str(layer.settings.get("function"))),
    ),
    Rule(
        frozenset({"FeatureSpace"}),
        "must be a part of a model, it is by itself",
        "build the model that it feeds: keras.Model(space.get_inputs(), network(space.get_encoded_features()))",
    ),
    Rule(
        frozenset({"JaxLayer", "FlaxLayer", "TorchModuleWrapper"}),
        "must run on TensorFlow, it runs on JAX or PyTorch",
        "build that part of Keras layers",
    ),
    Rule(
        frozenset({"TFSMLayer"}),
        "must hold its own weights, it names a SavedModel in another place",
        "convert that SavedModel itself",
    ),
)
"""What cannot be converted. A layer that no rule names is."""


def rules_of(layer: LayerConfig) -> Iterator[Rule]:
    """The rules that bar a layer of Keras' own from something."""
    return (rule for rule in RULES if layer.kind in rule.kinds and is_keras(layer) and rule.applies(layer))


def is_text_layer(layer: LayerConfig) -> bool:
    """Whether the layer is one of Keras' own that no graph can hold."""
    return layer.kind in TEXT_LAYERS and is_keras(layer)


def is_keras(layer: LayerConfig) -> bool:
    """Whether the layer's class is one of Keras' own, of whichever generation."""
    if layer.module == "":
        return layer.kind in KERAS_LAYERS | FORMER_LAYERS or layer.kind in MODELS
    return _is_keras_module(layer.module)


def _is_keras_module(module: str | None) -> bool:
    """Whether it is Keras', or ours of the layers that Keras has no longer."""
    return module is not None and module.partition(".")[0] in ("keras", "tf_keras", "lepton_converters")


def is_random_on_purpose(layer: LayerConfig) -> bool:
    """Whether the model calls a layer with ``training=True`` that drops or blurs values; augmentation has that by default."""
    rates = (layer.settings.get(name) for name in ("dropout", "recurrent_dropout"))
    drops = layer.kind.startswith(DROPOUT) or any(isinstance(rate, int | float) and rate > 0 for rate in rates)
    return drops and is_keras(layer) and layer.arguments.get("training") is True


def own_names(layer: LayerConfig) -> list[str]:
    """Classes and functions that are not Keras' own and that the layer needs: its own class, activations, regularizers.

    One that is registered has its package in front: ``mine>Scale``.
    """
    names = [] if is_keras(layer) else [f"{layer.package}>{layer.kind}".lstrip(">")]
    for value in serialized_objects(_own_settings(layer)):
        if "module" not in value or _is_keras_module(value["module"]) or is_code(value):
            continue
        function = value.get("config")
        name = function if value["class_name"] == "function" and isinstance(function, str) else value["class_name"]
        if str(name).startswith(f"{LEGACY_PACKAGE}>"):
            continue
        names.append(f"{package_of(value)}>{str(name).rpartition('>')[2]}".lstrip(">"))
    for key in ("activation", "recurrent_activation"):
        activation = layer.settings.get(key)
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            names.append(activation)
    return list(dict.fromkeys(names))


def _own_settings(layer: LayerConfig) -> list[Any]:
    """The layer's settings without the layers inside it, which are looked at by themselves."""
    return [value for name, value in layer.settings.items() if name not in INNER]


def misplaced(layers: Sequence[LayerConfig]) -> Iterator[tuple[LayerConfig, str, str]]:
    """Layers that stand where text cannot be taken out of the graph, each with what must hold and what to do."""
    known = {layer.name: layer for layer in layers}
    has_text_layers = any(map(is_text_layer, layers))
    for layer in layers:
        feeders = [known[layer.holder + feed.name] for feed in layer.feeds if layer.holder + feed.name in known]
        if is_text_layer(layer):
            if not all(is_text_layer(feeder) or feeder.kind in ("Discretization", INPUT) for feeder in feeders):
                yield layer, "must take inputs of the model, it takes what the network computes", "do that before, in the data"
        elif any(feeder.kind == INPUT and feeder.settings.get("dtype") == TEXT for feeder in feeders):
            advice = f"only {', '.join(sorted(TEXT_LAYERS))} can; do the rest before, in the data"
            yield layer, "must take numbers, it takes text", advice
        elif layer.kind == INPUT and has_text_layers and None in (output_shape(INPUT, layer.settings, ()) or ())[1:]:
            yield layer, "must have a fixed size, for the model has text layers", "build the model for one size, such as keras.Input((1,))"


def holds_code(layer: LayerConfig) -> bool:
    """Whether Python code came with the layer."""
    return layer.kind in PROGRAMS or any(map(is_code, serialized_objects(_own_settings(layer))))


def note_of(layer: LayerConfig) -> str:
    """What is good to know about a layer that is converted, or an empty text."""
    if not is_keras(layer):
        return "your own"
    notes = []
    number_type = compute_type(layer.settings)
    if number_type != "float32":
        notes.append(f"computes in {number_type} in Keras, in float32 here")
    if layer.settings.get("stateful") is True:
        notes.append("its state becomes an input and an output")
    if layer.kind not in KERAS_LAYERS | FORMER_LAYERS and ".ops" not in (layer.module or ""):
        notes.append("not known to this version; tried all the same")
    return "; ".join(notes)


def compute_type(settings: Mapping[str, Any]) -> str:
    """The real number type that a layer computes in."""
    dtype = settings.get("dtype")
    if isinstance(dtype, dict) and isinstance(dtype.get("config"), dict):
        dtype = dtype["config"].get("name")
    name = dtype.removeprefix("mixed_") if isinstance(dtype, str) else ""
    return name if name in ("float16", "bfloat16", "float64") else "float32"
