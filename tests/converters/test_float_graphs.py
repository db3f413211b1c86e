"""The blocks of float networks of both formats, and the files that are made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lepton_converters.artifact import Artifact
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_runtime import Format, Target
from lepton_runtime.tensors import TensorSpec
from tests.converters.float_graphs import Network, float_network

BOTH = pytest.mark.parametrize("format_", list(Format))


@pytest.fixture(scope="module")
def network(keras, liven) -> dict[Format, Network]:
    """A little of everything: convolution with normalization, a residual sum, swish, squeeze and excitation, concatenation."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    stem = layers.ReLU(name="first_relu")(layers.BatchNormalization(name="first_bn")(x))
    x = layers.Conv2D(8, 3, padding="same", name="second")(stem)
    residual = layers.ReLU(name="residual_relu")(layers.Add(name="residual")([stem, layers.BatchNormalization(name="second_bn")(x)]))
    swish = layers.Activation("swish", name="swish")(layers.Conv2D(8, 1, name="third")(residual))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(swish)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(layers.Conv2D(2, 1, activation="relu", name="reduce")(squeezed))
    excited = layers.Multiply(name="excited")([swish, gate])
    both = layers.Concatenate(name="both")([excited, residual])
    x = layers.Conv2D(6, 1, activation="relu", name="fourth")(both)
    scores = layers.Dense(4, activation="softmax", name="scores")(layers.Flatten(name="flat")(x))
    model = keras.Model(image, scores)
    liven(keras, model)
    return {format_: float_network(model, format_) for format_ in Format}


@pytest.fixture(scope="module")
def normalized(keras, liven) -> dict[Format, Network]:
    """Dense layers around a LayerNormalization."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    rows = keras.Input((6, 8), name="rows")
    x = layers.LayerNormalization(name="norm")(layers.Dense(8, name="before")(rows))
    model = keras.Model(rows, layers.Dense(4, name="after")(x))
    liven(keras, model)
    return {format_: float_network(model, format_) for format_ in Format}


def kinds(network: Network) -> list[str]:
    return sorted(operator.kind for operator in network.operators)


def onnx_kinds(artifact: Artifact) -> dict[str, list[str]]:
    """For each kind of node, what the inputs of its nodes were made by."""
    graph = onnx.load_from_string(artifact.model).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    found: dict[str, list[str]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, []).append(makers.get(node.input[0], "given"))
    return found


def tflite_dtypes(artifact: Artifact) -> list[tuple[str, Any]]:
    """Each operator, and the number type of what it gives."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=artifact.model, num_threads=1)
    details = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    return [(operator["op_name"], details[int(operator["outputs"][0])]) for operator in operators if operator["op_name"] != "DELEGATE"]


@BOTH
def test_every_layer_with_weights_is_in_a_block(network, format_: Format) -> None:
    weighted = [operator for operator in network[format_].operators if operator.weight]
    assert len(weighted) == 7
    assert all(operator.products > 0 for operator in weighted)


@BOTH
def test_a_normalization_and_a_relu_are_one_block_with_their_convolution(network, format_: Format) -> None:
    first = network[format_].operators[0]
    assert first.activation == "relu"
    assert first.bias is not None
    graph = network[format_].graph
    values = next(graph.values(network[format_].calibration.batches(), [first.output]))[first.output]
    assert values.min() == 0


@BOTH
def test_blocks_have_the_names_of_their_layers(keras, liven, format_: Format) -> None:
    """Also where one is called like another, but for a number, and where one is called twice."""
    layers = keras.layers
    rows = keras.Input((4, 6), name="rows")
    shared = layers.Dense(6, name="dense_1")
    inner = keras.Sequential([keras.Input((4, 6)), layers.Dense(6, name="dense"), layers.Dense(6, name="dense_2")], name="inner")
    model = keras.Model(rows, layers.Dense(3, name="dense")(shared(inner(shared(rows)))), name="net")
    liven(keras, model)
    assert [block.name for block in float_network(model, format_).graph.blocks] == ["dense_1", "inner/dense", "inner/dense_2", "dense"]


@BOTH
def test_products_are_those_of_the_layers(network, format_: Format) -> None:
    products = sorted(operator.products for operator in network[format_].operators if operator.weight)
    assert products == sorted([64 * 27 * 8, 64 * 72 * 8, 64 * 8 * 8, 8 * 2, 2 * 8, 64 * 16 * 6, 384 * 4])


