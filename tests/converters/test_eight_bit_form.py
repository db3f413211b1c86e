"""Batch normalizations that no convolution can take in are convolutions themselves in what TFLite computes in 8 bits."""

from collections import Counter

import numpy as np
import pytest

from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_runtime import Format
from tests.converters.float_graphs import float_network


@pytest.fixture(scope="module")
def dense_block(keras, liven):
    """Two lone normalizations, one of the input and one of a concatenation, and one that follows its convolution."""
    keras.utils.set_random_seed(6)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="first")(layers.BatchNormalization(name="of_input")(image))
    grown = layers.Concatenate(name="both")([x, layers.Conv2D(4, 3, padding="same", name="second")(x)])
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="of_both")(grown))
    x = layers.ReLU()(layers.BatchNormalization(name="folded")(layers.Conv2D(5, 1, use_bias=False, name="third")(x)))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    liven(keras, model)
    return model


def operators(model, *, for_8_bits: bool) -> Counter[str]:
    graph = freeze(KerasSource.open(model), Format.TFLITE, for_8_bits=for_8_bits)
    return Counter(node.op for node in graph.definition.node)


def test_a_lone_batch_normalization_becomes_a_convolution(dense_block) -> None:
    assert operators(dense_block, for_8_bits=False)["DepthwiseConv2dNative"] == 0
    assert operators(dense_block, for_8_bits=True)["DepthwiseConv2dNative"] == 2


def test_its_relu_is_in_it_and_its_answers_stay(dense_block) -> None:
    network = float_network(dense_block, Format.TFLITE)
    kinds = Counter(operator.kind for operator in network.operators)
    assert not {"Mul", "Add"} & set(kinds), kinds
    in_float = network.answers(network.quantized(*network.names))
    for name, expected in network.expected().items():
        np.testing.assert_allclose(in_float[name], expected, atol=1e-5)  # float32 sums of some tens of terms


@pytest.mark.parametrize("kind", ["vectors", "channels_first", "scaled"])
def test_all_other_products_and_sums_stay(keras, liven, kind: str) -> None:
    layers = keras.layers
    image = keras.Input((6, 6, 6), name="image")
    x = {
        "vectors": lambda: layers.BatchNormalization()(layers.ReLU()(layers.Dense(6)(layers.Flatten()(image)))),
        "channels_first": lambda: layers.BatchNormalization(axis=1)(layers.ReLU()(image)),
        "scaled": lambda: layers.Rescaling(0.5, offset=-1.0)(image),
    }[kind]()
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    liven(keras, model)
    assert operators(model, for_8_bits=True)["DepthwiseConv2dNative"] == 0
