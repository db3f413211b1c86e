"""Faster, slower, or cannot tell: candidates of one run side by side, and one run against another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.latency.result import LatencyResult
from lepton_edge.latency.statistics import Ratio, paired_ratio, unpaired_ratio
from lepton_edge.latency.verdict import judge
from lepton_runtime.errors import InputError

if TYPE_CHECKING:
    from lepton_edge.report.document import Report


@dataclass(frozen=True)
class PairRatio:
    """Two candidates that were measured in turns.

    Attributes:
        base: The number of one among the results.
        new: The number of the other.
        ratio: How many times as long ``new`` takes.
    """

    base: int
    new: int
    ratio: Ratio


def pair_ratios(results: Sequence[LatencyResult]) -> list[PairRatio]:
    """Each result against its twin in another bundle, or else against the first of the same batch."""
    pairs = []
    for number, new in enumerate(results):
        twin = next((other for other in range(number) if _key(results[other]) == _key(new)), None)
        first = next(other for other in range(number + 1) if results[other].candidate.batch == new.candidate.batch)
        base = twin if twin is not None else first
        if base == number:
            continue
        ours, theirs = new.process_medians_ms, results[base].process_medians_ms
        common = sorted(ours.keys() & theirs.keys())
        if common:
            ratio = paired_ratio([theirs[process] for process in common], [ours[process] for process in common])
            pairs.append(PairRatio(base, number, ratio))
    return pairs


def _key(result: LatencyResult) -> tuple[str, str, int, int]:
    candidate = result.candidate
    return candidate.file, candidate.engine, candidate.threads, candidate.batch


@dataclass(frozen=True)
class Change:
    """One candidate in two runs.

    Attributes:
        base: What it was.
        new: What it is.
        ratio: How many times as long it takes now.
        verdict: ``faster``, ``slower`` or ``cannot tell``.
        reason: Why it cannot be told, if another than that the intervals are too wide.
    """

    base: LatencyResult
    new: LatencyResult
    ratio: Ratio
    verdict: str
    reason: str | None

    def is_slower_than(self, limit: float) -> bool:
        """Whether it surely takes longer than ``1 + limit`` times the base."""
        return self.verdict == "slower" and self.ratio.low is not None and self.ratio.low > 1 + limit


@dataclass(frozen=True)
class Comparison:
    """One run against another.

    Attributes:
        changes: One a candidate that is in both.
        only_base: Names of candidates that the new run lacks.
        only_new: Names of candidates that the base lacks.
        warnings: What makes the comparison doubtful, in words.
    """

    changes: tuple[Change, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    warnings: tuple[str, ...]


def compare_reports(base: "Report", new: "Report") -> Comparison:
    """The candidates of two runs, matched by artifact, engine, threads and batch.

    Raises:
        InputError: The runs are of different models or scenarios, or have nothing in common.
    """
    if (base.settings.scenario, base.settings.fps) != (new.settings.scenario, new.settings.fps):
        raise InputError(
            f"both results must be of one scenario, found {base.settings.scenario} and {new.settings.scenario}"
            + (f" at {base.settings.fps:g} and {new.settings.fps:g} fps" if base.settings.fps and new.settings.fps else "")
        )
    sources = [{result.candidate.source_sha256 for result in report.results} for report in (base, new)]
    has_sources = None not in sources[0] | sources[1]
    if has_sources and not sources[0] & sources[1]:
        digests = [min(filter(None, source))[:12] for source in sources]
        raise InputError(
            f"both results must be of one model, found source models {digests[0]}… and {digests[1]}…; "
            "measure two models side by side: lepton-edge benchmark A B"
        )
    old, now = (_by_key(report.results, has_sources=has_sources) for report in (base, new))
    is_sustained = None not in (base.settings.duration_seconds, new.settings.duration_seconds)
    changes = tuple(_change(old[key], now[key], is_sustained=is_sustained) for key in now if key in old)
    if not changes:
        raise InputError(f"both results must hold the same artifacts, found {_names(old)} and {_names(now)}")
    warnings = _warnings(base, new)
    if not has_sources:
        warnings.append("a bundle was made from a model in memory: that both are of one model cannot be checked")
    missing = tuple(sorted(_name(old[key]) for key in old.keys() - now.keys()))
    added = tuple(sorted(_name(now[key]) for key in now.keys() - old.keys()))
    return Comparison(changes, missing, added, tuple(warnings))


def _by_key(results: Sequence[LatencyResult], *, has_sources: bool) -> dict[tuple[object, ...], LatencyResult]:
    """The results by what they are matched by: model, artifact, engine, threads, batch; twins are numbered."""
    found: dict[tuple[object, ...], LatencyResult] = {}
    for result in results:
        key = (*_key(result), result.candidate.source_sha256 if has_sources else None)
        found[*key, sum(other[:-1] == key for other in found)] = result
    return found


def _change(base: LatencyResult, new: LatencyResult, *, is_sustained: bool) -> Change:
    ratio = unpaired_ratio(list(base.process_medians_ms.values()), list(new.process_medians_ms.values()))
    verdicts = {"base": judge(base), "new": judge(new)}
    if faults := [f"{name} is {verdict}" for name, verdict in verdicts.items() if not verdict.is_stable]:
        return Change(base, new, ratio, "cannot tell", "; ".join(faults))
    if ratio.low is None:
        advice = "a sustained run is one process; measure both in one: benchmark A B"
        if not is_sustained:
            advice = f"too few processes to know ({ratio.processes}), measure with --processes 6"
        return Change(base, new, ratio, "cannot tell", advice)
    return Change(base, new, ratio, ratio.verdict, None)


def _warnings(base: "Report", new: "Report") -> list[str]:
    warnings = []
    old, now = base.device, new.device
    if (old.board, old.cpu, old.machine, old.cores) != (now.board, now.cpu, now.machine, now.cores):
        warnings.append(f"two machines are compared: {old} and {now}")
    names = [name for name in new.versions if name in base.versions and base.versions[name] != new.versions[name]]
    warnings += [f"{name} was {base.versions[name]} and is {new.versions[name]}" for name in names]
    warnings += [f"the {name} result is partial" for name, report in (("base", base), ("new", new)) if report.is_partial]
    return warnings


def _name(result: LatencyResult) -> str:
    file, engine, threads, batch = _key(result)
    return f"{file} on {engine}, {threads} thread{'s' if threads > 1 else ''}" + (f", batch {batch}" if batch > 1 else "")


def _names(results: dict[tuple[object, ...], LatencyResult]) -> str:
    return "; ".join(map(_name, results.values())) or "nothing"
