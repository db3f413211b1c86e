"""What tests of every package share; nothing here needs TensorFlow."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge.digits import Digits, load_digits, shipped_bundle
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, digest_line
from tests.made_bundles import write_table_bundle, write_text_bundle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who takes a Keras model needs what makes it."""
    for item in items:
        if {"small_model", "keras"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.workstation)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Tests that press Ctrl-C reach the commands that they start, also where a shell started the tests deaf to it, in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that tests measure is kept for users, or read from what they have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture
def forge_golden(rewrite_manifest) -> Callable[..., None]:
    """Changes the golden answers of some artifacts, as if this CPU computed otherwise than the one that exported them."""

    def forge(bundle: Path, *files: str) -> None:
        path = bundle / "golden.npz"
        with np.load(path) as archive:
            arrays = dict(archive)
        for key, values in arrays.items():
            if key.partition("/")[0] in files:
                arrays[key] = values + values.dtype.type(0.5 if values.dtype.kind == "f" else 64)
        np.savez(path, **arrays)
        data = path.read_bytes()
        rewrite_manifest(bundle, lambda values: values["golden"].update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))

    return forge


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and old models that lies beside a full checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not beside this checkout")
    return folder


@pytest.fixture
def text_bundle(tmp_path: Path) -> Path:
    """A model of one text; see :func:`tests.made_bundles.write_text_bundle`."""
    return write_text_bundle(tmp_path / "text.bundle")


@pytest.fixture
def table_bundle(tmp_path: Path) -> Path:
    """A model of a word and a number; see :func:`tests.made_bundles.write_table_bundle`."""
    return write_table_bundle(tmp_path / "table.bundle")
