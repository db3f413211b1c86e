"""Cases of layers that prepare data: images, numbers, categories, text, audio; and those that work in training only."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from coverage_cases.case import Case, Door, indices, layer, pixels, positive, words

PHOTO, PHOTO_FIRST, TABLE = (
    Door((12, 12, 3), pixels),
    Door((3, 12, 12), lambda generator, shape: np.moveaxis(pixels(generator, (shape[0], *shape[2:], shape[1])), -1, 1)),
    Door((5,)),
)
IDS = Door((4,), indices(6), "int32")
VOCABULARY = ("red", "green", "blue", "grey")
MANY = tuple(f"{word}{number}" for word in VOCABULARY for number in range(8))
NAMES = Door((4,), words(*VOCABULARY, "pink"), "string")
TEXT = Door((), words("Red", "green,", "blue!", "grey", "pink", "Green", most=6), "string")
AUDIO = Door((1024,), lambda generator, shape: tones(generator, shape))
FADING = Door((1024,), lambda generator, shape: tones(generator, shape) * np.float32(10) ** np.linspace(0, -4, shape[1], dtype=np.float32))


def tones(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A tone of its own in each sample, and some noise."""
    turns = np.arange(shape[1]) * generator.uniform(0.01, 0.4, (shape[0], 1))
    return (np.sin(2 * np.pi * turns) + generator.normal(0, 0.1, shape)).astype(np.float32)


