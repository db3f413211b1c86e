"""The trained model: loaded with care, its inputs and outputs known, its answers at hand."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.kept_dropout import Noise, kept_dropout, noise_shape, record_masks
from lepton_converters.keras_loading import CustomObjects, import_keras, read_custom_objects
from lepton_converters.keras_model import (
    as_float32,
    check_random,
    float_types,
    functional,
    inference,
    is_keras,
    layers_of,
    named,
    notes_on_types,
    states_of,
)
from lepton_converters.keras_names import is_training_only, unique_names
from lepton_converters.keras_reader import load_model
from lepton_converters.model_file import check_file
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.saved_model import digest_folder, open_signature
from lepton_converters.source_specs import batch_of_signature, batch_of_states, check_weights, described, filled, sized_input, specs_of
from lepton_converters.text_layers import TextModel, check_no_feature_space, cut_text_layers
from lepton_runtime.encoders import Encoder
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import keras

_PASSING = ("Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims")  # operators that leave every value as it is


@dataclass(frozen=True)
class KerasSource:
    """A trained model and what it takes and gives.

    Attributes:
        model: The Keras model, functional and in float32; ``None`` for a SavedModel, which keeps no layers.
        name: The model's name, or its folder's.
        file: The name of the file it came from, or ``None`` for a model given in memory.
        sha256: The digest of that file.
        inputs: One spec an input, in the model's order, with the batch axis that was asked for.
        outputs: One spec an output, in the model's order.
        parameters: How many weights it has.
        removed_layers: Names of layers that work in training only and are not converted.
        notes: What else is not as it was in the file, in words.
        states: Names of the inputs that hold the states of recurrent layers.
        noise: Names of the inputs that dropout is made of which is kept: uniform noise from 0 to 1.
        text: What runs before the graph, of a model that takes text or looks values up; ``model`` is what is behind that.
    """

    model: "keras.Model | None"
    name: str
    file: str | None
    sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    removed_layers: tuple[str, ...]
    notes: tuple[str, ...]
    states: tuple[str, ...]
    _infer: Callable[[list[Any]], list[Any]]
    _fixed_batch: int | None = None  # the only number of samples that a call takes
    text: TextModel | None = None
    noise: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        model: "str | Path | keras.Model",
        *,
        batch: int | None = 1,
        size: Sequence[int] | None = None,
        signature: str | None = None,
        trust_code: bool = False,
        custom_objects: CustomObjects = (),
        keep_dropout: bool = False,
    ) -> "KerasSource":
        """The model in a file or a folder, or one in memory.

        Args:
            model: A ``.keras`` or ``.h5`` file of any Keras generation, a SavedModel folder, or a ``keras.Model``.
            batch: The length of the batch axis that is written; ``None`` leaves it free.
            size: Lengths for the free axes of each input that has any, batch aside, such as height and width; without it they
                stay free.
            signature: Which of a SavedModel's signatures; by default the only one, or ``serving_default``.
            trust_code: Load Lambda layers and SavedModels, which run code that came with the file.
            custom_objects: The user's own layers and functions; see :func:`lepton_converters.keras_loading.read_custom_objects`.
            keep_dropout: Keep dropout that is called with ``training=True``, or all of it if none is.

        Raises:
            InputError: The file is missing, damaged or no model, a weight is not finite, or ``size`` does not fit.
            UnsupportedError: The model holds code that is not trusted, or nobody knows what it takes.
            MissingExtraError: TensorFlow is not installed.
        """
        import_keras()
        path = Path(model) if isinstance(model, str | Path) else None
        if path is not None and path.is_dir():
            check_file(path, trust_code=trust_code)
            if keep_dropout:
                raise UnsupportedError("a SavedModel keeps or drops its dropout by what was saved; leave --keep-dropout out")
            return _sized(_from_saved_model(path, signature, batch=batch), size)
        if signature is not None:
            raise InputError(f"--signature is for SavedModel folders, {str(path or 'a model in memory')!r} is none; leave it out")
        loaded = load_model(path, trust_code=trust_code, custom_objects=read_custom_objects(custom_objects)) if path else model
        source = _sized(_from_model(loaded, batch=batch, keep_dropout=keep_dropout), size)
        if keep_dropout:
            source = _with_noise(source)
        return replace(source, file=path.name, sha256=_digest(path)) if path else source

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The inputs without states and noise."""
        return tuple(spec for spec in self.inputs if spec.name not in (*self.states, *self.noise))

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """What runs before the graph, in this order."""
        return self.text.encoders if self.text else ()

    @property
    def raw(self) -> tuple[TensorSpec, ...]:
        """What the model takes before its encoders; its inputs, if it has none."""
        return self.text.raw if self.text else self.inputs

    @property
    def takes_raw_pixels(self) -> bool:
        """Whether the model rescales or normalizes its input itself; of a SavedModel nobody knows."""
        return self.model is not None and any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in layers_of(self.model))

    def has_class_scores(self) -> bool:
        """Whether the first output of shape ``(batch, classes)`` holds scores: several, or one unit that is a sigmoid's."""
        position = next((number for number, spec in enumerate(self.outputs) if len(spec.shape) == 2), None)
        if position is None or self.outputs[position].shape[1] != 1:
            return position is not None
        return self.last_operators[position] == "Sigmoid"

    def call(self, tensors: list[Any]) -> list[Any]:  # Any: TensorFlow has no type hints
        """The model's flat outputs for its flat inputs, in inference mode."""
        return self._infer(tensors)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's own answers.

        Args:
            inputs: One array an input, ``(samples, …)``, already preprocessed.

        Returns:
            One array an output, ``(samples, …)``.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
        """
        return self._answers(self.inputs, inputs, self.call)

    def predict_raw(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The whole model's answers, from before its encoders, each of which is checked against the layer it stands for.

        Args:
            values: One array a raw input, ``(samples, …)``; of a model without encoders, its inputs.

        Raises:
            InputError: The model fails on these values.
            ParityError: An encoder gives something else than its layer.
        """
        if self.text is None:
            return self.predict(values)
        encoded = self.text.check_encoders(values)
        return self._answers(self.text.raw, values, self.text.infer) if self.text.infer else self.predict(encoded)

    def _answers(
        self, specs: Sequence[TensorSpec], values: Mapping[str, Array], infer: Callable[[list[Any]], list[Any]]
    ) -> dict[str, Array]:
        import tensorflow as tf

        samples = len(next(iter(values.values())))
        length = self._fixed_batch or samples
        parts = []
        try:
            for start in range(0, samples, length):
                part = [filled(values[spec.name][start : start + length], length) for spec in specs]
                outputs = infer([tf.convert_to_tensor(array, spec.dtype) for array, spec in zip(part, specs, strict=True)])
                parts.append([np.asarray(output)[: samples - start] for output in outputs])
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            raise InputError(f"the Keras model must be able to run on the samples: {reason_of(error)}") from error
        return {spec.name: np.concatenate(arrays) for spec, *arrays in zip(self.outputs, *parts, strict=True)}

    @cached_property
    def last_operators(self) -> list[str]:
        """The kind of TensorFlow operator that computes the values of each output; it costs a trace."""
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        with quiet_tensorflow():
            operators = [output.op for output in convert_variables_to_constants_v2(_trace(self)).outputs]
        return [str(computing(operator).type) for operator in operators]


