"""How far a network's answers are from those of the network it was made of, one number a sample."""

from collections.abc import Mapping

import numpy as np

from lepton_runtime.tensors import Array

_SMALLEST_SHARE = 1e-7
_ONE = 1e-3  # how far the sum of probabilities may be from it


def divergence(reference: Mapping[str, Array], found: Mapping[str, Array]) -> Array:
    """The error of each sample, summed over the outputs: 0 for the same answers, ``(samples,)`` float64.

    Of probabilities it is the Kullback-Leibler divergence, in nats; of other outputs the squared error, as a share of the
    output's mean square over the samples.
    """
    total = np.zeros(len(next(iter(reference.values()))))
    for name, expected in reference.items():
        wanted, given = expected.astype(np.float64), found[name].astype(np.float64)
        if _are_probabilities(wanted):
            wanted, given = (np.clip(values, _SMALLEST_SHARE, 1) for values in (wanted, given))
            total += (wanted * np.log(wanted / given)).sum(axis=1)
        else:
            squares = ((given - wanted) ** 2).reshape(len(wanted), -1).mean(axis=1)
            total += squares / max(float((wanted**2).mean()), _SMALLEST_SHARE)
    return total


def _are_probabilities(values: Array) -> bool:
    return values.ndim == 2 and values.shape[1] > 1 and bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < _ONE).all())


def is_lower(error: Array, other: Array) -> bool:
    """Whether the first of two errors of the same samples is lower by more than one standard error, and by more than 1 %.

    Where nothing is gained, chance alone passes for it up to once in six times.
    """
    differences = error - other
    return bool(differences.mean() < -max(standard_error(differences), 0.01 * other.mean()))


def standard_error(differences: Array) -> float:
    """The standard error of the mean of the differences, one a sample; infinite for a single one."""
    return float(differences.std(ddof=1)) / len(differences) ** 0.5 if len(differences) > 1 else np.inf
