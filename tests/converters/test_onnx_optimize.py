import numpy as np
import onnx
import pytest

from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_canonical import canonicalize
from lepton_converters.onnx_export import OnnxExporter
from lepton_converters.onnx_operators import replace_erfc
from lepton_converters.onnx_optimize import optimize
from lepton_converters.tflite_export import TfliteExporter
from lepton_runtime import Precision
from tests.converters.onnx_models import answer, kinds, make, node, noise


def base_of(source: KerasSource) -> onnx.ModelProto:
    def accept(artifact: object) -> None:
        pass

    exporter = OnnxExporter(source, tflite=TfliteExporter(source, accept=accept), accept=accept)
    return onnx.load_from_string(exporter.make(Precision.FP32, quantizer=None).model)


@pytest.mark.parametrize("name", ["conv1d", "depthwise", "transposed", "sequence", "dense", "bias_and_batch_norm", "conv3d"])
def test_batch_normalization_disappears_and_the_answers_stay(keras, liven, name: str) -> None:
    layers = keras.layers
    before, shape = {
        "conv1d": ([layers.Conv1D(6, 3)], (10, 4)),
        "depthwise": ([layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")], (8, 8, 4)),
        "transposed": ([layers.Conv2DTranspose(5, 2, strides=2)], (6, 6, 4)),
        "sequence": ([layers.Dense(6, use_bias=False)], (7, 4)),
        "dense": ([layers.Dense(6)], (9,)),
        "bias_and_batch_norm": ([layers.Conv2D(5, 3), layers.BatchNormalization()], (8, 8, 3)),
        "conv3d": ([layers.Conv3D(4, 2)], (5, 5, 5, 2)),
    }[name]
    model = keras.Sequential([keras.Input(shape, name="x"), *before, layers.BatchNormalization(), layers.ReLU()])
    liven(keras, model)
    source = KerasSource.open(model)
    graph = base_of(source)
    assert not {"Mul", "Add", "BatchNormalization"} & set(kinds(graph))
    inputs = {"x": noise(1, *shape)}
    expected = source.predict(inputs)
    np.testing.assert_allclose(answer(graph, **inputs)[0], next(iter(expected.values())), atol=2e-5)  # float32 sums of some tens of terms


def test_a_convolution_keeps_the_name_of_its_layer(keras, liven) -> None:
    inputs = keras.Input((8, 8, 3), name="x")
    x = inputs
    for name in ("first", "second"):
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 3, use_bias=False, name=name)(x))
    model = keras.Model(inputs, keras.layers.ReLU()(x))
    liven(keras, model)
    names = [node.output[0] for node in base_of(KerasSource.open(model)).graph.node if node.op_type == "Conv"]
    assert [next(layer for layer in ("first", "second") if layer in name) for name in names] == ["first", "second"], names


def test_a_layer_that_is_used_twice_keeps_its_weights(keras, liven) -> None:
    inputs = keras.Input((8, 8, 3), name="x")
    shared = keras.layers.Conv2D(3, 3, padding="same")
    first = keras.layers.BatchNormalization()(shared(inputs))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(shared(first)))
    liven(keras, model)
    source = KerasSource.open(model)
    given = {"x": noise(1, 8, 8, 3)}
    graph = base_of(source)
    np.testing.assert_allclose(answer(graph, **given)[0], next(iter(source.predict(given).values())), atol=2e-5)


@pytest.mark.parametrize(
    ("nodes", "constants", "outputs"),
    [
        pytest.param(
            [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "c"], ["y"]), node("Relu", ["h"], ["z"])],
            {"w": noise(4, 5), "c": noise(5)},
            {"y": [2, 5], "z": [2, 5]},
            id="read twice",
        ),
        pytest.param(
            [node("MatMul", ["x", "w"], ["y"]), node("Mul", ["y", "c"], ["z"])],
            {"w": noise(4, 5), "c": noise(5)},
            {"y": [2, 5], "z": [2, 5]},
            id="an output itself",
        ),
        pytest.param(
            [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "c"], ["y"])],
            {"w": noise(4, 5), "c": noise(2, 5)},
            {"y": [2, 5]},
            id="a number a row",
        ),
        pytest.param(
            [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "c"], ["y"])],
            {"w": noise(4, 1), "c": noise(5)},
            {"y": [2, 5]},
            id="grows by broadcasting",
        ),
        pytest.param(
            [node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5), node("Mul", ["c", "h"], ["y"])],
            {"w": noise(4, 5), "b": noise(5), "c": noise(5)},
            {"y": [2, 5]},
            id="alpha",
        ),
    ],
)
def test_what_cannot_be_folded_is_left_as_it_is(nodes, constants, outputs) -> None:
    model = make(nodes, constants, [2, 4], outputs)
    optimized = optimize(model)
    assert sorted(kinds(optimized)) == sorted(kinds(model))
    given = noise(2, 4)
    for found, expected in zip(answer(optimized, x=given), answer(model, x=given), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_transposed_gemm_and_a_constant_on_the_left_are_folded() -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Mul", ["c", "h"], ["i"]), node("Add", ["d", "i"], ["y"])]
    model = make(nodes, {"w": noise(5, 4), "b": noise(5), "c": noise(5), "d": noise(1)}, [2, 4], {"y": [2, 5]})
    optimized = optimize(model)
    assert kinds(optimized) == ["Gemm"]
    given = noise(2, 4)
    np.testing.assert_allclose(answer(optimized, x=given)[0], answer(model, x=given)[0], atol=1e-5)


def test_erfc_is_one_minus_erf() -> None:
    model = replace_erfc(make([node("Erfc", ["x"], ["y"])], {}, [1, 3], {"y": [1, 3]}))
    found = answer(model, x=np.float32([[-1, 0, 0.5]]))[0]
    np.testing.assert_allclose(found, [[1.8427008, 1.0, 0.4795001]], atol=1e-6)  # Abramowitz and Stegun, table 7.1


def test_the_canonical_form_forgets_order_and_numbering() -> None:
    def build(numbers: list[int], turn: bool) -> onnx.ModelProto:
        a, b, c = (f"scope/op__{number}:0" for number in numbers)
        nodes = [
            node("Relu", ["x"], [a]),
            node("Neg", ["x"], [b]),
            node("Add", [a, b], [c]),
            node("Abs", [c], ["y"]),
            node("Exp", ["x"], ["dead"]),
        ]
        order = [1, 0, 2, 4, 3] if turn else [4, 0, 1, 2, 3]
        return make([nodes[position] for position in order], {"unused": noise(1)}, [1, 3], {"y": [1, 3]})

    one, other = canonicalize(build([1, 2, 3], False)), canonicalize(build([30, 7, 12], True))
    assert one.SerializeToString() == other.SerializeToString()
    assert kinds(one) == ["Relu", "Neg", "Add", "Abs"]
    assert len(one.graph.initializer) == 0


def test_the_canonical_form_keeps_subgraphs_and_what_they_read() -> None:
    shape = [1, 3]
    outer = node("Relu", ["x"], ["outer__9:0"])
    branches = []
    for op in ("Exp", "Neg"):
        inner = onnx.helper.make_graph(
            [node(op, ["outer__9:0"], ["r__1:0"])], op, [], [onnx.helper.make_tensor_value_info("r__1:0", 1, shape)]
        )
        branches.append(inner)
    choose = node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    model = make([outer, choose], {"flag": np.array(True)}, shape, {"y": shape})
    given = noise(*shape)
    np.testing.assert_array_equal(answer(canonicalize(model), x=given)[0], answer(model, x=given)[0])
