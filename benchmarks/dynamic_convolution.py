"""Why ``dynamic-int8`` convolutions compute in float32: onnxruntime's ConvInteger against its float Conv.

python benchmarks/dynamic_convolution.py BUNDLE [BUNDLE ...]

Each bundle's fp32 model is quantized twice: as the exporter does it, and with ConvInteger by onnxruntime's own
``quantize_dynamic`` (unsigned weights, its faster choice). The candidates alternate (A B B A), one thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: TID251

from lepton_converters.onnx_quantize import quantize_dynamic as ours
from lepton_edge.device import read_device
from lepton_runtime import Bundle

CALLS, ROUNDS = 50, 40


def load(model: bytes) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compare(path: Path) -> None:
    """Print one row."""
    bundle = Bundle.open(path)
    record = bundle.artifact("model.fp32.onnx")
    model = onnx.load_from_string(bundle.read(record))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "integer.onnx"
        quantize_dynamic(model, target, op_types_to_quantize=["Conv", "MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8)
        integer = target.read_bytes()
    sessions = {"ours": load(ours(model).SerializeToString()), "ConvInteger": load(integer)}
    spec = record.inputs[0]
    feed = {spec.name: np.random.default_rng(0).uniform(size=[axis or 1 for axis in spec.shape]).astype(spec.dtype)}
    medians: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name in ("ours", "ConvInteger", "ConvInteger", "ours"):
            samples = []
            for _ in range(CALLS):
                started = perf_counter_ns()
                sessions[name].run(None, feed)
                samples.append(perf_counter_ns() - started)
            medians[name].append(statistics.median(samples) / 1e3)
    float_us, integer_us = (statistics.median(medians[name]) for name in ("ours", "ConvInteger"))
    print(f"{path.name:<24} float Conv {float_us:8.1f} µs  ConvInteger {integer_us:8.1f} µs  ratio {integer_us / float_us:.2f}")


if __name__ == "__main__":
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  onnxruntime {onnxruntime.__version__}")
    for argument in sys.argv[1:]:
        compare(Path(argument))
