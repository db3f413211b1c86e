"""The steps from a network's outputs to answers, such that the network can hold them; and the same in numpy, to compare with."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lepton_converters.tensor_program import Program, Tensor, number
from lepton_runtime.answers import Answers
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

_BOXES, _IOU = 100, 0.5  # unless it is said
_VARIANCES = (1.0, 1.0, 1.0, 1.0)
_NO_CLASS = np.array(-1, np.int32)
MOST_PLACE = 8192.0  # farther out boxes end here, so that one wild box does not take the precision of all others
LOWEST = float(np.finfo(np.float32).min)


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


def add_answer_steps(program: Program, outputs: Mapping[str, Tensor], plan: AnswerPlan) -> dict[str, Tensor]:
    """The answers, by the names of the new outputs.

    Args:
        program: What the steps are added to.
        outputs: The network's, by name.
        plan: What to do.
    """
    answers = plan.answers
    if plan.boxes is not None:
        return _detections(program, outputs, plan)
    scores = outputs[plan.scores.name]
    if answers.top_k is None:
        return {plan.scores.name: _activated(program, scores, plan)}
    # Ranked before the activation, which keeps their order: rounded to 1 or 0, many would be alike.
    best, classes = program.top_k(scores, answers.top_k)
    if answers.activation == "softmax":
        best = program.top_k(program.softmax(scores), answers.top_k)[0]
    elif answers.activation == "sigmoid":
        best = program.sigmoid(best)
    if answers.threshold is None:
        return {"scores": best, "classes": classes}
    is_kept = program.greater(best, number(answers.threshold))
    return {"scores": program.select(is_kept, best, number(0)), "classes": program.select(is_kept, classes, _NO_CLASS)}


def _activated(program: Program, scores: Tensor, plan: AnswerPlan) -> Tensor:
    if plan.answers.activation == "none":
        return scores
    return program.softmax(scores) if plan.answers.activation == "softmax" else program.sigmoid(scores)


def _detections(program: Program, outputs: Mapping[str, Tensor], plan: AnswerPlan) -> dict[str, Tensor]:
    """Boxes in the order of their scores, then those that no better one covers: LiteRT's suppression keeps no order among equals."""
    answers, assumed = plan.answers, plan.boxes
    assert assumed is not None
    assert answers.top_k is not None
    assert answers.iou is not None
    boxes, scores = _parts(program, outputs, plan)
    rank, classes = (program.reshape(found, (-1,)) for found in program.top_k(scores, 1))
    best = rank
    if answers.activation == "softmax":
        rank = best = program.reshape(program.top_k(program.softmax(scores), 1)[0], (-1,))
    elif answers.activation == "sigmoid":
        best = program.sigmoid(rank)
    corners = _corners(program, boxes, plan)
    is_kept = program.both(program.greater(best, number(_lowest(answers))), _has_area(program, corners))
    corners = program.select(program.reshape(is_kept, (-1, 1)), corners, number(0))
    corners = program.elementwise("minimum", program.elementwise("maximum", corners, number(-MOST_PLACE)), number(MOST_PLACE))

    count = rank.shape[0]
    order = program.top_k(program.select(is_kept, rank, number(LOWEST)), count)[1]
    corners, best, classes = (program.take(found, order, axis=0) for found in (corners, best, classes))
    was_kept = program.greater(program.take(program.cast(is_kept, "float32"), order, axis=0), number(0))
    apart = program.elementwise("add", corners, _places_of_classes(program, classes, corners, plan.classes))
    is_kept = program.both(was_kept, _has_area(program, apart))
    falling = program.select(is_kept, np.arange(count, 0, -1, dtype=np.float32), number(0))
    places, found_count = program.suppress(apart, falling, count=answers.top_k, iou=answers.iou, threshold=0.0)

    is_there = program.greater(found_count, np.arange(answers.top_k, dtype=np.int32))
    corners, best, classes = (program.take(found, places, axis=0) for found in (corners, best, classes))
    return {
        "boxes": program.reshape(program.select(program.reshape(is_there, (-1, 1)), corners, number(0)), (1, answers.top_k, 4)),
        "scores": program.reshape(program.select(is_there, best, number(0)), (1, answers.top_k)),
        "classes": program.reshape(program.select(is_there, classes, _NO_CLASS), (1, answers.top_k)),
    }


def _parts(program: Program, outputs: Mapping[str, Tensor], plan: AnswerPlan) -> tuple[Tensor, Tensor]:
    """The boxes ``(boxes, 4)`` and the scores ``(boxes, classes)``."""
    assert plan.boxes is not None
    values = outputs[plan.scores.name]
    if plan.boxes is not plan.scores:
        boxes = outputs[plan.boxes.name]
        return program.reshape(boxes, boxes.shape[1:]), program.reshape(values, values.shape[1:])
    values = program.transpose(values, (0, 2, 1)) if plan.is_upright else values
    values = program.reshape(values, values.shape[1:])
    return program.slice(values, 0, 4, axis=1), program.slice(values, 4, values.shape[1] - 4, axis=1)


def _has_area(program: Program, corners: Tensor) -> Tensor:
    """Whether right is right of left, and bottom below top; not where one is NaN."""
    low, high = program.slice(corners, 0, 2, axis=1), program.slice(corners, 2, 2, axis=1)
    is_long = program.greater(high, low)
    across, down = (program.reshape(program.slice(is_long, axis, 1, axis=1), (-1,)) for axis in (0, 1))
    return program.both(across, down)


