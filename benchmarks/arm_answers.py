"""What every artifact answers on x86 and, emulated, on a Raspberry Pi 4 and a Pi 5: the figures behind docs/arm64.md.

python benchmarks/arm_answers.py WORK FOLDER [--only NETWORK …] [--page docs/arm64.md]

WORK is a folder in which ``benchmarks/peers.py`` has made its networks and our bundles of them; FOLDER takes an emulated ARM64
userland (280 MB, kept). Each artifact gets the same inputs everywhere, on its engine, with one thread: 100, or fewer
where a network is too large to be emulated as often. Differences are shares of the output's largest value on x86, or absolute where
that is below 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from arm_work import ROOT, load_userland
from latency_peers.kept import continued, days

from lepton_edge.device import PACKAGES, read_device
from lepton_runtime import Bundle
from lepton_runtime.formats import Precision
from lepton_runtime.versions import installed_versions

CPUS = ("pi4", "pi5")
BOARDS = {"pi4": "Cortex-A72", "pi5": "Cortex-A76"}
INPUTS = 100
LARGE = {"mobilenetv2": 50, "efficientnetb0": 20, "resnet50": 2}  # inputs of what takes seconds each, emulated
LIMIT_S = 3600.0
GUEST = """
import sys, warnings
import numpy as np
from lepton_runtime import Bundle, Session
warnings.simplefilter("ignore")
bundle_path, file, samples, output = sys.argv[1:]
bundle = Bundle.open(bundle_path)
with np.load(samples) as archive, Session(bundle, bundle.artifact(file)) as session:
    given = {spec.name: spec.quantize(archive[spec.name]) for spec in session.inputs}
    answers = session.run_batch(given)
