"""What it costs to open a bundle, checked, against its bare model file: time, and memory at its highest.

``python benchmarks/opening.py [--rounds 15] [--markdown PATH] BUNDLE…``: for each file that onnxruntime or LiteRT runs, processes take
turns that open the bundle (:class:`lepton_runtime.Session`, every checksum of what is read compared) or only the file, from its path, by
the engine's own Python package with the same settings; engines are imported before the clock starts. Each then runs the model once. The
memory is the process's highest, without what it had before.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from lepton_runtime import Bundle
from lepton_runtime.engines import engine_of

_OPEN = """
import json, sys, time
import numpy as np

def memory(key):
    return 1024 * int(open("/proc/self/status").read().split(key + ":")[1].split()[0])

bundle, file, engine, way, inputs = json.loads(sys.argv[1])
arrays = {name: np.zeros(shape, dtype) for name, shape, dtype in inputs}
if engine == "onnxruntime":
    import onnxruntime
else:
    from ai_edge_litert.interpreter import Interpreter
from lepton_runtime import Bundle, Session
import lepton_runtime.engines.onnxruntime, lepton_runtime.engines.litert
import lepton_runtime.engines.onnx_guard, lepton_runtime.engines.tflite_guard
import hashlib, _hashlib
before, started = memory("VmRSS"), time.perf_counter()
if way == "bundle":
    opened = Bundle.open(bundle)
    session = Session(opened, opened.artifact(file), engine=engine)
    taken = time.perf_counter() - started
    session.run(arrays)
elif engine == "onnxruntime":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    session = onnxruntime.InferenceSession(f"{bundle}/{file}", options, providers=["CPUExecutionProvider"])
    taken = time.perf_counter() - started
    session.run(None, arrays)
else:
    interpreter = Interpreter(model_path=f"{bundle}/{file}", num_threads=1)
    interpreter.allocate_tensors()
    taken = time.perf_counter() - started
    for detail, array in zip(interpreter.get_input_details(), arrays.values()):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
print(json.dumps([taken, memory("VmHWM") - before]))
"""


def main() -> None:
    """Print one row a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("bundles", nargs="+", type=Path)
    given = parser.parse_args()
    heads = ("bundle", "file", "MB", "bare ms", "checked ms", "more ms", "ratio", "bare MB", "checked MB", "times the file more")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    print("\n".join(rows))
    for path in given.bundles:
        bundle = Bundle.open(path)
        for record in bundle.manifest.artifacts:
            request = [str(path), record.file, engine_of(record)]
            inputs = [(spec.name, [axis or 1 for axis in spec.shape], spec.dtype) for spec in record.inputs]
            times: dict[str, list[float]] = {"bare": [], "bundle": []}
            peaks: dict[str, list[float]] = {"bare": [], "bundle": []}
            for _ in range(given.rounds):
                for way in times:
                    command = [sys.executable, "-W", "ignore", "-c", _OPEN, json.dumps([*request, way, inputs])]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    taken, peak = json.loads(done.stdout)
                    times[way].append(1e3 * taken)
                    peaks[way].append(peak / 1e6)
            (bare, checked), (small, large) = ([statistics.median(found[way]) for way in found] for found in (times, peaks))
            size = record.size_bytes / 1e6
            name = path.parent.name if path.name == "ours.bundle" else path.stem
            rows.append(
                f"| {name} | {record.file.removeprefix('model.')} | {size:.2f} | {bare:.2f} | {checked:.2f} | {checked - bare:.2f} "
                f"| {checked / bare:.2f} | {small:.1f} | {large:.1f} | {(large - small) / size:.2f} |"
            )
            print(rows[-1], flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
