"""The one document that measurements are kept in: JSON with a schema version, checked when it is read.

``docs/benchmark-results.md`` describes it key by key.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from lepton_edge.device import Device
from lepton_edge.latency.pair import PairRatio, pair_ratios
from lepton_edge.latency.result import Candidate, LatencyResult
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.latency.verdict import Verdict, judge
from lepton_edge.report.decode import decode
from lepton_runtime.errors import InputError

SCHEMA = "lepton-edge benchmark"
SCHEMA_VERSION = 1
MAX_BYTES = 512 * 2**20
_JUDGED = {"verdict", "p50_interval_ms"}  # what another version may judge otherwise: computed anew, whatever the file says


@dataclass(frozen=True)
class Report:
    """One run of measurements.

    Attributes:
        created: When, as ISO 8601 in UTC.
        command: What to type to repeat it.
        device: On what machine.
        versions: Of the packages that matter.
        settings: How much was measured, and how.
        results: One a candidate.
        notes: What the reader should know.
        is_partial: Whether it was stopped before it was done.
    """

    created: str
    command: str
    device: Device
    versions: Mapping[str, str]
    settings: LatencySettings
    results: tuple[LatencyResult, ...]
    notes: tuple[str, ...]
    is_partial: bool

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Whether each result holds, in their order."""
        return [judge(result) for result in self.results]

    @cached_property
    def ratios(self) -> list[PairRatio]:
        """The candidates against each other, where they were measured side by side."""
        return [] if self.settings.duration_seconds is not None else pair_ratios(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON values."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "command": self.command,
            "is_partial": self.is_partial,
            "device": asdict(self.device),
            "versions": dict(self.versions),
            "settings": asdict(self.settings),
            "notes": list(self.notes),
            "results": [{**asdict(result.candidate), **statistics_of(result), **_raw(result)} for result in self.results],
            "ratios": [_ratio_dict(pair) for pair in self.ratios],
        }


def statistics_of(result: LatencyResult) -> dict[str, Any]:
    """Everything that follows from a result's samples, by the keys of the document."""
    verdict, frames = judge(result), result.frames
    return {
        "calls": result.calls,
        "min_ms": result.min_ms,
        "p50_ms": result.p50_ms,
        "p50_interval_ms": list(result.interval_ms) if result.interval_ms else None,
        "p90_ms": result.percentile_ms(90),
        "p99_ms": result.percentile_ms(99),
        "p99_9_ms": result.percentile_ms(99.9),
        "max_ms": result.max_ms,
        "mad_ms": result.mad_ms,
        "per_second": result.per_second,
        "load_ms": result.load_ms,
        "first_run_ms": result.first_run_ms,
        "cold_start_ms": result.cold_start_ms,
        "peak_rss_bytes": result.peak_rss_bytes,
        "steady_rss_bytes": result.steady_rss_bytes,
        "idle_cpu_percent": result.idle_cpu_percent,
        "minutes_ms": result.minutes_ms,
        "memory_trend": dict(zip(("bytes_per_hour", "doubt"), result.memory_trend, strict=True)) if result.memory_trend else None,
        "frames": dict(zip(("arrived", "late", "dropped"), frames, strict=True)) if frames else None,
        "verdict": {"is_stable": verdict.is_stable, "reasons": list(verdict.reasons)},
    }


def _raw(result: LatencyResult) -> dict[str, Any]:
    return {
        "state_before": asdict(result.state_before),
        "processes": [asdict(process) for process in result.processes],
        "blocks": [asdict(block) for block in result.blocks],
        "samples_ns": list(result.samples_ns),
        "operators": None if result.operators is None else [asdict(operator) for operator in result.operators],
    }


def _ratio_dict(pair: PairRatio) -> dict[str, Any]:
    ratio = pair.ratio
    return {
        "base": pair.base,
        "new": pair.new,
        "ratio": ratio.value,
        "interval": None if ratio.low is None else [ratio.low, ratio.high],
        "processes": ratio.processes,
        "verdict": ratio.verdict,
    }


