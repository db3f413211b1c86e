"""The samples that a person names on the command line, run through a session."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_runtime.errors import InputError
from lepton_runtime.preprocess import IMAGE_SUFFIXES
from lepton_runtime.session import Session
from lepton_runtime.tensors import Array
from lepton_runtime.text import split_lines


def run_on_text(text: str, session: Session) -> dict[str, Array]:
    """The outputs for one text.

    Raises:
        InputError: The model takes no text alone.
    """
    if not session.encoders and session.bundle.manifest.preprocessing is not None:
        raise InputError(f"--text is for models of texts, this one takes {', '.join(map(str, session.inputs))}; give INPUT")
    return _run_rows([text], session)


def run_on_file(path: Path, session: Session) -> dict[str, Array]:
    """The outputs for what a file holds: a picture, arrays, lines of text or rows of a table.

    Raises:
        InputError: It cannot be read, or does not fit the model.
    """
    suffix = path.suffix.lower()
    if not session.encoders and session.bundle.manifest.preprocessing is not None:
        return session.run(_read_inputs(path, session))
    if suffix == ".txt":
        return _run_rows(split_lines(_read_text(path)), session)
    if suffix == ".json":
        return _run_rows(_read_json(path), session)
    if suffix == ".csv":
        return _run_rows(_read_csv(path, session), session)
    return session.run(_read_inputs(path, session))


def _run_rows(rows: Sequence[Any], session: Session) -> dict[str, Array]:  # Any: a text, or a mapping from columns to values
    """One row of outputs a row, as many at a time as the model takes; missing ones repeat the last."""
    if not rows:
        raise InputError("INPUT must hold at least one sample, it is empty")
    for number, row in enumerate(rows, 1):
        if isinstance(rows[0], Mapping) and (not isinstance(row, Mapping) or set(row) != set(rows[0])):
            raise InputError(f"every row must have the columns of the first, {', '.join(rows[0])}; row {number} is {row!r}"[:300])
    batch = session.artifact.inputs[0].shape[0] or len(rows)
    parts = []
    for start in range(0, len(rows), batch):
        chunk = list(rows[start : start + batch])
        outputs = session.run(session.encode(_columns([*chunk, *chunk[-1:] * (batch - len(chunk))])))
        parts.append({name: array[: len(chunk)] for name, array in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(rows: Sequence[Any]) -> Any:
    return {name: [row[name] for row in rows] for name in rows[0]} if isinstance(rows[0], Mapping) else rows


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # as it is: reading it as text would change the ends of its lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"INPUT must be a readable file in UTF-8, {str(path)!r} cannot be read: {error}") from error


def _read_json(path: Path) -> list[Any]:
    try:
        values = json.loads(_read_text(path))
    except ValueError as error:
        raise InputError(
            f"INPUT must be a JSON object with one value an input, or a list of them; {str(path)!r} is not: {error}"
        ) from error
    return values if isinstance(values, list) else [values]


def _read_csv(path: Path, session: Session) -> Sequence[dict[str, Any]]:
    from lepton_runtime.encoders import raw_inputs
    from lepton_runtime.table import read_table

    return read_table(path, raw_inputs(session.bundle.manifest.given_inputs, session.encoders)).rows


def _read_inputs(path: Path, session: Session) -> dict[str, Array]:
    """One checked array an input."""
    specs, suffix = session.artifact.inputs, path.suffix.lower()
    if path.is_dir():
        raise InputError(f"INPUT must be a file, found the folder {str(path)!r}; give it with --folder")
    if suffix not in (".npy", ".npz"):
        if session.encoders:
            raise InputError(f"INPUT must be a .txt, .csv, .json, .npy or .npz file for a model of texts or tables, found {str(path)!r}")
        if suffix and suffix not in IMAGE_SUFFIXES:
            images = ", ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"INPUT must be an image ({images}), a .npy or a .npz file, found {str(path)!r}; give videos with --video")
        return {specs[0].name: session.preprocess(path)}
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if suffix == ".npz" else {specs[0].name: loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"INPUT must be an image or a NumPy file of plain numbers, {str(path)!r} cannot be read: {error}") from error
    for spec in specs:
        if spec.name in arrays:
            spec.check(arrays[spec.name], finite=True)
    return arrays