@BOTH
def test_sums_products_and_concatenations_are_blocks(network, format_: Format) -> None:
    assert {"Add", "Mul", "Concat"} <= set(kinds(network[format_]))


def test_a_swish_is_computed_in_float_from_8_bits_in_the_onnx_file(network) -> None:
    """TFLite's kernels round the sigmoid to 8 bits anyway; here the product goes on with what is not rounded."""
    assert kinds(network[Format.ONNX]).count("Mul") == 1  # of the excitation
    assert onnx_kinds(network[Format.ONNX].quantized())["Sigmoid"] == ["Sum", "DequantizeLinear"]  # shared with the product; of the gate


@BOTH
def test_the_inside_of_a_layer_normalization_stays_float(normalized, format_: Format) -> None:
    weighted = [operator for operator in normalized[format_].operators if operator.weight]
    assert len(weighted) == 2
    assert not any("norm" in operator.output for operator in normalized[format_].operators)


@BOTH
def test_all_blocks_in_float_give_the_answers_of_keras(network, format_: Format) -> None:
    found = network[format_].answers(network[format_].quantized(*network[format_].names))
    for name, expected in network[format_].expected().items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@BOTH
def test_no_block_in_float_gives_answers_near_keras(network, format_: Format) -> None:
    found = network[format_].answers(network[format_].quantized())
    for name, expected in network[format_].expected().items():
        assert not np.allclose(found[name], expected, atol=1e-6)  # it does compute in 8 bits
        np.testing.assert_allclose(found[name], expected, atol=0.15)


def test_blocks_in_float_compute_in_float_in_the_onnx_file(network) -> None:
    made = network[Format.ONNX]
    first = made.graph.blocks[0]
    convolutions = onnx_kinds(made.quantized())["Conv"]
    assert convolutions == ["DequantizeLinear"] * 6
    assert onnx_kinds(made.quantized(first.name))["Conv"] == ["Transpose", *["DequantizeLinear"] * 5]
    assert onnx_kinds(made.quantized(made.graph.blocks[1].name))["Conv"].count("Sum") == 1
    assert "QuantizeLinear" not in onnx_kinds(made.quantized(*made.names))


