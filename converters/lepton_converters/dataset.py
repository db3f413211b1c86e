"""Sample inputs on disk, with or without classes: counted first, then streamed one by one."""

import csv
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lepton_converters.npz_stream import npz_headers, npz_rows
from lepton_runtime.encoders import TEXT, read_raw
from lepton_runtime.errors import InputError
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.preprocess import IMAGE_SUFFIXES, Preprocessing
from lepton_runtime.table import LABEL_COLUMNS
from lepton_runtime.tensors import Array, TensorSpec, cast_exactly, fits_shape

_MAX_YIELDED = 1_000_000


@dataclass(frozen=True)
class Sample:
    """One sample, ready for the model.

    Attributes:
        inputs: One array an input, without the batch axis.
        label: The number of its class, or ``None``.
        raw: The same before the encoders, of a model that has some.
    """

    inputs: Mapping[str, Array]
    label: int | None
    raw: Mapping[str, Array] | None = None


@dataclass(frozen=True)
class Dataset:
    """Samples that are read when they are asked for; never more than one in memory.

    Attributes:
        path: As it was given, for messages.
        count: How many samples there are.
        class_names: Of class folders, in label order.
        is_labeled: Whether samples have labels.
    """

    path: str
    count: int
    class_names: tuple[str, ...] | None
    is_labeled: bool
    _read: Callable[[Sequence[int]], Iterator[Sample]]

    def samples(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Those samples, in ascending order of ``indices``.

        Raises:
            InputError: One cannot be read or does not fit the model.
        """
        return self._read(indices)


def open_dataset(
    path: str,
    *,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | FrameInput | None,
    labels: Sequence[str] | None = None,
    option: str = "--calib",
) -> Dataset:
    """The samples at ``path``, whatever form they have.

    Args:
        path: A folder of images (flat, or one folder a class); a ``.npz`` with ``x`` or one array an
            input, and ``y``; a ``.npy``; a ``.csv`` with one row a sample, and a column ``label``; or ``module:function``,
            where the function yields arrays, or mappings from input names to arrays, without a batch
            axis, anew at each call.
        inputs: The model's inputs.
        preprocessing: Applied to every sample; ``None`` for several inputs.
        labels: Class names in the order of the model's outputs, if they are known.
        option: How errors call it.

    Raises:
        InputError: Nothing there can be read as samples for this model.
    """
    location = Path(path)
    if location.is_dir():
        return _image_folder(location, inputs, preprocessing, labels)
    check_exists(path, option=option)
    if location.suffix == ".npz":
        return _npz(location, inputs, preprocessing)
    if location.suffix == ".npy":
        rows = _load_npy(location)
        return _arrays(
            path, {_only(inputs, path).name: lambda indices: (rows[index] for index in indices)}, len(rows), None, inputs, preprocessing
        )
    if location.suffix == ".csv":
        return _csv(location, inputs, preprocessing)
    function = _function_in(path)
    if function:
        return _function(path, *function, inputs, preprocessing)
    raise InputError(f"{option} takes a folder of images, a .npz, .npy or .csv file, or module:function; {path!r} is another kind of file")


def check_exists(path: str, *, option: str) -> None:
    """Refuse a place where nothing is, unless it reads as ``module:function``.

    Args:
        path: As :func:`open_dataset` takes it.
        option: How the error calls it.

    Raises:
        InputError: It does not exist.
    """
    if not _function_in(path) and not Path(path).exists():
        raise InputError(f"{option} takes a folder of images, a .npz, .npy or .csv file, or module:function; {path!r} does not exist")


def _function_in(path: str) -> tuple[str, str] | None:
    """The module and the function of ``module:function``."""
    module, colon, function = path.partition(":")
    return (module, function) if colon and all(part.isidentifier() for part in (*module.split("."), function)) else None


def _only(inputs: Sequence[TensorSpec], path: str) -> TensorSpec:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise InputError(
            f"a model with {len(inputs)} inputs ({names}) needs a .npz with one array an input, or module:function; found {path!r}"
        )
    return inputs[0]


def ready_values(values: Mapping[str, Array], inputs: Sequence[TensorSpec], name: str) -> dict[str, Array]:
    """The values in input order, each of its input's shape and finite."""
    if set(values) != {spec.name for spec in inputs}:
        raise InputError(f"{name} must hold the inputs {[spec.name for spec in inputs]}, found {list(values)}")
    ready = {}
    for spec in inputs:
        if spec.dtype == TEXT:
            ready[spec.name] = _text(values[spec.name], spec, name)
            continue
        value = np.asarray(values[spec.name])
        if value.shape == () and spec.shape[1:] == (1,):
            value = value.reshape(1)
        if not fits_shape(value.shape, spec.shape[1:]):
            raise InputError(f"{name} must hold samples of shape {spec.shape[1:]} for {spec.name!r}, found {value.shape}")
        if value.dtype.kind not in "biuf":
            raise InputError(f"{name} must hold numbers for {spec.name!r}, found {value.dtype}")
        value = cast_exactly(value, spec.dtype)
        spec_of_one = TensorSpec(spec.name, value.shape, spec.dtype)
        spec_of_one.check(value, finite=True)
        ready[spec.name] = value
    return ready


def _text(value: Any, spec: TensorSpec, name: str) -> Array:
    try:
        texts = read_raw(spec, value)
    except InputError as error:
        raise InputError(f"{name} must hold samples that fit the model: {error}") from error
    if len(texts) != 1:
        raise InputError(f"{name} must hold samples of shape {spec.shape[1:]} for {spec.name!r}, found {np.shape(value)}")
    first: Array = np.asarray(texts[0])  # of a text without axes NumPy gives a string
    return first


def _image_folder(
    folder: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | FrameInput | None, labels: Sequence[str] | None
) -> Dataset:
    spec = _only(inputs, str(folder))
    if preprocessing is None or preprocessing.size is None:
        raise InputError(f"a folder of images is for a model with an image input, this one takes {spec}; give a .npz, .npy or .csv file")
    steps = preprocessing
    folders = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")))
    nested = {child: _images(folder / child) for child in folders}
    loose = [file for file in _images(folder) if file.parent == folder]
    if loose and any(nested.values()):
        raise InputError(f"images must be in class folders or side by side, {str(folder)!r} holds both, {loose[0].name!r} beside folders")
    if loose:
        folders = ()
    if labels is not None and set(folders) - set(labels):
        unknown = min(set(folders) - set(labels))
        raise InputError(
            f"the folders in {str(folder)!r} must be named after the labels, found {unknown!r}; the labels are {', '.join(labels)}"
        )
    names = tuple(labels) if labels is not None else folders
    files: list[tuple[Path, int | None]] = [(file, names.index(child)) for child in folders for file in nested[child]]
    files = files or [(file, None) for file in loose]
    if not files:
        raise InputError(f"a folder of images ({', '.join(sorted(IMAGE_SUFFIXES))}) is needed, {str(folder)!r} holds none")

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        for index in sorted(indices):
            file, label = files[index]
            yield Sample(ready_values({spec.name: steps.load(file)}, inputs, str(file)), label)

    return Dataset(str(folder), len(files), names if folders else None, bool(folders), read)


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


Rows = Callable[[Sequence[int]], Iterator[Array]]


def _arrays(
    path: str,
    columns: Mapping[str, Rows],
    count: int,
    labels: Array | None,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | FrameInput | None,
) -> Dataset:
    """A data set of arrays, each with one row a sample."""
    if count == 0:
        raise InputError(f"{path!r} must hold at least one sample, it is empty")
    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0):
        raise InputError(f"the labels in {path!r} must be {count} class numbers from 0, found {labels.dtype} of shape {labels.shape}")

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        order = sorted(indices)
        for index, *values in zip(order, *(rows(order) for rows in columns.values()), strict=True):
            named = _preprocessed(dict(zip(columns, values, strict=True)), preprocessing, repr(path))
            label = int(labels[index]) if labels is not None else None
            yield Sample(ready_values(named, inputs, repr(path)), label)

    return Dataset(path, count, None, labels is not None, read)


