import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import Digits, shipped_bundle
from lepton_runtime import Bundle, InputError, LeptonError, Session, UnsupportedError
from lepton_runtime.golden import Golden


@pytest.fixture
def session():
    with Session.open(shipped_bundle()) as opened:
        yield opened


@pytest.fixture
def digit(digits: Digits) -> np.ndarray:
    return digits.test_images[:1, ..., None].astype(np.float32)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("static-int8", 0.0)])
def test_golden_inputs_give_the_golden_answers(precision: str, tolerance: float) -> None:
    # fp32 sums differ in their last bits from CPU to CPU; integer sums do not.
    with Session.open(shipped_bundle(), precision=precision) as opened:
        assert Golden.open(opened.bundle).difference(opened) <= tolerance


def test_most_shipped_digits_are_recognized(session: Session, digits: Digits) -> None:
    answers = [session.predict(image)[0].label for image in digits.test_images[:200]]
    assert np.mean([int(answer) == label for answer, label in zip(answers, digits.test_labels, strict=False)]) > 0.95


def test_an_array_in_gives_an_array_out(session: Session, digit: np.ndarray) -> None:
    scores = session.run(digit)
    assert scores.shape == (1, 10)
    np.testing.assert_allclose(scores.sum(), 1, rtol=1e-5)


def test_named_inputs_give_named_outputs(session: Session, digit: np.ndarray) -> None:
    outputs = session.run({"image": digit})
    np.testing.assert_array_equal(outputs["scores"], session.run(digit))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array.astype(np.float64), r"must be float32, found float64; convert it on purpose"),
        (lambda array: array.astype(np.uint8), r"must be float32, found uint8; predict takes raw pixels, and preprocess makes this input"),
        (lambda array: array.astype(">f4"), r"must be float32, found >f4"),
        (lambda array: array.astype(np.float16), r"must be float32, found float16"),
        (lambda array: array.astype(np.int64), r"must be float32, found int64"),
        (lambda array: array.astype(object), r"must be float32, found object"),
        (lambda array: array.astype(str), r"must be float32, found <U"),
        (lambda array: array.view([("pixel", "f4")]), r"must be float32, found \[\('pixel', '<f4'\)\]"),
        (lambda array: np.float32(1), r"takes a numpy array .* found float32"),
        (lambda array: np.array(1, np.float32), r"found \(\)"),
        (lambda array: {"image": array, "other": array}, r"inputs are \['image'\], found \['image', 'other'\]"),
        (lambda array: {"image": None}, r"plain numpy array, found NoneType"),
        (lambda array: {}, r"inputs are \['image'\], found \[\]"),
        (lambda array: array[0], r"must have shape \(1, 28, 28, 1\), found \(28, 28, 1\); add the batch axis: array\[None\]"),
        (lambda array: array[..., 0], r"found \(1, 28, 28\)"),
        (lambda array: array.transpose(0, 3, 1, 2), r"found \(1, 1, 28, 28\); channels come last"),
        (lambda array: array[:, :27], r"found \(1, 27, 28, 1\)"),
        (lambda array: np.repeat(array, 2, axis=0), r"found \(2, 28, 28, 1\)"),
        (lambda array: array[:0], r"found \(0, 28, 28, 1\)"),
        (
            lambda array: np.ma.masked_array(array),
            r"plain numpy array, found MaskedArray; say what stands for masked values: array.filled\(x\)",
        ),
        (lambda array: array.tolist(), r"takes a numpy array .* found list"),
        (lambda array: None, r"found NoneType"),
        (lambda array: {"picture": array}, r"inputs are \['image'\], found \['picture'\]"),
    ],
)
def test_what_does_not_fit_says_how_to_fix_it(session: Session, digit: np.ndarray, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(change(digit))


def unaligned(array: np.ndarray) -> np.ndarray:
    data = np.frombuffer(b"?" + array.tobytes(), np.uint8)[1:]
    return data.view(array.dtype).reshape(array.shape)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array: np.ndarray) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, array)
        return np.load(file.name, mmap_mode="r")


