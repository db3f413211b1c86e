"""The fastest variant of a bundle on this machine: every candidate is tried, the slow ones drop out, the others are measured in turns."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import exp, log, sqrt
from time import monotonic, monotonic_ns

import numpy as np

from lepton_edge.device import DeviceReader
from lepton_edge.latency.process import MeasuredProcess
from lepton_edge.latency.result import Candidate
from lepton_edge.latency.statistics import student_quantile
from lepton_edge.latency.verdict import load_text
from lepton_runtime.errors import LeptonError
from lepton_runtime.golden import golden_fault

WITHIN = 0.02  # what is found is to be as near as this to the fastest that there is
_TIE = 0.01  # variants that were measured as near as this to the fastest are as good
CONFIDENCE = 0.95
_TRIAL_SECONDS = 0.1
_HOPELESS = 1.5  # times the fastest: not even a lucky trial is so far off
_ABANDONED = 20.0  # times the fastest, and a second: more than what makes a first answer later than others
_SURE = 0.99  # that one is slower, before it drops out
_MOST_FINALISTS = 8
_ROUNDS = 4  # there and back, in each set of processes
_BLOCK_SECONDS = 0.06
_FEWEST_STAGES = 3
_MOST_STAGES = 12
_FINAL_SECONDS = 35.0
_MEMORY_SHARE = 0.8  # of what is available
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10**6): pass"


@dataclass(frozen=True)
class Tried:
    """One candidate.

    Attributes:
        candidate: What was measured.
        p50_ms: Its median, over all processes; ``None`` if it was not measured.
        ratio: How many times as long as the fastest it takes; ``None`` likewise.
        processes: How many fresh processes it was measured in.
        rss_bytes: Resident memory of one; ``None`` where it cannot be read.
        remark: Why it was not measured, or not measured on, in words.
    """

    candidate: Candidate
    p50_ms: float | None
    ratio: float | None
    processes: int
    rss_bytes: int | None
    remark: str


@dataclass(frozen=True)
class Tuning:
    """What was found.

    Attributes:
        best: What to open.
        confidence: How surely none of those that took turns is more than 2 % faster, 0 to 1.
        tried: Every candidate, the fastest first.
        seconds: How long it took.
        load: What else took the machine's cores meanwhile, in words; ``None`` if nothing did, or where it is not told.
    """

    best: Tried
    confidence: float
    tried: tuple[Tried, ...]
    seconds: float
    load: str | None


@dataclass
class _Entry:
    """What is known of a candidate so far; each logarithm of nanoseconds is of one fresh process."""

    candidate: Candidate
    trial_ns: float | None = None
    logs: list[float] = field(default_factory=list)
    rss_bytes: int | None = None
    remark: str = ""

    @property
    def level(self) -> float:
        """The mean of its logarithms."""
        return float(np.mean(self.logs))


def tune(
    candidates: Sequence[Candidate],
    *,
    under_load: bool = False,
    final_seconds: float = _FINAL_SECONDS,
    on_progress: Callable[[float, str], None] = lambda done, text: None,
) -> Tuning:
    """The fastest of the candidates; of those within 1 % of it, the one with the fewest threads and the least memory.

    Each is tried once, with one thread first: more threads are not tried where not even sharing the work evenly could win. Those
    near the fastest are measured in turns, in fresh processes, again and again; who is surely slower drops out, until it is
    known with 95 % confidence which is the fastest, or that the others are as good.

    Args:
        candidates: What may be opened.
        under_load: Keep one core busy meanwhile, as an app beside the model would.
        final_seconds: When to stop all the same.
        on_progress: Told the share that is done, and what is measured.

    Raises:
        LeptonError: None of them can be measured.
    """
    started, clock = monotonic(), _LoadClock()
    entries = [_Entry(candidate) for candidate in candidates]
    with ExitStack() as stack:
        if under_load:
            stack.enter_context(_BusyCore())
        _try_all(entries, on_progress)
        left, out = _measure_in_turns(_near_fastest(entries), final_seconds, on_progress)
    fastest = min(left, key=lambda entry: entry.level)
    as_good = [entry for entry in left if entry.level - fastest.level <= log(1 + _TIE)]
    best = min(as_good, key=_preference)
    tried = sorted((_tried(entry, fastest) for entry in entries), key=lambda one: one.p50_ms or float("inf"))
    return Tuning(_tried(best, fastest), _confidence(best, [*left, *out]), tuple(tried), monotonic() - started, clock.text())


def _preference(entry: _Entry) -> tuple[int, bool, float, float]:
    """Of variants that are as fast: fewer threads, which sleep, with less memory, in steps that chance does not make."""
    memory = round((entry.rss_bytes or 0) / 2**20 / 4)
    return entry.candidate.threads, entry.candidate.spins and entry.candidate.threads > 1, memory, entry.level


def _tried(entry: _Entry, fastest: _Entry) -> Tried:
    p50 = exp(entry.level) if entry.logs else entry.trial_ns
    ratio = p50 / exp(fastest.level) if p50 else None
    return Tried(entry.candidate, p50 and p50 / 1e6, ratio, len(entry.logs) or int(bool(p50)), entry.rss_bytes, entry.remark)


def _try_all(entries: Sequence[_Entry], on_progress: Callable[[float, str], None]) -> None:
    """One short look at each, in a fresh process; with one thread first. Who is wrong, or fails with one, is not tried with more."""
    order = sorted(entries, key=lambda entry: entry.candidate.threads)
    alone: dict[tuple[str, str], float] = {}
    failed: dict[tuple[str, str], str] = {}
    fastest_ns = float("inf")
    for number, entry in enumerate(order):
        candidate = entry.candidate
        variant = candidate.file, candidate.engine
        on_progress(0.4 * number / len(order), f"trying {_name(candidate)}")
        if variant in failed:
            entry.remark = failed[variant]
            continue
        single_ns = alone.get(variant)
        if candidate.threads > 1 and single_ns is not None and single_ns / candidate.threads > _HOPELESS * fastest_ns:
            entry.remark = "not tried: too slow with one thread"
            continue
        try:
            with ExitStack() as stack:
                worker = MeasuredProcess(candidate, stack)
                if worker.first_run_ns > max(_ABANDONED * fastest_ns, 1e9):
                    entry.remark = failed[variant] = f"dropped out after its first answer, which took {worker.first_run_ns / 1e9:.1f} s"
                    continue
                trial_ns = _median_ns(worker, _TRIAL_SECONDS, warm_seconds=_TRIAL_SECONDS)
                entry.rss_bytes = worker.ask("end")["rss_bytes"]
                fault = _golden_fault(worker)
        except LeptonError as error:
            entry.remark = f"failed: {error}"
            if candidate.threads == 1:
                failed[variant] = entry.remark
            continue
        if fault:
            entry.remark = failed[variant] = f"failed: {fault}"
            continue
        entry.trial_ns = trial_ns
        fastest_ns = min(fastest_ns, entry.trial_ns)
        if candidate.threads == 1:
            alone[variant] = entry.trial_ns
    if fastest_ns == float("inf"):
        raise LeptonError(f"at least one candidate must run, none did: {'; '.join(entry.remark for entry in entries)}")


def _golden_fault(worker: MeasuredProcess) -> str:
    """Why a process does not give the golden answers, empty if it does: in one of its own, since engines have been seen to crash."""
    return golden_fault(**worker.ask("golden"))


def _near_fastest(entries: Sequence[_Entry]) -> list[_Entry]:
    """Those that may be the fastest, by one look at each, as many as memory holds at once."""
    measured = sorted((entry for entry in entries if entry.trial_ns), key=lambda entry: entry.trial_ns or 0.0)
    limit = _HOPELESS * (measured[0].trial_ns or 0.0)
    room = (DeviceReader().state().memory_available_bytes or sys.maxsize) * _MEMORY_SHARE
    near: list[_Entry] = []
    for entry in measured:
        room -= entry.rss_bytes or 0
        if (entry.trial_ns or 0.0) <= limit and len(near) < _MOST_FINALISTS and (room > 0 or not near):
            near.append(entry)
        else:
            is_near = (entry.trial_ns or 0.0) <= limit
            entry.remark = "left out: no room for as many" if is_near else "dropped out after one trial"
    return near


def _measure_in_turns(
    entries: list[_Entry], seconds: float, on_progress: Callable[[float, str], None]
) -> tuple[list[_Entry], list[_Entry]]:
    """Those that may still be the fastest, once it is known which is, or the time is over; and those that dropped out."""
    started, left = monotonic(), list(entries)
    out: list[_Entry] = []
    for stage in range(1, _MOST_STAGES + 1):
        on_progress(0.4 + 0.6 * min(1.0, (monotonic() - started) / seconds), f"{len(left)} in turns, for the {stage}. time")
        _one_stage(left, until=started + seconds)
        left = [entry for entry in left if len(entry.logs) == stage]
        if not left:
            raise LeptonError(f"at least one candidate must run to the end, none did: {'; '.join(entry.remark for entry in entries)}")
        is_over = monotonic() - started > seconds
        fastest = min(left, key=lambda entry: entry.level)
        for entry in [entry for entry in left if entry is not fastest]:
            if stage >= _FEWEST_STAGES and _difference(fastest, entry, confidence=_SURE)[0] > 0:
                entry.remark = f"dropped out after {stage} processes"
                left.remove(entry)
                out.append(entry)
        is_known = (stage >= _FEWEST_STAGES or len(entries) == 1) and _confidence(fastest, [*left, *out]) >= CONFIDENCE
        if is_known or is_over:
            break
    return left, out


def _one_stage(entries: Sequence[_Entry], *, until: float) -> None:
    """A fresh process of each, in turns there and back; one that ends early is left with a remark and without a logarithm."""
    with ExitStack() as stack:
        runners = [_Runner(entry, stack) for entry in entries]
        for turn in range(_ROUNDS):
            for runner in (*runners, *reversed(runners)):
                runner.measure()
            if turn and monotonic() > until:
                break
        for runner in runners:
            if runner.worker is not None:
                runner.entry.logs.append(log(float(np.median(runner.medians))))


class _Runner:
    """One process of a candidate, its block's medians, and no process any more once it has failed."""

    def __init__(self, entry: _Entry, stack: ExitStack) -> None:
        self.entry = entry
        self.medians: list[float] = []
        self.worker: MeasuredProcess | None = None
        try:
            self.worker = MeasuredProcess(entry.candidate, stack)
            _median_ns(self.worker, _BLOCK_SECONDS, warm_seconds=_TRIAL_SECONDS)
        except LeptonError as error:
            self._fail(error)

    def measure(self) -> None:
        """One block."""
        if self.worker is not None:
            try:
                self.medians.append(_median_ns(self.worker, _BLOCK_SECONDS))
            except LeptonError as error:
                self._fail(error)

    def _fail(self, error: LeptonError) -> None:
        self.worker, self.entry.remark = None, f"failed: {error}"


