"""The measured process: it loads one artifact and then does, line by line, what the process that started it asks.

``python -m lepton_edge.latency.worker REQUEST``, where the request is a JSON object with the bundle's path, the
artifact's file, the engine, the number of threads, whether they spin, and the batch. Each line on stdin asks for something,
each line on stdout answers.
"""

from time import monotonic_ns, perf_counter_ns, process_time_ns, sleep

_BEGUN_NS = monotonic_ns()

import json  # noqa: E402  # what is imported from here on is a part of the cold start
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, TextIO  # noqa: E402

import numpy as np  # noqa: E402

from lepton_runtime.bundle import Bundle  # noqa: E402
from lepton_runtime.errors import LeptonError, UnstableError  # noqa: E402
from lepton_runtime.manifest import ArtifactRecord  # noqa: E402
from lepton_runtime.session import Session  # noqa: E402

Call = Callable[[], object]
_LEAD_NS = 2_000_000  # after a pause, calls of this long are not counted: the caches are somebody else's
_CALLS_PER_BLOCK = 5
_PROFILED_CALLS = 50
_STATM = Path("/proc/self/statm")


def serve(requests: TextIO, answers: TextIO, *, bundle: str, file: str, engine: str, threads: int, spins: bool, batch: int | None) -> None:
    """Load the artifact, say how long it took, and answer until the requests end."""
    imported_ns = monotonic_ns()
    opened = Bundle.open(bundle)
    artifact = opened.artifact(file)
    session = Session(opened, artifact, engine=engine, threads=threads, spins=spins)
    loaded_ns = monotonic_ns()
    shapes = _shapes(opened, artifact, batch)
    zeros = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in artifact.inputs}
    ready_ns = monotonic_ns()
    session.run(zeros)
    answered_ns = monotonic_ns()

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    answer(
        {
            "begun_ns": _BEGUN_NS,
            "import_ns": imported_ns - _BEGUN_NS,
            "load_ns": loaded_ns - imported_ns,
            "first_run_ns": answered_ns - ready_ns,
        }
    )
    inputs = _golden_inputs(opened, session, shapes)
    is_simple = len(inputs) == len(artifact.outputs) == 1
    argument: Any = next(iter(inputs.values())) if is_simple else inputs
    run = session.run

    def call() -> object:
        return run(argument)

    for line in requests:
        request = json.loads(line)
        kind = request.pop("kind")
        if kind == "block":
            answer(measure_block(call, **request))
        elif kind == "frames":
            answer(measure_frames(call, **request))
        elif kind == "idle":
            answer({"cpu_ns": _idle(**request)})
        elif kind == "golden":
            answer(_golden_difference(opened, session))
        elif kind == "profile":
            answer({"operators": profile(opened, session, inputs)})
        else:
            answer(_memory())


def _shapes(bundle: Bundle, artifact: ArtifactRecord, batch: int | None) -> dict[str, list[int]]:
    """The shape of each input; an axis of free size is as long as in the golden inputs."""
    sizes: dict[str, tuple[int, ...]] = {}
    if any(None in spec.shape[1:] for spec in artifact.inputs):
        from lepton_runtime.golden import Golden

        sizes = {name: array.shape for name, array in Golden.open(bundle).batches(artifact)[0].items()}
    return {
        spec.name: [axis or batch or 1 for axis in spec.shape[:1]]
        + [axis or sizes[spec.name][position] for position, axis in enumerate(spec.shape[1:], 1)]
        for spec in artifact.inputs
    }


