"""Every kind of source: what comes out is compared with the original model, in both formats."""

import importlib
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.keras_source import KerasSource
from lepton_runtime import InputError, Precision, Session, UnsupportedError
from lepton_runtime.manifest import Manifest

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-5  # of an output's largest value: float32 sums of a few dozen terms, in another order


def answers_match(path: Path, inputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Both engines give these answers for these inputs, one call for all rows or one a row."""
    for engine in ("onnxruntime", "litert"):
        with Session.open(path, engine=engine) as session:
            length = session.artifact.inputs[0].shape[0]
            rows = len(next(iter(inputs.values())))
            assert {spec.name for spec in session.artifact.inputs} == set(inputs)
            assert [spec.name for spec in session.artifact.outputs] == list(expected)
            step = length or rows
            found = [session.run({name: array[row : row + step] for name, array in inputs.items()}) for row in range(0, rows, step)]
            for name, wanted in expected.items():
                answer = np.concatenate([part[name] for part in found])
                assert answer.shape == wanted.shape
                np.testing.assert_allclose(answer, wanted, rtol=0, atol=TOLERANCE * max(1e-3, float(np.abs(wanted).max())), err_msg=name)


def fp32(model, folder: Path, **options) -> tuple[Path, Manifest]:
    """A bundle with both formats at fp32."""
    result = export(model, folder / "b", precisions=[Precision.FP32], force=True, **options)
    assert [record.verdict for record in result.verified] == ["same as Keras"] * 2
    return result.path, result.manifest


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# SavedModel folders


def test_a_saved_model_of_keras_2_converts(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "keras2_saved_model.zip") as archive:
        archive.extractall(tmp_path / "model")
    answers = np.load(tmp_path / "model" / "answers.npz")
    path, manifest = fp32(tmp_path / "model", tmp_path, trust_code=True)
    assert [spec.name for spec in manifest.outputs] == ["alpha", "zeta"]  # by name: the file keeps no order
    assert manifest.notes == ("signature serving_default",)
    answers_match(path, {"row": answers["x"]}, {name: answers[name] for name in ("alpha", "zeta")})


@pytest.fixture
def keras_3_folder(keras, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 6, 2), name="image"), *layers])
    model.export(str(tmp_path / "model"), verbose=False)
    x = noise(4, 6, 6, 2)
    return tmp_path / "model", x, np.asarray(model(x))


@pytest.mark.parametrize("batch", [1, 2, None])
def test_a_saved_model_of_keras_3_converts(keras_3_folder, tmp_path: Path, batch: int | None) -> None:
    folder, x, expected = keras_3_folder
    path, manifest = fp32(folder, tmp_path, trust_code=True, batch=batch)
    assert manifest.inputs[0].shape == (batch, 6, 6, 2)
    assert manifest.source["file"] == "model"
    answers_match(path, {"image": x}, {"output_0": expected})


def test_loops_of_a_saved_model_convert_for_a_batch(keras, tmp_path: Path) -> None:
    inputs = keras.Input((6, 4), name="sequence")
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(3)(inputs)))
    shuffled(model)
    model.export(str(tmp_path / "model"), verbose=False)
    path, _ = fp32(tmp_path / "model", tmp_path, trust_code=True, batch=2)
    x = noise(4, 6, 4)
    answers_match(path, {"sequence": x}, {"output_0": np.asarray(model(x))})


def test_the_digest_of_a_folder_changes_with_any_file(keras_3_folder, tmp_path: Path) -> None:
    folder = keras_3_folder[0]
    first = KerasSource.open(folder, trust_code=True).sha256
    assert first == KerasSource.open(folder, trust_code=True).sha256
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "note.txt").write_text("another")
    assert first != KerasSource.open(folder, trust_code=True).sha256


@pytest.fixture
def module_folder(tmp_path: Path) -> Path:
    import tensorflow as tf

    class Plain(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(noise(8, 3, seed=1))

        @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x"), tf.TensorSpec([None, 3], name="a")])
        def free(self, x, a):
            return {"z": tf.nn.relu(x @ self.kernel) + a, "b": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([4, 8], name="x")])
        def fixed(self, x):
            return tf.sigmoid(tf.reduce_sum(x @ self.kernel, 1, keepdims=True))

        @tf.function(input_signature=[tf.TensorSpec([8], name="x")])
        def single(self, x):
            return tf.reduce_sum(x)

    module = Plain()
    tf.saved_model.save(module, str(tmp_path / "module"), {"free": module.free, "fixed": module.fixed, "single": module.single})
    return tmp_path / "module"


def test_a_plain_module_converts_with_a_signature_of_that_name(module_folder: Path, tmp_path: Path) -> None:
    path, manifest = fp32(module_folder, tmp_path, trust_code=True, signature="free")
    x, a = noise(3, 8), noise(3, 3, seed=2)
    assert [spec.name for spec in manifest.inputs] == ["a", "x"]
    answers_match(path, {"x": x, "a": a}, {"b": 2 * x, "z": np.maximum(x @ noise(8, 3, seed=1), 0) + a})


def test_a_signature_for_four_samples_a_call_keeps_to_them(module_folder: Path, tmp_path: Path) -> None:
    path, manifest = fp32(module_folder, tmp_path, trust_code=True, signature="fixed")
    assert manifest.inputs[0].shape == (4, 8)
    assert "takes 4 samples a call" in manifest.notes[1]
    x = noise(8, 8)
    answers_match(path, {"x": x}, {"output_0": 1 / (1 + np.exp(-(x @ noise(8, 3, seed=1)).sum(1, keepdims=True)))})
    assert KerasSource.open(module_folder, trust_code=True, signature="fixed").has_class_scores()  # one sigmoid unit
    with pytest.raises(UnsupportedError, match="takes 4 samples a call and no other number, found --batch dynamic; give --batch 4"):
        export(module_folder, tmp_path / "c", trust_code=True, signature="fixed", batch=None)


def test_signatures_that_do_not_fit_are_refused_with_what_there_is(module_folder: Path, models: Path, tmp_path: Path) -> None:
    for name in (None, "serve"):
        with pytest.raises(InputError, match=r"it has fixed, free, single and no .*; choose one with --signature NAME"):
            export(module_folder, tmp_path / "b", trust_code=True, signature=name)
    with pytest.raises(UnsupportedError, match=r"must be the same batch axis, the signature 'single' has x \(8,\), output_0 \(\)"):
        export(module_folder, tmp_path / "b", trust_code=True, signature="single")
    with pytest.raises(InputError, match="--signature is for SavedModel folders"):
        export(models / "table.keras", tmp_path / "b", signature="free")


def test_a_saved_model_runs_only_if_it_is_trusted(module_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"is a program, which would run on this machine; .* add --trust-code"):
        export(module_folder, tmp_path / "b", signature="free")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a SavedModel folder with saved_model\.pb, found the folder"):
        export(tmp_path / "folder", tmp_path / "b", trust_code=True)


# Subclassed models, custom layers, Lambda layers

OWN_CODE = """
import keras


class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


def swish_like(x):
    return x * keras.ops.sigmoid(1.5 * x)


class Branches(keras.Model):
    def __init__(self, width=4, **settings):
        super().__init__(**settings)
        self.width = width
        self.inner, self.scale, self.drop = keras.layers.Dense(width, activation="relu"), Scale(), keras.layers.Dropout(0.5, name="drop")

    def get_config(self):
        return {**super().get_config(), "width": self.width}

    def call(self, features, training=False):
        x = self.inner(keras.ops.concatenate([features["left"], features["right"]], axis=-1))
        return {"sum": keras.ops.sum(x, axis=-1, keepdims=True), "all": self.drop(self.scale(x), training=training)}


class TwoArguments(keras.Model):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense = keras.layers.Dense(3)

    def build(self, query_shape, value_shape):
        self.dense.build(query_shape)

    def get_config(self):
        return {"name": self.name}

    def call(self, query, value):
        return [self.dense(query), self.dense(value)]


OBJECTS = {"Scale": Scale, "Branches": Branches, "TwoArguments": TwoArguments, "swish_like": swish_like}
"""


@pytest.fixture
def own(keras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module with layers and models of the user's own, in the current folder."""
    (tmp_path / "own_layers.py").write_text(OWN_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_layers", None)
    keras.utils.set_random_seed(4)
    yield importlib.import_module("own_layers")
    sys.modules.pop("own_layers")


def shuffled(model) -> None:
    """Weights that show where they were lost."""
    generator = np.random.default_rng(6)
    for weight in model.weights:
        values = generator.normal(0, 0.5, weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)


@pytest.mark.parametrize("from_file", [True, False])
def test_a_subclassed_model_that_was_called_converts(own, tmp_path: Path, from_file: bool) -> None:
    model, x = own.Branches(), {"left": noise(5, 3), "right": noise(5, 2)}
    model(x)
    shuffled(model)
    expected = {name: np.asarray(output) for name, output in model(x).items()}
    model.save(tmp_path / "model.keras")
    options = {"custom_objects": ["own_layers:OBJECTS"]} if from_file else {}
    path, manifest = fp32(tmp_path / "model.keras" if from_file else model, tmp_path, batch=None, **options)
    assert manifest.removed_layers == ("drop",)
    assert "its inputs are taken as float32" in manifest.notes[0]
    answers_match(path, x, {"all": expected["all"], "sum": expected["sum"]})


@pytest.mark.parametrize("from_file", [True, False])
def test_arguments_of_a_subclassed_model_become_named_inputs(own, tmp_path: Path, from_file: bool) -> None:
    model, x = own.TwoArguments(name="pair"), {"query": noise(4, 2), "value": noise(4, 2, seed=1)}
    first, second = map(np.asarray, model(**x))
    model.save(tmp_path / "model.keras")
    objects = {"TwoArguments": own.TwoArguments}
    path, _ = fp32(tmp_path / "model.keras" if from_file else model, tmp_path, custom_objects=objects)
    answers_match(path, x, {"pair": first, "pair_1": second})


def test_a_subclassed_model_that_was_never_called_says_what_to_do(own, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"found Branches without known inputs; call it once on a batch and save it again, or wrap it"
    ):
        export(own.Branches(), tmp_path / "b")


def test_a_subclassed_model_of_another_number_type_says_how_to_wrap_it(keras, tmp_path: Path) -> None:
    class Bits(keras.Model):
        def call(self, x):
            return keras.ops.bitwise_and(x, 3)

    model = Bits()
    model(np.ones((2, 4), np.int32))
    with pytest.raises(UnsupportedError, match=r"Bits must be callable on float32 arrays .* other number types: keras.Model\(inputs, mod"):
        export(model, tmp_path / "b")


def test_custom_layers_and_functions_are_named_and_imported(own, keras, tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="row")
    x = keras.layers.Dense(6, activation=own.swish_like)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(own.Scale()(x)))
    shuffled(model)
    x = noise(4, 4)
    for file in ("model.keras", "model.h5"):
        model.save(tmp_path / file)
        path, _ = fp32(tmp_path / file, tmp_path, custom_objects=["own_layers:Scale", "own_layers:swish_like"])
        answers_match(path, {"row": x}, {"out": np.asarray(model(x))})
    with pytest.raises(InputError, match=r"'swish_like' is not one of Keras'; name it with --custom-objects module:swish_like"):
        export(tmp_path / "model.h5", tmp_path / "c")
    with pytest.raises(InputError, match="'Scale' is not one of Keras'; name it with --custom-objects module:Scale"):
        export(tmp_path / "model.keras", tmp_path / "c", custom_objects=["own_layers:swish_like"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_layers", "--custom-objects takes module:name"),
        ("no_such_module:Scale", "must be importable from here; ModuleNotFoundError"),
        ("own_layers:Missing", "must be importable from here; AttributeError"),
    ],
)
def test_custom_objects_that_are_not_there_are_refused(own, models: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(models / "table.keras", tmp_path / "b", custom_objects=[text])


def test_lambda_layers_need_trust_and_their_functions_a_name(own, keras, tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="row")
    doubled = keras.layers.Lambda(lambda x: 2 * x)(inputs)
    model = keras.Model(inputs, keras.layers.Lambda(own.swish_like, name="out", output_shape=(4,))(doubled))
    x = noise(3, 4)
    for file in ("model.keras", "model.h5"):
        model.save(tmp_path / file)
        with pytest.raises(UnsupportedError, match=r"Lambda .* holds code.* add --trust-code"):
            export(tmp_path / file, tmp_path / "c", custom_objects=["own_layers:swish_like"])
        path, _ = fp32(tmp_path / file, tmp_path, custom_objects=["own_layers:swish_like"], trust_code=True)
        answers_match(path, {"row": x}, {"out": np.asarray(model(x))})


# Nested models and shared layers


def test_nested_models_and_shared_layers_convert(keras, liven, tmp_path: Path) -> None:
    layers = keras.layers
    tower_input = keras.Input((6, 6, 1))
    tower = keras.Model(tower_input, layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(tower_input)), name="tower")
    head = keras.Sequential(
        [keras.Input((48,)), layers.Dropout(0.2, name="drop"), layers.Dense(4, activation="tanh"), layers.Dense(1)], name="head"
    )
    left, right = keras.Input((6, 6, 1), name="left"), keras.Input((6, 6, 1), name="right")
    shared = layers.Dense(48, name="shared")
    difference = layers.subtract([shared(tower(left)), shared(tower(right))])
    model = keras.Model([left, right], [head(difference), head(tower(left))], name="twins")
    shuffled(model)
    x = {"left": noise(3, 6, 6, 1), "right": noise(3, 6, 6, 1, seed=1)}
    model.save(tmp_path / "twins.keras")
    path, manifest = fp32(tmp_path / "twins.keras", tmp_path, batch=3)
    assert manifest.removed_layers == ("drop",)
    first, second = map(np.asarray, model(list(x.values())))
    answers_match(path, x, {"head": first, "head_1": second})


# Number types


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"])
def test_other_number_types_become_float32(own, keras, tmp_path: Path, policy: str) -> None:
    layers = keras.layers
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 6), name="sequence", dtype=policy if policy == "float64" else None)
        inner_input = keras.Input((8,))
        inner = keras.Sequential([inner_input, layers.Dense(5, activation="relu"), own.Scale()], name="inner")
        x = layers.Bidirectional(layers.SimpleRNN(4, unroll=True, recurrent_initializer="glorot_uniform"))(
            layers.LayerNormalization()(inputs)
        )
        model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(inner(layers.Lambda(lambda x: x + 1)(x))))
    finally:
        keras.config.set_dtype_policy(previous)
    shuffled(model)
    model.save(tmp_path / "model.keras")
    path, manifest = fp32(tmp_path / "model.keras", tmp_path, custom_objects={"Scale": own.Scale}, trust_code=True, batch=4)
    kind = policy.removeprefix("mixed_")
    assert manifest.notes == (f"converted to float32 from {kind}, and verified against the float32 model",)
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {"float32"}
    x = noise(4, 8, 6)
    with Session.open(path) as session:
        # float16 rounds at 5e-4, bfloat16 at 4e-3; the scores are probabilities.
        tolerance = {"float64": 1e-6, "float16": 5e-3}.get(kind, 3e-2)
        np.testing.assert_allclose(
            session.run(x), np.asarray(model(x.astype(kind) if kind == "float64" else x), np.float32), atol=tolerance
        )


