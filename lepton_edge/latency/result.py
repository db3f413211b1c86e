"""What was measured: processes, blocks of calls, raw samples. Statistics are computed from the samples, never stored alone."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from lepton_edge.device import DeviceState
from lepton_edge.latency.statistics import median_deviation, median_interval, percentile, trend
from lepton_runtime.bundle import Bundle
from lepton_runtime.engines import OperatorTime
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.tensors import Array

MINUTE_NS = 60 * 10**9
_FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Candidate:
    """What is measured: one artifact, on its engine, with so many threads and such a batch.

    Attributes:
        bundle: The bundle's path, as it was given.
        file: The artifact.
        engine: What runs it.
        precision: Of the artifact.
        threads: How many threads one call may use.
        batch: How many samples a call takes.
        size_bytes: Of the artifact's file.
        sha256: Of the artifact's file.
        source_sha256: Of the model that the bundle was made from; ``None`` for a model in memory.
        accuracy: Recorded on export, 0 to 1, or ``None``.
        spins: Whether threads wait actively for work while a call goes on; no matter with one thread.
    """

    bundle: str
    file: str
    engine: str
    precision: str
    threads: int
    batch: int
    size_bytes: int
    sha256: str
    source_sha256: str | None
    accuracy: float | None
    spins: bool = True


def candidate_of(bundle: Bundle, record: ArtifactRecord, *, engine: str, threads: int, spins: bool = True) -> Candidate:
    """One artifact of a bundle as it is to be measured."""
    return Candidate(
        bundle=str(bundle.path),
        file=record.file,
        engine=engine,
        precision=str(record.precision),
        threads=threads,
        batch=record.inputs[0].shape[0] or 0,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        source_sha256=bundle.manifest.source["sha256"],
        accuracy=record.accuracy,
        spins=spins,
    )


@dataclass(frozen=True)
class ProcessRecord:
    """One fresh process.

    Attributes:
        start_ns: From the moment it was asked for to its own first line of Python.
        import_ns: The runtime and what it needs.
        load_ns: From the bundle on disk to a session that is ready.
        first_run_ns: The first call.
        warmup_ns: Calls that do not count: until the latency settled, and after each pause. At most a few hundred.
        is_settled: Whether the latency settled before the warm-up's longest time was over.
        rss_bytes: Resident memory at the end; ``None`` where it cannot be read.
        peak_rss_bytes: Largest resident memory of the whole process.
        idle_cpu_ns: CPU time in ``idle_ns`` of doing nothing with an open session; ``None`` if it was not measured.
        idle_ns: How long that was.
    """

    start_ns: int
    import_ns: int
    load_ns: int
    first_run_ns: int
    warmup_ns: tuple[int, ...]
    is_settled: bool
    rss_bytes: int | None
    peak_rss_bytes: int | None
    idle_cpu_ns: int | None
    idle_ns: int | None

    @property
    def cold_start_ns(self) -> int:
        """From the process's start to its first answer."""
        return self.start_ns + self.import_ns + self.load_ns + self.first_run_ns


@dataclass(frozen=True)
class Block:
    """A stretch of calls in one process, and how the machine was doing right after it.

    Attributes:
        process: Which of the candidate's processes.
        started_ns: Since the start of the whole run.
        measured_ns: How long the block was.
        calls: How many calls there were; of long runs not every sample is kept.
        kept: How many of the result's samples are this block's, evenly spaced.
        total_ns: Of all calls.
        min_ns: The shortest call.
        max_ns: The longest.
        wall_ns: From the look at the machine's load before the block to the look after it.
        other_ns: CPU time that other programs took on all cores in between; ``None`` where it cannot be known.
        stolen_ns: Time that the hypervisor kept from all cores in between.
        rss_bytes: Resident memory after it.
        late: Frames that were answered after the next had arrived; ``None`` unless frames came at a fixed rate.
        dropped: Frames that were never looked at.
        state: How the machine was doing.
    """

    process: int
    started_ns: int
    measured_ns: int
    calls: int
    kept: int
    total_ns: int
    min_ns: int
    max_ns: int
    wall_ns: int
    other_ns: int | None
    stolen_ns: int | None
    rss_bytes: int | None
    late: int | None
    dropped: int | None
    state: DeviceState