def computing(operator: Any) -> Any:
    """The TensorFlow operator, or the one before it that computes what it only passes on."""
    while operator.type in _PASSING:
        operator = operator.inputs[0].op
    return operator


def _trace(source: KerasSource) -> Any:  # Any: TensorFlow has no type hints
    """The model as a TensorFlow graph for exactly the shapes of its specs.

    Raises:
        UnsupportedError: TensorFlow cannot trace it for them.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in source.inputs]
    traced = tf.function(lambda *tensors: source.call(list(tensors)), input_signature=signature, autograph=False)
    try:
        with quiet_tensorflow():
            return traced.get_concrete_function()
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        listed = ", ".join(map(str, source.inputs))
        raise UnsupportedError(f"TensorFlow must be able to trace the model for {listed}: {reason_of(error)}") from error


def _with_noise(source: KerasSource) -> KerasSource:
    """The source with an input for each mask of its dropout."""
    assert source.model is not None  # a SavedModel does not come here
    masks = record_masks(lambda: _trace(source), everywhere=False)
    everywhere = not masks  # nobody has kept any on purpose
    if everywhere:
        masks = record_masks(lambda: _trace(source), everywhere=True)
    if not masks:
        raise InputError(f"--keep-dropout is for models with dropout, {source.name!r} has none that can be kept; leave it out")
    taken = [spec.name for spec in (*source.inputs, *source.outputs)]
    names = unique_names([f"{mask.layer}_noise" for mask in masks], taken=taken)
    batch = source.inputs[0].shape[0]
    specs = [TensorSpec(name, noise_shape(mask, batch), "float32") for name, mask in zip(names, masks, strict=True)]
    kept = {mask.layer for mask in masks}

    def infer(tensors: list[Any]) -> list[Any]:
        noise = Noise(masks, tensors[-len(masks) :])
        with kept_dropout(noise.take, everywhere=everywhere):
            return source.call(tensors[: -len(masks)])

    return replace(
        source,
        inputs=(*source.inputs, *specs),
        removed_layers=tuple(name for name in source.removed_layers if name not in kept),
        notes=(*source.notes, f"keeps the dropout of {', '.join(sorted(kept))}: another answer in each call"),
        noise=tuple(names),
        _infer=infer,
    )


def _sized(source: KerasSource, size: Sequence[int] | None) -> KerasSource:
    """The source with lengths for the free axes of its inputs, and with what these say of its outputs."""
    if size is not None:
        encoded = {encoder.output.name for encoder in source.encoders}
        text = next((spec for spec in source.inputs if None in spec.shape[1:] and spec.name in encoded), None)
        if text is not None:
            raise InputError(
                f"--size is not for what is encoded, {text.name!r} is as long as its text; build its layer with output_sequence_length"
            )
        if not any(None in spec.shape[1:] for spec in source.inputs):
            raise InputError(f"--size fixes free axes, the model's inputs have none: {', '.join(map(str, source.inputs))}; leave it out")
        source = replace(source, inputs=tuple(sized_input(spec, size) for spec in source.inputs))
    if not any(None in spec.shape[1:] for spec in source.outputs):
        return source
    shapes = [tensor.shape for tensor in _trace(source).outputs]
    axes = [
        spec.shape if shape.rank is None else (spec.shape[0], *shape.as_list()[1:])
        for spec, shape in zip(source.outputs, shapes, strict=True)
    ]
    return replace(source, outputs=tuple(replace(spec, shape=shape) for spec, shape in zip(source.outputs, axes, strict=True)))


def _from_saved_model(folder: Path, name: str | None, *, batch: int | None) -> KerasSource:
    signature = open_signature(folder, name)
    check_weights(signature.weights)
    fixed = batch_of_signature(signature.name, [*signature.inputs, *signature.outputs], batch)
    names = unique_names([name for name, _, _ in signature.outputs], taken=[name for name, _, _ in signature.inputs])
    outputs = [(name, shape, dtype) for name, (_, shape, dtype) in zip(names, signature.outputs, strict=True)]
    return KerasSource(
        model=None,
        name=folder.resolve().name,
        file=folder.resolve().name,
        sha256=digest_folder(folder),
        inputs=specs_of(signature.inputs, batch=fixed or batch),
        outputs=specs_of(outputs, batch=fixed or batch),
        parameters=sum(values.size for _, values in signature.weights),
        removed_layers=(),
        notes=(f"signature {signature.name}", *([f"takes {fixed} samples a call, as its signature says"] if fixed else [])),
        states=(),
        _infer=signature.infer,
        _fixed_batch=fixed,
    )


def _from_model(model: "keras.Model", *, batch: int | None, keep_dropout: bool) -> KerasSource:
    check_no_feature_space(model)
    model, notes = functional(model), list(notes_on_types(model))
    text = cut_text_layers(model, raw=named(model, "input"), batch=batch)
    model = text.model if text else model
    check_random(model, keep_dropout=keep_dropout)
    check_weights([(weight.path, np.asarray(weight)) for weight in model.weights])
    types = float_types(model)
    if types:
        model = as_float32(model)
        text = replace(text, infer=None) if text else None  # the whole model still computes in the other types
        notes.append(f"converted to float32 from {', '.join(types)}, and verified against the float32 model")
    states = [(name, tuple(variable.shape), str(variable.dtype)) for name, variable in states_of(model)]
    if states and text:
        raise UnsupportedError(
            f"a model with text or lookup layers must not keep a state, {states[0][0]!r} is one; build it with stateful=False"
        )
    fixed = None
    if states:
        fixed = batch = batch_of_states(states[0], batch)
        notes.append("its recurrent layers keep a state: each NAME_state_N in gives NAME_state_N_next out, zeros at the start")
    elif any(tensor.shape[0] is not None for tensor in model.inputs):
        fixed = batch  # its layers may reckon with a number of samples
    inputs = [*described(named(model, "input")), *states]
    outputs = described(named(model, "output", taken=[name for name, _, _ in inputs]))
    outputs += [(f"{name}_next", shape, dtype) for name, shape, dtype in states]
    return KerasSource(
        model=model,
        name=model.name,
        file=None,
        sha256=None,
        inputs=specs_of(inputs, batch=batch),
        outputs=specs_of(outputs, batch=batch),
        parameters=int(model.count_params()),
        removed_layers=tuple(layer.name for layer in layers_of(model) if _is_removed(layer)),
        notes=tuple(notes),
        states=tuple(name for name, _, _ in states),
        _infer=inference(model, keeps_dropout=keep_dropout),
        _fixed_batch=fixed,
        text=text,
    )


def _is_removed(layer: Any) -> bool:
    """Whether it is a layer of Keras that works in training only; attention layers hold a Dropout that drops nothing."""
    return is_keras(type(layer)) and is_training_only(type(layer).__name__) and getattr(layer, "rate", None) != 0


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
