"""Which outputs of a network are scores and boxes, and what answers are made of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lepton_runtime.answers import Answers
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

MOST_PLACE = 8192.0  # farther out boxes end here, so that one wild box does not take the precision of all others
_BOXES, _IOU = 100, 0.5  # unless it is said
_VARIANCES = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AnswerPlan:
    """Everything that the steps need to know.

    Attributes:
        answers: What the bundle says of them.
        scores: The network's output with scores: ``(batch, classes)``, or of a detector ``(1, boxes, classes)``.
        boxes: That with boxes, ``(1, boxes, 4)``; the same one, if it holds a box and then its scores.
        anchors: ``(boxes, 4)`` float32, centers, width and height; ``None`` without.
        is_upright: Whether a single output has a column for each box, and not a row.
    """

    answers: Answers
    scores: TensorSpec
    boxes: TensorSpec | None = None
    anchors: Array | None = None
    is_upright: bool = False

    @property
    def lowest(self) -> float:
        """What a score must be above."""
        return float(np.finfo(np.float32).min) if self.answers.threshold is None else self.answers.threshold

    @property
    def count(self) -> int:
        """How many boxes there are."""
        return self.scores.shape[2 if self.is_upright else 1] or 0

    @property
    def classes(self) -> int:
        """How many there are."""
        if self.boxes is None:
            return self.scores.shape[1] or 0
        columns = self.scores.shape[1 if self.is_upright else 2] or 0
        return columns - 4 if self.boxes is self.scores else columns


def plan_answers(
    outputs: Sequence[TensorSpec],
    answers: Answers,
    *,
    inputs: Sequence[TensorSpec] = (),
    labels: Sequence[str] | None = None,
    anchors: str | Path | None = None,
    variances: Sequence[float] | None = None,
) -> AnswerPlan:
    """Which outputs are what.

    Args:
        outputs: The network's.
        answers: What is asked for.
        inputs: The network's, whose names answers cannot have.
        labels: One a class, if they are known.
        anchors: A file with them, for a detector whose boxes are offsets.
        variances: What these are multiplied by; 1 by default.

    Raises:
        InputError: Labels or anchors do not fit, or are no file of numbers.
        UnsupportedError: The outputs are not those of such a network.
    """
    if any(spec.shape[0] is None for spec in outputs):
        raise UnsupportedError("steps behind the network need a fixed batch, found --batch dynamic; give a number")
    if any(spec.dtype != "float32" for spec in outputs):
        raise UnsupportedError(f"steps behind the network take real numbers of float32, found {', '.join(map(str, outputs))}")
    taken = {"scores", "classes", "boxes"} & {spec.name for spec in inputs}
    if answers.top_k is not None and taken:
        raise UnsupportedError(f"answers are called scores, classes and boxes, found an input {min(taken)!r}; rename it in the model")
    if answers.boxes is None:
        return _plan_classes(outputs, answers)
    plan = _plan_boxes(outputs, answers, labels)
    return plan if anchors is None else _with_anchors(plan, Path(anchors), tuple(variances or _VARIANCES))


def _plan_classes(outputs: Sequence[TensorSpec], answers: Answers) -> AnswerPlan:
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or (outputs[0].shape[1] or 0) < 2:
        found = ", ".join(map(str, outputs))
        raise UnsupportedError(f"--top-k, --threshold and --activation are for a network with one output of class scores, found {found}")
    if (answers.top_k or 1) > (outputs[0].shape[1] or 0):
        raise InputError(f"--top-k must be at most the number of classes, {outputs[0].shape[1]}, found {answers.top_k}")
    return AnswerPlan(answers, outputs[0])


def _plan_boxes(outputs: Sequence[TensorSpec], answers: Answers, labels: Sequence[str] | None) -> AnswerPlan:
    lengths = [tuple(axis or 0 for axis in spec.shape) for spec in outputs]
    if not all(len(shape) == 3 and shape[0] == 1 and 0 not in shape for shape in lengths) or len(outputs) > 2:
        raise _not_detecting(outputs)
    if len(outputs) == 1:
        _, rows, columns = lengths[0]
        wanted = 4 + len(labels or ())
        is_upright = rows == wanted if wanted in (rows, columns) and rows != columns else rows < columns
        plan = AnswerPlan(answers, outputs[0], outputs[0], is_upright=is_upright)
    else:
        four = [spec for spec in outputs if spec.shape[2] == 4]
        four = [spec for spec in four if "box" in spec.name.lower()] if len(four) > 1 else four
        if len(four) != 1 or lengths[0][1] != lengths[1][1]:
            raise _not_detecting(outputs)
        plan = AnswerPlan(answers, next(spec for spec in outputs if spec is not four[0]), four[0])
    if plan.classes < 1:
        raise _not_detecting(outputs)
    if labels is not None and len(labels) != plan.classes:
        raise InputError(
            f"one label a class is needed, {len(labels)} are given ({', '.join(labels[:12])}) and the network has {plan.classes} classes "
            f"({plan.scores}); give {plan.classes} names with --labels"
        )
    if (answers.top_k or 1) > plan.count:
        raise InputError(f"--top-k must be at most the number of boxes, {plan.count}, found {answers.top_k}")
    known = replace(answers, top_k=answers.top_k or min(plan.count, _BOXES), iou=_IOU if answers.iou is None else answers.iou)
    return replace(plan, answers=known)


def _with_anchors(plan: AnswerPlan, path: Path, variances: tuple[float, ...]) -> AnswerPlan:
    try:
        anchors: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--anchors must be a .npy file of numbers, found {str(path)!r}, which is none") from error
    if anchors.shape != (plan.count, 4) or anchors.dtype.kind not in "iuf" or not np.isfinite(anchors).all():
        raise InputError(f"--anchors must be ({plan.count}, 4) finite numbers, one row a box, found {anchors.shape} {anchors.dtype}")
    anchors = np.ascontiguousarray(anchors, np.float32)
    digest = hashlib.sha256(anchors.tobytes()).hexdigest()
    return replace(plan, answers=replace(plan.answers, anchors=digest, variances=variances), anchors=anchors)


def _not_detecting(outputs: Sequence[TensorSpec]) -> UnsupportedError:
    return UnsupportedError(
        "--boxes is for a batch of 1 and outputs of one size: (1, boxes, 4), with 'box' in its name where the other is like it, and "
        "(1, boxes, classes); or both side by side, (1, boxes, 4 + classes) or (1, 4 + classes, boxes); "
        f"found {', '.join(map(str, outputs))}"
    )
