"""What fine-tuning reads and writes: old files, compiled models, interrupted runs, samples and labels of all kinds."""

import json
from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export, quantized_training, training_data
from lepton_converters.check import check_model
from lepton_converters.conversion import Step
from lepton_converters.epoch import Epoch, Training
from lepton_converters.finetune import _gain_doubts, finetune
from lepton_converters.gain import Gain
from lepton_converters.keras_source import KerasSource
from lepton_converters.label_doubt import label_doubts
from lepton_converters.legacy_layers import hard_sigmoid_of_keras_2
from lepton_converters.training_data import TrainingData
from lepton_runtime import InputError, UnsupportedError

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
    monkeypatch.setattr(quantized_training, "best_epoch", lambda losses, scores: len(losses) - 1)


# Files


def test_a_tuned_network_of_keras_2_is_exported_like_any_other(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    keras_2_file(tmp_path / "old.h5")
    result = finetune(tmp_path / "old.h5", tmp_path / "tuned.keras", data=rows, **SETTINGS)
    export(result.path, tmp_path / "b", formats=["onnx"], precisions=["fp32"])
    assert check_model(result.path, custom_objects=()).fault == ""
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


def test_a_compiled_network_stays_compiled(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    model = table(keras)
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "model.keras")
    result = finetune(tmp_path / "model.keras", tmp_path / "tuned.keras", data=rows, **SETTINGS)
    loaded = keras.saving.load_model(result.path)
    assert result.notes == ()
    assert isinstance(loaded.optimizer, keras.optimizers.SGD)
    assert len(loaded.evaluate(noise(8, 6), np.zeros(8), verbose=0)) == 2


def test_a_loss_that_nobody_knows_is_left_out_with_a_note(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    def secret(wanted, given):
        return keras.ops.mean(given)

    model = table(keras)
    model.compile("sgd", secret)
    model.save(tmp_path / "model.keras")
    result = finetune(tmp_path / "model.keras", tmp_path / "tuned.keras", data=rows, **SETTINGS)
    assert result.notes == (
        "the loss, metrics and optimizer of model.keras could not be read: compile the tuned network to train or evaluate it",
    )
    assert not keras.saving.load_model(result.path).compiled


def test_a_network_that_cannot_be_saved_is_refused_before_it_is_trained(keras, rows: Path, tmp_path: Path) -> None:
    class Scale(keras.layers.Layer):
        def __init__(self, factor, **settings):
            super().__init__(**settings)
            self.factor = factor

        def call(self, x):
            return x * self.factor

    row = keras.Input((6,))
    model = keras.Model(row, keras.layers.Dense(3)(Scale(keras.Variable(2.0))(row)))
    steps = []
    with pytest.raises(UnsupportedError, match=r"that Keras can save as a .keras file: .*get_config"):
        finetune(model, tmp_path / "tuned.keras", data=rows, on_step=steps.append)
    assert {step.name for step in steps} == {"read"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_could_not_be_opened_is_not_written(keras, rows: Path, tmp_path: Path) -> None:
    class Twice(keras.layers.Layer):
        def call(self, x):
            return x * 2

    row = keras.Input((6,))
    model = keras.Model(row, keras.layers.Dense(3)(Twice()(row)))
    with pytest.raises(UnsupportedError, match=r"loaded again once it is saved; .* --custom-objects module:Twice"):
        finetune(model, tmp_path / "tuned.keras", data=rows)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_the_folder_is_made(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    (tmp_path / ".tuned.keras.tmp-0123456789abcdef").mkdir()
    (tmp_path / ".tuned.keras.tmp-0123456789abcdef.lock").touch()
    result = finetune(table(keras), tmp_path / "new" / "tuned.keras", data=rows, **SETTINGS)
    assert result.path.exists()
    finetune(table(keras), tmp_path / "tuned.keras", data=rows, **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "tuned.keras"]


def test_an_interrupt_leaves_the_model_as_it_was_and_no_file(keras, rows: Path, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.subject == "epoch 2/3":
            raise KeyboardInterrupt

    model = table(keras)
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        finetune(model, tmp_path / "tuned.keras", data=rows, learning_rate=0.01, on_step=interrupt)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("keep_frozen", "stays"), [(False, False), (True, True)])
def test_frozen_layers_are_trained_unless_they_are_kept(keras, anything_counts, rows: Path, tmp_path: Path, keep_frozen, stays) -> None:
    model = table(keras)
    model.layers[1].trainable = False
    result = finetune(model, tmp_path / "tuned.keras", data=rows, keep_frozen=keep_frozen, **SETTINGS)
    before, after = model.get_weights(), keras.saving.load_model(result.path).get_weights()
    assert np.array_equal(before[0], after[0]) is stays
    assert not np.array_equal(before[2], after[2])


def test_a_network_of_frozen_layers_has_nothing_to_train(keras, rows: Path, tmp_path: Path) -> None:
    model = table(keras)
    model.trainable = False
    with pytest.raises(InputError, match="a layer to train, all are frozen; leave --keep-frozen out"):
        finetune(model, tmp_path / "tuned.keras", data=rows, keep_frozen=True)


# Samples


def labelled(path: Path, model, x: np.ndarray, *, wrong: int = 0) -> Path:
    """Samples with the classes that the model gives them, the first of which are called another."""
    classes = np.asarray(model(x)).argmax(axis=1)
    classes[:wrong] = (classes[:wrong] + 1) % 3
    np.savez(path, x=x, y=classes)
    return path


def test_the_gain_is_measured_on_samples_that_did_not_choose(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    test = labelled(tmp_path / "test.npz", table(keras), noise(50, 6, seed=3), wrong=10)
    result = finetune(table(keras), tmp_path / "tuned.keras", data=rows, evaluate=test, **SETTINGS)
    assert (result.metric, result.evaluated, result.held_back) == ("accuracy", 50, 80)
    assert result.float_before == 0.8
    model, x = keras.saving.load_model(result.path), np.load(test)
    assert result.float_after == pytest.approx((np.asarray(model(x["x"])).argmax(axis=1) == x["y"]).mean())
    assert result.int8_before < 0.8


def test_of_several_outputs_the_one_with_classes_is_measured(keras, anything_counts, rows: Path, tmp_path: Path) -> None:
    layers = keras.layers
    classifier = table(keras)
    box = layers.Dense(1)(layers.Reshape((2, 3))(classifier.inputs[0]))
    model = keras.Model(classifier.inputs, [box, classifier.outputs[0]])
    test = labelled(tmp_path / "test.npz", classifier, noise(50, 6, seed=3), wrong=10)
    result = finetune(model, tmp_path / "tuned.keras", data=rows, evaluate=test, **SETTINGS)
    assert (result.metric, result.float_before) == ("accuracy", 0.8)


def test_samples_to_measure_on_need_labels(keras, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--eval needs classes"):
        finetune(table(keras), tmp_path / "tuned.keras", data=rows, evaluate=rows)


@pytest.mark.parametrize(("use_labels", "metric", "notes"), [(True, "accuracy", 1), (False, "agreement", 0)])
def test_labels_that_look_wrong_are_told_of_and_can_be_ignored(
    keras, anything_counts, tmp_path: Path, use_labels: bool, metric: str, notes: int
) -> None:
    data = labelled(tmp_path / "data.npz", table(keras), noise(300, 6), wrong=300)
    result = finetune(table(keras), tmp_path / "tuned.keras", data=data, use_labels=use_labels, **SETTINGS)
    assert result.metric == metric
    found = [note for note in result.notes if "Keras itself is right on 0.0 % of the labelled samples" in note]
    assert len(found) == notes
    assert all(note.endswith("--ignore-labels trains without them") for note in found)
    others = [note for note in result.notes if note not in found]
    assert all(note.startswith("in 8 bits the tuned network answers worse") for note in others)


def test_samples_that_teach_nothing_are_told_of_in_the_words_of_the_command(keras, anything_counts, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((300, 6), np.float32))
    notes = finetune(table(keras), tmp_path / "tuned.keras", data=tmp_path / "data.npy", **SETTINGS).notes
    assert any("all 200 calibration samples are the same" in note and "look at what --data reads" in note for note in notes)


@pytest.mark.parametrize(("after", "told"), [(0.79, True), (0.8, False), (0.85, False)])
def test_a_network_that_answers_worse_in_8_bits_than_before_is_told_of(after: float, told: bool) -> None:
    found = _gain_doubts(Gain("accuracy", Training((), Epoch(0, 1, None, 0.5, 0.8, 1.0), None), (0.9, 0.8), (0.9, after)))
    assert [note[:52] for note in found] == ["in 8 bits the tuned network answers worse than the o"] * told


def test_labels_that_the_model_has_no_scores_for_can_be_ignored(keras, anything_counts, tmp_path: Path) -> None:
    row = keras.Input((6,))
    model = keras.Model(row, keras.layers.Dense(1)(row))
    np.savez(tmp_path / "rows.npz", x=noise(300, 6), y=np.arange(300) % 2)
    result = finetune(model, tmp_path / "tuned.keras", data=tmp_path / "rows.npz", use_labels=False, **SETTINGS)
    assert result.metric == "fidelity"


@pytest.mark.parametrize(
    ("accuracy", "counts", "doubted"),
    [
        (0.72, (150, 150), False),
        (0.55, (150, 150), True),
        (0.72, (90, 210), True),
        (0.9, (90, 210), False),
        (0.1, (300, 0), False),
        (0.136, (200,) * 10, True),
        (0.3, (200,) * 10, False),
    ],
)
def test_labels_are_doubted_where_one_answer_for_all_would_be_as_good(accuracy: float, counts: tuple[int, ...], doubted: bool) -> None:
    assert bool(label_doubts(accuracy, counts)) is doubted


def test_fewer_samples_than_a_batch_are_one_batch(keras, anything_counts, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", noise(12, 6))
    result = finetune(table(keras), tmp_path / "tuned.keras", data=tmp_path / "few.npy", **SETTINGS)
    assert (result.samples, result.held_back, result.settings["batch_size"]) == (10, 2, 10)


def test_samples_are_held_in_the_order_of_the_seed(keras, tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.float32).reshape(10, 6)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(10) % 3)
    source = KerasSource.open(table(keras))
    settings = {"data": str(tmp_path / "data.npz"), "evaluate": None, "labels": None, "use_labels": True, "seed": 4}
    chosen = TrainingData.open(source, None, most=7, **settings)
    training, held_back = chosen.read(source, on_read=lambda fraction: None)
    order = np.random.default_rng(4).permutation(10)[:7]
    for samples, places in ((held_back, order[:1]), (training, order[1:])):
        np.testing.assert_array_equal(samples.inputs[source.inputs[0].name], x[places])
        np.testing.assert_array_equal(samples.labels, places % 3)


def test_more_samples_than_memory_are_refused_with_how_many_would_fit(keras, rows: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training_data, "available_bytes", lambda: 9600)
    with pytest.raises(InputError, match=r"half of the free memory, 400 take 0 MB of 0 MB; --samples 100 would fit"):
        finetune(table(keras), tmp_path / "tuned.keras", data=rows)


# Dead ends


def test_a_saved_model_is_refused_whether_its_code_is_trusted_or_not(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    for trust_code in (False, True):
        with pytest.raises(UnsupportedError, match="a SavedModel keeps none"):
            finetune(tmp_path / "model", tmp_path / "tuned.keras", data=rows, trust_code=trust_code)


def test_a_text_of_free_length_is_given_one_by_its_layer(keras, tmp_path: Path) -> None:
    text = keras.Input((1,), dtype="string")
    ids = keras.layers.TextVectorization(vocabulary=["a", "b"])(text)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(4, 5)(ids))
    model = keras.Model(text, keras.layers.Dense(2)(x))
    (tmp_path / "texts.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"inputs of known size, found .*; build its layer with output_sequence_length"):
        finetune(model, tmp_path / "tuned.keras", data=tmp_path / "texts.txt")
