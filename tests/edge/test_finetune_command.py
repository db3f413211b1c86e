"""``lepton-edge finetune``."""

import json
import os
import shlex
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.workstation


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
    assert "s an epoch" in " ".join(outcome.out.split())
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "epoch 3/3" in outcome.err
    assert f"Next: lepton-edge export {output} --calib {rows}\n" in outcome.err
    assert document["settings"]["learning_rate"] == 0.01
    assert document["seconds"] > sum(epoch["seconds"] for epoch in document["epochs"])
    assert output.exists()


def test_finetune_says_how_to_export_with_what_it_was_given(lepton_edge, rows: Path, table_model: Path, tmp_path: Path) -> None:
    output, labelled = tmp_path / "a b.keras", tmp_path / "test.npz"
    np.savez(labelled, x=np.load(rows), y=np.arange(600) % 3)
    given = ("--target", "arm-dotprod", "--scale", "0.9", "--mean", "0,0,0,0,0,0.1", "--eval", labelled, "--trust-code")
    outcome = lepton_edge("finetune", table_model, "--data", rows, "-o", output, "--learning-rate", "0.01", *given)
    assert outcome.code == 0, outcome.err
    assert "note: " not in outcome.err
    assert "Accuracy on the 600 samples of --eval" in " ".join(outcome.out.split())
    command = next(line for line in outcome.err.splitlines() if line.startswith("Next: lepton-edge export "))
    options = f"--eval {labelled} --target arm-dotprod --scale 0.9 --mean 0,0,0,0,0,0.1 --trust-code"
    assert command == f"Next: lepton-edge export '{output}' --calib {rows} {options}"
    assert lepton_edge(*shlex.split(command)[2:], "--format", "onnx", "--precision", "static-int8", "--max-drop", "100pp").code == 0


def test_ctrl_c_ends_a_fine_tuning_without_a_trace(lepton_edge, table_model: Path, rows: Path, tmp_path: Path, monkeypatch) -> None:
    from lepton_converters.quantized_training import QuantizedTrainer

    run = QuantizedTrainer.run

    def interrupted(trainer, **options):
        tell = options["on_epoch"]

        def on_epoch(epoch) -> None:
            tell(epoch)
            if epoch.number == 1:
                with suppress(KeyboardInterrupt):  # as a callback of TensorFlow's does, and says nothing
                    os.kill(os.getpid(), signal.SIGINT)

        return run(trainer, **{**options, "on_epoch": on_epoch})

    monkeypatch.setattr(QuantizedTrainer, "run", interrupted)
    outcome = lepton_edge("finetune", table_model, "--data", rows, "-o", tmp_path / "new" / "tuned.keras")
    assert outcome.code == 130
    assert "epoch 1/3" in outcome.err
    assert "epoch 2/3" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_finetune_names_what_was_not_simulated_and_where_it_diverged(
    lepton_edge, table_model: Path, rows: Path, tmp_path: Path, monkeypatch
) -> None:
    from lepton_converters.quantized_training import QuantizedTrainer

    run = QuantizedTrainer.run

    def diverging(trainer, **options):
        trainer.simulated.unmatched = ("mix", "head")
        return replace(run(trainer, **options), diverged=4)

    monkeypatch.setattr(QuantizedTrainer, "run", diverging)
    outcome = lepton_edge("finetune", table_model, "--data", rows, "-o", tmp_path / "tuned.keras", "--learning-rate", "0.01")
    assert outcome.code == 0, outcome.err
    assert "in float here, but in 8 bits in the file, which loses more: mix, head\n" in outcome.err
    assert "the training diverged in epoch 4, which ended it: lower --learning-rate\n" in outcome.err


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
