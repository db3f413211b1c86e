"""``lepton-edge finetune``."""

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def table_model(tmp_path_factory) -> Path:
    """A classifier of rows, one of whose inner values is so large that 8 bits leave nothing of the others."""
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,), name="row"), layers.Dense(16, activation="relu"), layers.Dense(3, activation="softmax")])
    generator = np.random.default_rng(7)
    kernels = generator.normal(0, 1, (6, 16)), generator.normal(0, 1, (16, 3))
    factor = np.where(np.arange(16) == 2, 300, 1)
    model.set_weights([kernels[0] * factor, np.zeros(16), kernels[1] / factor[:, None], np.zeros(3)])
    path = tmp_path_factory.mktemp("table") / "table.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(8).normal(size=(600, 6)).astype(np.float32))
    return path


def test_finetune_shows_the_gain_beside_its_cost_and_says_what_is_next(lepton_edge, table_model: Path, rows: Path, tmp_path: Path) -> None:
    output, record = tmp_path / "tuned.keras", tmp_path / "tuned.json"
    settings = ("--learning-rate", "0.01", "--epochs", 3, "--json", record)
    outcome = lepton_edge("finetune", table_model, "--data", rows, "-o", output, *settings)
    assert outcome.code == 0, outcome.err
    document = json.loads(record.read_text())
    assert document["metric"] == "agreement"
    assert document["int8_after"] > document["int8_before"]
    assert document["path"] == str(output)
    assert [epoch["number"] for epoch in document["epochs"]] == [1, 2, 3]
    assert f"int8, simulated {100 * document['int8_before']:.2f} % {100 * document['int8_after']:.2f} %" in " ".join(outcome.out.split())
    assert "s an epoch" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "epoch 3/3" in outcome.err
    assert f"Next: lepton-edge export {output}" in outcome.err
    assert output.exists()


def test_finetune_ends_with_3_where_nothing_was_won(lepton_edge, table_model: Path, rows: Path, tmp_path: Path) -> None:
    outcome = lepton_edge(
        "finetune", table_model, "--data", rows, "-o", tmp_path / "tuned.keras", "--learning-rate", "1e-12", "--epochs", 1, "--samples", 60
    )
    assert outcome.code == 3
    assert "error: an epoch must be better than the beginning" in outcome.err
    assert not (tmp_path / "tuned.keras").exists()


def test_finetune_without_data_is_wrong_usage(lepton_edge, table_model: Path) -> None:
    outcome = lepton_edge("finetune", table_model)
    assert outcome.code == 2
    assert "--data" in outcome.err


def test_finetune_names_a_model_that_is_missing(lepton_edge, tmp_path: Path, rows: Path) -> None:
    outcome = lepton_edge("finetune", tmp_path / "nowhere.keras", "--data", rows)
    assert outcome.code == 1
    assert "nowhere.keras" in outcome.err
