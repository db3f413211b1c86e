"""The wheel, as a device installs it, in an emulated ARM64 userland. Latency there means nothing and is not looked at."""

import hashlib
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lepton_edge.remote.agent import MARK
from lepton_edge.remote.wheel import build_wheel
from lepton_edge.report.document import load_report
from lepton_runtime import Bundle
from lepton_runtime.cpu import read_cpu
from tests.edge.sshd import SSHD, start

ROOT = Path(__file__).parents[2]
GOLDEN = """
import json, platform, sys
from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, Session
from lepton_runtime.golden import Golden
bundle = Bundle.open(shipped_bundle())
differences = {}
for record in bundle.manifest.artifacts:
    with Session(bundle, record) as session:
        differences[record.file] = Golden.open(bundle).difference(session)
heavy = {"tensorflow", "keras", "onnx", "click", "rich"} & {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"machine": platform.machine(), "differences": differences, "heavy": sorted(heavy)}))
"""

ANSWERS = """
import json, sys, warnings
import numpy as np
from lepton_runtime import Bundle, Session
answers, warned = {}, {}
for path in sys.argv[2:]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bundle = Bundle.open(path)
        with Session(bundle, bundle.artifact("model.static-int8.onnx")) as session:
            answers[path] = [session.run(sample[None]).tolist() for sample in np.load(sys.argv[1])]
    warned[path] = [entry.category.__name__ for entry in caught]
print(json.dumps({"answers": answers, "warned": warned}))
"""


FOLDED = """
import json, sys
import numpy as np
from lepton_runtime import Bundle, Session
from lepton_runtime.golden import Golden
differences = {}
for path in sys.argv[1:]:
    bundle = Bundle.open(path)
    golden = Golden.open(bundle)
    for record in bundle.manifest.artifacts:
        with Session(bundle, record) as session:
            answers = [session.run(inputs) for inputs in golden.batches(record)]
            differences[f"{path} {record.file}"] = max(
                float(np.abs(np.concatenate([one[spec.name] for one in answers]) - golden.arrays[f"{record.file}/{spec.name}"]).max())
                for spec in record.outputs
            )
print(json.dumps(differences))
"""


