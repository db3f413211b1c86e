"""Our medians beside those of the engines' own loops, on the same files, in turns, in one run.

python benchmarks/engine_loops.py [ROUNDS [BUNDLE]]

Without a bundle it exports a MobileNetV2 of 224×224 pixels with seeded weights. ONNX files: a bare loop over
``InferenceSession.run`` with one thread, in a fresh process. TFLite files: the loop of LiteRT's own tool
``litert-benchmark``, which runs through its newer CompiledModel interface and gives hundredths of a millisecond: a model
must need milliseconds to be compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from lepton_edge.cli.benchmark import choose_candidates
from lepton_edge.device import PACKAGES, read_device
from lepton_edge.latency.measure import measure
from lepton_edge.latency.settings import LatencySettings
from lepton_runtime.versions import installed_versions

SECONDS = 1.0
BARE_LOOP = """
import statistics, sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
feed = {given.name: numpy.load(sys.argv[3])["input/" + given.name][:1]}
def loop(seconds):
    samples, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        session.run(None, feed)
        samples.append(time.perf_counter() - before)
    return samples
loop(0.5)
print(1e3 * statistics.median(loop(float(sys.argv[2]))))
"""


def run_bare_loop(bundle: Path, file: str) -> float:
    """The median of onnxruntime's own call, in milliseconds."""
    command = [sys.executable, "-c", BARE_LOOP, str(bundle / file), str(SECONDS), str(bundle / "golden.npz")]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_litert_benchmark(bundle: Path, file: str, expected_ms: float) -> float:
    """The median that LiteRT's tool reports, in milliseconds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        runs = max(20, int(1e3 * SECONDS / expected_ms))
        command = [str(Path(sys.executable).with_name("litert-benchmark")), f"--model={bundle / file}", f"--num_runs={runs}"]
        command += [f"--warmup_runs={max(5, runs // 2)}", "--num_threads=1", f"--result_json={result.name}"]
        subprocess.run(command, capture_output=True, check=True)
        return float(json.loads(Path(result.name).read_text())["latency"]["median_ms"])


def export_mobilenet(folder: Path) -> Path:
    """A bundle to time; what untrained weights answer is of no matter here."""
    import numpy as np

    from lepton_converters import export
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2((224, 224, 3), weights=None, classes=10)
    np.save(folder / "noise.npy", np.random.default_rng(0).normal(size=(12, 224, 224, 3)).astype(np.float32))
    return export(model, folder / "bundle", calib=str(folder / "noise.npy"), precisions=["fp32", "static-int8"]).path


def main(rounds: int, bundle: Path) -> None:
    """Print one row an artifact."""
    versions = installed_versions(PACKAGES)
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  onnxruntime {versions['onnxruntime']}  LiteRT {versions['ai-edge-litert']}")
    settings = LatencySettings(processes=1, seconds=SECONDS)
    for candidate in choose_candidates(bundle):
        ours: list[float] = []
        theirs: list[float] = []

        def measure_ours() -> None:
            (result,) = measure([candidate], settings).results  # noqa: B023  # called in this round only
            ours.append(result.p50_ms)  # noqa: B023

        def measure_theirs() -> None:
            is_onnx = candidate.engine == "onnxruntime"  # noqa: B023
            file = candidate.file  # noqa: B023
            theirs.append(run_bare_loop(bundle, file) if is_onnx else run_litert_benchmark(bundle, file, ours[-1]))  # noqa: B023

        for _ in range(rounds):
            for run in (measure_ours, measure_theirs, measure_theirs, measure_ours):
                run()
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(
            f"{candidate.file:<26} ours {statistics.median(ours):8.4f} ms  theirs {statistics.median(theirs):8.4f} ms  "
            f"ratio {ratio:.3f}  fastest {min(ours):.4f} and {min(theirs):.4f} ms",
            flush=True,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 4, Path(sys.argv[2]) if len(sys.argv) > 2 else export_mobilenet(Path(work)))
