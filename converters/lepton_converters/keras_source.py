"""The trained Keras model: loaded with care, its inputs and outputs known, its answers at hand."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.keras_names import is_training_only
from lepton_converters.model_file import check_file
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_runtime.errors import InputError, MissingExtraError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import keras

# What Keras' loaders were seen to raise for files that do not hold what they should.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, EOFError, RuntimeError, ImportError)


@cache
def import_keras() -> Any:  # Any: Keras has no type hints
    """Keras on TensorFlow, imported without its chatter, and the rest of the ``[convert]`` extra checked.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with quiet_tensorflow():
            import ai_edge_litert  # noqa: F401
            import keras
            import onnx_ir  # noqa: F401
            import tensorflow  # noqa: F401
            import tf2onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"exporting needs TensorFlow, Keras and tf2onnx ({error.name or error} is not installed here); "
            'on a workstation: pip install "lepton-edge[convert]", then copy the bundle to the device'
        ) from error
    return keras


@dataclass(frozen=True)
class KerasSource:
    """A trained model and what it takes and gives.

    Attributes:
        model: The Keras model.
        file: The name of the file it came from, or ``None`` for a model given in memory.
        sha256: The digest of that file.
        inputs: One spec an input, in the model's order, with the batch axis that was asked for.
        outputs: One spec an output, in the model's order.
        removed_layers: Names of layers that work in training only and are not converted.
    """

    model: "keras.Model"
    file: str | None
    sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    removed_layers: tuple[str, ...]

    @classmethod
    def open(cls, model: "str | Path | keras.Model", *, batch: int | None = 1, trust_code: bool = False) -> "KerasSource":
        """The model in a file, or one in memory.

        Args:
            model: A ``.keras`` or ``.h5`` file of any Keras generation, or a built ``keras.Model``.
            batch: The length of the batch axis that is written; ``None`` leaves it free.
            trust_code: Load Lambda layers, which run code that came with the file.

        Raises:
            InputError: The file is missing, damaged or no Keras model, or a weight is not finite.
            UnsupportedError: The model holds code that is not trusted, or has no fixed inputs.
            MissingExtraError: TensorFlow is not installed.
        """
        file = sha256 = None
        if isinstance(model, str | Path):
            path = Path(model)
            check_file(path, trust_code=trust_code)
            file, sha256 = path.name, _digest(path)
            model = _load(path, trust_code=trust_code)
        model = _functional(model)
        _check_weights(model)
        _check_graph(model)
        inputs = _specs(_named(model, "input"), batch=batch, kind="input")
        outputs = _specs(_named(model, "output"), batch=batch, kind="output")
        removed = tuple(layer.name for layer in _layers(model) if is_training_only(type(layer).__name__))
        return cls(model, file, sha256, inputs, outputs, removed)

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return int(self.model.count_params())

    @property
    def takes_raw_pixels(self) -> bool:
        """Whether the model rescales or normalizes its input itself."""
        return any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in _layers(self.model))

    def has_class_scores(self) -> bool:
        """Whether the first output of shape ``(batch, classes)`` holds scores: several, or one unit that is a sigmoid's."""
        keras = import_keras()
        position = next((number for number, spec in enumerate(self.outputs) if len(spec.shape) == 2), None)
        if position is None or self.outputs[position].shape[1] != 1:
            return position is not None
        operation = keras.tree.flatten(self.model.output)[position]._keras_history.operation
        activation = getattr(operation, "activation", operation)
        return activation is keras.activations.sigmoid or type(activation).__name__ == "Sigmoid"

    def call(self, tensors: list[Any]) -> list[Any]:  # Any: TensorFlow has no type hints
        """The model's flat outputs for its flat inputs, in inference mode."""
        keras = import_keras()
        structured = keras.tree.pack_sequence_as(self.model.input, tensors)
        return list(keras.tree.flatten(self.model(structured, training=False)))

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The Keras model's own answers.

        Args:
            inputs: One array an input, ``(samples, …)``, already preprocessed.

        Returns:
            One array an output, ``(samples, …)``.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
        """
        import tensorflow as tf

        keras = import_keras()
        try:
            outputs = self.call([keras.ops.convert_to_tensor(inputs[spec.name], spec.dtype) for spec in self.inputs])
        except tf.errors.InvalidArgumentError as error:
            raise InputError(f"the Keras model must be able to run on the samples: {reason_of(error)}") from error
        return {spec.name: np.asarray(output) for spec, output in zip(self.outputs, outputs, strict=True)}


def _load(path: Path, *, trust_code: bool) -> "keras.Model":
    keras = import_keras()

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc, name-defined]
        """Files of Keras 1 and 2 carry a ``groups`` key that Keras 3 refuses.

        Source: keras issue 19441.
        """

        def __init__(self, *args: Any, groups: int = 1, **settings: Any) -> None:
            super().__init__(*args, **settings)

    try:
        with quiet_tensorflow():
            return keras.saving.load_model(
                path, compile=False, safe_mode=not trust_code, custom_objects={"DepthwiseConv2D": DepthwiseConv2D}
            )
    except _LOAD_ERRORS as error:
        raise InputError(f"Keras {keras.__version__} must be able to load {str(path)!r}: {reason_of(error)}") from error


def _check_weights(model: "keras.Model") -> None:
    for weight in model.weights:
        values = np.asarray(weight)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(
                f"every weight must be finite, {weight.path!r} holds {int((~np.isfinite(values)).sum())} NaN or infinite values "
                f"of {values.size}; train it again"
            )


def _functional(model: "keras.Model") -> "keras.Model":
    """The model as a functional one, which knows the structure, names and order of its inputs and outputs."""
    keras = import_keras()
    is_built = isinstance(model, keras.Model) and bool(getattr(model, "inputs", None))
    if isinstance(model, keras.Sequential) and is_built:
        # Fresh from a file it has inputs and outputs, yet its .input raises that it has never been called.
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if is_built and hasattr(model, "output_names"):
        return model
    raise UnsupportedError(
        f"a functional or built sequential Keras model is needed, found {type(model).__name__} without fixed inputs; "
        "wrap it: keras.Model(inputs, model(inputs))"
    )


def _check_graph(model: "keras.Model") -> None:
    """Refuse what would be converted to something else than it is."""
    for layer in _layers(model):
        if getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16", "float64"):
            raise UnsupportedError(
                f"layers must compute in float32, {layer.name!r} computes in {layer.compute_dtype}; build the model again under "
                "keras.config.set_dtype_policy('float32') and load its weights"
            )
    given = {id(tensor) for tensor in model.inputs}
    if any(id(tensor) in given for tensor in model.outputs):
        raise UnsupportedError("an output must not be an input itself, this model hands one through; leave it out of the outputs")


def _named(model: "keras.Model", kind: str) -> list[tuple[str, Any]]:
    """Names and symbolic tensors of the model's inputs or outputs, in its own order."""
    keras = import_keras()
    structure = getattr(model, kind)
    tensors = keras.tree.flatten(structure)
    if isinstance(structure, dict):
        names = ["_".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(structure)]
    elif kind == "input":
        names = [tensor.name for tensor in tensors]
    else:
        names = list(model.output_names)
    return list(zip(_unique(names), tensors, strict=True))


def _unique(names: list[str]) -> list[str]:
    """One layer called twice gives two outputs of one name: the later ones are numbered."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            candidate, number = f"{name}_{number}", number + 1
        found.append(candidate)
    return found


def _specs(named: list[tuple[str, Any]], *, batch: int | None, kind: str) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in named:
        axes = tuple(tensor.shape)[1:]
        if kind == "input" and None in axes:
            raise UnsupportedError(
                f"inputs must have fixed sizes, {name!r} is {tuple(tensor.shape)}; build the model for one size: "
                "keras.Input((224, 224, 3)), and load the weights into it"
            )
        if tensor.dtype == "string":
            raise UnsupportedError(f"inputs and outputs must be numbers, {name!r} is text; export the part behind the text layers")
        specs.append(TensorSpec(name, (batch, *axes), str(tensor.dtype)))
    return tuple(specs)


def _layers(model: "keras.Model") -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
