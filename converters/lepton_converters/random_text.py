"""Seeded raw values for a verification without data: known words and numbers, with unknown ones among them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_converters.calibration import random_ids
from lepton_converters.dataset import Sample
from lepton_converters.raw_dataset import encode_sample
from lepton_runtime.bins import Hashing
from lepton_runtime.encoders import TEXT, Encoder, raw_inputs
from lepton_runtime.lookups import Lookup, TextVectorization
from lepton_runtime.tensors import Array, TensorSpec

_UNKNOWN_SHARE = 0.2
_PADDING_SHARE = 0.1
_LONGEST = 20  # words of a text


def random_raw_samples(
    inputs: Sequence[TensorSpec],
    encoders: Sequence[Encoder],
    *,
    count: int,
    seed: int,
    is_masked: bool = False,
    limits: Mapping[str, int] | None = None,
) -> Iterator[Sample]:
    """Samples whose raw values are drawn from what the encoders know, with unknown values where the encoders take them.

    Tokens that stand for nothing, such as a lookup's mask token, are among them; where a layer of the graph masks these,
    the first value of several is another, for an average of none is NaN in Keras. Numbers that no encoder looks up are
    normally distributed; whole ones that the graph takes are 0 or 1, unless ``limits`` says more.

    Args:
        inputs: The graph's inputs.
        encoders: What runs before it.
        count: How many samples.
        seed: Of the choice.
        is_masked: Whether a layer of the graph masks steps.
        limits: How many ids there are for an input of the graph that takes ids.
    """
    generator = np.random.default_rng(seed)
    in_graph = {spec.name for spec in inputs}
    specs = raw_inputs(inputs, encoders)
    takers = {spec.name: [encoder.step for encoder in encoders if spec.name in {taken.name for taken in encoder.inputs}] for spec in specs}
    for _ in range(count):
        raw = {}
        for spec in specs:
            steps = takers[spec.name]
            value = _value(spec, steps, generator, is_index=spec.name in in_graph, limits=limits or {})
            raw[spec.name] = _with_padding(value, steps, generator, is_masked=is_masked)
        yield encode_sample(raw, None, inputs, encoders)


def _value(spec: TensorSpec, steps: Sequence[Any], generator: np.random.Generator, *, is_index: bool, limits: Mapping[str, int]) -> Array:
    shape = [axis or 1 for axis in spec.shape[1:]]
    inner = [step.lookup if isinstance(step, TextVectorization) else step for step in steps]
    lookups = [step for step in inner if isinstance(step, Lookup)]
    known = [token for lookup in lookups for token in lookup.vocabulary.tokens]
    share = 0.0 if any(lookup.oov_indices == 0 for lookup in lookups) else _UNKNOWN_SHARE if known else 1.0
    size = int(np.prod(shape, dtype=int))
    if spec.dtype == TEXT:
        splits = [step.split for step in steps if isinstance(step, TextVectorization)]
        texts = [_text(known, share, splits[0] if splits else None, generator) for _ in range(size)]
        return np.array(texts, dtype=str).reshape(shape)
    if known or (np.dtype(spec.dtype).kind in "iu" and not is_index):
        unknown = generator.integers(0, 10_000, size)
        return np.array([_pick(known, share, int(number), generator) for number in unknown]).astype(spec.dtype).reshape(shape)
    if np.dtype(spec.dtype).kind in "iu":
        return random_ids(shape, spec, limits, generator)
    return generator.normal(size=shape).astype(spec.dtype)


def _with_padding(value: Array, steps: Sequence[Any], generator: np.random.Generator, *, is_masked: bool) -> Array:
    """The value with the token that stands for nothing in some places, if an encoder of whole values has one."""
    masks = [step.mask_value if isinstance(step, Hashing) else step.mask_token for step in steps if isinstance(step, Hashing | Lookup)]
    masks += [step.lookup.mask_token for step in steps if isinstance(step, TextVectorization) and step.split is None]
    padding = next((mask for mask in masks if mask is not None), None)
    if padding is None or any(isinstance(step, Lookup) and step.oov_indices == 0 and step.mask_token != padding for step in steps):
        return value
    is_padding = generator.random(value.shape) < _PADDING_SHARE
    if is_masked:
        is_padding.ravel()[:1] = False
    return np.where(is_padding, np.array(padding, None if value.dtype.kind == "U" else value.dtype), value)


def _pick(known: Sequence[Any], share: float, unknown: Any, generator: np.random.Generator) -> Any:
    return unknown if generator.random() < share else known[int(generator.integers(len(known)))]


def _text(known: Sequence[Any], share: float, split: str | None, generator: np.random.Generator) -> str:
    """One token, or a text of some; never none, for which a masked average is NaN in Keras, too."""
    count = 1 if split is None else int(generator.integers(1, _LONGEST))
    words = [_pick(known, share, "".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)), generator) for _ in range(count)]
    return ("" if split == "character" else " ").join(words)