def _golden_inputs(bundle: Bundle, session: Session, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """The bundle's golden inputs, repeated or cut to the batch."""
    from lepton_runtime.golden import Golden

    golden = Golden.open(bundle).batches(session.artifact)[0]
    return {name: np.resize(array, shapes[name]) for name, array in golden.items()}


def _golden_difference(bundle: Bundle, session: Session) -> dict[str, float]:
    """How far the answers are from the golden ones here, and how far they may be."""
    from lepton_runtime.golden import Golden, golden_limit

    return {"difference": Golden.open(bundle).difference(session), "limit": golden_limit(session.artifact)}


def measure_block(
    call: Call, *, calls: int, seconds: float, limit_seconds: float, keep: int, clock: Callable[[], int] = perf_counter_ns
) -> dict[str, Any]:
    """One call after another, each timed.

    Args:
        call: What is measured.
        calls: How many are still wanted.
        seconds: And for how long.
        limit_seconds: When to stop all the same, if enough calls were made for a block.
        keep: How many samples to hand on at most, evenly spaced; all are counted.
        clock: Nanoseconds that never go back.

    Raises:
        UnstableError: They did.
    """
    lead: list[int] = []
    while sum(lead) < _LEAD_NS:
        before = clock()
        call()
        lead.append(clock() - before)
    samples: list[int] = []
    started = now = clock()
    enough, limit = started + int(seconds * 1e9), started + int(limit_seconds * 1e9)
    while len(samples) < calls or now < enough:
        before = clock()
        call()
        now = clock()
        samples.append(now - before)
        if now >= limit and len(samples) >= _CALLS_PER_BLOCK:
            break
    if min(samples) <= 0:
        raise UnstableError(f"a clock must go forward, it gave a call of {min(samples)} ns; nothing can be measured by it")
    return _block(samples, keep, lead=lead, started_ns=started, ended_ns=now)


def measure_frames(call: Call, *, fps: float, frames: int, keep: int) -> dict[str, Any]:
    """Frames that arrive on a clock; the newest that waits is taken, older ones are dropped.

    A latency runs from a frame's arrival to its answer. A frame is late if its answer comes after the next has arrived.

    Args:
        call: What is measured.
        fps: Frames a second.
        frames: How many arrive.
        keep: How many samples to hand on at most.
    """
    period = 1e9 / fps
    samples: list[int] = []
    late = dropped = 0
    call()
    started = perf_counter_ns()
    frame = 0
    while frame < frames:
        arrival = started + int((frame + 1) * period)
        wait = arrival - perf_counter_ns()
        if wait > 0:
            sleep(wait / 1e9)
        call()
        now = perf_counter_ns()
        samples.append(now - arrival)
        late += now - arrival > period
        newest = int((now - started) / period) - 1
        dropped += max(0, newest - frame - 1)
        frame = max(frame + 1, newest)
    block = _block(samples, keep, lead=[], started_ns=started, ended_ns=perf_counter_ns())
    return {**block, "late": late, "dropped": dropped}


def _block(samples: list[int], keep: int, *, lead: list[int], started_ns: int, ended_ns: int) -> dict[str, Any]:
    """What is said of a stretch of calls; of many samples only some are handed on, but all are counted."""
    return {
        "lead_ns": lead,
        "started_ns": started_ns,
        "measured_ns": ended_ns - started_ns,
        "calls": len(samples),
        "total_ns": sum(samples),
        "min_ns": min(samples),
        "max_ns": max(samples),
        "samples_ns": thin(samples, keep),
        "rss_bytes": _rss_bytes(),
    }


def thin(samples: list[int], keep: int) -> list[int]:
    """At most ``keep`` of the samples, evenly spaced in time.

    >>> thin(list(range(10)), 4)
    [0, 2, 5, 7]
    """
    count = len(samples)
    return samples if count <= keep else [samples[position * count // keep] for position in range(keep)]


def _idle(*, seconds: float) -> int:
    cpu = process_time_ns()
    sleep(seconds)
    return process_time_ns() - cpu


def profile(bundle: Bundle, session: Session, inputs: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What each operator takes; ``None`` from an engine that does not tell."""
    from dataclasses import asdict

    from lepton_runtime.engines import profile_operators

    artifact = session.artifact
    arrays = [inputs[spec.name] for spec in artifact.inputs]
    found = profile_operators(
        session.engine,
        bundle.read(artifact),
        arrays,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        threads=session.threads,
        calls=_PROFILED_CALLS,
    )
    return None if found is None else [asdict(operator) for operator in found]


def _rss_bytes() -> int | None:
    """Resident memory now."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _memory() -> dict[str, int | None]:
    """Resident memory now, and the largest so far.

    VmHWM, not ``ru_maxrss``: that one starts from the memory of the process that started this one. The kernel notes a
    new peak now and then only, so what is resident now may be more.
    """
    rss = _rss_bytes()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        found = None
    return {"rss_bytes": rss, "peak_rss_bytes": max(int(found[1]) * 1024, rss or 0) if found else None}


def main() -> None:
    """Serve on stdin and stdout; what engines print goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        try:
            serve(sys.stdin, answers, **json.loads(sys.argv[1]))
        except LeptonError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
