"""One step of one cell in a process of its own: ``python -m fidelity_peers.process STEP …``, with a JSON file to report in."""

import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fidelity_peers.convert import convert
from fidelity_peers.engine import answers, open_file, time_in_turns
from fidelity_peers.method import METHODS
from fidelity_peers.samples import Samples
from lepton_runtime.versions import installed_versions


def make(name: str, model: str, folder: str, output: str) -> dict[str, Any]:
    """What one conversion took and chose."""
    method = METHODS[name]
    for module in method.imports:
        importlib.import_module(module)
    import_bytes, started = _peak_bytes(), time.perf_counter()
    note = convert(name, Path(model), Samples(Path(folder)), Path(output))
    return {
        "seconds": time.perf_counter() - started,
        "import_bytes": import_bytes,
        "peak_bytes": _peak_bytes(),
        "note": note,
        "versions": installed_versions(method.packages),
    }


def answer(name: str, path: str, folder: str, output: str) -> dict[str, Any]:
    """Write the file's scores for all images to test on."""
    inputs, _ = Samples(Path(folder)).test()
    np.save(output, answers(open_file(Path(path), METHODS[name].engine), inputs))
    packages = {"keras": "keras", "onnxruntime": "onnxruntime", "litert": "ai-edge-litert", "openvino": "openvino"}
    return {"versions": installed_versions([packages[METHODS[name].engine]])}


def clock(name: str, base: str, new: str, folder: str, rounds: str, is_reversed: str) -> dict[str, Any]:
    """What a call of each takes, in turns."""
    inputs, _ = Samples(Path(folder)).test()
    calls = [open_file(Path(path), METHODS[name].engine) for path in (base, new)]
    base_ms, new_ms = time_in_turns(calls, inputs[0], rounds=int(rounds), is_reversed=is_reversed == "True")
    return {"base_ms": base_ms, "new_ms": new_ms}


def _peak_bytes() -> int:
    """The largest resident memory of this process so far.

    Not ``ru_maxrss``, which starts with that of the process it was forked from. Source: getrusage(2), proc_pid_status(5).
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status must have VmHWM, and has not")
    return 1024 * int(found[1])


def _plain(text: str) -> str:
    """One line without colors and without places of this machine, and not a converter's whole listing."""
    text = re.sub(r"\x1b\[\d*m", "", text)
    return re.sub(r"(?<![\w.])/[\w./-]+/", "", " ".join(text.split()))[:200]


def main(step: str, report: str, *arguments: str) -> None:
    """Do it, and report; what is raised is an outcome as well."""
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    os.environ["NNCF_CI"] = "1"  # no telemetry of NNCF
    sys.modules["openvino_telemetry"] = None  # nor of OpenVINO, which takes a stub where this cannot be imported
    try:
        found = {"make": make, "answer": answer, "clock": clock}[step](*arguments)
    except Exception as error:  # noqa: BLE001  # whatever is raised is an outcome
        found = {"failure": _plain(f"{type(error).__name__}: {error}")}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
