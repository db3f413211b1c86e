"""Our latency beside everybody else's, on the same networks, in turns, in one run: the figures behind docs/latency.md.

python benchmarks/peers.py WORK [--zoo FOLDER --digits mnist10k.npz]
    [--peer-python nncf=PYTHON ncnn=PYTHON mnn=PYTHON onnxruntime-openvino=PYTHON]
    [--only NETWORK …] [--threads 1 2] [--sets 6] [--page docs/latency.md]

The nine reference networks have seeded weights; with ``--zoo``, the folder that ``benchmarks/train_zoo.py`` made, the trained
networks are measured as well. Peers that need another environment are left out where it is not given. Files are made once and
kept in WORK, results in ``WORK/results.json``: a run that was stopped goes on where it was. Every row is a process of its own; they
take turns there and back (A B C C B A), anew in each of ``--sets`` sets of fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np
from latency_peers.kept import continued
from latency_peers.make import ENVIRONMENT_OF, STEPS
from latency_peers.networks import NETWORKS
from latency_peers.page import write_page
from latency_peers.variant import VARIANTS, Variant

from lepton_edge.device import PACKAGES, read_device
from lepton_runtime.versions import installed_versions

ROUNDS = 2  # there and back, in each set of processes
BLOCK_SECONDS = 0.08
WARMUP_SECONDS = 0.15
LIMIT_SECONDS = 60.0  # for a block, and for the first answer: a process that hangs is ended
SAME = 0.005  # of the largest answer: how far answers of fresh processes may be apart
OFF = {"fp32": 0.02, "int8": 0.5}  # likewise: how far they may be off Keras'; float32 files may have float16 weights
ONE_SET = ("keras",)  # which take seconds to start, and tens of milliseconds a call
HERE = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder for files and results")
    parser.add_argument("--zoo", type=Path, help="the folder that benchmarks/train_zoo.py made: trained networks and photos")
    parser.add_argument("--digits", type=Path, help="digits for the trained LSTM, an .npz")
    parser.add_argument("--peer-python", nargs="+", default=[], metavar="PEER=PYTHON", help="interpreters of peers' own environments")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these networks")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sets", type=int, default=6, help="sets of fresh processes (default 6, the fewest for an interval)")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "latency.md")
    return parser.parse_args()


class Peers:
    """The interpreters, by environment."""

    def __init__(self, given: list[str]) -> None:
        self.pythons = {"": sys.executable, **dict(entry.split("=", 1) for entry in given)}

    def run(self, environment: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of our scripts in an environment."""
        return subprocess.run([self.pythons[environment], *arguments], capture_output=True, text=True, cwd=HERE, check=False)


