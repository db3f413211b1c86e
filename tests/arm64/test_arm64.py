"""The wheel, as a device installs it, in an emulated ARM64 userland. Latency there means nothing and is not looked at."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

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


def load_userland() -> ModuleType:
    spec = importlib.util.spec_from_file_location("userland", Path(__file__).with_name("userland.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


userland = load_userland()
pytestmark = pytest.mark.skipif(bool(userland.why_not()), reason=f"the ARM64 userland {userland.why_not()}")


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> Path:
    """An ARM64 userland with the wheel in it."""
    folder = ROOT / ".cache" / "arm64"
    wheels = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(ROOT)], check=True, capture_output=True, text=True
    )
    userland.set_up(folder)
    userland.install(folder, next(wheels.glob("*.whl")), ROOT / "constraints.txt")
    return folder


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


def test_the_command_line_starts_and_reads_the_bundle(device: Path) -> None:
    bundle = str(device / "site-packages/lepton_edge/data/digits.bundle")
    done = userland.run(device, "pi4", "-m", "lepton_edge", "inspect", bundle, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1


def test_a_device_install_brings_nothing_heavy(device: Path) -> None:
    installed = {path.name.partition("-")[0].lower() for path in (device / "site-packages").glob("*.dist-info")}
    assert {"lepton_edge", "onnxruntime", "numpy", "click", "rich"} <= installed
    assert not installed & {"tensorflow", "tensorflow_cpu", "keras", "onnx", "tf2onnx", "ai_edge_litert", "pillow"}
