"""What TFLite computes in 8 bits in another form: lone batch normalizations, masks of a softmax, hard-swish."""

from collections import Counter

import numpy as np
import pytest

from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.tflite_content import operator_codes, read_content
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


def largest_constant(model) -> float:
    import tensorflow as tf

    graph = freeze(KerasSource.open(model), Format.TFLITE, for_8_bits=True).definition
    constants = [tf.make_ndarray(node.attr["value"].tensor) for node in graph.node if node.op == "Const"]
    return max(float(np.abs(values).max()) for values in constants if values.dtype == np.float32 and values.size)


@pytest.mark.parametrize("kind", ["causal", "mask_of_numbers", "chosen"])
def test_masks_of_a_softmax_become_numbers_that_8_bits_hold(keras, kind: str) -> None:
    rows, mask = keras.Input((4, 6), name="rows"), keras.Input((4, 4), name="mask")
    attention = keras.layers.MultiHeadAttention(2, 3)
    outputs = {
        "causal": lambda: attention(rows, rows, use_causal_mask=True),
        "mask_of_numbers": lambda: keras.ops.softmax(keras.ops.matmul(rows, keras.ops.transpose(rows, (0, 2, 1))) + (1.0 - mask) * -1e9),
        "chosen": lambda: keras.ops.softmax(keras.ops.where(mask > 0, mask, -1e9)),
    }[kind]()
    assert largest_constant(keras.Model([rows, mask], [outputs, keras.layers.Dense(1)(mask)])) < 100


def test_large_numbers_that_mask_no_softmax_stay(keras) -> None:
    rows = keras.Input((4,), name="rows")
    sharp = keras.Model(rows, keras.ops.softmax(rows * 1e10))
    assert largest_constant(sharp) == np.float32(1e10)
    masked = rows + np.float32([0, 0, 0, -1e9])
    both = keras.Model(rows, [keras.ops.softmax(masked), keras.ops.max(masked, axis=-1)])
    assert largest_constant(both) == np.float32(1e9)


def test_a_product_that_makes_channels_stays(keras) -> None:
    image = keras.Input((6, 6, 1), name="image")
    colors = image * np.float32([5, 3, 2]) + np.float32([-1, -2, -3])
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(colors)))
    assert operators(model, for_8_bits=True)["DepthwiseConv2dNative"] == 0


@pytest.mark.parametrize("form", ["activation", "share last", "factor", "three first"])
def test_a_hard_swish_is_operators_that_xnnpack_has_in_8_bits(keras, liven, form: str) -> None:
    layers, ops = keras.layers, keras.ops
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, name="conv")(image)
    swished = {
        "activation": lambda: layers.Activation("hard_silu")(x),
        "share last": lambda: x * ops.relu6(x + 3.0) / 6.0,
        "factor": lambda: layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)]),
        "three first": lambda: ops.relu6(3.0 + x) / 6.0 * x,
    }[form]()
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(swished)))
    liven(keras, model)
    network = float_network(model, Format.TFLITE)
    artifact = network.quantized()
    content = read_content(artifact.model)
    assert "HARD_SWISH" not in operator_codes(content)
    expected = network.expected()["scores"]
    np.testing.assert_allclose(network.answers(artifact)["scores"], expected, atol=0.03)
    np.testing.assert_allclose(network.answers(network.quantized(*network.names))["scores"], expected, atol=1e-5)


def test_a_relu6_that_is_no_hard_swish_stays(keras, liven) -> None:
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, keras.ops.relu6(image + 3.0) / 6.0)
    graph = freeze(KerasSource.open(model), Format.TFLITE, for_8_bits=True)
    assert not any(node.name.endswith("/shift") for node in graph.definition.node)


def test_a_lone_normalization_of_a_part_is_found(keras, liven) -> None:
    image = keras.Input((8, 8, 8), name="image")
    part = keras.ops.split(image, [3], axis=-1)[1]
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(keras.layers.ReLU()(keras.layers.BatchNormalization()(part))))
    liven(keras, model)
    assert operators(model, for_8_bits=True)["DepthwiseConv2dNative"] == 1
