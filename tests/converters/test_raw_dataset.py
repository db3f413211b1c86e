"""Texts and tables from files, encoded as the device will encode them."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters.random_text import random_raw_samples
from lepton_converters.raw_dataset import open_raw_dataset
from lepton_runtime import InputError, TensorSpec
from lepton_runtime.bins import Hashing
from lepton_runtime.encoders import Encoder
from lepton_runtime.lookups import Lookup, TextVectorization, Vocabulary

REVIEW, WORDS_SPEC = TensorSpec("review", (1, 1), "string"), TensorSpec("words", (1, 3), "int64")
TEXT = [Encoder((REVIEW,), WORDS_SPEC, TextVectorization(Lookup(Vocabulary(("good", "bad")), "string", mask_token=""), sequence_length=3))]
COLOR, PLAN, AGE = TensorSpec("color", (1, 1), "string"), TensorSpec("plan", (1, 1), "int64"), TensorSpec("age", (1, 1), "float32")
COLOR_IDS, PLAN_BINS = TensorSpec("color_ids", (1, 1), "int64"), TensorSpec("plan_bins", (1, 4), "float32")
TABLE = [
    Encoder((COLOR,), COLOR_IDS, Lookup(Vocabulary(("red", "green")), "string")),
    Encoder((PLAN,), PLAN_BINS, Hashing(4, output="one_hot", dtype="float32")),
]
TABLE_INPUTS = [AGE, COLOR_IDS, PLAN_BINS]


def text_samples(path, **options):
    dataset = open_raw_dataset(str(path), inputs=[WORDS_SPEC], encoders=TEXT, **options)
    return dataset, list(dataset.samples(range(dataset.count)))


def table_samples(path, **options):
    dataset = open_raw_dataset(str(path), inputs=TABLE_INPUTS, encoders=TABLE, **options)
    return dataset, list(dataset.samples(range(dataset.count)))


def test_a_table_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffnote,plan,color,age,label\n1,7,red,41.5,yes\n2,8.0,"blue, or not",-3,no\n\n')
    dataset, (first, second) = table_samples(path, labels=["no", "yes"], has_labels=True)
    assert dataset.is_labeled
    assert (first.label, second.label) == (1, 0)
    assert first.raw["color"].tolist() == ["red"]
    assert second.raw["color"].tolist() == ["blue, or not"]
    assert first.inputs["color_ids"].tolist() == [1]
    assert second.inputs["color_ids"].tolist() == [0]
    assert second.inputs["age"].tolist() == [-3]
    assert list(first.inputs) == ["age", "color_ids", "plan_bins"]
    np.testing.assert_array_equal(second.inputs["plan_bins"], TABLE[1].step.apply(np.array([[8]]))[0])


def test_a_name_that_looks_like_a_number_is_a_name(tmp_path: Path) -> None:
    path, header = tmp_path / "rows.csv", "plan,color,age,label\n7,red,41,"
    path.write_text(f"{header}3\n")
    assert [sample.label for sample in table_samples(path, labels=["7", "3"], has_labels=True)[1]] == [1]
    path.write_text(f"{header}0\n")
    with pytest.raises(InputError, match=r"row 1 of '.*' must have one of the labels as its class, found '0'; the labels are 7, 3"):
        table_samples(path, labels=["7", "3"], has_labels=True)


def test_classes_of_a_table_do_not_matter_where_none_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("color,plan,age,label\nred,1,2,whatever\n")
    assert not table_samples(tmp_path / "rows.csv")[0].is_labeled


def test_one_text_may_be_in_a_column_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text('text,label\n"good, good",1\nbad,0\n')
    _, samples = text_samples(tmp_path / "texts.csv", has_labels=True)
    assert [sample.inputs["words"].tolist() for sample in samples] == [[2, 2, 0], [3, 0, 0]]
    assert [sample.label for sample in samples] == [1, 0]


def test_a_text_file_has_a_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("good\n\nbad\r\n")
    assert [sample.inputs["words"].tolist() for sample in text_samples(tmp_path / "texts.txt")[1]] == [[2, 0, 0], [3, 0, 0]]


def test_only_the_end_of_a_line_ends_a_text(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("\ufeffgood\vbad\fbad\r\nbad\x85\u2028good\n".encode())
    texts = [sample.raw["review"].tolist() for sample in text_samples(tmp_path / "texts.txt")[1]]
    assert texts == [["good\vbad\fbad"], ["bad\x85\u2028good"]]


def test_class_folders_of_text_files_are_read_as_keras_reads_them(keras, tmp_path: Path) -> None:
    for name, texts in (("neg", ["bad\r\nbad", "\ufeffbad"]), ("pos", ["good", "Good!", "ok"])):
        (tmp_path / name).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / name / f"{number}.txt").write_bytes(text.encode())
    dataset, samples = text_samples(tmp_path, has_labels=True)
    expected = keras.utils.text_dataset_from_directory(tmp_path, batch_size=None, shuffle=False, verbose=False)
    assert dataset.class_names == tuple(expected.class_names)
    assert [(sample.raw["review"][0], sample.label) for sample in samples] == [
        (text.numpy().decode(), int(label)) for text, label in expected
    ]


@pytest.mark.parametrize("kind", ["npz", "npy", "function"])
def test_arrays_and_functions_give_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    texts = np.array(["good é", "bad"])
    np.savez("texts.npz", review=texts[:, None].astype("U20"), y=np.array([1, 0]))
    np.save("texts.npy", np.char.encode(texts, "utf-8"))
    Path(f"my_{kind}.py").write_text("def texts():\n    yield 'good é'\n    yield {'review': 'bad'}\n")
    _, samples = text_samples(f"my_{kind}:texts" if kind == "function" else f"texts.{kind}")
    assert [sample.inputs["words"].tolist() for sample in samples] == [[2, 1, 0], [3, 0, 0]]


def test_a_table_may_be_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", color=np.array(["red", "?"]), plan=np.array([1, 2]), age=np.array([[3.0], [4.0]]), y=np.array([0, 1]))
    dataset, samples = table_samples(tmp_path / "rows.npz")
    assert dataset.is_labeled
    assert [sample.inputs["age"].tolist() for sample in samples] == [[3], [4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "color,age\nred,1\n",
            r"must have a header with a column for each of the inputs age, color, plan, found 0 named 'plan' among 'color', 'age'",
        ),
        ("", "found 0 named 'age' among nothing"),
        ("color,plan,age\n", "must hold at least one sample, it is empty"),
        ("color,plan,age\nred,1,2\nred,1\n", "row 2 of '.*' must have 3 cells as its header, found 2"),
        ("color,plan,age\nred,1,old\n", "row 1 of '.*' must have a number for 'age', found 'old'"),
        ("color,plan,age\nred,,2\n", "must have a number for 'plan', found ''"),
        ("color,plan,age\nred,1.5,2\n", "must get whole numbers"),
        ("color,plan,age\nred,1,nan\n", "must be finite"),
        ('color,plan,age\n"red,1,2\n', "must be a CSV file in UTF-8"),
        (
            "color,plan,age,label\nred,1,2,maybe\n",
            "row 1 of '.*' must have a class as its label, found 'maybe'; name the classes with --labels",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        table_samples(tmp_path / "rows.csv", has_labels=True)


def test_files_that_are_not_for_the_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "odd").mkdir(parents=True)
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    with pytest.raises(InputError, match="text files are for a model of one text, this one takes age 1×1 float32, color 1×1 string, "):
        table_samples(tmp_path / "texts.txt")
    with pytest.raises(InputError, match=r"one folder of \.txt files a class is needed, .*empty' holds none"):
        text_samples(tmp_path / "empty")
    with pytest.raises(InputError, match="must be named after the labels, found 'odd'; the labels are bad, good"):
        text_samples(tmp_path / "other", labels=["bad", "good"])
    with pytest.raises(InputError, match=r"numbers\.npy'.* input 'review' takes text, found 0\.0"):
        text_samples(tmp_path / "numbers.npy")
    with pytest.raises(InputError, match=r"--eval takes .*; 'no\.csv' does not exist"):
        text_samples("no.csv", option="--eval")


def test_random_values_are_known_and_unknown_and_the_same_for_a_seed() -> None:
    def samples(seed: int) -> list:
        return list(random_raw_samples(TABLE_INPUTS, TABLE, count=60, seed=seed))

    colors = [sample.raw["color"][0] for sample in samples(1)]
    assert {"red", "green"} < set(colors)
    assert 0.05 < np.mean([color not in ("red", "green") for color in colors]) < 0.4
    assert len({int(sample.raw["plan"][0]) for sample in samples(1)}) > 50
    assert colors == [sample.raw["color"][0] for sample in samples(1)]
    assert colors != [sample.raw["color"][0] for sample in samples(2)]


def test_random_values_hold_the_token_that_stands_for_nothing() -> None:
    colors, ids = TensorSpec("colors", (1, 4), "string"), TensorSpec("ids", (1, 4), "int64")
    masked = [Encoder((colors,), ids, Lookup(Vocabulary(("red", "green")), "string", mask_token=""))]
    found = np.stack([sample.inputs["ids"] for sample in random_raw_samples([ids], masked, count=60, seed=0)])
    assert 0.05 < (found == 0).mean() < 0.2
    found = np.stack([sample.inputs["ids"] for sample in random_raw_samples([ids], masked, count=60, seed=0, is_masked=True)])
    assert 0.05 < (found[:, 1:] == 0).mean() < 0.2
    assert found[:, 0].all()
    strict = [*masked, Encoder((colors,), TensorSpec("known", (1, 4), "int64"), Lookup(Vocabulary(("red", "green")), "string", 0))]
    assert all((sample.raw["colors"] != "").all() for sample in random_raw_samples([ids], strict, count=60, seed=0))


def test_random_values_are_all_known_where_unknown_ones_are_an_error() -> None:
    strict = [Encoder((COLOR,), COLOR_IDS, Lookup(Vocabulary(("red", "green")), "string", oov_indices=0))]
    assert len(list(random_raw_samples([COLOR_IDS], strict, count=50, seed=0))) == 50
