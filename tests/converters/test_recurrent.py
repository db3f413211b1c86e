from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter

from lepton_converters import export
from lepton_converters.keras_source import import_keras
from lepton_runtime import Bundle, Precision, Session

STEPS, FEATURES = 100, 6
LOOPS = {"Loop", "Scan", "If", "SequenceInsert"}


def cases(layers: Any) -> dict[str, Callable[[Any], Any]]:
    """By name, what is built on a sequence."""
    return {
        "lstm": layers.LSTM(8),
        "lstm_sequences": layers.LSTM(8, return_sequences=True),
        "lstm_states": layers.LSTM(8, return_sequences=True, return_state=True, go_backwards=True),
        "lstm_relu": layers.LSTM(8, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False),
        "gru": layers.GRU(8),
        "gru_resets_before": layers.GRU(8, reset_after=False, return_sequences=True),
        "simple_rnn": layers.SimpleRNN(8, return_sequences=True, go_backwards=True),
        "bidirectional_lstm": layers.Bidirectional(layers.LSTM(8, return_sequences=True)),
        "bidirectional_gru": layers.Bidirectional(layers.GRU(8), merge_mode="sum"),
        "stack": lambda x: layers.GRU(5)(layers.LSTM(8, return_sequences=True)(x)),
        "stacked_cells": layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True),
        "masked": lambda x: layers.LSTM(8, return_sequences=True, return_state=True)(layers.Masking()(x)),
        "masked_backwards": lambda x: layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.Masking()(x)),
        "masked_zeros": lambda x: layers.GRU(8, return_sequences=True, zero_output_for_mask=True)(layers.Masking()(x)),
        "initial_state": lambda x: layers.GRU(FEATURES)(x, initial_state=x[:, 0]),
    }


def sequences(count: int) -> np.ndarray:
    """Sequences with steps of zeros in front, in the middle and behind, and one of nothing else."""
    values = np.random.default_rng(3).normal(size=(count, STEPS, FEATURES)).astype(np.float32)
    values[0, :20] = values[0, 50:53] = values[1, 80:] = 0
    values[2] = 0
    return values


def built(keras: Any, name: str, batch: int | None = None) -> Any:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((STEPS, FEATURES), name="x", batch_size=batch)
    model = keras.Model(inputs, cases(keras.layers)[name](inputs))
    generator = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    return model


def operators(bundle: Bundle, file: str) -> list[str]:
    data = bundle.read(bundle.artifact(file))
    if file.endswith(".onnx"):
        return [node.op_type for node in onnx.load_from_string(data).graph.node]
    interpreter = Interpreter(model_content=data)
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


@pytest.mark.parametrize("name", list(cases(import_keras().layers)))
def test_recurrent_layers_are_onnx_operators_and_give_keras_numbers(keras, tmp_path: Path, name: str) -> None:
    model = built(keras, name)
    bundle = Bundle.open(export(model, tmp_path / "b", precisions=["fp32"], batch=3).path)
    kinds = operators(bundle, "model.fp32.onnx")
    assert {"LSTM", "GRU", "RNN"} & set(kinds)
    assert not LOOPS & set(kinds)
    values = sequences(3)
    expected = [np.asarray(output) for output in keras.tree.flatten(model(values))]
    for record in bundle.manifest.artifacts:
        with Session(bundle, record) as session:
            for _ in range(2):  # TFLite's fused operator keeps its state, were it not set back
                answers = session.run({"x": values})
                for answer, wanted in zip(answers.values(), expected, strict=True):
                    # float32 sums over 100 steps of eight units
                    np.testing.assert_allclose(answer, wanted, atol=2e-6)


@pytest.mark.parametrize("name", ["lstm", "bidirectional_lstm", "masked_backwards"])
def test_an_lstm_is_one_fused_tflite_operator(keras, tmp_path: Path, name: str) -> None:
    bundle = Bundle.open(export(built(keras, name), tmp_path / "b", formats=["tflite"], precisions=["fp32", "fp16", "dynamic-int8"]).path)
    assert [record.route for record in bundle.manifest.artifacts] == ["fused"] * 3
    for record in bundle.manifest.artifacts:
        kinds = operators(bundle, record.file)
        assert kinds.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == (1 if name == "lstm" else 2)
        assert "WHILE" not in kinds


def test_loops_are_unrolled_to_be_calibrated(keras, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sequences(12))
    result = export(built(keras, "gru"), tmp_path / "b", formats=["tflite"], precisions=["static-int8"], calib=str(tmp_path / "x.npy"))
    assert result.verified[0].route == "unrolled"
    assert result.verified[0].parity.max_abs < 0.1  # a hundred steps in 8 bits, of outputs between -1 and 1


def test_a_bidirectional_layer_reverses_nothing_twice(keras, tmp_path: Path) -> None:
    bundle = Bundle.open(export(built(keras, "bidirectional_lstm"), tmp_path / "b", formats=["onnx"], precisions=["fp32"]).path)
    assert "Slice" not in operators(bundle, "model.fp32.onnx")


def test_no_recurrent_export_of_one_precision_changes_another(keras, tmp_path: Path) -> None:
    model = built(keras, "lstm")
    for name in ("a", "b"):
        export(model, tmp_path / name, formats=["tflite"], precisions=[Precision.FP32])
    assert (tmp_path / "a/model.fp32.tflite").read_bytes() == (tmp_path / "b/model.fp32.tflite").read_bytes()
    assert keras.layers.LSTM.inner_loop.__qualname__ == "LSTM.inner_loop"
