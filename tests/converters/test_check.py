"""The check against Keras itself, and against what an export then makes."""

import inspect
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.check import CheckReport, check_built, check_model, targets_text
from lepton_converters.keras_names import ACTIVATIONS, KERAS_LAYERS
from lepton_converters.layer_config import read_model_config
from lepton_converters.layer_support import EVERY, RULES, TFLITE, Rule
from lepton_converters.model_file import read_model_file
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.formats import Format, Precision


def kinds(report: CheckReport, action: str) -> list[str]:
    return [layer.kind for layer in report.layers if layer.action == action]


def faults(report: CheckReport) -> list[str]:
    return [str(refusal) for refusal in report.refusals]


def saved(model, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls .h5 a legacy
        model.save(path)
    return path


@pytest.fixture(scope="module")
def encoder(keras):
    """A model with what changes shapes: convolutions, pooling, recurrent layers, a model inside, a layer that is called twice."""
    layers = keras.layers
    image = keras.Input((32, 24, 3), name="image")
    x = layers.ZeroPadding2D(((1, 2), (3, 4)))(image)
    x = layers.Conv2D(6, (3, 2), strides=(2, 1), padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2)(x)
    x = layers.SeparableConv2D(5, 3, activation="relu")(layers.MaxPooling2D(3, strides=2, padding="same")(x))
    x = layers.Conv2DTranspose(4, 3, strides=2)(layers.Conv2DTranspose(4, 2, strides=2, padding="same")(x))
    x = layers.Cropping2D((1, 2))(layers.UpSampling2D((2, 1))(x))
    x = layers.AveragePooling2D((4, 1))(layers.Resizing(16, 15)(x))
    x = layers.TimeDistributed(layers.Flatten())(layers.Permute((2, 1, 3))(x))
    inner = keras.Sequential([keras.Input((16,)), layers.Dense(7), layers.Dropout(0.1), layers.Reshape((1, -1))], name="inner")
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.RepeatVector(2)(layers.GRU(5)(layers.Conv1D(4, 3, padding="causal")(x)))
    twice = layers.Dense(16, activation="tanh", name="twice")
    pooled = layers.GlobalAveragePooling1D()(x)
    joined = layers.Concatenate()([inner(twice(twice(layers.Dense(16)(pooled)))), layers.Reshape((1, 5))(pooled)])
    return keras.Model(image, {"code": joined, "mean": layers.Add()([pooled, pooled])}, name="encoder")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_shapes_and_parameters_are_those_of_keras(encoder, tmp_path: Path, suffix: str) -> None:
    encoder.compile("adam", loss="mse")  # its variables are saved, and are no parameters
    encoder.optimizer.build(encoder.trainable_variables)
    report = check_model(saved(encoder, tmp_path / f"encoder{suffix}"))
    assert report.parameters == encoder.count_params()
    assert {tensor.name: tensor.shape for tensor in report.outputs} == {"code": (None, 1, 12), "mean": (None, 5)}
    assert [str(tensor) for tensor in report.inputs] == ["image ?×32×24×3 float32"]
    assert "inner/dropout" in " ".join(layer.name for layer in report.layers if layer.action == "take out")


def test_every_shape_is_inferred_without_what_keras_3_records(encoder) -> None:
    config = json.loads(encoder.to_json())

    def shapes(config):
        layers = [layer for layer in read_model_config(config).layers if not layer.holder]
        return {(layer.name, feed.name): feed.shape for layer in layers for feed in layer.feeds if feed.name != layer.name}

    def forget(value):
        if isinstance(value, list):
            return [forget(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        changed = {"shape": None} if "keras_history" in value else {}
        return {key: forget(entry) for key, entry in value.items() if key != "build_config"} | changed

    assert None not in shapes(config).values()
    assert shapes(forget(config)) == shapes(config)


def test_the_names_are_those_of_keras(keras) -> None:
    from keras.src.activations import ALL_OBJECTS_DICT

    classes = {
        name: value for name, value in vars(keras.layers).items() if inspect.isclass(value) and issubclass(value, keras.layers.Layer)
    }
    assert {*classes, *(value.__name__ for value in classes.values())} == KERAS_LAYERS
    assert set(ALL_OBJECTS_DICT) == ACTIVATIONS


def test_every_rule_has_a_reason_a_fix_and_targets() -> None:
    for rule in RULES:
        assert rule.kinds
        assert rule.reason.startswith(("must ", "has no "))
        assert rule.fix
        assert rule.targets


def test_files_of_the_keras_1_days_are_read(shared_data: Path) -> None:
    report = check_model(shared_data / "legacy_keras" / "gender_mini_XCEPTION.21-0.95.hdf5")
    assert report.keras_version == "2.0.5"
    assert [str(tensor) for tensor in (*report.inputs, *report.outputs)] == ["input_1 ?×64×64×1 float32", "predictions ?×2"]
    assert report.targets == EVERY


def test_a_keras_1_sequential_model_is_a_plain_list() -> None:
    dense = {"class_name": "Dense", "config": {"name": "dense_1", "units": 2, "batch_input_shape": [None, 4]}}
    model = read_model_config({"class_name": "Sequential", "config": [dense]})
    assert [str(tensor) for tensor in (*model.inputs, *model.outputs)] == ["dense_1_input ?×4 float32", "dense_1 ?×2"]


def test_a_keras_2_model_counts_the_call_that_built_a_model_inside() -> None:
    def layer(kind, name, nodes=(), **settings):
        return {"class_name": kind, "name": name, "config": {"name": name, **settings}, "inbound_nodes": list(nodes)}

    inner = layer("Sequential", "inner", [[["a", 0, 0, {}]], [["b", 0, 0, {}]]])
    inner["config"]["layers"] = [layer("Dense", "dense", batch_input_shape=[None, 4], units=3)]
    inputs = [layer("InputLayer", name, batch_input_shape=[None, 4], dtype="float32") for name in ("a", "b")]
    joined = layer("Concatenate", "joined", [[["inner", 1, 0, {}], ["inner", 2, 0, {"training": True}]]], axis=-1)
    doors = {"input_layers": [["a", 0, 0], ["b", 0, 0]], "output_layers": ["joined", 0, 0]}
    model = read_model_config({"class_name": "Functional", "config": {"name": "net", "layers": [*inputs, inner, joined], **doors}})
    assert [str(tensor) for tensor in (*model.inputs, *model.outputs)] == ["a ?×4 float32", "b ?×4 float32", "joined ?×6"]
    assert [layer.name for layer in model.layers] == ["a", "b", "inner/dense", "joined"]
    assert model.layers[-1].arguments == {"training": True}


def test_text_layers_behind_an_input_are_moved_to_preprocessing(keras, tmp_path: Path) -> None:
    layers = keras.layers
    words, number = keras.Input((1,), dtype="string", name="words"), keras.Input((2,), dtype="int64", name="number")
    ids = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(words)
    hashed = layers.Hashing(8)(layers.IntegerLookup(vocabulary=[3, 5])(number))
    outputs = layers.Concatenate()([layers.Flatten()(layers.Embedding(9, 2)(ids)), layers.Flatten()(layers.Embedding(9, 2)(hashed))])
    report = check_model(saved(keras.Model([words, number], outputs), tmp_path / "text.keras"))
    assert sorted(kinds(report, "preprocess")) == ["Hashing", "IntegerLookup", "TextVectorization"]
    assert report.targets == EVERY[:-1]  # an Embedding has no 16-bit form


def test_text_that_cannot_leave_the_graph_is_refused(keras) -> None:
    layers = keras.layers
    number = keras.Input((2,), name="number")
    computed = layers.IntegerLookup(vocabulary=[3, 5], name="late")(layers.Dense(2)(number))
    assert faults(check_built(keras.Model(number, computed)))[0].startswith("IntegerLookup 'late' must take inputs of the model")
    words = keras.Input((1,), dtype="string", name="words")
    back = layers.StringLookup(vocabulary=["a"], invert=True, name="back")(number)
    assert "with invert=True it turns ids into tokens; leave it out" in faults(check_built(keras.Model([number, words], [back, words])))[0]
    free = layers.TextVectorization(vocabulary=["a"], name="free")(words)
    assert faults(check_built(keras.Model(words, free))) == []


def test_a_learnt_vocabulary_is_not_in_an_h5_file(keras, tmp_path: Path) -> None:
    lookup = keras.layers.StringLookup(name="learnt")
    lookup.adapt(np.array(["a", "b"]))
    model = keras.Sequential([keras.Input((1,), dtype="string"), lookup])
    assert not check_model(saved(model, tmp_path / "m.keras")).refusals
    assert "a learnt one is not in .h5 files; save the model as .keras" in faults(check_model(saved(model, tmp_path / "m.h5")))[0]


@pytest.fixture
def own(keras, tmp_path: Path):
    """A model of the user's own classes and functions, one of which is registered."""

    @keras.saving.register_keras_serializable("mine")
    class Scale(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    class Shift(keras.layers.Layer):
        def call(self, inputs):
            return inputs + 1

    def bend(inputs):
        return inputs * inputs

    return keras.Sequential(
        [keras.Input((4,)), Scale(name="scale"), Shift(name="shift"), keras.layers.Dense(2, activation=bend, name="bent")]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_your_own_classes_and_functions_must_be_named(own, tmp_path: Path, suffix: str) -> None:
    path = saved(own, tmp_path / f"own{suffix}")
    texts = " ".join(faults(check_model(path)))
    for name in ("Scale", "Shift", "bend"):
        assert f"name it with --custom-objects module:{name}, where module.py is the file that defines it" in texts
    # Importing the module of one makes Keras know what is registered there.
    assert [refusal.layer for refusal in check_model(path, custom_objects=["layers:Shift"]).refusals] == ["bent"]
    assert not check_model(path, custom_objects=["layers:Shift", "layers:bend"]).refusals
    assert not check_model(path, custom_objects=["layers:everything"]).refusals  # may be a dict
    assert check_model(path, custom_objects={"everything": None}).refusals


def test_a_subclassed_model_hides_its_layers(keras, tmp_path: Path) -> None:
    class Net(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Net()
    model(np.zeros((1, 4)))
    path = saved(model, tmp_path / "net.keras")
    assert "Net 'Net' must be a class of Keras, it is your own" in check_model(path).fault
    report = check_model(path, custom_objects=["net:Net"])
    assert report.layers[0].note == "your own; its layers are in its code, not in the file"
    assert report.parameters == 15


def test_dropout_on_purpose_is_refused_and_kept_on_demand(keras) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.RandomFlip()(keras.layers.Dropout(0.5, name="doubt")(inputs[:, None, None], training=True)))
    report, kept = check_built(model), check_built(model, keep_dropout=True)
    assert "Dropout 'doubt' must drop values in training only, it is called with training=True; --keep-dropout keeps it" in report.fault
    assert kinds(report, "refuse") == ["Dropout"]
    assert not kept.fault
    assert kinds(kept, "take out") == ["RandomFlip"]


def test_mixed_precision_and_operations_are_converted(keras) -> None:
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3, dtype="mixed_float16", name="half")
    report = check_built(keras.Model(inputs, keras.ops.matmul(dense(inputs), np.ones((3, 2), "float32"))))
    found = [(layer.kind, layer.action, layer.note) for layer in report.layers]
    assert found == [("Dense", "convert", "computes in float16 in Keras, in float32 here"), ("Matmul", "convert", "")]


def test_pooling_that_crashes_keras_is_refused(keras) -> None:
    def judged(*layers):
        return check_built(keras.Sequential([keras.Input((8, 8, 3)), *layers]))

    assert "use GlobalMaxPooling with keepdims=True" in faults(judged(keras.layers.AdaptiveMaxPooling2D(1)))[0]
    assert not judged(keras.layers.AdaptiveMaxPooling2D((1, 2)), keras.layers.AdaptiveAveragePooling2D(1)).refusals


def test_the_predicted_runtime_is_the_one_the_artifact_needs(models: Path, tmp_path: Path) -> None:
    path = models / "tiny_cnn.keras"
    predicted = check_model(path, target_runtime="onnxruntime==1.16").runtime[0]
    made = export(path, tmp_path / "b", formats=[Format.ONNX], precisions=[Precision.FP32]).manifest.artifacts[0]
    assert (predicted.needs, predicted.opset) == (made.requires["onnxruntime"], made.requires["opset"])


def test_export_leaves_out_what_the_check_bars_before_it_starts(keras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule(frozenset({"Permute"}), "has no built-in TFLite operator", "make ONNX only: --format onnx", targets=TFLITE)
    monkeypatch.setattr("lepton_converters.layer_support.RULES", (rule,))
    model = keras.Sequential([keras.Input((4, 3), name="rows"), keras.layers.Permute((2, 1), name="turn"), keras.layers.Dense(3)])
    result = export(model, tmp_path / "b")
    assert {record.format for record in result.verified} == {Format.ONNX}
    assert {(entry.format, entry.precision) for entry in result.left_out} == {
        target for target in TFLITE if not target[1].needs_calibration
    }
    assert result.left_out[0].reason == "not converted: Permute 'turn' has no built-in TFLite operator; make ONNX only: --format onnx"
    with pytest.raises(UnsupportedError, match="tflite fp32 cannot be made: Permute 'turn' has no built-in TFLite operator"):
        export(model, tmp_path / "c", formats=[Format.TFLITE], precisions=[Precision.FP32])
    with pytest.raises(UnsupportedError, match="tflite: not converted: Permute"):
        export(model, tmp_path / "c", formats=[Format.TFLITE])


def test_a_model_in_memory_without_a_configuration_is_not_judged(keras) -> None:
    class Odd(keras.layers.Layer):
        def get_config(self):
            raise NotImplementedError

        def call(self, inputs):
            return inputs

    assert check_built(keras.Sequential([keras.Input((4,)), Odd()])) is None


def test_a_compressed_or_damaged_inner_file_is_no_crash(models: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(models / "table.keras") as old, zipfile.ZipFile(tmp_path / "new.keras", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert read_model_file(tmp_path / "new.keras").parameters is None
    with zipfile.ZipFile(models / "table.keras") as old, zipfile.ZipFile(tmp_path / "bad.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:200] if name.endswith(".h5") else old.read(name))
    with pytest.raises(InputError, match=r"damaged or cut short \(model\.weights\.h5: "):
        read_model_file(tmp_path / "bad.keras")


def test_a_flipped_bit_is_found_where_it_is_asked_for(models: Path, tmp_path: Path) -> None:
    data = bytearray((models / "tiny_cnn.keras").read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (tmp_path / "bad.keras").write_bytes(data)
    with pytest.raises(InputError, match=r"checksum|damaged"):
        read_model_file(tmp_path / "bad.keras", is_verified=True)


def test_targets_are_worded_shortly() -> None:
    assert targets_text(TFLITE) == "tflite"
    assert targets_text([(Format.ONNX, Precision.FP32), *TFLITE[-2:]]) == "onnx fp32, tflite static-int8/int16x8"
