import numpy as np
import pytest

from lepton_converters.budget import Budget
from lepton_converters.parity import ParityReport, _Tally, judge
from lepton_runtime import InputError, Precision
from lepton_runtime.manifest import Parity


def report(found: dict[str, list[float]], wanted: dict[str, list[float]], accuracy: float | None = None) -> ParityReport:
    tally = _Tally()
    arrays = [{name: np.float32([values]) for name, values in side.items()} for side in (found, wanted)]
    tally.add(arrays[0], arrays[1])
    measured = tally.report(samples=1, labeled=0, has_classes=False)
    return ParityReport(measured.parity, accuracy, measured.relative, measured.is_finite)


def test_the_same_numbers_are_the_same() -> None:
    same = report({"y": [1, 2, 3]}, {"y": [1, 2, 3]})
    assert same.parity == Parity(0.0, pytest.approx(1.0), None, 1)
    assert judge(Precision.FP32, same, budget=None, source_accuracy=None).text == "same as Keras"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"y": [1, 2.01]}, {"y": [1, 2]}),
        # a wrong output is not made up for by another one's large numbers
        ({"box": [5000, 1], "score": [0.1, 0.9]}, {"box": [5000, 1], "score": [0.5, 0.5]}),
        # nor by being small itself
        ({"y": [9e-5, 1e-5]}, {"y": [1e-5, 9e-5]}),
        ({"y": [np.nan, 1]}, {"y": [1, 1]}),
        ({"y": [np.inf, 1]}, {"y": [1, 1]}),
    ],
)
def test_a_float_artifact_that_differs_is_refused(found, wanted) -> None:
    verdict = judge(Precision.FP32, report(found, wanted), budget=None, source_accuracy=None)
    assert not verdict.passed
    assert verdict.text.startswith("REFUSED")


@pytest.mark.parametrize(
    ("text", "accuracy", "passes"),
    [("1pp", 0.79, True), ("1pp", 0.789, False), ("1%", 0.792, True), ("1%", 0.79, False), ("0pp", 0.8, True), ("0pp", 0.81, True)],
)
def test_a_budget_is_absolute_or_relative(text: str, accuracy: float, passes: bool) -> None:
    measured = report({"y": [1.0]}, {"y": [1.0]}, accuracy)
    assert judge(Precision.STATIC_INT8, measured, budget=Budget.parse(text), source_accuracy=0.8).passed == passes


def test_what_chance_explains_of_a_drop_is_told() -> None:
    tally = _Tally(right=780, either=24)
    tally.add({"y": np.float32([[1]])}, {"y": np.float32([[1]])})
    measured = tally.report(samples=1000, labeled=1000, has_classes=True)
    assert measured.margin == pytest.approx(1.64 * 5 / 1000)
    near, far = (judge(Precision.STATIC_INT8, measured, budget=Budget.parse("0.5pp"), source_accuracy=accuracy) for accuracy in (0.79, 0.8))
    assert near.text == "REFUSED: drop of 1.00pp is over the budget of 0.5pp, by no more than chance (± 0.82pp): more --eval samples tell"
    assert far.text == "REFUSED: drop of 2.00pp is over the budget of 0.5pp"
    assert not near.passed


@pytest.mark.parametrize("text", ["1", "pp", "-1pp", "101%", "1 p", "nanpp", ""])
def test_a_budget_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"percentage points such as 0\.5pp"):
        Budget.parse(text)
