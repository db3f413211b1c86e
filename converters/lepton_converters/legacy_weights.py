"""Weights of ``.h5`` files of Keras 1 and 2, in the shapes and the order that Keras 3 has."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.legacy_config import renamed_layer
from lepton_runtime.errors import InputError
from lepton_runtime.tensors import Array

if TYPE_CHECKING:
    import keras

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D")


def load_legacy_weights(model: "keras.Model", path: Path) -> None:
    """Put the weights of a ``.h5`` file into a model, layer by layer.

    A layer gets the weights of its name; where the file has none of the names, as Keras 1 could leave it, they go by order.

    Raises:
        InputError: They do not fit.

    Source: keras/engine/saving.py of Keras 2, ``preprocess_weights_for_loading``.
    """
    import h5py

    with h5py.File(path, "r") as opened:
        file: Any = opened  # its type hints know no kinds of groups
        group = file.get("model_weights", file)
        version = _text(group.attrs.get("keras_version", "1"))
        flips = _text(group.attrs.get("backend", "")) == "theano"  # whose convolutions turned their kernels
        layers = [layer for layer in model.layers if _variables(layer)]
        names = [name for name in _texts(group, "layer_names") if _texts(group[name], "weight_names")]
        if len(names) != len(layers):
            raise InputError(
                f"the weights in {path.name!r} must fit its layers, found weights for {len(names)} layers ({', '.join(names[:8])}) and "
                f"{len(layers)} layers with weights; copy or save the file again"
            )
        for name, layer in _paired(names, layers, path):
            weights = [np.asarray(group[name][weight]) for weight in _texts(group[name], "weight_names")]
            _assign(layer, _converted(layer, weights, is_keras_1=version.startswith("1"), flips=flips), path)


def _paired(names: Sequence[str], layers: Sequence[Any], path: Path) -> list[tuple[str, Any]]:
    """Each name in the file with the layer whose weights it has."""
    by_name = {renamed_layer(name): name for name in names}
    matched = [(by_name.pop(layer.name), layer) for layer in layers if layer.name in by_name]
    if not matched:
        return list(zip(names, layers, strict=True))
    known = {layer.name for _, layer in matched}
    left = [layer for layer in layers if layer.name not in known]
    if len(left) > 1:  # of one, nothing else can be meant
        raise InputError(
            f"the weights in {path.name!r} must have the names of its layers, or none of them, found {', '.join(by_name.values())} where "
            f"the layers are {', '.join(layer.name for layer in left)}; save the file again with the Keras that made it"
        )
    return [*matched, *zip(by_name.values(), left, strict=True)]


def load_legacy_archive(path: Path, folder: Path) -> Path:
    """The weights of a ``.keras`` file of Keras 2 as a file in ``folder`` that Keras 3 reads: some groups have other names."""
    import h5py

    file = folder / "model.weights.h5"
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.weights.h5", folder)
    with h5py.File(file, "r+") as opened:
        content: Any = opened
        groups: list[str] = []
        content.visit(groups.append)
        for name in sorted(groups, key=len, reverse=True):  # inner ones first
            parent, _, last = name.rpartition("/")
            # Keras 2.12 called a model's layers so; attributes of MultiHeadAttention have lost their underscore.
            new = "layers" if last == "_layer_checkpoint_dependencies" else last.removeprefix("_")
            if new != last and new not in content[parent or "/"]:
                content.move(name, f"{parent}/{new}")
    return file


def _assign(layer: Any, weights: Sequence[Array], path: Path) -> None:
    variables = _variables(layer)
    found, wanted = [tuple(weight.shape) for weight in weights], [tuple(variable.shape) for variable in variables]
    if found != wanted:
        raise InputError(f"the weights of {layer.name!r} in {path.name!r} must have the shapes {wanted}, found {found}; copy it again")
    for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)
    for inner in [layer, *getattr(layer, "_flatten_layers", list)()]:
        if hasattr(inner, "finalize_state"):
            inner.finalize_state()  # a Normalization computes with what it makes of its weights


def _variables(layer: Any) -> list[Any]:
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _texts(group: Any, name: str) -> list[str]:
    """An attribute with a list of names, which may be cut into numbered parts."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while not parts or f"{name}{len(parts)}" in group.attrs:
        key = f"{name}{len(parts)}"
        if key not in group.attrs:
            break
        parts.append(group.attrs[key])
    return [_text(value) for part in parts for value in part]