def _median_ns(worker: MeasuredProcess, seconds: float, *, warm_seconds: float = 0.0) -> float:
    """The median of one block of calls, after some that do not count."""
    if warm_seconds:
        worker.ask("block", calls=2, seconds=warm_seconds, limit_seconds=warm_seconds, keep=100)
    return float(np.median(worker.ask("block", calls=3, seconds=seconds, limit_seconds=seconds, keep=2000)["samples_ns"]))


def _difference(fastest: _Entry, other: _Entry, *, confidence: float) -> tuple[float, float]:
    """How much slower another is, in logarithms: an interval, pair by pair of processes that took turns."""
    pairs = np.array(other.logs) - np.array(fastest.logs[: len(other.logs)])
    if len(pairs) < 2:
        return float("-inf"), float("inf")
    half = student_quantile((1 + confidence) / 2, len(pairs) - 1) * float(pairs.std(ddof=1)) / sqrt(len(pairs))
    return float(pairs.mean()) - half, float(pairs.mean()) + half


def _confidence(chosen: _Entry, measured: Sequence[_Entry]) -> float:
    """How surely none of those that took turns is more than 2 % faster than the chosen one; the doubts of all of them are added up."""
    doubt = 0.0
    for entry in measured:
        if entry is chosen:
            continue
        # The largest confidence at which the interval's lower end stays above "2 % faster".
        sure = [level for level in (0.999, 0.998, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5, 0.0) if _at_least(chosen, entry, level)]
        doubt += (1 - sure[0]) / 2 if sure else 1.0
    return max(0.0, 1 - doubt)


