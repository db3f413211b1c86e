"""What an export will make of a model, and why not the rest, from the model's configuration alone."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lepton_converters.keras_loading import CustomObjects, split_custom_object
from lepton_converters.keras_names import DROPOUT, is_training_only
from lepton_converters.layer_config import INPUT, MODELS, LayerConfig, ModelConfig, TensorConfig, read_model_config
from lepton_converters.layer_support import (
    EVERY,
    Target,
    holds_code,
    is_keras,
    is_random_on_purpose,
    is_text_layer,
    misplaced,
    note_of,
    own_names,
    rules_of,
)
from lepton_converters.legacy_config import modernize
from lepton_converters.model_file import SAVED_MODEL, ModelFile, read_model_file
from lepton_converters.target_runtime import TargetRuntime, predict_opset, predict_runtime
from lepton_runtime.errors import InputError
from lepton_runtime.formats import PRECISIONS, Format, Precision

# What Keras, and a user's own get_config, were seen to raise where there is no configuration.
_NO_CONFIG = (NotImplementedError, TypeError, ValueError, AttributeError, KeyError, RuntimeError, OSError)

Action = Literal["convert", "take out", "preprocess", "refuse"]


@dataclass(frozen=True)
class Refusal:
    """Why some targets cannot be made.

    Attributes:
        layer: The layer's name; empty for the model as a whole.
        kind: Its class.
        targets: What cannot be made.
        reason: What must hold and what was found, behind the layer's name.
        fix: What to do about it.
    """

    layer: str
    kind: str
    targets: tuple[Target, ...]
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.kind} {self.layer!r} {self.reason}; {self.fix}" if self.layer else f"{self.kind} {self.reason}; {self.fix}"


@dataclass(frozen=True)
class LayerReport:
    """What becomes of one layer.

    Attributes:
        name: As Keras has it, behind the name of the model or wrapper that holds it.
        kind: Its class.
        action: ``convert`` it, ``take out`` what works in training only, ``preprocess`` before the graph, or ``refuse``.
        note: What else is good to know.
    """

    name: str
    kind: str
    action: Action
    note: str = ""


@dataclass(frozen=True)
class RuntimeReport:
    """Whether a runtime will load an artifact, as far as the layers tell.

    Attributes:
        precision: Of the artifact.
        needs: The oldest release of onnxruntime or TensorFlow Lite that loads it: a prediction.
        opset: The opset of an ONNX file, a prediction too.
        is_read: Whether the runtime that was asked for is at least as new.
    """

    precision: Precision
    needs: str
    opset: int | None
    is_read: bool


@dataclass(frozen=True)
class CheckReport:
    """What an export will make of a model.

    Attributes:
        file: The file's name; empty for a model in memory.
        kind: ``.keras``, ``.h5``, ``SavedModel`` or ``memory``.
        keras_version: Which Keras wrote it; ``None`` if that is not recorded.
        size_bytes: How large it is.
        parameters: How many weights it has; ``None`` if that takes more than reading shapes.
        model: The class of the model.
        inputs: What it takes; as far as the file records it.
        outputs: What it gives.
        layers: What becomes of each layer; inputs are none.
        refusals: Why some targets cannot be made.
        target_runtime: What shall load the result, if that was asked.
        runtime: Whether it will, of each artifact that can be made for it.
    """

    file: str
    kind: str
    keras_version: str | None
    size_bytes: int
    parameters: int | None
    model: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    layers: tuple[LayerReport, ...]
    refusals: tuple[Refusal, ...]
    target_runtime: TargetRuntime | None = None
    runtime: tuple[RuntimeReport, ...] = ()

    def refusal(self, format_: Format, precision: Precision) -> Refusal | None:
        """The first that bars a target, or ``None`` if it can be made."""
        return next((refusal for refusal in self.refusals if (format_, precision) in refusal.targets), None)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What can be made."""
        return tuple(target for target in EVERY if not self.refusal(*target))

    @property
    def fault(self) -> str:
        """Why nothing can be made, in one line; empty if something can."""
        if self.targets:
            return ""
        reasons = dict.fromkeys(str(self.refusal(*target)) for target in EVERY)
        return f"{repr(self.file) if self.file else 'the model'} cannot be converted: {'; '.join(reasons)}"


