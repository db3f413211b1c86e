"""Samples of texts and tables: read raw, as people have them, and encoded as the device will encode them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_converters.dataset import Dataset, Sample, open_dataset, ready_values
from lepton_runtime.encoders import TEXT, Encoder, encode, raw_inputs
from lepton_runtime.errors import InputError
from lepton_runtime.table import read_table
from lepton_runtime.tensors import Array, TensorSpec
from lepton_runtime.text import split_lines

_Row = tuple[dict[str, Any], int | None]  # Any: cells before they are read as their input's type


def open_raw_dataset(
    path: str,
    *,
    inputs: Sequence[TensorSpec],
    encoders: Sequence[Encoder],
    labels: Sequence[str] | None = None,
    option: str = "--calib",
    has_labels: bool = False,
) -> Dataset:
    """The samples at ``path``, with what the encoders make of them.

    Args:
        path: A ``.csv`` with a header whose columns are named after the raw inputs, and a column ``label``; for a model of
            one text also a ``.txt`` with one text a line, or one folder of ``.txt`` files a class; and whatever
            :func:`lepton_converters.dataset.open_dataset` takes.
        inputs: The graph's inputs.
        encoders: What runs before it.
        labels: Class names in the order of the model's outputs, if they are known.
        option: How errors call it.
        has_labels: Whether the classes of a ``.csv`` are wanted, too.

    Raises:
        InputError: Nothing there can be read as samples for this model.
    """
    raw, location = raw_inputs(inputs, encoders), Path(path)
    if location.is_dir():
        dataset = _text_folder(location, raw, labels)
    elif location.suffix == ".csv" and location.exists():
        dataset = _table(location, raw, labels, has_labels=has_labels)
    elif location.suffix == ".txt" and location.exists():
        texts = split_lines(_read_text(location).removeprefix("\ufeff"))
        dataset = _rows(path, [({_only_text(raw, path).name: text}, None) for text in texts], raw)
    else:
        dataset = open_dataset(path, inputs=raw, preprocessing=None, labels=labels, option=option)

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        for sample in dataset.samples(indices):
            yield encode_sample(sample.inputs, sample.label, inputs, encoders)

    return replace(dataset, _read=read)


def encode_sample(raw: Mapping[str, Array], label: int | None, inputs: Sequence[TensorSpec], encoders: Sequence[Encoder]) -> Sample:
    """The sample that raw values make, as the device would encode them.

    Args:
        raw: One array a raw input, without the batch axis.
        label: The number of its class, or ``None``.
        inputs: The graph's inputs.
        encoders: What runs before it.

    Raises:
        InputError: A value is one that an encoder does not take.
    """
    values = encode(encoders, {name: value[None] for name, value in raw.items()})
    return Sample({spec.name: values[spec.name][0] for spec in inputs}, label, raw if encoders else None)


def _rows(path: str, rows: Sequence[_Row], raw: Sequence[TensorSpec], class_names: tuple[str, ...] | None = None) -> Dataset:
    """A data set of rows that are in memory, as texts and tables are."""
    if not rows:
        raise InputError(f"{path!r} must hold at least one sample, it is empty")

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        for index in sorted(indices):
            values, label = rows[index]
            yield Sample(ready_values(values, raw, f"sample {index + 1} of {path!r}"), label)

    return Dataset(path, len(rows), class_names, rows[0][1] is not None, read)


def _only_text(raw: Sequence[TensorSpec], path: str) -> TensorSpec:
    if len(raw) != 1 or raw[0].dtype != TEXT:
        names = ", ".join(map(str, raw))
        raise InputError(
            f"text files are for a model of one text, this one takes {names}; give a .csv with one column an input; found {path!r}"
        )
    return raw[0]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # as it is: reading it as text would change the ends of its lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} must be a readable text file in UTF-8: {error}") from error


def _text_folder(folder: Path, raw: Sequence[TensorSpec], labels: Sequence[str] | None) -> Dataset:
    """One folder of ``.txt`` files a class, in the order of their names, as Keras' text_dataset_from_directory reads them."""
    name = _only_text(raw, str(folder)).name
    folders = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")))
    names = tuple(labels) if labels is not None else folders
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise InputError(
            f"the folders in {str(folder)!r} must be named after the labels, found {unknown[0]!r}; the labels are {', '.join(names)}"
        )
    files = [(file, names.index(child)) for child in folders for file in sorted((folder / child).rglob("*.txt"))]
    if not files:
        raise InputError(f"one folder of .txt files a class is needed, {str(folder)!r} holds none")
    return _rows(str(folder), [({name: _read_text(file)}, label) for file, label in files], raw, names)


def _table(path: Path, raw: Sequence[TensorSpec], labels: Sequence[str] | None, *, has_labels: bool) -> Dataset:
    table = read_table(path, raw)
    cells = table.labels if has_labels and table.labels is not None else [None] * len(table.rows)
    classes = [None if cell is None else _label(cell, labels, f"row {number} of {str(path)!r}") for number, cell in enumerate(cells, 1)]
    return _rows(str(path), list(zip(table.rows, classes, strict=True)), raw)


def _label(cell: str, labels: Sequence[str] | None, name: str) -> int:
    """The class that a cell names; its number only where classes have no names: a name may look like a number."""
    if labels is not None:
        if cell not in labels:
            raise InputError(f"{name} must have one of the labels as its class, found {cell!r}; the labels are {', '.join(labels)}")
        return list(labels).index(cell)
    try:
        number = float(cell)
    except ValueError:
        number = -1.0
    if not number.is_integer() or number < 0:
        raise InputError(f"{name} must have a class as its label, found {cell!r}; name the classes with --labels, or number them from 0")
    return int(number)
