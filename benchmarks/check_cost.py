"""What ``lepton-edge check`` costs as a whole process on models of 100 MB, and what of it is reading them.

python benchmarks/check_cost.py [PYTHON]

Give the interpreter of an environment in which the wheel is installed; this one makes the models and needs Keras.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
# Made in a process of its own, so that nothing of TensorFlow's is left in this one.
MAKE = """
import sys, keras
for name, model in (("resnet50", keras.applications.ResNet50), ("efficientnetv2s", keras.applications.EfficientNetV2S)):
    network = model(weights=None)
    for suffix in (".keras", ".h5"):
        network.save(f"{sys.argv[1]}/{name}{suffix}")
"""
# The heaviest imports of an export; none may be loaded.
IMPORTS = """
import sys
sys.argv = ["lepton-edge", "check", sys.argv[1]]
from lepton_edge.cli import main
try:
    main()
except SystemExit:
    pass
print(*[name for name in ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime") if name in sys.modules], file=sys.stderr)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """How long a command takes, and how much CPU time of its own, in milliseconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * wall, 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main(python: str) -> None:
    """Print the medians and the fastest of the runs; models and commands take turns."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE, folder], env=environment, stderr=subprocess.DEVNULL, check=True)
        files = sorted(Path(folder).iterdir())
        commands = {"(the command line alone)": ["--version"], **{file.name: ["check", str(file)] for file in files}}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(RUNS + 1):
            for name, arguments in commands.items():
                found[name].append(measure([python, "-m", "lepton_edge", *arguments]))
        for name, runs in found.items():
            size = f"{(Path(folder) / name).stat().st_size / 1e6:6.1f} MB" if (Path(folder) / name).is_file() else " " * 9
            wall, cpu = zip(*runs[1:], strict=True)
            print(
                f"{name:<26} {size}   median {statistics.median(wall):6.0f} ms   fastest {min(wall):6.0f} ms   "
                f"CPU time {statistics.median(cpu):6.0f} ms   {RUNS} runs"
            )
        done = subprocess.run([python, "-c", IMPORTS, str(files[0])], capture_output=True, text=True, check=True)
        print(f"loaded of TensorFlow, Keras, tf2onnx, onnx and onnxruntime: {done.stderr.splitlines()[-1] or 'nothing'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
