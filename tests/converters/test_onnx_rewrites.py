"""Each rewrite gives the same numbers, and leaves alone what it would change."""

import functools

import numpy as np
import onnx
import pytest

from lepton_converters.onnx_optimize import optimize, optimize_eight_bit, optimize_float, with_wide_offsets
from lepton_runtime import Target
from tests.converters.onnx_models import answer, kinds, make, node, noise

for_x86 = functools.partial(optimize_float, target=Target.X86_VNNI)
for_x86_eight_bit = functools.partial(optimize_eight_bit, target=Target.X86_VNNI)
RGB_MEAN = np.float32([123.7, 116.3, 103.5])


def picture(
    *nodes: onnx.NodeProto, shape: list[int] | None = None, made: list[int] | None = None, **constants: np.ndarray
) -> onnx.ModelProto:
    """A model of pictures, channels last, with axes of its output that nobody needs to know."""
    return make(list(nodes), constants, shape or [1, 9, 9, 3], {"y": made or [None] * 4})


def check_same(model: onnx.ModelProto, optimized: onnx.ModelProto, given: np.ndarray, *, atol: float) -> None:
    np.testing.assert_allclose(answer(optimized, x=given)[0], answer(model, x=given)[0], rtol=0, atol=atol)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, shape).astype(np.float32)


def to_nchw(given: str, made: str) -> onnx.NodeProto:
    return node("Transpose", [given], [made], perm=[0, 3, 1, 2])


NORMALIZED = [
    node("Mul", ["x", "a"], ["scaled"]),
    node("Add", ["scaled", "b"], ["shifted"]),
    node("Mul", ["shifted", "c"], ["normal"]),
]
IMAGENET = {"a": np.float32(1 / 255), "b": -RGB_MEAN.reshape(1, 1, 1, 3) / 255, "c": 1 / np.float32([0.229, 0.224, 0.225])}


def test_of_normalization_one_sum_of_whole_rows_stays() -> None:
    nodes = [*NORMALIZED, to_nchw("normal", "t"), node("Conv", ["t", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])]
    model = picture(*nodes, w=noise(4, 3, 3, 3), **IMAGENET)
    optimized = with_wide_offsets(optimize(model))
    assert kinds(optimized) == ["Reshape", "Add", "Reshape", "Transpose", "Conv"]
    assert [27] in [list(values.dims) for values in optimized.graph.initializer]  # a number a value of a row
    check_same(model, optimized, pixels(1, 9, 9, 3), atol=5e-5)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_factors_of_channels_go_into_a_convolution_in_groups(groups: int) -> None:
    factors = np.random.default_rng(1).uniform(1, 1.9, (6, 1, 1)).astype(np.float32)
    nodes = [node("Mul", ["x", "a"], ["s"]), node("Conv", ["s", "w"], ["y"], group=groups, pads=[1, 1, 1, 1])]
    model = picture(*nodes, shape=[2, 6, 5, 5], a=factors, w=noise(12, 6 // groups, 3, 3))
    optimized = optimize(model)
    assert kinds(optimized) == ["Conv"]
    check_same(model, optimized, noise(2, 6, 5, 5), atol=2e-5)  # float32 sums of 54 terms


@pytest.mark.parametrize("factors", [np.float32([1, 100, 1]), np.float32([0, 1, 1]), np.float32([np.inf, 1, 1])], ids=str)
def test_channels_of_unlike_factors_stay_apart_for_8_bits_to_hold_them(factors: np.ndarray) -> None:
    model = picture(
        node("Mul", ["x", "a"], ["s"]), node("Conv", ["s", "w"], ["y"]), shape=[1, 3, 5, 5], a=factors.reshape(3, 1, 1), w=noise(4, 3, 3, 3)
    )
    assert kinds(optimize(model)) == ["Mul", "Conv"]


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 0.0), (1e6, 0.0), (1e-4, 100.0)])
def test_what_float16_would_not_hold_stays(factor: float, offset: float) -> None:
    nodes = [node("Mul", ["x", "a"], ["s"]), node("Add", ["s", "b"], ["t"]), node("Conv", ["t", "w"], ["y"])]
    model = picture(*nodes, shape=[1, 3, 5, 5], a=np.float32(factor), b=np.float32(offset), w=noise(4, 3, 3, 3))
    assert kinds(optimize(model)).count("Mul") == 1