def _converted(layer: Any, weights: list[Array], *, is_keras_1: bool, flips: bool) -> list[Array]:
    """One layer's weights as Keras 3 orders and shapes them."""
    kind = type(layer).__name__
    how = {"is_keras_1": is_keras_1, "flips": flips}
    if kind == "Bidirectional":
        half = len(weights) // 2
        return _converted(layer.forward_layer, weights[:half], **how) + _converted(layer.backward_layer, weights[half:], **how)
    if kind == "TimeDistributed":
        return _converted(layer.layer, weights, **how)
    if kind in ("Functional", "Sequential"):
        return _converted_model(layer, weights, is_keras_1=is_keras_1, flips=flips)
    if is_keras_1:
        weights = _from_keras_1(layer, kind, weights)
    if kind in _CONVOLUTIONS and flips:
        spatial = tuple(range(weights[0].ndim - 2))
        weights = [np.flip(weights[0], spatial), *weights[1:]]
    if kind in ("LSTM", "GRU") and len(weights) == 3:
        weights = _from_cudnn(kind, weights)
    return weights


def _converted_model(model: Any, weights: list[Array], *, is_keras_1: bool, flips: bool) -> list[Array]:
    """A nested model's: those that are trained come first, of all its layers."""
    count = len(model.trainable_weights)
    trained, others = weights[:count], weights[count:]
    found: tuple[list[Array], list[Array]] = [], []
    for layer in model.layers:
        first, second = len(layer.trainable_weights), len(layer.non_trainable_weights)
        made = _converted(layer, trained[:first] + others[:second], is_keras_1=is_keras_1, flips=flips) if first + second else []
        found[0].extend(made[:first])
        found[1].extend(made[first:])
        trained, others = trained[first:], others[second:]
    return found[0] + found[1]


def _from_keras_1(layer: Any, kind: str, weights: list[Array]) -> list[Array]:
    is_first = getattr(layer, "data_format", "") == "channels_first"
    kernel = weights[0]
    if kind == "Conv1D":
        if kernel.shape[:2] != (layer.kernel_size[0], 1) or kernel.shape[3] != layer.filters:
            kernel = kernel.transpose(2, 3, 1, 0)  # Keras 1.1 had (filters, channels, length, 1)
        kernel = kernel[:, 0]
    elif kind == "Conv2D" and is_first:
        kernel = kernel.transpose(2, 3, 1, 0)
    elif kind == "Conv2DTranspose":
        kernel = kernel.transpose(2, 3, 0, 1) if is_first else kernel.transpose(0, 1, 3, 2)
    elif kind == "Conv3D" and is_first:
        kernel = kernel.transpose(2, 3, 4, 1, 0)
    elif kind == "GRU" and len(weights) == 9:
        return [np.concatenate([weights[gate + part] for gate in (0, 3, 6)], axis=-1) for part in range(3)]
    elif kind in ("LSTM", "ConvLSTM2D") and len(weights) == 12:
        # Keras 1 had the gates in the order i, c, f, o; later ones have i, f, c, o.
        kernels = [np.concatenate([weights[gate + part] for gate in (0, 6, 3, 9)], axis=-1) for part in range(3)]
        return [array.transpose(2, 3, 1, 0) if is_first and array.ndim == 4 else array for array in kernels]
    return [kernel, *weights[1:]]


def _from_cudnn(kind: str, weights: list[Array]) -> list[Array]:
    """Weights that a CuDNN layer has saved; those of others as they are."""
    kernel, recurrent, bias = weights
    gates = {"LSTM": 4, "GRU": 3}[kind]
    if bias.shape != (2 * gates * recurrent.shape[0],):
        return weights
    kernel = np.hstack([part.T.reshape(part.shape, order="F") for part in np.hsplit(kernel, gates)])
    recurrent = np.hstack([part.T for part in np.hsplit(recurrent, gates)])
    return [kernel, recurrent, bias.reshape(2, -1).sum(axis=0) if kind == "LSTM" else bias.reshape(2, -1)]