VIEWS = {
    "Fortran order": np.asfortranarray,
    "upside down": lambda array: array[:, ::-1],
    "mirrored": lambda array: array[:, :, ::-1],
    "transposed": lambda array: array.transpose(0, 2, 1, 3),
    "cropped": lambda array: np.pad(array, ((0, 0), (3, 3), (5, 0), (1, 1)))[:, 3:-3, 5:, 1:-1],
    "every second": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "unaligned": unaligned,
    "read-only": read_only,
    "mapped": mapped,
    "repeated": lambda array: np.broadcast_to(array[:, :1], array.shape),
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("view", VIEWS)
def test_an_array_is_read_right_however_it_lies_in_memory(digit: np.ndarray, view: str, engine: str) -> None:
    pytest.importorskip(engine, reason="OpenVINO has no wheel here")
    given = VIEWS[view](digit)
    plain = np.array(given, order="C")
    with Session.open(shipped_bundle(), engine=engine) as session:
        expected, out = session.run(plain), np.empty((1, 10), np.float32)
        np.testing.assert_array_equal(session.run(given), expected)
        np.testing.assert_array_equal(session.run(given, out=out), expected)
        np.testing.assert_array_equal(session.run({"image": given})["scores"], expected)
        np.testing.assert_array_equal(session.predict(given[0])[0].score, expected.max())
    np.testing.assert_array_equal(given, plain)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_pass_and_can_be_refused(session: Session, digit: np.ndarray, value: float) -> None:
    digit = digit.copy()
    digit[0, 3, 4, 0] = value
    assert session.run(digit).shape == (1, 10)
    with pytest.raises(InputError, match=r"must be finite, found 1 of 784 NaN or infinite"):
        session.inputs[0].check(digit, finite=True)


def test_predict_refuses_values_that_are_not_finite(session: Session, digit: np.ndarray) -> None:
    digit[0, 3, 3, 0] = np.nan
    with pytest.raises(InputError, match="found 1 of 784 NaN or infinite"):
        session.predict(digit[0])


def test_many_threads_get_their_own_answers(session: Session, digits: Digits) -> None:
    images = digits.test_images[:64, None, ..., None].astype(np.float32)
    expected = [session.run(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(session.run, list(images) * 8))
    for number, scores in enumerate(found):
        np.testing.assert_array_equal(scores, expected[number % 64])


def test_a_closed_session_says_so(digit: np.ndarray) -> None:
    with Session.open(shipped_bundle()) as opened:
        opened.run(digit)
    with pytest.raises(LeptonError, match="was closed; open a new one"):
        opened.run(digit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "static-int9"}, "did you mean 'static-int8'"),
        ({"precision": "fp16"}, r"holds fp32 \(onnxruntime or openvino\), static-int8 \(onnxruntime or openvino\), found nothing for fp16"),
        ({"engine": "tensorrt"}, "an engine is one of onnxruntime, litert, openvino, found 'tensorrt'"),
        ({"engine": "litert"}, "found nothing for litert"),
        ({"threads": 0}, "threads must be a whole number of at least 1, found 0"),
        ({"threads": "2"}, "threads must be a whole number of at least 1, found '2'"),
    ],
)
def test_a_choice_that_cannot_be_made_lists_what_there_is(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Session.open(shipped_bundle(), **options)


def test_a_failed_artifact_is_used_only_when_named(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values["artifacts"][0].update(passed=False))
    assert Session.open(digits_bundle).artifact.precision == "static-int8"
    assert Session.open(digits_bundle, precision="fp32").artifact.precision == "fp32"


def test_a_bundle_of_failed_artifacts_says_how_to_take_one(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: [artifact.update(passed=False) for artifact in values["artifacts"]])
    because = r"kept to the accuracy budget, model\.fp32\.onnx, model\.static-int8\.onnx broke it; --precision NAME takes one all the same"
    with pytest.raises(InputError, match=because):
        Session.open(digits_bundle)
    with pytest.raises(InputError, match="found nothing for litert"):
        Session.open(digits_bundle, engine="litert")
    assert Session.open(digits_bundle, precision="static-int8").artifact.precision == "static-int8"


def test_predict_needs_recorded_preprocessing(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(preprocessing=None))
    with pytest.raises(UnsupportedError, match="prepare the arrays yourself and call run"):
        Session.open(digits_bundle).predict(np.zeros((28, 28), np.uint8))


def test_labels_without_names_are_class_numbers(digits_bundle: Path, rewrite_manifest, digits: Digits) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(labels=None))
    assert Session.open(digits_bundle).predict(digits.test_images[0])[0].label.isdigit()


def test_a_bundle_that_is_already_open_can_be_used(digit: np.ndarray) -> None:
    bundle = Bundle.open(shipped_bundle())
    assert Session.open(bundle).run(digit).shape == (1, 10)


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    script = "import sys, lepton_runtime; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())
    banned = {"tensorflow", "keras", "onnx", "tf2onnx", "click", "rich", "PIL", "ai_edge_litert", "lepton_edge", "lepton_converters"}
    assert "lepton_runtime" in loaded
    assert not loaded & banned


@pytest.mark.parametrize("module", ["lepton_runtime", "lepton_converters.onnx_artifact"])
def test_onnxruntime_tells_nobody_of_its_sessions(tmp_path: Path, module: str) -> None:
    if module != "lepton_runtime":
        pytest.importorskip("onnx", reason="a device has no converters")
    script = f"import {module}, sys, lepton_runtime as runtime; runtime.Session.open(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")}
    command = [sys.executable, "-c", script, str(shipped_bundle())]
    subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_run_batch_takes_no_list(session: Session) -> None:
    with pytest.raises(InputError, match="run_batch takes a numpy array, or a mapping from input names to arrays, found list"):
        session.run_batch([np.zeros((1, 28, 28, 1), np.float32)])


