"""Fine-tuning on the shipped digits, of a small network that 8 bits are made to hurt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lepton_converters import export
from lepton_converters.calibration import Calibration
from lepton_converters.calibration_cache import CalibrationCache
from lepton_converters.dataset import Dataset, Sample
from lepton_converters.finetune import FinetuneResult, finetune
from lepton_converters.keras_source import KerasSource
from lepton_converters.quantizer import find_ranges, measure_statistics
from lepton_converters.simulated_int8 import SimulatedInt8
from lepton_edge.digits import Digits
from lepton_runtime import InputError, OutputError, ParityError, UnsupportedError
from lepton_runtime.formats import Target
from tests.converters.float_graphs import onnx_float_graph

SETTINGS = {"learning_rate": 1e-3, "epochs": 2, "samples": 1500, "seed": 1}


def build(keras):
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(layers.BatchNormalization(name="depthwise_norm")(x))
    x = layers.Conv2D(16, 1, strides=2, activation="relu", name="pointwise")(x)
    x = layers.Dropout(0.1, name="dropout")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="scores")(x), name="small")


@pytest.fixture(scope="module")
def hurt(keras, digits: Digits, tmp_path_factory) -> Path:
    """A trained network of which one channel of a tensor is 200 times as large as the others, which the next layer makes good."""
    keras.utils.set_random_seed(4)
    model = build(keras)
    model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy")
    model.fit(digits.train_images[..., None].astype(np.float32), digits.train_labels, batch_size=64, epochs=2, verbose=0)
    norm, depthwise = model.get_layer("stem_norm"), model.get_layer("depthwise")
    gamma, beta, mean, variance = norm.get_weights()
    kernel, bias = depthwise.get_weights()
    factor = np.where(np.arange(8) == 3, 200, 1).astype(np.float32)
    norm.set_weights([gamma * factor, beta * factor, mean, variance])
    depthwise.set_weights([kernel / factor[:, None], bias])
    path = tmp_path_factory.mktemp("hurt") / "hurt.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def labeled(digits: Digits, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("labeled") / "train.npz"
    np.savez(path, x=digits.train_images, y=digits.train_labels)
    return str(path)


@pytest.fixture(scope="module")
def tuned(hurt: Path, labeled: str, tmp_path_factory) -> FinetuneResult:
    return finetune(hurt, tmp_path_factory.mktemp("tuned") / "tuned.keras", data=labeled, **SETTINGS)


def weights(keras, path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path, compile=False).get_weights()


def simulated(model, batch: dict[str, np.ndarray]) -> SimulatedInt8:
    source = KerasSource.open(model, batch=len(next(iter(batch.values()))))
    return SimulatedInt8(source, onnx_float_graph(source), target=Target.ANY, batch=batch)


def exported_scores(model, samples: np.ndarray) -> np.ndarray:
    """What the static-int8 ONNX file gives that is calibrated on these very samples."""
    source = KerasSource.open(model)
    name = source.inputs[0].name

    def read(indices: Sequence[int]):
        return (Sample({name: samples[index]}, None) for index in sorted(indices))

    calibration = Calibration(Dataset("samples", len(samples), None, False, read), tuple(range(len(samples))), 1)
    graph = onnx_float_graph(source)
    statistics = measure_statistics(graph, calibration, CalibrationCache())
    ranges = find_ranges(statistics, "by-tensor")
    artifact = graph.quantize(ranges, in_float=frozenset(), target=Target.ANY, io="float")
    session = onnxruntime.InferenceSession(artifact.model)
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


def simulated_scores(model, samples: np.ndarray) -> np.ndarray:
    """What the simulation gives, calibrated on these very samples."""
    import tensorflow as tf

    batch = {model.inputs[0].name: samples}
    int8 = simulated(model, batch)
    int8.calibrate([batch], ranges="by-tensor")
    infer = tf.function(lambda image: int8.call([image]).values, autograph=False)
    return np.asarray(infer(samples)[0])


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def residual(keras, x):
    layers = keras.layers
    x = layers.add([layers.Conv2D(8, 1)(x), layers.Conv2DTranspose(8, 3, padding="same", activation="relu")(x)])
    x = layers.concatenate([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.ReLU()(layers.BatchNormalization()(x))  # as in a DenseNet: there is nothing to fold it into
    x = layers.LeakyReLU()(layers.SeparableConv2D(8, 3)(x))
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


def gated(keras, x):
    layers = keras.layers
    x = layers.Activation("hard_silu")(layers.BatchNormalization()(layers.Conv2D(8, 3)(x)))
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.multiply([x, gate])
    return layers.Dense(5)(layers.Flatten()(layers.Conv2D(4, 1, activation="swish")(x)))


def channels_first(keras, x):
    layers = keras.layers
    x = layers.Conv2D(8, 3, data_format="channels_first")(layers.Permute((3, 1, 2))(x))
    return layers.Dense(5)(layers.Flatten()(layers.ReLU()(layers.BatchNormalization(axis=1)(x))))


def nested(keras, x):
    layers = keras.layers
    inner = keras.Sequential([keras.Input((12, 12, 4)), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU()])
    return layers.Dense(5)(layers.Flatten()(inner(layers.Conv2D(4, 1)(x))))


def attention(keras, x):
    layers = keras.layers
    x = layers.Reshape((36, 12))(x)
    x = layers.add([x, layers.MultiHeadAttention(2, 4)(x, x)])
    return layers.Dense(5)(layers.Flatten()(layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))))


@pytest.mark.parametrize(
    ("network", "share"),
    [(residual, 0.3), (gated, 0.15), (channels_first, 0.1), (nested, 0.1), (attention, 0.1)],
)
def test_the_simulation_answers_as_the_exported_file_does(keras, liven, network, share: float) -> None:
    # Both lose what rounding costs, in the same places. What is left between them, as a share of the loss: biases, which the
    # simulation does not round, and sums of float32 and of integers, which fall on either side of a step.
    keras.utils.set_random_seed(2)
    image = keras.Input((12, 12, 3), name="image")
    model = keras.Model(image, network(keras, image), name=network.__name__)
    liven(keras, model)
    samples = np.random.default_rng(3).uniform(0, 1, (64, 12, 12, 3)).astype(np.float32)
    exported, made, exact = exported_scores(model, samples), simulated_scores(model, samples), np.asarray(model(samples))
    assert root_mean_square(made - exported) < share * root_mean_square(exported - exact)
    assert (made.argmax(axis=1) == exported.argmax(axis=1)).mean() > 0.95


def test_the_simulation_shows_what_a_trained_network_loses(keras, hurt: Path, digits: Digits) -> None:
    samples = digits.test_images[:200, ..., None].astype(np.float32)
    model = keras.saving.load_model(hurt, compile=False)
    exported, made = exported_scores(model, samples), simulated_scores(model, samples)
    assert root_mean_square(made - exported) < 0.3 * root_mean_square(exported - np.asarray(model(samples)))
    assert (made.argmax(axis=1) == exported.argmax(axis=1)).mean() > 0.97


def test_what_8_bits_lost_is_won_back(tuned: FinetuneResult) -> None:
    assert tuned.metric == "accuracy"
    assert tuned.int8_before < tuned.float_before - 0.05
    assert tuned.int8_after > tuned.int8_before + 0.05
    assert tuned.float_after > tuned.float_before - 0.03
    assert (tuned.samples, tuned.held_back, tuned.operators) == (1200, 300, 4)
    assert tuned.epochs[tuned.best_epoch - 1].score == tuned.int8_after


def test_the_ordinary_export_has_the_gain(hurt: Path, tuned: FinetuneResult, labeled: str, digits: Digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=digits.test_images[:500], y=digits.test_labels[:500])
    accuracies = []
    for path in (hurt, tuned.path):
        result = export(
            path, tmp_path / f"{path.stem}.bundle", formats=["onnx"], precisions=["static-int8"], calib=labeled,
            evaluate=str(tmp_path / "test.npz"), max_drop="100pp",
        )  # fmt: skip
        accuracies.append(result.verified[0].accuracy)
    # Of what the exporter has not already won back by itself, by equalizing.
    assert accuracies[1] > accuracies[0] + 0.02


def test_the_network_stays_the_same_but_for_its_weights(hurt: Path, tuned: FinetuneResult, keras) -> None:
    before, after = (keras.saving.load_model(path, compile=False) for path in (hurt, tuned.path))
    assert before.get_config() == after.get_config()
    statistics = [model.get_layer("stem_norm").get_weights()[2:] for model in (before, after)]
    np.testing.assert_array_equal(*statistics)
    assert not np.array_equal(before.get_layer("depthwise").get_weights()[0], after.get_layer("depthwise").get_weights()[0])


def test_the_same_seed_gives_the_same_weights(keras, hurt: Path, tuned: FinetuneResult, labeled: str, tmp_path: Path) -> None:
    again = finetune(hurt, tmp_path / "again.keras", data=labeled, **SETTINGS)
    assert [epoch.loss for epoch in again.epochs] == [epoch.loss for epoch in tuned.epochs]
    for one, other in zip(weights(keras, again.path), weights(keras, tuned.path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_labels_it_learns_to_answer_as_before(hurt: Path, digits: Digits, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", digits.train_images[:1200])
    result = finetune(hurt, tmp_path / "tuned.keras", data=tmp_path / "images.npy", learning_rate=1e-3, epochs=2)
    assert result.metric == "agreement"
    assert result.float_before == 1
    assert result.int8_after > result.int8_before + 0.05


def test_a_model_in_memory_keeps_its_weights_and_what_was_frozen_is_trained(keras, liven, tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)])
    liven(keras, model)
    model.layers[0].trainable = False
    before = model.get_weights()
    np.save(tmp_path / "rows.npy", np.random.default_rng(2).normal(size=(300, 6)))
    result = finetune(model, tmp_path / "tuned.keras", data=tmp_path / "rows.npy", learning_rate=3e-3, epochs=8)
    assert result.metric == "fidelity"
    assert result.int8_after > result.int8_before
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded = keras.saving.load_model(result.path, compile=False)
    assert not loaded.layers[0].trainable
    assert not np.array_equal(loaded.get_weights()[0], before[0])


def test_weights_of_a_mixed_precision_network_come_back_in_its_own_types(keras, liven, tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    row = keras.Input((6,), name="row")
    x = layers.Dense(8, activation="relu", dtype="mixed_float16")(row)
    model = keras.Model(row, layers.Dense(3, dtype="float32")(x))
    liven(keras, model)
    np.save(tmp_path / "rows.npy", np.random.default_rng(2).normal(size=(300, 6)))
    result = finetune(model, tmp_path / "tuned.keras", data=tmp_path / "rows.npy", learning_rate=3e-3, epochs=8)
    loaded = keras.saving.load_model(result.path, compile=False)
    assert loaded.layers[1].compute_dtype == "float16"
    assert not np.array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_recurrent_layers_stay_in_float_and_are_named(keras, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    sequence = keras.Input((5, 4))
    model = keras.Model(sequence, keras.layers.Dense(3)(keras.layers.GRU(6, name="memory")(sequence)))
    int8 = simulated(model, {model.inputs[0].name: np.random.default_rng(1).normal(size=(8, 5, 4)).astype(np.float32)})
    assert int8.floating == ("memory",)
    assert int8.operators == 1


def test_nothing_is_written_where_nothing_was_won(hurt: Path, labeled: str, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"better than the beginning, int8 accuracy was .* nothing was written: try more samples"):
        finetune(hurt, tmp_path / "tuned.keras", data=labeled, learning_rate=1e-12, epochs=1, samples=200)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"data": "nowhere"}, InputError, "--data takes .* 'nowhere' does not exist"),
        ({"samples": 1}, InputError, "samples 2"),
        ({"target": "x86"}, InputError, "a target is one of any, .*, found 'x86'"),
        ({"epochs": 0}, InputError, "at least 1"),
        ({"output": "tuned.h5"}, OutputError, "end its name in .keras"),
        ({"evaluate": "nowhere"}, InputError, "--eval takes .* 'nowhere' does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(hurt: Path, labeled: str, tmp_path: Path, change, error, match: str) -> None:
    settings = {"data": labeled, "output": "tuned.keras", **change}
    with pytest.raises(error, match=match):
        finetune(hurt, tmp_path / settings.pop("output"), **settings)


def test_an_existing_file_is_kept_unless_told_otherwise(hurt: Path, labeled: str, tmp_path: Path) -> None:
    (tmp_path / "tuned.keras").write_text("mine")
    with pytest.raises(OutputError, match="exists; add --force"):
        finetune(hurt, tmp_path / "tuned.keras", data=labeled)
    assert (tmp_path / "tuned.keras").read_text() == "mine"


def test_labels_that_the_model_does_not_know_are_refused(hurt: Path, digits: Digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", x=digits.train_images[:100], y=digits.train_labels[:100].astype(int) + 5)
    with pytest.raises(InputError, match="the model's 10 classes, 0 to 9, found"):
        finetune(hurt, tmp_path / "tuned.keras", data=tmp_path / "more.npz")


def test_a_network_without_weights_is_refused(keras) -> None:
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image), name="mean")
    with pytest.raises(UnsupportedError, match="convolutions or Dense layers, 'mean' has none"):
        simulated(model, {model.inputs[0].name: np.ones((4, 4, 4, 3), np.float32)})