@dataclass(frozen=True)
class LatencyResult:
    """What was measured of one candidate.

    Attributes:
        candidate: What it is.
        state_before: How the machine was doing before the run.
        processes: The fresh processes, in order.
        blocks: The stretches of calls, in the order of their processes and of time.
        samples_ns: The kept samples, block after block.
        operators: What each operator takes, if it was asked for and the engine tells.
    """

    candidate: Candidate
    state_before: DeviceState
    processes: tuple[ProcessRecord, ...]
    blocks: tuple[Block, ...]
    samples_ns: tuple[int, ...]
    operators: tuple[OperatorTime, ...] | None = None

    @cached_property
    def samples(self) -> Array:
        """All kept samples in nanoseconds, ``(samples,)`` float64."""
        return np.array(self.samples_ns, np.float64)

    @cached_property
    def block_samples(self) -> list[Array]:
        """The kept samples of each block."""
        ends = list(accumulate(block.kept for block in self.blocks))
        return np.split(self.samples, ends[:-1])

    def by_process(self) -> dict[int, list[Array]]:
        """The kept samples of each block, by the number of the process."""
        groups: dict[int, list[Array]] = {}
        for block, samples in zip(self.blocks, self.block_samples, strict=True):
            groups.setdefault(block.process, []).append(samples)
        return groups

    @cached_property
    def process_medians_ms(self) -> dict[int, float]:
        """The median of each process, by its number."""
        return {process: float(np.median(np.concatenate(parts))) / 1e6 for process, parts in self.by_process().items()}

    @property
    def calls(self) -> int:
        """All measured calls, kept or not."""
        return sum(block.calls for block in self.blocks)

    @property
    def min_ms(self) -> float:
        """The shortest call."""
        return min(block.min_ns for block in self.blocks) / 1e6

    @property
    def max_ms(self) -> float:
        """The longest call."""
        return max(block.max_ns for block in self.blocks) / 1e6

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that this share of the calls stays under or equals; ``None`` if there are too few to know it."""
        found = percentile(self.samples, percent)
        return None if found is None else found / 1e6

    @cached_property
    def p50_ms(self) -> float:
        """The median, known or not: with few samples its interval says how well."""
        return float(np.median(self.samples)) / 1e6

    @cached_property
    def interval_ms(self) -> tuple[float, float] | None:
        """An interval that holds the median at 95 % confidence; ``None`` with a single block."""
        found = median_interval(list(self.by_process().values()))
        return None if found is None else (found[0] / 1e6, found[1] / 1e6)

    @property
    def half_width(self) -> float | None:
        """How far the median's interval reaches to its wider side, as a share of the median."""
        if self.interval_ms is None:
            return None
        low, high = self.interval_ms
        return max(high - self.p50_ms, self.p50_ms - low) / self.p50_ms

    @property
    def mad_ms(self) -> float:
        """The median absolute deviation from the median."""
        return median_deviation(self.samples) / 1e6

    @property
    def per_second(self) -> float:
        """Samples a second: calls times the batch, over the time that they were measured in."""
        return self.calls * self.candidate.batch / (sum(block.measured_ns for block in self.blocks) / 1e9)

    @property
    def load_ms(self) -> float:
        """Median over the processes: from the bundle on disk to a session that is ready."""
        return float(np.median([process.load_ns for process in self.processes])) / 1e6

    @property
    def first_run_ms(self) -> float:
        """Median over the processes: the first call."""
        return float(np.median([process.first_run_ns for process in self.processes])) / 1e6

    @property
    def cold_start_ms(self) -> float:
        """Median over the processes: from a process's start to its first answer."""
        return float(np.median([process.cold_start_ns for process in self.processes])) / 1e6

    @property
    def peak_rss_bytes(self) -> int | None:
        """Largest resident memory of any of the processes."""
        return max((process.peak_rss_bytes for process in self.processes if process.peak_rss_bytes is not None), default=None)

    @property
    def steady_rss_bytes(self) -> int | None:
        """Median resident memory at the end of the processes."""
        found = [process.rss_bytes for process in self.processes if process.rss_bytes is not None]
        return int(np.median(found)) if found else None

    @property
    def idle_cpu_percent(self) -> float | None:
        """What an open session that does nothing costs, in percent of one core."""
        found = [
            100 * process.idle_cpu_ns / process.idle_ns
            for process in self.processes
            if process.idle_cpu_ns is not None and process.idle_ns is not None
        ]
        return float(np.median(found)) if found else None

    @cached_property
    def minutes_ms(self) -> list[float]:
        """The median of each minute of a run in one process; a last, cut one counts if it is half a minute long."""
        if len(self.processes) != 1:
            return []
        minutes: dict[int, list[Array]] = {}
        first = self.blocks[0].started_ns
        for block, samples in zip(self.blocks, self.block_samples, strict=True):
            minutes.setdefault((block.started_ns - first) // MINUTE_NS, []).append(samples)
        end = self.blocks[-1].started_ns + self.blocks[-1].measured_ns - first
        return [
            float(np.median(np.concatenate(parts))) / 1e6
            for minute, parts in sorted(minutes.items())
            if min(MINUTE_NS, end - minute * MINUTE_NS) >= MINUTE_NS // 2
        ]

    @cached_property
    def memory_trend(self) -> tuple[float, float] | None:
        """Growth of the resident memory in bytes an hour, and how likely so clear a trend is by chance.

        Over the second half of a run in one process: before that, an allocator takes what it needs once. ``None`` for
        short runs, for several processes, and where memory cannot be read.
        """
        known = [(block.started_ns / 3.6e12, block.rss_bytes) for block in self.blocks if block.rss_bytes is not None]
        later = known[len(known) // 2 :]
        if len(self.processes) != 1 or len(later) < _FEWEST_BLOCKS:
            return None
        hours, memory = np.array(later, np.float64).T
        change, doubt = trend(hours, memory)
        return float(change / (hours[-1] - hours[0])), doubt

    @property
    def frames(self) -> tuple[int, int, int] | None:
        """Frames that arrived, were late and were dropped, at a fixed rate; else ``None``."""
        if any(block.late is None or block.dropped is None for block in self.blocks):
            return None
        late, dropped = sum(block.late or 0 for block in self.blocks), sum(block.dropped or 0 for block in self.blocks)
        return self.calls + dropped, late, dropped
