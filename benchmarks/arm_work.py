"""How many instructions an inference takes on ARM, as a Raspberry Pi 4 and as a Pi 5: the figures behind docs/arm-work.md.

python benchmarks/arm_work.py WORK FOLDER [--only NETWORK …] [--page docs/arm-work.md]

WORK is a folder in which ``benchmarks/peers.py`` has made its files of the trained networks; ours are exported anew for each board, and
made once more without each of the rewrites of ``docs/performance.md``. FOLDER
takes an emulated ARM64 userland (280 MB, kept) and needs an amd64 Debian with apt and gcc. One thread, after two calls that do not
count; the same to 0.05 % each time. It is work, not speed: it knows nothing of caches, memory, or how long an instruction takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from latency_peers.arm_page import write_work
from latency_peers.kept import continued
from rewrites import NAMES, Graphs

from lepton_converters.keras_loading import import_keras
from lepton_edge.device import PACKAGES
from lepton_runtime.formats import Target
from lepton_runtime.versions import installed_versions

ROOT = Path(__file__).parents[1]
TARGETS = {"pi4": "arm-v8", "pi5": "arm-dotprod"}
PEERS = {
    "keras-onnx": "keras.onnx",
    "litert": "tf-fp32.tflite",
    "ort-default": "ort-default.onnx",
    "litert-int8": "tf-int8.tflite",
    "litert-dynamic": "tf-dynamic.tflite",
}
CALLS = 3
GUEST = """
import ctypes, gc, json, sys
import numpy as np
gc.disable()
mark = lambda: ctypes.CDLL(None).syscall(4242)
samples, calls, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
single = np.ascontiguousarray(np.load(samples)[:1])
def open_file(path):
    if path.endswith(".onnx"):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: single}
        return lambda: session.run(None, feed)
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], single)
    return interpreter.invoke

failed = {}
for path in paths:
    try:
        call = open_file(path)
        call(), call()
    except Exception as error:
        failed[path] = str(error).splitlines()[0].replace(path, path.rsplit("/", 1)[1])
        continue
    mark()
    for _ in range(calls):
        call()
    mark()
