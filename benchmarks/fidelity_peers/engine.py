"""Runs any of the files with one thread: what it answers to samples, and how long a call takes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from fidelity_peers.method import EngineName

Array = np.ndarray
Call = Callable[[Array], Array]
_BLOCK_NS = 30_000_000
_FEWEST_CALLS = 10


def open_file(path: Path | bytes, engine: EngineName) -> Call:
    """A function from one input of batch 1 to its scores; a model in memory is taken by onnxruntime."""
    return {"keras": _open_keras, "onnxruntime": _open_onnx, "litert": _open_tflite, "openvino": _open_openvino}[engine](path)


def answers(call: Call, inputs: Array) -> Array:
    """The scores of all inputs, ``(samples, classes)``."""
    return np.concatenate([call(single) for single in inputs])


def time_in_turns(calls: Sequence[Call], single: Array, *, rounds: int, is_reversed: bool) -> list[float]:
    """The median of each one's block medians, in milliseconds; blocks in the order A B B A, or B A A B."""
    counts = []
    for call in calls:
        started, count = perf_counter_ns(), 0
        while perf_counter_ns() - started < 10 * _BLOCK_NS:  # the warm-up
            call(single)
            count += 1
        counts.append(max(_FEWEST_CALLS, count // 10))
    order = list(range(len(calls)))[:: -1 if is_reversed else 1]
    medians: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for number in (*order, *order[::-1]):
            samples = []
            for _ in range(counts[number]):
                started = perf_counter_ns()
                calls[number](single)
                samples.append(perf_counter_ns() - started)
            medians[number].append(float(np.median(samples)) / 1e6)
    return [float(np.median(found)) for found in medians]


def _open_keras(path: Any) -> Call:
    import keras

    model = keras.saving.load_model(path, compile=False)
    return lambda single: np.asarray(model.predict_on_batch(single))


def _open_onnx(path: Any) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda single: session.run(None, {name: single})[0]


def _open_tflite(path: Any) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call(single: Array) -> Array:
        interpreter.set_tensor(given, single)
        interpreter.reset_all_variables()  # a fused LSTM would go on from the last call's state
        interpreter.invoke()
        scores: Array = interpreter.get_tensor(found)
        return scores

    return call


def _open_openvino(path: Any) -> Call:
    import openvino

    # Source: openvino documentation, "Precision Control": without the hint, float32 is computed in bfloat16 where the CPU has it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda single: np.array(request.infer([single])[0])