def _at_least(chosen: _Entry, other: _Entry, confidence: float) -> bool:
    return _difference(chosen, other, confidence=confidence)[0] > -log(1 + WITHIN)


def _name(candidate: Candidate) -> str:
    threads = f"{candidate.threads} thread{'s' if candidate.threads > 1 else ''}"
    asleep = "" if candidate.spins or candidate.threads == 1 else " that sleep"
    return f"{candidate.file} on {candidate.engine}, {threads}{asleep}"


class _LoadClock:
    """What other programs and the hypervisor take of the cores from now on; those that we start are none of them once they ended."""

    def __init__(self) -> None:
        self._reader = DeviceReader()
        self._started_ns, self._before = monotonic_ns(), self._times()

    def text(self) -> str | None:
        """See :func:`lepton_edge.latency.verdict.load_text`."""
        other_ns, stolen_ns = (
            None if start is None or end is None else end - start for start, end in zip(self._before, self._times(), strict=True)
        )
        return None if other_ns is None else load_text(monotonic_ns() - self._started_ns, other_ns, stolen_ns or 0)

    def _times(self) -> tuple[int | None, int | None]:
        busy_ns, stolen_ns = self._reader.cpu_times()
        ours = os.times()
        ours_ns = round(1e9 * (ours.user + ours.system + ours.children_user + ours.children_system))
        return None if busy_ns is None else busy_ns - ours_ns, stolen_ns


class _BusyCore:
    """A process that keeps one core busy, ended whatever happens; it ends by itself if we are killed."""

    def __enter__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-S", "-c", _BUSY, str(os.getpid())], start_new_session=True)

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
