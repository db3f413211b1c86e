"""Fully connected networks get one scale for all channels of an operator's weights, where that costs no accuracy."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from lepton_converters.quantizer import Quantizer
from lepton_runtime import Format
from tests.converters.float_graphs import Network, float_network


def dense_network(keras, liven, format_: Format, *, factors: list[float]) -> Network:
    """Two dense layers whose channels reach equally far, those of the first ``factors`` times as far."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((16,), name="x")
    x = keras.layers.ReLU()(keras.layers.Dense(len(factors), name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, name="last")(x))
    liven(keras, model)
    for layer, reach in ((model.get_layer("first"), np.float32(factors)), (model.get_layer("last"), np.float32(1))):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel / np.abs(kernel).max(axis=0) * reach, bias])
    return float_network(model, format_, count=160)


def quantizer(network: Network, **options) -> Quantizer:
    indices = network.calibration.indices
    return Quantizer(replace(network.calibration, indices=indices[:80]), spare=indices[80:], **options)


def scales(model: bytes) -> list[int]:
    """How many scales the weights of each operator have."""
    graph = onnx.load_from_string(model).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    return [int(np.prod(stored[node.input[1]].dims)) for node in found if len(stored[node.input[0]].dims) == 2]


def test_weights_of_like_channels_share_a_scale(keras, liven) -> None:
    network = dense_network(keras, liven, Format.ONNX, factors=[1.0] * 8)
    artifact = quantizer(network).quantize(network.graph)
    assert artifact.quantization.shared_scales
    assert scales(artifact.model) == [1, 1]
    (found,), (expected,) = network.answers(artifact).values(), network.expected().values()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_it_is_made_again_the_same(keras, liven) -> None:
    network = dense_network(keras, liven, Format.ONNX, factors=[1.0] * 8)
    artifact = quantizer(network).quantize(network.graph)
    again = quantizer(network, recipe={Format.ONNX: artifact.quantization}).quantize(network.graph)
    assert again.model == artifact.model


def test_channels_that_would_lose_by_it_keep_their_own(keras, liven, monkeypatch: pytest.MonkeyPatch) -> None:
    network = dense_network(keras, liven, Format.ONNX, factors=[100.0, 1, 1, 1, 1, 1, 1, 1])
    monkeypatch.setattr("lepton_converters.quantizer.equalize", lambda graph, statistics: None)  # it would make them alike
    artifact = quantizer(network).quantize(network.graph)
    assert not artifact.quantization.shared_scales
    assert scales(artifact.model) == [8, 5]


def test_convolutions_and_tflite_files_have_nothing_to_share(keras, liven) -> None:
    assert dense_network(keras, liven, Format.TFLITE, factors=[1.0] * 8).graph.with_shared_scales() is None
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs))))
    liven(keras, model)
    assert float_network(model, Format.ONNX).graph.with_shared_scales() is None
