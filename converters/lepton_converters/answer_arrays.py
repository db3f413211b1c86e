"""The answers in numpy, which the steps inside of a network are compared with."""

from collections.abc import Mapping

import numpy as np

from lepton_converters.answer_plan import MOST_PLACE, AnswerPlan
from lepton_runtime.tensors import Array


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
    is_kept = best > plan.lowest if plan.answers.threshold is not None else np.ones_like(best, bool)
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
    is_kept = (best > plan.lowest) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
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
