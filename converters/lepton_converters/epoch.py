"""The epochs of a training, and which of them is the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_converters.divergence import is_lower
from lepton_runtime.tensors import Array


@dataclass(frozen=True)
class Epoch:
    """How far the training is.

    Attributes:
        number: How many epochs are over; 0 before the first.
        count: How many there will be.
        loss: The mean over the epoch; ``None`` before the first.
        held_loss: The simulated int8 network's on the held-back samples.
        score: The metric of the same.
        seconds: How long it took.
    """

    number: int
    count: int
    loss: float | None
    held_loss: float
    score: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes:
        epochs: All of them, from number 0, which is before the first.
        best: The one of these whose weights were kept.
        diverged: The number of the epoch that ended it with weights or values that are not finite, which is none of these, or ``None``.
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    diverged: int | None


def best_epoch(losses: Sequence[float], scores: Sequence[Array]) -> int:
    """The place of the lowest loss among the epochs whose score chance could have made of the highest one.

    None is taken whose score is surely below that of the beginning. Of two epochs in a row the later is the best, or the best of before
    stays, so that its weights are all that need be kept.

    Args:
        losses: Of the held-back samples, before the first epoch and after each.
        scores: Of each of these samples, the same in each epoch, ``(samples,)``; told apart as by
            :func:`lepton_converters.divergence.is_lower`.
    """

    def is_below(place: int, other: int) -> bool:
        return is_lower(1 - scores[other], 1 - scores[place])

    best = highest = 0
    for place in range(1, len(losses)):
        if scores[place].mean() > scores[highest].mean():
            highest = place
        is_as_good = not is_below(place, highest) and not is_below(place, 0)
        if is_below(best, highest) or (is_as_good and losses[place] < losses[best]):
            best = place
    return best