np.savez(output, **{spec.name: spec.dequantize(answers[spec.name]) for spec in session.artifact.outputs})
"""

_WHY = (
    "Why they differ:",
    "",
    "- **Float files**: a processor with vectors of another width adds up in another order, and rounds elsewhere in float32.",
    "  The weights of `fp16` are widened on loading: it is computed in float32, too.",
    "- **`int16x8`**: whole numbers from the first layer to the last, by LiteRT's portable code: the same bits everywhere.",
    "- **`static-int8`**: sums of 8-bit products are whole numbers, and the same. What lies between or behind them in float",
    "  (a softmax, a layer norm, gates, a swish, the rescaling of a sum) may differ in its last bit. At the end that is all",
    "  there is to see; before it, a value between two of the 256 steps may take the other one, and layers behind it follow.",
    "- **`dynamic-int8`**: the range of the activations is found in each call, in float. LiteRT has kernels of its own for the",
    "  dot product of the Cortex-A76, which round otherwise: the boards differ from each other, too.",
    "",
    "Networks without `trained` in their names have random weights: their scores are nearly alike, and the largest changes its",
    "place soonest. Files that lost more accuracy on export than allowed are left out: no session opens them by itself.",
)


def make_inputs(folder: Path, bundle: Bundle, path: Path, count: int) -> int:
    """Write inputs of the network: its samples, and more of their range at random where there are too few; how many there are."""
    samples = np.load(folder / "samples.npy")
    (spec,) = bundle.manifest.inputs
    missing = count - len(samples)
    if missing > 0:
        drawn = np.random.default_rng(0).uniform(samples.min(), samples.max(), (missing, *samples.shape[1:]))
        samples = np.concatenate([samples, drawn.astype(samples.dtype)])
    np.savez(path, **{spec.name: samples[:count]})
    return count


class Machines:
    """This machine, and the emulated boards."""

    def __init__(self, folder: Path) -> None:
        self._userland, self._folder = load_userland(), folder.resolve()
        self._userland.set_up(self._folder)
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, str(ROOT)]
            subprocess.run(command, check=True, capture_output=True)
            (wheel,) = Path(place).glob("*.whl")
            self._userland.install(self._folder, ROOT / "constraints.txt", f"{wheel}[litert]")

    def answers(self, cpu: str, bundle: Path, file: str, samples: Path) -> dict[str, np.ndarray] | str:
        """The outputs by name, or why there are none."""
        with tempfile.TemporaryDirectory() as place:
            output = Path(place) / "answers.npz"
            arguments = ("-c", GUEST, str(bundle.resolve()), file, str(samples), str(output))
            if cpu == "x86":
                done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
            else:
                try:
                    done = self._userland.run(self._folder, cpu, *arguments, timeout=LIMIT_S)
                except subprocess.TimeoutExpired:
                    return f"no answers within {LIMIT_S:.0f} s"
            if done.returncode:
                return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            with np.load(output) as archive:
                return dict(archive)


def compared(expected: dict[str, np.ndarray], found: dict[str, np.ndarray] | str) -> dict[str, Any]:
    """The largest difference of all outputs, and in how many samples all have their largest value at the same place."""
    if isinstance(found, str):
        return {"failed": found}
    difference, agree = 0.0, np.ones(len(next(iter(expected.values()))), bool)
    for name, values in expected.items():
        apart = np.abs(found[name].astype(np.float64) - values)
        difference = max(difference, float(apart.max()) / max(1.0, float(np.abs(values).max())))
        rows = values.reshape(len(values), -1), found[name].reshape(len(values), -1)
        if rows[0].shape[1] > 1:
            agree &= rows[0].argmax(axis=1) == rows[1].argmax(axis=1)
    return {"difference": difference, "agreement": int(agree.sum())}


def measure(folder: Path, machines: Machines) -> dict[str, Any]:
    """One network: by artifact, what each board's answers are to x86's."""
    bundle = Bundle.open(folder / "ours.bundle")
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(len(CPUS)) as pool:
        samples = Path(place) / "samples.npz"
        count = make_inputs(folder, bundle, samples, LARGE.get(folder.name, INPUTS))
        found: dict[str, Any] = {}
        for record in bundle.manifest.artifacts:
            if not record.passed:  # refused on export: its answers are wrong everywhere
                continue
            expected = machines.answers("x86", bundle.path, record.file, samples)
            if isinstance(expected, str):
                found[record.file] = {cpu: {"failed": expected} for cpu in CPUS}
                continue
            started = monotonic()
            answers = pool.map(lambda cpu, file=record.file: machines.answers(cpu, bundle.path, file, samples), CPUS)
            found[record.file] = {cpu: compared(expected, answer) for cpu, answer in zip(CPUS, answers, strict=True)}
            print(f"{folder.name} {record.file}: {found[record.file]}, {monotonic() - started:.0f} s", flush=True)
    return {"inputs": count, "artifacts": found}


def write_page(results: dict[str, Any], path: Path) -> None:
    """The tables."""
    versions = ", ".join(f"{name} {results['versions'][name]}" for name in ("lepton-edge", "onnxruntime", "numpy", "ai-edge-litert"))
    lines = [
        "# Answers on ARM64",
        "",
        f"Made by `python benchmarks/arm_answers.py WORK FOLDER` on {days(list(results['dates'].values()))}; x86: {results['device']};",
        "ARM64: the wheel in a Debian Bookworm userland, run by QEMU 10 as a Cortex-A72 (Raspberry Pi 4) and as a Cortex-A76 (Pi 5).",
        f"The same versions on both sides: {versions}.",
        "",
        "Each file gets the same inputs on x86 and on ARM64, on its engine, with one thread. A difference is the largest of all outputs",
        "and inputs, as a share of the output's largest value on x86 (absolute where that is below 1); `same` counts inputs whose",
        "largest output is at the same place; `0` is to the bit. QEMU computes what the architecture defines; a board was not at hand,",
        "and nothing here is about time.",
        "",
        *explained(results),
    ]
    for precision in Precision:
        rows = [
            (network, file, found["inputs"], boards)
            for network, found in results["networks"].items()
            for file, boards in found["artifacts"].items()
            if file.split(".")[1] == precision.value
        ]
        if not rows:
            continue
        lines += ["", f"## {precision.value}", ""]
        lines += ["| network | engine | inputs | " + " | ".join(f"{BOARDS[cpu]} | same" for cpu in CPUS) + " |"]
        lines += ["|---|---|---:|" + "---:|---:|" * len(CPUS)]
        for network, file, count, boards in rows:
            engine = "onnxruntime" if file.endswith(".onnx") else "LiteRT"
            cells = [cell for cpu in CPUS for cell in written(boards[cpu])]
            lines.append(f"| {network} | {engine} | {count} | {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def written(found: dict[str, Any]) -> tuple[str, str]:
    """A difference and an agreement as they are shown."""
    if "failed" in found:
        return "–", found["failed"]
    return ("0" if found["difference"] == 0 else f"{found['difference']:.1e}"), str(found["agreement"])


def explained(results: dict[str, Any]) -> list[str]:
    """What the tables say, counted."""
    cells = [
        (file, count, boards[cpu])
        for found in results["networks"].values()
        for count in (found["inputs"],)
        for file, boards in found["artifacts"].items()
        for cpu in CPUS
        if "failed" not in boards[cpu]
    ]
    groups = {
        "float files (`fp32`, `fp16`) on onnxruntime": lambda file: file.split(".")[1] in ("fp32", "fp16") and file.endswith(".onnx"),
        "float files on LiteRT": lambda file: file.split(".")[1] in ("fp32", "fp16") and file.endswith(".tflite"),
        "`static-int8` on onnxruntime": lambda file: file == "model.static-int8.onnx",
        "`static-int8` on LiteRT": lambda file: file == "model.static-int8.tflite",
        "`int16x8` on LiteRT": lambda file: file == "model.int16x8.tflite",
        "`dynamic-int8` on either": lambda file: file.startswith("model.dynamic-int8"),
    }
    lines = ["| | files × boards | equal to the bit | largest difference | inputs that agree |", "|---|---:|---:|---:|---:|"]
    for words, belongs in groups.items():
        chosen = [(count, found) for file, count, found in cells if belongs(file)]
        if chosen:
            differences = [found["difference"] for _, found in chosen]
            agreement = f"{sum(found['agreement'] for _, found in chosen):,} of {sum(count for count, _ in chosen):,}"
            lines.append(f"| {words} | {len(chosen)} | {differences.count(0)} | {max(differences):.1e} | {agreement} |")
    return [*lines, "", *_WHY]


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "arm64.md")
    arguments = parser.parse_args()
    path = arguments.work / "arm-answers.json"
    conditions = {"versions": installed_versions(PACKAGES), "device": str(read_device())}
    results = continued(path, conditions, ("networks", "dates"))
    machines = Machines(arguments.folder)
    for folder in sorted(entry.parent for entry in arguments.work.glob("*/ours.bundle")):
        if folder.name not in arguments.only if arguments.only else folder.name in results["networks"]:
            continue
        results["networks"][folder.name] = measure(folder, machines)
        results["dates"][folder.name] = f"{datetime.now(UTC):%Y-%m-%d}"
        path.write_text(json.dumps(results, indent=1))
    write_page(results, arguments.page)


if __name__ == "__main__":
    main()
