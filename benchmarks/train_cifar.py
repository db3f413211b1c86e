"""A ResNet-8 trained on image folders, as input for an export with real calibration and evaluation images.

Run it with the folder or zip that holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``:

    python benchmarks/train_cifar.py cifar10.zip work/

It leaves ``work/cifar10/`` (the images) and ``work/resnet8.keras``, and prints the export command.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

SEED = 20
EPOCHS = 24
MEAN = (0.4914, 0.4822, 0.4465)  # per-channel mean and deviation of CIFAR-10's training images
STD = (0.2470, 0.2435, 0.2616)


def load_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 32, 32, 3)`` uint8 and class numbers ``(n,)``, classes in sorted order."""
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    files = [(file, label) for label, child in enumerate(classes) for file in sorted(child.glob("*.jpg"))]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return images, np.array([label for _, label in files])


def build_resnet8() -> keras.Model:
    """The image-classification network of MLPerf Tiny (Banbury et al. 2021): three residual stacks, 78,666 weights."""
    layers = keras.layers

    def conv(x: keras.KerasTensor, filters: int, kernel: int, stride: int) -> keras.KerasTensor:
        decay = keras.regularizers.L2(1e-4)
        return layers.Conv2D(filters, kernel, stride, padding="same", kernel_initializer="he_normal", kernel_regularizer=decay)(x)

    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, 16, 3, 1)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, 3, stride)))
        y = layers.BatchNormalization()(conv(y, filters, 3, 1))
        shortcut = x if stride == 1 else conv(x, filters, 1, stride)
        x = layers.ReLU()(layers.add([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x), name="resnet8")


def augmented_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, generator: np.random.Generator):
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


def main(source: Path, work: Path) -> None:
    """Unpack, train, report the test accuracy and save."""
    work.mkdir(parents=True, exist_ok=True)
    folder = source
    if source.suffix == ".zip":
        folder = work / "cifar10"
        if not folder.exists():
            zipfile.ZipFile(source).extractall(folder)
    train = next(path for path in (folder / "train", *folder.glob("*/train")) if path.is_dir())
    keras.utils.set_random_seed(SEED)
    normalize = lambda x: ((x / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)  # noqa: E731
    images, labels = load_folder(train)
    test_images, test_labels = load_folder(train.parent / "test")
    model = build_resnet8()
    steps = len(images) // 64
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps * EPOCHS)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = augmented_batches(normalize(images), labels, 64, np.random.default_rng(SEED))
    model.fit(batches, steps_per_epoch=steps, epochs=EPOCHS, verbose=2)
    _, accuracy = model.evaluate(normalize(test_images), test_labels, verbose=0)
    model.save(work / "resnet8.keras")
    print(f"test accuracy {accuracy:.4f} on {len(test_labels)} images; wrote {work / 'resnet8.keras'}")
    numbers = [",".join(str(value) for value in values) for values in (MEAN, STD)]
    print(
        f"lepton-edge export {work / 'resnet8.keras'} --calib {train} --eval {train.parent / 'test'}"
        f" --scale 1/255 --mean {numbers[0]} --std {numbers[1]} -o {work / 'resnet8.bundle'}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
