"""Raw values from a CSV file: one row a sample, one column an input."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_runtime.encoders import TEXT
from lepton_runtime.errors import InputError
from lepton_runtime.tensors import TensorSpec

LABEL_COLUMNS = ("y", "label", "class", "target")


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        rows: One mapping from inputs to values a row, ready for :func:`lepton_runtime.encoders.read_raw`.
        labels: The cells of the label's column as they are, or ``None`` without one.
    """

    rows: tuple[dict[str, Any], ...]  # Any: text or a number
    labels: tuple[str, ...] | None


def read_table(path: Path, specs: Sequence[TensorSpec]) -> Table:
    """The table in a CSV file whose header names the inputs; other columns, but for a label's, are left alone.

    Args:
        path: The file, UTF-8.
        specs: Of the raw inputs, one value a sample each. A single one may have a column of any name.

    Raises:
        InputError: It cannot be read, lacks a column, or a cell is no number where one is needed.
    """
    wide = next((spec for spec in specs if np.prod([axis or 1 for axis in spec.shape[1:]], dtype=int) != 1), None)
    if wide is not None:
        raise InputError(f"a .csv is for inputs of one value a sample, this model takes {wide}; give a .npz with one array an input")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(lines, [])]
            columns, label = _columns(header, specs, str(path))
            cells = [row for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} must be a CSV file in UTF-8, one row a sample: {error}") from error
    for number, row in enumerate(cells, 1):
        if len(row) != len(header):
            raise InputError(f"row {number} of {str(path)!r} must have {len(header)} cells as its header, found {len(row)}")
    rows = tuple(
        {spec.name: _read_cell(row[columns[spec.name]], spec, f"row {number} of {str(path)!r}") for spec in specs}
        for number, row in enumerate(cells, 1)
    )
    return Table(rows, None if label is None else tuple(row[label] for row in cells))


def _columns(header: Sequence[str], specs: Sequence[TensorSpec], path: str) -> tuple[dict[str, int], int | None]:
    """Where each input is, and the label."""
    names = [spec.name for spec in specs]
    label = next((position for position, name in enumerate(header) if name.lower() in LABEL_COLUMNS and name not in names), None)
    others = [position for position in range(len(header)) if position != label]
    if len(names) == 1 and len(others) == 1:
        return {names[0]: others[0]}, label
    missing = [name for name in names if header.count(name) != 1]
    if missing:
        raise InputError(
            f"{path!r} must have a header with a column for each of the inputs {', '.join(names)}, found {header.count(missing[0])} named "
            f"{missing[0]!r} among {', '.join(map(repr, header)) or 'nothing'}"
        )
    return {name: header.index(name) for name in names}, label


def _read_cell(cell: str, spec: TensorSpec, name: str) -> Any:
    if spec.dtype == TEXT:
        return cell
    try:
        return int(cell) if np.dtype(spec.dtype).kind in "iu" and "." not in cell else float(cell)
    except ValueError:
        raise InputError(f"{name} must have a number for {spec.name!r}, found {cell!r}; clean the data first") from None
