"""How a fine-tuning of a small network in memory ends where it cannot succeed."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters.finetune import finetune
from lepton_runtime import InputError, ParityError


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)


def test_classes_for_one_unit_without_a_sigmoid_are_refused(keras, rows: np.ndarray, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="cat")])
    np.savez(tmp_path / "rows.npz", x=rows, y=np.arange(40) % 2)
    with pytest.raises(InputError, match=r"classes need an output of \(batch, classes\), or one unit with a sigmoid; found cat"):
        finetune(model, tmp_path / "tuned.keras", data=tmp_path / "rows.npz", batch_size=8)


def test_a_training_that_diverges_at_once_says_so(keras, liven, rows: np.ndarray, tmp_path: Path) -> None:
    layers = keras.layers
    hidden = [layers.Dense(8, activation="exponential", name=f"hidden_{number}") for number in range(3)]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2, name="head")])
    liven(keras, model)
    for layer in hidden:
        layer.set_weights([0.2 * weight for weight in layer.get_weights()])
    before = model.get_weights()
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ParityError, match=r"NaN or infinity in epoch 1, for the training diverged; .* try a lower --learning-rate$"):
        finetune(model, tmp_path / "tuned.keras", data=tmp_path / "rows.npy", batch_size=8, learning_rate=0.9)
    assert not (tmp_path / "tuned.keras").exists()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
