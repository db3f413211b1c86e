"""What the file that ``lepton-edge tune`` keeps saves at the start: process start to first answer, with it and without, in turns.

python benchmarks/cold_start.py WORK [--only NETWORK …] [--runs 10]

WORK is a folder in which ``benchmarks/peers.py`` has made its files. Each bundle's 8-bit and float32 ONNX file is opened as a
device profile says that names it, once as onnxruntime rewrote it on this machine and once as it is, in fresh processes (A B B A).
Prints rows of Markdown: the median with it over the median without, and the latter in milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns

from lepton_edge.device import read_device
from lepton_runtime import Bundle
from lepton_runtime.device_profile import DeviceProfile, device_name, optimized_path, profile_paths, profiles_text
from lepton_runtime.engines import optimized_model
from lepton_runtime.versions import installed_versions

FILES = ("model.fp32.onnx", "model.static-int8.onnx")
APP = """
import sys
from time import perf_counter
import numpy as np
from lepton_runtime import Session
given = np.load(sys.argv[2])[:1]
started = perf_counter()
session = Session.open(sys.argv[1])
loaded = perf_counter()
assert session.artifact.file == sys.argv[3], session.artifact.file
session.run(given)
print(1e3 * (loaded - started))
"""


def start_ms(bundle: Path, samples: Path, file: str) -> tuple[float, float]:
    """How long a process takes to its first answer, and how long of that to load."""
    started = perf_counter_ns()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", APP, str(bundle), str(samples), file], capture_output=True, text=True, check=True
    )
    return (perf_counter_ns() - started) / 1e6, float(done.stdout)


def measure(folder: Path, file: str, runs: int) -> None:
    """Print one row."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_DATA_HOME"] = place  # of the processes, too: what the user has kept is not ours to measure
        paths = {kind: Path(place) / f"{kind}.bundle" for kind in ("usual", "kept")}
        for kind, path in paths.items():
            path.symlink_to((folder / "ours.bundle").resolve(), target_is_directory=True)
            bundle = Bundle.open(path)
            model = optimized_model("onnxruntime", bundle.read(bundle.artifact(file)), threads=1)
            assert model is not None
            version = installed_versions(["onnxruntime"])["onnxruntime"]
            profile = DeviceProfile(bundle.digest, device_name(), version, file, "onnxruntime", 1, True, 0.0, f"{datetime.now(UTC):%Y}")
            if kind == "kept":
                profile, kept = replace(profile, optimized=hashlib.sha256(model).hexdigest()), optimized_path(bundle)
                assert kept is not None
                kept.parent.mkdir(parents=True)
                kept.write_bytes(model)
            profile_paths(bundle)[0].write_text(profiles_text([profile]))
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in paths}
        for number in range(runs + 1):
            for kind in ("usual", "kept", "kept", "usual"):
                times = start_ms(paths[kind], folder / "samples.npy", file)
                if number:  # the first fills the cache of the disk
                    found[kind].append(times)
    medians = {kind: [statistics.median(values) for values in zip(*times, strict=True)] for kind, times in found.items()}
    cells = [f"{medians['kept'][part] / medians['usual'][part]:.2f} ({medians['usual'][part]:.0f} ms)" for part in (0, 1)]
    print(f"| {folder.name} | {file.removeprefix('model.').removesuffix('.onnx')} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions(["lepton-edge", "onnxruntime", "numpy"]).items())
    print(f"{datetime.now(UTC):%Y-%m-%d}, {read_device()}. {versions}.\n")
    print("| network | precision | start to first answer | loading |\n|---|---|---:|---:|")
    for folder in sorted(arguments.work.iterdir()):
        if (folder / "ours.bundle").exists() and folder.name in (arguments.only or [folder.name]):
            for file in FILES:
                measure(folder, file, arguments.runs)


if __name__ == "__main__":
    main()
