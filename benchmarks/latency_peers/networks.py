"""The nine reference networks, with seeded weights: five of MLPerf Tiny's published descriptions, four of ``keras.applications``.

What untrained weights answer is of no matter; batch normalizations get the statistics of a few samples, so that values stay in range.
Source of the first five: Banbury et al. 2021, "MLPerf Tiny Benchmark"; of the streaming wake word: MLCommons Tiny 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from keras import layers
from zoo.networks import resnet8

_IMAGENET = ([0.485, 0.456, 0.406], [0.229**2, 0.224**2, 0.225**2])
_SAMPLES = 64


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization()(x))


def autoencoder() -> keras.Model:
    """Anomaly detection: dense layers only, 0.26 million products."""
    inputs = x = keras.Input((640,), name="frames")
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = _normalized(layers.Dense(units)(x))
    return keras.Model(inputs, layers.Dense(640)(x))


def keyword_spotting() -> keras.Model:
    """DS-CNN: a convolution and four depthwise-separable ones on 49 × 10 coefficients."""
    inputs = keras.Input((49, 10, 1), name="coefficients")
    x = _normalized(layers.Conv2D(64, (10, 4), 2, padding="same")(inputs))
    for _ in range(4):
        x = _normalized(layers.DepthwiseConv2D(3, padding="same")(x))
        x = _normalized(layers.Conv2D(64, 1)(x))
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


def wake_word() -> keras.Model:
    """Streaming wake word: four separable convolutions along 30 frames of 40 features."""
    inputs = x = keras.Input((30, 1, 40), name="features")
    for filters, length in ((128, 3), (64, 5), (64, 10), (32, 15)):
        x = layers.DepthwiseConv2D((length, 1), use_bias=False)(x)
        x = _normalized(layers.Conv2D(filters, 1, use_bias=False)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def bidirectional_lstm() -> keras.Model:
    """Two layers that read 64 steps of 16 features from both ends."""
    inputs = x = keras.Input((64, 16), name="steps")
    for _ in range(2):
        x = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalMaxPooling1D()(x)))


def transformer() -> keras.Model:
    """Two blocks of an encoder, 64 steps of 64 features, normalized first."""
    inputs = x = keras.Input((64, 64), name="steps")
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(128, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


def _application(name: str, size: int, classes: int, **settings: float) -> keras.Model:
    """One of ``keras.applications``."""
    return getattr(keras.applications, name)((size, size, 3), weights=None, classes=classes, **settings)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "autoencoder": autoencoder,
    "ds-cnn": keyword_spotting,
    "wake-word": wake_word,
    "resnet8": resnet8,
    "mobilenetv1-0.25": partial(_application, "MobileNet", 96, 2, alpha=0.25),
    "mobilenetv3-small": partial(_application, "MobileNetV3Small", 224, 1000),
    "mobilenetv2": partial(_application, "MobileNetV2", 224, 1000),
    "efficientnetb0": lambda: keras.applications.EfficientNetB0(input_shape=(224, 224, 3), weights=None),
    "resnet50": partial(_application, "ResNet50", 224, 1000),
}
OTHERS: dict[str, Callable[[], keras.Model]] = {"bidirectional-lstm": bidirectional_lstm, "transformer": transformer}
"""What has what none of the nine has, for ``benchmarks/rewrites.py``."""


def build(name: str) -> tuple[keras.Model, np.ndarray]:
    """A network with seeded weights, and inputs such as it takes, float32."""
    keras.utils.set_random_seed(1)
    model = {**NETWORKS, **OTHERS}[name]()
    inputs = _samples(model)
    generator = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in norms:
        layer.gamma.assign(generator.uniform(0.7, 1.3, layer.gamma.shape))
        layer.beta.assign(generator.normal(0, 0.2, layer.beta.shape))
        layer.kept_momentum, layer.momentum = layer.momentum, 0.0
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.adapt_mean.assign(_IMAGENET[0])
            layer.adapt_variance.assign(_IMAGENET[1])
            layer.finalize_state()
    model(inputs[:8], training=True)
    for layer in norms:
        layer.momentum = layer.kept_momentum
    return model, inputs


def _samples(model: keras.Model) -> np.ndarray:
    """Noise; for pictures smooth ones, from 0 to 255, or -1 to 1 where the network does not rescale them itself."""
    shape, generator = model.input_shape[1:], np.random.default_rng(5)
    if len(shape) != 3 or shape[-1] != 3:
        return generator.normal(size=(_SAMPLES, *shape)).astype(np.float32)
    coarse, repeats = generator.uniform(0, 255, (_SAMPLES, 8, 8, 3)), -(-shape[0] // 8)
    smooth = np.kron(coarse, np.ones((1, repeats, repeats, 1)))[:, : shape[0], : shape[1]]
    pictures = np.clip(smooth + generator.normal(0, 20, smooth.shape), 0, 255).astype(np.float32)
    return pictures if any(isinstance(layer, layers.Rescaling) for layer in model.layers) else pictures / np.float32(127.5) - 1
