"""Networks that draw random numbers: dropout that is kept becomes arithmetic on noise, everything else is off or refused."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.keras_source import KerasSource
from lepton_runtime import Precision, Session, UnsupportedError


@pytest.fixture
def dropping(keras):
    """Dropout that is on by itself, as networks that say how sure they are write it."""

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    return MCDropout


def test_augmentation_is_off_where_dropout_is_kept(keras, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((4, 4, 1), name="image")
    x = layers.GaussianNoise(0.5)(layers.RandomFlip("horizontal", name="flip")(image))
    model = keras.Model(image, layers.Dropout(0.5, name="drop")(layers.BatchNormalization()(x)))
    result = export(model, tmp_path / "b", precisions=[Precision.FP32], keep_dropout=True)
    assert result.manifest.noise_inputs == ("drop_noise",)
    assert all(record.parity.max_abs < 1e-6 for record in result.manifest.artifacts)
    picture = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    with Session.open(result.path) as session:
        for _ in range(4):
            answer = session.run({"image": picture, "drop_noise": np.ones((1, 4, 4, 1), np.float32)})["drop"]
            # All is kept, doubled by what dropout leaves; 1e-3 is the epsilon of the normalization.
            np.testing.assert_allclose(answer, 2 * picture / (1 + 1e-3) ** 0.5, rtol=1e-6)


def test_normalization_behind_dropout_on_purpose_stays_in_inference_mode(keras) -> None:
    row = keras.Input((3,), name="row")
    x = keras.layers.Dropout(0.5, name="drop")(row, training=True)
    model = keras.Model(row, keras.layers.BatchNormalization(name="out")(x))
    source = KerasSource.open(model, keep_dropout=True)
    x = np.arange(3, dtype=np.float32)[None]
    answer = source.predict({"row": x, "drop_noise": np.ones_like(x)})["out"]
    np.testing.assert_allclose(answer, 2 * x / (1 + 1e-3) ** 0.5, rtol=1e-6)


def test_dropout_that_a_subclass_keeps_is_the_only_one_kept(keras, dropping) -> None:
    row = keras.Input((3,), name="row")
    model = keras.Model(row, keras.layers.Dropout(0.5, name="usual")(dropping(0.5, name="doubt")(row)))
    source = KerasSource.open(model, keep_dropout=True)
    assert source.noise == ("doubt_noise",)


def test_dropout_that_a_layer_draws_by_a_function_cannot_be_kept(keras) -> None:
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return keras.random.dropout(inputs, 0.5, seed=1)

    row = keras.Input((3,), name="row")
    model = keras.Model(row, Own(name="mine")(row))
    with pytest.raises(UnsupportedError, match=r"must be a layer of Keras, it is drawn by a function .*'.*mine'; let that layer hold"):
        KerasSource.open(model, keep_dropout=True)
