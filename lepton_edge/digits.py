"""The handwritten digits that are shipped with the package: cleaned and split."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from lepton_runtime.tensors import Array

_SEED = 7
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, shuffled and split.

    Attributes:
        train_images: ``(n, 28, 28)`` uint8, 0–255.
        train_labels: ``(n,)`` uint8, 0–9.
        test_images: ``(m, 28, 28)`` uint8.
        test_labels: ``(m,)`` uint8.
        removed: How many images the cleaning took out.
    """

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    removed: int


def load_digits() -> Digits:
    """The shipped digits, without blank images, impossible labels and repetitions."""
    with as_file(files("lepton_edge") / "data" / "digits.npz") as path, np.load(path, allow_pickle=False) as archive:
        images, labels = archive["x"], archive["y"]
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    is_clean = np.zeros(len(images), bool)
    is_clean[first] = True
    is_clean &= images.any(axis=(1, 2)) & (labels < 10)
    order = np.random.default_rng(_SEED).permutation(np.flatnonzero(is_clean))
    test, train = np.split(order, [int(len(order) * _TEST_SHARE)])
    return Digits(images[train], labels[train], images[test], labels[test], int((~is_clean).sum()))


def shipped_bundle() -> Path:
    """The small bundle that is shipped with the package, for machines that cannot export one."""
    return Path(str(files("lepton_edge") / "data" / "digits.bundle"))


def recall_by_class(labels: Array, answers: Array, classes: int) -> list[float]:
    """The share of each class's samples that was recognized."""
    return [float((answers[labels == number] == number).mean()) for number in range(classes)]
