"""Why an LSTM is a loop in TFLite's float files: TFLite's fused operator, and steps written out, against the loop.

python benchmarks/lstm_routes.py

Networks with random weights, each converted on every route; the files alternate there and back, one thread.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from time import perf_counter_ns

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.tflite_export import TfliteExporter, _converter_of, _run_converter
from lepton_edge.device import PACKAGES, read_device
from lepton_runtime.formats import Format, Precision
from lepton_runtime.versions import installed_versions

NETWORKS = ((28, 28, 64), (100, 16, 64), (200, 64, 128), (100, 40, 256))  # steps, features, units
CALLS, ROUNDS = 200, 10


def files(source: KerasSource, precision: Precision) -> dict[str, bytes]:
    """The network on each route."""
    exporter = TfliteExporter(source, accept=lambda artifact: None)
    made = {route: exporter._convert(route, precision, None) for route in ("graph", "fused")}
    unrolled = freeze(source, Format.TFLITE, unrolls=True)
    written_out = _run_converter(_converter_of(unrolled), precision, lambda: iter(()), "float")
    return {**{route: artifact.model for route, artifact in made.items() if artifact}, "unrolled": written_out}


def medians_us(models: dict[str, bytes]) -> dict[str, float]:
    """What each takes."""
    invoke = {}
    for name, model in models.items():
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()[0]
        interpreter.set_tensor(given["index"], np.random.default_rng(0).normal(size=given["shape"]).astype(np.float32))
        invoke[name] = interpreter.invoke
    medians: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name in (*models, *reversed(models)):
            samples = []
            for _ in range(CALLS):
                started = perf_counter_ns()
                invoke[name]()
                samples.append(perf_counter_ns() - started)
            medians[name].append(statistics.median(samples) / 1e3)
    return {name: statistics.median(found) for name, found in medians.items()}


def main() -> None:
    """Print one row a network and precision."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    for steps, features, units in NETWORKS:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((steps, features))
        source = KerasSource.open(keras.Model(inputs, keras.layers.Dense(10)(keras.layers.LSTM(units)(inputs))))
        for precision in (Precision.FP32, Precision.DYNAMIC_INT8):
            models = files(source, precision)
            found = medians_us(models)
            ratios = "  ".join(
                f"{name} {found[name]:7.1f} µs ({found[name] / found['graph']:.2f}), {len(models[name]) / 1000:.0f} kB" for name in models
            )
            print(f"{steps} steps of {features}, {units} units, {precision:<12}  {ratios}", flush=True)


if __name__ == "__main__":
    main()
