"""The command line, run in this process."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *, because: str) -> None:
        """Assert that it was one clear line on stderr, and nothing on stdout."""
        import re

        assert self.code == code, self.err
        lines = [line for line in self.err.splitlines() if not line.startswith("  ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert re.search(because, lines[0]), lines[0]
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture
def lepton_edge(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``lepton-edge ARGUMENTS``."""
    from lepton_edge.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lepton-edge", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capfd.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A .keras file of a classifier of 8×8 RGB images into three classes."""
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="scores"),
        ],
        name="small",
    )
    generator = np.random.default_rng(6)
    for layer in (model.layers[0], model.layers[-1]):  # so that answers differ from image to image
        kernel, bias = layer.get_weights()
        layer.set_weights([generator.normal(0, 0.5, kernel.shape), bias])
    path = tmp_path_factory.mktemp("small") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Three class folders of six 8×8 images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(1)
    for name in ("left", "middle", "right"):
        (folder / name).mkdir()
        for number in range(6):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless Chromium."""
    chromium_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium_path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield chromium
        chromium.close()
