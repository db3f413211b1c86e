"""tf2onnx is used so that weights are in memory once and the same model gives the same graph."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_graph import _copy_but_constants, _frugal_tf2onnx, convert_graph, fold_constants
from lepton_runtime.formats import Format


@pytest.fixture(scope="module")
def graph(keras):
    """tf2onnx' graph of a small network."""
    import tensorflow as tf
    import tf2onnx

    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    frozen = freeze(KerasSource.open(keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))), Format.ONNX)
    with tf.Graph().as_default() as given:
        tf.import_graph_def(fold_constants(frozen).definition, name="")
        return tf2onnx.tfonnx.process_tf_graph(given, opset=13, input_names=list(frozen.inputs), output_names=list(frozen.outputs))


def test_a_copy_shares_its_constants_and_nothing_else(graph) -> None:
    constants = [node for node in graph.get_nodes() if node.is_const()]
    assert constants
    copied = _copy_but_constants(graph)
    for node in graph.get_nodes():
        other = copied.get_node_by_name(node.name)
        assert other is not node
        if node.is_const():
            assert other.attr["value"] is node.attr["value"]
            assert not node._op.attribute  # nor a second copy in its own node
    assert _copy_but_constants({"Conv": 1}) == {"Conv": 1}


def test_needed_nodes_come_in_the_order_of_the_graph(graph) -> None:
    with _frugal_tf2onnx():
        needed = graph.extract_sub_graph_nodes(graph.outputs)
    order = [node.name for node in graph.get_nodes()]
    assert [order.index(node.name) for node in needed] == sorted(order.index(node.name) for node in needed)


def test_constants_keep_their_values_through_the_passes(keras) -> None:
    import onnx
    import tf2onnx

    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(4, 3, name="c")(keras.layers.Conv2D(3, 1, activation="relu", name="d")(x))
    frozen = freeze(KerasSource.open(keras.Model(x, y)), Format.ONNX)
    found = convert_graph(fold_constants(frozen), 13)
    plain, _ = tf2onnx.convert.from_graph_def(
        frozen.definition, opset=13, input_names=list(frozen.inputs), output_names=list(frozen.outputs)
    )
    values = [{onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer} for model in (found, plain)]
    assert len(values[0]) == 2  # two kernels, and zero biases
    assert values[0] == values[1]


def test_a_loop_gives_the_same_file_twice_in_one_process(keras, tmp_path: Path) -> None:
    class Cell(keras.layers.Layer):
        state_size = output_size = 3

        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def build(self, shape) -> None:
            self.dense.build((None, shape[-1] + 3))

        def call(self, x, states):
            made = keras.ops.tanh(self.dense(keras.ops.concatenate([x, states[0]], axis=-1)))
            return made, [made]

    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, keras.layers.RNN(Cell())(x))
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32))
    for name in "ab":
        export(model, tmp_path / name, formats=["onnx"], precisions=["fp32"], calib=tmp_path / "samples.npy", calib_samples=4)
    first, second = (tmp_path / name / "model.fp32.onnx" for name in "ab")
    assert b"Loop" in first.read_bytes()
    assert first.read_bytes() == second.read_bytes()


def test_hard_swishes_leave_no_transpositions_between_convolutions(keras, liven) -> None:
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3), name="x")
    for _ in range(3):
        x = layers.Activation("hard_swish")(layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=False)(x)))
    model = keras.Model(inputs, x)
    liven(keras, model)
    graph = fold_constants(freeze(KerasSource.open(model), Format.ONNX))
    operators = [node.op_type for node in convert_graph(graph, 13).graph.node]
    assert operators.count("Conv") == 3
    assert operators.count("Transpose") == 2  # one for each door: Keras has its channels last
