"""OpenVINO behind the engines' protocol."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lepton_edge.digits import Digits, shipped_bundle
from lepton_runtime import BundleError, InputError, MissingExtraError, Session
from lepton_runtime.engines import open_engine
from lepton_runtime.golden import Golden

pytest.importorskip("openvino", reason="OpenVINO has no wheel here")


@pytest.fixture
def session():
    with Session.open(shipped_bundle(), engine="openvino") as opened:
        yield opened


def test_float32_stays_float32(session: Session) -> None:
    assert session.engine == "openvino"
    assert Golden.open(session.bundle).difference(session) <= 1e-5  # bfloat16 would be 1e-2


def test_8_bits_answer_within_a_step(digits: Digits) -> None:
    with Session.open(shipped_bundle(), engine="openvino", precision="static-int8") as opened:
        assert Golden.open(opened.bundle).difference(opened) <= 0.02  # other kernels round some sums the other way


def test_an_answer_is_written_where_the_caller_wants_it(session: Session, digits: Digits) -> None:
    given, out = np.zeros((1, 28, 28, 1), np.float32), np.empty((1, 10), np.float32)
    for image in digits.test_images[:3]:
        given[0, ..., 0] = image
        session.run(given, out=out)
        np.testing.assert_array_equal(out, session.run(given.copy()))


def test_answers_are_the_callers_own(session: Session, digits: Digits) -> None:
    images = digits.test_images[:2, ..., None].astype(np.float32)
    first = session.run(images[:1])
    kept = first.copy()
    session.run(images[1:])
    np.testing.assert_array_equal(first, kept)


def test_threads_may_share_a_session(session: Session, digits: Digits) -> None:
    images = digits.test_images[:20, ..., None].astype(np.float32)
    expected = [session.run(image[None]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda image: session.run(image[None]), images), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_file_that_is_none_is_refused() -> None:
    with pytest.raises(BundleError, match="an ONNX model must be one that can be read"):
        open_engine("openvino", b"no model", inputs=(), outputs=(), threads=1)


def test_tflite_files_are_for_litert() -> None:
    with pytest.raises(InputError, match="found nothing for int16x8 openvino"):
        Session.open(shipped_bundle(), engine="openvino", precision="int16x8")


def test_nobody_is_told_of_the_import() -> None:
    code = """
import sys
from lepton_edge.digits import shipped_bundle
from lepton_runtime import Session
Session.open(shipped_bundle(), engine="openvino")
assert "openvino_telemetry" not in sys.modules, sys.modules["openvino_telemetry"]
assert "openvino.tools.ovc.telemetry_stub" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_openvino_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lepton-edge\[openvino\]"'):
        Session.open(shipped_bundle(), engine="openvino")


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda images: images[:, :, ::-1],
        lambda images: np.frombuffer(images.tobytes(), np.float32).reshape(images.shape),
    ],
)
def test_strided_and_read_only_arrays_are_read_right(session: Session, digits: Digits, view) -> None:
    images = digits.test_images[:1, ..., None].astype(np.float32)
    given, out = view(images), np.empty((1, 10), np.float32)
    expected = session.run(np.ascontiguousarray(given).copy())
    for _ in range(5):
        np.testing.assert_array_equal(session.run(given), expected)
    np.testing.assert_array_equal(session.run(given, out=out), expected)


def test_what_is_read_only_here_may_change_elsewhere(session: Session, digits: Digits) -> None:
    frame, out = np.zeros((1, 28, 28, 1), np.float32), np.empty((1, 10), np.float32)
    seen = frame[:]
    seen.flags.writeable = False
    for image in digits.test_images[:3]:
        frame[0, ..., 0] = image
        np.testing.assert_array_equal(session.run(seen, out=out), session.run(frame))


@pytest.mark.workstation
def test_out_of_another_batch_is_refused() -> None:
    import onnx

    from lepton_runtime import TensorSpec

    free = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", free[:1], free[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7).SerializeToString()
    specs = [TensorSpec(name, (None, 3), "float32") for name in "xy"]
    engine = open_engine("openvino", model, inputs=specs[:1], outputs=specs[1:], threads=1)
    for rows in (1, 5):
        with pytest.raises(InputError, match="out must have the shape"):
            engine.bind([np.ones((3, 3), np.float32)], [np.empty((rows, 3), np.float32)])()


