"""The recorded step that gives what a Keras lookup or hashing layer gives, or why there is none."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_runtime.bins import Discretization, HashedCrossing, Hashing
from lepton_runtime.encoders import TEXT, Step
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.lookups import Lookup, TextVectorization, Vocabulary
from lepton_runtime.tensors import TensorSpec


def make_step(layer: Any, inputs: Sequence[TensorSpec]) -> Step:  # Any: Keras has no type hints
    """The step that gives what the layer gives for these inputs.

    Args:
        layer: A Keras layer of one of :data:`lepton_converters.keras_names.TEXT_LAYERS`, or a ``Discretization``.
        inputs: What it takes.

    Raises:
        UnsupportedError: It cannot run outside of Keras; the text says why, and what to build in its place.
    """
    kind = type(layer).__name__
    if getattr(layer, "invert", False):
        advice = "leave it out, and give its vocabulary to --labels if it names the classes"
        raise refusal(layer, "must turn tokens into ids", "with invert=True it turns ids into tokens", advice)
    if kind in ("StringLookup", "TextVectorization") and inputs[0].dtype != TEXT:
        raise refusal(layer, "must take text", f"it takes {inputs[0]}", "give its keras.Input dtype='string'")
    if kind in ("IntegerLookup", "Discretization") and inputs[0].dtype == TEXT:
        raise refusal(layer, "must take numbers", f"it takes the text {inputs[0].name!r}", "use a StringLookup for text")
    if getattr(layer, "sparse", False) or getattr(layer, "_ragged", False):
        raise refusal(layer, "must give a plain tensor", "it gives a sparse or ragged one", "build it with sparse=False and ragged=False")
    step = _MAKERS[kind](layer)
    if kind != "TextVectorization" and _output(step) in ("multi_hot", "count", "tf_idf") and len(inputs[0].shape) != 2:
        advice = "give its keras.Input the shape (1,), or (n,) for n values a sample"
        raise refusal(layer, f"must take values of shape (batch, n) for {_output(step)}", f"it takes {inputs[0]}", advice)
    return step


def refusal(layer: Any, must: str, found: str, advice: str) -> UnsupportedError:
    """The error that a layer cannot be converted: what must hold, what was found, what to do."""
    return UnsupportedError(f"{type(layer).__name__} {layer.name!r} {must}, {found}; {advice}")


def _output(step: Step) -> str:
    return "int" if isinstance(step, Discretization | TextVectorization) else step.output


def _lookup(layer: Any) -> Lookup:
    output = layer.output_mode
    vocabulary = _vocabulary(layer)
    return Lookup(
        vocabulary,
        takes="string" if layer.vocabulary_dtype == "string" else "int64",
        oov_indices=layer.num_oov_indices,
        mask_token=layer.mask_token,
        oov_method=layer.oov_method,
        salt=_salt(layer.salt),
        output=output,
        depth=None if output == "int" else layer.max_tokens if layer.pad_to_max_tokens else int(layer.vocabulary_size()),
    )


def _vocabulary(layer: Any) -> Vocabulary:
    """The layer's tokens in the order of their ids, without the special ones.

    Read from the table itself: ``get_vocabulary`` decodes by the layer's ``encoding``, which the lookup does not use.
    """
    if not int(layer.lookup_table.size()):
        raise refusal(layer, "must have a vocabulary", "it has none", "adapt it, or give it one, and save the model as .keras")
    keys, ids = (values.numpy() for values in layer.lookup_table.export())
    tokens = [keys[position] for position in np.argsort(ids)]
    weights = layer.idf_weights_const.numpy().tolist() if layer.output_mode == "tf_idf" else None
    try:
        plain = tuple(token.decode() if isinstance(token, bytes) else int(token) for token in tokens)
    except UnicodeDecodeError as error:
        raise refusal(layer, "must have a vocabulary of text", f"it holds bytes that are not UTF-8 ({error})", "clean it") from error
    return Vocabulary(plain, None if weights is None else tuple(weights))


def _text_vectorization(layer: Any) -> TextVectorization:
    settings = layer.get_config()
    if settings["sparse"]:
        raise refusal(layer, "must give a plain tensor", "it gives a sparse one", "build it with sparse=False")
    for name in ("standardize", "split"):
        if settings[name] is not None and not isinstance(settings[name], str):
            advice = f"use one of Keras' own, or None, and do the rest to the texts before they are given; set {name!r} so"
            raise refusal(layer, f"must have a {name!r} of Keras' own", "it has a function, which only Python with Keras can run", advice)
    if settings["output_mode"] == "one_hot":
        raise refusal(
            layer, "must give a plain tensor", "with 'one_hot' it gives a ragged one", "use 'multi_hot', or 'int' and an Embedding"
        )
    widths = settings["ngrams"]
    return TextVectorization(
        _lookup(layer._lookup_layer),  # the only way to its table and settings
        standardize=settings["standardize"],
        split=settings["split"],
        ngrams=tuple(range(1, widths + 1)) if isinstance(widths, int) else widths,
        sequence_length=settings["output_sequence_length"],
    )


def _hashing(layer: Any) -> Hashing:
    mask = layer.mask_value
    return Hashing(
        layer.num_bins,
        mask_value=mask.item() if isinstance(mask, np.generic) else mask,
        salt=_salt(layer.salt),
        output=layer.output_mode,
        dtype=layer.dtype,
    )


def _hashed_crossing(layer: Any) -> HashedCrossing:
    return HashedCrossing(layer.num_bins, output=layer.output_mode, dtype=layer.dtype)


def _discretization(layer: Any) -> Discretization:
    return Discretization(tuple(map(float, layer.bin_boundaries)))


def _salt(values: Sequence[int] | None) -> tuple[int, int] | None:
    return None if values is None else (int(values[0]), int(values[1]))


_MAKERS: dict[str, Callable[[Any], Step]] = {
    "StringLookup": _lookup,
    "IntegerLookup": _lookup,
    "TextVectorization": _text_vectorization,
    "Hashing": _hashing,
    "HashedCrossing": _hashed_crossing,
    "Discretization": _discretization,
}
