"""Encoders without TensorFlow: the pairs below are what Keras 3.15 on TensorFlow 2.21 gives."""

import json

import numpy as np
import pytest

from lepton_runtime import InputError, TensorSpec
from lepton_runtime.bins import Discretization, HashedCrossing, Hashing
from lepton_runtime.encoders import Encoder, encode, raw_inputs, read_raw, read_step
from lepton_runtime.hashing import fingerprint64, siphash64
from lepton_runtime.lookups import Lookup, TextVectorization, Vocabulary
from lepton_runtime.text import split_text, standardize_text

HASHES = [  # a text, its FarmHash, and its SipHash under the key (1, 2), both modulo 2**62 - 57
    ("", 1936946117179621569, 443797209252341741),
    ("a", 3694432073954588245, 546566331822570799),
    ("cat", 1283407398697799555, 2877440783091404378),
    ("naïve", 1795312777587107539, 3308309297371369122),
    ("日本語", 1846174170784512242, 1091377360618762286),
    ("the quick brown fox", 3343755477575298467, 2203940929248275279),
    ("x" * 33, 3046993373088323241, 1639887484359327641),
    ("y" * 64, 4471793200125962424, 1169733625819952541),
    ("z" * 65, 3688229565335330670, 1522482378448811569),
    ("🙂" * 100, 2579903535054675590, 3412050369175908676),
]


def words(*values: str) -> np.ndarray:
    return np.array(values)[:, None]


@pytest.mark.parametrize(("text", "farmhash", "siphash"), HASHES)
def test_hashes_are_those_of_tensorflow(text: str, farmhash: int, siphash: int) -> None:
    assert fingerprint64(text.encode()) % (2**62 - 57) == farmhash
    assert siphash64(text.encode(), (1, 2)) % (2**62 - 57) == siphash


@pytest.mark.parametrize(
    ("step", "values", "expected"),
    [
        (Hashing(97), words("cat", "dog", ""), [30, 72, 17]),
        (Hashing(97, salt=(5, 5), mask_value=""), words("cat", "dog", ""), [43, 52, 0]),
        (Hashing(97), np.array([[3], [-12]]), [4, 68]),
        (Lookup(Vocabulary(("cat",)), "string", oov_indices=5), words("cat", "dog", "cow", "naïve"), [5, 2, 3, 3]),
        (Lookup(Vocabulary((4,)), "int64", oov_indices=5), np.array([[4], [-3], [17]]), [5, 2, 2]),
        (Lookup(Vocabulary((4,)), "int64", oov_indices=5, oov_method="farmhash"), np.array([[4], [-3], [17]]), [5, 4, 3]),
        (Discretization((-1.0, 0.5)), np.array([[-2.0], [-1.0], [0.5], [np.nan]]), [0, 1, 2, 2]),
    ],
)
def test_ids_are_those_of_keras(step, values: np.ndarray, expected: list[int]) -> None:
    assert step.apply(values)[:, 0].tolist() == expected


def test_crossed_columns_are_in_the_bins_of_keras() -> None:
    assert HashedCrossing(97).apply(words("cat", "dog"), np.array([[3], [-12]]))[:, 0].tolist() == [89, 57]


def test_texts_are_the_ids_of_keras() -> None:
    lookup = Lookup(Vocabulary(("the", "cat", "the cat")), "string", mask_token="")
    step = TextVectorization(lookup, ngrams=(1, 2), sequence_length=6)
    found = step.apply(words("The CAT,\x0bthe\u00a0cat!", "", "cat the cat"))
    assert found.tolist() == [[2, 3, 1, 4, 1, 0], [0] * 6, [3, 2, 3, 1, 4, 0]]
    assert found.dtype == np.int64


def test_only_ascii_is_lowered_stripped_and_split() -> None:
    assert standardize_text("Ä-B–C'd", "lower_and_strip_punctuation") == "Äb–cd"
    assert split_text("a\x1cb\x85c\u3000d e", "whitespace") == ["a\x1cb\x85c\u3000d", "e"]


