"""Whether long runs stay what they are: a camera's stream for minutes, and a million calls of four sessions that share two threads.

python benchmarks/soak.py stream [MINUTES]
python benchmarks/soak.py runs [CALLS]

The camera gives 30 frames a second, the model can do 20: what was answered, how late each answer was, and the memory. The sessions run the
shipped bundle's files in threads of their own: the memory's slope over the second half, how many threads computed at a time at the
most, and the share of the cores that the process used.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from lepton_edge.device import PACKAGES, read_device
from lepton_edge.digits import load_digits, shipped_bundle
from lepton_runtime import Bundle, Session, Stream, ThreadBudget
from lepton_runtime.versions import installed_versions

FPS = 30
MODEL_FPS = 20
SAMPLE_S = 1.0


def memory_bytes() -> int:
    """Of this process, resident."""
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])


def slope(memory: list[tuple[float, int]]) -> float:
    """Bytes a unit of the first number, over the second half."""
    half = np.array(memory[len(memory) // 2 :], np.float64)
    return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


class Camera:
    """Frames on a clock."""

    is_live = True

    def __init__(self, seconds: float) -> None:
        self._seconds, self._images = seconds, load_digits().test_images

    def __iter__(self) -> Iterator[np.ndarray]:
        started = time.monotonic()
        for number in range(int(FPS * self._seconds)):
            time.sleep(max(0.0, started + number / FPS - time.monotonic()))
            yield self._images[number % len(self._images)]


def soak_stream(minutes: float) -> None:
    """Print what became of the frames."""
    latencies, memory = [], []
    with Session.open(shipped_bundle()) as session:

        def answer(image: np.ndarray) -> np.ndarray:
            until = time.monotonic() + 1 / MODEL_FPS
            scores = session.run(session.preprocess(image))
            time.sleep(max(0.0, until - time.monotonic()))
            return scores

        with Stream(Camera(60 * minutes), answer) as stream:
            sampled = 0.0
            for found in stream:
                latencies.append(found.latency_s)
                if time.monotonic() - sampled > SAMPLE_S:
                    sampled = time.monotonic()
                    memory.append((sampled / 60, memory_bytes()))
    frame_times = np.array(latencies) * FPS
    late = int((frame_times > 2).sum())
    print(f"{stream.frames} frames in {minutes:g} minutes, {stream.answered} answered, {stream.dropped} dropped")
    print(
        f"latency in frame times: median {np.median(frame_times):.2f}, 99 % {np.percentile(frame_times, 99):.2f}, "
        f"worst {frame_times.max():.2f}; above 2: {late} of {len(frame_times)}"
    )
    print(f"memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.0f} bytes a minute in the second half")


def soak_runs(calls: int) -> None:
    """Print what four sessions cost."""
    bundle, budget = Bundle.open(shipped_bundle()), ThreadBudget(2)
    records = [record for record in bundle.manifest.artifacts for _ in range(2)][:4]
    threads = (1, 2, 1, 2)
    sessions = [Session(bundle, record, threads=count, budget=budget) for record, count in zip(records, threads, strict=True)]
    done, memory, used = [0] * len(sessions), [], 0

    def work(number: int) -> None:
        session = sessions[number]
        spec = session.artifact.inputs[0]
        given = np.zeros([axis or 1 for axis in spec.shape], spec.dtype)
        expected = session.run(given)
        for _ in range(calls // len(sessions)):
            answer = session.run(given)
            done[number] += 1
        assert np.array_equal(answer, expected)

    started, cpu = time.monotonic(), time.process_time()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(sessions))]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        used = max(used, budget.threads - budget._free)
        memory.append((sum(done), memory_bytes()))
    seconds = time.monotonic() - started
    print(f"{sum(done):,} calls of {len(sessions)} sessions ({', '.join(map(str, threads))} threads) in {seconds:.0f} s")
    print(f"a budget of {budget.threads} threads, at the most {used} in use; {(time.process_time() - cpu) / seconds:.2f} cores used")
    print(f"memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.3f} bytes a call in the second half")


def main() -> None:
    """Soak what was asked for."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    what, size = sys.argv[1], sys.argv[2:]
    if what == "stream":
        soak_stream(float(size[0]) if size else 10.0)
    else:
        soak_runs(int(size[0]) if size else 1_000_000)


if __name__ == "__main__":
    main()
