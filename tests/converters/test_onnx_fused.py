"""GELU and layer normalization in the order that engines know: the same numbers, and one operator in onnxruntime."""

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lepton_converters import export
from lepton_converters.onnx_optimize import optimize_eight_bit, optimize_float
from lepton_runtime import Bundle, Target
from tests.converters.onnx_models import answer, kinds, make, node, noise

rewritten = functools.partial(optimize_float, target=Target.ANY)
ROOT = np.float32(np.sqrt(0.5))
NUMBERS = {"half": np.float32(0.5), "one": np.float32(1), "root": ROOT, "back": -ROOT, "over": np.float32(np.sqrt(2)), "two": np.float32(2)}

WITH_ERFC = [
    node("Neg", ["x"], ["negative"]),
    node("Mul", ["negative", "root"], ["scaled"]),
    node("Erf", ["scaled"], ["erf"]),
    node("Sub", ["one", "erf"], ["share"]),
    node("Mul", ["x", "half"], ["halved"]),
    node("Mul", ["halved", "share"], ["y"]),
]
GELUS = {
    "erfc": WITH_ERFC,
    "merged": [
        node("Mul", ["back", "x"], ["scaled"]),
        node("Erf", ["scaled"], ["erf"]),
        node("Sub", ["one", "erf"], ["share"]),
        node("Mul", ["half", "x"], ["halved"]),
        node("Mul", ["share", "halved"], ["y"]),
    ],
    "half last": [
        node("Mul", ["x", "root"], ["scaled"]),
        node("Erf", ["scaled"], ["erf"]),
        node("Add", ["one", "erf"], ["share"]),
        node("Mul", ["x", "share"], ["doubled"]),
        node("Mul", ["half", "doubled"], ["y"]),
    ],
    "half of the share": [
        node("Div", ["x", "over"], ["scaled"]),
        node("Erf", ["scaled"], ["erf"]),
        node("Add", ["erf", "one"], ["share"]),
        node("Mul", ["share", "half"], ["halved"]),
        node("Mul", ["x", "halved"], ["y"]),
    ],
}


def network(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int]) -> onnx.ModelProto:
    taken = {name for one in nodes for name in one.input}
    return make(nodes, {name: value for name, value in constants.items() if name in taken}, shape, {"y": [None] * len(shape)})


