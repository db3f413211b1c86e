"""Networks that draw random numbers: dropout that is kept becomes arithmetic on noise, everything else is off or refused."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.keras_source import KerasSource
from lepton_converters.random_operator import check_no_random
from lepton_runtime import Precision, Session, UnsupportedError


@pytest.fixture
def dropping(keras):
    """Dropout that is on by itself, as networks that say how sure they are write it."""

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    return MCDropout


@pytest.fixture
def sampling(keras):
    """The layer between the halves of a variational autoencoder."""

    class Sampling(keras.layers.Layer):
        def call(self, mean):
            return mean + keras.random.normal(keras.ops.shape(mean), seed=self.seed)

        def __init__(self, **settings):
            super().__init__(**settings)
            self.seed = keras.random.SeedGenerator(1)

    return Sampling


def traced(infer, *specs):
    """A concrete function of that, for inputs of these shapes."""
    import tensorflow as tf

    return tf.function(infer, input_signature=[tf.TensorSpec(shape) for shape in specs], autograph=False).get_concrete_function()


def call_of(source: KerasSource):
    return traced(lambda *tensors: source.call(list(tensors)), *(spec.shape for spec in source.inputs))


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
    check_no_random(call_of(source))


def test_dropout_that_a_layer_draws_by_a_function_cannot_be_kept(keras) -> None:
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return keras.random.dropout(inputs, 0.5, seed=1)

    row = keras.Input((3,), name="row")
    model = keras.Model(row, Own(name="mine")(row))
    with pytest.raises(UnsupportedError, match=r"must be a layer of Keras, it is drawn by a function .*'.*mine'; let that layer hold"):
        KerasSource.open(model, keep_dropout=True)


def test_random_numbers_behind_an_output_are_refused(keras, dropping, sampling) -> None:
    row = keras.Input((3,), name="row")
    for layer, operator in ((dropping(0.5, name="doubt"), "Uniform"), (sampling(name="latent"), "Normal")):
        source = KerasSource.open(keras.Model(row, layer(row)))
        with pytest.raises(
            UnsupportedError, match=rf"draws random numbers \(StatelessRandom{operator}V2 in '.*{layer.name}.*--keep-dropout"
        ):
            check_no_random(call_of(source))


def test_random_numbers_in_the_functions_of_a_saved_model_are_refused(keras, sampling, tmp_path: Path) -> None:
    row = keras.Input((3,), name="row")
    keras.Model(row, sampling()(row)).export(str(tmp_path / "model"), verbose=False)
    with pytest.raises(UnsupportedError, match="StatelessRandomNormalV2"):
        check_no_random(call_of(KerasSource.open(tmp_path / "model", trust_code=True)))


def test_random_numbers_that_no_output_depends_on_are_let_be(keras) -> None:
    import tensorflow as tf

    def infer(x):
        drawn = tf.random.normal((2, 3))
        with tf.control_dependencies([drawn]):
            return x * tf.cast(tf.size(drawn), tf.float32)

    check_no_random(traced(infer, (2, 3)))
    sequence = keras.Input((4, 3), name="sequence")
    drops = keras.layers.LSTM(2, dropout=0.2, recurrent_dropout=0.2)(keras.layers.Dropout(0.5)(sequence))
    check_no_random(call_of(KerasSource.open(keras.Model(sequence, drops))))


def test_a_layer_of_the_users_own_is_not_removed_for_its_name(keras) -> None:
    class RandomFourierFeatures(keras.layers.Dense):
        pass

    row = keras.Input((3,), name="row")
    x = keras.layers.Dropout(0.5, name="drop")(RandomFourierFeatures(4, name="features")(row))
    assert KerasSource.open(keras.Model(row, x)).removed_layers == ("drop",)


def test_a_subclass_of_dropout_that_is_called_on_purpose_is_seen(keras, dropping) -> None:
    row = keras.Input((3,), name="row")
    model = keras.Model(row, dropping(0.5, name="doubt")(row, training=True))
    with pytest.raises(UnsupportedError, match="'doubt' is called with training=True: --keep-dropout keeps it"):
        KerasSource.open(model)
