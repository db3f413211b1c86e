"""Medical images: does a patch of a microscope slide show a gland, its border, or the tissue around? A small residual network.

Data: real. A photograph of colon tissue from the Center for Microscopy and Molecular Imaging, shipped inside scikit-image
(skimage/data/ihc.png, no known copyright restrictions). An antibody stained the glands brown, a dye all nuclei blue. How
brown a patch is gives its class; the network sees the blue dye alone, so it has to know a gland by its nuclei. It is one
slide of one patient: the tiles it is cut into are split into those to learn from and those held out.

    pip install ".[convert,examples]"
    python examples/medical_images.py
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers
from PIL import Image

from lepton_converters import export
from lepton_runtime import Session

SEED = 1
EPOCHS = 12
TILE, PATCH, STEP = 64, 32, 4
CLASSES = ("gland", "border", "around")
ABOUT = reference.About(
    "medical_images",
    "medical images: gland, its border or what is around it, in patches of a microscope slide",
    "real: a colon slide that scikit-image ships; its own stain is the label",
    "residual CNN with BatchNorm",
)


def separate_stains(slide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of the blue and of the brown stain is in each pixel: two arrays ``(height, width)`` of optical density.

    Source: Ruifrok and Johnston 2001, "Quantification of histochemical staining by color deconvolution", table 1.
    """
    stains = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.711, 0.423, 0.562]])  # blue, brown, the rest
    amounts = -np.log10((slide + 1.0) / 256) @ np.linalg.inv(stains)
    return amounts[..., 0], amounts[..., 1]


def load_data() -> list[tuple[np.ndarray, np.ndarray]]:
    """Patches ``(n, 32, 32, 1)`` float32 in 0–255 and their classes ``(n,)``: those to learn from, and those held out."""
    slide = np.asarray(Image.open(reference.find_file("skimage", "data/ihc.png")).convert("RGB"))
    blue, brown = separate_stains(slide)
    gray = np.clip(255 * (0.8 - 2 * blue), 0, 255).astype(np.float32)
    splits: list[tuple[list[np.ndarray], list[int]]] = [([], []), ([], [])]
    for row, column in np.ndindex(len(slide) // TILE, len(slide) // TILE):
        patches, labels = splits[(row + 2 * column) % 4 == 0]
        for y, x in np.ndindex(((TILE - PATCH) // STEP + 1,) * 2):
            area = np.s_[row * TILE + y * STEP :, column * TILE + x * STEP :]
            share = (brown[area][:PATCH, :PATCH] > 0.25).mean()
            patches.append(gray[area][:PATCH, :PATCH, None])
            labels.append(0 if share > 0.6 else 1 if share > 0.1 else 2)
    return [(np.stack(patches), np.array(labels)) for patches, labels in splits]


def build_model() -> keras.Model:
    """Two residual stages; scaling and augmentation are layers of the model."""

    def conv(x: keras.KerasTensor, filters: int, stride: int = 1) -> keras.KerasTensor:
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((PATCH, PATCH, 1), name="patch")
    x = layers.RandomFlip()(layers.Rescaling(1 / 128, -1)(inputs))
    x = layers.ReLU()(conv(x, 16, 2))
    for filters in (16, 32, 64):
        stride = 1 if filters == 16 else 2
        shortcut = x if stride == 1 else layers.BatchNormalization()(layers.Conv2D(filters, 1, stride, use_bias=False)(x))
        x = layers.ReLU()(layers.add([shortcut, conv(layers.ReLU()(conv(x, filters, stride)), filters)]))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="medical_images")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    (patches, labels), (test_patches, test_labels) = load_data()
    model = build_model()
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(patches) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(patches, labels, batch_size=64, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "medical_images.keras")
    np.savez(work / "medical_images.calib.npz", x=patches)
    np.savez(work / "medical_images.test.npz", x=test_patches, y=test_labels)
    exported = export(
        work / "medical_images.keras",
        work / "medical_images.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "medical_images.calib.npz",
        evaluate=work / "medical_images.test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"patch": test_patches}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="static-int8") as session:
        for answer in session.predict(test_patches[0]):
            print(f"{answer.label}: {answer.score:.2f}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