print(json.dumps(failed))
"""


def load_userland() -> ModuleType:
    """The module of the tests that sets it up."""
    spec = importlib.util.spec_from_file_location("userland", ROOT / "tests" / "arm64" / "userland.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counter:
    """The emulated userland, and a QEMU that takes our plugin."""

    def __init__(self, folder: Path) -> None:
        self.userland, self.folder = load_userland(), folder.resolve()
        self.userland.set_up(self.folder)
        wheels = self.folder / "wheels"
        if not (self.folder / "site-packages").exists():
            shutil.rmtree(wheels, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(ROOT)]
            subprocess.run(command, check=True, capture_output=True)
            (wheel,) = wheels.glob("*.whl")
            self.userland.install(self.folder, ROOT / "constraints.txt", f"{wheel}[litert]")
        self.qemu = self.folder / "counting"
        if not (self.qemu / "made").exists():
            self._set_up_qemu()

    def _set_up_qemu(self) -> None:
        """Debian bookworm's QEMU, the last one here with plugins, with its own libraries; and the plugin."""
        shutil.rmtree(self.qemu, ignore_errors=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.qemu / "usr" / name).mkdir(parents=True)
            (self.qemu / name).symlink_to(f"usr/{name}")
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            for package in self.userland._fetch(Path(work), self.userland._mirror(), "amd64", "bookworm", ["qemu-user"]):
                self.userland._unpack(package, self.qemu, "--exclude=./usr/share/*", "--exclude=./etc/*", "--exclude=./var/*")
        source = Path(__file__).with_name("count_instructions.c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(self.qemu / "count.so"), str(source)], check=True)
        # Without a file of the guest's own, this QEMU shows it the x86 one, on which onnxruntime crashes.
        cpuinfo = self.folder / "root/proc/cpuinfo"
        cpuinfo.parent.mkdir(exist_ok=True)
        cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n")
        (self.qemu / "made").touch()

    def count(self, cpu: str, samples: Path, paths: list[Path]) -> tuple[dict[Path, int], dict[Path, str]]:
        """Instructions of one inference with each file, and why the others cannot be run."""
        libraries = self.qemu / "usr/lib/x86_64-linux-gnu"
        qemu = [str(self.qemu / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(self.qemu / "usr/bin/qemu-aarch64")]
        root = self.folder / "root"
        python = str(root / "usr/bin/python3.11")
        command = [*qemu, "-plugin", str(self.qemu / "count.so"), "-cpu", self.userland.CPUS[cpu], "-L", str(root), python, "-c", GUEST]
        environment = {**os.environ, "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(self.folder / "site-packages")}
        done = subprocess.run(
            [*command, str(samples), str(CALLS), *map(str, paths)], env=environment, capture_output=True, text=True, check=False
        )
        marks = [int(number) for number in re.findall(r"^executed (\d+)$", done.stderr, re.MULTILINE)]
        if done.returncode:
            raise OSError(f"{cpu} must run {[path.name for path in paths]}, found {done.stderr.strip().splitlines()[-1:]}")
        failed = {Path(path): reason for path, reason in json.loads(done.stdout.splitlines()[-1]).items()}
        counts = [(end - start) // CALLS for start, end in zip(marks[::2], marks[1::2], strict=True)]
        return dict(zip([path for path in paths if path not in failed], counts, strict=True)), failed


def export_for(folder: Path, target: str) -> Path:
    """Our bundle for a board, with the ranges that the bundle for this machine was made with."""
    output = folder / f"{target}.bundle"
    if not output.exists():
        from lepton_converters import export

        labelled = json.loads((folder / "labelled.json").read_text())
        precisions = ["fp32", "dynamic-int8", "static-int8"]
        export(folder / "model.keras", output, target=target, precisions=precisions, calib=labelled["calib"], keep_failed=True)
    return output


def rewritten(graphs: Graphs, folder: Path) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
    """The files of a network with all rewrites, by precision, and those without one that changes them, by precision and rewrite."""
    whole: dict[str, Path] = {}
    without: dict[str, dict[str, Path]] = {}
    for precision, names in NAMES.items():
        content = graphs.file(precision, ())
        whole[precision] = folder / f"{precision}.onnx"
        whole[precision].write_bytes(content)
        for name in names:
            rest = graphs.file(precision, [name])
            if rest != content:
                path = folder / f"{precision}-{name}.onnx"
                path.write_bytes(rest)
                without.setdefault(precision, {})[name] = path
    return whole, without


def count_rewrites(counter: Counter, cpu: str, folder: Path) -> dict[str, dict[str, float]]:
    """By precision and rewrite, the work with all rewrites over that with all but one."""
    with tempfile.TemporaryDirectory(dir=counter.folder) as place:
        whole, without = rewritten(Graphs(folder, Target(TARGETS[cpu])), Path(place))
        paths = [*whole.values(), *(path for found in without.values() for path in found.values())]
        counts, failed = counter.count(cpu, folder / "samples.npy", paths)
    if failed:
        raise OSError(f"our files must run, found {failed}")
    return {
        precision: {name: counts[whole[precision]] / counts[path] for name, path in found.items()} for precision, found in without.items()
    }


def main() -> None:
    """Count, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "arm-work.md")
    arguments = parser.parse_args()
    import_keras()
    counter = Counter(arguments.folder)
    path = arguments.work / "arm-work.json"
    results = continued(path, {"versions": installed_versions(PACKAGES)}, ("networks", "rewrites", "failed", "dates"))
    for folder in sorted(arguments.work.glob("trained-*")):
        is_wanted = folder.name in arguments.only if arguments.only else folder.name not in results["rewrites"]
        if not is_wanted or not (folder / "keras.onnx").exists():
            continue
        print(folder.name, flush=True)
        found: dict[str, dict[str, int]] = {}
        gains: dict[str, dict[str, dict[str, float]]] = {}
        for cpu, target in TARGETS.items():
            bundle = export_for(folder, target)
            paths = {name: folder / file for name, file in PEERS.items() if (folder / file).exists()}
            paths |= {f"ours-{file.stem.removeprefix('model.')}{file.suffix}": file for file in sorted(bundle.glob("model.*"))}
            counts, failed = counter.count(cpu, folder / "samples.npy", list(paths.values()))
            found[cpu] = {name: counts[path] for name, path in paths.items() if path in counts}
            results["failed"].setdefault(folder.name, {})[cpu] = {name: failed[path] for name, path in paths.items() if path in failed}
            gains[cpu] = count_rewrites(counter, cpu, folder)
        results["networks"][folder.name] = found
        results["rewrites"][folder.name] = gains
        results["dates"][folder.name] = f"{datetime.now(UTC):%Y-%m-%d}"
        path.write_text(json.dumps(results, indent=1))
    write_work(results, arguments.page)


if __name__ == "__main__":
    main()