def check_model(
    path: str | Path,
    *,
    trust_code: bool = False,
    custom_objects: CustomObjects | None = (),
    keep_dropout: bool = False,
    target_runtime: str | None = None,
    is_verified: bool = False,
) -> CheckReport:
    """What an export will make of a model file; TensorFlow is not needed, and the weights are not read.

    Args:
        path: A ``.keras`` or ``.h5`` file, or a SavedModel folder.
        trust_code: Let Lambda layers and SavedModels pass, which run code that came with the file.
        custom_objects: The user's own layers and functions, by name, or as texts ``module:name``. Nothing is imported: a text that
            names none of those that the model needs is taken for a mapping that holds the rest. ``None`` takes all for known.
        keep_dropout: Convert dropout, too.
        target_runtime: ``onnxruntime==VERSION``, ``tensorflow-lite==VERSION`` or ``litert==VERSION``, to say whether it loads the result.
        is_verified: Also compare the checksums of a ``.keras`` file, which reads all of it.

    Raises:
        InputError: The file is missing, damaged or no Keras model, or an option is wrong.
    """
    runtime = TargetRuntime.parse(target_runtime) if target_runtime else None
    file = read_model_file(Path(path), is_verified=is_verified)
    if file.kind != SAVED_MODEL:
        return _check(file, trust_code=trust_code, custom_objects=custom_objects, keep_dropout=keep_dropout, runtime=runtime)
    reason, fix = "is a program, which would run on this machine", "if you trust whoever made it, add --trust-code"
    refusals = () if trust_code else (Refusal("", SAVED_MODEL, EVERY, reason, fix),)
    return _report(file, ModelConfig(LayerConfig(file.name, SAVED_MODEL, "", {}), (), (), ()), (), refusals, runtime)


def check_built(model: Any, *, keep_dropout: bool = False) -> CheckReport | None:  # Any: Keras has no type hints
    """What an export will make of a model in memory, whose code is here already; ``None`` if it has no configuration."""
    try:
        file = ModelFile("", "memory", None, 0, None, json.loads(model.to_json()))
        return _check(file, trust_code=True, custom_objects=None, keep_dropout=keep_dropout, runtime=None)
    except (*_NO_CONFIG, InputError):
        return None


def _check(
    file: ModelFile,
    *,
    trust_code: bool,
    custom_objects: CustomObjects | None,
    keep_dropout: bool,
    runtime: TargetRuntime | None,
) -> CheckReport:
    model = read_model_config(modernize(file.config) if file.is_legacy else file.config)
    layers = model.layers if is_keras(model.whole) and model.whole.kind in MODELS else (model.whole, *model.layers)
    needed = [own_names(layer) for layer in layers]
    known = None if custom_objects is None else _known({name for names in needed for name in names}, custom_objects)
    refusals: list[Refusal] = []
    for layer, names in zip(layers, needed, strict=True):
        missing = [] if known is None else [name for name in names if name not in known]
        refusals += _refusals(layer, missing, trust_code=trust_code)
        if is_random_on_purpose(layer) and not keep_dropout:
            reason = "must drop values in training only, it is called with training=True"
            fix = "--keep-dropout keeps it, and makes its noise an input; or build the model without training=True"
            refusals.append(Refusal(layer.name, layer.kind, EVERY, reason, fix))
    refusals += [Refusal(layer.name, layer.kind, EVERY, reason, fix) for layer, reason, fix in misplaced(layers)]
    barred: dict[str, set[Target]] = {}
    for refusal in refusals:
        barred.setdefault(refusal.layer, set()).update(refusal.targets)
    notes = {} if model.layers else {model.whole.name: "your own; its layers are in its code, not in the file"}
    reports = [
        _layer_report(layer, notes.get(layer.name, note_of(layer)), barred.get(layer.name, set()), keep_dropout=keep_dropout)
        for layer in layers
        if layer.kind != INPUT or layer.name in barred
    ]
    return _report(file, model, tuple(reports), tuple(refusals), runtime)


