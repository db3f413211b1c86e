from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest

from lepton_converters import activation_moments
from lepton_converters.activation_moments import as_rows, fits, from_rows, grouped_by_size, measure_moments
from lepton_converters.float_graph import Operator
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.weight_fitting import Rounding, fit_weights
from lepton_runtime import Format, Target
from lepton_runtime.tensors import TensorSpec
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


@pytest.fixture(scope="module", params=[(5, 7), (4, 4)], ids=["oblong", "as high as deep"])
def pictures(keras, request) -> dict[Format, Network]:
    """Layers that contract the last axis of what a convolution gives."""
    keras.utils.set_random_seed(2)
    image = keras.Input((*request.param, 3), name="image")
    x = keras.layers.Conv2D(4, 1, name="stem", bias_initializer="normal")(image)
    x = keras.layers.EinsumDense("bhwc,cd->bhwd", (None, None, 5), bias_axes="d", bias_initializer="normal", name="einsum")(x)
    x = keras.layers.EinsumDense("bhwc,cd->bhwd", (None, None, 4), name="unbiased")(x)
    return networks_of(keras.Model(image, keras.layers.Dense(6, name="dense", bias_initializer="normal")(x)))


def check_all_moments(network: Network, *, count: int) -> None:
    """So many operators can be fitted, and the moments of each give its outputs."""
    operators = [operator for operator in network.operators if fits(network.graph, operator)]
    assert len(operators) == count
    for operator in operators:
        check_moments(network, operator)


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
    check_all_moments(network, count=len(CONVOLUTIONS) - 1)  # with the stem, without the last two


@pytest.mark.parametrize("format_", list(Format))
def test_moments_and_weights_of_a_dense_layer_give_its_outputs(dense, format_: Format) -> None:
    network = dense[format_]
    check_all_moments(network, count=2)


@pytest.mark.parametrize("format_", list(Format))
def test_moments_and_weights_of_layers_on_the_last_axis_of_pictures_give_their_outputs(pictures, format_: Format) -> None:
    network = pictures[format_]
    check_all_moments(network, count=4)


def test_moments_and_weights_of_a_convolution_of_volumes_give_its_outputs(keras) -> None:
    keras.utils.set_random_seed(2)
    volume = keras.Input((4, 5, 3, 3), name="volume")
    x = keras.layers.Conv3D(4, 2, padding="same", name="first")(volume)
    network = float_network(keras.Model(volume, keras.layers.Conv3D(5, (2, 3, 1), strides=2, name="second")(x)), Format.ONNX, count=6)
    check_all_moments(network, count=2)


@pytest.mark.parametrize("format_", list(Format))
def test_weights_that_differ_from_place_to_place_are_not_fitted(keras, format_: Format) -> None:
    keras.utils.set_random_seed(2)
    rows = keras.Input((4, 6), name="rows")
    x = keras.layers.EinsumDense("bhc,hcd->bhd", (4, 5), name="apart")(keras.layers.Dense(6, name="before")(rows))
    network = float_network(keras.Model(rows, keras.layers.Dense(3, name="after")(x)), format_, count=6)
    fitted = [operator for operator in network.operators if fits(network.graph, operator)]
    assert len(fitted) == 2
    (graph,) = fit_weights(network.graph, network.calibration.batches, (Rounding.CLIPPED,), target=Target.ANY, seed=0).values()
    found = network.answers(graph.quantize(network.ranges(), in_float=frozenset(), target=Target.ANY, io="float"))
    for name, expected in network.expected().items():
        np.testing.assert_allclose(found[name], expected, atol=0.1)


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
    kinds = [operator.kind for operator in network.operators if operator.weight and not fits(network.graph, operator)]
    assert sorted(kinds) == ["Conv", "ConvTranspose"]  # a depthwise one that makes two channels of each
    (fitted,) = fit_weights(network.graph, network.calibration.batches, (Rounding.CLIPPED,), target=Target.ANY, seed=0).values()
    for operator in network.operators:
        is_same = np.array_equal(fitted.constant(operator.weight), network.graph.constant(operator.weight))
        assert is_same != fits(network.graph, operator), operator.weight


