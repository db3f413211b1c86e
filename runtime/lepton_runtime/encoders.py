"""What runs before the graph: raw values, such as texts and the columns of a table, to the numbers that the graph takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_runtime.bins import Discretization, HashedCrossing, Hashing
from lepton_runtime.categories import check_choice
from lepton_runtime.errors import InputError
from lepton_runtime.lookups import Lookup, TextVectorization, Vocabulary
from lepton_runtime.tensors import Array, TensorSpec, cast_exactly, fits_shape

TEXT = "string"
"""The number type of a raw input that is no number."""

Step = Lookup | TextVectorization | Hashing | HashedCrossing | Discretization
STEP_KINDS: dict[str, type[Step]] = {
    "lookup": Lookup,
    "text-vectorization": TextVectorization,
    "hashing": Hashing,
    "hashed-crossing": HashedCrossing,
    "discretization": Discretization,
}
"""What a manifest calls each step."""


@dataclass(frozen=True)
class Encoder:
    """One layer of the Keras model that runs before the graph.

    Attributes:
        inputs: What it takes: raw inputs, or results of encoders before it.
        output: What it gives: an input of the graph, or of an encoder behind it; named after the layer.
        step: How.
    """

    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    step: Step

    @property
    def kind(self) -> str:
        """What a manifest calls it."""
        return next(name for name, kind in STEP_KINDS.items() if isinstance(self.step, kind))

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What it knows, if it has a vocabulary."""
        return self.step.vocabulary if isinstance(self.step, Lookup | TextVectorization) else None

    def __str__(self) -> str:
        takes = ", ".join(spec.name for spec in self.inputs)
        details = [self.kind.replace("-", " ")]
        if self.vocabulary is not None:
            details.append(f"{len(self.vocabulary.tokens):,} tokens")
        if isinstance(self.step, Hashing | HashedCrossing):
            details.append(f"{self.step.num_bins:,} bins")
        return f"{takes} → {self.output} ({', '.join(details)})"

    def apply(self, values: Mapping[str, Array]) -> Array:
        """Its result for named values, each ``(batch, …)``.

        Raises:
            InputError: A value is one that it does not take.
        """
        try:
            return self.step.apply(*(values[spec.name] for spec in self.inputs))
        except InputError as error:
            raise InputError(f"input {', '.join(spec.name for spec in self.inputs)}: {error}") from error


def read_step(kind: str, settings: Mapping[str, Any], vocabulary: Vocabulary | None) -> Step:
    """The step that a manifest and a vocabulary file describe.

    Raises:
        InputError: There is no such step, or a setting does not fit.
    """
    check_choice("kind", kind, list(STEP_KINDS))
    made = STEP_KINDS[kind]
    return made.from_dict(settings, vocabulary) if issubclass(made, Lookup | TextVectorization) else made.from_dict(settings)


def encode(encoders: Sequence[Encoder], values: Mapping[str, Array]) -> dict[str, Array]:
    """The values, and what the encoders make of them, one after the other.

    Args:
        encoders: In the order in which they run.
        values: Raw, each ``(batch, …)``, as :func:`read_raw` gives them.

    Raises:
        InputError: A value is one that an encoder does not take.
    """
    known = dict(values)
    for encoder in encoders:
        known[encoder.output.name] = encoder.apply(known)
    return known


def raw_inputs(inputs: Sequence[TensorSpec], encoders: Sequence[Encoder]) -> tuple[TensorSpec, ...]:
    """What a model takes before its encoders, in the order of its inputs.

    Args:
        inputs: Of the graph.
        encoders: That run before it.
    """
    made = {encoder.output.name: encoder for encoder in encoders}
    found: dict[str, TensorSpec] = {}

    def trace(spec: TensorSpec) -> None:
        if spec.name not in made:
            found.setdefault(spec.name, spec)
            return
        for taken in made[spec.name].inputs:
            trace(taken)

    for spec in inputs:
        trace(spec)
    return tuple(found.values())


