"""The samples of one fine-tuning: what to train on, what is held back to choose by, and what else the gain is measured on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_converters.dataset import Dataset
from lepton_converters.export_data import check_class_scores, fitting_labels, open_labelled, open_samples
from lepton_converters.keras_source import KerasSource
from lepton_converters.memory import available_bytes
from lepton_converters.quantized_training import Samples
from lepton_runtime.errors import InputError
from lepton_runtime.labels import class_output
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array

_HELD_BACK = 5  # one of so many samples
_SHARE_OF_MEMORY = 0.5  # for samples and the float network's answers to them; the rest is for the training


@dataclass(frozen=True)
class TrainingData:
    """Samples that are counted, and read when they are asked for.

    Attributes:
        dataset: Where they come from.
        order: Which of them are used, at random; the first of these are held back.
        is_labeled: Whether their labels are used.
        evaluated: Labelled ones that neither train nor choose, or ``None``.
    """

    dataset: Dataset
    order: tuple[int, ...]
    is_labeled: bool
    evaluated: Dataset | None

    @classmethod
    def open(
        cls,
        source: KerasSource,
        steps: Preprocessing | None,
        *,
        data: str,
        evaluate: str | None,
        labels: Sequence[str] | None,
        use_labels: bool,
        most: int,
        seed: int,
    ) -> "TrainingData":
        """The samples that the options of a fine-tuning name; see :func:`lepton_converters.finetune`.

        Raises:
            InputError: They cannot be read, do not fit the model or the memory, or there are too few.
        """
        evaluated = None if evaluate is None else open_labelled(source, evaluate, steps, labels=labels)
        fitting_labels(source, labels, evaluated, None)
        dataset = open_samples(source, data, steps, labels=labels if use_labels else None, option="--data")
        if dataset.count < 2:
            raise InputError(f"--data needs at least 2 samples, one of them held back to choose by, found {dataset.count} in {data!r}")
        is_labeled = use_labels and dataset.is_labeled
        if is_labeled:
            advice = "give --data without classes or --ignore-labels, or end the model in a sigmoid"
            check_class_scores(source, use="classes need", advice=advice)
        fitting_labels(source, labels, dataset if is_labeled else None, None)
        order = tuple(np.random.default_rng(seed).permutation(dataset.count)[:most].tolist())
        _check_memory(source, len(order))
        return cls(dataset, order, is_labeled, evaluated)

    @property
    def held_back(self) -> int:
        """How many only choose the epoch."""
        return max(1, len(self.order) // _HELD_BACK)

    @property
    def trained(self) -> int:
        """How many are trained on."""
        return len(self.order) - self.held_back

    def read(self, source: KerasSource, *, on_read: Callable[[float], None]) -> tuple[Samples, Samples]:
        """What to train on and what is held back: parts of the same arrays.

        Raises:
            InputError: One cannot be read, or its label is none of the model's classes.
        """
        inputs = {spec.name: np.empty((len(self.order), *(axis or 1 for axis in spec.shape[1:])), spec.dtype) for spec in source.inputs}
        labels = np.empty(len(self.order), np.int32) if self.is_labeled else None
        # They come in ascending order, whatever was asked for.
        for number, (place, sample) in enumerate(zip(np.argsort(self.order), self.dataset.samples(self.order), strict=True), 1):
            for name, values in inputs.items():
                values[place] = sample.inputs[name]
            if labels is not None:
                labels[place] = -1 if sample.label is None else sample.label
            on_read(number / len(self.order))
        check_range(source, labels)

        def part(rows: slice) -> Samples:
            return Samples({name: values[rows] for name, values in inputs.items()}, None if labels is None else labels[rows])

        return part(slice(self.held_back, None)), part(slice(self.held_back))


def check_range(source: KerasSource, labels: Array | None) -> None:
    """Refuse labels that are none of the model's classes.

    Raises:
        InputError: There are some.
    """
    found = class_output(source.outputs)
    classes = max(2, (found.shape[1] or 2) if found else 2)
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"labels must be the model's {classes} classes, 0 to {classes - 1}, found {labels.min()} to {labels.max()}")


def _check_memory(source: KerasSource, count: int) -> None:
    """Refuse samples that leave no room for the training; both they and the answers that are to be kept stay in memory.

    An answer is twice as large as the outputs: there are the probabilities, and the logits that they are made of.
    """
    specs = (*source.inputs, *source.outputs, *source.outputs)
    sample_bytes = sum(int(np.prod([axis or 1 for axis in spec.shape[1:]])) * np.dtype(spec.dtype).itemsize for spec in specs)
    available = available_bytes()
    if available is not None and count * sample_bytes > _SHARE_OF_MEMORY * available:
        raise InputError(
            f"the samples and the answers to them must fit half of the free memory, {count:,} take {count * sample_bytes / 1e6:,.0f} MB of "
            f"{available / 1e6:,.0f} MB; --samples {int(_SHARE_OF_MEMORY * available / sample_bytes)} would fit"
        )