def test_a_subclassed_model_of_mixed_precision_becomes_float32(own, keras, tmp_path: Path) -> None:
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, x = own.Branches(), {"left": noise(5, 3), "right": noise(5, 2)}
        model(x)
        shuffled(model)
        expected = {name: np.asarray(output) for name, output in model(x).items()}
    finally:
        keras.config.set_dtype_policy(previous)
    path, manifest = fp32(model, tmp_path, batch=5)
    assert any(note.startswith("converted to float32 from float16") for note in manifest.notes)
    with Session.open(path) as session:
        for name, answer in session.run(x).items():
            np.testing.assert_allclose(answer, expected[name], rtol=5e-3, atol=5e-3)


# Several inputs and outputs


def test_an_input_handed_through_and_one_tensor_twice_keep_their_names(keras, tmp_path: Path) -> None:
    row, factor = keras.Input((4,), name="row"), keras.Input((), name="factor")
    hidden = keras.layers.Dense(3, name="hidden")(row)
    model = keras.Model([row, factor], {"same": row, "first": hidden, "second": hidden, "factor": factor})
    shuffled(model)
    x = {"row": noise(3, 4), "factor": noise(3)}
    expected = {name: np.asarray(output) for name, output in model(list(x.values())).items()}
    for batch in (3, None):
        path, _ = fp32(model, tmp_path, batch=batch)
        answers_match(path, x, {name: expected[name.removesuffix("_1")] for name in ("factor_1", "first", "same", "second")})


