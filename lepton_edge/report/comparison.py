"""Faster, slower, or cannot tell: one run against another."""

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_edge.latency.pair import match_key
from lepton_edge.latency.result import LatencyResult
from lepton_edge.latency.statistics import Ratio, unpaired_ratio
from lepton_edge.latency.verdict import judge
from lepton_edge.report.document import Report
from lepton_runtime.errors import InputError


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


def compare_reports(base: Report, new: Report) -> Comparison:
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
        key = (*match_key(result), result.candidate.source_sha256 if has_sources else None)
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


def _warnings(base: Report, new: Report) -> list[str]:
    warnings = []
    old, now = base.device, new.device
    if (old.board, old.cpu, old.machine, old.cores) != (now.board, now.cpu, now.machine, now.cores):
        warnings.append(f"two machines are compared: {old} and {now}")
    names = [name for name in new.versions if name in base.versions and base.versions[name] != new.versions[name]]
    warnings += [f"{name} was {base.versions[name]} and is {new.versions[name]}" for name in names]
    warnings += [f"the {name} result is partial" for name, report in (("base", base), ("new", new)) if report.is_partial]
    return warnings


def _name(result: LatencyResult) -> str:
    file, engine, threads, batch = match_key(result)
    return f"{file} on {engine}, {threads} thread{'s' if threads > 1 else ''}" + (f", batch {batch}" if batch > 1 else "")


def _names(results: dict[tuple[object, ...], LatencyResult]) -> str:
    return "; ".join(map(_name, results.values())) or "nothing"
