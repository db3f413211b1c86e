"""Models of texts and tables, from raw values to the same answers as Keras."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.keras_source import KerasSource
from lepton_runtime import Bundle, InputError, Session, UnsupportedError
from lepton_runtime.encoders import encode, raw_inputs
from lepton_runtime.golden import Golden

WORDS = [f"word{number}" for number in range(40)]


def make_texts(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice([*WORDS, "Unknown!", "it's", "ÉTÉ"], generator.integers(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def classifier(keras, tmp_path_factory) -> Path:
    """The most usual text classifier: TextVectorization first, in a Sequential."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    vectorize = layers.TextVectorization(max_tokens=30, output_sequence_length=8, name="vectorize")
    vectorize.adapt(make_texts(100, 0))
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string", name="review"),
            vectorize,
            layers.Embedding(30, 8, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(0, 1, seed=1)),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.5),
            layers.Dense(8, activation="relu"),
            layers.Dense(1, activation="sigmoid", kernel_initializer=keras.initializers.RandomNormal(0, 1, seed=2)),
        ]
    )
    path = tmp_path_factory.mktemp("text") / "reviews.keras"
    model.save(path)
    return path


def keras_answers(keras, path: Path, raw) -> np.ndarray:
    """The whole Keras model's own answers for raw values."""
    import tensorflow as tf

    model = keras.saving.load_model(path)
    if isinstance(raw, dict):
        raw = {name: tf.constant(raw[name]) for name in model.input}
    return np.asarray(model(raw if isinstance(raw, dict) else tf.constant(raw), training=False))


