"""What tests of every package share; nothing here needs TensorFlow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_edge.digits import Digits, load_digits, shipped_bundle
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, digest_line


@pytest.fixture
def digits_bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle, free to be damaged."""
    return Path(shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle"))


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The shipped digits."""
    return load_digits()


@pytest.fixture
def rewrite_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Changes a bundle's manifest as an attacker would: with a digest that matches again."""

    def rewrite(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
        values = json.loads((bundle / MANIFEST_FILE).read_bytes())
        change(values)
        data = json.dumps(values).encode()
        (bundle / MANIFEST_FILE).write_bytes(data)
        (bundle / DIGEST_FILE).write_bytes(digest_line(data))

    return rewrite


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and old models that lies beside a full checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not beside this checkout")
    return folder