@pytest.mark.workstation
@pytest.mark.parametrize("alpha", [1 / 6, 0.1668, 0.2])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.3])
@pytest.mark.parametrize("place", ["alone", "swish", "branch", "float16"])
def test_hard_sigmoids_of_any_slope_answer_right(alpha: float, beta: float, place: str) -> None:
    import onnx

    from lepton_runtime import TensorSpec

    make, float16, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, float32, [1, 49]) for name in "xy"]
    nodes = {
        "alone": [make("HardSigmoid", ["x"], ["y"], alpha=alpha, beta=beta)],
        "swish": [make("HardSigmoid", ["x"], ["h"], alpha=alpha, beta=beta), make("Mul", ["x", "h"], ["y"])],
        "float16": [
            make("Cast", ["x"], ["half"], to=float16),
            make("HardSigmoid", ["half"], ["h"], alpha=alpha, beta=beta),
            make("Cast", ["h"], ["y"], to=float32),
        ],
    }
    if place == "branch":
        made = onnx.helper.make_tensor_value_info("h", float32, [1, 49])
        then, other = (
            onnx.helper.make_graph([make("HardSigmoid", ["x"], ["h"], alpha=slope, beta=beta)], "g", [], [made]) for slope in (alpha, 0.4)
        )
        sums = [make("ReduceMax", ["x"], ["m"], keepdims=0), make("Cast", ["m"], ["c"], to=onnx.TensorProto.BOOL)]
        nodes["branch"] = [*sums, make("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    graph = onnx.helper.make_graph(nodes[place], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7).SerializeToString()
    specs = [TensorSpec(name, (1, 49), "float32") for name in "xy"]
    x = np.linspace(-6, 6, 49, dtype=np.float32)[None]
    (found,) = open_engine("openvino", model, inputs=specs[:1], outputs=specs[1:], threads=1).run([x])
    expected = np.clip(alpha * x + beta, 0, 1) * (x if place == "swish" else 1)
    np.testing.assert_allclose(found, expected, atol=2e-3 if place == "float16" else 1e-5)


def adapted(nodes, constants, shape: list[int | None], made: list[int | None]) -> tuple[bytes, set[str]]:
    """A model of float32, and the operators that OpenVINO is given of it."""
    import onnx

    from lepton_runtime.engines.openvino import _import_openvino
    from lepton_runtime.engines.openvino_graph import adapt

    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name, axes in (("x", shape), ("y", made))]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7).SerializeToString()
    read = _import_openvino().Core().read_model(model)
    adapt(read)
    return model, {node.get_type_name() for node in read.get_ordered_ops()}


def check_same(model: bytes, x: np.ndarray, shape: tuple[int | None, ...], made: tuple[int | None, ...]) -> None:
    from lepton_runtime import TensorSpec

    specs = TensorSpec("x", shape, "float32"), TensorSpec("y", made, "float32")
    found, expected = (
        open_engine(name, model, inputs=specs[:1], outputs=specs[1:], threads=1).run([x])[0] for name in ("openvino", "onnxruntime")
    )
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.workstation
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [([3, 9], [2, 6], [0, 0, 1, 3]), ([1, 4], [1, 2], [0, 2, 0, 4]), ([2, 12], [1, 12], [0] * 4)],
)
@pytest.mark.parametrize("shape", [[1, 1, 9, 36], [None, 1, 9, 36], [1, 1, None, 36]])
def test_rows_of_pixels_are_seen_as_a_picture(kernel: list[int], strides: list[int], pads: list[int], shape: list[int | None]) -> None:
    import onnx

    noise = np.random.default_rng(4).normal(size=(5, 1, *kernel)).astype(np.float32)
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=strides, pads=pads)]
    model, kinds = adapted(nodes, {"w": noise}, shape, [None, 5, None, None])
    assert "Transpose" in kinds
    x = np.random.default_rng(5).normal(size=[axis or 4 for axis in shape]).astype(np.float32)
    check_same(model, x, tuple(shape), (None, 5, None, None))


@pytest.mark.workstation
@pytest.mark.parametrize(("kernel", "strides"), [([3, 5], [1, 1]), ([3, 10], [1, 5])])
def test_other_convolutions_of_one_channel_stay(kernel: list[int], strides: list[int]) -> None:
    import onnx

    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=strides)]
    _, kinds = adapted(nodes, {"w": np.ones((2, 1, *kernel), np.float32)}, [1, 1, 9, 35], [None] * 4)
    assert "Transpose" not in kinds


@pytest.mark.workstation
@pytest.mark.parametrize("is_gate", [True, False])
def test_a_gate_is_not_repeated_over_its_picture(is_gate: bool) -> None:
    import onnx

    make = onnx.helper.make_node
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        make("GlobalAveragePool", ["x"], ["mean"]),
        make("Resize", ["mean", "", "scales"], ["gate"], **settings),
        make("Mul", ["x", "gate"], ["y"]) if is_gate else make("Concat", ["x", "gate"], ["y"], axis=1),
    ]
    made = [1, 3 if is_gate else 6, 4, 6]
    model, kinds = adapted(nodes, {"scales": np.float32([1, 1, 4, 6])}, [1, 3, 4, 6], made)
    assert ("Interpolate" in kinds) is not is_gate
    check_same(model, np.random.default_rng(6).normal(size=(1, 3, 4, 6)).astype(np.float32), (1, 3, 4, 6), tuple(made))


@pytest.mark.workstation
@pytest.mark.parametrize("kind", ["squared", "channels"])
def test_a_repetition_that_is_no_gate_stays(kind: str) -> None:
    import onnx

    make = onnx.helper.make_node
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    mean, scales = make("GlobalAveragePool", ["x"], ["mean"]), np.float32([1, 1, 4, 4])
    gate = make("Resize", ["mean", "", "scales"], ["gate"], **settings)
    if kind == "squared":
        nodes, made = [mean, gate, make("Mul", ["gate", "gate"], ["y"])], (1, 4, 4, 4)
    else:
        halves = make("Slice", ["mean", "zero", "two", "one"], ["half"])
        gate.input[0], scales = "half", np.float32([1, 2, 4, 4])
        nodes, made = [mean, halves, gate, make("Mul", ["x", "gate"], ["y"])], (1, 4, 4, 4)
    numbers = {name: np.array([value]) for name, value in (("zero", 0), ("two", 2), ("one", 1))}
    constants = {"scales": scales, **(numbers if kind == "channels" else {})}
    model, kinds = adapted(nodes, constants, [1, 4, 4, 4], list(made))
    assert "Interpolate" in kinds
    check_same(model, np.random.default_rng(6).normal(size=(1, 4, 4, 4)).astype(np.float32), (1, 4, 4, 4), made)
