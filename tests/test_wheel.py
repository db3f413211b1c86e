"""The wheel: the same bytes wherever it is built, and a bill of what an installation brings along."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.sbom_schema import faults_of

ROOT = Path(__file__).parents[1]
BILL = ROOT / "docs" / "lepton-edge.cdx.json"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, of copies of the checkout in other folders, with files of other ages and rights."""
    made = []
    for number, mask in enumerate((0o022, 0o077)):
        copy = tmp_path_factory.mktemp(f"place{number}" * (1 + number)) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*-work", "__pycache__", "trained"))
        for path in copy.rglob("*"):
            os.utime(path, (number * 1e8, 1e9 + number * 1e8))
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        out = copy.parent / "out"
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, umask=mask)
        assert done.returncode == 0, done.stdout + done.stderr
        made.append(next(out.glob("*.whl")))
    return made


def test_a_wheel_is_the_same_to_the_byte_wherever_it_is_built(wheels: list[Path]) -> None:
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    assert len(digests) == 1


def test_a_wheel_carries_its_bill_of_materials(wheels: list[Path]) -> None:
    with zipfile.ZipFile(wheels[0]) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".cdx.json"))
        assert re.fullmatch(r"lepton_edge-[\d.]+\.dist-info/sboms/lepton-edge\.cdx\.json", name)
        assert archive.read(name) == BILL.read_bytes()
    assert faults_of(BILL.read_bytes()) == []


def test_the_bill_is_of_this_version_with_the_packages_that_were_tested() -> None:
    bill = json.loads(BILL.read_bytes())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert bill["metadata"]["component"]["version"] == project["version"]
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    tested = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    listed = {component["name"]: component["version"] for component in bill["components"]}
    listed = {
        name: version for name, version in listed.items() if name not in ("setuptools", "wheel")
    }  # of the environment, in any version
    assert {name: tested.get(name) for name in listed} == listed
    required = {component["name"] for component in bill["components"] if component["scope"] == "required"}
    assert required >= {re.split(r"[<>=\[; ]", text)[0] for text in project["dependencies"]}
    extras = {extra: texts for extra, texts in project["optional-dependencies"].items() if extra not in ("dev", "examples")}
    named = {re.split(r"[<>=\[; ]", text)[0].lower() for texts in extras.values() for text in texts} - {"lepton-edge", "tensorflow"}
    assert set(listed) >= named
