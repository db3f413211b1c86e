"""How long one call takes: each candidate in a process of its own, warmed up, raw samples kept."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from lepton_runtime.bundle import Bundle
from lepton_runtime.engines import engine_of
from lepton_runtime.errors import LeptonError
from lepton_runtime.golden import Golden
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.session import Session


@dataclass(frozen=True)
class LatencySettings:
    """How much is measured.

    Attributes:
        warmup_runs: Calls before the measurement, at least.
        warmup_seconds: And how long they take, at least.
        runs: Measured calls, at least.
        seconds: And how long they take, at least.
    """

    warmup_runs: int = 10
    warmup_seconds: float = 0.5
    runs: int = 200
    seconds: float = 2.0


@dataclass(frozen=True)
class LatencyResult:
    """What was measured of one candidate.

    Attributes:
        file: The artifact.
        engine: What ran it.
        precision: Of the artifact.
        threads: How many threads one call could use.
        load_ns: From the bundle on disk to a session that is ready.
        first_run_ns: The first call.
        peak_rss_bytes: Largest resident memory of the whole process; ``None`` where it cannot be read.
        samples_ns: Each measured call, in order.
    """

    file: str
    engine: str
    precision: str
    threads: int
    load_ns: int
    first_run_ns: int
    peak_rss_bytes: int | None
    samples_ns: tuple[int, ...]

    def percentile_ms(self, percent: float) -> float:
        """The latency that this share of the calls stays under or equals."""
        return float(np.percentile(self.samples_ns, percent)) / 1e6

    @property
    def per_second(self) -> float:
        """Calls a second, one after the other."""
        return len(self.samples_ns) / (sum(self.samples_ns) / 1e9)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, with the statistics that follow from the samples."""
        values = asdict(self)
        load_ns, first_run_ns = values.pop("load_ns"), values.pop("first_run_ns")
        samples = values.pop("samples_ns")
        return {
            **values,
            "p50_ms": self.percentile_ms(50),
            "p90_ms": self.percentile_ms(90),
            "p99_ms": self.percentile_ms(99),
            "per_second": self.per_second,
            "load_ms": load_ns / 1e6,
            "first_run_ms": first_run_ns / 1e6,
            "samples_ns": list(samples),
        }


def measure_here(path: Path, file: str, threads: int, settings: LatencySettings) -> LatencyResult:
    """Measure one artifact in this process.

    Args:
        path: The bundle.
        file: The artifact's name in it.
        threads: How many threads one call may use.
        settings: How much is measured.

    Raises:
        BundleError: The bundle is damaged.
        MissingExtraError: The engine is not installed.
    """
    started = perf_counter_ns()
    bundle = Bundle.open(path)
    artifact = bundle.artifact(file)
    session = Session(bundle, artifact, threads=threads)
    load_ns = perf_counter_ns() - started
    inputs = Golden.open(bundle).batches(artifact)[0]
    is_simple = len(inputs) == len(artifact.outputs) == 1
    argument: Any = next(iter(inputs.values())) if is_simple else inputs
    first_run_ns = _measure(session, argument, runs=1, seconds=0)[0]
    _measure(session, argument, runs=settings.warmup_runs, seconds=settings.warmup_seconds)
    samples = _measure(session, argument, runs=settings.runs, seconds=settings.seconds)
    return LatencyResult(file, session.engine, str(artifact.precision), threads, load_ns, first_run_ns, _peak_rss_bytes(), tuple(samples))


def measure_fresh(path: Path, artifact: ArtifactRecord, threads: int, settings: LatencySettings) -> LatencyResult:
    """Measure one artifact in a fresh process, so that load time and memory are its own.

    Raises:
        LeptonError: The process ended early; the text says how.
    """
    request = json.dumps({"path": str(path), "file": artifact.file, "threads": threads, "settings": asdict(settings)})
    done = subprocess.run([sys.executable, "-P", "-m", "lepton_edge.latency", request], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LeptonError(
            f"{artifact.file} on {engine_of(artifact)} must run to the end, its process ended with {done.returncode}: {reason}"
        )
    values = json.loads(done.stdout.splitlines()[-1])
    return LatencyResult(**{**values, "samples_ns": tuple(values["samples_ns"])})


def _measure(session: Session, argument: Any, *, runs: int, seconds: float) -> list[int]:
    samples: list[int] = []
    now = perf_counter_ns()
    end = now + int(seconds * 1e9)
    while len(samples) < runs or now < end:
        started = perf_counter_ns()
        session.run(argument)
        now = perf_counter_ns()
        samples.append(now - started)
    return samples


def _peak_rss_bytes() -> int | None:
    """VmHWM, not ``ru_maxrss``: that one starts from the memory of the process that started this one."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _serve(request: str) -> None:
    values = json.loads(request)
    try:
        result = measure_here(Path(values["path"]), values["file"], values["threads"], LatencySettings(**values["settings"]))
    except LeptonError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    _serve(sys.argv[1])
