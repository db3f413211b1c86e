"""What each rewrite of ONNX graphs is worth, alone and in the whole: the figures behind docs/performance.md.

python benchmarks/rewrites.py WORK [--only NETWORK …] [--page docs/performance.md]

WORK is a folder in which ``benchmarks/peers.py`` has made its files; a network that has what none of its has is made anew. Each
network's graph, as tf2onnx leaves it, is written with no rewrite, with one alone, with all, and with all but one; the pairs alternate
(A B B A) in one process with one thread of onnxruntime. 8-bit files are quantized with the ranges of 16 samples. Results are kept in
``WORK/rewrites.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnx
import onnxruntime
from latency_peers.kept import continued
from latency_peers.rewrite_page import write_rewrites

from lepton_converters import onnx_export, onnx_float_graph
from lepton_converters.calibration import Calibration
from lepton_converters.dataset import open_dataset
from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_canonical import canonicalize
from lepton_converters.onnx_export import OnnxExporter
from lepton_converters.onnx_optimize import (
    EIGHT_BIT_REWRITES,
    FLOAT_REWRITES,
    REWRITES,
    WIDE_REWRITES,
    optimize,
    optimize_float,
    with_wide_offsets,
)
from lepton_converters.quantizer import Quantizer
from lepton_converters.replaced import replaced
from lepton_converters.tflite_export import TfliteExporter
from lepton_edge.device import PACKAGES, read_device
from lepton_runtime.formats import Target
from lepton_runtime.versions import installed_versions

ROUNDS, BLOCK_NS = 12, 40_000_000
TARGET = Target.X86_VNNI
NAMES = {
    "fp32": [rewrite.name for rewrite in (*REWRITES, *WIDE_REWRITES, *FLOAT_REWRITES)],
    "static-int8": [rewrite.name for rewrite in (*REWRITES, *WIDE_REWRITES, *EIGHT_BIT_REWRITES)],
}


class Graphs:
    """The files of one network, with any rewrites left out."""

    def __init__(self, folder: Path, target: Target = TARGET) -> None:
        self._target = target
        self.source = KerasSource.open(folder / "model.keras", batch=1)
        self.samples = np.load(folder / "samples.npy")[:16]
        np.save(folder / "ranges.npy", self.samples)
        self._dataset = open_dataset(str(folder / "ranges.npy"), inputs=self.source.inputs, preprocessing=None)
        raw: list[onnx.ModelProto] = []

        def keep(model: onnx.ModelProto) -> onnx.ModelProto:
            raw.append(model)
            return optimize(model)

        with replaced([(onnx_export, "optimize", keep)]):
            exporter = OnnxExporter(
                self.source, tflite=TfliteExporter(self.source, accept=lambda artifact: None), accept=lambda artifact: None
            )
            self._route = exporter._base()[1]
        self._raw = raw[-1]

    def file(self, precision: str, without: Collection[str]) -> bytes:
        """The file of a precision, one of :data:`NAMES`."""
        return self.float_file(without) if precision == "fp32" else self.eight_bit_file(without)

    def float_file(self, without: Collection[str]) -> bytes:
        """The float32 file."""
        base = optimize(self._raw, without=without)
        return canonicalize(optimize_float(base, target=self._target, without=without)).SerializeToString(deterministic=True)

    def eight_bit_file(self, without: Collection[str]) -> bytes:
        """The 8-bit file."""
        base = canonicalize(with_wide_offsets(optimize(self._raw, without=without), without=without))
        graph = onnx_float_graph.OnnxFloatGraph(base, inputs=self.source.inputs, outputs=self.source.outputs, route=self._route)
        graph = graph.with_shared_scales() or graph
        calibration = Calibration(self._dataset, tuple(range(len(self.samples))), batch=1)
        change = partial(onnx_float_graph.optimize_eight_bit, without=without)
        with replaced([(onnx_float_graph, "optimize_eight_bit", change)]):
            return Quantizer(calibration, target=self._target).quantize(graph).model


def time_in_turns(files: list[bytes], single: np.ndarray) -> list[float]:
    """The median of each one's block medians, in microseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    feed = {sessions[0].get_inputs()[0].name: single}
    medians: list[list[float]] = [[] for _ in files]
    for turn in range(ROUNDS + 1):
        for number in (*range(len(files)), *reversed(range(len(files)))):
            end, samples = perf_counter_ns() + BLOCK_NS, []
            while len(samples) < 5 or perf_counter_ns() < end:
                started = perf_counter_ns()
                sessions[number].run(None, feed)
                samples.append(perf_counter_ns() - started)
            if turn:  # the first is the warm-up
                medians[number].append(statistics.median(samples) / 1e3)
    return [statistics.median(found) for found in medians]


def answer(file: bytes, samples: np.ndarray) -> np.ndarray:
    """What a file answers to some samples."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: sample[None]})[0]) for sample in samples])


def measure(folder: Path) -> Iterator[dict[str, object]]:
    """One entry a rewrite that changes a file of this network."""
    graphs = Graphs(folder)
    single = graphs.samples[:1]
    for precision, names in NAMES.items():
        make = partial(graphs.file, precision)
        whole, plain = make(()), make(names)
        for name in names:
            alone, rest = make([other for other in names if other != name]), make([name])
            if alone == plain and rest == whole:
                continue
            plain_us, alone_us, rest_us, whole_us = time_in_turns([plain, alone, rest, whole], single)
            found, expected = answer(whole, graphs.samples[:4]), answer(rest, graphs.samples[:4])
            yield {
                "precision": precision,
                "rewrite": name,
                "alone": alone_us / plain_us,
                "whole": whole_us / rest_us,
                "difference": float(np.abs(found - expected).max()),
                "largest": float(np.abs(expected).max()),
            }


def make_others(work: Path) -> None:
    """The networks that ``benchmarks/peers.py`` does not make."""
    from latency_peers.networks import OTHERS, build

    for name in OTHERS:
        folder = work / name
        if not (folder / "model.keras").exists():
            folder.mkdir(exist_ok=True)
            model, inputs = build(name)
            np.save(folder / "samples.npy", inputs)
            model.save(folder / "model.keras")


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "docs" / "performance.md")
    arguments = parser.parse_args()
    import_keras()
    make_others(arguments.work)
    path = arguments.work / "rewrites.json"
    conditions = {"device": str(read_device()), "versions": installed_versions(PACKAGES), "blocks": 2 * ROUNDS}
    results = continued(path, conditions, ("networks", "dates"))
    for folder in sorted(arguments.work.iterdir()):
        is_wanted = folder.name in arguments.only if arguments.only else folder.name not in results["networks"]
        if is_wanted and (folder / "model.keras").exists():
            print(folder.name, flush=True)
            results["networks"][folder.name] = list(measure(folder))
            results["dates"][folder.name] = f"{datetime.now(UTC):%Y-%m-%d}"
            path.write_text(json.dumps(results, indent=1))
    write_rewrites(results, arguments.page)


if __name__ == "__main__":
    main()
