"""A model traced with other weights and activations than its own."""

from typing import Any

import numpy as np
import pytest

from lepton_converters.compiled_function import compile_function
from lepton_converters.rounded_trace import RoundedTrace


def traced(model, inputs: np.ndarray, trace: RoundedTrace) -> np.ndarray:
    """What a model gives in a trace."""
    import tensorflow as tf

    def run(given: Any) -> Any:
        with trace.active():
            return trace.read(model(tf.identity(given)))

    return np.asarray(compile_function(run, [tf.TensorSpec(inputs.shape, tf.float32)])(tf.constant(inputs)))


@pytest.fixture(scope="module")
def models(keras, liven) -> dict[str, Any]:
    """One of each operator with weights."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    image, sequence = (6, 6, 4), (5, 4)
    kinds = {
        "Conv2D": (image, layers.Conv2D(3, 3)),
        "DepthwiseConv2D": (image, layers.DepthwiseConv2D(3, depth_multiplier=2)),
        "Conv2DTranspose": (image, layers.Conv2DTranspose(3, 3)),
        "Conv1D": (sequence, layers.Conv1D(3, 2)),
        "Conv3D": ((4, 4, 4, 2), layers.Conv3D(3, 2)),
        "Dense": ((4,), layers.Dense(3)),
        "Dense of a sequence": (sequence, layers.Dense(3)),
        "EinsumDense": (sequence, layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")),
    }
    made = {name: keras.Sequential([keras.Input(shape), layer]) for name, (shape, layer) in kinds.items()}
    for model in made.values():
        liven(keras, model)
    return made


NAMES = ["Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Conv1D", "Conv3D", "Dense", "Dense of a sequence", "EinsumDense"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_weights_is_replaced_once_with_one_size_a_channel(models, name: str) -> None:
    model = models[name]
    sizes: list[int] = []

    def double(kernel: Any, axes: list[int]) -> Any:
        sizes.append(int(np.prod([length for axis, length in enumerate(kernel.shape) if axis not in axes])))
        return 2 * kernel

    inputs = np.random.default_rng(2).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    trace = RoundedTrace(lambda number, value: value, double)
    bias = np.asarray(model(np.zeros_like(inputs)))
    np.testing.assert_allclose(traced(model, inputs, trace), 2 * np.asarray(model(inputs)) - bias, rtol=1e-4, atol=1e-4)
    channels = {"DepthwiseConv2D": 8, "EinsumDense": 6}.get(name, 3)
    assert sizes == [channels]
    assert trace.operators == 1


def test_what_is_read_in_the_place_of_an_activation_reaches_all_its_readers(keras) -> None:
    row = keras.Input((3,))
    model = keras.Model(row, keras.layers.add([keras.layers.ReLU()(row), row]))
    inputs = np.float32([[1, 2, 3]])
    trace = RoundedTrace(lambda number, value: value * 10 if number == 0 else value, lambda kernel, axes: kernel)
    np.testing.assert_array_equal(traced(model, inputs, trace), 20 * inputs)
    trace = RoundedTrace(lambda number, value: value + 1 if number == trace.count else value, lambda kernel, axes: kernel)
    np.testing.assert_array_equal(traced(model, inputs, trace), 2 * inputs + 5)  # the input to both, the ReLU, and the sum


def test_weights_are_no_activations(keras) -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.BatchNormalization(name="norm")])
    names: list[str] = []

    def listed(number: int, value: Any) -> Any:
        names.append(value.op.name)
        return value

    traced(model, np.ones((2, 4), np.float32), RoundedTrace(listed, lambda kernel, axes: kernel))
    assert [name.split("/")[-1] for name in names][:3] == ["Identity", "MatMul", "BiasAdd"]
    assert not any("ReadVariableOp" in name or "Rsqrt" in name for name in names)


def test_the_inside_of_a_recurrent_layer_stays_as_it_is(keras) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(3, name="memory")])
    inputs = np.random.default_rng(2).normal(size=(2, 5, 4)).astype(np.float32)
    trace = RoundedTrace(lambda number, value: value, lambda kernel, axes: 0 * kernel)
    np.testing.assert_allclose(traced(model, inputs, trace), np.asarray(model(inputs)), atol=1e-6)
    assert set(trace.floating) == {"memory"}
    assert trace.operators == 0


def test_other_graphs_and_later_traces_are_left_alone(keras) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.func_graph import FuncGraph

    before = FuncGraph._create_op_internal
    trace = RoundedTrace(lambda number, value: value + 1, lambda kernel, axes: kernel)
    inner = tf.function(lambda value: value * 2, autograph=False)
    found = traced(lambda value: inner(value), np.float32([1, 2]), trace)
    np.testing.assert_array_equal(found, np.float32([5, 7]))  # 1 for what goes in, 1 for what comes out, nothing inside
    assert FuncGraph._create_op_internal is before