def test_nested_dicts_and_lists_are_named_by_their_place(keras, tmp_path: Path) -> None:
    inputs = {name: keras.Input((3,), name=name) for name in ("age", "city")}
    total = keras.layers.add(list(inputs.values()))
    model = keras.Model(inputs, {"head": {"b": total, "a": [keras.ops.relu(total), -total]}, "x": keras.ops.sin(total)})
    x = {name: noise(2, 3, seed=seed) for seed, name in enumerate(inputs)}
    sums = x["age"] + x["city"]
    path, _ = fp32(model, tmp_path, batch=2)
    answers_match(path, x, {"head_a_0": np.maximum(sums, 0), "head_a_1": -sums, "head_b": sums, "x": np.sin(sums)})


def test_integers_bytes_and_truth_values_are_inputs(keras, tmp_path: Path) -> None:
    layers = keras.layers
    words, image, flag = keras.Input((5,), dtype="int32", name="words"), keras.Input((4, 4, 3), dtype="uint8", name="image"), None
    flag = keras.Input((1,), dtype="bool", name="flag")
    pixels = layers.Flatten()(layers.Rescaling(1 / 255)(image))
    text = layers.Flatten()(layers.Embedding(7, 3)(words))
    model = keras.Model(
        [words, image, flag], layers.Dense(2, name="out")(layers.concatenate([text, pixels, keras.ops.cast(flag, "float32")]))
    )
    shuffled(model)
    generator = np.random.default_rng(0)
    x = {
        "words": generator.integers(0, 7, (3, 5)).astype(np.int32),
        "image": generator.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8),
        "flag": np.array([[True], [False], [True]]),
    }
    expected = np.asarray(model(list(x.values())))
    for batch in (3, None):
        path, _ = fp32(model, tmp_path, batch=batch)
        answers_match(path, x, {"out": expected})


