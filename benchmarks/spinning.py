"""How long onnxruntime's threads should spin for work before they sleep: how fast the next call is, and what of a core it takes.

python benchmarks/spinning.py FILE.onnx [FILE.onnx …]

Each way of waiting is a session of its own; they take turns, there and back, in six rounds. The first figures are of calls back
to back, as ratios to threads that always spin (median of the rounds' medians); the second what thirty calls a second take of a core.
"""

from __future__ import annotations

import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter_ns, process_time, sleep

import numpy as np
import onnxruntime

from lepton_edge.device import PACKAGES, read_device
from lepton_runtime.versions import installed_versions

WAYS = {
    "always": {"session.intra_op.allow_spinning": "1"},
    "in calls": {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"},
    **{
        f"{spin} µs": {"session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": str(spin)}
        for spin in (20, 50, 100, 200, 500, 1000)
    },
    "never": {"session.intra_op.allow_spinning": "0"},
}
ROUNDS = 6
ROUND_S = 0.2
RATE_HZ, RATED_S = 30, 3.0


class Waiting:
    """A session with two threads that wait in one of the ways."""

    def __init__(self, path: Path, way: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 2, 1, 4
        for key, value in WAYS[way].items():
            options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (spec,) = self._session.get_inputs()
        shape = [axis if isinstance(axis, int) else 1 for axis in spec.shape]
        self._feed = {spec.name: np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)}

    def median_ns(self) -> float:
        """Of calls back to back."""
        samples, until = [], monotonic() + ROUND_S
        while monotonic() < until:
            started = perf_counter_ns()
            self._session.run(None, self._feed)
            samples.append(perf_counter_ns() - started)
        return statistics.median(samples)

    def core_share(self) -> float:
        """Of calls at a camera's rate."""
        started, used = monotonic(), process_time()
        for call in range(int(RATE_HZ * RATED_S)):
            self._session.run(None, self._feed)
            sleep(max(0.0, started + (call + 1) / RATE_HZ - monotonic()))
        return (process_time() - used) / (monotonic() - started)


def main(paths: list[Path]) -> None:
    """Print the tables."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    for path in paths:
        medians: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(ROUNDS):
            for way in list(WAYS)[:: -1 if turn % 2 else 1]:  # one session at a time: what spins takes the other's core
                medians[way].append(Waiting(path, way).median_ns())
        times = {way: statistics.median(values) for way, values in medians.items()}
        print(f"{path}: {times['always'] / 1e3:.1f} µs")
        for way, time in times.items():
            print(f"  {way:>8}  {time / times['always']:.3f}  {100 * Waiting(path, way).core_share():6.2f} % of a core")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