def make_files(name: str, folder: Path, peers: Peers, arguments: argparse.Namespace) -> None:
    """Make what is still missing of a network's files; ``made.json`` has the last line of what a step that failed said."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("trained-") and not (folder / "trained.keras").exists():
        places = [str(path.resolve()) for path in (arguments.zoo, arguments.digits, folder)]
        subprocess.run([sys.executable, "-m", "latency_peers.trained", name, *places], cwd=HERE, check=True)
    outcomes = folder / "made.json"
    made: dict[str, str] = json.loads(outcomes.read_text()) if outcomes.exists() else {}
    for step in STEPS:
        environment = ENVIRONMENT_OF.get(step, "")
        if step in made or environment not in peers.pythons:
            continue
        print(f"{name}: {step}", flush=True)
        done = peers.run(environment, "-m", "latency_peers.make", step, name, str(folder.resolve()))
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        made[step] = "" if done.returncode == 0 else last if done.returncode > 0 else f"ended by signal {-done.returncode}"
        outcomes.write_text(json.dumps(made, indent=1))


def tuned_settings(folder: Path, variant: Variant, threads: int) -> dict[str, object]:
    """What ``lepton-edge tune`` chooses with at most so many threads."""
    options = ["--max-drop", "0.5pp"] if variant.file == "budget" else ["--precision", "fp32,fp16"]
    counts = ",".join(str(count) for count in (1, 2, 4, 8) if count <= threads)
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        command = [sys.executable, "-m", "lepton_edge", "tune", str(folder / "ours.bundle"), "--threads", counts, "--json", str(result)]
        subprocess.run([*command, *options], check=True, capture_output=True, env={**os.environ, "XDG_DATA_HOME": place})
        best = json.loads(result.read_text())["best"]
    (folder / "ours.bundle.tuned.json").unlink(missing_ok=True)
    return {key: best[key] for key in ("file", "engine", "threads", "spins")}


class Row:
    """A process of :mod:`latency_peers.worker`."""

    def __init__(self, variant: Variant, folder: Path, threads: int, peers: Peers, stack: ExitStack, settings: dict[str, object]) -> None:
        path = folder / ("ours.bundle" if variant.is_ours else variant.file)
        chosen = dict(settings)
        request = {
            "engine": variant.engine,
            "path": str(path.resolve()),
            "samples": str((folder / "samples.npy").resolve()),
            "threads": chosen.pop("threads", threads),
            "settings": chosen or ({"file": variant.file} if variant.is_ours else {}),
        }
        # A file: a process that says more than a pipe holds would wait for a reader.
        self._stderr = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115  # closed by the stack
        self._process = stack.enter_context(
            subprocess.Popen(
                [peers.pythons[variant.environment], str(HERE / "latency_peers" / "worker.py"), json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        )
        stack.callback(self._process.kill)
        self.answer = np.array(json.loads(self._line())["answer"])

    def block_ns(self, seconds: float) -> float:
        """The median of a block of calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        """What the process says next."""
        assert self._process.stdout is not None
        has_hung = threading.Event()

        def end() -> None:
            has_hung.set()
            self._process.kill()

        watchdog = threading.Timer(LIMIT_SECONDS, end)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            self._stderr.seek(0)
            words = (self._stderr.read().strip().splitlines() or ["no message"])[-1][:200]
            raise OSError(f"no answer in {LIMIT_SECONDS:.0f} s" if has_hung.is_set() else words)
        return line


def measure(folder: Path, threads: int, sets: int, peers: Peers) -> dict[str, object]:
    """The medians of each row in each set, what was tuned to, how far answers are from Keras', and why rows are missing."""
    absent = {name: reason for name, variant in VARIANTS.items() if (reason := why_absent(variant, folder, peers))}
    tuned = [variant for variant in VARIANTS.values() if variant.engine == "lepton-tuned" and variant.name not in absent]
    chosen = {variant.name: tuned_settings(folder, variant, threads) for variant in tuned}
    medians: dict[str, list[float]] = {}
    answers: dict[str, list[np.ndarray]] = {}
    for number in range(sets):
        with ExitStack() as stack:
            rows: dict[str, Row] = {}
            for variant in VARIANTS.values():
                if variant.name in absent or (number and variant.name in ONE_SET):
                    continue
                try:
                    rows[variant.name] = Row(variant, folder, threads, peers, stack, chosen.get(variant.name, {}))
                except OSError as error:
                    absent[variant.name] = str(error)
            found, failed = take_turns(rows)
            for key, values in found.items():
                medians.setdefault(key, []).append(float(np.median(values)))
            for key in found:
                answers.setdefault(key, []).append(rows[key].answer)
            absent |= failed
        if "keras" in absent:
            raise OSError(f"Keras must answer, for others to be compared with it: {absent['keras']}")
    expected = answers["keras"][0]
    is_trained = (folder / "labelled.json").exists()
    for key, found in answers.items():
        kind = VARIANTS[key].kind  # of random weights, what 8 bits answer says nothing
        if fault := wrong_answer(found, expected, limit=OFF[kind] if kind == "fp32" or is_trained else None):
            absent.setdefault(key, fault)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "medians_ns": {key: values for key, values in medians.items() if key not in absent},
        "absent": absent,
        "chosen": chosen,
        "max_difference": {key: float(np.abs(found[0] - expected).max()) for key, found in answers.items() if key not in absent},
    }


def wrong_answer(found: list[np.ndarray], expected: np.ndarray, *, limit: float | None) -> str:
    """Why the answers of a row's processes are none, in words; empty if they are.

    Args:
        found: One a process.
        expected: Keras' own.
        limit: How far they may be off, over the largest answer; ``None`` for however far.
    """
    shapes = {one.shape for one in found} - {expected.shape}
    if shapes:
        return f"{shapes.pop()[0]} numbers for an answer of {expected.size}"
    largest = float(np.abs(expected).max())
    spread = max(float(np.abs(one - found[0]).max()) for one in found) / largest
    if not spread <= SAME:
        return f"it answers otherwise in each process, {100 * spread:.0f} % of the largest answer apart"
    off = float(np.abs(found[0] - expected).max()) / largest
    return "" if limit is None or off <= limit else f"its answer is {100 * off:.0f} % of the largest answer off"


