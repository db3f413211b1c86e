"""The samples of a comparison as arrays on disk, preprocessed, the same for everybody."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CALIBRATION, SEARCH = 200, 2000
_SEED = 0
Array = np.ndarray


@dataclass(frozen=True)
class Samples:
    """Where the arrays of one kind of input are.

    Attributes:
        folder: Holds ``calibration.npy`` and, each with ``x`` and ``y``, ``train.npz``, ``search.npz``, ``evaluation.npz`` and
            ``test.npz``.
    """

    folder: Path

    @property
    def calibration_file(self) -> Path:
        """200 images to train on, ``(200, …)`` float32, to measure ranges with."""
        return self.folder / "calibration.npy"

    @property
    def search_file(self) -> Path:
        """2,000 others to train on, for whoever tries settings out."""
        return self.folder / "search.npz"

    @property
    def evaluation_file(self) -> Path:
        """Those 2,000 and as many more, for an export that searches on one half and verifies on the other."""
        return self.folder / "evaluation.npz"

    @property
    def train_file(self) -> Path:
        """All images to train on but those: an export that calibrates on 200 of them, with seed 0, takes the same 200."""
        return self.folder / "train.npz"

    @property
    def test_file(self) -> Path:
        """All images to test on: the figures come from these, and nobody else sees them."""
        return self.folder / "test.npz"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.calibration_file, self.search_file, self.evaluation_file, self.train_file, self.test_file

    def calibration(self) -> Array:
        """Inputs of batch 1, ``(200, 1, …)``."""
        return np.load(self.calibration_file)[:, None]

    def search(self) -> tuple[Array, Array]:
        """Inputs of batch 1, ``(2000, 1, …)``, and class numbers."""
        return _labeled(self.search_file)

    def test(self) -> tuple[Array, Array]:
        """Inputs of batch 1, ``(2000, 1, …)``, and class numbers."""
        return _labeled(self.test_file)


def _labeled(path: Path) -> tuple[Array, Array]:
    with np.load(path) as arrays:
        return arrays["x"][:, None], arrays["y"]


def write_samples(folder: Path, *, photos: Path | None, digits: Path | None) -> Samples:
    """The samples of ``photos`` (a folder with ``train/`` and ``test/``) or of ``digits``, written unless they are there."""
    from zoo.images import load_digits, load_folder, normalized  # they need Pillow, which the peers' environments do without

    samples = Samples(folder)
    if samples.test_file.exists():
        return samples
    folder.mkdir(parents=True, exist_ok=True)
    if photos is not None:
        (images, labels), (tested, answers) = load_folder(photos / "train"), load_folder(photos / "test")
        prepare = normalized
    elif digits is not None:
        (images, labels), (tested, answers) = load_digits(digits)
        prepare = _scaled
    else:
        raise ValueError("either photos or digits must be given")
    order = np.random.default_rng(_SEED).permutation(len(images))
    evaluated = order[CALIBRATION : CALIBRATION + 2 * SEARCH]
    searched = evaluated[:SEARCH]
    chosen = np.random.default_rng(_SEED).permutation(len(images) - 2 * SEARCH)
    placed = np.empty_like(chosen)
    placed[chosen] = np.concatenate([order[:CALIBRATION], order[CALIBRATION + 2 * SEARCH :]])
    np.savez(samples.train_file, x=prepare(images[placed]), y=labels[placed])
    np.save(samples.calibration_file, prepare(images[order[:CALIBRATION]]))
    np.savez(samples.search_file, x=prepare(images[searched]), y=labels[searched])
    np.savez(samples.evaluation_file, x=prepare(images[evaluated]), y=labels[evaluated])
    np.savez(samples.test_file, x=prepare(tested), y=answers)
    return samples


def _scaled(images: Array) -> Array:
    return (images / np.float32(255)).astype(np.float32)
