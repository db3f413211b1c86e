"""The accuracy that other answers lose, as the float network's own probabilities tell.

Answers that 8 bits change are mostly those that were nearly a tie: whether the label is on one side or the other is chance, and
what a set of labels says of them is mostly noise. The probabilities tell it with a tenth of that, once they are scaled to fit the labels.
"""

import numpy as np

from lepton_runtime.tensors import Array

CONFIDENCE = 1.64  # standard errors: 19 of 20 other sets of samples keep to what is told with that margin
_SMALLEST_SHARE = 1e-7
_SHARPEST, _BISECTIONS = 1e4, 50


def temperature_scaled(scores: Array, labels: Array) -> Array:
    """Class scores as the probabilities under which the labels are likeliest, ``(samples, classes)``; their order stays.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks": one temperature for all.

    Args:
        scores: Probabilities, or logits if they are not, ``(samples, classes)``.
        labels: Class numbers, ``(samples,)``.
    """
    values = scores.astype(np.float64)
    if (values >= 0).all() and (values <= 1).all():
        values = np.log(np.clip(values, _SMALLEST_SHARE, 1))
    values -= values.max(axis=1, keepdims=True)
    labelled = float(values[np.arange(len(labels)), labels].mean())
    low, high = 1 / _SHARPEST, _SHARPEST  # inverse temperatures; the likelihood is concave in it
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        expected = float((_softmax(middle * values) * values).sum(axis=1).mean())
        low, high = (middle, high) if expected < labelled else (low, middle)
    return _softmax((low * high) ** 0.5 * values)


def expected_drop(probabilities: Array, before: Array, after: Array) -> tuple[float, float]:
    """The accuracy lost, 0 to 1, and the standard error of what as many other samples will show of it.

    It is never 0, even where no answer changed: the fewer samples, the less that says.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions": half a sample more is lost,
        and half a sample more is won.

    Args:
        probabilities: Of each class, ``(samples, classes)``.
        before: The answers that they are of, ``(samples,)``.
        after: The other answers, ``(samples,)``.
    """
    rows = np.arange(len(before))
    lost, won = probabilities[rows, before], probabilities[rows, after]
    changed = before != after
    differences = lost - won
    drop = float(differences.mean())
    either = (float(((lost + won) * changed).sum()) + 1) / len(before)  # right before and wrong after, or the other way
    return drop, ((either - drop**2 + float(differences.var())) / len(before)) ** 0.5


def _softmax(logits: Array) -> Array:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = shares / shares.sum(axis=1, keepdims=True)
    return result
