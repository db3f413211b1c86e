"""What fine-tuning reads and writes: old files, compiled models, interrupted runs, samples and labels of all kinds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.finetune import finetune
from lepton_converters.legacy_layers import hard_sigmoid_of_keras_2

SETTINGS = {"learning_rate": 0.01, "epochs": 1}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def hard(seed: int = 7) -> list[np.ndarray]:
    """Weights of two Dense layers, between which one value is so large that 8 bits leave nothing of the others."""
    factor = np.where(np.arange(16) == 2, 300, 1).astype(np.float32)
    return [noise(6, 16, seed=seed) * factor, np.zeros(16), noise(16, 3, seed=seed + 1) / factor[:, None], np.zeros(3)]


def table(keras, *, dtype: str = "float32"):
    layers = keras.layers
    row = keras.Input((6,))
    x = layers.Dense(16, activation="relu", dtype=dtype)(row)
    model = keras.Model(row, layers.Dense(3, activation="softmax", dtype="float32")(x), name="table")
    model.set_weights(hard())
    return model


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, noise(400, 6, seed=8))
    return path


def keras_2_file(path: Path) -> None:
    """A network of Keras 2 with a layer and an activation that Keras 3 has no longer."""
    import h5py

    dense = {"use_bias": True, "trainable": True, "dtype": "float32"}
    layers = [
        ("Dense", {"name": "one", "units": 16, "activation": "relu", "batch_input_shape": [None, 6], **dense}),
        ("Dense", {"name": "two", "units": 3, "activation": "hard_sigmoid", **dense}),
        ("ThresholdedReLU", {"name": "cut", "theta": 0.1, "trainable": True, "dtype": "float32"}),
        ("Dense", {"name": "three", "units": 3, "activation": "softmax", **dense}),
    ]
    config = {"name": "old", "layers": [{"class_name": kind, "config": settings} for kind, settings in layers]}
    weights = {"one": hard()[:2], "two": hard()[2:], "cut": [], "three": [noise(3, 3), np.zeros(3)]}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config}).encode()
        group = file.create_group("model_weights")
        group.attrs["backend"] = b"tensorflow"
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, values in weights.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind, _ in zip(("kernel", "bias"), values, strict=False)]
            for kind, value in zip(("kernel", "bias"), values, strict=False):
                inner[f"{name}/{kind}:0"] = value


@pytest.fixture
def anything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last epoch counts as the best: what a file holds is of interest here, not how good its weights are."""
    for module in ("finetune", "quantized_training"):
        monkeypatch.setattr(sys.modules[f"lepton_converters.{module}"], "best_epoch", lambda epochs, samples: epochs[-1])


# Files


def test_a_tuned_network_of_keras_2_is_exported_like_any_other(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    keras_2_file(tmp_path / "old.h5")
    result = finetune(tmp_path / "old.h5", tmp_path / "tuned.keras", data=rows, **SETTINGS)
    export(result.path, tmp_path / "b", formats=["onnx"], precisions=["fp32"])
    layers = keras.saving.load_model(result.path).layers
    assert [type(layer).__name__ for layer in layers] == ["Dense", "Dense", "ThresholdedReLU", "Dense"]
    assert layers[1].activation is hard_sigmoid_of_keras_2


def test_a_mixed_precision_network_with_an_input_without_a_name_is_tuned(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    model = table(keras, dtype="mixed_float16")
    assert model.layers[0].name != model.inputs[0].name
    result = finetune(model, tmp_path / "tuned.keras", data=rows, **SETTINGS)
    loaded = keras.saving.load_model(result.path)
    assert loaded.layers[1].compute_dtype == "float16"
    assert not np.array_equal(loaded.get_weights()[0], model.get_weights()[0])
