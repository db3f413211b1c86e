"""How far quantized answers are from the float network's, on the same samples."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from lepton_converters.expected_drop import expected_drop, temperature_scaled

_Z = 1.959964  # of a normal distribution, 95 %


@dataclass(frozen=True)
class Fidelity:
    """What quantization did to the answers.

    Attributes:
        accuracy: Share of right answers, 0 to 1.
        drop: What the float network has more of them.
        low: Lower end of the drop's 95 % interval.
        high: Upper end.
        expected: The drop that the float network's own probabilities tell.
        agreement: Share of samples with the same highest score, 0 to 1.
    """

    accuracy: float
    drop: float
    low: float
    high: float
    expected: float
    agreement: float


def compare(scores: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Fidelity:
    """The fidelity of ``scores`` to ``reference``, both ``(samples, classes)``."""
    answers, expected = scores.argmax(axis=1), reference.argmax(axis=1)
    lost = int(np.sum((expected == labels) & (answers != labels)))
    won = int(np.sum((expected != labels) & (answers == labels)))
    low, high = paired_interval(lost, won, len(labels))
    told, _ = expected_drop(temperature_scaled(reference, labels), expected, answers)
    agreement = float(np.mean(answers == expected))
    return Fidelity(float(np.mean(answers == labels)), (lost - won) / len(labels), low, high, told, agreement)


@dataclass(frozen=True)
class Lead:
    """How much more often one file gives the answer that is expected than another, on the same samples.

    Attributes:
        over: What the other was made by.
        value: The difference of the shares, -1 to 1.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    over: str
    value: float
    low: float
    high: float


def lead(scores: np.ndarray, others: np.ndarray, expected: np.ndarray, *, over: str) -> Lead:
    """The lead of ``scores`` over ``others``, both ``(samples, classes)``; ``expected`` are class numbers, ``(samples,)``."""
    ours, theirs = scores.argmax(axis=1) == expected, others.argmax(axis=1) == expected
    won, lost = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    return Lead(over, (won - lost) / len(expected), *paired_interval(won, lost, len(expected)))


def paired_interval(lost: int, won: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a paired difference of shares, ``(lost - won) / count``: only samples that one alone gets right decide.

    It has a width even if there are none of those.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions": the normal
        approximation, with half a sample more in each of the four cells.

    >>> paired_interval(0, 0, 2000)
    (-0.0009790..., 0.0009790...)
    """
    lost_, won_, count_ = lost + 0.5, won + 0.5, count + 2
    middle = (lost_ - won_) / count_
    deviation = sqrt(lost_ + won_ - (lost_ - won_) ** 2 / count_) / count_
    return middle - _Z * deviation, middle + _Z * deviation