def _places_of_classes(program: Program, classes: Tensor, corners: Tensor, count: int) -> Tensor:
    """What is added to boxes, so that those of one class do not cover those of another: each class gets a square of its own."""
    flat = program.reshape(corners, (1, -1))
    highest, lowest = program.top_k(flat, 1)[0], program.top_k(program.elementwise("multiply", flat, number(-1)), 1)[0]
    span = program.elementwise("add", program.elementwise("add", highest, lowest), number(1))
    side = math.isqrt(count - 1) + 1
    squares = np.array([[place % side, place // side] * 2 for place in range(count)], np.float32)
    return program.elementwise("multiply", program.pick(squares, classes), span)


def _lowest(answers: Answers) -> float:
    return LOWEST if answers.threshold is None else answers.threshold


def _corners(program: Program, boxes: Tensor, plan: AnswerPlan) -> Tensor:
    """Left, top, right and bottom of each box."""
    kind = plan.answers.boxes
    if plan.anchors is not None:
        anchors = np.asarray(plan.anchors, np.float32)
        offsets = program.elementwise("multiply", boxes, np.array(plan.answers.variances, np.float32))
        center = program.elementwise("multiply", program.slice(offsets, 0, 2, axis=1), anchors[:, 2:])
        center = program.elementwise("add", center, anchors[:, :2])
        lengths = program.elementwise("multiply", program.exponential(program.slice(offsets, 2, 2, axis=1)), anchors[:, 2:])
    elif kind in ("xyxy", "yxyx"):
        return boxes if kind == "xyxy" else program.take(boxes, [1, 0, 3, 2], axis=1)
    else:
        center, lengths = program.slice(boxes, 0, 2, axis=1), program.slice(boxes, 2, 2, axis=1)
    if kind == "xywh":
        return program.concatenate([center, program.elementwise("add", center, lengths)], axis=1)
    halves = program.elementwise("multiply", lengths, number(0.5))
    return program.concatenate(
        [program.elementwise("subtract", center, halves), program.elementwise("add", center, halves)],
        axis=1,
    )


def answers_of(outputs: Mapping[str, Array], plan: AnswerPlan) -> dict[str, Array]:
    """What the steps give, in numpy.

    Args:
        outputs: The network's, by name, one row a sample.
        plan: What to do.
    """
    if plan.boxes is not None:
        rows = [_detected({name: values[row] for name, values in outputs.items()}, plan) for row in range(len(outputs[plan.scores.name]))]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    raw = outputs[plan.scores.name]
    scores = _activate(raw, plan)
    if plan.answers.top_k is None:
        return {plan.scores.name: scores}
    order = np.argsort(-raw, axis=1, kind="stable")[:, : plan.answers.top_k]
    best = np.take_along_axis(scores, order, axis=1)
    is_kept = best > _lowest(plan.answers) if plan.answers.threshold is not None else np.ones_like(best, bool)
    return {"scores": np.where(is_kept, best, np.float32(0)), "classes": np.where(is_kept, order, -1).astype(np.int32)}


def _activate(scores: Array, plan: AnswerPlan) -> Array:
    if plan.answers.activation == "sigmoid":
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-scores)), np.float32)
    if plan.answers.activation == "softmax":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
    return scores


def _detected(outputs: Mapping[str, Array], plan: AnswerPlan) -> dict[str, Array]:
    """The boxes of one sample."""
    answers, assumed, values = plan.answers, plan.boxes, outputs[plan.scores.name]
    assert assumed is not None
    assert answers.top_k is not None
    assert answers.iou is not None
    if assumed is plan.scores:
        values = values.T if plan.is_upright else values
        boxes, scores = values[:, :4], values[:, 4:]
    else:
        boxes, scores = outputs[assumed.name], values
    classes, best = scores.argmax(axis=1), _activate(scores, plan).max(axis=1)
    rank = best if answers.activation == "softmax" else scores.max(axis=1)
    corners = _corner_array(boxes, plan)
    is_kept = (best > _lowest(answers)) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
    corners = np.clip(corners, -MOST_PLACE, MOST_PLACE)
    kept: list[int] = []
    for place in np.argsort(-rank, kind="stable").tolist():
        if len(kept) == answers.top_k:
            break
        rivals = [other for other in kept if classes[other] == classes[place]]
        if is_kept[place] and not any(_shared(corners[place], corners[other]) > answers.iou for other in rivals):
            kept.append(place)
    found = {"boxes": np.zeros((answers.top_k, 4), np.float32), "scores": np.zeros(answers.top_k, np.float32)}
    found["boxes"][: len(kept)], found["scores"][: len(kept)] = corners[kept], best[kept]
    numbers = np.full(answers.top_k, -1, np.int32)
    numbers[: len(kept)] = classes[kept]
    return {**found, "classes": numbers}


def _corner_array(boxes: Array, plan: AnswerPlan) -> Array:
    kind = plan.answers.boxes
    if plan.anchors is not None:
        anchors = np.asarray(plan.anchors, np.float32)
        offsets = boxes * np.array(plan.answers.variances, np.float32)
        center, lengths = offsets[:, :2] * anchors[:, 2:] + anchors[:, :2], np.exp(offsets[:, 2:]) * anchors[:, 2:]
    elif kind in ("xyxy", "yxyx"):
        return boxes if kind == "xyxy" else boxes[:, [1, 0, 3, 2]]
    else:
        center, lengths = boxes[:, :2], boxes[:, 2:]
    if kind == "xywh":
        return np.concatenate([center, center + lengths], axis=1)
    return np.concatenate([center - lengths * np.float32(0.5), center + lengths * np.float32(0.5)], axis=1)


def _shared(box: Array, other: Array) -> float:
    """What two boxes have in common, as a part of what they cover together."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (sum(float(np.prod(one[2:] - one[:2])) for one in (box, other)) - common)
