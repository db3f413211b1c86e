"""What a bundle's models do behind the network: scores as probabilities, the best classes, or the boxes of a detector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lepton_runtime.errors import InputError
from lepton_runtime.labels import Prediction
from lepton_runtime.tensors import Array

Activation = Literal["none", "softmax", "sigmoid"]
BoxFormat = Literal["xyxy", "yxyx", "xywh", "center_xywh"]  # as Keras names them
MOST_SHARED = 0.99  # above it, LiteRT 2.3 gives the best box again and again


@dataclass(frozen=True)
class Detection(Prediction):
    """One object that was found.

    Attributes:
        box: Left, top, right and bottom, in the units of the network's boxes.
    """

    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Answers:
    """Steps behind the network, which the models hold.

    With ``top_k`` they give ``scores`` ``(batch, top_k)`` and ``classes`` ``(batch, top_k)`` int32, the best first; with ``boxes`` also
    ``boxes`` ``(batch, top_k, 4)``, left, top, right and bottom. What is not above the threshold has class -1 and 0 elsewhere.

    Attributes:
        activation: What scores go through first.
        top_k: How many answers there are; ``None`` for all scores, in the order of the classes. Boxes are 100 if nothing is asked for, or
            all that there are if these are fewer.
        threshold: Answers need a score above it; ``None`` for all.
        boxes: How the network gives boxes, for a detector.
        iou: Of two boxes of one class that share more than this part of what they cover together, 0 to 0.99, the better one stays;
            0.5 if nothing is asked for.
        anchors: The SHA-256 digest of the anchors that the network's boxes are offsets from, ``(boxes, 4)`` float32; ``None`` without.
        variances: What these offsets are multiplied by.
    """

    activation: Activation = "none"
    top_k: int | None = None
    threshold: float | None = None
    boxes: BoxFormat | None = None
    iou: float | None = None
    anchors: str | None = None
    variances: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation) or self.boxes not in (None, *get_args(BoxFormat)):
            raise InputError(
                f"answers have an activation of {', '.join(get_args(Activation))} and boxes of {', '.join(get_args(BoxFormat))} or none, "
                f"found {self.activation!r} and {self.boxes!r}"
            )
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise InputError(f"answers must be a whole number of at least 1, found {self.top_k!r}")
        if self.threshold is not None:
            self._check_threshold(self.threshold)
        if self.boxes is None and self.iou is not None:
            raise InputError(f"--iou is the part that boxes may share: give it with --boxes, found {self.iou!r} alone")
        if self.iou is not None and not (_is_finite(self.iou) and 0 <= self.iou <= MOST_SHARED):
            raise InputError(f"the part that a box may share with a better one is 0 to {MOST_SHARED}, found {self.iou!r}")
        if self.anchors is not None and self.boxes != "center_xywh":
            raise InputError(f"offsets from anchors are of centers, widths and heights: give --boxes center_xywh, found {self.boxes!r}")

    def _check_threshold(self, threshold: float) -> None:
        if self.top_k is None and self.boxes is None:
            raise InputError("a threshold is for the best answers: give --threshold with --top-k, or with --boxes")
        if not _is_finite(threshold):
            raise InputError(f"a threshold is a finite number, found {threshold!r}")
        if self.activation != "none" and not 0 <= threshold < 1:
            raise InputError(f"scores behind {self.activation} are 0 to 1, and a threshold is 0 or more and below 1, found {threshold!r}")

    def named(self, outputs: Mapping[str, Array], labels: Sequence[str] | None, *, count: int | None = None) -> list[list[Prediction]]:
        """The answers to each sample, the best first; with their boxes, where there are some.

        Args:
            outputs: Of models that give the best classes: ``scores``, ``classes`` and perhaps ``boxes``.
            labels: One name a class; without them its number is the name.
            count: How many at the most.
        """
        found: list[list[Prediction]] = []
        for row, classes in enumerate(outputs["classes"]):
            kept = [(place, int(number)) for place, number in enumerate(classes[:count]) if number >= 0]
            names = [(place, _label(labels, number), float(outputs["scores"][row, place])) for place, number in kept]
            if self.boxes:
                boxes = outputs["boxes"][row].astype(float).tolist()
                found.append([Detection(label, score, tuple(boxes[place])) for place, label, score in names])
            else:
                found.append([Prediction(label, score) for _, label, score in names])
        return found


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _label(labels: Sequence[str] | None, number: int) -> str:
    return str(labels[number]) if labels and number < len(labels) else str(number)