STEPS = [
    Lookup(Vocabulary(("a\n", "ü")), "string", oov_indices=2, mask_token="", salt=(1, 2)),
    Lookup(Vocabulary((3, -4), (0.25, 0.5, 1 / 3)), "int64", output="tf_idf", depth=3),
    TextVectorization(Lookup(Vocabulary(("a",)), "string", mask_token=""), "lower", "character", (2, 1), 5),
    Hashing(7, mask_value=3, output="one_hot", dtype="float32"),
    HashedCrossing(9),
    Discretization((0.1, 2.0)),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_survives_json(step) -> None:
    encoder = Encoder((), TensorSpec("ids", (1, 1), "int64"), step)
    vocabulary = encoder.vocabulary and Vocabulary.from_json(encoder.vocabulary.to_json())
    assert read_step(encoder.kind, json.loads(json.dumps(step.to_dict())), vocabulary) == step


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("lookups", {}, "'kind' is one of lookup, text-vectorization, .*, found 'lookups'"),
        ("lookup", {"output": "hot"}, "'output' is one of int, one_hot, .*, found 'hot'"),
        ("lookup", {"oov_indices": -1}, "'oov_indices' is a whole number from 0, found -1"),
        ("lookup", {"takes": "int64"}, "the vocabulary of a int64 lookup must hold int tokens only"),
        ("lookup", {"output": "tf_idf", "depth": 4}, "a tf_idf output needs 4 weights, found none"),
    ],
)
def test_a_step_with_a_setting_that_does_not_fit_is_refused(kind: str, change: dict, message: str) -> None:
    lookup = Lookup(Vocabulary(("a",)), "string")
    with pytest.raises(InputError, match=message):
        read_step(kind, {**lookup.to_dict(), **change}, lookup.vocabulary)


def test_encoders_may_take_from_each_other() -> None:
    word, number = TensorSpec("word", (None, 1), "string"), TensorSpec("number", (None, 1), "int64")
    ids, crossed = TensorSpec("ids", (None, 1), "int64"), TensorSpec("crossed", (None, 1), "int64")
    encoders = [Encoder((word,), ids, Lookup(Vocabulary(("a",)), "string")), Encoder((ids, number), crossed, HashedCrossing(5))]
    found = encode(encoders, {"word": words("a", "b"), "number": np.array([[1], [2]])})
    assert found["crossed"].tolist() == HashedCrossing(5).apply(np.array([[1], [0]]), np.array([[1], [2]])).tolist()
    assert [spec.name for spec in raw_inputs([crossed, number], encoders)] == ["word", "number"]


TEXT = TensorSpec("color", (None, 1), "string")


@pytest.mark.parametrize(
    "value", ["red", ["red"], np.array("red"), np.array([["red"]]), b"red", np.array([b"red"]), np.array(["red"], object)]
)
def test_one_text_may_be_given_in_many_ways(value) -> None:
    found = read_raw(TEXT, value)
    assert found.shape == (1, 1)
    assert found[0, 0] == "red"


@pytest.mark.parametrize("values", [["red", "é"], np.array([["red"], ["é"]]), np.array(["red", "é"], np.dtypes.StringDType())])
def test_a_batch_of_texts_may_be_given_in_many_ways(values) -> None:
    assert read_raw(TEXT, values).tolist() == [["red"], ["é"]]


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        (TEXT, 3, "input 'color' takes text, found 3; give str"),
        (TEXT, ["red", None], "takes text, found None"),
        (TEXT, ["red", 4], "takes text, found 4"),
        (TEXT, b"\xff", "must hold text that UTF-8 can hold"),
        (TEXT, "\ud800", "must hold text that UTF-8 can hold"),
        (TEXT, ["red", "a\0"], r"input 'color' must hold text without the character '\\0', found 'a\\x00'; clean the data first"),
        (TEXT, b"a\0", r"without the character '\\0'"),
        (TEXT, [["red", "blue"]], r"must hold values of shape \(1,\), or a batch of them, found shape \(1, 2\)"),
        (TEXT, [], r"found shape \(0,\)"),
        (TensorSpec("age", (None, 1), "float32"), "41", "input 'age' takes numbers .float32., found '41'; convert them first"),
        (TensorSpec("age", (None, 1), "float32"), [1.0, np.nan], "input 'age' must be finite, found nan"),
        (TensorSpec("plan", (None, 1), "int64"), 2.5, "input 'plan': an input of int64 must get whole numbers"),
        (TensorSpec("plan", (None, 2), "int64"), [1, 2, 3], r"of shape \(2,\), or a batch of them, found shape \(3,\)"),
    ],
)
def test_a_raw_value_that_does_not_fit_is_named(spec: TensorSpec, value, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_raw(spec, value)
