"""CIFAR-10 as folders of JPEGs, digits as arrays, and batches of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = (0.4914, 0.4822, 0.4465)  # per-channel mean and deviation of CIFAR-10's training images
STD = (0.2470, 0.2435, 0.2616)
Labeled = tuple[np.ndarray, np.ndarray]


def unpack(source: Path, work: Path) -> Path:
    """The folder with ``train/<class>/*.jpg`` and ``test/<class>/*.jpg`` of a folder or a zip."""
    folder = source
    if source.suffix == ".zip":
        folder = work / "cifar10"
        if not folder.exists():
            zipfile.ZipFile(source).extractall(folder)
    return next(path for path in (folder / "train", *folder.glob("*/train")) if path.is_dir()).parent


def load_folder(folder: Path) -> Labeled:
    """Images ``(n, 32, 32, 3)`` uint8 and class numbers ``(n,)``, classes in sorted order."""
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    files = [(file, label) for label, child in enumerate(classes) for file in sorted(child.glob("*.jpg"))]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return images, np.array([label for _, label in files])


def load_digits(path: Path, *, tested: int = 2000) -> tuple[Labeled, Labeled]:
    """Digits ``(n, 28, 28)`` uint8 and their numbers, shuffled by a fixed seed: those to train on, those to test on."""
    with np.load(path) as arrays:
        order = np.random.default_rng(0).permutation(len(arrays["x"]))
        x, y = arrays["x"][order], arrays["y"][order]
    return (x[tested:], y[tested:]), (x[:tested], y[:tested])


def normalized(images: np.ndarray) -> np.ndarray:
    """Images as the networks take them: float32, mean 0 and deviation 1 a channel."""
    return ((images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


def augmented_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[Labeled]:
    """Endless shuffled batches, each image mirrored half the time and shifted by up to four pixels."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            rows, columns = generator.integers(0, 9, (2, batch_size))
            batch = np.stack([padded[i, r : r + 32, c : c + 32] for i, r, c in zip(index, rows, columns, strict=True)])
            mirrored = generator.random(batch_size) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
            yield batch, labels[index]


def shuffled_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[Labeled]:
    """Endless shuffled batches of images as they are."""
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            yield images[index], labels[index]
