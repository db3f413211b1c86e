"""Labels that look as if they were not the model's."""

from collections.abc import Sequence

_STANDARD_ERRORS = 3  # chance alone goes beyond them once in 700 times
_LEAST_WON = 0.1  # of what the most frequent label leaves to win, where there are more than two classes; one of two is often rare


def label_doubts(accuracy: float | None, counts: Sequence[int]) -> list[str]:
    """What to check where a model is not clearly right more often than whoever always answers the most frequent label, in words.

    Where all labels are the same nobody can tell. Source: the standard error of a share p of n samples is √(p (1 − p) / n).

    Args:
        accuracy: Of the float model, 0 to 1; ``None`` without labels.
        counts: How many samples there are of each label.
    """
    if accuracy is None:
        return []
    samples = sum(counts)
    share = max(counts) / samples
    least = max(_STANDARD_ERRORS * (share * (1 - share) / samples) ** 0.5, _LEAST_WON * (1 - share) if len(counts) > 2 else 0)
    if share == 1 or accuracy > share + least:
        return []
    return [
        f"Keras itself is right on {100 * accuracy:.1f} % of the labelled samples, not clearly more than the {100 * share:.1f} % of "
        "whoever always answers the most frequent label: check the preprocessing and the order of the classes; folders count in the order "
        "of their names unless --labels gives the model's"
    ]
