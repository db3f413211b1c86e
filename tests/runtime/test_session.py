import subprocess
import sys
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
        (lambda array: array.astype(np.uint8), r"must be float32, found uint8"),
        (lambda array: array.astype(">f4"), r"must be float32, found >f4"),
        (lambda array: array[0], r"must have shape \(1, 28, 28, 1\), found \(28, 28, 1\); add the batch axis: array\[None\]"),
        (lambda array: array[..., 0], r"found \(1, 28, 28\)"),
        (lambda array: array.transpose(0, 3, 1, 2), r"found \(1, 1, 28, 28\); channels come last"),
        (lambda array: array[:, :27], r"found \(1, 27, 28, 1\)"),
        (lambda array: np.repeat(array, 2, axis=0), r"found \(2, 28, 28, 1\)"),
        (lambda array: array[:0], r"found \(0, 28, 28, 1\)"),
        (lambda array: np.ma.masked_array(array), r"plain numpy array, found MaskedArray"),
        (lambda array: array.tolist(), r"takes a numpy array .* found list"),
        (lambda array: None, r"found NoneType"),
        (lambda array: {"picture": array}, r"inputs are \['image'\], found \['picture'\]"),
    ],
)
def test_what_does_not_fit_says_how_to_fix_it(session: Session, digit: np.ndarray, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(change(digit))


@pytest.mark.parametrize("view", [np.asfortranarray, lambda array: array[:, ::-1], lambda array: array[:, :, ::-1]])
def test_strided_arrays_are_read_right(session: Session, digit: np.ndarray, view) -> None:
    np.testing.assert_array_equal(session.run(view(digit)), session.run(np.ascontiguousarray(view(digit))))


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
        ({"precision": "fp16"}, r"holds fp32 \(onnxruntime\), static-int8 \(onnxruntime\), found nothing for fp16"),
        ({"engine": "tensorrt"}, "an engine is one of onnxruntime, litert, found 'tensorrt'"),
        ({"engine": "litert"}, "found nothing for litert"),
        ({"threads": 0}, "threads must be at least 1, found 0"),
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