# Channels first


def test_channels_first_networks_convert_and_take_channels_first_arrays(keras, tmp_path: Path) -> None:
    layers, first = keras.layers, {"data_format": "channels_first"}
    image = keras.Input((3, 12, 10), name="image")
    x = layers.Conv2D(6, 3, padding="same", strides=2, **first)(image)
    x = layers.PReLU(shared_axes=[2, 3])(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv2D(9, 3, padding="same", groups=3, activation="relu", **first)(x)
    x = layers.DepthwiseConv2D(3, padding="same", **first)(layers.ZeroPadding2D(1, **first)(x))
    x = layers.Conv2DTranspose(4, 3, strides=2, **first)(x)
    x = layers.UpSampling2D(2, **first)(layers.MaxPooling2D(2, **first)(x))
    x = layers.SeparableConv2D(5, 3, **first)(layers.SpatialDropout2D(0.5, **first)(x))
    flat = layers.Dense(3, name="flat")(layers.Flatten(**first)(layers.AveragePooling2D(3, **first)(x)))
    model = keras.Model(image, [flat, layers.GlobalAveragePooling2D(name="mean", **first)(x)])
    shuffled(model)
    x = noise(3, 3, 12, 10)
    path, manifest = fp32(model, tmp_path, batch=3)
    assert manifest.inputs[0].shape == (3, 3, 12, 10)
    expected = model(x)  # TensorFlow's own kernels for channels first, where this CPU has them
    answers_match(path, {"image": x}, {"flat": np.asarray(expected[0]), "mean": np.asarray(expected[1])})


def test_channels_first_sequences_convert(keras, tmp_path: Path) -> None:
    layers, first = keras.layers, {"data_format": "channels_first"}
    inputs = keras.Input((3, 16), name="signal")
    x = layers.Conv1D(6, 3, dilation_rate=2, groups=3, **first)(inputs)
    x = layers.Conv1DTranspose(4, 3, strides=2, **first)(layers.Conv1D(5, 3, strides=2, activation="relu", **first)(x))
    model = keras.Model(inputs, layers.GlobalMaxPooling1D(name="peak", **first)(layers.AveragePooling1D(2, **first)(x)))
    shuffled(model)
    x = noise(3, 3, 16)
    path, _ = fp32(model, tmp_path, batch=3)
    answers_match(path, {"signal": x}, {"peak": np.asarray(model(x))})


def test_grouped_convolutions_convert(keras, tmp_path: Path) -> None:
    image = keras.Input((9, 8, 6), name="image")
    x = keras.layers.Conv2D(12, 3, groups=3, strides=2, activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 2, groups=2, name="out")(x))
    shuffled(model)
    x = noise(2, 9, 8, 6)
    for batch in (2, None):
        path, _ = fp32(model, tmp_path, batch=batch)
        answers_match(path, {"image": x}, {"out": np.asarray(model(x))})


