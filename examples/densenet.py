"""A DenseNet: handwritten digits, read by a network in which every layer sees all layers before it.

Data: real, and shipped with lepton-edge. 10,000 digits of MNIST (LeCun, Cortes and Burges; CC BY-SA 3.0), of which a fifth
is held out.

    pip install ".[convert]"
    python examples/densenet.py
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers

from lepton_converters import export
from lepton_edge.digits import load_digits
from lepton_runtime import Session

SEED = 6
EPOCHS = 4
GROWTH = 12
CLASSES = tuple("0123456789")
ABOUT = reference.About(
    "densenet",
    "a DenseNet: handwritten digits",
    "real: 10,000 digits of MNIST that lepton-edge ships",
    "DenseNet-BC, 3 blocks of 3 layers, growth 12",
)


def build_model() -> keras.Model:
    """Three dense blocks with bottlenecks, and transitions that halve channels and size.

    Source: Huang et al. 2017, "Densely connected convolutional networks", DenseNet-BC.
    """

    def conv(x: keras.KerasTensor, filters: int, kernel: int) -> keras.KerasTensor:
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.Conv2D(filters, kernel, padding="same", use_bias=False, kernel_initializer="he_normal")(x)

    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(2 * GROWTH, 3, 2, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(inputs))
    for block in range(3):
        for _ in range(3):
            x = layers.concatenate([x, conv(conv(x, 4 * GROWTH, 1), GROWTH, 3)])
        if block < 2:
            x = layers.AveragePooling2D(2)(conv(x, x.shape[-1] // 2, 1))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x), name="densenet")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    digits = load_digits()
    images, test_images = (part[..., None].astype(np.float32) for part in (digits.train_images, digits.test_images))
    model = build_model()
    rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * -(-len(images) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(images, digits.train_labels, batch_size=64, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "densenet.keras")
    np.savez(work / "densenet.calib.npz", x=digits.train_images)
    np.savez(work / "densenet.test.npz", x=digits.test_images, y=digits.test_labels)
    exported = export(
        work / "densenet.keras",
        work / "densenet.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "densenet.calib.npz",
        evaluate=work / "densenet.test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(digits.test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"image": test_images}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_images))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="static-int8") as session:
        for answer in session.predict(digits.test_images[0], count=3):
            print(f"{answer.label}: {answer.score:.2f}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
