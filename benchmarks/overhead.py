"""What ``Session.run`` adds to a bare onnxruntime call, both alternating (A B B A) in one run.

python benchmarks/overhead.py [ROUNDS]

The bare call is ``InferenceSession.run(None, {name: array})`` on the session that ``Session.run`` uses, and with ``out=``
the call of the extension that runs what was bound once. Figures are the medians of the round medians; the machine and the
versions stand above them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnx
import onnxruntime
from made_bundle import write_made_bundle

from lepton_edge.device import read_device
from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, Session

CALLS = 100  # a round and candidate


def compare(name: str, path: Path, rounds: int) -> None:
    """Print one row."""
    bundle = Bundle.open(path)
    session = Session.open(bundle, precision="fp32")
    # The very same onnxruntime session: a second one has its weights elsewhere in memory, which moved medians by 6 %.
    bare: onnxruntime.InferenceSession = session._engine._session
    spec = session.artifact.inputs[0]
    array = np.random.default_rng(0).uniform(0, 255, [axis or 1 for axis in spec.shape]).astype(spec.dtype)
    key = spec.name

    out = np.empty([axis or 1 for axis in session.artifact.outputs[0].shape], np.float32)
    session.run(array, out=out)
    binding = bare.io_binding()
    binding.bind_cpu_input(key, array)
    binding.bind_output(session.artifact.outputs[0].name, "cpu", 0, np.float32, out.shape, out.ctypes.data)
    run_bound, bound = bare._sess.run_with_iobinding, binding._iobinding

    compare_calls(f"{name}, run", lambda: bare.run(None, {key: array})[0], lambda: session.run(array), rounds)
    compare_calls(f"{name}, out=", lambda: run_bound(bound, None), lambda: session.run(array, out=out), rounds)


def compare_calls(name: str, bare: Callable[[], object], ours: Callable[[], object], rounds: int) -> None:
    """Print one row."""

    def samples_of(call: Callable[[], object]) -> list[int]:
        samples = []
        for _ in range(CALLS):
            started = perf_counter_ns()
            call()
            samples.append(perf_counter_ns() - started)
        return samples

    samples_of(bare), samples_of(ours)
    medians: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        for label, call in (("bare", bare), ("ours", ours), ("ours", ours), ("bare", bare)):
            medians[label].append(statistics.median(samples_of(call)) / 1e3)
    ours_us, theirs_us = (statistics.median(medians[label]) for label in ("ours", "bare"))
    fastest_ours, fastest_theirs = min(medians["ours"]), min(medians["bare"])
    print(
        f"{name:<15} bare {theirs_us:8.2f} µs  Session.run {ours_us:8.2f} µs  added {ours_us - theirs_us:+6.2f} µs"
        f"  ratio {ours_us / theirs_us:.3f}"
        f"  fastest rounds {fastest_theirs:.2f} and {fastest_ours:.2f} µs"
    )


def main(rounds: int) -> None:
    """Print the table."""
    versions = f"onnxruntime {onnxruntime.__version__}  numpy {np.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {versions}  {2 * rounds} rounds of {CALLS}")
    with tempfile.TemporaryDirectory() as folder:
        relu = onnx.helper.make_node("Relu", ["x"], ["y"])
        compare("one node", write_made_bundle(Path(folder) / "one.bundle", [relu], {}, (1, 4)), rounds)
    compare("digits", shipped_bundle(), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