def _preprocessed(values: Mapping[str, Any], preprocessing: Preprocessing | FrameInput | None, name: str) -> Mapping[str, Array]:
    if preprocessing is None:
        return {name: np.asarray(value) for name, value in values.items()}
    try:
        return {name: preprocessing.apply(np.asarray(value)) for name, value in values.items()}
    except InputError as error:
        raise InputError(f"{name} must hold samples that fit the model: {error}") from error


def _load_npy(path: Path) -> Array:
    """The file's array, left on disk until a row is asked for."""
    try:
        rows: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} must be a NumPy file of plain numbers: {error}") from error
    if rows.ndim == 0:
        raise InputError(f"{str(path)!r} must hold one row a sample, found a single number")
    return rows


def _npz(path: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | FrameInput | None) -> Dataset:
    headers = npz_headers(path)
    names = {spec.name: "x" if len(inputs) == 1 and "x" in headers else spec.name for spec in inputs}
    missing = [name for name in names.values() if name not in headers]
    if missing:
        wanted = "'x'" if len(inputs) == 1 else ", ".join(map(repr, names.values()))
        raise InputError(f"{str(path)!r} must hold {wanted} (and 'y' for classes), found {', '.join(map(repr, headers)) or 'nothing'}")
    lengths = {headers[name][0][:1] for name in (*names.values(), *(["y"] if "y" in headers else []))}
    if len(lengths) != 1 or () in lengths:
        raise InputError(f"the arrays in {str(path)!r} must have the same number of rows, found {sorted(lengths)}")
    labels = None
    if "y" in headers:
        labels = np.stack(list(npz_rows(path, "y", range(headers["y"][0][0]))))
    columns: dict[str, Rows] = {spec: lambda indices, name=name: npz_rows(path, name, indices) for spec, name in names.items()}  # type: ignore[misc]
    return _arrays(str(path), columns, lengths.pop()[0], labels, inputs, preprocessing)