def read_samples(inputs: Sequence[TensorSpec], encoders: Sequence[Encoder], raw: Any) -> dict[str, Array]:  # Any: whatever a caller has
    """The raw values of one sample or several, as the encoders take them.

    Args:
        inputs: Of the graph.
        encoders: That run before it.
        raw: A mapping from the names of the raw inputs to a value each, or to a list or an array of them, one a sample; for a single
            raw input the value or values alone do.

    Raises:
        InputError: A name or a value does not fit, or they are not as many for each.
    """
    specs = raw_inputs(inputs, encoders)
    named = raw if isinstance(raw, Mapping) else {specs[0].name: raw} if len(specs) == 1 else None
    if named is None or set(named) != {spec.name for spec in specs}:
        found = list(named) if named else f"{type(raw).__name__}"
        raise InputError(f"the model's raw inputs are {[spec.name for spec in specs]}, found {found}; give a mapping with one entry each")
    values = {spec.name: read_raw(spec, named[spec.name]) for spec in specs}
    counts = {name: len(array) for name, array in values.items()}
    wanted = specs[0].shape[0]
    if len(set(counts.values())) != 1 or wanted not in (None, counts[specs[0].name]):
        raise InputError(f"every raw input must hold {wanted or 'the same number of'} samples, found {counts}")
    return values


def read_raw(spec: TensorSpec, value: Any) -> Array:  # Any: whatever a caller has
    """A value or a batch of values for one raw input, as the encoders take it.

    Args:
        spec: Of the raw input, its number type ``string`` for text.
        value: One value, a list or an array; without the batch axis, with it, or with it alone where a sample is
            one value.

    Returns:
        An array ``(batch, …)``; text as numpy's ``str``.

    Raises:
        InputError: It is of another kind or shape.
    """
    array = _texts(spec, value) if spec.dtype == TEXT else _numbers(spec, value)
    shape = spec.shape[1:]
    if len(shape) == 1 and shape[0] in (1, None) and array.ndim == 0:
        array = array.reshape(1)
    if fits_shape(array.shape, shape):
        return array[None]
    if array.ndim == 1 and shape == (1,):
        array = array[:, None]
    if not fits_shape(array.shape, (None, *shape)):
        raise InputError(f"input {spec.name!r} must hold values of shape {shape}, or a batch of them, found shape {np.shape(value)}")
    return array


def _texts(spec: TensorSpec, value: Any) -> Array:
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)  # which keeps apart what is text and what is not
    items = array.ravel().tolist()
    try:
        if array.dtype.kind in "SO" and items and all(isinstance(item, bytes) for item in items):
            items = [item.decode() for item in items]
        if not all(isinstance(item, str) for item in items):
            found = _first(item for item in items if not isinstance(item, str))
            raise InputError(f"input {spec.name!r} takes text, found {found}; give str, a list of them or a numpy array of them")
        if any("\0" in item for item in items):  # numpy's text drops it at the end, and the hash would be another
            found = _first(item for item in items if "\0" in item)
            raise InputError(f"input {spec.name!r} must hold text without the character '\\0', found {found}; clean the data first")
        "".join(items).encode()
    except UnicodeError as error:
        raise InputError(f"input {spec.name!r} must hold text that UTF-8 can hold: {error}") from error
    return np.array(items, dtype=str).reshape(array.shape)


def _numbers(spec: TensorSpec, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputError(f"input {spec.name!r} takes numbers ({spec.dtype}), found {_first(array.ravel().tolist())}; convert them first")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"input {spec.name!r} must be finite, found {array[~np.isfinite(array)].ravel()[0]}; clean the data first")
    try:
        return cast_exactly(array, spec.dtype)
    except InputError as error:
        raise InputError(f"input {spec.name!r}: {error}") from error


def _first(items: Iterable[Any]) -> str:
    return next((repr(item)[:60] for item in items), "nothing")
