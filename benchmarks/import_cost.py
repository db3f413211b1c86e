"""What ``import lepton_runtime`` costs beyond numpy and onnxruntime, each time in a fresh interpreter.

python benchmarks/import_cost.py [PYTHON]

Give the interpreter of an environment in which the wheel is installed: an editable install searches more folders.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 20
SCRIPT = """
import time
start = time.perf_counter()
import numpy, onnxruntime
middle = time.perf_counter()
import lepton_runtime
print((middle - start) * 1e3, (time.perf_counter() - middle) * 1e3)
"""


def main(python: str) -> None:
    """Print the medians and the fastest of the runs."""
    rows = []
    for _ in range(RUNS + 1):
        done = subprocess.run([python, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
        rows.append(tuple(map(float, done.stdout.split())))
    for name, values in zip(("numpy and onnxruntime", "lepton_runtime on top"), zip(*rows[1:], strict=True), strict=True):
        print(f"{name:<24} median {statistics.median(values):7.1f} ms   fastest {min(values):7.1f} ms   {RUNS} runs")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