def _csv(path: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | FrameInput | None) -> Dataset:
    spec = _only(inputs, str(path))
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            first = next(csv.reader(stream), [])
            header = [name.strip().lower() for name in first] if any(not _is_number(cell) for cell in first) else None
            # A column is the label only if it is one more than the model takes: features are called y, too.
            has_label = len(first) == int(np.prod([axis or 1 for axis in spec.shape[1:]])) + 1
            label_column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None) if header and has_label else None
            stream.seek(0)
            rows = csv.reader(stream)
            if header:
                next(rows)
            count, labels = 0, []
            for row in filter(None, rows):
                count += 1
                if label_column is not None:
                    labels.append(_csv_label(row[label_column], f"row {count} of {str(path)!r}"))
    except (OSError, ValueError, IndexError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} must be a CSV file of numbers, one row a sample: {error}") from error

    def read(indices: Sequence[int]) -> Iterator[Array]:
        wanted = set(indices)
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = filter(None, csv.reader(stream))
            if header:
                next(lines)
            for index, row in enumerate(lines):
                if index in wanted:
                    cells = [cell for column, cell in enumerate(row) if column != label_column]
                    yield _csv_row(cells, spec, f"row {index + 1} of {str(path)!r}")

    return _arrays(str(path), {spec.name: read}, count, np.array(labels) if labels else None, inputs, preprocessing)


def _csv_label(cell: str, name: str) -> int:
    if not _is_number(cell) or not float(cell).is_integer():
        raise InputError(f"{name} must have a class number as its label, found {cell!r}; number the classes from 0, as the outputs")
    return int(float(cell))


def _csv_row(cells: Sequence[str], spec: TensorSpec, name: str) -> Array:
    try:
        return np.array([float(cell) for cell in cells]).reshape([axis or -1 for axis in spec.shape[1:]])
    except ValueError as error:
        raise InputError(f"{name} must hold the numbers of one sample of shape {spec.shape[1:]}: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _function(path: str, module: str, name: str, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | FrameInput | None) -> Dataset:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())

    def values() -> Iterator[Any]:
        try:
            yield from getattr(importlib.import_module(module), name)()
        except Exception as error:  # the user's own code may raise anything
            kind = type(error).__name__
            raise InputError(f"{path!r} must be module:function, which yields samples when called; it raised {kind}: {error}") from error

    def read(indices: Sequence[int]) -> Iterator[Sample]:
        wanted = set(indices)
        for index, value in enumerate(values()):
            if index in wanted:
                wanted.remove(index)
                named = value if isinstance(value, Mapping) else {_only(inputs, path).name: value}
                yield Sample(ready_values(_preprocessed(named, preprocessing, repr(path)), inputs, repr(path)), None)
        if wanted:
            raise InputError(f"{path!r} must yield its samples anew at each call, {len(wanted)} did not come again; make it a generator")

    return Dataset(path, _count(values(), path), None, False, read)


def _count(values: Iterator[Any], path: str) -> int:
    count = sum(1 for _ in islice(values, _MAX_YIELDED + 1))
    if count > _MAX_YIELDED:
        raise InputError(f"{path!r} must end, it yielded more than {_MAX_YIELDED:,} samples; stop after those to calibrate on")
    if count == 0:
        raise InputError(f"{path!r} must yield at least one sample, it yielded none")
    return count
