"""Small Keras models with lively weights, built once."""

import os
from pathlib import Path

import numpy as np
import pytest

from lepton_converters.keras_loading import import_keras

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="session")
def keras():
    return import_keras()


def liven(keras, model) -> None:
    """Give weights and BatchNormalization statistics that make outputs depend on inputs."""
    generator = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            width = layer.gamma.shape[0]
            shift = [generator.uniform(-0.5, 0.5, width) for _ in range(2)]
            layer.set_weights([generator.uniform(0.5, 1.5, width), *shift, generator.uniform(0.5, 1.5, width)])
        elif layer.weights and hasattr(layer, "bias"):
            layer.set_weights([generator.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])


@pytest.fixture(scope="session", name="liven")
def liven_fixture():
    """The function that makes a model's outputs depend on its inputs."""
    return liven


@pytest.fixture(scope="session")
def models(keras, tmp_path_factory) -> Path:
    """A folder of .keras files."""
    folder = tmp_path_factory.mktemp("models")
    layers = keras.layers
    keras.utils.set_random_seed(1)

    image = keras.Input((12, 12, 3), name="image")
    x = layers.RandomFlip(name="random_flip")(image)
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(6, 2, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3, name="dropout")(layers.MaxPooling2D()(x))
    x = layers.Dense(16)(layers.Flatten()(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="scores")(x), name="tiny_cnn")
    liven(keras, model)
    model.save(folder / "tiny_cnn.keras")

    beta, alpha = keras.Input((8,), name="beta"), keras.Input((8,), name="alpha")
    zeta = layers.Dense(4, name="zeta")(layers.subtract([beta, alpha]))
    eta = layers.Dense(4, name="eta", activation="sigmoid")(layers.concatenate([alpha, beta]))
    model = keras.Model([beta, alpha], [zeta, eta], name="two_doors")
    liven(keras, model)
    model.save(folder / "two_doors.keras")

    model = keras.Sequential([keras.Input((8,), name="row"), layers.Dense(5, activation="relu"), layers.Dense(3)], name="table")
    liven(keras, model)
    model.save(folder / "table.keras")
    model.save(folder / "table.h5")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Four class folders of twelve images each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(9)
    for name in ("ant", "bee", "cat", "dog"):
        (folder / name).mkdir()
        for number in range(12):
            Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder
