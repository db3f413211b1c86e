import numpy as np
import pytest

from lepton_converters.activation_moments import as_rows, fits, from_rows, grouped_by_size, measure_moments
from lepton_converters.float_graph import Operator
from lepton_converters.weight_fitting import Rounding, fit_weights
from lepton_runtime import Format, Target
from tests.converters.float_graphs import Network, float_network

# Each window is another: uneven padding, strides and dilations of their own, on pictures of uneven sides with at most 64 outputs.
CONVOLUTIONS = {
    "valid": ("Conv2D", {"filters": 5, "kernel_size": (3, 2)}),
    "same": ("Conv2D", {"filters": 5, "kernel_size": (2, 3), "padding": "same"}),
    "strided": ("Conv2D", {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
    "even": ("Conv2D", {"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}),
    "dilated": ("Conv2D", {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}),
    "pointwise": ("Conv2D", {"filters": 5, "kernel_size": 1}),
    "unbiased": ("Conv2D", {"filters": 5, "kernel_size": 3, "use_bias": False}),
    "depthwise": ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same"}),
    "depthwise_strided": ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}),
    "depthwise_wide": ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}),
    "transposed": ("Conv2DTranspose", {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
}


def networks_of(model) -> dict[Format, Network]:
    return {format_: float_network(model, format_, count=6) for format_ in Format}


@pytest.fixture(scope="module")
def convolutions(keras) -> dict[Format, Network]:
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 7, 3), name="image")
    start = keras.layers.Conv2D(4, 1, name="stem")(image)
    made = [
        keras.layers.Activation("linear", name=f"out_{name}")(
            getattr(keras.layers, kind)(**settings, bias_initializer="normal" if settings.get("use_bias", True) else "zeros", name=name)(
                start
            )
        )
        for name, (kind, settings) in CONVOLUTIONS.items()
    ]
    return networks_of(keras.Model(image, made))


@pytest.fixture(scope="module")
def dense(keras) -> dict[Format, Network]:
    keras.utils.set_random_seed(2)
    rows = keras.Input((9, 6), name="rows")
    steps = keras.layers.Dense(5, name="steps", bias_initializer="normal")(rows)
    flat = keras.layers.Dense(4, name="flat", bias_initializer="normal")(keras.layers.GlobalAveragePooling1D()(rows))
    return networks_of(keras.Model(rows, [steps, flat]))


def check_moments(network: Network, operator: Operator) -> None:
    """The mean and covariance of an operator's outputs follow from the moments of its inputs and from its weights."""
    graph = network.graph
    (moments,) = measure_moments(graph, [operator], network.calibration.batches(), seed=0).values()
    weights = as_rows(graph.constant(operator.weight), operator).astype(np.float64)
    mean = np.einsum("got,gt->go", weights, moments.mean).reshape(-1)
    covariance = np.einsum("got,gtu,gou->go", weights, moments.covariance, weights).reshape(-1)
    outputs = np.concatenate([values[operator.output] for values in graph.values(network.calibration.batches(), [operator.output])])
    axis = graph.channel_axis(operator.output)
    channels = np.moveaxis(outputs, axis, -1).reshape(-1, outputs.shape[axis]).astype(np.float64)
    bias = graph.constant(operator.bias) if operator.bias else 0.0
    np.testing.assert_allclose(mean + bias, channels.mean(axis=0), atol=1e-5, err_msg=operator.output)
    np.testing.assert_allclose(covariance, channels.var(axis=0), rtol=1e-4, atol=1e-5, err_msg=operator.output)


@pytest.mark.parametrize("format_", list(Format))
def test_moments_and_weights_of_convolutions_give_their_outputs(convolutions, format_: Format) -> None:
    network = convolutions[format_]
    operators = [operator for operator in network.operators if fits(operator)]
    assert len(operators) == len(CONVOLUTIONS) - 1  # with the stem, without the last two
    for operator in operators:
        check_moments(network, operator)


@pytest.mark.parametrize("format_", list(Format))
def test_moments_and_weights_of_a_dense_layer_give_its_outputs(dense, format_: Format) -> None:
    network = dense[format_]
    operators = [operator for operator in network.operators if fits(operator)]
    assert len(operators) == 2
    for operator in operators:
        check_moments(network, operator)


@pytest.mark.parametrize("format_", list(Format))
def test_rows_are_the_weights_in_another_order(convolutions, dense, format_: Format) -> None:
    for network in (convolutions[format_], dense[format_]):
        for operator in network.operators:
            if operator.weight:
                weights = network.graph.constant(operator.weight)
                rows = as_rows(weights, operator)
                assert rows.size == weights.size
                assert np.array_equal(from_rows(rows, operator, weights.shape), weights)


@pytest.mark.parametrize("format_", list(Format))
def test_operators_that_no_window_describes_are_not_fitted(convolutions, format_: Format) -> None:
    network = convolutions[format_]
    kinds = [operator.kind for operator in network.operators if operator.weight and not fits(operator)]
    assert sorted(kinds) == ["Conv", "ConvTranspose"]  # a depthwise one that makes two channels of each
    (fitted,) = fit_weights(network.graph, network.calibration.batches, (Rounding.CLIPPED,), target=Target.ANY, seed=0).values()
    for operator in network.operators:
        is_same = np.array_equal(fitted.constant(operator.weight), network.graph.constant(operator.weight))
        assert is_same != fits(operator), operator.weight


def test_groups_hold_every_operator_once(convolutions) -> None:
    network = convolutions[Format.ONNX]
    operators = [operator for operator in network.operators if fits(operator)]
    assert [operator for group in grouped_by_size(network.graph, operators) for operator in group] == operators