def test_onnxruntime_does_not_quantize_a_block_in_float_by_itself(network, tmp_path: Path) -> None:
    import onnxruntime

    made = network[Format.ONNX]
    block = next(block for block in made.graph.blocks[1:] if block.operators[0].kind == "Conv")  # 8 bits before and behind
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(made.quantized(block.name).model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 5
    assert kinds.count("Conv") + kinds.count("FusedConv") == 1


def test_blocks_in_float_compute_in_float_in_the_tflite_file(network) -> None:
    made = network[Format.TFLITE]
    first = made.graph.blocks[0]

    def convolutions(artifact: Artifact) -> list[Any]:
        return [dtype for name, dtype in tflite_dtypes(artifact) if name == "CONV_2D"]

    assert convolutions(made.quantized()) == [np.int8] * 6
    assert convolutions(made.quantized(first.name)) == [np.float32, *[np.int8] * 5]
    assert {dtype for _, dtype in tflite_dtypes(made.quantized(*made.names))} == {np.float32}


def test_given_ranges_are_those_of_the_onnx_file(network) -> None:
    made = network[Format.ONNX]
    operator = next(operator for operator in made.operators if operator.kind == "Concat")
    ranges = {**made.ranges(), operator.output: (-3.0, 5.5)}
    graph = onnx.load_from_string(made.quantized(ranges=ranges).model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {float(constants[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    assert any(np.isclose(scale, 8.5 / 255, rtol=1e-6) for scale in scales)


def test_what_is_rounded_and_by_whose_range_is_as_in_the_onnx_file(keras, liven) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="first")(image)
    x = layers.Concatenate(name="both")([layers.AveragePooling2D(2, name="mean")(x), layers.MaxPooling2D(2, name="most")(x)])
    model = keras.Model(image, layers.Dense(4, name="scores")(layers.Flatten(name="flat")(x)))
    liven(keras, model)
    made = float_network(model, Format.ONNX)
    rounded = made.graph.rounded
    assert {name for name, source in rounded.items() if name != source} == {name for name in rounded if "Pool" in name or "flat" in name}
    assert set(made.graph.tensors) - set(rounded) == {made.operators[-1].output}
    lengths = {high - low for name, (low, high) in made.ranges().items() if name in rounded.values()}
    graph = onnx.load_from_string(made.quantized().model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {float(constants[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    np.testing.assert_allclose(sorted(scales), [length / 255 for length in sorted(lengths)], rtol=1e-6)


def test_given_ranges_are_those_of_the_tflite_file(network) -> None:
    from ai_edge_litert.interpreter import Interpreter

    made = network[Format.TFLITE]
    operator = next(operator for operator in made.operators if operator.kind == "Concat")
    ranges = {**made.ranges(), operator.output: (-3.0, 5.5), **dict.fromkeys(operator.inputs, (-3.0, 5.5))}
    details = Interpreter(model_content=made.quantized(ranges=ranges).model).get_tensor_details()
    (found,) = (detail for detail in details if detail["name"] == operator.output)
    assert found["quantization"][0] == pytest.approx(8.5 / 255, rel=1e-5)


@pytest.mark.parametrize(("target", "largest", "dtype"), [("any", 64, np.uint8), ("x86-avx2", 64, np.uint8), ("x86-vnni", 127, np.uint8)])
def test_weights_of_an_onnx_file_reach_as_far_as_the_target_allows(network, target: str, largest: int, dtype: type) -> None:
    graph = onnx.load_from_string(network[Format.ONNX].quantized(target=Target(target)).model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [values for values in constants.values() if values.dtype == np.int8 and values.ndim > 1]
    assert len(weights) == 7
    assert all(np.abs(values.astype(int)).max() == largest for values in weights)
    zeros = {constants[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {np.dtype(dtype)}


def test_activations_are_signed_for_arm_with_dot_products(network) -> None:
    graph = onnx.load_from_string(network[Format.ONNX].quantized(target=Target.ARM_DOTPROD).model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {constants[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"} == {np.dtype(np.int8)}


@BOTH
@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_integers_at_the_doors_do_not_need_a_block(network, format_: Format, io: str) -> None:
    artifact = network[format_].quantized(io=io)
    assert [spec.dtype for spec in (*artifact.inputs, *artifact.outputs)] == [io, io]
    found = network[format_].answers(artifact)
    for name, expected in network[format_].expected().items():
        np.testing.assert_allclose(found[name], expected, atol=0.15)


MOVING = ("padded", "swish", "pooled", "split", "resized", "minus one", "output", "gates")


def moving(keras, liven, kind: str) -> Network:
    """Values that a Pad or a Split moves before any operator takes them, or for no operator at all."""
    layers, ops = keras.layers, keras.ops
    given = keras.Input((6, 6, 4), name="image")
    others = []
    if kind == "split":
        small, large = ops.split(given * np.float32([1, 1, 100, 100]), 2, 3)
        x = layers.Concatenate()([layers.Conv2D(4, 1, name="small")(small), layers.Conv2D(4, 1, name="large")(large) / 100])
    elif kind == "gates":
        low, high = ops.split(layers.Add()([layers.Conv2D(8, 1, name="one")(given), layers.Conv2D(8, 1, name="two")(given)]), 2, 3)
        x = ops.tanh(low) + ops.sigmoid(high)
    elif kind == "minus one":
        x = ops.tanh(ops.pad(layers.Conv2D(4, 1, name="first")(given), ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=-1.0))
    else:
        x = given if kind == "padded" else layers.Conv2D(4, 1, activation="swish", name="first")(given)
        others = [x] if kind == "output" else []
        x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (2, 0)))  # along the channels, which no convolution can take in
        x = {"pooled": layers.MaxPooling2D(2), "resized": layers.Resizing(5, 5)}.get(kind, lambda x: x)(x)
        x = layers.Conv2D(4, 2, name="behind")(x)
    scores = layers.Dense(4, activation="softmax", name="scores")(layers.Flatten()(x))
    model = keras.Model(given, [scores, *others])
    liven(keras, model)
    return float_network(model, Format.ONNX)


@pytest.mark.parametrize("kind", MOVING)
def test_what_is_moved_is_in_8_bits_where_operators_take_it_as_it_is(keras, liven, kind: str) -> None:
    network = moving(keras, liven, kind)
    artifact = network.quantized()
    found = onnx_kinds(artifact)
    makers = {maker for mover in ("Pad", "Split") for maker in found.get(mover, [])}
    assert makers
    assert (makers == {"DequantizeLinear"}) == (kind not in ("split", "resized", "output"))
    answers = network.answers(artifact)
    for name, expected in network.expected().items():
        assert np.abs(answers[name] - expected).max() < 0.05 * np.abs(expected).max(), name  # 7-bit weights


@pytest.mark.parametrize("kind", ["padded", "swish", "pooled"])
def test_what_is_moved_has_the_range_of_what_takes_it(keras, liven, kind: str) -> None:
    network = moving(keras, liven, kind)
    graph = onnx.load_from_string(network.quantized().model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers, readers = ({name: node for node in graph.node for name in ends(node)} for ends in (lambda n: n.output, lambda n: n.input))
    (pad,) = (node for node in graph.node if node.op_type == "Pad")
    before, behind = makers[pad.input[0]], readers[pad.output[0]]
    assert (before.op_type, behind.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert constants[before.input[1]] == constants[behind.input[1]]


def test_integers_at_the_doors_pass_a_pad(keras, liven) -> None:
    network = moving(keras, liven, "padded")
    artifact = network.quantized(io="int8")
    assert artifact.inputs[0].dtype == "int8"
    np.testing.assert_allclose(network.answers(artifact)["scores"], network.expected()["scores"], atol=0.05)


@pytest.mark.parametrize("kind", MOVING)
def test_what_is_moved_for_float_operators_is_not_rounded(keras, liven, kind: str) -> None:
    network = moving(keras, liven, kind)
    artifact = network.quantized(*network.names - {network.block("scores").name})
    found = onnx_kinds(artifact)
    assert {"Pad", "Split"} & found.keys()
    assert "DequantizeLinear" not in found.get("Pad", []) + found.get("Split", [])
    assert not {"Pad", "Split"} & set(found["QuantizeLinear"])


@BOTH
def test_other_weights_are_another_network_and_leave_the_first_as_it_was(network, format_: Format) -> None:
    made = network[format_]
    operator = next(operator for operator in made.operators if operator.weight)
    before, digest = made.graph.constant(operator.weight).copy(), made.graph.digest
    other = made.graph.with_constants({operator.weight: before * 2})
    assert np.array_equal(other.constant(operator.weight), before * 2)
    assert np.array_equal(made.graph.constant(operator.weight), before)
    assert made.graph.digest == digest != other.digest


@BOTH
def test_a_tensor_with_one_reader_is_told_from_one_with_two(network, format_: Format) -> None:
    made = network[format_]
    first = made.operators[0]
    assert made.graph.reader_count(first.output) == 2  # the convolution behind it, and the sum
    assert made.graph.reader_count("image") == 1


@pytest.mark.parametrize(
    ("cut", "activation"),
    [
        ("zero, six", "relu6"),
        ("zero", "relu6"),
        ("below, six", "other"),
        ("above, six", "other"),
        (", six", "other"),
        ("row, six", "other"),
    ],
)
def test_only_a_cut_at_0_lets_factors_through(cut: str, activation: str) -> None:
    constants = "float zero = {0}, float six = {6}, float below = {-1}, float above = {1}"
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 1] rows, float row) => (float[n, 1] out) <float[1, 1] weight = {{2}}, {constants}> {{
            made = MatMul(rows, weight)
            out = Clip(made, {cut})
        }}"""
    )
    graph = OnnxFloatGraph(model, inputs=(TensorSpec("rows", (None, 1), "float32"),), outputs=(), route="")
    assert [operator.activation for operator in graph.blocks[0].operators] == [activation]


@pytest.mark.parametrize("target", [Target.ANY, Target.X86_VNNI, Target.ARM_V8])
def test_the_first_convolution_of_an_onnx_file_takes_blocks_of_pixels(keras, liven, target: Target) -> None:
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, keras.layers.ReLU()(keras.layers.Conv2D(4, 3, padding="same")(inputs)))
    liven(keras, model)
    made = float_network(model, Format.ONNX)
    artifact = made.quantized(target=target)
    weights = [tensor.dims for tensor in onnx.load_from_string(artifact.model).graph.initializer if len(tensor.dims) == 4]
    assert [dims[1] for dims in weights] == [3 if target == Target.ARM_V8 else 12]
    expected, found = (next(iter(answers.values())) for answers in (made.expected(), made.answers(artifact)))
    np.testing.assert_allclose(found, expected, atol=0.1)  # 7-bit weights: some steps of values to about 4
