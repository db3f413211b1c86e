"""The steps from a network's outputs to answers, such that the network can hold them."""

import math
from collections.abc import Mapping

import numpy as np

from lepton_converters.answer_plan import MOST_PLACE, AnswerPlan
from lepton_converters.tensor_program import Program, Tensor, number

_NO_CLASS = np.array(-1, np.int32)


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
    is_kept = program.both(program.greater(best, number(plan.lowest)), _has_area(program, corners))
    corners = program.select(program.reshape(is_kept, (-1, 1)), corners, number(0))
    corners = program.elementwise("minimum", program.elementwise("maximum", corners, number(-MOST_PLACE)), number(MOST_PLACE))

    count = rank.shape[0]
    order = program.top_k(program.select(is_kept, rank, number(float(np.finfo(np.float32).min))), count)[1]
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