# Free sizes


@pytest.fixture
def any_size(keras):
    """Fully convolutional: scores for images of any size, and a map of the same size."""
    layers = keras.layers
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
    up = layers.Conv2D(2, 1, name="map")(layers.UpSampling2D(2)(x))
    model = keras.Model(image, [up, layers.Dense(4, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(x))])
    shuffled(model)
    return model


def test_free_sizes_stay_free_and_are_verified_on_two(any_size, tmp_path: Path) -> None:
    path, manifest = fp32(any_size, tmp_path)
    assert manifest.inputs[0].shape == (1, None, None, 3)
    assert [spec.shape for spec in manifest.outputs] == [(1, None, None, 2), (1, 4)]
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.size == (None, None)
    assert {record.parity.samples for record in manifest.artifacts} == {32}
    for height, width in ((64, 64), (96, 64), (10, 38)):
        x = noise(1, height, width, 3)
        found = any_size(x)
        answers_match(path, {"image": x}, {"map": np.asarray(found[0]), "scores": np.asarray(found[1])})


def test_both_halves_of_a_free_verification_differ_in_size() -> None:
    from lepton_converters.calibration import random_samples
    from lepton_runtime import TensorSpec

    spec = TensorSpec("x", (1, None, 8), "float32")
    samples = random_samples([spec], None, count=4, seed=0, raw_pixels=False)
    assert [sample.inputs["x"].shape for sample in samples] == [(64, 8), (64, 8), (96, 8), (96, 8)]


def test_a_size_that_is_given_fixes_free_axes(any_size, tmp_path: Path) -> None:
    path, manifest = fp32(any_size, tmp_path, size=(20, 12))
    assert manifest.inputs[0].shape == (1, 20, 12, 3)
    assert [spec.shape for spec in manifest.outputs] == [(1, 20, 12, 2), (1, 4)]
    assert manifest.settings["size"] == "20x12"
    x = noise(2, 20, 12, 3)
    found = any_size(x)
    answers_match(path, {"image": x}, {"map": np.asarray(found[0]), "scores": np.asarray(found[1])})


