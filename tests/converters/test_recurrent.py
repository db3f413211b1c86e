from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter

from lepton_converters import export
from lepton_converters.keras_loading import import_keras
from lepton_converters.tflite_content import operator_codes, read_content
from lepton_runtime import Bundle, Precision, Session, UnsupportedError
from lepton_runtime.golden import Golden, golden_limit

STEPS, FEATURES = 100, 6
LOOPS = {"Loop", "Scan", "If", "SequenceInsert"}


def cases(layers: Any) -> dict[str, Callable[[Any], Any]]:
    """By name, what is built on a sequence."""
    return {
        "lstm": layers.LSTM(8),
        "lstm_sequences": layers.LSTM(8, return_sequences=True),
        "lstm_states": layers.LSTM(8, return_sequences=True, return_state=True, go_backwards=True),
        "lstm_relu": layers.LSTM(8, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False),
        "lstm_linear": layers.LSTM(8, activation="linear"),
        "gru_elu": layers.GRU(8, activation="elu", recurrent_activation="hard_sigmoid"),
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
        "masked_initial_state": lambda x: layers.GRU(FEATURES, return_state=True)(layers.Masking()(x), initial_state=x[:, 5] + 0.5),
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
            for _ in range(2):  # no state is kept from call to call
                answers = session.run({"x": values})
                for answer, wanted in zip(answers.values(), expected, strict=True):
                    # float32 sums over 100 steps of eight units
                    np.testing.assert_allclose(answer, wanted, atol=2e-6)


@pytest.mark.parametrize("name", ["lstm", "bidirectional_gru", "masked_backwards"])
def test_a_loop_of_tflite_first_does_what_no_delegate_takes(keras, tmp_path: Path, name: str) -> None:
    bundle = Bundle.open(export(built(keras, name), tmp_path / "b", formats=["tflite"], precisions=["fp32", "fp16", "dynamic-int8"]).path)
    assert [record.route for record in bundle.manifest.artifacts] == ["graph"] * 3
    for record in bundle.manifest.artifacts:
        content = read_content(bundle.read(record))
        kinds = operator_codes(content)
        bodies = [[kinds[operator.opcodeIndex] for operator in graph.operators] for graph in content.subgraphs[1:]]
        loops = [body for body in bodies if "FULLY_CONNECTED" in body]
        assert loops
        for body in loops:
            first = body.index("FULLY_CONNECTED")
            assert "GATHER" in body[:first]
            assert "GATHER" not in body[first:]


def test_an_lstm_of_any_length_is_one_fused_tflite_operator_in_8_bits(keras, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sequences(12))
    inputs = keras.Input((None, FEATURES), name="x")
    outputs = keras.layers.Bidirectional(keras.layers.LSTM(8))(inputs)
    result = export(
        keras.Model(inputs, outputs), tmp_path / "b", formats=["tflite"], precisions=["static-int8"], calib=str(tmp_path / "x.npy")
    )
    bundle = Bundle.open(result.path)
    (record,) = bundle.manifest.artifacts
    assert record.route == "fused"
    kinds = operators(bundle, record.file)
    assert kinds.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 2
    assert "WHILE" not in kinds
    golden = Golden.open(bundle)
    with Session(bundle, record) as session:
        for _ in range(2):  # the operator keeps its state, were it not set back
            assert golden.difference(session) <= golden_limit(record)
        given, out = sequences(3)[:1], np.empty((1, 16), np.float32)
        expected = session.run({"x": given})
        for _ in range(2):
            np.testing.assert_array_equal(session.run(given, out=out), next(iter(expected.values())))


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


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_stateful_net_has_its_state_as_inputs_and_outputs(keras, tmp_path: Path, kind: str) -> None:
    keras.utils.set_random_seed(4)
    inputs = keras.Input(batch_shape=(1, 1, FEATURES), name="x")
    model = keras.Model(inputs, getattr(keras.layers, kind)(8, stateful=True, name="memory")(inputs))
    np.save(tmp_path / "x.npy", sequences(4)[3][:, None])
    bundle = Bundle.open(export(model, tmp_path / "b", precisions=["fp32", "static-int8"], calib=str(tmp_path / "x.npy")).path)
    states = [f"memory_state_{number}" for number in range(2 if kind == "LSTM" else 1)]
    assert [spec.name for spec in bundle.manifest.inputs] == ["x", *states]
    assert [spec.name for spec in bundle.manifest.outputs] == ["memory", *(f"{name}_next" for name in states)]
    assert not LOOPS & set(operators(bundle, "model.fp32.onnx"))
    stream = sequences(4)[3]
    keras.tree.map_structure(lambda state: state.assign(np.zeros(state.shape)), model.get_layer("memory").states)
    expected = [np.asarray(model(step[None, None]))[0] for step in stream]
    for record in bundle.manifest.artifacts:
        with Session(bundle, record) as session:
            carried = {name: np.zeros((1, 8), np.float32) for name in states}
            answers = []
            for step in stream:
                outputs = session.run({"x": step[None, None], **carried})
                carried = {name: outputs[f"{name}_next"] for name in states}
                answers.append(outputs["memory"][0])
        # float32 over 100 steps; in 8 bits the state is rounded to 1/128 at each
        np.testing.assert_allclose(answers, expected, atol=2e-6 if record.precision == "fp32" else 0.15)


def test_a_masked_step_leaves_the_state_of_a_stateful_net_as_it_was(keras, tmp_path: Path) -> None:
    inputs = keras.Input(batch_shape=(1, 1, FEATURES), name="x")
    outputs = keras.layers.LSTM(8, stateful=True, name="memory")(keras.layers.Masking()(inputs))
    bundle = Bundle.open(export(keras.Model(inputs, outputs), tmp_path / "b", precisions=["fp32"]).path)
    states = {f"memory_state_{number}": np.full((1, 8), 0.5 + number, np.float32) for number in range(2)}
    for record in bundle.manifest.artifacts:
        with Session(bundle, record) as session:
            answers = session.run({"x": np.zeros((1, 1, FEATURES), np.float32), **states})
        for name, state in states.items():
            np.testing.assert_array_equal(answers[f"{name}_next"], state)


def test_a_stateful_net_takes_no_other_batch_than_its_own(keras, tmp_path: Path) -> None:
    inputs = keras.Input(batch_shape=(2, 5, FEATURES), name="x")
    model = keras.Model(inputs, keras.layers.GRU(8, stateful=True)(inputs))
    assert export(model, tmp_path / "b", precisions=["fp32"]).manifest.inputs[0].shape == (2, 5, FEATURES)
    with pytest.raises(UnsupportedError, match="takes the number of samples it was built for, 2"):
        export(model, tmp_path / "c", batch=3)


def test_8_bit_weights_make_recurrent_files_and_embeddings_smaller(keras, tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((20,), dtype="int32", name="ids")
    model = keras.Model(inputs, keras.layers.LSTM(32)(keras.layers.GRU(32, return_sequences=True)(keras.layers.Embedding(500, 32)(inputs))))
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 500, (30, 20)))
    options = {"formats": ["onnx"], "precisions": ["fp32", "dynamic-int8"], "calib": str(tmp_path / "ids.npy")}
    full, small = export(model, tmp_path / "b", **options).verified
    assert small.size_bytes < 0.35 * full.size_bytes
    assert 0 < small.parity.max_abs < 0.02