def test_what_others_read_stays_in_front_of_a_convolution() -> None:
    nodes = [node("Mul", ["x", "a"], ["s"]), node("Conv", ["s", "w"], ["h"]), node("Concat", ["s", "h"], ["y"], axis=1)]
    model = picture(*nodes, shape=[1, 3, 5, 5], a=np.float32(2), w=noise(4, 3, 1, 1))
    assert kinds(optimize(model)) == ["Mul", "Conv", "Concat"]


def test_a_convolution_pads_by_itself() -> None:
    pads = {"p": np.int64([0, 0, 0, 1, 0, 0, 1, 2]), "zero": np.float32(0)}
    nodes = [node("Pad", ["x", "p", "zero"], ["h"]), node("Conv", ["h", "w"], ["y"], pads=[1, 0, 0, 0], strides=[2, 2])]
    model = picture(*nodes, shape=[1, 3, 8, 8], w=noise(4, 3, 3, 3), **pads)
    optimized = optimize(model)
    assert kinds(optimized) == ["Conv"]
    check_same(model, optimized, noise(1, 3, 8, 8), atol=1e-6)


def test_a_max_pool_pads_by_itself_what_is_never_negative() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Pad", ["r", "p"], ["h"]), node("MaxPool", ["h"], ["y"], kernel_shape=[3, 3], strides=[2, 2])]
    model = picture(*nodes, shape=[1, 3, 8, 8], p=np.int64([0, 0, 1, 1, 0, 0, 1, 1]))
    optimized = optimize(model)
    assert kinds(optimized) == ["Relu", "MaxPool"]
    check_same(model, optimized, noise(1, 3, 8, 8), atol=0)


@pytest.mark.parametrize(
    ("pads", "value", "nodes"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0, [node("MaxPool", ["h"], ["y"], kernel_shape=[3, 3])]),  # of negative values
        ([0, 0, 1, 1, 0, 0, 1, 1], 1, [node("Conv", ["h", "w"], ["y"])]),
        ([0, 1, 0, 0, 0, 0, 0, 0], 0, [node("Conv", ["h", "v"], ["y"])]),
        ([0, 0, -1, 0, 0, 0, 0, 0], 0, [node("Conv", ["h", "w"], ["y"])]),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0, [node("Conv", ["h", "w"], ["y"], auto_pad="SAME_UPPER")]),
    ],
)
def test_other_paddings_stay(pads: list[int], value: int, nodes: list[onnx.NodeProto]) -> None:
    constants = {"p": np.int64(pads), "value": np.float32(value), "w": noise(4, 3, 3, 3), "v": noise(4, 4, 3, 3)}
    model = picture(node("Pad", ["x", "p", "value"], ["h"]), *nodes, shape=[1, 3, 8, 8], **constants)
    assert kinds(optimize(model)) == kinds(model)


@pytest.mark.parametrize("batch", [1, None])
def test_a_chain_of_reshapes_that_comes_back_disappears(batch: int | None) -> None:
    nodes = [
        node("GlobalAveragePool", ["x"], ["m"]),
        node("Squeeze", ["m", "axes"], ["s"]),
        node("Reshape", ["s", "back"], ["r"]),
        node("Conv", ["r", "w"], ["y"]),
    ]
    constants = {"axes": np.int64([2, 3]), "back": np.int64([-1, 3, 1, 1]), "w": noise(4, 3, 1, 1)}
    model = picture(*nodes, shape=[batch, 3, 8, 8], **constants)
    optimized = optimize(model)
    assert kinds(optimized) == ["GlobalAveragePool", "Conv"]
    check_same(model, optimized, noise(2 if batch is None else 1, 3, 8, 8), atol=0)


def test_a_reshape_that_moves_values_to_another_axis_stays() -> None:
    model = picture(node("Reshape", ["x", "to"], ["y"]), shape=[2, 3, 4, 5], made=[3, 2, 4, 5], to=np.int64([3, 2, 4, 5]))
    assert kinds(optimize(model)) == ["Reshape"]


