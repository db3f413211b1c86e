"""Labels that look as if they were not the model's."""

from collections.abc import Sequence

_STANDARD_ERRORS = 3  # chance alone goes beyond them once in 700 times


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
    if share == 1 or accuracy > share + _STANDARD_ERRORS * (share * (1 - share) / samples) ** 0.5:
        return []
    return [
        f"Keras itself is right on {100 * accuracy:.1f} % of the labelled samples, not clearly more than the {100 * share:.1f} % of "
        "whoever always answers the most frequent label: check the preprocessing and the order of the classes; folders count in the order "
        "of their names unless --labels gives the model's"
    ]