def load_userland() -> ModuleType:
    spec = importlib.util.spec_from_file_location("userland", Path(__file__).with_name("userland.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


userland = load_userland()
pytestmark = pytest.mark.skipif(bool(userland.why_not()), reason=f"the ARM64 userland {userland.why_not()}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> str:
    wheels = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(ROOT)], check=True, capture_output=True, text=True
    )
    return str(next(wheels.glob("*.whl")))


@pytest.fixture(scope="module")
def device(wheel: str) -> Path:
    """An ARM64 userland with the wheel in it."""
    folder = ROOT / ".cache" / "arm64"
    userland.set_up(folder)
    userland.install(folder, ROOT / "constraints.txt", wheel)
    return folder


@pytest.fixture(scope="module")
def checkout(device: Path, tmp_path_factory) -> Path:
    """The tests of a device in a folder of their own, so that they see the wheel's code and not the checkout's."""
    userland.install(device, ROOT / "constraints.txt", "ai-edge-litert", "onnx", "pillow", "pytest", "pytest-xdist", to="test-packages")
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("tests", "examples", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


# All of tests/edge passes, too, and takes ten minutes for each board: what measures and reports is alike everywhere.
TESTED = ("tests/runtime", *(f"tests/edge/test_{name}.py" for name in ("device", "selfcheck", "stream_command", "text_commands")))
SKIPPED = {
    "its converter makes the files",
    "OpenVINO has no wheel here",
    "serving needs the [serve] extra",
    "needs OpenCV",
    "needs hypothesis",
}


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_the_tests_of_the_runtime_and_of_the_commands_pass(device: Path, checkout: Path, cpu: str) -> None:
    options = ("--quiet", "-m", "not workstation and not simulation", "-p", "no:cacheprovider", "--numprocesses=2")
    options = (*options, "-o", "faulthandler_timeout=240", "-o", "faulthandler_exit_on_timeout=true")  # who hangs says where, and fails
    done = userland.run(device, cpu, "-m", "pytest", *options, *TESTED, cwd=checkout, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert set(re.findall(r"^SKIPPED .*?: (.*)$", done.stdout, re.MULTILINE)) <= SKIPPED
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 200


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_the_shipped_bundle_gives_its_golden_answers(device: Path, cpu: str) -> None:
    done = userland.run(device, cpu, "-c", GOLDEN)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"] == "aarch64"
    assert found["heavy"] == []
    # Integer sums are the same everywhere; float sums differ in the order they are taken in.
    assert found["differences"]["model.fp32.onnx"] <= 1e-5
    assert found["differences"]["model.static-int8.onnx"] == 0


def test_the_wheel_works_with_the_python_of_the_next_raspberry_pi_os(wheel: str) -> None:
    folder = ROOT / ".cache" / "arm64-trixie"
    userland.set_up(folder, "trixie")
    userland.install(folder, ROOT / "constraints.txt", f"{wheel}[litert]")
    bundle = folder / "site-packages/lepton_edge/data/digits.bundle"
    done = userland.run(folder, "pi5", "-W", "error", "-m", "lepton_edge", "selfcheck", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "model.fp32.onnx on onnxruntime here, which answers as it did on export" in done.stderr
    told = userland.run(folder, "pi5", "-m", "lepton_edge", "doctor", "--json", "-")
    assert "Python 3.13" in told.stdout


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> dict[str, Path]:
    """Bundles for any CPU and for x86 with VNNI, and bright pictures: every sum of two products is near its largest."""
    from lepton_converters import export
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 8), name="image"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu", depthwise_initializer="ones"),
            layers.Conv2D(8, 1, activation="relu", kernel_initializer="ones"),
            layers.Conv2D(4, 3, kernel_initializer=keras.initializers.RandomUniform(0.9, 1.0, seed=1), name="answers"),
        ]
    )
    folder = tmp_path_factory.mktemp("bright")
    samples = np.random.default_rng(0).uniform(0.8, 1.0, (40, 8, 8, 8)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    np.save(folder / "first.npy", samples[:4])
    # It is verified on this machine, which may be without VNNI itself.
    options = {"formats": ["onnx"], "precisions": ["static-int8"], "io": "uint8", "calib": str(folder / "samples.npy"), "keep_failed": True}
    made = {target: export(model, folder / f"{target}.bundle", target=target, **options).path for target in ("any", "x86-vnni")}
    bundle = Bundle.open(made["any"])
    np.save(folder / "inputs.npy", bundle.artifact("model.static-int8.onnx").inputs[0].quantize(samples[:4]))
    return {**made, "inputs": folder / "inputs.npy"}


@pytest.fixture(scope="module")
def found(device: Path, bright: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What each CPU answers, and warns of."""
    arguments = ("-c", ANSWERS, *(str(bright[name]) for name in ("inputs", "any", "x86-vnni")))
    done = {
        "here": subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False),
        "haswell": userland.run_x86(device, *arguments),
        **{cpu: userland.run(device, cpu, *arguments) for cpu in userland.CPUS},
    }
    for cpu, process in done.items():
        assert process.returncode == 0, f"{cpu}: {process.stderr}"
    return {cpu: json.loads(process.stdout) for cpu, process in done.items()}


@pytest.mark.parametrize("cpu", ["haswell", "pi4", "pi5"])
def test_an_8_bit_file_for_any_cpu_answers_the_same_bits_everywhere(found, bright, cpu: str) -> None:
    path = str(bright["any"])
    assert found[cpu]["answers"][path] == found["here"]["answers"][path]
    assert found[cpu]["warned"][path] == []


def test_an_8_bit_file_for_vnni_saturates_without_it_and_the_runtime_warns(found, bright) -> None:
    path = str(bright["x86-vnni"])
    exact, saturated = (np.array(found[cpu]["answers"][path]) for cpu in ("pi5", "haswell"))
    assert saturated.mean() < 0.8 * exact.mean()
    assert found["haswell"]["warned"][path] == ["TargetWarning"]


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_an_8_bit_file_for_vnni_is_right_on_arm(found, bright, cpu: str) -> None:
    path = str(bright["x86-vnni"])
    if not read_cpu().saturates:
        assert found[cpu]["answers"][path] == found["here"]["answers"][path]
    assert found[cpu]["warned"][path] == []


@pytest.fixture(scope="module")
def frame_bundles(tmp_path_factory) -> list[str]:
    """Files that answer a camera's frame with the pixels that they make of it."""
    from lepton_converters import export
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    model = keras.Sequential([keras.Input((24, 20, 3), name="image"), keras.layers.Flatten()])
    folder = tmp_path_factory.mktemp("frames")
    options = {"precisions": ["fp32"], "input_": "uint8", "frame_size": (120, 160)}
    steps = {"resize": "crop", "color": "rgb", "scale": "1/255", "mean": 0.45, "std": 0.22}
    return [
        str(export(model, folder / f"{pixels}.bundle", pixels=pixels, preprocessing=steps, **options).path)
        for pixels in ("rgb", "bgr", "gray", "nv12", "yuyv")
    ]


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_frames_become_the_same_pixels_to_the_bit(device: Path, frame_bundles: list[str], cpu: str) -> None:
    done = userland.run(device, cpu, "-c", FOLDED, *frame_bundles)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 2 * len(frame_bundles)
    assert set(differences.values()) == {0.0}


@pytest.fixture(scope="module")
def answer_bundles(tmp_path_factory) -> list[str]:
    """Files that answer with the best classes, and with boxes."""
    from lepton_converters import export
    from lepton_converters.keras_loading import import_keras
    from lepton_runtime import Answers

    layers = (keras := import_keras()).layers
    scorer = keras.Sequential([keras.Input((9,), name="row"), layers.Reshape((9,), name="scores")])
    finder = keras.Sequential([keras.Input((40, 7), name="both"), layers.Reshape((40, 7), name="rows")])
    folder = tmp_path_factory.mktemp("answers")
    classes = Answers(activation="softmax", top_k=4, threshold=0.1)
    boxes = Answers(activation="sigmoid", top_k=12, threshold=0.6, boxes="center_xywh", iou=0.4)
    return [
        str(export(model, folder / f"{name}.bundle", precisions=["fp32"], answers=answers).path)
        for name, model, answers in (("classes", scorer, classes), ("boxes", finder, boxes))
    ]


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_the_best_classes_and_boxes_are_the_same(device: Path, answer_bundles: list[str], cpu: str) -> None:
    done = userland.run(device, cpu, "-c", FOLDED, *answer_bundles)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 2 * len(answer_bundles)
    assert max(differences.values()) <= 1e-5  # exponentials; a class or a box that is another one differs by more


@pytest.mark.parametrize("cpu", ["pi4", "pi5"])
def test_a_golden_output_that_was_altered_is_found(device: Path, digits_bundle: Path, forge_golden, cpu: str) -> None:
    right = userland.run(device, cpu, "-m", "lepton_edge", "selfcheck", str(digits_bundle))
    forge_golden(digits_bundle, "model.fp32.onnx")
    wrong = userland.run(device, cpu, "-m", "lepton_edge", "selfcheck", str(digits_bundle))
    assert (right.returncode, wrong.returncode) == (0, 3), right.stderr + wrong.stderr
    assert "takes model.static-int8.onnx on onnxruntime" in wrong.stderr


def test_every_library_loads_with_the_pages_of_a_pi_5(device: Path, checkout: Path) -> None:
    """Source: elf(5). A segment is mapped in whole pages, 16 KiB with the kernel that a Pi 5 starts by default."""
    libraries = [path for folder in ("site-packages", "test-packages") for path in (device / folder).rglob("*.so*")]
    assert len(libraries) > 20
    assert {path.name: pages for path in libraries if (pages := smallest_page(path)) < 2**14} == {}


def smallest_page(path: Path) -> int:
    """The smallest page with which a 64-bit little-endian ELF file's segments can be mapped."""
    data = path.read_bytes()
    (start,), (size, count) = struct.unpack_from("<Q", data, 0x20), struct.unpack_from("<HH", data, 0x36)
    headers = [struct.unpack_from("<I44xQ", data, start + number * size) for number in range(count)]
    return min(align for kind, align in headers if kind == 1)


@pytest.mark.skipif(SSHD is None, reason="needs sshd: apt-get install openssh-server")
def test_a_benchmark_runs_over_ssh_on_an_emulated_pi(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = userland.python(device, "pi4")
    version = userland.run(device, "pi4", "-c", "import sys; print(sys.version, end='')").stdout
    _, wheel = build_wheel()
    there, process = start(tmp_path)
    # An emulated Python makes no environment of its own: it finds one that is made.
    (there.cache / "venv/bin").mkdir(parents=True)
    (there.cache / "venv/bin/python").write_text(f'#!/bin/sh\nexec {board} "$@"\n')
    (there.cache / "venv/bin/python").chmod(0o755)
    (there.cache / "venv" / MARK).write_text(json.dumps([version, hashlib.sha256(wheel).hexdigest(), "litert"]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(there.cache / "venv/bin/python")
    monkeypatch.setenv("LEPTON_EDGE_SSH", there.ssh(path=tmp_path / "bin"))
    bundle, result = device / "site-packages/lepton_edge/data/digits.bundle", tmp_path / "result.json"
    options = ["--precision", "fp32", "--processes", "1", "--runs", "5", "--seconds", "0", "--json", str(result)]
    command = [sys.executable, "-m", "lepton_edge", "benchmark", str(bundle), *options, "--device", "ssh://device"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    finally:
        process.terminate()
        process.wait()
    assert done.returncode == 0, done.stderr
    assert load_report(result).device.machine == "aarch64"


def test_the_command_line_starts_and_reads_the_bundle(device: Path) -> None:
    bundle = str(device / "site-packages/lepton_edge/data/digits.bundle")
    done = userland.run(device, "pi4", "-m", "lepton_edge", "inspect", bundle, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1


def test_a_device_install_brings_nothing_heavy(device: Path) -> None:
    installed = {path.name.partition("-")[0].lower() for path in (device / "site-packages").glob("*.dist-info")}
    assert {"lepton_edge", "onnxruntime", "numpy", "click", "rich"} <= installed
    assert not installed & {"tensorflow", "tensorflow_cpu", "keras", "onnx", "tf2onnx", "ai_edge_litert", "pillow"}