def write_csv(path: Path, header: list[str], rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def reviews(tmp_path_factory, keras, classifier) -> Path:
    """Texts with the Keras model's own answers as their classes."""
    texts = make_texts(120, 1)
    answers = keras_answers(keras, classifier, [[text] for text in texts])[:, 0] > 0.5
    rows = [(text, ("bad", "good")[int(answer)]) for text, answer in zip(texts, answers, strict=True)]
    return write_csv(tmp_path_factory.mktemp("reviews") / "reviews.csv", ["review", "label"], rows)


@pytest.fixture(scope="module")
def reviews_bundle(classifier: Path, reviews: Path, tmp_path_factory) -> Bundle:
    options = {"calib": reviews, "calib_samples": 60, "evaluate": reviews, "max_drop": "5pp", "labels": ["bad", "good"]}
    precisions = ["fp32", "dynamic-int8", "static-int8"]
    return Bundle.open(export(classifier, tmp_path_factory.mktemp("bundle") / "b", precisions=precisions, **options).path)


def test_a_text_classifier_is_exported_from_raw_strings(reviews_bundle: Bundle) -> None:
    manifest = reviews_bundle.manifest
    assert [str(spec) for spec in manifest.inputs] == ["vectorize 1×8 int64"]
    assert manifest.encoders[0].inputs[0].name == "review"
    assert len(manifest.artifacts) == 6
    assert manifest.evaluation.accuracy == 1.0
    assert all(record.accuracy >= 0.95 for record in manifest.artifacts)
    assert all(record.parity.max_abs < 1e-5 for record in manifest.artifacts if record.precision == "fp32")


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_a_text_in_gives_the_answer_of_keras(keras, classifier: Path, reviews_bundle: Bundle, engine: str) -> None:
    texts = ["x", "word1 WORD2, word3!", "nothing known here", "word5 " * 40]
    expected = keras_answers(keras, classifier, [[text] for text in texts])[:, 0]
    assert np.isfinite(expected).all()
    with Session.open(reviews_bundle, engine=engine) as session:
        found = [next(answer.score for answer in session.predict(text) if answer.label == "good") for text in texts]
    # A sigmoid in float32 on another engine: sums differ in their last bits.
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_golden_raw_values_are_encoded_to_the_golden_inputs(reviews_bundle: Bundle) -> None:
    golden = Golden.open(reviews_bundle)
    assert golden.arrays["raw/review"].dtype.kind == "U"
    for record in reviews_bundle.manifest.artifacts:
        with Session(reviews_bundle, record) as session:
            assert golden.difference(session) == 0


def test_without_data_texts_are_made_of_known_and_unknown_words(classifier: Path, tmp_path: Path) -> None:
    folders = [export(classifier, tmp_path / name, formats=["onnx"], precisions=["fp32"]).path for name in "ab"]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert "vocabulary.vectorize.json" in contents[0]
    bundle = Bundle.open(folders[0])
    assert bundle.manifest.artifacts[0].parity.samples == 32
    ids = Golden.open(bundle).arrays["input/vectorize"]
    assert 1 in ids
    assert len(np.unique(ids)) > 5


# --- tables


@pytest.fixture(scope="module")
def table(keras, tmp_path_factory) -> Path:
    """A table of words, numbers and whole numbers, each with the preprocessing that Keras has for it."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    generator = np.random.default_rng(0)
    inputs = {
        "color": keras.Input((1,), dtype="string", name="color"),
        "city": keras.Input((1,), dtype="string", name="city"),
        "age": keras.Input((1,), name="age"),
        "income": keras.Input((1,), name="income"),
        "plan": keras.Input((1,), dtype="int64", name="plan"),
        "visits": keras.Input((1,), dtype="int32", name="visits"),
        "level": keras.Input((1,), dtype="int64", name="level"),
    }
    age = layers.Normalization()
    age.adapt(generator.normal(40, 12, (200, 1)).astype(np.float32))
    income = layers.Discretization(num_bins=5)
    income.adapt(generator.lognormal(10, 1, (300, 1)).astype(np.float32))
    color = layers.StringLookup(output_mode="one_hot", name="color_lookup")
    color.adapt(np.array(["red", "green", "blue", "red"]))
    plan = layers.IntegerLookup(vocabulary=[10, 20, 30], num_oov_indices=2, name="plan_lookup")(inputs["plan"])
    city = layers.Hashing(16, salt=7, name="city_hash")(inputs["city"])
    bins = income(inputs["income"])
    features = [
        color(inputs["color"]),
        layers.Flatten()(layers.Embedding(16, 4)(city)),
        age(inputs["age"]),
        layers.Rescaling(1 / 50_000)(inputs["income"]),
        layers.CategoryEncoding(5, "multi_hot")(bins),
        layers.CategoryEncoding(5, "one_hot")(plan),
        layers.CategoryEncoding(4, "count")(inputs["level"]),
        layers.HashedCrossing(12, output_mode="one_hot", name="crossed")([plan, inputs["visits"]]),
        layers.Flatten()(layers.Embedding(8, 3)(layers.HashedCrossing(8, name="city_bins")([city, bins]))),
    ]
    x = layers.Dense(16, activation="relu")(layers.Concatenate()(features))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="risk")(x), name="risks")
    path = tmp_path_factory.mktemp("table") / "risks.keras"
    model.save(path)
    return path


ROWS = [
    {"color": "red", "city": "Oslo", "age": 41.0, "income": 30000.0, "plan": 20, "visits": 3, "level": 2},
    {"color": "mauve", "city": "", "age": 17.5, "income": 900.0, "plan": 11, "visits": -4, "level": 0},
    {"color": "blue", "city": "São Paulo", "age": 88.0, "income": 2e6, "plan": 30, "visits": 2**31 - 1, "level": 3},
]


@pytest.fixture(scope="module")
def table_bundle(table: Path, tmp_path_factory) -> Bundle:
    generator = np.random.default_rng(3)
    columns = [
        *(generator.choice(values, 90) for values in (["red", "green", "blue", "?"], ["Oslo", "Rome", "Köln"])),
        *(generator.normal(40, 12, 90).round(1), generator.lognormal(10, 1, 90).round(2)),
        *(generator.choice([10, 20, 30, 40], 90), generator.integers(0, 9, 90), generator.integers(0, 4, 90), ["unused"] * 90),
    ]
    rows = zip(*columns, strict=True)
    data = write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", [*ROWS[0], "comment"], rows)
    return Bundle.open(export(table, tmp_path_factory.mktemp("bundle") / "b", precisions=["fp32", "static-int8"], calib=data).path)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_rows_of_a_table_in_give_the_probabilities_of_keras(keras, table: Path, table_bundle: Bundle, engine: str) -> None:
    inputs = {name: [[row[name]] for row in ROWS] for name in ROWS[0]}
    expected = keras_answers(keras, table, inputs)
    with Session.open(table_bundle, engine=engine) as session:
        found = np.concatenate([session.run(session.encode(row))["risk"] for row in ROWS])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert int(session.predict(ROWS[2])[0].label) == int(expected[2].argmax())


def test_what_a_graph_can_hold_stays_in_the_graph(table_bundle: Bundle) -> None:
    manifest = table_bundle.manifest
    assert [encoder.output.name for encoder in manifest.encoders if encoder.kind == "lookup"] == ["color_lookup", "plan_lookup"]
    assert {spec.name for spec in manifest.inputs} >= {"age", "income", "level"}
    assert {spec.name for spec in raw_inputs(manifest.inputs, table_bundle.load_encoders())} == set(ROWS[0])
    assert {record.precision for record in manifest.artifacts} == {"fp32", "static-int8"}


def test_a_table_may_be_answered_in_batches(keras, table: Path, tmp_path: Path) -> None:
    path = export(table, tmp_path / "b", formats=["onnx"], precisions=["fp32"], batch=None).path
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    with Session.open(path) as session:
        found = session.run(session.encode(columns))["risk"]
    np.testing.assert_allclose(
        found, keras_answers(keras, table, {name: [[value] for value in columns[name]] for name in columns}), atol=1e-6
    )


# --- where text layers may stand


def cut_answers(keras, model, raw: dict) -> tuple[KerasSource, np.ndarray, np.ndarray]:
    """The source, what the graph behind the encoders answers, and what the whole model answers."""
    source = KerasSource.open(model, batch=None)
    values = encode(source.encoders, raw)
    found = source.predict({spec.name: values[spec.name] for spec in source.inputs})
    whole = source.predict_raw(raw)
    return source, *(np.concatenate(list(answers.values()), axis=1) for answers in (found, whole))


def colors(*values: str) -> np.ndarray:
    return np.array(values)[:, None]


def test_text_layers_in_a_model_inside_the_model_are_taken_out(keras) -> None:
    layers = keras.layers
    vectorize = layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b"])
    front = keras.Sequential([keras.Input((1,), dtype="string"), vectorize, layers.Embedding(4, 3)], name="front")
    back = keras.Sequential([keras.Input((4, 3)), layers.Flatten(), layers.Dense(2)], name="back")
    model = keras.Sequential([keras.Input((1,), dtype="string", name="text"), front, back])
    source, found, whole = cut_answers(keras, model, {"text": colors("a b", "b zz a", "")})
    assert [str(spec) for spec in source.inputs] == ["text_vectorization ?×4 int64"] or source.inputs[0].shape == (None, 4)
    assert [layer.name for layer in source.model.layers][-1] == "back"
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_an_input_may_feed_two_encoders_and_a_lookup_two_inputs(keras) -> None:
    layers = keras.layers
    first, second = keras.Input((1,), dtype="string", name="first"), keras.Input((), dtype="string", name="second")
    lookup = layers.StringLookup(vocabulary=["red", "green"], name="lookup")
    flat = layers.Embedding(3, 4)
    outputs = layers.Concatenate()(
        [layers.Flatten()(flat(lookup(first))), flat(lookup(second)), layers.Hashing(5, output_mode="one_hot", name="hashed")(first)]
    )
    model = keras.Model([first, second], layers.Dense(2)(outputs))
    source, found, whole = cut_answers(keras, model, {"first": colors("red", "?"), "second": np.array(["green", "red"])})
    assert [spec.name for spec in source.inputs] == ["lookup", "hashed", "lookup_1"]
    assert [spec.name for spec in source.raw] == ["first", "second"]
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_an_input_may_feed_an_encoder_and_the_graph(keras) -> None:
    layers = keras.layers
    number = keras.Input((1,), dtype="int64", name="number")
    both = layers.Concatenate()(
        [layers.Flatten()(layers.Embedding(9, 2)(number)), layers.Hashing(4, output_mode="one_hot", name="hashing")(number)]
    )
    source, found, whole = cut_answers(keras, keras.Model(number, layers.Dense(2)(both)), {"number": np.array([[3], [8]])})
    assert [spec.name for spec in source.inputs] == ["number", "hashing"]
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_the_layers_of_a_feature_space_are_taken_apart(keras, tmp_path: Path) -> None:
    import tensorflow as tf

    kinds = keras.utils.FeatureSpace
    features = {
        "color": "string_categorical",
        "age": "float_normalized",
        "size": "float_discretized",
        "tag": kinds.string_hashed(num_bins=9),
    }
    space = kinds(features=features, crosses=[("color", "size")], crossing_dim=8, output_mode="concat", num_discretization_bins=4)
    generator = np.random.default_rng(0)
    data = {"color": generator.choice(["red", "green"], 30), "age": generator.normal(40, 9, 30), "size": generator.normal(0, 1, 30)}
    data["tag"] = generator.choice(list("abcdefg"), 30)
    space.adapt(tf.data.Dataset.from_tensor_slices(data))
    model = keras.Model(space.get_inputs(), keras.layers.Dense(3)(space.get_encoded_features()))
    model.save(tmp_path / "space.keras")
    raw = {name: values[:, None] for name, values in data.items()} | {
        name: data[name][:, None].astype(np.float32) for name in ("age", "size")
    }
    source, found, whole = cut_answers(keras, tmp_path / "space.keras", raw)
    assert {encoder.kind for encoder in source.encoders} == {"lookup", "hashing", "discretization", "hashed-crossing"}
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_an_h5_file_keeps_its_vocabulary_if_the_layer_was_given_one(keras, tmp_path: Path) -> None:
    layers = keras.layers
    lookup = layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")
    model = keras.Sequential([keras.Input((1,), dtype="string", name="color"), lookup, layers.Dense(2)])
    model.save(tmp_path / "colors.h5")
    source, found, whole = cut_answers(keras, tmp_path / "colors.h5", {"color": colors("green", "?")})
    assert source.encoders[0].vocabulary.tokens == ("red", "green")
    np.testing.assert_allclose(found, whole, atol=1e-6)


def any_length(keras, *stack):
    vectorize = keras.layers.TextVectorization(vocabulary=WORDS, name="words")
    return keras.Sequential([keras.Input((1,), dtype="string", name="text"), vectorize, *stack], name="any_length")


def test_texts_may_be_as_long_as_they_are(keras, tmp_path: Path) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(2)
    layers = keras.layers
    model = any_length(keras, layers.Embedding(50, 6), layers.GlobalAveragePooling1D(), layers.Dense(3, activation="softmax"))
    path = export(model, tmp_path / "b", precisions=["fp32"], batch=None).path
    texts = ["word1", "word2 word3 unknown " * 9]
    for engine in ("onnxruntime", "litert"):
        with Session.open(path, engine=engine) as session:
            for given in (texts[:1], texts[1:], texts):
                found = session.run(session.encode(given))[session.artifact.outputs[0].name]
                np.testing.assert_allclose(found, model(tf.constant(given)[:, None]), atol=1e-6)
            with pytest.raises(InputError, match="a text must hold at least one token for a model of texts of any length, found none"):
                session.encode("!")


def test_a_size_is_not_for_texts(keras) -> None:
    with pytest.raises(
        InputError, match=r"--size is not for what is encoded, 'words' is as long as its text; build .* output_sequence_length"
    ):
        KerasSource.open(any_length(keras, keras.layers.Embedding(50, 6)), size=(8,))


def test_half_precision_behind_the_encoders_is_made_float32(keras) -> None:
    import tensorflow as tf

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = any_length(keras, keras.layers.Embedding(50, 6), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3))
    finally:
        keras.config.set_dtype_policy("float32")
    source = KerasSource.open(model, batch=None)
    raw = {"text": np.array([["word1 word2"]])}
    assert source.encoders[0].vocabulary.tokens == tuple(WORDS)
    (found,) = source.predict_raw(raw).values()
    assert found.dtype == np.float32
    # The model itself computes in float16, with a step of a thousandth.
    np.testing.assert_allclose(found, np.asarray(model(tf.constant(raw["text"])), np.float32), atol=5e-3)


# --- what cannot run outside of Keras


def text_model(keras, *stack, shape=(1,), dtype="string"):
    value = entered = keras.Input(shape, dtype=dtype, name="raw")
    for layer in stack:
        value = layer(value)
    return keras.Model(entered, value)


def shout(texts):
    return texts


def vectorize(keras, **settings):
    return text_model(keras, keras.layers.TextVectorization(vocabulary=["a", "b"], name="v", **settings))


def lookup(keras, *behind, shape=(1,), dtype="string", **settings):
    return text_model(keras, keras.layers.StringLookup(vocabulary=["a", "b"], name="s", **settings), *behind, shape=shape, dtype=dtype)


def derived_lookup(keras):
    return text_model(keras, type("MyLookup", (keras.layers.StringLookup,), {})(vocabulary=["a"], name="mine"))


def hashed_result(keras):
    numbers = keras.Input((2,))
    return keras.Model(numbers, keras.layers.Hashing(3, name="h")(keras.layers.Dense(2)(numbers)))


REFUSED = [
    (
        lambda k: vectorize(k, standardize=shout),
        r"must have a 'standardize' of Keras' own, it has a function, which only Python .*; use one",
    ),
    (lambda k: vectorize(k, split=shout), r"must have a 'split' of Keras' own"),
    (lambda k: vectorize(k, output_mode="one_hot"), r"with 'one_hot' it gives a ragged one; use 'multi_hot', or 'int' and an Embedding"),
    (lambda k: vectorize(k, ragged=True), r"must give a plain tensor, it gives a sparse or ragged one; build it with sparse=False"),
    (lambda k: lookup(k, output_mode="multi_hot", sparse=True), r"StringLookup 's' must give a plain tensor"),
    (
        lambda k: text_model(k, k.layers.StringLookup(name="s"), k.layers.Embedding(3, 2)),
        r"'s' must have a vocabulary, it has none; adapt it",
    ),
    (
        lambda k: text_model(k, k.layers.Reshape((1,), name="r")),
        r"Reshape 'r' must take numbers, it takes the text 'raw'; only HashedCrossing, ",
    ),
    (derived_lookup, r"MyLookup 'mine' must take numbers, it takes the text 'raw'"),
    (
        lambda k: lookup(k, shape=(2, 2), output_mode="count"),
        r"must take values of shape \(batch, n\) for count, it takes raw 1×2×2 string",
    ),
    (lambda k: lookup(k, dtype="int64"), r"must take text, it takes raw 1×1 int64; give its keras.Input dtype='string'"),
    (lambda k: text_model(k, k.layers.IntegerLookup(vocabulary=[1])), r"must take numbers, it takes the text 'raw'; use a StringLookup"),
    (hashed_result, r"Hashing 'h' must take inputs of the model, .*, it takes what the network computes; do that before, in the data"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_only_keras_can_run_is_refused_with_the_reason_and_the_fix(keras, make, message: str) -> None:
    model = make(keras)
    with pytest.raises(UnsupportedError, match=message):
        KerasSource.open(model)


def test_a_text_layer_inside_another_layer_is_refused(keras) -> None:
    numbers = keras.Input((3, 1), dtype="int64")
    model = keras.Model(numbers, keras.layers.TimeDistributed(keras.layers.Hashing(4), name="each")(numbers))
    with pytest.raises(
        UnsupportedError, match=r"TimeDistributed 'each' holds text or lookup layers and must be a functional .*; move those"
    ):
        KerasSource.open(model)


def test_states_behind_encoders_are_refused(keras) -> None:
    text = keras.Input((1,), dtype="string", batch_size=1)
    ids = keras.layers.TextVectorization(vocabulary=["a"], output_sequence_length=3)(text)
    model = keras.Model(text, keras.layers.GRU(2, stateful=True)(keras.layers.Embedding(5, 2)(ids)))
    with pytest.raises(UnsupportedError, match=r"must not keep a state, 'gru.*' is one; build it with stateful=False"):
        KerasSource.open(model)


def test_an_inverted_lookup_at_the_end_is_refused(keras) -> None:
    numbers = keras.Input((2,), dtype="int64")
    model = keras.Model(numbers, keras.layers.StringLookup(vocabulary=["a"], invert=True, name="names")(numbers))
    with pytest.raises(
        UnsupportedError, match=r"'names' must turn tokens into ids, with invert=True .*; leave it out, and give .* to --labels"
    ):
        KerasSource.open(model)


def test_a_feature_space_by_itself_is_refused(keras, tmp_path: Path) -> None:
    space = keras.utils.FeatureSpace({"color": "string_categorical"})
    space.adapt({"color": ["red", "green"]})
    space.save(tmp_path / "space.keras")
    with pytest.raises(UnsupportedError, match=r"found a FeatureSpace by itself; build the model that it feeds: keras\.Model\("):
        KerasSource.open(tmp_path / "space.keras")


def test_preprocessing_of_pictures_is_refused_for_texts(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"preprocessing 'scale' is for a picture or an array, .* encoded from review 1×1 string; leave it out"
    ):
        export(classifier, tmp_path / "b", preprocessing={"scale": "1/255"})


def test_texts_without_axes_are_read_from_arrays(keras, tmp_path: Path) -> None:
    inputs = keras.Input((), dtype="string", name="text")
    vectorize = keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    np.savez(tmp_path / "texts.npz", text=np.array(["a b", "b", "c a", "a"] * 4))
    result = export(keras.Model(inputs, vectorize(inputs)), tmp_path / "b", precisions=["fp32"], calib=str(tmp_path / "texts.npz"))
    assert [record.verdict for record in result.verified] == ["same as Keras"] * 2
