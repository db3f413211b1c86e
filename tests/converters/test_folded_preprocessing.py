"""Rescaling and normalization, folded into the convolution behind them in the graph that TFLite files are made from."""

from collections import Counter

import numpy as np
import pytest

from lepton_converters.frozen_graph import FrozenGraph, freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.tflite_content import operator_codes, read_content
from lepton_runtime import Bundle, Format

MEANS, ALIKE, UNLIKE = [120.0, 100.0, 90.0], [60.0, 50.0, 70.0], [60.0, 5.0, 70.0]


def frozen(model) -> FrozenGraph:
    return freeze(KerasSource.open(model), Format.TFLITE)


def answers(graph: FrozenGraph, x):
    import tensorflow as tf

    imported, inputs, outputs = graph.imported()
    with tf.compat.v1.Session(graph=imported) as session:
        return session.run(outputs[0], {inputs[0]: x})


def count(graph: FrozenGraph) -> Counter[str]:
    return Counter(node.op for node in graph.definition.node)


@pytest.fixture
def x():
    return np.random.default_rng(3).uniform(0, 255, (1, 12, 12, 3)).astype(np.float32)


def normalization(keras, deviations):
    return keras.layers.Normalization(mean=MEANS, variance=np.square(deviations))


@pytest.mark.parametrize("kind", ["same", "valid", "padded", "depthwise"])
def test_one_sum_stays_of_a_rescaling_and_a_normalization(keras, x, kind: str) -> None:
    layers = keras.layers
    convolutions = {
        "same": [layers.Conv2D(5, 3, padding="same")],
        "valid": [layers.Conv2D(5, 3)],
        "padded": [layers.ZeroPadding2D(((0, 1), (2, 0))), layers.Conv2D(5, 3, strides=2)],
        "depthwise": [layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")],
    }
    before = [layers.Rescaling(1 / 128, offset=-0.25), layers.Rescaling(128.0, offset=32.0), normalization(keras, ALIKE)]
    model = keras.Sequential([keras.Input((12, 12, 3)), *before, *convolutions[kind], layers.ReLU()])
    graph = frozen(model)
    found = count(graph)
    assert (found["AddV2"], found["Mul"], found["Sub"], found["RealDiv"]) == (1, 0, 0, 0), found
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(answers(graph, x), expected, atol=1e-5 * np.abs(expected).max())  # float32 sums of 27 terms


def test_nothing_stays_of_a_factor(keras, x) -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(1 / 255), layers.Conv2D(5, 3, padding="same")])
    graph = frozen(model)
    assert not {"AddV2", "Mul"} & set(count(graph)), count(graph)
    np.testing.assert_allclose(answers(graph, x), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["unlike", "shared", "wider", "second", "zero", "channels", "output", "small", "far"])
def test_what_cannot_be_folded_stays(keras, x, kind: str) -> None:
    layers = keras.layers
    image = keras.Input((12, 12, 1 if kind == "wider" else 3))
    given = x[..., :1] if kind == "wider" else x
    scaled = {
        "unlike": lambda: normalization(keras, UNLIKE)(image),
        "shared": lambda: layers.Rescaling(1 / 255)(image),
        "wider": lambda: image * np.array([0.5, 0.6, 0.7], np.float32),  # three channels of one
        "second": lambda: (
            keras.ops.split(keras.ops.pad(image, [[0, 0], [0, 0], [0, 0], [1, 0]]), [3], -1)[1] * np.array([0.5, 0.6, 0.7], np.float32)
        ),  # three channels of one, which comes second
        "small": lambda: layers.Rescaling(1e-6)(image),  # weights that float16 does not hold
        "far": lambda: layers.Rescaling(1e-4, offset=100.0)(image),  # a sum that float16 does not hold
        "zero": lambda: layers.Rescaling(0.0, offset=1.0)(image),
        "channels": lambda: layers.Rescaling([[[[2.0]]] * 12])(image),  # a number a row
        "output": lambda: layers.Rescaling(1 / 255)(image),
    }[kind]()
    y = layers.Conv2D(3, 3, padding="same")(scaled)
    outputs = {"shared": layers.Add()([y, scaled])}.get(kind, y)
    model = keras.Model(image, [outputs, scaled] if kind == "output" else outputs)
    graph = frozen(model)
    assert count(graph)["Mul"] + count(graph)["RealDiv"] == 1, count(graph)
    expected = model.predict(given, verbose=0)
    expected = expected[0] if kind == "output" else expected
    np.testing.assert_allclose(answers(graph, given), expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_the_8_bit_file_has_one_sum(keras, x, tmp_path) -> None:
    from lepton_converters import export

    layers = keras.layers
    keras.utils.set_random_seed(8)
    before = [layers.Rescaling(1 / 255), normalization(keras, np.divide(ALIKE, 255))]
    model = keras.Sequential([keras.Input((12, 12, 3)), *before, layers.Conv2D(5, 3, padding="same"), layers.Flatten(), layers.Dense(4)])
    np.save(tmp_path / "x.npy", np.concatenate([x, 255 - x]))
    export(model, tmp_path / "m.bundle", formats=["tflite"], precisions=["static-int8"], calib=tmp_path / "x.npy", keep_failed=True)
    bundle = Bundle.open(tmp_path / "m.bundle")
    content = read_content(bundle.read(bundle.artifact("model.static-int8.tflite")))
    codes = operator_codes(content)
    found = Counter(codes[operator.opcodeIndex] for operator in content.subgraphs[0].operators)
    assert (found["ADD"], found["MUL"], found["SUB"]) == (1, 0, 0), found
