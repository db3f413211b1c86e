"""The networks of ``keras.applications``, each at its smallest legal input."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from coverage_cases.case import Case, Door, pixels

SMALLEST = {
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2"), 75),
    "Xception": 71,
}
NETWORKS = (
    *("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *(f"EfficientNetB{number}" for number in range(8)),
    *("EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
    *("EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L"),
    *("InceptionV3", "InceptionResNetV2"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("NASNetMobile", "NASNetLarge"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("VGG16", "VGG19", "Xception"),
)
RAW = ("ConvNeXt", "EfficientNet", "MobileNetV3")  # they rescale pixels themselves
SAMPLES, CALIBRATED, SETTLED = 20, 16, 24


def centered(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels from -1 to 1."""
    return pixels(generator, shape) / np.float32(127.5) - 1


def network(keras: Any, tensor: Any, name: str) -> Any:
    """Its answer to the pixels, with seeded weights."""
    return getattr(keras.applications, name)(weights=None, input_tensor=tensor, classes=100).output


def cases() -> Iterator[Case]:
    """All of them."""
    for name in NETWORKS:
        size = SMALLEST.get(name, 32)
        door = Door((size, size, 3), pixels if name.startswith(RAW) else centered)
        yield Case(name, (door,), lambda keras, x, n=name: network(keras, x, n), samples=SAMPLES, calib_samples=CALIBRATED, settle=SETTLED)
