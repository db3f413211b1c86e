"""What fine-tuning makes smaller, and what it is judged by."""

import numpy as np
import pytest

from lepton_converters.distillation import Answers, Head, Objective, operator_of
from lepton_runtime import InputError, UnsupportedError
from lepton_runtime.tensors import TensorSpec


@pytest.fixture(scope="module", autouse=True)
def _tensorflow(keras) -> None:
    """TensorFlow as the converters load it."""


def scores(name: str, *, classes: int = 3, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, (4, classes), dtype)


def made(outputs, operators, values=None, *, is_labeled: bool = False) -> Objective:
    values = values or [np.random.default_rng(1).normal(size=(50, *spec.shape[1:])).astype(spec.dtype) for spec in outputs]
    return Objective.of(outputs, operators, values, is_labeled=is_labeled)


def gradient(loss, logits: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    given = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = loss(given)
    return np.asarray(tape.gradient(found, given))


@pytest.mark.parametrize(("operator", "classes"), [("Softmax", 3), ("Sigmoid", 3), ("Sigmoid", 1), (None, 3)])
@pytest.mark.parametrize("with_labels", [True, False])
def test_what_is_surely_wrong_teaches_the_most(operator: str | None, classes: int, with_labels: bool) -> None:
    # The float model is sure of the last class, 8 bits are sure of another, at a probability of e^-40 that float32 rounds away from 1.
    head = Head(0, operator, "accuracy", 1.0)
    wanted = np.full((1, classes), -20.0, np.float32)
    wanted[:, -1] = 20
    labels = np.int32([max(1, classes - 1)])

    def loss(given):
        return head.cross_entropy(given, labels) if with_labels else head.distance(given, wanted)

    assert gradient(loss, -wanted)[0, -1] < -0.3
    assert abs(gradient(loss, wanted)[0, -1]) < 1e-6


def test_the_distance_of_probabilities_is_their_divergence() -> None:
    generator = np.random.default_rng(2)
    given, wanted = generator.normal(size=(2, 5, 3)).astype(np.float32)
    sigmoid = [1 / (1 + np.exp(-logits.astype(np.float64))) for logits in (given, wanted)]
    expected = np.mean(sigmoid[1] * np.log(sigmoid[1] / sigmoid[0]) + (1 - sigmoid[1]) * np.log((1 - sigmoid[1]) / (1 - sigmoid[0])))
    assert float(Head(0, "Sigmoid", "agreement", 1.0).distance(given, wanted)) == pytest.approx(expected, rel=1e-5)
    softer = [np.exp(logits.astype(np.float64) / 2) for logits in (given, wanted)]
    softer = [each / each.sum(axis=1, keepdims=True) for each in softer]
    expected = 4 * np.mean(np.sum(softer[1] * np.log(softer[1] / softer[0]), axis=1))
    assert float(Head(0, "Softmax", "agreement", 1.0).distance(given, wanted)) == pytest.approx(expected, rel=1e-5)


def test_classes_masked_by_infinity_have_no_part_in_the_loss() -> None:
    head, masked = Head(0, "Softmax", "agreement", 1.0), np.float32([[1, 2, -np.inf]])
    assert float(head.distance(masked, masked)) == 0
    assert np.isfinite(gradient(lambda given: head.distance(given, np.float32([[2, 1, -np.inf]])), masked)).all()


def test_an_error_counts_as_a_share_of_the_variance_in_every_batch() -> None:
    values = np.random.default_rng(3).normal(100, 2, (1000, 3))
    objective = made([scores("row")], [None], [values])
    assert objective.metric == "fidelity"
    zeros, wrong = np.zeros((4, 3), np.float32), np.full((4, 3), 2, np.float32)
    assert float(objective.loss([wrong], [zeros], None)) == pytest.approx(1, rel=0.1)  # not infinitely much of zeros
    np.testing.assert_allclose(objective.scores([values + 2], [values], None), 0, atol=0.1)  # not near 1 for the offset of 100


def test_an_output_that_never_changes_is_judged_all_the_same() -> None:
    objective = made([scores("row")], [None], [np.zeros((10, 3))])
    np.testing.assert_array_equal(objective.scores([np.zeros((4, 3))], [np.zeros((4, 3))], None), np.ones(4))


def test_every_output_counts_in_its_own_way() -> None:
    outputs = [scores("kind"), scores("color", classes=2), TensorSpec("box", (4, 4), "float32")]
    values = [np.eye(3)[[0, 1, 2, 0]], np.eye(2)[[0, 1, 0, 1]], np.random.default_rng(4).normal(size=(4, 4))]
    others = [np.eye(3)[[0, 1, 0, 1]], np.eye(2)[[0, 1, 1, 1]], values[2]]
    found = made(outputs, ["Softmax", "Softmax", None], values)
    assert found.metric == "agreement and fidelity"
    np.testing.assert_allclose(found.scores(others, values, None), [1, 1, 1 / 3, 2 / 3])
    labeled = made(outputs, ["Softmax", "Softmax", None], values, is_labeled=True)
    labels = np.int32([0, 1, 0, 0])
    assert labeled.metric == "accuracy and agreement and fidelity"
    np.testing.assert_allclose(labeled.scores(others, values, labels), [1, 1, 2 / 3, 2 / 3])
    assert labeled.accuracy(others, labels) == 0.75
    assert found.accuracy(others, None) is None


def test_one_unit_is_the_probability_of_the_second_class() -> None:
    objective = made([scores("cat", classes=1)], ["Sigmoid"], is_labeled=True)
    values = [np.float32([[0.2], [0.6], [0.9], [0.4]])]
    np.testing.assert_array_equal(objective.scores(values, values, np.int32([0, 1, 0, 1])), [1, 1, 0, 0])


def test_outputs_of_integers_are_left_out() -> None:
    outputs = [TensorSpec("best", (4,), "int64"), scores("scores")]
    objective = made(outputs, [None, "Softmax"])
    assert [head.place for head in objective.heads] == [1]
    assert np.isfinite(float(objective.loss([np.zeros(4), np.zeros((4, 3), np.float32)], [np.ones(4), np.ones((4, 3), np.float32)], None)))


def test_a_model_of_integers_only_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"fine-tuning needs an output of real numbers, found best .*; cut off what makes others"):
        made([TensorSpec("best", (4,), "int64")], [None])


def test_labels_of_an_output_of_integers_are_refused() -> None:
    with pytest.raises(InputError, match=r"labels need an output of .* of real numbers as the first of that shape, found ids .*scores"):
        made([scores("ids", dtype="int32"), scores("scores")], [None, "Softmax"], is_labeled=True)


def test_logits_are_what_the_last_softmax_or_sigmoid_is_given() -> None:
    import tensorflow as tf

    operators = []

    @tf.function(input_signature=[tf.TensorSpec((2, 6))], autograph=False)
    def traced(values):
        outputs = [
            tf.reshape(tf.nn.softmax(tf.reshape(values, (2, 1, 1, 6))), (2, 6)),
            tf.sigmoid(2 * values),
            tf.reshape(tf.nn.softmax(tf.reshape(values, (2, 3, 2))), (2, 6)),  # of two classes each, not of six
            values + 1,
        ]
        operators.extend(map(operator_of, outputs))
        return Answers.traced(outputs, outputs).flat

    values = np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)
    answers = Answers.of_flat([np.asarray(tensor) for tensor in traced(values)])
    assert operators == ["Softmax", "Sigmoid", None, None]
    for found, expected in zip(answers.logits, (values, 2 * values, answers.values[2], values + 1), strict=True):
        np.testing.assert_array_equal(found, expected)