def why_absent(variant: Variant, folder: Path, peers: Peers) -> str:
    """Why a row cannot be measured; empty if it can."""
    if variant.environment not in peers.pythons:
        return "its environment was not given"
    if not variant.is_ours and not (folder / variant.file).exists():
        made: dict[str, str] = json.loads((folder / "made.json").read_text())
        return made.get(variant.step) or "no file could be made"
    if variant.file == "budget" and not (folder / "labelled.json").exists():
        return "no budget: its weights are random"
    return ""


def take_turns(rows: dict[str, Row]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The medians of each row's blocks, after a warm-up that is in turns, too; and why the others have none."""
    found: dict[str, list[float]] = {key: [] for key in rows}
    failed: dict[str, str] = {}
    for turn in range(ROUNDS + 1):
        for key in (*rows, *(reversed(rows) if turn else ())):
            if key in failed:
                continue
            try:
                value = rows[key].block_ns(BLOCK_SECONDS if turn else WARMUP_SECONDS)
            except OSError as error:
                failed[key] = str(error)
                continue
            if turn:
                found[key].append(value)
    return {key: values for key, values in found.items() if key not in failed}, failed


def measured_peak(threads: int) -> float:
    """Float operations a second of products of large matrices in onnxruntime, the most of twenty of each size."""
    return max(_product_rate(size, threads) for size in (512, 1024, 2048))


def _product_rate(size: int, threads: int) -> float:
    import onnx
    import onnxruntime

    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    doors = [onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, [size, size]) for key in "abc"]
    graph = onnx.helper.make_graph([node], "g", doors[:2], doors[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {key: np.ones((size, size), np.float32) for key in "ab"}
    best = 0.0
    for _ in range(20):
        started = perf_counter()
        session.run(None, feed)
        best = max(best, 2 * size**3 / (perf_counter() - started))
    return best


def main() -> None:
    """Make, measure, and write the page."""
    arguments = parse_arguments()
    peers = Peers(arguments.peer_python)
    names = [*NETWORKS, *([f"trained-{path.stem}" for path in sorted(arguments.zoo.glob("*.keras"))] if arguments.zoo else [])]
    if arguments.only:
        names = [name for name in names if name in arguments.only]
    path = arguments.work / "results.json"
    conditions = {
        "device": str(read_device()),
        "versions": installed_versions(PACKAGES),
        "peers": {name: peer_versions(peers, name) for name in peers.pythons if name},
        "sets": arguments.sets,
    }
    results = continued(path, conditions, ("cells", "peak"))
    for name in names:
        make_files(name, arguments.work / name, peers, arguments)
    results["peak"] |= {str(threads): measured_peak(threads) for threads in arguments.threads if str(threads) not in results["peak"]}
    for name in names:
        for threads in arguments.threads:
            key = f"{name}/{threads}"
            if key not in results["cells"]:
                print(f"{name}: {threads} threads", flush=True)
                cell = measure(arguments.work / name, threads, arguments.sets, peers)
                cell["products"] = json.loads((arguments.work / name / "products.json").read_text())
                results["cells"][key] = cell
                path.write_text(json.dumps(results, indent=1))
    order = [*NETWORKS, *sorted(key.rpartition("/")[0] for key in results["cells"] if key.startswith("trained-"))]
    results["cells"] = dict(sorted(results["cells"].items(), key=lambda cell: (order.index(cell[0].rpartition("/")[0]), cell[0])))
    write_page(results, arguments.page)


def peer_versions(peers: Peers, environment: str) -> dict[str, str]:
    """What is installed there."""
    code = "import importlib.metadata as m, json, sys\nfound = {}\nfor name in sys.argv[1:]:\n    try: found[name] = m.version(name)\n"
    code += "    except m.PackageNotFoundError: pass\nprint(json.dumps(found))"
    names = ("openvino", "nncf", "ncnn", "pnnx", "MNN", "onnxruntime", "onnxruntime-openvino")
    return dict(json.loads(peers.run(environment, "-c", code, *names).stdout))


if __name__ == "__main__":
    main()
