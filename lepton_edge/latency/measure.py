"""Takes turns between candidates, each in a fresh process of its own, and looks at the machine between the turns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns, time_ns
from typing import Any

import numpy as np

from lepton_edge.device import DeviceReader, DeviceState
from lepton_edge.latency.process import IDLE_SECONDS, MeasuredProcess, own_cpu_ns
from lepton_edge.latency.result import Block, Candidate, LatencyResult, ProcessRecord
from lepton_edge.latency.settings import LatencySettings
from lepton_runtime.engines import OperatorTime
from lepton_runtime.errors import LeptonError
from lepton_runtime.tensors import Array

_KEPT_PER_BLOCK = 20_000
_KEPT_OF_SUSTAINED = 200_000
_KEPT_PER_SECOND = (2, 5_000)  # at least and at most, of a sustained run
_WATCHED_TURNS = 20
_WARMUP_BLOCK_SECONDS = 0.1
_SETTLED = 0.02  # of the median
_CLOCK_STEP_NS = 500_000_000
_MEMORY_LEFT = 0.1  # of what was available before


@dataclass(frozen=True)
class Measurement:
    """What a run of measurements found.

    Attributes:
        results: One a candidate, in their order; those without a single sample are left out.
        notes: What the reader should know, in words.
        is_partial: Whether it was stopped before it was done.
        failure: What stopped it, if it was not Ctrl-C.
    """

    results: tuple[LatencyResult, ...]
    notes: tuple[str, ...]
    is_partial: bool
    failure: LeptonError | None = None


@dataclass
class _Record:
    """What has been collected of one candidate so far."""

    candidate: Candidate
    processes: list[ProcessRecord] = field(default_factory=list)
    turns: list[tuple[Block, Array]] = field(default_factory=list)
    operators: tuple[OperatorTime, ...] | None = None

    def result(self, state_before: DeviceState) -> LatencyResult | None:
        """What there is of whole processes; an interrupt may have come before one could be described."""
        turns = [(block, samples) for block, samples in self.turns if block.process < len(self.processes)]
        if not turns:
            return None
        samples_ns = tuple(sample for _, samples in turns for sample in samples.tolist())
        blocks = tuple(block for block, _ in turns)
        return LatencyResult(self.candidate, state_before, tuple(self.processes), blocks, samples_ns, self.operators)

    def running_median_ms(self) -> float:
        """Of the last turns, for whoever watches."""
        return float(np.median(np.concatenate([samples for _, samples in self.turns[-_WATCHED_TURNS:]]))) / 1e6

    def done(self, process: int, settings: LatencySettings) -> float:
        """How much of its share in this process is measured, 0 to 1."""
        blocks = [block for block, _ in self.turns if block.process == process]
        measured = sum(block.measured_ns for block in blocks) / 1e9
        if settings.duration_seconds is not None:
            return min(1.0, measured / settings.duration_seconds)
        calls = sum(block.calls + (block.dropped or 0) for block in blocks)
        shares = (calls / -(-settings.runs // settings.processes), measured * settings.processes / (settings.seconds or 1e-9))
        return min(1.0, *shares) if blocks else 0.0


def measure(
    candidates: Sequence[Candidate],
    settings: LatencySettings,
    *,
    reader: DeviceReader | None = None,
    with_operators: bool = False,
    on_progress: Callable[[float, str], None] = lambda done, text: None,
) -> Measurement:
    """Latency of each candidate, measured in turns (A B B A) in fresh processes.

    What changes while a run goes on, such as the clock or other load, so hits all candidates alike. A sustained
    run takes the candidates one after another instead. Ctrl-C ends it; what was measured comes back, marked.

    Args:
        candidates: What is measured.
        settings: How much, and how.
        reader: Of the machine; by default of this one.
        with_operators: Also ask each engine what its operators take.
        on_progress: Told the share that is done, and the running median, between the turns.

    Raises:
        LeptonError: A process ended early, before there was anything to keep; the text says how.
        UnstableError: The clock went back, likewise.
    """
    run = _Run([_Record(candidate) for candidate in candidates], settings, reader or DeviceReader(), on_progress)
    is_partial, failure = False, None
    try:
        run.measure(with_operators=with_operators)
    except KeyboardInterrupt:
        is_partial = True
    except LeptonError as error:
        is_partial, failure = True, error
        run.notes.append(str(error))
    results = tuple(filter(None, (record.result(run.state_before) for record in run.records)))
    if failure is not None and not results:
        raise failure
    return Measurement(results, (*run.notes, *run.reader.notes), is_partial, failure)


class _Run:
    """One run of measurements; it holds what the turns have in common."""

    def __init__(
        self, records: list[_Record], settings: LatencySettings, reader: DeviceReader, on_progress: Callable[[float, str], None]
    ) -> None:
        self.records = records
        self.settings = settings
        self.reader = reader
        self.state_before = reader.state()
        self.notes: list[str] = []
        self._on_progress = on_progress
        self._started_ns = perf_counter_ns()
        self._wall_offset_ns = time_ns() - perf_counter_ns()
        self._process = 0

    def measure(self, *, with_operators: bool) -> None:
        """All processes of all candidates."""
        settings = self.settings
        if settings.duration_seconds is not None:
            for position, record in enumerate(self.records):
                self._measure_processes([record], finished=position, total=len(self.records))
        else:
            while self._process < settings.processes or (self._process < settings.max_processes and not self._is_narrow()):
                order = self.records if self._process % 2 == 0 else self.records[::-1]
                self._measure_processes(order, finished=self._process, total=max(settings.processes, self._process + 1))
                self._process += 1
        if with_operators:
            self._profile()

    def _is_narrow(self) -> bool:
        """Whether every median is known as well as was asked for."""
        if self.settings.interval is None:
            return True
        results = filter(None, (record.result(self.state_before) for record in self.records))
        return all(result.half_width is not None and result.half_width <= self.settings.interval for result in results)

    def _measure_processes(self, records: Sequence[_Record], *, finished: int, total: int) -> None:
        """One process of each candidate, in turns there and back."""
        with self._workers(records) as workers:
            for worker in workers:
                self._warm_up(worker)
            pairs = list(zip(records, workers, strict=True))
            while self._done(records) < 1:
                for record, worker in (*pairs, *pairs[::-1]):
                    if record.done(self._process, self.settings) < 1:
                        self._take_turn(record, worker)
                        text = f"{record.candidate.file} p50 {record.running_median_ms():.3f} ms"
                        self._on_progress(min(1.0, (finished + self._done(records)) / total), text)
            if finished + 1 == total or self.settings.duration_seconds is not None:
                self._measure_idle(workers)

    def _profile(self) -> None:
        """What operators take, in processes of their own: a profiler costs time and memory."""
        for record in self.records:
            with ExitStack() as stack:
                found = MeasuredProcess(record.candidate, stack).ask("profile")["operators"]
            if found is None:
                self.notes.append(f"the operators of {record.candidate.file} are not known: its engine does not tell")
            else:
                record.operators = tuple(OperatorTime(**operator) for operator in found)

    def _done(self, records: Sequence[_Record]) -> float:
        return sum(record.done(self._process, self.settings) for record in records) / len(records)

    @contextmanager
    def _workers(self, records: Sequence[_Record]) -> Iterator[list[MeasuredProcess]]:
        """A process of each candidate, started one after the other, and ended whatever happens."""
        before = self.reader.state().memory_available_bytes
        with ExitStack() as stack:
            workers: list[MeasuredProcess] = []
            for record in records:
                workers.append(MeasuredProcess(record.candidate, stack))
                now = self.reader.state().memory_available_bytes
                if before and now and now < _MEMORY_LEFT * before:
                    raise LeptonError(
                        f"memory must hold a process of every candidate at once, {len(workers)} of {len(records)} left "
                        f"{now / 2**20:.0f} MiB; measure fewer at a time, for example with --precision"
                    )
            try:
                yield workers
            except (KeyboardInterrupt, LeptonError):
                for record, worker in zip(records, workers, strict=False):
                    if record.turns and record.turns[-1][0].process == self._process:
                        record.processes.append(worker.record(is_busy=True))
                raise
            for record, worker in zip(records, workers, strict=True):
                record.processes.append(worker.record(is_busy=False))

    def _warm_up(self, worker: MeasuredProcess) -> None:
        """Calls that do not count, until two windows in a row agree."""
        settings = self.settings
        windows: list[Any] = []
        calls, spent_ns = 0, 0
        while True:
            answer = worker.ask("block", calls=5, seconds=_WARMUP_BLOCK_SECONDS, limit_seconds=_WARMUP_BLOCK_SECONDS, keep=1000)
            worker.warmup_ns += answer["lead_ns"] + answer["samples_ns"]
            windows.append(np.array(answer["samples_ns"], np.float64))
            calls += answer["calls"]
            spent_ns += answer["measured_ns"] + sum(answer["lead_ns"])
            is_long_enough = calls >= settings.warmup_runs and spent_ns >= settings.warmup_seconds * 1e9
            worker.is_settled = len(windows) > 1 and agree(windows[-2], windows[-1])
            if is_long_enough and (worker.is_settled or spent_ns >= settings.warmup_max_seconds * 1e9):
                return

    def _take_turn(self, record: _Record, worker: MeasuredProcess) -> None:
        """One block of one candidate, and a look at the machine after it."""
        settings = self.settings
        before, before_ns = self._cpu_times(worker), perf_counter_ns()
        keep = _KEPT_PER_BLOCK
        if settings.duration_seconds is not None:
            keep = int(np.clip(_KEPT_OF_SUSTAINED / settings.duration_seconds, *_KEPT_PER_SECOND))
        if settings.fps is not None:
            seconds = max(1.0, 2 / settings.fps)
            answer = worker.ask("frames", fps=settings.fps, frames=max(1, round(seconds * settings.fps)), keep=keep)
        elif settings.duration_seconds is not None:
            answer = worker.ask("block", calls=1, seconds=1.0, limit_seconds=1.0, keep=keep)
        else:
            mine = [block for block, _ in record.turns if block.process == self._process]
            calls = -(-settings.runs // settings.processes) - sum(block.calls for block in mine)
            share = settings.seconds / settings.processes
            seconds = share - sum(block.measured_ns for block in mine) / 1e9
            # At least two turns, there and back.
            limit = min(settings.block_seconds, share / 2 or settings.block_seconds)
            limits = {"calls": max(1, calls), "seconds": max(0.0, seconds), "limit_seconds": limit}
            answer = worker.ask("block", **limits, keep=keep)
        # Before anything else: asking a Raspberry Pi's firmware is load, too.
        after, wall_ns = self._cpu_times(worker), perf_counter_ns() - before_ns
        worker.warmup_ns += answer["lead_ns"]
        self._notice_clock_step()
        # One step, so that an interrupt finds both or none.
        record.turns.append((self._block(answer, before, after, wall_ns=wall_ns), np.array(answer["samples_ns"], np.int64)))

    def _cpu_times(self, worker: MeasuredProcess) -> tuple[int | None, int | None]:
        """CPU time of other programs, and time that the hypervisor took, so far."""
        busy_ns, stolen_ns = self.reader.cpu_times()
        ours_ns = (worker.cpu_ns(), own_cpu_ns())
        return None if busy_ns is None or None in ours_ns else busy_ns - sum(filter(None, ours_ns)), stolen_ns

    def _block(
        self, answer: dict[str, Any], before: tuple[int | None, int | None], after: tuple[int | None, int | None], *, wall_ns: int
    ) -> Block:
        other_ns, stolen_ns = (None if start is None or end is None else end - start for start, end in zip(before, after, strict=True))
        return Block(
            process=self._process,
            started_ns=answer["started_ns"] - self._started_ns,
            measured_ns=answer["measured_ns"],
            calls=answer["calls"],
            kept=len(answer["samples_ns"]),
            total_ns=answer["total_ns"],
            min_ns=answer["min_ns"],
            max_ns=answer["max_ns"],
            wall_ns=wall_ns,
            other_ns=other_ns,
            stolen_ns=stolen_ns,
            rss_bytes=answer["rss_bytes"],
            late=answer.get("late"),
            dropped=answer.get("dropped"),
            state=self.reader.state(),
        )

    def _notice_clock_step(self) -> None:
        """Say so if somebody set the time of day; latencies come from a clock that nobody sets."""
        offset_ns = time_ns() - perf_counter_ns()
        step_ns = offset_ns - self._wall_offset_ns
        self._wall_offset_ns = offset_ns
        if abs(step_ns) > _CLOCK_STEP_NS:
            self.notes.append(f"the time of day was set by {step_ns / 1e9:+.1f} s during the run; latencies are not affected")

    def _measure_idle(self, workers: Sequence[MeasuredProcess]) -> None:
        """What open sessions cost while nobody calls them, all at the same time."""
        for worker in workers:
            worker.send("idle", seconds=IDLE_SECONDS)
        for worker in workers:
            worker.idle_cpu_ns = worker.read()["cpu_ns"]


def agree(first: Any, second: Any) -> bool:
    """Whether two windows of samples have the same median, within 2 % or what their own noise explains.

    Source: the standard error of a median is 1.2533 of a mean's, and 1.4826 MAD estimate a standard deviation.
    """
    medians = [float(np.median(window)) for window in (first, second)]
    errors = [
        1.2533 * 1.4826 * float(np.median(np.abs(window - median))) / len(window) ** 0.5
        for window, median in zip((first, second), medians, strict=True)
    ]
    return abs(medians[1] - medians[0]) <= max(_SETTLED * medians[0], 3 * float(np.hypot(*errors)))
