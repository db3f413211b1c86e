"""Converts the cells of a case, in a process of its own that may crash."""

import importlib
import os
import re
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from coverage_cases.case import Case
from coverage_cases.result import Outcome, Result, Target
from coverage_cases.table import all_cases, group_of
from lepton_converters.keras_loading import import_keras
from lepton_edge.device import read_device
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.golden import Golden
from lepton_runtime.versions import installed_versions

_MOST_JOBS, _MOST_KILOBYTES = 60, 5_000_000  # then a fresh process takes over: TensorFlow gives little memory back
_SMALLEST_RANGE = 1e-3  # outputs below it are judged as if they reached it
SMALLEST_COSINE = {"layers": 0.95, "networks": 0.8}  # of 8-bit artifacts; of networks what the export itself accepts
_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
_SAMPLES = "samples.npz"
_TOOLCHAIN = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


def serve(connection: Connection, log: Path, memory_bytes: int) -> None:
    """Do one job after the other: ``(case name, targets, folder, is_doubted)``; answer with results or what was raised."""
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    cases = all_cases()
    for number in range(1, _MOST_JOBS + 1):
        name, targets, folder, is_doubted = connection.recv()
        try:
            answer: list[Result] | str = convert(cases[name], targets, folder, is_doubted=is_doubted)
        except Exception as error:  # noqa: BLE001  # whatever is raised is an outcome
            answer = _plain(f"{type(error).__name__}: {error}", folder)
        is_leaving = number == _MOST_JOBS or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MOST_KILOBYTES
        connection.send((answer, is_leaving))
        if is_leaving:
            return


def _plain(text: str, folder: Path) -> str:
    """One line without colors and without places of this machine."""
    text = re.sub(r"\x1b\[\d*m", "", text.replace(f"{folder}/", ""))
    return re.sub(r"(?<![\w.])/[\w./-]+/", "", " ".join(text.split()))[:600]


def convert(case: Case, targets: Sequence[Target], folder: Path, *, is_doubted: bool = False) -> list[Result]:
    """One result a target.

    Args:
        case: What to convert.
        targets: Formats and precisions.
        folder: For its files.
        is_doubted: Convert with the check switched off, to see whether it barred what can be converted.

    Raises:
        Exception: Whatever the export raised.
    """
    start = time.perf_counter()
    model_file = folder / "model.keras"
    if not model_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _save(case, model_file)
    results = {}
    if not is_doubted:
        results = {target: barred for target in targets if (barred := find_refusal(case, model_file, target))}
    for formats, precisions in _calls([target for target in targets if target not in results]):
        found = _export(case, model_file, formats, precisions, is_doubted=is_doubted)
        results.update({result.target: result for result in found})
    seconds = (time.perf_counter() - start) / len(targets)
    return [dated(replace(results[target], seconds=round(seconds, 2), versions=_versions())) for target in targets]


def dated(result: Result) -> Result:
    """The result with the day and the machine."""
    return replace(result, date=f"{datetime.now(UTC):%Y-%m-%d}", machine=str(read_device()))


def _save(case: Case, model_file: Path) -> None:
    """Write the files of a case, whole ones: another process may be about to do the same."""
    places = [model_file.with_name(_SAMPLES), model_file]
    samples_file, written = (place.with_stem(f"{place.stem}-{os.getpid()}") for place in places)
    try:
        case.save(import_keras(), written, samples_file)
    except Exception as error:  # a case that cannot be built is an outcome, too
        raise RuntimeError(f"the case itself cannot be built: {type(error).__name__}: {error}") from error
    for path, place in zip((samples_file, written), places, strict=True):
        path.replace(place)


def find_refusal(case: Case, model_file: Path, target: Target) -> Result | None:
    """What the check says against a target, and whether the export says so as well; ``None`` if nothing bars it."""
    check = importlib.import_module("lepton_converters.check")
    refusal = check.check_model(model_file, trust_code=case.trust_code).refusal(*_parsed(target))
    if refusal is None:
        return None
    try:
        _export(case, model_file, [target[0]], [target[1]])
    except UnsupportedError as error:
        if refusal.reason in str(error):
            return Result(case.name, *target, "barred", f"{refusal.kind} {refusal.reason}", refusal.fix)
    return Result(case.name, *target, "DEFECT", f"the check bars it, and the export does not say so: {refusal.kind} {refusal.reason}")


def _calls(targets: Sequence[Target]) -> list[tuple[list[str], list[str]]]:
    """Formats and precisions of as few exports as make these targets."""
    precisions_of: dict[str, list[str]] = {}
    for format_, precision in targets:
        precisions_of.setdefault(format_, []).append(precision)
    calls: list[tuple[list[str], list[str]]] = []
    for format_, precisions in precisions_of.items():
        same = next((formats for formats, others in calls if others == precisions), None)
        if same is None:
            calls.append(([format_], precisions))
        else:
            same.append(format_)
    return calls


def _export(case: Case, model_file: Path, formats: list[str], precisions: list[str], *, is_doubted: bool = False) -> list[Result]:
    room: Any = importlib.import_module("lepton_converters.export")  # the package's own name for it is the function's
    check = room.check_model
    if is_doubted:
        room.check_model = lambda *arguments, **settings: replace(check(*arguments, **settings), refusals=())
    try:
        result = room.export(
            model_file,
            model_file.with_name(f"made-{os.getpid()}.bundle"),
            formats=formats,
            precisions=precisions,
            calib=model_file.with_name(_SAMPLES),
            calib_samples=case.calib_samples,
            keep_failed=True,
            trust_code=case.trust_code,
            force=True,
        )
    finally:
        room.check_model = check
    arrays = Golden.open(Bundle.open(result.path)).arrays
    found = [_judge(case, record, arrays) for record in result.verified]
    return found + [Result(case.name, left.format, left.precision, "DEFECT", f"left out: {left.reason}") for left in result.left_out]


def _judge(case: Case, record: Any, arrays: dict[str, Any]) -> Result:
    relative = 0.0
    for spec in record.outputs:
        expected = arrays[f"output/{spec.name}"].astype(np.float64)
        found = spec.dequantize(arrays[f"{record.file}/{spec.name}"]).astype(np.float64)
        difference = float(np.abs(found - expected).max(initial=0.0))
        relative = max(relative, difference / max(float(np.abs(expected).max(initial=0.0)), _SMALLEST_RANGE))
    is_near = relative <= _TOLERANCE.get(record.precision, np.inf) and (
        record.precision in _TOLERANCE or record.parity.cosine >= SMALLEST_COSINE[group_of(case.name)]
    )
    reason = "" if record.passed and is_near else f"differs from Keras: {relative:.2g} of the range, cosine {record.parity.cosine:.3f}"
    outcome: Outcome = "DEFECT" if reason else "verified"
    return Result(case.name, str(record.format), str(record.precision), outcome, reason, relative=relative, cosine=record.parity.cosine)


def _parsed(target: Target) -> tuple[Format, Precision]:
    return Format.parse(target[0]), Precision.parse(target[1])


def _versions() -> dict[str, str]:
    return dict(installed_versions(_TOOLCHAIN))
