"""Encoders give the ids of the Keras layers they stand for, to the bit, and what they cannot give is refused."""

import random

import numpy as np
import pytest

from lepton_converters.text_layers import cut_text_layers
from lepton_runtime import InputError, ParityError
from lepton_runtime.encoders import encode
from lepton_runtime.hashing import fingerprint64, siphash64
from lepton_runtime.tensors import fits_shape

WORDS = ["the", "cat", "sat", "it's", "naïve", "ÉTÉ", "été", "straße", "日本", "語", "🙂", "a\u0301", "x", "Q.E.D.", "İstanbul", "42", "-7"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\u00a0", "\u2003", "\u2028", "\u3000", "\ufeff", "\x00"]
SIGNS = [*"!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'", "–", "…", "¿", "٪", "、"]


def texts(count: int, seed: int = 0) -> np.ndarray:
    """Odd texts: letters of many scripts, every kind of white space, punctuation, nothing at all."""
    generator = random.Random(seed)

    def text() -> str:
        pieces = generator.choices(
            [*WORDS, *SPACES, *SIGNS], [3] * len(WORDS) + [2] * len(SPACES) + [1] * len(SIGNS), k=generator.randrange(14)
        )
        return "".join(piece.upper() if generator.random() < 0.2 else piece for piece in pieces)

    # numpy's own strings end at the last character that is not NUL, so Keras gets them without it, too.
    return np.array(["", " ", "\u3000", *(text() for _ in range(count - 3))])[:, None]


def tokens(count: int, width: int = 1) -> np.ndarray:
    generator = random.Random(1)
    return np.array(generator.choices([*WORDS, "", "unknown", "[UNK]", "dog", *SIGNS], k=count * width)).reshape(count, width)


def cut(keras, layer, *inputs):
    """The layer alone, as a model."""
    entered = [keras.Input(shape, dtype=dtype, name=f"raw_{number}") for number, (shape, dtype) in enumerate(inputs)]
    outputs = layer(entered if len(entered) > 1 else entered[0])
    return cut_text_layers(keras.Model(entered, outputs), raw=[(tensor.name, tensor) for tensor in entered], batch=None)


def test_whole_texts_may_be_as_long_as_they_are(keras) -> None:
    layer = keras.layers.TextVectorization(max_tokens=60)
    layer.adapt(texts(100))
    model = cut(keras, layer, ((1,), "string"))
    assert model.model.inputs[0].shape == (None, None)
    data = texts(40, seed=3)
    for values in (data, data[3:4]):
        assert_same(model, layer, values)


def assert_same(model, layer, *values: np.ndarray) -> np.ndarray:
    """The encoder's answer, after it was found equal to the layer's own, shape and number type of the graph's input included."""
    named = {spec.name: value for spec, value in zip(model.raw, values, strict=True)}
    found = model.check_encoders(named)[model.encoders[-1].output.name]
    expected = np.asarray(layer(list(values) if len(values) > 1 else values[0]))
    np.testing.assert_array_equal(found, expected)
    assert fits_shape(found.shape, model.encoders[-1].output.shape)
    assert found.dtype == model.encoders[-1].output.dtype
    return found


@pytest.mark.parametrize("standardize", ["lower_and_strip_punctuation", "lower", "strip_punctuation", None])
@pytest.mark.parametrize("split", ["whitespace", "character"])
def test_texts_become_the_ids_of_keras(keras, standardize, split) -> None:
    data = texts(600)
    layer = keras.layers.TextVectorization(max_tokens=60, standardize=standardize, split=split, output_sequence_length=9)
    layer.adapt(data[:300])
    found = assert_same(cut(keras, layer, ((1,), "string")), layer, data)
    assert len(np.unique(found)) > 20


@pytest.mark.parametrize(("mode", "pad"), [("multi_hot", False), ("count", True), ("tf_idf", False), ("tf_idf", True)])
def test_counted_tokens_are_those_of_keras(keras, mode, pad) -> None:
    data = texts(300)
    layer = keras.layers.TextVectorization(max_tokens=500, output_mode=mode, pad_to_max_tokens=pad, ngrams=2)
    layer.adapt(data[:200])
    for shape, given in (((1,), data), ((), data[:, 0])):
        model = cut(keras, layer, (shape, "string"))
        assert_same(model, layer, given)
        assert model.model.inputs[0].shape == (None, 500 if pad else layer.vocabulary_size())


@pytest.mark.parametrize("ngrams", [3, (2,), (3, 1)])
@pytest.mark.parametrize("split", ["whitespace", "character"])
def test_runs_of_tokens_come_in_the_order_of_keras(keras, ngrams, split) -> None:
    layer = keras.layers.TextVectorization(ngrams=ngrams, split=split, output_sequence_length=12)
    layer.adapt(texts(200))
    assert_same(cut(keras, layer, ((1,), "string")), layer, texts(300, seed=2))


def test_texts_that_are_not_split_are_looked_up_whole(keras) -> None:
    layer = keras.layers.TextVectorization(split=None, standardize="lower", output_sequence_length=5, vocabulary=["the", "cat"])
    for width in (1, 3, 8):
        assert_same(cut(keras, layer, ((width,), "string")), layer, tokens(60, width))


@pytest.mark.parametrize("mask_token", [None, ""])
@pytest.mark.parametrize("oov", [1, 4])
@pytest.mark.parametrize(("mode", "width"), [("int", 1), ("int", 3), ("one_hot", 1), ("one_hot", 3), ("multi_hot", 3), ("count", 3)])
def test_words_become_the_ids_of_keras(keras, mode, width, oov, mask_token) -> None:
    layer = keras.layers.StringLookup(vocabulary=WORDS, output_mode=mode, num_oov_indices=oov, mask_token=mask_token)
    assert_same(cut(keras, layer, ((width,), "string")), layer, tokens(150, width))


def test_words_of_no_axis_of_their_own_and_salted_hashes_of_unknown_ones(keras) -> None:
    data = tokens(150)[:, 0]
    for settings in ({"num_oov_indices": 7, "salt": [3, 2**40]}, {"num_oov_indices": 1, "output_mode": "one_hot"}):
        layer = keras.layers.StringLookup(vocabulary=WORDS, **settings)
        assert_same(cut(keras, layer, ((), "string")), layer, data)


def test_weighted_counts_are_those_of_keras(keras) -> None:
    weights = np.random.default_rng(0).uniform(size=len(WORDS))
    layer = keras.layers.StringLookup(vocabulary=WORDS, idf_weights=weights, output_mode="tf_idf", max_tokens=40, pad_to_max_tokens=True)
    assert_same(cut(keras, layer, ((5,), "string")), layer, tokens(100, 5))


@pytest.mark.parametrize("dtype", ["int64", "int32", "float32"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_token": 0},
        {"num_oov_indices": 3},
        {"num_oov_indices": 3, "oov_method": "farmhash"},
        {"num_oov_indices": 5, "oov_method": "farmhash", "salt": 9},
        {"output_mode": "one_hot", "mask_token": 0},
        {"output_mode": "count", "num_oov_indices": 2},
    ],
)
def test_numbers_become_the_ids_of_keras(keras, settings, dtype) -> None:
    layer = keras.layers.IntegerLookup(vocabulary=[3, -7, 12, 2_000_000_000], **settings)
    values = np.random.default_rng(0).choice([0, 3, -7, 12, 2_000_000_000, -1, 5, -123456], (80, 2)).astype(dtype)
    assert_same(cut(keras, layer, ((2,), dtype)), layer, values)


@pytest.mark.parametrize(("mode", "width"), [("int", 1), ("int", 3), ("one_hot", 1), ("one_hot", 3), ("multi_hot", 3), ("count", 3)])
@pytest.mark.parametrize("settings", [{}, {"mask_value": ""}, {"salt": 1337}, {"salt": [1, 2**63 - 1], "mask_value": "cat"}])
def test_hashed_words_are_in_the_bins_of_keras(keras, mode, width, settings) -> None:
    layer = keras.layers.Hashing(11, output_mode=mode, **settings)
    assert_same(cut(keras, layer, ((width,), "string")), layer, tokens(100, width))


@pytest.mark.parametrize("settings", [{}, {"mask_value": 0}, {"salt": [5, 6]}, {"dtype": "int32"}])
@pytest.mark.parametrize("dtype", ["int64", "int32", "float32"])
def test_hashed_numbers_are_in_the_bins_of_keras(keras, settings, dtype) -> None:
    layer = keras.layers.Hashing(1000, **settings)
    values = np.random.default_rng(0).normal(0, 1000, (300, 1)).astype(dtype)
    values[:20] = 0
    assert_same(cut(keras, layer, ((1,), dtype)), layer, values)


@pytest.mark.parametrize("mode", ["int", "one_hot"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_crossed_columns_are_in_the_bins_of_keras(keras, mode, shape) -> None:
    generator = np.random.default_rng(0)
    layer = keras.layers.HashedCrossing(50, output_mode=mode)
    words, long = tokens(200).reshape(200, *shape), generator.integers(-(2**62), 2**62, (200, *shape))
    short = generator.integers(-9, 9, (200, *shape)).astype("int32")
    assert_same(cut(keras, layer, (shape, "string"), (shape, "int64")), layer, words, long)
    assert_same(cut(keras, layer, (shape, "int32"), (shape, "string")), layer, short, words)


def test_hashes_of_any_length_are_those_of_tensorflow(keras) -> None:
    import tensorflow as tf

    generator = random.Random(4)
    data = [generator.randbytes(length) for length in range(301) for _ in range(7)]
    bins = 2**62 - 57
    fast = tf.strings.to_hash_bucket_fast(data, bins).numpy().tolist()
    assert [fingerprint64(value) % bins for value in data] == fast
    for key in ((0, 1), (2**63 - 1, -5)):
        strong = tf.strings.to_hash_bucket_strong(data, bins, key=list(key)).numpy().tolist()
        assert [siphash64(value, key) % bins for value in data] == strong


def test_a_value_that_no_id_stands_for_is_an_error(keras) -> None:
    model = cut(keras, keras.layers.StringLookup(vocabulary=["a", "b"], num_oov_indices=0), ((1,), "string"))
    with pytest.raises(InputError, match=r"input raw_0: every value must be one of the 2 known ones, found 'c'; clean the data first"):
        encode(model.encoders, {"raw_0": np.array([["c"]])})


def test_an_encoder_that_differs_from_its_layer_is_noticed(keras) -> None:
    layer = keras.layers.StringLookup(vocabulary=["a", "b"], name="letters")
    model = cut(keras, layer, ((1,), "string"))
    layer.lookup_table = layer._lookup_table_from_tokens(["b", "a"])
    with pytest.raises(ParityError, match=r"the encoder of StringLookup 'letters' must give .* for \{'raw_0': \['a'\]\}; please report"):
        model.check_encoders({"raw_0": np.array([["a"]])})
