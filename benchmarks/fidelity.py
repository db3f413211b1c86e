"""Our int8 files against those of other quantizers, on the same networks and samples: the run behind docs/fidelity.md.

    python benchmarks/fidelity.py ZOO mnist10k.npz WORK [--peer-python nncf=PYTHON ai-edge-quantizer=PYTHON] [--latency]

ZOO is the folder of benchmarks/train_zoo.py. Each conversion, each evaluation and each measurement of latency is a process of
its own. Results are kept in ``WORK/results.jsonl`` and ``WORK/latency.jsonl``, one cell a line: a run that was stopped goes on
where it was. Latencies are measured when ``--latency`` asks for them, on a machine that has nothing else to do.

NNCF and ai-edge-quantizer want environments of their own, with this project in them and
``openvino nncf tensorflow-cpu keras tf2onnx onnx onnxruntime`` or ``ai-edge-quantizer tensorflow-cpu keras``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fidelity_peers.comparison import Lead, compare, lead
from fidelity_peers.method import ENVIRONMENTS, METHODS, PLAIN, SUFFIXES, Method
from fidelity_peers.page import write_page
from fidelity_peers.result import Key, Latency, Result, append_record, read_records
from fidelity_peers.samples import Samples, write_samples

import lepton_converters
import lepton_runtime
from lepton_edge.device import read_device

NETWORKS = ("resnet8", "mobilenetv2", "mobilenetv3", "efficientnet", "densenet", "vgg", "vit", "lstm")
PROCESSES, ROUNDS = 6, 10  # of a latency; six are the fewest that give its ratio an interval
_HERE = Path(__file__).absolute().parent


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, help="the folder with the networks and the photos")
    parser.add_argument("digits", type=Path, help="the file with the digits")
    parser.add_argument("work", type=Path, help="the folder for results and files")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NETWORK", help=" ".join(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help=" ".join(METHODS))
    parser.add_argument("--redo", nargs="+", choices=METHODS, default=[], metavar="METHOD", help="methods whose results are not taken")
    parser.add_argument("--peer-python", nargs="+", type=_peer, default=[], metavar="PEER=PYTHON", help=" ".join(ENVIRONMENTS))
    parser.add_argument("--latency", action="store_true", help="measure latencies as well")
    parser.add_argument("--limit-seconds", type=float, default=3600, help="what one process may take (default %(default)s)")
    parser.add_argument("--page", type=Path, default=_HERE.parent / "docs" / "fidelity.md", help="where the page is written")
    return parser.parse_args()


def _peer(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in ENVIRONMENTS or not Path(python).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(ENVIRONMENTS)}, =, and the path of an interpreter")
    return name, str(Path(python).absolute())


class Run:
    """One run; it holds what all cells have in common."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.zoo: Path = arguments.zoo.absolute()
        self.digits: Path = arguments.digits.absolute()
        self.work: Path = arguments.work.absolute()
        self.limit_seconds: float = arguments.limit_seconds
        self.pythons = {"": sys.executable, **dict(arguments.peer_python)}
        self.dated = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": str(read_device())}

    def source(self, network: str, method: Method) -> str:
        """The first digits of the SHA-256 of what the result rests on: the network, the samples, and the code of ours."""
        return _digest(self.zoo / f"{network}.keras", *self.samples(network).files, *(_code() if method.name.startswith("ours") else ()))

    def pair(self, network: str, method: Method) -> str:
        """The first digits of the SHA-256 of the method's file and of the one it is timed against."""
        return _digest(self.file(network, METHODS[method.base]), self.file(network, method))

    def samples(self, network: str) -> Samples:
        """What the network is calibrated and tested on."""
        of_digits = network == "lstm"
        photos = next(path.parent for path in (self.zoo / "cifar10").glob("**/train")) if not of_digits else None
        return write_samples(self.work / ("digits" if of_digits else "photos"), photos=photos, digits=self.digits if of_digits else None)

    def file(self, network: str, method: Method) -> Path:
        """Where the method's file is."""
        return self.work / "files" / network / f"{method.name}{SUFFIXES[method.engine]}"

    def measure(self, network: str, method: Method) -> Result:
        """Convert and evaluate."""
        samples, path = self.samples(network), self.file(network, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = Result(network, method.name, self.source(network, method), **self.dated)
        found = self._run(method.environment, "make", method.name, self.zoo / f"{network}.keras", samples.folder, path)
        if "failure" in found:
            return replace(result, **found)
        size_bytes = sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.exists())
        scores = path.with_suffix(".npy")
        answered = self._run(self._evaluator(method), "answer", method.name, path, samples.folder, scores)
        found["versions"] |= answered.pop("versions", {})
        result = replace(result, **found, **answered, size_bytes=size_bytes)
        if result.failure:
            return result
        fidelity = compare(np.load(scores), self._scores(network, "keras"), samples.test()[1])
        named = {"drop_low": fidelity.low, "drop_high": fidelity.high, "expected_drop": fidelity.expected}
        return replace(result, accuracy=fidelity.accuracy, drop=fidelity.drop, agreement=fidelity.agreement, **named)

    def leads(self, network: str, method: Method, results: Mapping[Key, Result]) -> tuple[Lead, Lead] | None:
        """That over the plain peer of the same engine that is right most often, and over the one that answers most often as Keras.

        Each is chosen by the very samples that the lead is measured on, which is to the peer's good.
        """
        found = [results[key] for each in METHODS.values() if each.is_plain_peer and (key := (network, each.name)) in results]
        peers = [peer for peer in found if not peer.failure and METHODS[peer.method].engine == method.engine]
        own = results.get((network, method.name))
        if own is None or own.failure or not peers:
            return None
        labels = self.samples(network).test()[1]
        reference = self._scores(network, "keras").argmax(axis=1)
        accurate = max(peers, key=lambda peer: (peer.accuracy or 0, peer.agreement or 0)).method
        faithful = max(peers, key=lambda peer: (peer.agreement or 0, peer.accuracy or 0)).method
        scores = self._scores(network, method.name)
        return (
            lead(scores, self._scores(network, accurate), labels, over=METHODS[accurate].title),
            lead(scores, self._scores(network, faithful), reference, over=METHODS[faithful].title),
        )

    def _scores(self, network: str, name: str) -> np.ndarray:
        scores: np.ndarray = np.load(self.file(network, METHODS[name]).with_suffix(".npy"))
        return scores

    def clock(self, network: str, method: Method) -> Latency:
        """The medians of the method's file and of float32, in several processes."""
        paths = [self.file(network, METHODS[method.base]), self.file(network, method)]
        latency = Latency(network, method.name, self.pair(network, method), **self.dated)
        for number in range(PROCESSES):
            arguments = (method.name, *paths, self.samples(network).folder, ROUNDS, number % 2 == 1)
            found = self._run(self._evaluator(method), "clock", *arguments)
            if "failure" in found:
                return replace(latency, **found)
            latency.base_ms.append(found["base_ms"])
            latency.new_ms.append(found["new_ms"])
        return latency

    def _evaluator(self, method: Method) -> str:
        """Files run in the environment at work, all on the same versions, but those that only a peer's engine runs."""
        return method.environment if method.engine == "openvino" else ""

    def _run(self, environment: str, step: str, *arguments: object) -> dict[str, Any]:
        """What a process reports, or how it failed."""
        report = self.work / "report.json"
        report.unlink(missing_ok=True)
        command = [self.pythons[environment], "-m", "fidelity_peers.process", step, str(report), *map(str, arguments)]
        path = os.pathsep.join(filter(None, (str(_HERE), os.environ.get("PYTHONPATH"))))
        with (self.work / "processes.log").open("a") as log:
            try:
                done = subprocess.run(
                    command,
                    cwd=self.work,  # onnxruntime's shape inference leaves files where it runs
                    env={**os.environ, "PYTHONPATH": path},
                    stdout=log,
                    stderr=log,
                    timeout=self.limit_seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return {"failure": f"hangs: not done after {self.limit_seconds:.0f} s"}
        if done.returncode:
            code = done.returncode
            return {"failure": f"crashes: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"}
        found: dict[str, Any] = json.loads(report.read_text())
        return found


@cache
def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


@cache
def _code() -> list[Path]:
    """The modules that make our files."""
    return [path for package in (lepton_converters, lepton_runtime) for path in sorted(Path(package.__path__[0]).rglob("*.py"))]


def main(arguments: argparse.Namespace) -> None:
    """Measure what has no result yet, and write the page."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    run = Run(arguments)
    present = [name for name in NETWORKS if (run.zoo / f"{name}.keras").exists()]
    absent = [name for name in NETWORKS if name not in present]
    if absent:
        print(f"not in {run.zoo}, and left out: {', '.join(absent)}", file=sys.stderr)
    wanted = [method for method in METHODS.values() if method.name in ("keras", *arguments.methods) and method.environment in run.pythons]
    cells = [(network, method) for network in present if network in arguments.only for method in wanted]
    results = {
        key: result
        for key, result in read_records(work / "results.jsonl", Result).items()
        if result.network in present and result.source == run.source(result.network, METHODS[result.method])
    }
    missing = [(network, method) for network, method in cells if (network, method.name) not in results or method.name in arguments.redo]
    for number, (network, method) in enumerate(missing, 1):
        result = results[network, method.name] = run.measure(network, method)
        append_record(work / "results.jsonl", result)
        _tell(number, len(missing), result.key, result.failure or f"{100 * (result.accuracy or 0):.2f} %, {result.seconds or 0:.0f} s")

    answered = {key for key, result in results.items() if not result.failure}
    pairs = {
        (network, name): run.pair(network, METHODS[name])
        for network, name in answered
        if METHODS[name].base and (network, METHODS[name].base) in answered
    }
    latencies = {key: latency for key, latency in read_records(work / "latency.jsonl", Latency).items() if latency.source == pairs.get(key)}
    keys = [(network, method.name) for network, method in cells if arguments.latency]
    unknown = [key for key in keys if key in pairs and key not in latencies]
    for number, key in enumerate(unknown, 1):
        latency = latencies[key] = run.clock(key[0], METHODS[key[1]])
        append_record(work / "latency.jsonl", latency)
        _tell(number, len(unknown), key, latency.failure or f"{min(latency.new_ms):.3f} ms")

    leads = {
        (network, name): found for name in PLAIN for network in present if (found := run.leads(network, METHODS[name], results)) is not None
    }
    arguments.page.write_text(write_page(present, results, latencies, leads, absent=absent, environments=run.pythons))
    records = {"results": [asdict(each) for each in results.values()], "latencies": [asdict(each) for each in latencies.values()]}
    (work / "fidelity.json").write_text(json.dumps(records, indent=1) + "\n")
    print(arguments.page)


def _tell(number: int, total: int, key: Key, text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}, {number}/{total}] {' '.join(key)}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(parse_arguments())