def _known(needed: set[str], custom_objects: CustomObjects) -> set[str]:
    """Which of the classes and functions that a model needs are given."""
    is_mapping = isinstance(custom_objects, Mapping)
    given = {text.rpartition(">")[2] if is_mapping else split_custom_object(text)[1] for text in custom_objects}
    may_be_mapping = not is_mapping and bool(given - {name.rpartition(">")[2] for name in needed})
    # Importing the module of one makes Keras know all that are registered there.
    return {name for name in needed if may_be_mapping or name.rpartition(">")[2] in given or (given and ">" in name)}


def _refusals(layer: LayerConfig, missing: Sequence[str], *, trust_code: bool) -> Iterator[Refusal]:
    if holds_code(layer) and not trust_code:
        fix = "if you trust whoever made the file, add --trust-code"
        yield Refusal(layer.name, layer.kind, EVERY, "holds code, which would run on this machine", fix)
    for name in (name.rpartition(">")[2] for name in missing):
        must = "must be a class of Keras, it is your own" if name == layer.kind else f"must need nothing but Keras, it needs {name!r}"
        fix = f"name it with --custom-objects module:{name}, where module.py is the file that defines it"
        if layer.module == "" and name == layer.kind:
            fix += "; if it is an operation of keras.ops, save the model as .keras, for .h5 does not keep those"
        yield Refusal(layer.name, layer.kind, EVERY, must, fix)
    for rule in rules_of(layer):
        yield Refusal(layer.name, layer.kind, rule.targets, rule.reason, rule.fix)


def _layer_report(layer: LayerConfig, note: str, barred: set[Target], *, keep_dropout: bool) -> LayerReport:
    """What becomes of a layer that cannot be converted to some targets; the note is for one that is."""
    action: Action = "convert"
    is_dropout = is_keras(layer) and layer.kind.startswith(DROPOUT)
    if barred == set(EVERY):
        action, note = "refuse", ""
    elif barred:
        note = f"not as {targets_text(barred)}"
    elif is_dropout and keep_dropout:
        note = "kept: every answer is another one"
    elif is_keras(layer) and is_training_only(layer.kind):
        action, note = "take out", "works in training only"
    elif is_text_layer(layer):
        action, note = "preprocess", "runs before the graph, in numpy"
    return LayerReport(layer.name, layer.kind, action, note)


def _report(
    file: ModelFile,
    model: ModelConfig,
    layers: tuple[LayerReport, ...],
    refusals: tuple[Refusal, ...],
    runtime: TargetRuntime | None,
) -> CheckReport:
    report = CheckReport(
        file.name,
        file.kind,
        file.keras_version,
        file.size_bytes,
        file.parameters,
        model.whole.kind,
        model.inputs,
        model.outputs,
        layers,
        refusals,
    )
    if runtime is None:
        return report
    entries = []
    for format_, precision in report.targets:
        if format_ == runtime.format:
            needs = predict_runtime(model.layers, format_, precision)
            opset = predict_opset(model.layers) if format_ == Format.ONNX else None
            entries.append(RuntimeReport(precision, needs, opset, runtime.reads(needs)))
    return replace(report, target_runtime=runtime, runtime=tuple(entries))


def targets_text(targets: Collection[Target]) -> str:
    """Targets in words: ``tflite``, ``onnx static-int8, tflite``, …; a format that is not there at all without its precisions."""
    words = []
    for format_ in Format:
        precisions = [precision for precision in PRECISIONS[format_] if (format_, precision) in targets]
        if precisions:
            words.append(format_ if len(precisions) == len(PRECISIONS[format_]) else f"{format_} {'/'.join(precisions)}")
    return ", ".join(words)