def test_groups_hold_every_operator_once(convolutions) -> None:
    network = convolutions[Format.ONNX]
    operators = [operator for operator in network.operators if fits(network.graph, operator)]
    assert [operator for group in grouped_by_size(network.graph, operators) for operator in group] == operators


def two_readers(first_bias: str, second_bias: str) -> OnnxFloatGraph:
    """Two matrix products with the same weights on unlike inputs, each with its bias, or with none."""
    generator = np.random.default_rng(1)
    constants = {name: generator.normal(0, 1, shape) for name, shape in {"weight": (6, 4), "one": (4,), "other": (4,)}.items()}
    arrays = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    nodes = [
        onnx.helper.make_node("Gemm", [f"{side}_rows", "weight", *filter(None, [bias])], [f"net/{side}/out"])
        for side, bias in [("left", first_bias), ("right", second_bias)]
    ]
    specs = tuple(TensorSpec(f"{side}_rows", (None, 6), "float32") for side in ("left", "right"))
    inputs = [onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, ["n", 6]) for spec in specs]
    outputs = [onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, ["n", 4]) for node in nodes]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "net", inputs, outputs, arrays), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    return OnnxFloatGraph(model, inputs=specs, outputs=(), route="")


def unlike_rows() -> Iterator[Mapping[str, np.ndarray]]:
    generator = np.random.default_rng(5)
    for _ in range(20):
        yield {f"{side}_rows": generator.normal(mean, 1, (4, 6)).astype(np.float32) for side, mean in (("left", 3), ("right", -2))}


def means(graph: OnnxFloatGraph) -> np.ndarray:
    """The mean of each channel of both outputs, ``(2, channels)``."""
    names = ("net/left/out", "net/right/out")
    found = list(graph.values(unlike_rows(), names))
    return np.stack([np.concatenate([values[name] for values in found]).mean(axis=0) for name in names])


@pytest.mark.parametrize("most_bytes", [2**28, 1])
@pytest.mark.parametrize("rounding", list(Rounding)[1:])
def test_each_reader_of_a_weight_has_its_own_bias_corrected(monkeypatch: pytest.MonkeyPatch, rounding: Rounding, most_bytes: int) -> None:
    monkeypatch.setattr(activation_moments, "_MOST_BYTES", most_bytes)
    graph = two_readers("one", "other")
    (fitted,) = fit_weights(graph, unlike_rows, (rounding,), target=Target.ANY, seed=0).values()
    scheme = graph.weight_scheme(graph.blocks[0].operators[0], Target.ANY)
    rounded = fitted.with_constants({"weight": scheme.rounded(fitted.constant("weight"))})
    np.testing.assert_allclose(means(rounded), means(graph), atol=1e-4)


def test_one_bias_of_two_readers_is_corrected_for_both() -> None:
    graph = two_readers("one", "one")
    (fitted,) = fit_weights(graph, unlike_rows, (Rounding.BIAS_CORRECTED,), target=Target.ANY, seed=0).values()
    scheme = graph.weight_scheme(graph.blocks[0].operators[0], Target.ANY)
    rounded = fitted.with_constants({"weight": scheme.rounded(fitted.constant("weight"))})
    np.testing.assert_allclose(means(rounded).mean(axis=0), means(graph).mean(axis=0), atol=1e-4)


def test_a_mean_counts_only_where_no_bias_makes_up_for_it() -> None:
    weights = []
    for biases in [("one", "other"), ("one", ""), ("", "")]:
        graph = two_readers(*biases)
        (fitted,) = fit_weights(graph, unlike_rows, (Rounding.FITTED,), target=Target.ANY, seed=0).values()
        for bias in ("one", "other"):
            assert np.array_equal(fitted.constant(bias), graph.constant(bias)) == (bias not in biases)
        weights.append(fitted.constant("weight"))
    assert not any(np.array_equal(weights[one], weights[other]) for one, other in ((0, 1), (1, 2), (0, 2)))
