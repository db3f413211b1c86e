"""The data of one export: what to calibrate on, what to verify on, the preprocessing and the class names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lepton_converters.calibration import Calibration, add_noise, random_samples, split_labelled, split_samples, unseen, with_noise
from lepton_converters.dataset import Dataset, Sample, open_dataset
from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_model import layers_of, named
from lepton_converters.keras_source import KerasSource
from lepton_converters.random_text import random_raw_samples
from lepton_converters.raw_dataset import open_raw_dataset
from lepton_runtime.errors import InputError
from lepton_runtime.labels import class_output
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array, TensorSpec

_VERIFICATION_SAMPLES = 200  # without --eval
_PROBES = 2
_COMPARED = 1_000  # at the most, of a calibration's other samples, to choose how to quantize
_SEARCHED = 2_000  # at the most, to find blocks that must stay in float
_FEWEST_SEARCHED = 100  # without a note
_RANDOM_SAMPLES = 32  # without any data


@dataclass(frozen=True)
class ExportData:
    """The samples of one export.

    Attributes:
        calibration: What ranges are measured on, or ``None``.
        labels: The names of the classes, or ``None``.
        spare: Which others of the calibration's data set neither calibrate nor verify.
        search: Gives labelled samples that neither calibrate nor verify, to find blocks that must stay in float, if they are wanted.
        probes: The few samples that tell whether a route's result is right; any will do.
        verification: Gives how many samples there are at the most, and the samples. To be called when the
            calibration is over: only then is it known which samples were calibrated on.
        notes: What makes their verdict doubtful.
    """

    calibration: Calibration | None
    spare: tuple[int, ...]
    search: Callable[[], Iterator[Sample]] | None
    labels: tuple[str, ...] | None
    probes: tuple[Sample, ...]
    verification: Callable[[], tuple[int, Iterator[Sample]]]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        source: KerasSource,
        steps: Preprocessing | None,
        *,
        calib: str | None,
        calib_samples: int,
        evaluate: str | None,
        seed: int,
        labels: Sequence[str] | None,
        searches: bool = False,
    ) -> "ExportData":
        """The samples that the options of an export name; see :func:`lepton_converters.export`.

        Raises:
            InputError: They cannot be read, or do not fit the model.
        """
        calibrated = evaluated = calibration = None
        held_back: tuple[int, ...] = ()
        if evaluate is not None:
            evaluated = open_labelled(source, evaluate, steps, labels=labels)
        if calib is not None:
            # Its classes are of no matter.
            calibrated = open_samples(source, calib, steps)
            batch = source.inputs[0].shape[0] or 1
            calibration, held_back = split_samples(calibrated, samples=calib_samples, seed=seed, batch=batch, hold_back=evaluated is None)
        names = fitting_labels(source, labels, evaluated, calibrated)

        spare = held_back if evaluated is not None else held_back[_VERIFICATION_SAMPLES:]
        judged: Sequence[int] = range(evaluated.count) if evaluated else ()
        seen = [calibration] if calibration else []
        search, notes = None, []
        if searches and evaluated is not None and calibration is not None:
            searched, judged = split_labelled(evaluated, samples=_SEARCHED, seed=seed, batch=calibration.batch)
            search, notes = partial(_searched, searched, calibration), _search_notes(len(searched.indices))
            seen.append(searched)

        def verification() -> tuple[int, Iterator[Sample]]:
            if evaluated is not None:
                return len(judged), unseen(evaluated.samples(judged), seen)
            if calibrated is not None:
                indices = held_back[:_VERIFICATION_SAMPLES]
                # Accuracy is measured on what --eval names, and on nothing else.
                unlabeled = (Sample(sample.inputs, None, sample.raw) for sample in calibrated.samples(indices))
                return len(indices), unseen(unlabeled, seen)
            return _RANDOM_SAMPLES, _random(source, steps, count=_RANDOM_SAMPLES, seed=seed)

        probes = _probes(source, steps, calibrated or evaluated, seed)
        return cls(calibration, spare[:_COMPARED], search, names, probes, verification, tuple(notes))


def _searched(searched: Calibration, calibration: Calibration) -> Iterator[Sample]:
    return unseen(searched.samples(), [calibration], use="a search")


def _search_notes(count: int) -> list[str]:
    if count >= _FEWEST_SEARCHED:
        return []
    return [
        f"the search for blocks in float looked at {count} labelled samples, half of --eval: the margin of the drop that it "
        f"expects is wide; give at least {2 * _FEWEST_SEARCHED} with --eval"
    ]


def open_samples(
    source: KerasSource, path: str, steps: Preprocessing | None, *, labels: Sequence[str] | None = None, option: str = "--calib"
) -> Dataset:
    """The samples at a path, with everything that the model takes.

    Args:
        source: The trained model.
        path: See :func:`lepton_converters.dataset.open_dataset` and :func:`lepton_converters.raw_dataset.open_raw_dataset`.
        steps: The preprocessing of its one input, if it has one.
        labels: Class names in the order of the model's outputs, if they are known.
        option: How errors call it; only of ``--calib`` are classes of no matter.

    Raises:
        InputError: Nothing there can be read as samples for this model.
    """
    inputs = source.given
    if source.encoders or (len(inputs) > 1 and path.endswith(".csv")):
        has_labels = option != "--calib"
        dataset = open_raw_dataset(path, inputs=inputs, encoders=source.encoders, labels=labels, option=option, has_labels=has_labels)
    else:
        dataset = open_dataset(path, inputs=inputs, preprocessing=steps, labels=labels, option=option)
    return _completed(source, dataset)


def open_labelled(source: KerasSource, path: str, steps: Preprocessing | None, *, labels: Sequence[str] | None) -> Dataset:
    """The samples of ``--eval``, which must have labels, for a model that must give class scores."""
    dataset = open_samples(source, path, steps, labels=labels, option="--eval")
    if not dataset.is_labeled:
        raise InputError(f"--eval needs classes: one folder a class, 'y' in a .npz, or a column 'label' in a .csv; found none in {path!r}")
    check_class_scores(source, use="accuracy needs", advice="leave --eval out")
    return dataset


def check_class_scores(source: KerasSource, *, use: str, advice: str) -> None:
    """Refuse classes that the model has no scores for.

    Args:
        source: The trained model.
        use: What needs them, as the beginning of the sentence.
        advice: What to do.

    Raises:
        InputError: It has none.
    """
    if not source.has_class_scores():
        found = ", ".join(map(str, source.outputs))
        raise InputError(f"{use} an output of (batch, classes), or one unit with a sigmoid; found {found}; {advice}")


def _completed(source: KerasSource, dataset: Dataset) -> Dataset:
    """The samples with what the data set does not hold: noise for dropout that is kept, and states."""
    if source.noise:
        dataset = with_noise(dataset, _noise_inputs(source))
    return _with_states(source, dataset) if source.states else dataset


def _noise_inputs(source: KerasSource) -> list[TensorSpec]:
    return [spec for spec in source.inputs if spec.name in source.noise]


def _with_states(source: KerasSource, dataset: Dataset) -> Dataset:
    """The samples of a stateful model as one stream, each with the states that those before it left, zeros at first."""
    specs = [spec for spec in source.inputs if spec.name in source.states]

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        states = {spec.name: np.zeros([axis or 1 for axis in spec.shape[1:]], spec.dtype) for spec in specs}
        for sample in dataset.samples(indices):
            inputs = {**sample.inputs, **states}
            yield Sample(inputs, sample.label)
            answers = source.predict({name: value[None] for name, value in inputs.items()})
            states = {name: answers[f"{name}_next"][0] for name in states}

    return replace(dataset, _read=read)


def _probes(source: KerasSource, steps: Preprocessing | None, dataset: Dataset | None, seed: int) -> tuple[Sample, ...]:
    if dataset is not None:
        return tuple(dataset.samples(range(min(_PROBES, dataset.count))))
    return tuple(_random(source, steps, count=_PROBES, seed=seed))


def _random(source: KerasSource, steps: Preprocessing | None, *, count: int, seed: int) -> Iterator[Sample]:
    inputs = [spec for spec in source.inputs if spec.name not in source.noise]
    padding, limits = padding_of(source), id_limits(source)
    if source.encoders:
        samples = random_raw_samples(inputs, source.encoders, count=count, seed=seed, is_masked=padding is not None, limits=limits)
    else:
        raw_pixels = source.takes_raw_pixels
        samples = random_samples(inputs, steps, count=count, seed=seed, raw_pixels=raw_pixels, padding=padding, limits=limits)
    return add_noise(samples, _noise_inputs(source)) if source.noise else samples


def padding_of(source: KerasSource) -> float | Array | None:
    """The value of steps that a layer of the model masks; ``None`` where no layer masks any, and of a SavedModel."""
    if source.model is None:
        return None
    layers, found = import_keras().layers, list(layers_of(source.model))
    masking = next((layer for layer in found if isinstance(layer, layers.Masking)), None)
    if masking is not None:
        return np.asarray(masking.mask_value, np.float32)
    return 0.0 if any(isinstance(layer, layers.Embedding) and layer.mask_zero for layer in found) else None


def id_limits(source: KerasSource) -> dict[str, int]:
    """How many ids there are for each input that goes straight into an embedding; for none of a SavedModel."""
    if source.model is None:
        return {}
    names = {id(tensor._keras_history.operation): name for name, tensor in named(source.model, "input")}
    limits: dict[str, int] = {}
    embedding = import_keras().layers.Embedding
    embeddings: list[Any] = [layer for layer in source.model.layers if isinstance(layer, embedding)]  # Any: Keras has no type hints
    for layer in embeddings:
        # Source: keras Operation._inbound_nodes: one node a call, with the symbolic tensors that it takes.
        takes = [id(tensor._keras_history.operation) for node in layer._inbound_nodes for tensor in node.input_tensors]
        for name in (names[taken] for taken in takes if taken in names):
            limits[name] = min(layer.input_dim, limits.get(name, layer.input_dim))
    return limits


def plan_preprocessing(source: KerasSource, settings: Mapping[str, Any]) -> Preprocessing | None:
    """The specification for the model's one input: what was asked for, and what the model's shape says."""
    if source.encoders:
        if settings:
            raise InputError(
                f"preprocessing {', '.join(map(repr, settings))} is for a picture or an array, this model's inputs are encoded from "
                f"{', '.join(map(str, source.raw))}; leave it out"
            )
        return None
    if len(source.inputs) - len(source.noise) != 1:
        if settings:
            raise InputError(f"preprocessing is for models with one input, this one has {len(source.inputs)}; give preprocessed arrays")
        return None
    spec = source.inputs[0]
    shape = spec.shape[1:]
    fixed = sorted({"size", "channels", "dtype"} & set(settings))
    if fixed:
        raise InputError(f"preprocessing {', '.join(map(repr, fixed))} come from the model ({spec}), found them given; leave them out")
    settings = {"dtype": spec.dtype, **settings}
    if len(shape) == 3:
        is_channels_first = (
            settings.setdefault("layout", "nchw" if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else "nhwc") == "nchw"
        )
        channels, *size = shape if is_channels_first else (shape[2], *shape[:2])
        if channels in (1, 3, 4):
            settings = {"size": size, "channels": channels, **settings}
    steps = Preprocessing.from_dict(settings)
    if steps.size is None and any(len(values) not in (1, shape[-1] if shape else 1) for values in (steps.mean, steps.std)):
        raise InputError(
            f"--mean and --std have one value or one for each of the last axis of {spec}, found {len(steps.mean)} and {len(steps.std)}"
        )
    return steps


def fitting_labels(
    source: KerasSource, labels: Sequence[str] | None, evaluated: Dataset | None, calibrated: Dataset | None
) -> tuple[str, ...] | None:
    """Class names that fit the model's outputs."""
    folders = next((dataset for dataset in (evaluated, calibrated) if dataset and dataset.class_names), None)
    names = tuple(labels) if labels is not None else folders.class_names if folders else None
    if names is None:
        return None
    output = class_output(source.outputs) if source.has_class_scores() else None
    if output is None and labels is None:
        return None
    units = (output.shape[1] or 0) if output else 0
    classes = 2 if units == 1 else units
    if classes != len(names):
        where = f"{folders.path!r} holds {len(names)} class folders" if labels is None and folders else f"{len(names)} labels are given"
        found = ", ".join(map(str, [output] if output else source.outputs))
        if labels is not None:
            advice = f"give {classes} names with --labels" if output else "leave --labels out"
        elif folders is calibrated:
            advice = "name the classes with --labels, or calibrate on a folder without class folders"
        elif len(names) < classes:
            advice = f"name all {classes} with --labels, those without a folder too"
        else:
            advice = f"keep the {classes} that the model knows"
        raise InputError(f"there must be one class an output, {where} ({', '.join(names[:12])}) and the model has output {found}; {advice}")
    return names
