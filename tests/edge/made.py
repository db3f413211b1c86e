"""Results made of chosen samples and states, for tests that must cause a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lepton_edge.device import Device, DeviceState
from lepton_edge.latency.result import Block, Candidate, LatencyResult, ProcessRecord
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.report.document import Report

QUIET = DeviceState((1800.0, 1500.0), "ondemand", 50.0, (), ("throttled",), 0.1, 2**30, None, 0, 0)
CANDIDATE = Candidate("cats.bundle", "model.fp32.onnx", "onnxruntime", "fp32", 1, 1, 1000, "0" * 64, "1" * 64, 0.75)
DEVICE = Device("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72", "aarch64", 4, ("asimd",), 2**32, "Linux 6.12", "3.11.2")
SECOND = 10**9


def noise(count: int, *, median_ms: float = 2.0, seed: int = 0) -> np.ndarray:
    """Latencies as they are: a sharp lower edge and a tail, in nanoseconds."""
    generator = np.random.default_rng(seed)
    return (median_ms * 1e6 * (0.993 + 0.01 * generator.gamma(1.0, 1.0, count))).astype(np.int64)


def made_block(samples: Sequence[int], *, process: int, started_ns: int, state: DeviceState = QUIET, **changes: object) -> Block:
    """A block whose figures fit its samples."""
    values = [int(sample) for sample in samples]
    block = Block(
        process=process,
        started_ns=started_ns,
        measured_ns=sum(values),
        calls=len(values),
        kept=len(values),
        total_ns=sum(values),
        min_ns=min(values),
        max_ns=max(values),
        wall_ns=sum(values),
        other_ns=0,
        stolen_ns=0,
        rss_bytes=50_000_000,
        late=None,
        dropped=None,
        state=state,
    )
    return replace(block, **changes)


def made_result(
    *,
    processes: int = 6,
    blocks: int = 4,
    calls: int = 60,
    samples: Callable[[int, int], np.ndarray] | None = None,
    state: Callable[[int, int], DeviceState] = lambda process, block: QUIET,
    candidate: Candidate = CANDIDATE,
    gap_ns: int = SECOND,
    **changes: object,
) -> LatencyResult:
    """A result whose samples and states are functions of the process and the block."""
    samples = samples or (lambda process, block: noise(calls, seed=100 * process + block))
    made, kept, now = [], [], 0
    for process in range(processes):
        for number in range(blocks):
            values = samples(process, number)
            made.append(made_block(values, process=process, started_ns=now, state=state(process, number), **changes))
            kept += [int(value) for value in values]
            now += made[-1].measured_ns + gap_ns
    record = ProcessRecord(10**8, 2 * 10**8, 3 * 10**7, 10**7, (3 * 10**6,), True, 50_000_000, 60_000_000, 10**6, SECOND)
    return LatencyResult(candidate, QUIET, (record,) * processes, tuple(made), tuple(kept))


def made_report(*results: LatencyResult, **changes: object) -> Report:
    """A report of results; by default of one."""
    settings = LatencySettings(seconds=0.5)
    report = Report(
        created="2026-11-24T06:00:00Z",
        command="lepton-edge benchmark cats.bundle",
        device=DEVICE,
        versions={"onnxruntime": "1.32.0"},
        settings=settings,
        results=results or (made_result(),),
        notes=(),
        is_partial=False,
    )
    return replace(report, **changes)