def load_report(path: Path) -> Report:
    """The report in a file, after everything in it was checked against the raw samples.

    Raises:
        InputError: It is missing, cut short, of another schema, or was edited.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"a result of `lepton-edge benchmark --json` is needed, {str(path)!r} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{str(path)!r} must be a benchmark result, it has more than {MAX_BYTES // 2**20} MiB")
    try:
        values = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} must be a whole JSON document, it is not or was cut short: {error}; measure again") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise InputError(f"{str(path)!r} must be a result of `lepton-edge benchmark --json`, it is another document")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"this version of lepton-edge reads results of schema {SCHEMA_VERSION}, {str(path)!r} has {values.get('schema_version')!r}; "
            "update with: pip install --upgrade lepton-edge"
        )
    try:
        return _report(values)
    except InputError as error:
        raise InputError(f"{str(path)!r} must be as it was written: {error}; measure again") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _report(values: dict[str, Any]) -> Report:
    entries, ratios = values.get("results"), values.pop("ratios", None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("results must be a list of objects")
    known = {entry.name for entry in fields(Report)} | {"schema", "schema_version"}
    if unknown := sorted(set(values) - known):
        raise InputError(f"a report has {', '.join(sorted(known))}, found {', '.join(map(repr, unknown))}")
    head = {key: value for key, value in values.items() if key not in ("schema", "schema_version")}
    report = decode(Report, {**head, "results": [_regrouped(entry) for entry in entries]}, "the report")
    if not report.results:
        raise InputError("a report must hold at least one measured artifact, it holds none")
    for number, (result, entry) in enumerate(zip(report.results, entries, strict=True)):
        check_samples(result, report.settings, f"results[{number}]", is_partial=report.is_partial)
        computed = statistics_of(result)
        keys = {*computed, *(part.name for record in (Candidate, LatencyResult) for part in fields(record))} - {"candidate"}
        if set(entry) != keys:
            raise InputError(f"results[{number}] has other keys than it should: {', '.join(sorted(set(entry) ^ keys))}")
        for key in computed.keys() - _JUDGED:
            if not _is_same(computed[key], entry[key]):
                raise InputError(f"results[{number}].{key} must follow from the samples ({computed[key]!r}), found {entry[key]!r}")
    if not _is_same([_ratio_dict(pair) for pair in report.ratios], ratios):
        raise InputError("ratios must follow from the samples, they do not")
    return report


def _regrouped(entry: dict[str, Any]) -> dict[str, Any]:
    """A result of the document as its record has it: what is computed left out, the candidate's keys together."""
    names = {record: [part.name for part in fields(record)] for record in (Candidate, LatencyResult)}
    raw = {key: entry[key] for key in names[LatencyResult] if key in entry}
    return {**raw, "candidate": {key: entry[key] for key in names[Candidate] if key in entry}}


def check_samples(result: LatencyResult, settings: LatencySettings, name: str, *, is_partial: bool) -> None:
    """Raise if samples, blocks, processes and settings disagree.

    Raises:
        InputError: They do: something was edited.
    """
    blocks, samples = result.blocks, result.samples_ns
    if not blocks or not result.processes or sum(block.kept for block in blocks) != len(samples) or min(samples, default=0) <= 0:
        raise InputError(f"{name} must have the samples that its blocks tell of, found {len(samples)} samples in {len(blocks)} blocks")
    for number, (block, kept) in enumerate(zip(blocks, result.block_samples, strict=True)):
        is_whole = block.kept == block.calls
        fits = (
            0 < block.kept <= block.calls
            and min(block.measured_ns, block.wall_ns) > 0
            and block.min_ns <= kept.min()
            and block.max_ns >= kept.max()
        )
        if not fits or (is_whole and (block.total_ns, block.min_ns, block.max_ns) != (kept.sum(), kept.min(), kept.max())):
            raise InputError(f"{name}.blocks[{number}] must fit its samples, it does not")
        if (block.late is None or block.dropped is None) != (settings.fps is None):
            raise InputError(f"{name}.blocks[{number}] must count frames at a fixed rate and nowhere else")
    _check_ranges(result, name)
    numbers = [block.process for block in blocks]
    if sorted(set(numbers)) != list(range(len(result.processes))) or numbers != sorted(numbers):
        raise InputError(f"{name} must have blocks of each of its {len(result.processes)} processes, in order")
    if is_partial:
        return
    seconds = sum(block.measured_ns for block in blocks) / 1e9
    if settings.duration_seconds is not None:
        is_done = len(result.processes) == 1 and seconds >= settings.duration_seconds
    else:
        calls = result.calls + sum(block.dropped or 0 for block in blocks)
        is_done = len(result.processes) >= settings.processes and calls >= settings.runs and seconds >= settings.seconds - 1e-6
    if not is_done:
        raise InputError(f"{name} must hold what the settings ask for, found {result.calls} calls in {seconds:.3f} s")


def _check_ranges(result: LatencyResult, name: str) -> None:
    candidate = result.candidate
    counts = [value for process in result.processes for value in asdict(process).values() if type(value) is int]
    if min(counts) < 0 or any(process.idle_ns == 0 for process in result.processes):
        raise InputError(f"{name} must have processes with times and memory of 0 or more, found {min(counts)}")
    if min(candidate.threads, candidate.batch, candidate.size_bytes) < 1 or not 0 <= (candidate.accuracy or 0) <= 1:
        raise InputError(f"{name} must have a candidate that can be, found {candidate}")


def _is_same(wanted: Any, found: Any) -> bool:
    """Whether two JSON values are equal; numbers may differ in their last digits, as other versions of numpy do."""
    if isinstance(wanted, float) and type(found) in (int, float):
        return math.isclose(wanted, found, rel_tol=1e-9)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_is_same, wanted, found))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(_is_same(value, found[key]) for key, value in wanted.items())
    return bool(wanted == found)
