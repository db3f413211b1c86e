"""A public client's round trip with ``lepton-edge serve``, for each bundle: what it is told, and the golden inputs' answers.

python benchmarks/serve_round_trip.py BUNDLE...

Each is asked with binary tensors and with JSON. The answers must be those of ``Session.run`` to the bit; else it ends with 1.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from lepton_edge.device import read_device
from lepton_runtime import Bundle, Session
from lepton_runtime.golden import Golden
from lepton_runtime.versions import installed_versions

DATATYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int8": "INT8", "int32": "INT32", "int64": "INT64"}


def faults_of(path: Path) -> tuple[int, list[str]]:
    """How many round trips there were, and what was wrong with them."""
    server = subprocess.Popen(
        [sys.executable, "-m", "lepton_edge", "serve", str(path), "--port", "0", "--max-body", "64"], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        found = re.search(r"on http://([\d.]+:\d+);", line)
        if not found:
            return 0, [line + server.stderr.read()]
        client = triton.InferenceServerClient(found[1], connection_timeout=60, network_timeout=60)
        bundle = Bundle.open(path)
        with Session.open(bundle) as session:
            return ask(client, bundle, session)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        server.stderr.close()


def ask(client: triton.InferenceServerClient, bundle: Bundle, session: Session) -> tuple[int, list[str]]:
    """The round trips with one model."""
    name = bundle.path.name.removesuffix(".bundle")
    faults, trips = [], 0
    if not (client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)):
        faults.append("it is not ready")
    told = client.get_model_metadata(name)
    for kind, specs in (("inputs", session.inputs), ("outputs", session.artifact.outputs)):
        wanted = [(spec.name, DATATYPES[spec.dtype], [-1 if axis is None else axis for axis in spec.shape]) for spec in specs]
        if [(entry["name"], entry["datatype"], entry["shape"]) for entry in told[kind]] != wanted and not session.encoders:
            faults.append(f"its {kind} are told as {told[kind]}")
    golden = Golden.open(bundle)
    raw = {entry["name"]: golden.arrays[f"raw/{entry['name']}"] for entry in told["inputs"]} if session.encoders else {}
    batches = [{name: values[:1] for name, values in raw.items()}] if raw else golden.batches(session.artifact)
    for batch in batches:
        expected = session.run(session.encode(batch) if raw else batch)
        for is_binary in (True, False):
            given = []
            for entry in told["inputs"]:
                array = batch[entry["name"]].astype(object) if entry["datatype"] == "BYTES" else batch[entry["name"]]
                given.append(triton.InferInput(entry["name"], array.shape, entry["datatype"]))
                given[-1].set_data_from_numpy(array, binary_data=is_binary)
            asked = [triton.InferRequestedOutput(spec.name, binary_data=is_binary) for spec in session.artifact.outputs]
            answer = client.infer(name, given, outputs=asked)
            trips += 1
            faults += [
                f"{one} differs" for one, values in expected.items() if not np.array_equal(answer.as_numpy(one), values, equal_nan=True)
            ]
    return trips, faults


def main(paths: list[Path]) -> int:
    """Print a line a bundle."""
    packages = ("lepton-edge", "onnxruntime", "tritonclient", "uvicorn", "starlette")
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(packages)}")
    wrong = 0
    for path in paths:
        trips, faults = faults_of(path)
        wrong += bool(faults or not trips)
        print(f"{path}: {trips} round trips, {'; '.join(faults) or 'all alike'}", flush=True)
    print(f"{len(paths) - wrong} of {len(paths)} bundles")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main([Path(path) for path in sys.argv[1:]]))
