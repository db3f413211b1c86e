"""The steps from a network's outputs to answers, such that the network can hold them; and the same in numpy, to compare with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_converters.tensor_program import Program, Tensor, number
from lepton_runtime.answers import Answers
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.tensors import Array, TensorSpec

_VARIANCES = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AnswerPlan:
    """Everything that the steps need to know.

    Attributes:
        answers: What the bundle says of them.
        scores: The network's output with scores: ``(batch, classes)``, or of a detector ``(1, boxes, classes)``.
        boxes: That with boxes, ``(1, boxes, 4)``; the same one, if it holds a box and then its scores.
        anchors: ``(boxes, 4)`` float32, centers, width and height; ``None`` without.
        variances: What offsets from anchors are multiplied by.
    """

    answers: Answers
    scores: TensorSpec
    boxes: TensorSpec | None = None
    anchors: Array | None = None
    variances: tuple[float, ...] = _VARIANCES

    @property
    def classes(self) -> int:
        """How many there are."""
        _, rows, columns = self.scores.shape if self.boxes else (0, 0, self.scores.shape[1])
        return (min(rows or 0, columns or 0) - 4) if self.boxes is self.scores else columns or 0

    @property
    def is_upright(self) -> bool:
        """Whether a single output has a column for each box, and not a row."""
        return self.boxes is self.scores and (self.scores.shape[1] or 0) < (self.scores.shape[2] or 0)


def plan_answers(
    outputs: Sequence[TensorSpec], answers: Answers, *, anchors: str | Path | None, variances: Sequence[float] | None
) -> AnswerPlan:
    """Which outputs are what.

    Args:
        outputs: The network's.
        answers: What is asked for.
        anchors: A file with them, for a detector whose boxes are offsets.
        variances: Likewise; 1 by default.

    Raises:
        InputError: The anchors do not fit, or are no file of numbers.
        UnsupportedError: The outputs are not those of such a network.
    """
    if any(spec.shape[0] is None for spec in outputs):
        raise UnsupportedError("steps behind the network need a fixed batch, found --batch dynamic; give a number")
    if answers.boxes is None:
        return _plan_classes(outputs, answers)
    return _plan_boxes(outputs, answers, None if anchors is None else _read_anchors(anchors), tuple(variances or _VARIANCES))


def _read_anchors(path: str | Path) -> Array:
    try:
        anchors: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--anchors must be a .npy file of numbers, {str(path)!r} cannot be read: {error}") from error
    return anchors


def _plan_classes(outputs: Sequence[TensorSpec], answers: Answers) -> AnswerPlan:
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or (outputs[0].shape[1] or 0) < 2:
        found = ", ".join(map(str, outputs))
        raise UnsupportedError(f"--top-k, --threshold and --activation are for a network with one output of class scores, found {found}")
    if (answers.top_k or 1) > (outputs[0].shape[1] or 0):
        raise InputError(f"--top-k must be at most the number of classes, {outputs[0].shape[1]}, found {answers.top_k}")
    return AnswerPlan(answers, outputs[0])


def _plan_boxes(outputs: Sequence[TensorSpec], answers: Answers, anchors: Array | None, variances: tuple[float, ...]) -> AnswerPlan:
    lengths = [tuple(axis or 0 for axis in spec.shape) for spec in outputs]
    if not all(len(shape) == 3 and shape[0] == 1 and 0 not in shape for shape in lengths) or len(outputs) > 2:
        raise _not_detecting(outputs)
    boxes = scores = outputs[0]
    count, width = sorted(lengths[0][1:], reverse=True)
    if len(outputs) == 2:
        four = [spec for spec in outputs if spec.shape[2] == 4]
        four = [spec for spec in four if "box" in spec.name.lower()] if len(four) > 1 else four
        if len(four) != 1 or lengths[0][1] != lengths[1][1]:
            raise _not_detecting(outputs)
        boxes = four[0]
        scores = next(spec for spec in outputs if spec is not boxes)
        count = lengths[0][1]
    elif width < 5:
        raise _not_detecting(outputs)
    if anchors is not None and (anchors.shape != (count, 4) or anchors.dtype.kind != "f" or not np.isfinite(anchors).all()):
        raise InputError(f"--anchors must be ({count}, 4) real numbers, one row a box, found {anchors.shape} {anchors.dtype}")
    return AnswerPlan(answers, scores, boxes, anchors, variances)


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
    scores = _activated(program, outputs[plan.scores.name], plan)
    if answers.top_k is None:
        return {plan.scores.name: scores}
    best, classes = program.top_k(scores, answers.top_k)
    mask = None if answers.threshold is None else program.greater(best, number(answers.threshold))
    return {"scores": _masked(program, best, mask), "classes": _classes(program, classes, mask)}


def _activated(program: Program, scores: Tensor, plan: AnswerPlan) -> Tensor:
    if plan.answers.activation == "none":
        return scores
    return program.softmax(scores) if plan.answers.activation == "softmax" else program.sigmoid(scores)


def _masked(program: Program, values: Tensor, mask: Tensor | None) -> Tensor:
    """0 where the mask is."""
    return values if mask is None else program.elementwise("multiply", values, mask)


def _classes(program: Program, classes: Tensor, mask: Tensor | None) -> Tensor:
    """-1 where the mask is 0."""
    if mask is None:
        return classes
    moved = program.elementwise("multiply", program.elementwise("add", program.cast(classes, "float32"), number(1)), mask)
    return program.cast(program.elementwise("subtract", moved, number(1)), "int32")


def _detections(program: Program, outputs: Mapping[str, Tensor], plan: AnswerPlan) -> dict[str, Tensor]:
    answers, assumed = plan.answers, plan.boxes
    assert assumed is not None
    assert answers.top_k is not None
    assert answers.iou is not None
    values = outputs[plan.scores.name]
    if assumed is plan.scores:
        values = program.transpose(values, (0, 2, 1)) if plan.is_upright else values
        values = program.reshape(values, values.shape[1:])
        boxes = program.slice(values, 0, 4, axis=1)
        scores = program.slice(values, 4, values.shape[1] - 4, axis=1)
    else:
        boxes, scores = (program.reshape(outputs[spec.name], outputs[spec.name].shape[1:]) for spec in (assumed, plan.scores))
    corners = _corners(program, boxes, plan)
    best, classes = program.top_k(_activated(program, scores, plan), 1)
    best, classes = program.reshape(best, (-1,)), program.reshape(program.cast(classes, "float32"), (-1, 1))
    # Boxes of one class must not cover those of another: each class gets a place of its own.
    flat = program.reshape(corners, (1, -1))
    highest, lowest = program.top_k(flat, 1)[0], program.top_k(program.elementwise("multiply", flat, number(-1)), 1)[0]
    span = program.elementwise("add", program.elementwise("add", highest, lowest), number(1))
    moved = program.elementwise("add", corners, program.elementwise("multiply", classes, span))
    threshold = _lowest(answers)
    places, count = program.suppress(moved, best, count=answers.top_k, iou=answers.iou, threshold=threshold)
    mask = program.cast(program.greater(count, np.arange(answers.top_k, dtype=np.int32)), "float32")
    taken = program.take(corners, places, axis=0), program.take(best, places, axis=0), program.take(classes, places, axis=0)
    rows = program.reshape(mask, (-1, 1))
    return {
        "boxes": program.reshape(program.elementwise("multiply", taken[0], rows), (1, answers.top_k, 4)),
        "scores": program.reshape(program.elementwise("multiply", taken[1], mask), (1, answers.top_k)),
        "classes": program.reshape(_classes(program, taken[2], rows), (1, answers.top_k)),
    }


def _lowest(answers: Answers) -> float:
    return float(np.finfo(np.float32).min) if answers.threshold is None else answers.threshold


def _corners(program: Program, boxes: Tensor, plan: AnswerPlan) -> Tensor:
    """Left, top, right and bottom of each box."""
    kind = plan.answers.boxes
    if plan.anchors is not None:
        anchors = np.asarray(plan.anchors, np.float32)
        offsets = program.elementwise("multiply", boxes, np.array(plan.variances, np.float32))
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
    scores = _activate(outputs[plan.scores.name], plan)
    if plan.answers.top_k is None:
        return {plan.scores.name: scores}
    order = np.argsort(-scores, axis=1, kind="stable")[:, : plan.answers.top_k]
    best = np.take_along_axis(scores, order, axis=1)
    is_kept = best > _lowest(plan.answers)
    return {"scores": np.where(is_kept, best, np.float32(0)), "classes": np.where(is_kept, order, -1).astype(np.int32)}


def _activate(scores: Array, plan: AnswerPlan) -> Array:
    if plan.answers.activation == "sigmoid":
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
    scores = _activate(scores, plan)
    corners, classes, best = _corner_array(boxes, plan), scores.argmax(axis=1), scores.max(axis=1)
    kept: list[int] = []
    for place in np.argsort(-best, kind="stable").tolist():
        if len(kept) == answers.top_k or not best[place] > _lowest(answers):
            break
        rivals = [other for other in kept if classes[other] == classes[place]]
        if not any(_shared(corners[place], corners[other]) > answers.iou for other in rivals):
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
        offsets = boxes * np.array(plan.variances, np.float32)
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
    both = [(box[axis], box[axis + 2], other[axis], other[axis + 2]) for axis in (0, 1)]
    overlap = np.prod([max(0.0, min(max(a, b), max(c, d)) - max(min(a, b), min(c, d))) for a, b, c, d in both])
    areas = [abs(float(one[2] - one[0]) * float(one[3] - one[1])) for one in (box, other)]
    return float(overlap / (sum(areas) - overlap)) if min(areas) > 0 else 0.0