@pytest.mark.parametrize("is_shifted", [True, False])
def test_a_hard_swish_is_its_input_times_a_hard_sigmoid(is_shifted: bool) -> None:
    sums = [node("Add", ["x", "three"], ["s"])] if is_shifted else []
    nodes = [
        *sums,
        node("Clip", ["s" if is_shifted else "x", "zero", "six"], ["c"]),
        node("Mul", ["c", "sixth"], ["g"]),
        node("Mul", ["x", "g"], ["y"]),
    ]
    constants = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}
    model = picture(*nodes, shape=[1, 3, 8, 8], **constants)
    optimized = optimize(model)
    assert kinds(optimized) == ["HardSigmoid", "Mul"]
    check_same(model, optimized, 4 * noise(1, 3, 8, 8), atol=3e-6)  # a sixth is no float32 number: 2e-8 of 6, times 12


@pytest.mark.parametrize(("low", "high", "factor"), [(0, 6, 0.2), (-1, 6, 1 / 6), (0, 3, 1 / 6)])
def test_other_cuts_are_no_hard_sigmoid(low: float, high: float, factor: float) -> None:
    constants = {"low": np.float32(low), "high": np.float32(high), "a": np.float32(factor)}
    model = picture(node("Clip", ["x", "low", "high"], ["c"]), node("Mul", ["c", "a"], ["y"]), **constants)
    assert kinds(optimize(model)) == ["Clip", "Mul"]


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_gate_is_repeated_over_its_picture(is_first: bool, batch: int | None) -> None:
    product = node("Mul", ["g", "x"] if is_first else ["x", "g"], ["y"])
    nodes = [node("GlobalAveragePool", ["x"], ["m"]), node("Conv", ["m", "w"], ["c"]), node("Sigmoid", ["c"], ["g"]), product]
    model = picture(*nodes, shape=[batch, 3, 8, 6], w=noise(3, 3, 1, 1))
    optimized = for_x86(model)
    assert kinds(optimized) == ["GlobalAveragePool", "Conv", "Sigmoid", "Resize", "Mul"]
    check_same(model, optimized, noise(3 if batch is None else 1, 3, 8, 6), atol=0)


@pytest.mark.parametrize("shape", [[1, 3, None, 6], [1, 3, 1, 1]])
def test_a_gate_of_a_free_or_a_single_size_stays(shape: list[int | None]) -> None:
    model = picture(node("GlobalAveragePool", ["x"], ["m"]), node("Mul", ["x", "m"], ["y"]), shape=shape)
    assert kinds(for_x86(model)) == ["GlobalAveragePool", "Mul"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"kernel_shape": [5, 4], "strides": [1, 3], "pads": [2, 1, 0, 3]},
    ],
)
@pytest.mark.parametrize("shape", [[1, 11, 13, 3], [2, 9, 8, 2], [None, 11, 13, 3], [1, None, 13, 4]])
def test_a_convolution_of_rows_is_the_same(attributes: dict[str, list[int]], shape: list[int | None]) -> None:
    model = picture(
        to_nchw("x", "t"),
        node("Conv", ["t", "w", "b"], ["y"], **attributes),
        shape=shape,
        w=noise(5, shape[3], *attributes["kernel_shape"]),
        b=noise(5),
    )
    optimized = for_x86(model)
    assert kinds(optimized) == ["Reshape", "Conv"]
    check_same(model, optimized, noise(*[2 if at == 0 and axis is None else axis or 12 for at, axis in enumerate(shape)]), atol=2e-5)


def test_a_normalized_picture_is_seen_as_rows_at_once() -> None:
    nodes = [*NORMALIZED, to_nchw("normal", "t"), node("Conv", ["t", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])]
    model = picture(*nodes, w=noise(4, 3, 3, 3), **IMAGENET)
    optimized = for_x86(optimize(model))
    assert kinds(optimized) == ["Reshape", "Add", "Reshape", "Conv"]
    check_same(model, optimized, pixels(1, 9, 9, 3), atol=5e-5)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [([1, 9, 9, 3], {"dilations": [1, 2]}), ([1, 9, 9, 8], {}), ([1, 9, None, 3], {}), ([1, 9, 9, 4], {"group": 2})],
)
def test_other_convolutions_see_their_picture_transposed(shape: list[int | None], attributes: dict[str, object]) -> None:
    channels = shape[3] // attributes.get("group", 1)
    model = picture(to_nchw("x", "t"), node("Conv", ["t", "w"], ["y"], **attributes), shape=shape, w=noise(4, channels, 3, 3))
    assert kinds(for_x86(model)) == ["Transpose", "Conv"]


