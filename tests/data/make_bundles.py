"""Makes the bundles of this folder, of the schema that this version writes: ``python tests/data/make_bundles.py``.

A bundle that was released must load for ever, so that those that are here are never made again: each new schema adds its own.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from lepton_converters import export
from lepton_runtime.answers import Answers
from lepton_runtime.manifest import SCHEMA_VERSION


def main() -> None:
    """A network of pictures, with all that its export can add; one that takes frames and finds things; one of texts and numbers."""
    folder, layers = Path(__file__).parent, keras.layers
    if list(folder.glob(f"schema_{SCHEMA_VERSION}_*.zip")):
        sys.exit(f"the bundles of schema {SCHEMA_VERSION} are here, and stay as they are")
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    for name in ("calib", "eval"):
        np.savez(folder / f"{name}.npz", x=generator.integers(0, 256, (64, 12, 16, 3)).astype(np.float32), y=generator.integers(0, 3, 64))
    samples = {"calib": str(folder / "calib.npz"), "evaluate": str(folder / "eval.npz"), "keep_failed": True}

    (folder / "card.toml").write_text('task = "Nothing."\ndata = "Noise."\nlimits = "All."\n', encoding="utf-8")

    image = keras.Input((12, 16, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, name="conv")(image)))
    x = layers.Dense(3, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(x))
    steps = {"scale": "1/127.5", "mean": (1.0,)}
    export(
        keras.Model(image, x, name="picture"),
        folder / f"schema_{SCHEMA_VERSION}_picture.zip",
        preprocessing=steps,
        labels=["cat", "dog", "fox"],
        license_="CC0-1.0",
        serial=7,
        card=folder / "card.toml",
        sbom=True,
        **samples,
    )
    export(
        keras.Model(image, x, name="frame"),
        folder / f"schema_{SCHEMA_VERSION}_frame.zip",
        preprocessing={**steps, "resize": "stretch"},
        labels=["cat", "dog", "fox"],
        input_="uint8",
        pixels="nv12",
        frame_size=(24, 32),
        answers=Answers(top_k=2),
        precisions=["fp32", "static-int8"],
        **samples,
    )

    words, number = keras.Input((1,), dtype="string", name="words"), keras.Input((2,), name="number")
    vectorize = layers.TextVectorization(output_sequence_length=4, vocabulary=["good", "bad", "very"])
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5, 4)(vectorize(words)))
    x = layers.Dense(2, activation="softmax", name="scores")(layers.Concatenate()([x, number]))
    export(keras.Model([words, number], x, name="text"), folder / f"schema_{SCHEMA_VERSION}_text.zip", precisions=["fp32"])
    for name in ("calib", "eval"):
        (folder / f"{name}.npz").unlink()
    (folder / "card.toml").unlink()


if __name__ == "__main__":
    main()