def fused(model: onnx.ModelProto, tmp_path: Path) -> list[str]:
    """The operators that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return kinds(onnx.load(tmp_path / "optimized.onnx"))


@pytest.mark.parametrize("kind", GELUS)
def test_a_gelu_is_one_operator(kind: str, tmp_path: Path) -> None:
    model = network(GELUS[kind], NUMBERS, [4, 50])
    made = rewritten(model)
    onnx.checker.check_model(made)
    assert fused(made, tmp_path) == ["Gelu"]
    x = 3 * noise(4, 50)
    np.testing.assert_allclose(answer(made, x=x)[0], answer(model, x=x)[0], atol=2e-6)
    assert kinds(rewritten(made)) == kinds(made)


@pytest.mark.parametrize(
    "change",
    [
        {"half": np.float32(0.6)},
        {"root": np.float32(0.7)},
        {"one": np.float32(2)},
        {"root": -ROOT},  # x / 2 * erfc(x / sqrt(2)) falls where GELU rises
        {"half": np.float32([0.5, 0.5])},
    ],
    ids=str,
)
def test_what_is_no_gelu_stays(change: dict[str, np.ndarray]) -> None:
    model = network(WITH_ERFC, NUMBERS | change, [4, 2])
    assert kinds(rewritten(model)) == kinds(model)


def test_the_share_of_another_value_is_no_gelu() -> None:
    other = [node("Abs", ["x"], ["other"]), *WITH_ERFC[:-2], node("Mul", ["other", "half"], ["halved"]), WITH_ERFC[-1]]
    model = network(other, NUMBERS, [4, 2])
    assert kinds(rewritten(model)) == kinds(model)


def test_what_others_read_of_a_gelu_stays() -> None:
    model = network([*WITH_ERFC[:-1], node("Mul", ["halved", "share"], ["z"]), node("Add", ["z", "erf"], ["y"])], NUMBERS, [4, 5])
    x = noise(4, 5)
    np.testing.assert_allclose(answer(rewritten(model), x=x)[0], answer(model, x=x)[0], atol=2e-6)


def normalization(*, axis: int = -1, scale: bool = True, center: bool = True, pooled: bool = False) -> list[onnx.NodeProto]:
    """As tf2onnx leaves that of Keras."""

    def mean(given: str, made: str) -> onnx.NodeProto:
        return node("GlobalAveragePool", [given], [made]) if pooled else node("ReduceMean", [given], [made], axes=[axis], keepdims=1)

    return [
        mean("x", "mean"),
        node("Sub", ["x", "mean"], ["apart"]),
        node("Mul", ["apart", "apart"], ["square"]),
        mean("square", "variance"),
        node("Add", ["variance", "epsilon"], ["total"]),
        node("Sqrt", ["total"], ["deviation"]),
        node("Reciprocal", ["deviation"], ["inverse"]),
        *([node("Mul", ["inverse", "scale"], ["factor"])] if scale else [node("Identity", ["inverse"], ["factor"])]),
        node("Neg", ["mean"], ["negative"]),
        node("Mul", ["negative", "factor"], ["moved"]),
        *([node("Add", ["moved", "offset"], ["shift"])] if center else [node("Identity", ["moved"], ["shift"])]),
        node("Mul", ["x", "factor"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["y"]),
    ]


def without_identities(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    names = {one.output[0]: one.input[0] for one in nodes if one.op_type == "Identity"}
    kept = [one for one in nodes if one.op_type != "Identity"]
    for one in kept:
        for place, name in enumerate(one.input):
            one.input[place] = names.get(name, name)
    return kept


def constants(*shape: int) -> dict[str, np.ndarray]:
    return {"epsilon": np.float32(1e-3), "scale": 1 + 0.3 * noise(*shape), "offset": noise(*shape)}


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("shape", "pooled"), [([3, 8], False), ([2, 5, 8], True), ([2, 3, 5, 8], False)])
def test_a_layer_normalization_is_one_operator(scale: bool, center: bool, shape: list[int], pooled: bool, tmp_path: Path) -> None:
    nodes = without_identities(normalization(scale=scale, center=center, pooled=pooled))
    model = network(nodes, constants(*[1] * (len(shape) - 1), 8), shape)
    made = rewritten(model)
    onnx.checker.check_model(made)
    assert fused(made, tmp_path) == ["LayerNormalization"]
    x = 5 + 3 * noise(*shape)
    np.testing.assert_allclose(answer(made, x=x)[0], answer(model, x=x)[0], atol=2e-5)


@pytest.mark.parametrize("kind", ["axis", "scales of rows", "free", "other mean", "epsilons"])
def test_what_is_no_layer_normalization_stays(kind: str) -> None:
    nodes, numbers, shape = normalization(axis=1 if kind == "axis" else -1), constants(1, 8 if kind != "scales of rows" else 1), [2, 4, 8]
    if kind == "scales of rows":
        numbers |= {"scale": noise(4, 1), "offset": noise(4, 1)}
    if kind == "epsilons":
        numbers["epsilon"] = np.full((1, 4, 1), 1e-3, np.float32)
    if kind == "other mean":
        nodes.insert(0, node("Abs", ["x"], ["other"]))
        nodes[1].input[0] = "other"
    if kind == "free":
        shape[-1] = None
    model = network(nodes, numbers, shape)
    assert kinds(rewritten(model)) == kinds(model)


def test_a_layer_normalization_of_a_late_opset_is_one_operator(tmp_path: Path) -> None:
    nodes = normalization()
    for one in nodes:
        if one.op_type == "ReduceMean":
            del one.attribute[:1]
            one.input.append("axes")
    model = network(nodes, constants(1, 1, 8) | {"axes": np.array([-1])}, [2, 4, 8])
    model.opset_import[0].version, model.ir_version = 18, 8
    made = rewritten(model)
    onnx.checker.check_model(made)
    assert fused(made, tmp_path) == ["LayerNormalization"]
    x = noise(2, 4, 8)
    np.testing.assert_allclose(answer(made, x=x)[0], answer(model, x=x)[0], atol=2e-5)


def test_they_are_one_operator_between_8_bit_values_too(tmp_path: Path) -> None:
    numbers = {"s": np.float32(0.04), "z": np.uint8(120)}
    pairs = [node("QuantizeLinear", ["given", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["x"])]
    gelu = [onnx.NodeProto.FromString(one.SerializeToString()) for one in WITH_ERFC]
    for one in gelu:
        one.input[:] = ["normal" if name == "x" else name if name in NUMBERS else f"gelu/{name}" for name in one.input]
        one.output[:] = ["y" if name == "y" else f"gelu/{name}" for name in one.output]
    nodes = normalization()
    nodes[-1].output[0] = "normal"
    model = network([*pairs, *nodes, *gelu], numbers | NUMBERS | constants(1, 1, 8), [2, 4, 8])
    model.graph.input[0].name = "given"
    made = optimize_eight_bit(model, target=Target.ANY)
    onnx.checker.check_model(made)
    assert [kind for kind in fused(made, tmp_path) if kind not in ("Sum", "QuantizeLinear", "DequantizeLinear")] == [
        "LayerNormalization",
        "Gelu",
    ]
    x = noise(2, 4, 8)
    np.testing.assert_allclose(answer(made, given=x)[0], answer(model, given=x)[0], atol=2e-5)


@pytest.mark.parametrize("shape", [(16,), (7, 16), (3, 4, 16)])
@pytest.mark.parametrize("settings", [{}, {"center": False, "scale": False}], ids=str)
def test_those_of_keras_are_one_operator(keras, shape: tuple[int, ...], settings: dict[str, bool], tmp_path: Path) -> None:
    layers = keras.layers
    given = keras.Input(shape, name="given")
    model = keras.Model(given, layers.Dense(3)(layers.Activation("gelu")(layers.LayerNormalization(**settings)(given))))
    export(model, tmp_path / "b", formats=["onnx"], precisions=["fp32"])
    bundle = Bundle.open(tmp_path / "b")
    made = onnx.load_from_string(bundle.read(bundle.artifact("model.fp32.onnx")))
    assert {"LayerNormalization", "Gelu"} <= set(fused(made, tmp_path))


@pytest.mark.parametrize("name", ["half", "one", "root"])
def test_a_gelu_with_more_axes_than_its_value_stays(name: str) -> None:
    model = network(WITH_ERFC, NUMBERS | {name: NUMBERS[name].reshape(1, 1, 1)}, [4, 5])
    model.graph.output[0].type.tensor_type.shape.dim.add()
    assert kinds(rewritten(model)) == kinds(model)


@pytest.mark.parametrize("name", ["scale", "offset", "epsilon"])
def test_a_layer_normalization_with_more_axes_than_its_value_stays(name: str) -> None:
    numbers = constants(1, 8)
    numbers[name] = numbers[name].reshape(1, 1, -1)
    model = network(normalization(), numbers, [4, 8])
    model.graph.output[0].type.tensor_type.shape.dim.add()
    assert kinds(rewritten(model)) == kinds(model)


def test_a_default_that_may_be_given_is_no_constant() -> None:
    model = network(WITH_ERFC, NUMBERS, [4, 5])
    model.graph.input.append(onnx.helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT, []))
    assert kinds(rewritten(model)) == kinds(model)


def test_8_bit_values_that_branches_share_stay() -> None:
    made = onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [2, 4])
    branches = [onnx.helper.make_graph([node(kind, ["real"], ["h"])], "g", [], [made]) for kind in ("Tanh", "Sigmoid")]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["real"]),
        node("If", ["is_so"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    model = network(nodes, {"s": np.float32(0.04), "z": np.uint8(120), "is_so": np.array(True)}, [2, 4])
    assert kinds(optimize_eight_bit(model, target=Target.ANY)) == kinds(model)