def test_a_number_a_channel_meets_whole_rows() -> None:
    model = picture(node("Mul", ["x", "a"], ["y"]), shape=[2, 5, 7, 3], a=noise(3))
    optimized = with_wide_offsets(model)
    assert kinds(optimized) == ["Reshape", "Mul", "Reshape"]
    check_same(model, optimized, noise(2, 5, 7, 3), atol=0)


def test_a_rewrite_can_be_left_out() -> None:
    model = picture(node("Mul", ["x", "a"], ["y"]), shape=[2, 5, 7, 3], a=noise(3))
    assert kinds(with_wide_offsets(model, without=["wide-offset"])) == ["Mul"]


def eight_bit(*nodes: onnx.NodeProto, shape: list[int], **constants: np.ndarray) -> onnx.ModelProto:
    """A picture, channels last, in 8 bits, then these nodes, which take ``real`` and give ``made``, and its 8 bits."""
    doors = {"s": np.float32(0.02), "z": np.uint8(128), "s2": np.float32(0.1), "z2": np.uint8(120)}
    before = [to_nchw("x", "t"), node("QuantizeLinear", ["t", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["real"])]
    after = [node("QuantizeLinear", ["made", "s2", "z2"], ["q2"]), node("DequantizeLinear", ["q2", "s2", "z2"], ["y"])]
    return picture(*before, *nodes, *after, shape=shape, **doors, **constants)


def stored_weights(outputs: int, channels: int, height: int, width: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Weights and biases in 8 and 32 bits as ``w`` and ``b``."""
    generator = np.random.default_rng(outputs)
    scale = generator.uniform(0.001, 0.01, outputs).astype(np.float32)
    constants = {
        "wi": generator.integers(-127, 128, (outputs, channels, height, width)).astype(np.int8),
        "ws": scale,
        "wz": np.zeros(outputs, np.int8),
        "bi": generator.integers(-9999, 9999, outputs).astype(np.int32),
        "bs": scale * np.float32(0.02),
        "bz": np.zeros(outputs, np.int32),
    }
    return [node("DequantizeLinear", [f"{name}i", f"{name}s", f"{name}z"], [name], axis=0) for name in "wb"], constants


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ([1, 12, 12, 3], [3, 3], {"pads": [1, 1, 1, 1]}),
        ([1, 12, 12, 3], [3, 3], {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
        ([2, 16, 16, 3], [7, 7], {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        ([1, 9, 18, 2], [3, 3], {"pads": [1, 0, 1, 0], "strides": [1, 3]}),
        ([None, 8, 8, 4], [1, 5], {"pads": [0, 2, 0, 2]}),
        ([1, None, 8, 3], [2, 2], {"strides": [2, 2]}),
    ],
)
def test_a_convolution_of_blocks_gives_the_same_integers(shape, kernel, attributes) -> None:
    stored, constants = stored_weights(5, shape[3], *kernel)
    model = eight_bit(*stored, node("Conv", ["real", "w", "b"], ["made"], **attributes), shape=shape, **constants)
    optimized = for_x86_eight_bit(model)
    weights = [values.dims for values in optimized.graph.initializer if len(values.dims) == 4]
    assert max(dims[1] for dims in weights) >= 4 * shape[3]
    onnx.shape_inference.infer_shapes(optimized, check_type=True, strict_mode=True)
    check_same(model, optimized, noise(*[2 if at == 0 and axis is None else axis or 8 for at, axis in enumerate(shape)]), atol=0)


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ([1, 9, 9, 3], [3, 3], {"pads": [1, 1, 1, 1]}),  # 9 pixels are no blocks
        ([1, 12, 12, 3], [3, 3], {}),  # 10 results are none
        ([1, 12, 12, 8], [3, 3], {"pads": [1, 1, 1, 1]}),
        ([1, 12, 12, 4], [3, 3], {"pads": [1, 1, 1, 1], "group": 4}),
        ([1, 12, 12, 3], [3, 3], {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ],
)
def test_other_8_bit_convolutions_see_single_pixels(shape, kernel, attributes) -> None:
    channels = shape[3] // attributes.get("group", 1)
    stored, constants = stored_weights(4, channels, *kernel)
    model = eight_bit(*stored, node("Conv", ["real", "w", "b"], ["made"], **attributes), shape=shape, **constants)
    assert kinds(for_x86_eight_bit(model)) == kinds(model)


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_a_swish_shares_its_real_numbers(gate: str) -> None:
    model = eight_bit(node(gate, ["real"], ["g"]), node("Mul", ["real", "g"], ["made"]), shape=[1, 4, 4, 3])
    optimized = for_x86_eight_bit(model)
    assert kinds(optimized).count("Sum") == 1
    assert kinds(for_x86_eight_bit(optimized)) == kinds(optimized)
    check_same(model, optimized, noise(1, 4, 4, 3), atol=0)


def test_what_is_computed_in_8_bits_shares_nothing() -> None:
    stored, constants = stored_weights(3, 3, 1, 1)
    residual = [
        node("Conv", ["real", "w", "b"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        node("DequantizeLinear", ["cq", "s", "z"], ["cr"]),
        node("Add", ["real", "cr"], ["made"]),
    ]
    model = eight_bit(*stored, *residual, shape=[1, 5, 5, 3], **constants)
    assert kinds(for_x86_eight_bit(model)) == kinds(model)


def test_what_costs_a_target_more_than_it_saves_is_left_out() -> None:
    gate = picture(node("GlobalAveragePool", ["x"], ["m"]), node("Mul", ["x", "m"], ["y"]), shape=[1, 3, 8, 8])
    assert {target: "Resize" in kinds(optimize_float(gate, target=target)) for target in Target} == {
        target: str(target).startswith("x86") for target in Target
    }
    seen = picture(to_nchw("x", "t"), node("Conv", ["t", "w"], ["y"]), shape=[1, 9, 9, 3], w=noise(5, 3, 3, 3))
    assert {target: "Reshape" in kinds(optimize_float(seen, target=target)) for target in Target} == {
        target: str(target).startswith("x86") for target in Target
    }
    stored, constants = stored_weights(4, 3, 3, 3)
    conv = eight_bit(*stored, node("Conv", ["real", "w", "b"], ["made"], pads=[1] * 4), shape=[1, 8, 8, 3], **constants)
    assert {target: "Reshape" in kinds(optimize_eight_bit(conv, target=target)) for target in Target} == {
        target: target != Target.ARM_V8 for target in Target
    }


def test_scales_that_are_all_the_same_become_one() -> None:
    stored, constants = stored_weights(4, 3, 1, 1)
    same = constants | {"ws": np.full(4, 0.004, np.float32), "bs": np.full(4, 8e-5, np.float32)}
    model = eight_bit(*stored, node("Conv", ["real", "w", "b"], ["made"]), shape=[1, 5, 5, 3], **same)
    optimized = optimize_eight_bit(model, target=Target.X86_VNNI)
    scalars = [tensor.name for tensor in optimized.graph.initializer if tensor.name.startswith(("w/", "b/")) and not tensor.dims]
    assert sorted(scalars) == ["b/1", "b/2", "w/1", "w/2"]
    check_same(model, optimized, noise(1, 5, 5, 3), atol=0)


def test_an_output_of_the_network_keeps_its_name() -> None:
    nodes = [node("Relu", ["x"], ["first"]), node("Mul", ["first", "a"], ["s"]), node("Conv", ["s", "w"], ["y"])]
    model = make(nodes, {"a": np.float32(0.5), "w": noise(2, 3, 1, 1)}, [1, 3, 4, 4], {"first": [1, 3, 4, 4], "y": [1, 2, 4, 4]})
    optimized = optimize(model)
    assert kinds(optimized) == ["Relu", "Conv"]
    assert [value.name for value in optimized.graph.output] == ["first", "y"]
    given = noise(1, 3, 4, 4)
    for found, expected in zip(answer(optimized, x=given), answer(model, x=given), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_frames_that_are_folded_into_the_batch_are_not_seen_as_rows_of_it() -> None:
    nodes = [node("Reshape", ["x", "to"], ["frames"]), to_nchw("frames", "t"), node("Conv", ["t", "w"], ["y"])]
    model = picture(*nodes, shape=[None, 8, 8, 8, 3], to=np.int64([-1, 8, 8, 3]), w=noise(4, 3, 3, 3))
    check_same(model, for_x86(model), noise(2, 8, 8, 8, 3), atol=2e-5)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Clip", ["x", "zero", "high"], ["c"]), node("Mul", ["c", "a"], ["y"])], {"high": np.float32(-2), "a": np.float32(-0.5)}),
        (
            [node("Clip", ["x", "zero", "high"], ["c"]), node("Mul", ["c", "a"], ["y"])],
            {"high": np.float32(6), "a": np.full((1,) * 5, 1 / 6, np.float32)},
        ),
    ],
)
def test_what_only_looks_like_a_hard_sigmoid_stays(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    model = picture(*nodes, shape=[1, 2, 3, 3], made=[None] * (5 if constants["a"].ndim else 4), zero=np.float32(0), **constants)
    assert kinds(optimize(model)) == ["Clip", "Mul"]


def test_places_of_a_max_pool_are_those_of_the_padded_picture() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Pad", ["r", "p"], ["h"]), node("MaxPool", ["h"], ["y", "places"], kernel_shape=[3, 3])]
    model = picture(*nodes, shape=[1, 3, 8, 8], p=np.int64([0, 0, 1, 1, 0, 0, 1, 1]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [None] * 4))
    assert kinds(optimize(model)) == kinds(model)


def test_reversals_of_other_axes_do_not_cancel() -> None:
    low = np.int64([np.iinfo(np.int64).min])
    constants = {"back": np.int64([-1]), "end": low, "back2": np.int64([-1, -1]), "end2": np.repeat(low, 2), "axes": np.int64([2])}
    nodes = [node("Slice", ["x", "back2", "end2", "", "back2"], ["h"]), node("Slice", ["h", "back", "end", "", "back"], ["y"])]
    assert kinds(optimize(picture(*nodes, shape=[2, 3, 4, 5], **constants))) == ["Slice", "Slice"]
    nodes[1] = node("Slice", ["h", "back", "end", "axes", "back"], ["y"])
    assert kinds(optimize(picture(*nodes, shape=[2, 3, 4, 5], **constants))) == ["Slice", "Slice"]


def test_blocks_need_weights_whose_integer_zero_is_zero_and_a_reader() -> None:
    stored, constants = stored_weights(4, 3, 3, 3)
    conv = node("Conv", ["real", "w", "b"], ["made"], pads=[1] * 4)
    shifted = eight_bit(*stored, conv, shape=[1, 8, 8, 3], **{**constants, "wz": np.full(4, 3, np.int8)})
    assert kinds(for_x86_eight_bit(shifted)) == kinds(shifted)
    given = eight_bit(*stored, conv, shape=[1, 8, 8, 3], **constants)
    given.graph.output.append(onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [None] * 4))
    assert kinds(for_x86_eight_bit(given)) == kinds(given)


def test_a_picture_that_branches_read_is_not_put_apart() -> None:
    stored, constants = stored_weights(4, 3, 3, 3)
    made = onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [1, 4, 8, 8])
    branches = [onnx.helper.make_graph([node(kind, ["conv"], ["h"])], "g", [], [made]) for kind in ("Tanh", "Sigmoid")]
    nodes = [
        *stored,
        node("Conv", ["real", "w", "b"], ["conv"], pads=[1] * 4),
        node("If", ["is_so"], ["made"], then_branch=branches[0], else_branch=branches[1]),
    ]
    model = eight_bit(*nodes, shape=[1, 8, 8, 3], **constants, is_so=np.array(True))
    assert kinds(for_x86_eight_bit(model)) == kinds(model)


def test_a_factor_that_an_offset_cannot_be_divided_by_stays() -> None:
    nodes = [node("Mul", ["x", "a"], ["s"]), node("Add", ["s", "b"], ["h"]), node("Conv", ["h", "w"], ["y"])]
    model = picture(*nodes, shape=[1, 3, 5, 5], a=np.float32(1e-38), b=np.float32(5), w=noise(4, 3, 1, 1))
    assert kinds(optimize(model)) == ["Mul", "Add", "Conv"]


def test_new_values_have_names_that_nothing_has() -> None:
    nodes = [node("Relu", ["x"], ["y/wide"]), node("Mul", ["y/wide", "a"], ["y"])]
    model = picture(*nodes, shape=[2, 5, 7, 3], a=noise(3))
    check_same(model, with_wide_offsets(model), noise(2, 5, 7, 3), atol=0)