def within_bins(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers away from the boundaries of the Discretization cases: rounding to 8 bits moves none over."""
    return (generator.choice([-1.5, -0.5, 0.25, 1.0], shape) + generator.uniform(-0.15, 0.15, shape)).astype(np.float32)


def images() -> Iterator[Case]:
    """Layers that work on images at inference."""
    yield layer("Rescaling: to one", PHOTO, lambda layers: layers.Rescaling(1 / 255))
    yield layer("Rescaling: around zero", PHOTO, lambda layers: layers.Rescaling(1 / 127.5, offset=-1))
    yield layer("Rescaling: a channel each", PHOTO, lambda layers: layers.Rescaling([0.1, 0.2, 0.3], offset=[1.0, 2.0, 3.0]))
    yield Case(
        "Rescaling: of bytes",
        (Door((12, 12, 3), lambda g, s: pixels(g, s).astype("uint8"), "uint8"),),
        lambda keras, x: keras.layers.Conv2D(40, 3)(keras.layers.Rescaling(1 / 255)(x)),
    )
    for interpolation in ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5"):
        yield layer(f"Resizing: {interpolation}", PHOTO, lambda layers, i=interpolation: layers.Resizing(8, 18, interpolation=i))
    yield layer("Resizing: half", PHOTO, lambda layers: layers.Resizing(6, 6))
    yield layer("Resizing: double", PHOTO, lambda layers: layers.Resizing(24, 24))
    yield layer("Resizing: antialias", PHOTO, lambda layers: layers.Resizing(7, 7, antialias=True))
    yield layer("Resizing: crop to aspect ratio", PHOTO, lambda layers: layers.Resizing(8, 4, crop_to_aspect_ratio=True))
    yield layer("Resizing: pad to aspect ratio", PHOTO, lambda layers: layers.Resizing(8, 16, pad_to_aspect_ratio=True))
    yield layer("Resizing: channels first", PHOTO_FIRST, lambda layers: layers.Resizing(8, 8, data_format="channels_first"))
    yield layer("CenterCrop: even", PHOTO, lambda layers: layers.CenterCrop(8, 6))
    yield layer("CenterCrop: odd", PHOTO, lambda layers: layers.CenterCrop(7, 5))
    yield layer("CenterCrop: larger", PHOTO, lambda layers: layers.CenterCrop(16, 16))
    yield layer("AutoContrast", PHOTO, lambda layers: layers.AutoContrast())
    yield layer(
        "ContrastLimitedAdaptiveHistogramEqualization",
        PHOTO,
        lambda layers: layers.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2)),
    )
    yield layer("RandomCrop", PHOTO, lambda layers: layers.RandomCrop(8, 8))
    yield layer("Pipeline", PHOTO, lambda layers: layers.Pipeline([layers.Rescaling(1 / 255), layers.Resizing(8, 8)]))
    yield Case("MaxNumBoundingBoxes", (PHOTO,), lambda keras, x: keras.layers.Conv2D(40, 3)(keras.layers.MaxNumBoundingBoxes(4)(x)))


def training_only() -> Iterator[Case]:
    """Layers that do nothing at inference, before one that does."""
    settings: dict[str, dict[str, Any]] = {
        "AugMix": {},
        "CutMix": {},
        "MixUp": {},
        "RandAugment": {},
        "RandomBrightness": {"factor": 0.2},
        "RandomColorDegeneration": {"factor": 0.5},
        "RandomColorJitter": {"brightness_factor": 0.2, "contrast_factor": 0.2, "saturation_factor": 0.2, "hue_factor": 0.2},
        "RandomContrast": {"factor": 0.2},
        "RandomElasticTransform": {},
        "RandomErasing": {},
        "RandomFlip": {},
        "RandomGaussianBlur": {},
        "RandomGrayscale": {},
        "RandomHue": {"factor": 0.2},
        "RandomInvert": {},
        "RandomPerspective": {},
        "RandomPosterization": {"factor": 4},
        "RandomRotation": {"factor": 0.2},
        "RandomSaturation": {"factor": 0.2},
        "RandomSharpness": {"factor": 0.5},
        "RandomShear": {"x_factor": (0.1, 0.2), "y_factor": (0.1, 0.2)},  # of one number Keras 3.15 cannot load its own file
        "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
        "RandomZoom": {"height_factor": 0.2},
        "Solarization": {"addition_factor": 0.1, "threshold_factor": 0.5},
        "GaussianNoise": {"stddev": 0.1},
        "GaussianDropout": {"rate": 0.2},
        "AlphaDropout": {"rate": 0.2},
        "Dropout": {"rate": 0.2},
        "SpatialDropout2D": {"rate": 0.2},
    }
    for name, given in settings.items():
        yield Case(name, (PHOTO,), lambda keras, x, n=name, g=given: keras.layers.Conv2D(40, 3)(getattr(keras.layers, n)(**g)(x)))
    yield Case("SpatialDropout1D", (Door((6, 4)),), lambda keras, x: keras.layers.Conv1D(4, 3)(keras.layers.SpatialDropout1D(0.2)(x)))
    yield Case("SpatialDropout3D", (Door((4, 4, 4, 2)),), lambda keras, x: keras.layers.Conv3D(4, 3)(keras.layers.SpatialDropout3D(0.2)(x)))


def numbers() -> Iterator[Case]:
    """Numbers and categories."""
    yield Case("Normalization: adapted", (TABLE,), lambda keras, x: adapted(keras)(x))
    yield layer(
        "Normalization: given",
        TABLE,
        lambda layers: layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4, 0.5], variance=[1.0, 2.0, 3.0, 4.0, 5.0]),
    )
    yield layer("Normalization: one for all", PHOTO, lambda layers: layers.Normalization(axis=None, mean=120.0, variance=4000.0))
    yield layer(
        "Normalization: a channel each", PHOTO, lambda layers: layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[4e3, 5e3, 6e3])
    )
    yield layer("Normalization: inverted", TABLE, lambda layers: layers.Normalization(mean=[0.1] * 5, variance=[2.0] * 5, invert=True))
    for mode in ("int", "one_hot", "multi_hot", "count"):
        yield layer(
            f"Discretization: {mode}",
            Door((1 if mode == "one_hot" else 5,), within_bins),
            lambda layers, m=mode: layers.Discretization([-1.0, 0.0, 0.5], output_mode=m),
        )
    for mode in ("one_hot", "multi_hot", "count"):
        yield layer(
            f"CategoryEncoding: {mode}",
            Door((1,), indices(64), "int32") if mode == "one_hot" else IDS,
            lambda layers, m=mode: layers.CategoryEncoding(64 if m == "one_hot" else 6, output_mode=m),
        )
    yield Case(
        "CategoryEncoding: weights",
        (IDS, Door((4,), positive)),
        lambda keras, x, w: keras.layers.CategoryEncoding(6, output_mode="count")(x, count_weights=w),
    )
    for mode in ("int", "one_hot", "multi_hot", "count", "tf_idf"):
        door = Door((1,), indices(40), "int64") if mode == "one_hot" else Door((4,), indices(6), "int64")
        vocabulary = list(range(1, 30)) if mode == "one_hot" else [1, 2, 4, 5]
        weights = [0.3, 0.5, 0.7, 0.9] if mode == "tf_idf" else None
        yield layer(
            f"IntegerLookup: {mode}",
            door,
            lambda layers, m=mode, v=vocabulary, w=weights: layers.IntegerLookup(vocabulary=v, output_mode=m, idf_weights=w),
        )
    yield layer(
        "IntegerLookup: mask and two unknowns",
        Door((4,), indices(9), "int64"),
        lambda layers: layers.IntegerLookup(vocabulary=[1, 2, 4], mask_token=0, num_oov_indices=2),
    )
    yield layer(
        "IntegerLookup: inverted", Door((4,), indices(4), "int64"), lambda layers: layers.IntegerLookup(vocabulary=[1, 2, 4], invert=True)
    )
    yield layer("Hashing: integers", Door((4,), indices(99), "int64"), lambda layers: layers.Hashing(7))
    yield layer("Hashing: integers with salt", Door((4,), indices(99), "int64"), lambda layers: layers.Hashing(7, salt=3, mask_value=0))
    yield layer("Hashing: integers, one hot", Door((1,), indices(99), "int64"), lambda layers: layers.Hashing(64, output_mode="one_hot"))
    yield Case("HashedCrossing: integers", (Door((1,), indices(9), "int64"),) * 2, lambda keras, *x: keras.layers.HashedCrossing(64)(x))
    yield Case(
        "HashedCrossing: one hot",
        (Door((1,), indices(9), "int64"),) * 2,
        lambda keras, *x: keras.layers.HashedCrossing(64, output_mode="one_hot")(x),
    )


def adapted(keras: Any) -> Any:
    """A normalization that has seen data."""
    made = keras.layers.Normalization()
    made.adapt(np.random.default_rng(3).normal(2, 3, (64, 5)).astype(np.float32))
    return made


def texts() -> Iterator[Case]:
    """Strings."""
    for mode in ("int", "one_hot", "multi_hot", "count", "tf_idf"):
        door = Door((1,), words(*MANY, "pink"), "string") if mode == "one_hot" else NAMES
        vocabulary = MANY if mode == "one_hot" else VOCABULARY
        weights = [0.3, 0.5, 0.7, 0.9] if mode == "tf_idf" else None
        yield layer(
            f"StringLookup: {mode}",
            door,
            lambda layers, m=mode, v=vocabulary, w=weights: layers.StringLookup(vocabulary=v, output_mode=m, idf_weights=w),
        )
    yield layer(
        "StringLookup: mask and two unknowns",
        NAMES,
        lambda layers: layers.StringLookup(vocabulary=VOCABULARY[1:], mask_token="red", num_oov_indices=2),
    )
    yield layer(
        "StringLookup: inverted", Door((4,), indices(5), "int64"), lambda layers: layers.StringLookup(vocabulary=VOCABULARY, invert=True)
    )
    yield Case(
        "StringLookup: to Embedding",
        (NAMES,),
        lambda keras, x: keras.layers.Embedding(5, 3)(keras.layers.StringLookup(vocabulary=VOCABULARY)(x)),
    )
    modes: dict[str, dict[str, Any]] = {
        "int": {"output_sequence_length": 6},
        "multi_hot": {"output_mode": "multi_hot"},
        "count": {"output_mode": "count"},
        "tf_idf": {"output_mode": "tf_idf", "idf_weights": [0.3, 0.5, 0.7, 0.9]},
        "characters": {"output_sequence_length": 6, "split": "character", "vocabulary": list("abdegilnpru")},
        "bigrams": {"output_sequence_length": 8, "ngrams": 2, "vocabulary": ["red", "green", "red green", "grey blue"]},
        "lower": {"output_sequence_length": 6, "standardize": "lower"},
        "as it is": {"output_sequence_length": 6, "standardize": None},
    }
    for mode, settings in modes.items():
        given = {"vocabulary": list(VOCABULARY), **settings}
        yield layer(f"TextVectorization: {mode}", TEXT, lambda layers, g=given: layers.TextVectorization(**g))
    yield Case("TextVectorization: to a classifier", (TEXT,), text_classifier)
    yield layer("Hashing: strings", NAMES, lambda layers: layers.Hashing(7))
    yield layer("Hashing: strings with salt", NAMES, lambda layers: layers.Hashing(7, salt=[3, 4]))
    yield Case("HashedCrossing: strings", (Door((1,), NAMES.sample, "string"),) * 2, lambda keras, *x: keras.layers.HashedCrossing(64)(x))


def text_classifier(keras: Any, tensor: Any) -> Any:
    """From a text to three scores."""
    layers = keras.layers
    ids = layers.TextVectorization(vocabulary=list(VOCABULARY), output_sequence_length=6)(tensor)
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(6, 4, mask_zero=True)(ids))
    return layers.Dense(3, activation="softmax")(pooled)


def audio() -> Iterator[Case]:
    """Spectrograms."""
    yield layer(
        "MelSpectrogram: decibels",
        FADING,
        lambda layers: layers.MelSpectrogram(fft_length=256, sequence_stride=128, num_mel_bins=16, top_db=1e3),
    )
    yield layer(
        "MelSpectrogram: power",
        AUDIO,
        lambda layers: layers.MelSpectrogram(fft_length=256, sequence_stride=128, num_mel_bins=16, power_to_db=False),
    )
    for mode in ("log", "magnitude", "psd", "real", "imag", "angle"):
        yield layer(
            f"STFTSpectrogram: {mode}",
            Door((512, 1), lambda g, s: tones(g, s[:2])[..., None]),
            lambda layers, m=mode: layers.STFTSpectrogram(mode=m, frame_length=64, frame_step=32),
        )
    yield layer(
        "STFTSpectrogram: same, expanded",
        Door((512, 1), lambda g, s: tones(g, s[:2])[..., None]),
        lambda layers: layers.STFTSpectrogram(mode="magnitude", frame_length=64, padding="same", expand_dims=True),
    )


def cases() -> Iterator[Case]:
    """All of them."""
    yield from images()
    yield from training_only()
    yield from numbers()
    yield from texts()
    yield from audio()
