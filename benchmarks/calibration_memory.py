"""The memory that calibrating by entropy takes: ours beside onnxruntime's own, and a plain float run.

    python benchmarks/calibration_memory.py [--images 500] [--limit-gib 12]

MobileNetV2 at 224 × 224 with seeded weights, on seeded images, each job in a process of its own; a job that wants more than the
limit is stopped there, and says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_GIB = 2**30
_SIZE = 224
JOBS = ("float", "ours", "onnxruntime")


def images(count: int) -> Iterator[np.ndarray]:
    """Smooth noise, ``(1, 224, 224, 3)``, 0 to 255."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        coarse = generator.uniform(0, 255, (1, 14, 14, 3)).astype(np.float32)
        yield np.kron(coarse, np.ones((1, 16, 16, 1), np.float32))


def write_network(path: Path) -> None:
    """The float ONNX file, as an export makes it."""
    import keras

    from lepton_converters import export

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(_SIZE, _SIZE, 3))
    export(model, path.with_suffix(".bundle"), formats=["onnx"], precisions=["fp32"])
    (path.with_suffix(".bundle") / "model.fp32.onnx").replace(path)


def work(job: str, network: Path, count: int) -> None:
    """One job, in this process."""
    if job == "float":
        import onnxruntime

        session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        for image in images(count):
            session.run(None, {session.get_inputs()[0].name: image})
    elif job == "ours":
        _calibrate_ours(network, count)
    else:
        _calibrate_theirs(network, count)


def _calibrate_ours(network: Path, count: int) -> None:
    import onnx

    from lepton_converters.calibration import Calibration
    from lepton_converters.calibration_cache import CalibrationCache
    from lepton_converters.dataset import Dataset, Sample
    from lepton_converters.onnx_float_graph import OnnxFloatGraph
    from lepton_converters.quantizer import find_ranges, measure_statistics
    from lepton_runtime.tensors import TensorSpec

    model = onnx.load(network)
    specs = [
        tuple(TensorSpec(value.name, tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim), "float32") for value in values)
        for values in (model.graph.input, model.graph.output)
    ]
    graph = OnnxFloatGraph(model, inputs=specs[0], outputs=specs[1], route="graph")
    dataset = Dataset("noise", count, None, False, lambda indices: (Sample({specs[0][0].name: image[0]}, None) for image in images(count)))
    with tempfile.TemporaryDirectory() as folder:
        statistics = measure_statistics(graph, Calibration(dataset, tuple(range(count)), 1), CalibrationCache(Path(folder)))
    find_ranges(statistics, "entropy")


def _calibrate_theirs(network: Path, count: int) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static  # noqa: TID251

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            name = onnx.load(network).graph.input[0].name
            self._batches = ({name: image} for image in images(count))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    output = network.with_suffix(".quantized.onnx")
    quantize_static(network, output, Reader(), per_channel=True, calibrate_method=CalibrationMethod.Entropy)


def main(arguments: argparse.Namespace) -> None:
    """Run the jobs one after the other and print a row each."""
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.onnx"
        subprocess.run([sys.executable, __file__, "--job", "network", "--network", network], check=True)
        base = 0.0
        print("| job | peak memory | above the float run | time |\n| --- | ---: | ---: | ---: |")
        for job in JOBS:
            command = [sys.executable, __file__, "--job", job, "--network", network, "--images", str(arguments.images)]
            run = subprocess.run([*command, "--limit-gib", str(arguments.limit_gib)], capture_output=True, text=True, check=False)
            last = run.stdout.strip().splitlines()[-1:] if run.returncode == 0 else []
            if not last:
                reason = (run.stderr.strip().splitlines() or ["killed"])[-1][:80]
                print(f"| {job} | stopped at {arguments.limit_gib} GiB: {reason} | | |", flush=True)
                continue
            found = json.loads(last[0])
            base = base or found["peak_bytes"]
            above = (found["peak_bytes"] - base) / _GIB
            print(f"| {job} | {found['peak_bytes'] / _GIB:.2f} GiB | {above:.2f} GiB | {found['seconds']:.0f} s |", flush=True)


def _job(arguments: argparse.Namespace) -> None:
    if arguments.job == "network":
        write_network(arguments.network)
        return
    limit = round(arguments.limit_gib * _GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start = time.perf_counter()
    work(arguments.job, arguments.network, arguments.images)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({"peak_bytes": peak, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--limit-gib", type=float, default=12)
    parser.add_argument("--job", choices=[*JOBS, "network"], help=argparse.SUPPRESS)
    parser.add_argument("--network", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    _job(given) if given.job else main(given)