def test_sizes_that_do_not_fit_are_refused(any_size, models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a length for each of the 2 free axes of image 1×\?×\?×3 float32, found 20; give HEIGHTxWIDTH"):
        export(any_size, tmp_path / "b", size=[20])
    with pytest.raises(InputError, match="the model's inputs have none: row 1×8 float32; leave it out"):
        export(models / "table.keras", tmp_path / "b", size=[20])
    with pytest.raises(InputError, match=r"'resize' 'crop' needs a size, .* give one with --size HEIGHTxWIDTH"):
        export(any_size, tmp_path / "b", preprocessing={"resize": "crop"})


def test_images_of_their_own_sizes_calibrate_and_verify(any_size, tmp_path: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(12):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            shape = (24 + 8 * (number % 3), 32, 3)
            Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    photos = str(tmp_path / "photos")
    labels = ["cat", "dog", "cow", "pig"]
    scaled = {"scale": "1/255"}
    result = export(
        any_size, tmp_path / "b", calib=photos, evaluate=photos, labels=labels, calib_samples=8, max_drop="100pp", preprocessing=scaled
    )
    assert {(record.format, record.precision) for record in result.verified} >= {("onnx", "static-int8"), ("tflite", "static-int8")}
    assert all(record.parity.cosine > 0.98 for record in result.verified)
    with Session.open(result.path, precision="static-int8") as session:
        assert session.preprocess(next(Path(photos).rglob("*.png"))).shape[1] in (24, 32, 40)


@pytest.mark.parametrize("size", [None, (40,)])
def test_sequences_of_any_length_convert(keras, tmp_path: Path, size) -> None:
    layers = keras.layers
    inputs = keras.Input((None, 8), name="sequence")
    x = layers.Conv1D(6, 3, padding="causal", activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalMaxPooling1D()(layers.MaxPooling1D(2)(x))))
    shuffled(model)
    path, manifest = fp32(model, tmp_path, size=size, batch=2)
    assert manifest.inputs[0].shape == (2, size[0] if size else None, 8)
    for length in size or (7, 40):
        x = noise(2, length, 8)
        answers_match(path, {"sequence": x}, {"out": np.asarray(model(x))})


# Files of Keras 1 and 2


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", ["conv", "recurrent"])
def test_files_of_keras_2_give_the_answers_of_keras_2(tmp_path: Path, name: str, suffix: str) -> None:
    with zipfile.ZipFile(DATA / "keras2_files.zip") as archive:
        archive.extractall(tmp_path)
    answers = np.load(tmp_path / f"{name}.npz")
    path, manifest = fp32(tmp_path / f"{name}{suffix}", tmp_path, batch=3)
    assert manifest.removed_layers == (("spatial_dropout2d",) if name == "conv" else ())
    answers_match(path, {manifest.inputs[0].name: answers["x"]}, {manifest.outputs[0].name: answers["y"]})


def keras_1_file(path: Path, layers: list[dict], weights: dict[str, list[np.ndarray]], *, backend: str = "tensorflow") -> None:
    """A Sequential model as Keras 1 saved it: a list of layers, no version, names of its own for everything."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers}).encode()
        group = file.create_group("model_weights")
        group.attrs["backend"] = backend.encode()
        group.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]
        for layer in layers:
            name = layer["config"]["name"]
            inner = group.create_group(name)
            names = [f"{name}_{number}".encode() for number in range(len(weights.get(name, [])))]
            inner.attrs["weight_names"] = names
            for weight, values in zip(names, weights.get(name, []), strict=True):
                inner.create_dataset(weight.decode(), data=values)


def test_a_recurrent_file_of_keras_1_has_its_gates_in_order(keras, tmp_path: Path) -> None:
    lstm = {"name": "lstm_1", "output_dim": 3, "init": "glorot_uniform", "inner_init": "orthogonal", "forget_bias_init": "one"}
    lstm |= {"activation": "tanh", "inner_activation": "sigmoid", "return_sequences": False, "go_backwards": False, "stateful": False}
    lstm |= {"dropout_W": 0.2, "dropout_U": 0.0, "consume_less": "cpu", "input_dim": 4, "input_length": None, "unroll": False}
    lstm |= {"W_regularizer": None, "trainable": True, "batch_input_shape": [None, 6, 4], "input_dtype": "float32"}
    dense = {
        "name": "dense_1",
        "output_dim": 2,
        "init": "uniform",
        "bias": True,
        "activation": "softmax",
        "input_dim": 3,
        "W_constraint": None,
    }
    gates = {gate: [noise(4, 3, seed=seed), noise(3, 3, seed=seed + 10), noise(3, seed=seed + 20)] for seed, gate in enumerate("icfo")}
    head = [noise(3, 2), noise(2)]
    layers = [{"class_name": "LSTM", "config": lstm}, {"class_name": "Dense", "config": dense}]
    keras_1_file(tmp_path / "old.h5", layers, {"lstm_1": [array for gate in gates.values() for array in gate], "dense_1": head})
    path, _ = fp32(tmp_path / "old.h5", tmp_path, batch=3)

    modern = keras.Sequential([keras.Input((6, 4)), keras.layers.LSTM(3), keras.layers.Dense(2, activation="softmax")])
    modern.set_weights([*(np.concatenate([gates[gate][part] for gate in "ifco"], axis=-1) for part in range(3)), *head])
    x = noise(3, 6, 4)
    answers_match(path, {"lstm_1_input": x}, {"dense_1": np.asarray(modern(x))})


def test_convolutions_that_keras_1_saved_for_theano_are_turned(keras, tmp_path: Path) -> None:
    conv = {"name": "convolution2d_1", "nb_filter": 4, "nb_row": 3, "nb_col": 2, "subsample": [2, 1], "border_mode": "same"}
    conv |= {"dim_ordering": "th", "bias": True, "init": "he_normal", "activation": "relu", "batch_input_shape": [None, 3, 8, 8]}
    layers = [
        {"class_name": "Convolution2D", "config": conv},
        {"class_name": "MaxPooling2D", "config": {"name": "pool", "pool_size": [2, 2], "border_mode": "valid", "dim_ordering": "th"}},
        {"class_name": "Dropout", "config": {"name": "dropout_1", "p": 0.5}},
        {"class_name": "Flatten", "config": {"name": "flatten_1"}},
    ]
    kernel, bias = noise(4, 3, 3, 2), noise(4)
    keras_1_file(tmp_path / "old.h5", layers, {"convolution2d_1": [kernel, bias]}, backend="theano")
    path, manifest = fp32(tmp_path / "old.h5", tmp_path)
    assert manifest.removed_layers == ("dropout_1",)
    first = {"data_format": "channels_first"}
    conv2d = keras.layers.Conv2D(4, (3, 2), strides=(2, 1), padding="same", activation="relu", **first)
    modern = keras.Sequential([keras.Input((3, 8, 8)), conv2d, keras.layers.MaxPooling2D(2, **first), keras.layers.Flatten()])
    modern.set_weights([kernel.transpose(2, 3, 1, 0)[::-1, ::-1], bias])
    x = noise(2, 3, 8, 8)
    answers_match(path, {"convolution2d_1_input": x}, {"flatten_1": np.asarray(modern(x))})


def test_weights_of_cudnn_layers_become_those_of_plain_ones(keras, tmp_path: Path) -> None:
    from lepton_converters.legacy_config import modernize
    from lepton_converters.legacy_weights import _from_cudnn

    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        layer = keras.layers.deserialize(modernize({"class_name": f"CuDNN{kind}", "config": {"name": "r", "units": 3}}))
        layer.build((None, 6, 5))
        kernel, recurrent, bias = (noise(*weight.shape, seed=seed) for seed, weight in enumerate(layer.get_weights()))
        stored = [
            np.hstack([part.T.reshape(part.shape) for part in np.hsplit(kernel, gates)]),
            np.hstack([part.T for part in np.hsplit(recurrent, gates)]),
            np.concatenate([bias, np.zeros_like(bias)]) if kind == "LSTM" else bias.reshape(-1),
        ]
        for found, wanted in zip(_from_cudnn(kind, stored), (kernel, recurrent, bias), strict=True):
            np.testing.assert_array_equal(found, wanted)


def towers(path: Path, *, weights: dict[str, list[np.ndarray]]) -> None:
    """A file of Keras 2 with two layers of one shape, and their weights in the order that is given."""
    import h5py

    dense = {"units": 3, "activation": "linear", "use_bias": True}
    layers = [{"class_name": "Dense", "config": {"name": name, **dense}} for name in ("tower/left", "tower/right")]
    layers[0]["config"]["batch_input_shape"] = [None, 3]
    keras_1_file(path, layers, {})
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.4.0"
        group = file["model_weights"]
        for name in ("tower/left", "tower/right"):
            del group[name]
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            inner["kernel:0"], inner["bias:0"] = arrays


def weights_of(path: Path) -> list[np.ndarray]:
    model = KerasSource.open(path).model
    assert model is not None
    return [layer.get_weights()[0] for layer in model.layers if layer.get_weights()]


def test_weights_of_old_files_go_by_name_and_only_without_any_by_order(tmp_path: Path) -> None:
    left, right = [noise(3, 3, seed=1), noise(3)], [noise(3, 3, seed=2), noise(3)]
    for names in (("tower/right", "tower/left"), ("tower/right", "dense_7")):  # of one that is left, nothing else can be meant
        towers(tmp_path / "old.h5", weights=dict(zip(names, (right, left), strict=True)))
        np.testing.assert_array_equal(weights_of(tmp_path / "old.h5"), [left[0], right[0]])
    towers(tmp_path / "old.h5", weights={"dense_1": left, "dense_2": right})
    np.testing.assert_array_equal(weights_of(tmp_path / "old.h5"), [left[0], right[0]])


def test_weights_of_old_files_of_which_some_have_other_names_are_refused(keras) -> None:
    from lepton_converters.legacy_weights import _paired

    layers = [keras.layers.Dense(1, name=name) for name in "abc"]
    with pytest.raises(InputError, match=r"must have the names of its layers, or none of them, found y, z where the layers are b, c"):
        _paired(["y", "a", "z"], layers, Path("old.h5"))


@pytest.mark.parametrize("kind", ["external", "virtual", "link", "soft link"])
def test_an_old_file_cannot_take_in_another(tmp_path: Path, kind: str) -> None:
    import h5py

    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = noise(3, 3)
    towers(tmp_path / "old.h5", weights={name: [noise(3, 3), noise(3)] for name in ("tower/left", "tower/right")})
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        group = file["model_weights/tower/left"]
        del group["kernel:0"]
        if kind == "external":
            group.create_dataset("kernel:0", (3, 3), "float32", external=[(str(secret), 0, 36)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 3), "float32")
            layout[:] = h5py.VirtualSource(str(secret), "kernel", (3, 3))
            group.create_virtual_dataset("kernel:0", layout)
        else:
            group["kernel:0"] = h5py.ExternalLink(str(secret), "kernel") if kind == "link" else h5py.SoftLink("/model_weights")
    with pytest.raises(InputError, match=r"all weights must be in 'old.h5' itself, 'model_weights/tower/left/kernel:0' is a"):
        KerasSource.open(tmp_path / "old.h5")


def test_an_archive_of_keras_2_cannot_take_in_another_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers/dense"] = h5py.ExternalLink("secret.h5", "kernel")
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
    with pytest.raises(InputError, match=r"all weights must be in 'old.keras' itself, .* is a link to 'kernel' in 'secret.h5'"):
        KerasSource.open(tmp_path / "old.keras")


def test_what_keras_3_has_no_word_for_is_refused_by_name(tmp_path: Path) -> None:
    layer = {"name": "merge_1", "mode": "cos", "batch_input_shape": [None, 4]}
    keras_1_file(tmp_path / "old.h5", [{"class_name": "Merge", "config": layer}], {})
    with pytest.raises(UnsupportedError, match=r"a Merge layer of Keras 1 must have a mode of concat, sum, .* 'merge_1' has 'cos'"):
        export(tmp_path / "old.h5", tmp_path / "b")
    layer = {"name": "dense_1", "units": 2, "kernel_fog": 3, "batch_input_shape": [None, 4]}
    keras_1_file(tmp_path / "old.h5", [{"class_name": "Dense", "config": layer}], {})
    with pytest.raises(
        UnsupportedError, match=r"Dense 'dense_1' has kernel_fog=3; save the model as a SavedModel with the Keras that made it"
    ):
        export(tmp_path / "old.h5", tmp_path / "b")


def test_a_file_cannot_name_a_function_that_writes(keras) -> None:
    from lepton_converters.legacy_layers import LEGACY_LAYERS

    assert LEGACY_LAYERS["TFOpLambda"]("math.add").function == "math.add"
    for name in ("io.write_file", "math", "keras.utils.get_file", "py_function", "nn.__class__"):
        with pytest.raises(UnsupportedError, match="must be one of TensorFlow's mathematical functions"):
            LEGACY_LAYERS["TFOpLambda"](name)


# Dropout that is kept


@pytest.fixture
def monte_carlo(keras):
    """A network whose author keeps its dropout: a seeded spread of answers says how sure it is."""
    layers = keras.layers
    keras.utils.set_random_seed(7)
    inputs = keras.Input((6,), name="row")
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.Dropout(0.4, name="doubt")(x, training=True)
    x = layers.BatchNormalization()(layers.Dropout(0.5, name="usual")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(x))
    shuffled(model)
    return model


def test_dropout_on_purpose_is_refused_without_the_flag(monte_carlo, tmp_path: Path) -> None:
    monte_carlo.save(tmp_path / "model.keras")
    for model in (monte_carlo, tmp_path / "model.keras"):
        with pytest.raises(UnsupportedError, match=r"'doubt' .*called with training=True.* --keep-dropout keeps"):
            export(model, tmp_path / "b")


@pytest.mark.parametrize("engine", ["onnxruntime", "litert", "openvino"])
def test_bound_calls_of_several_lengths_keep_apart(keras, tmp_path: Path, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO has no wheel here")
    layers = keras.layers
    steps = keras.Input((None, 4), name="steps")
    model = keras.Model(steps, layers.Conv1D(3, 3, padding="same", activation="tanh", name="scores")(steps))
    path, _ = fp32(model, tmp_path)
    given = {length: noise(1, length, 4) for length in (5, 9, 5000)}
    expected = {length: np.asarray(model(x)) for length, x in given.items()}
    with Session.open(path, engine=engine) as session:
        opened = session._engine
        assert opened is not None
        outs = {length: np.empty((1, length, 3), np.float32) for length in given}
        calls = {length: opened.bind([x], [outs[length]]) for length, x in given.items()}
        for length in (5, 9, 5000, 9, 9, 5):
            calls[length]()
            np.testing.assert_allclose(outs[length], expected[length], atol=1e-6)
            np.testing.assert_allclose(session.run(given[9]), expected[9], atol=1e-6)
        with pytest.raises(InputError, match="shape"):
            opened.bind([given[5]], [np.empty((1, 9, 3), np.float32)])()
        calls[5]()
        np.testing.assert_allclose(outs[5], expected[5], atol=1e-6)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_kept_dropout_spreads_as_that_of_keras(monte_carlo, tmp_path: Path, engine: str) -> None:
    path, manifest = fp32(monte_carlo, tmp_path, keep_dropout=True)
    assert manifest.noise_inputs == ("doubt_noise",)
    assert manifest.removed_layers == ("usual",)
    assert all(record.parity.max_abs < 1e-6 for record in manifest.artifacts)  # the same noise for both
    x = noise(1, 6)
    with Session.open(path, engine=engine, seed=1) as session:
        found = np.stack([session.run(x)[0] for _ in range(2000)])
    expected = np.asarray(monte_carlo(np.repeat(x, 2000, axis=0)))
    assert expected.std(0).max() > 0.1  # without dropout it would be 0
    # Means of 2,000 draws differ by 1.4 standard errors, their spread by 2 %, about once; four times that is no chance.
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=4 * 1.4 * expected.std(0).max() / 2000**0.5)
    np.testing.assert_allclose(found.std(0), expected.std(0), rtol=0.1)


def test_a_seed_makes_kept_dropout_repeat_and_noise_may_be_given(monte_carlo, tmp_path: Path) -> None:
    path, _ = fp32(monte_carlo, tmp_path, keep_dropout=True, batch=None)
    x = noise(5, 6)
    with Session.open(path, seed=3) as one, Session.open(path, seed=3) as other, Session.open(path) as third:
        first = one.run(x)
        np.testing.assert_array_equal(first, other.run(x))
        assert not np.array_equal(first, one.run(x))
        assert not np.array_equal(first, third.run(x))
        drawn = np.random.default_rng(3).random((5, 16), np.float32)
        np.testing.assert_array_equal(first, third.run({"row": x, "doubt_noise": drawn})["scores"])
        assert [spec.name for spec in one.inputs] == ["row"]


def test_all_dropout_is_kept_where_none_is_on_purpose(keras, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 2), name="image")
    x = layers.SpatialDropout2D(0.3, name="maps")(layers.Conv2D(6, 3, activation="relu")(image))
    x = layers.Reshape((6, 36))(layers.Permute((3, 1, 2))(x))
    x = layers.LSTM(5, dropout=0.2, recurrent_dropout=0.3, name="steps", return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(4, dropout=0.25, name="both"))(layers.TimeDistributed(layers.Dropout(0.2, name="each"))(x))
    model = keras.Model(image, layers.Dense(2, name="out")(x))
    shuffled(model)
    path, manifest = fp32(model, tmp_path, keep_dropout=True)
    shapes = {spec.name: spec.shape for spec in manifest.inputs if spec.name in manifest.noise_inputs}
    assert shapes["maps_noise"] == (1, 1, 1, 6)
    assert sum(name.startswith("steps_noise") for name in shapes) == 8  # the input and the state of four gates
    assert manifest.removed_layers == ()
    assert all(record.parity.max_abs < 1e-5 for record in manifest.artifacts)
    with Session.open(path, seed=0) as session:
        answers = np.stack([session.run(noise(1, 8, 8, 2)) for _ in range(20)])
    assert (answers.std(0) > 0).all()


def test_dropout_that_cannot_be_kept_is_refused(keras, models: Path, any_size, tmp_path: Path) -> None:
    row = keras.Input((4,), name="row")
    blurred = keras.Model(row, keras.layers.GaussianNoise(0.2, name="blur")(row, training=True))
    with pytest.raises(UnsupportedError, match="'blur' is a GaussianNoise; build the model without it"):
        export(blurred, tmp_path / "b", keep_dropout=True)
    with pytest.raises(InputError, match="--keep-dropout is for models with dropout, 'table' has none that can be kept"):
        export(models / "table.keras", tmp_path / "b", keep_dropout=True)
    image = keras.Input((None, None, 3), name="image")
    free = keras.Model(image, keras.layers.GlobalMaxPooling2D()(keras.layers.Dropout(0.5, name="free")(image)))
    with pytest.raises(UnsupportedError, match=r"must have fixed sizes, the mask of 'free' is \(1, None, None, 3\); fix them with --size"):
        export(free, tmp_path / "b", keep_dropout=True)
    fp32(free, tmp_path, keep_dropout=True, size=(4, 4))