def test_an_answer_is_written_where_the_caller_wants_it(session: Session, digits: Digits) -> None:
    given, out = np.zeros((1, 28, 28, 1), np.float32), np.empty((1, 10), np.float32)
    for image in digits.test_images[:3]:
        given[0, ..., 0] = image
        assert session.run(given, out=out) is out
        np.testing.assert_array_equal(out, session.run(given.copy()))


def test_another_pair_of_arrays_is_no_mix_of_both(session: Session, digits: Digits) -> None:
    given = [digits.test_images[number : number + 1, ..., None].astype(np.float32) for number in range(2)]
    outs = [np.empty((1, 10), np.float32) for _ in range(2)]
    for number in (0, 1, 0, 1, 1):
        session.run(given[number], out=outs[number])
    for array, out in zip(given, outs, strict=True):
        np.testing.assert_array_equal(out, session.run(array))


def test_a_strided_input_is_read_right_into_a_given_array(session: Session, digit: np.ndarray) -> None:
    out = np.empty((1, 10), np.float32)
    np.testing.assert_array_equal(session.run(digit[:, ::-1], out=out), session.run(np.ascontiguousarray(digit[:, ::-1])))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((1, 9), np.float32), r"out must be able to take the answer: 'scores' must have shape \(1, 10\), found \(1, 9\)"),
        (np.empty((1, 10), np.float64), "'scores' must be float32, found float64"),
        (np.empty((1, 20), np.float32)[:, ::2], "out must be contiguous, writable"),
        (np.frombuffer(bytes(40), np.float32)[None], "out must be contiguous, writable"),
        ([0.0] * 10, "plain numpy array, found list"),
    ],
)
def test_an_array_that_cannot_take_the_answer_is_refused(session: Session, digit: np.ndarray, out, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(digit, out=out)


def test_named_inputs_take_no_array_for_the_answer(session: Session, digit: np.ndarray) -> None:
    with pytest.raises(InputError, match="out is for a model with one input and one output that is given an array, found dict"):
        session.run({"image": digit}, out=np.empty((1, 10), np.float32))


def test_a_closed_session_writes_nothing(digit: np.ndarray) -> None:
    session, out = Session.open(shipped_bundle()), np.empty((1, 10), np.float32)
    session.run(digit, out=out)
    session.close()
    with pytest.raises(LeptonError, match="it was closed"):
        session.run(digit, out=out)


def test_any_number_of_samples_is_answered(session: Session, digits: Digits) -> None:
    images = digits.test_images[:5, ..., None].astype(np.float32)
    one_by_one = np.concatenate([session.run(image[None]) for image in images])
    np.testing.assert_array_equal(session.run_batch(images), one_by_one)
    np.testing.assert_array_equal(session.run_batch({"image": images})["scores"], one_by_one)


def test_no_samples_have_no_answers(session: Session) -> None:
    with pytest.raises(InputError, match=r"the same number of samples, at least 1, found \{'image': 0\}"):
        session.run_batch(np.empty((0, 28, 28, 1), np.float32))


@pytest.mark.parametrize("spins", [True, False])
def test_threads_that_spin_and_that_sleep_give_the_same_answers(session: Session, digit: np.ndarray, spins: bool) -> None:
    with Session(session.bundle, session.artifact, threads=2, spins=spins) as other:
        np.testing.assert_allclose(other.run(digit), session.run(digit), rtol=0, atol=1e-6)  # sums of halves


def test_threads_that_spin_stop_soon_after_a_call(session: Session, digit: np.ndarray) -> None:
    from time import process_time, sleep

    with Session(session.bundle, session.artifact, threads=2) as other:
        other.run(digit)
        sleep(0.05)
        used = process_time()
        sleep(0.5)
        assert process_time() - used < 0.1  # always spinning takes 0.5 and more


@pytest.mark.parametrize(("version", "key"), [("1.25.1", "session.force_spinning_stop"), ("1.26.0", "session.intra_op.spin_duration_us")])
def test_how_spinning_ends_is_told_in_words_the_installed_version_knows(monkeypatch, version: str, key: str) -> None:
    import onnxruntime

    from lepton_runtime.engines.onnxruntime import _options

    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert int(_options(2).get_session_config_entry(key)) > 0


@pytest.mark.parametrize(("value", "expected"), [(np.nan, np.inf), (np.inf, np.inf), (None, 0.0)])
def test_a_golden_answer_is_not_met_by_what_is_no_number(digits_bundle, value: float | None, expected: float) -> None:
    from lepton_runtime.golden import Golden

    with Session.open(digits_bundle, precision="fp32") as session:
        run = session.run

        def answer(inputs):
            found = run(inputs)
            return found if value is None else {name: np.full_like(array, value) for name, array in found.items()}

        session.run = answer
        golden = Golden.open(session.bundle)
        name = f"{session.artifact.file}/{session.artifact.outputs[0].name}"
        answers = np.concatenate([run(inputs)[session.artifact.outputs[0].name] for inputs in golden.batches(session.artifact)])
        assert Golden({**golden.arrays, name: answers}).difference(session) == expected
