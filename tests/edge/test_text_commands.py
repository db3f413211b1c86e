"""The command line on models of texts and tables."""

import json
from pathlib import Path

import pytest


def labels(outcome) -> list[str]:
    document = json.loads(outcome.out)
    return [top[0]["label"] for top in document.get("tops", [document["top"]])]


def test_inspect_names_what_runs_before_the_graph(lepton_edge, text_bundle: Path, table_bundle: Path) -> None:
    lines = lepton_edge("inspect", text_bundle).out.splitlines()
    assert "encoder        review → words 1×4 int64 (text vectorization, 3 tokens)" in lines
    assert "encoder        color → color_lookup 1×3 float32 (lookup, 2 tokens)" in lepton_edge("inspect", table_bundle).out


def test_a_text_is_answered(lepton_edge, text_bundle: Path) -> None:
    assert labels(lepton_edge("run", text_bundle, "--text", "a very good film", "--json", "-")) == ["good"]
    assert lepton_edge("run", text_bundle, "--text", "bad").out.splitlines()[0].startswith("  bad ")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("texts.txt", "good\nbad, bad\n"),
        ("odd.txt", "\ufeffgood\x85\vgood\r\n\n \nbad\u2028\fbad"),
        ("texts.csv", "text\ngood\n\"bad, bad\"\n"),
        ("texts.json", '[{"review": "good"}, {"review": "bad bad"}]'),
        ("list.json", '["good", "bad bad"]'),
    ],
)  # fmt: skip
def test_texts_in_a_file_are_answered_one_by_one(lepton_edge, text_bundle: Path, tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, newline="")
    assert labels(lepton_edge("run", text_bundle, tmp_path / file, "--json", "-")) == ["good", "bad"]
    assert [line for line in lepton_edge("run", text_bundle, tmp_path / file).out.splitlines() if "sample" in line] == [
        "sample 1",
        "sample 2",
    ]


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("rows.csv", "age,color,note\n41,green,a\n3,red,b\n", ["good", "bad"]),
        ("row.json", '{"color": "red", "age": 2}', ["bad"]),
        ("rows.json", '[{"color": "red", "age": 2}, {"age": 2, "color": "green"}]', ["bad", "good"]),
    ],
)
def test_rows_of_a_table_are_answered(lepton_edge, table_bundle: Path, tmp_path: Path, file: str, content: str, expected) -> None:
    (tmp_path / file).write_text(content)
    assert labels(lepton_edge("run", table_bundle, tmp_path / file, "--json", "-")) == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rows.csv", "color\nred\n", r"must have a header with a column for each of the inputs color, age, found 0 named 'age'"),
        ("rows.json", "{", r"INPUT must be a JSON object with one value an input, or a list of them; .*rows\.json' is not"),
        ("rows.json", "[]", "INPUT must hold at least one sample, it is empty"),
        (
            "rows.json",
            '[{"color": "red", "age": 2}, {"color": "red"}]',
            "every row must have the columns of the first, color, age; row 2 is",
        ),
        ("rows.json", '{"color": 1, "age": 2}', "input 'color' takes text, found 1"),
        ("texts.txt", "red\n", r"the model's raw inputs are \['color', 'age'\], found list"),
        ("photo.jpg", "", r"INPUT must be a \.txt, \.csv, \.json, \.npy or \.npz file for a model of texts or tables, found .*photo\.jpg"),
        ("no.csv", None, r"no\.csv' must be a CSV file in UTF-8, .*No such file"),
    ],
)
def test_an_input_that_does_not_fit_is_one_line(lepton_edge, table_bundle: Path, tmp_path: Path, file: str, content, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    lepton_edge("run", table_bundle, tmp_path / file).refused(1, because=message)


def test_an_input_is_a_file_or_a_text(lepton_edge, text_bundle: Path) -> None:
    for arguments in ((), ("texts.txt", "--text", "good")):
        outcome = lepton_edge("run", text_bundle, *arguments)
        assert outcome.code == 2
        assert "give one of INPUT, --text, --camera, --video and --folder, found" in outcome.err
