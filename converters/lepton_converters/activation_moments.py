"""What the weights of an operator multiply: means and covariances of its inputs, streamed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_converters.float_graph import FloatGraph, Operator, Window
from lepton_runtime.tensors import Array

_ROWS = 64  # outputs of one sample that are looked at
_MOST_BYTES = 2**28  # of covariances in one pass


@dataclass(frozen=True)
class Moments:
    """Of the activations that one output of an operator sees.

    Attributes:
        mean: ``(groups, taps)``; one group for all channels, or one a channel for a depthwise operator. Taps are in the order of
            :func:`as_rows`.
        covariance: ``(groups, taps, taps)``.
        count: Of how many rows.
    """

    mean: Array
    covariance: Array
    count: int


def fits(graph: FloatGraph, operator: Operator) -> bool:
    """Whether an operator is one whose weights can be fitted; those of a batched product differ from place to place."""
    if operator.weight is None or operator.kind not in ("Gemm", "MatMul"):
        return operator.window is not None
    return graph.constant(operator.weight).ndim == 2


def measure_moments(
    graph: FloatGraph, operators: Sequence[Operator], batches: Iterator[Mapping[str, Array]], *, seed: int
) -> dict[tuple[str, str | None], Moments]:
    """The moments of what each weight of those operators multiplies, by its name and that of the bias which is added.

    Args:
        graph: Where they are in.
        operators: Of one :func:`grouped_by_size`.
        batches: Inputs of the graph.
        seed: Of the choice of outputs that are looked at, up to 64 a sample.
    """
    sums: dict[tuple[str, str | None], tuple[int, Array, Array]] = {}
    generator = np.random.default_rng(seed)
    names = tuple(dict.fromkeys(operator.inputs[0] for operator in operators))
    for values in graph.values(batches, names):
        for operator in operators:
            rows = _rows(operator, values[operator.inputs[0]], generator)  # (groups, rows, taps)
            key = (operator.weight or "", operator.bias)
            count, total, products = sums.get(key, (0, np.zeros(1), np.zeros(1)))
            found = np.matmul(rows.transpose(0, 2, 1), rows)
            sums[key] = (count + rows.shape[1], total + rows.sum(axis=1, dtype=np.float64), products + found)
    moments = {}
    for key, (count, total, products) in sums.items():
        mean = total / count
        moments[key] = Moments(mean, products / count - mean[:, :, None] * mean[:, None, :], count)
    return moments


def grouped_by_size(graph: FloatGraph, operators: Sequence[Operator]) -> Iterator[list[Operator]]:
    """The operators in groups whose covariances fit into a quarter of a GiB; what is larger is a group of its own.

    Those that share a weight are in one group.
    """
    readers: dict[str, list[Operator]] = {}
    for operator in operators:
        readers.setdefault(operator.weight or "", []).append(operator)
    group: list[Operator] = []
    size = 0
    for name, found in readers.items():
        groups, taps = as_rows(graph.constant(name), found[0]).shape[::2]
        needed = 8 * groups * taps**2 * len({operator.bias for operator in found})
        if group and size + needed > _MOST_BYTES:
            yield group
            group, size = [], 0
        group += found
        size += needed
    if group:
        yield group


def as_rows(weights: Array, operator: Operator) -> Array:
    """The weights as ``(groups, outputs, taps)``: what is multiplied by the rows of :class:`Moments`.

    Taps run over the kernel first and the input channels last.
    """
    moved = np.moveaxis(weights, operator.output_axis, 0)
    if operator.input_axis is None:
        return moved.reshape(moved.shape[0], 1, -1)
    axis = operator.input_axis + (operator.input_axis < operator.output_axis)
    return np.moveaxis(moved, axis, -1).reshape(1, moved.shape[0], -1)


def from_rows(rows: Array, operator: Operator, shape: Sequence[int]) -> Array:
    """What :func:`as_rows` was made of, in that shape."""
    order = [operator.output_axis, *(axis for axis in range(len(shape)) if axis not in (operator.output_axis, operator.input_axis))]
    order += [] if operator.input_axis is None else [operator.input_axis]
    return np.ascontiguousarray(rows.reshape([shape[axis] for axis in order]).transpose(np.argsort(order)))


def _rows(operator: Operator, values: Array, generator: np.random.Generator) -> Array:
    """Some of the rows that the weights multiply, ``(groups, rows, taps)`` float32."""
    channels_last = np.moveaxis(values, operator.channel_axis, -1)
    if operator.window is None:
        flat = channels_last.reshape(-1, channels_last.shape[-1])
        return flat[_chosen(len(flat), _ROWS * len(values), generator)][None]
    taps = np.stack([_windows(sample, operator.window, generator) for sample in channels_last])  # (samples, rows, kernel, channels)
    rows = taps.reshape(-1, *taps.shape[2:])
    return rows.transpose(2, 0, 1) if operator.input_axis is None else rows.reshape(1, len(rows), -1)


def _windows(sample: Array, window: Window, generator: np.random.Generator) -> Array:
    """What some outputs see of one sample ``(…, channels)``: ``(rows, kernel, channels)``."""
    places = np.unravel_index(_chosen(int(np.prod(window.sizes)), _ROWS, generator), window.sizes)
    kernel = np.stack(np.meshgrid(*map(np.arange, window.kernel), indexing="ij")).reshape(len(window.kernel), -1)
    inside = np.ones((len(places[0]), kernel.shape[1]), bool)
    indices = []
    for dimension, (place, taps) in enumerate(zip(places, kernel, strict=True)):
        index = place[:, None] * window.strides[dimension] + taps[None] * window.dilations[dimension] - window.pads[dimension]
        inside &= (index >= 0) & (index < sample.shape[dimension])
        indices.append(np.clip(index, 0, sample.shape[dimension] - 1))
    seen: Array = sample[tuple(indices)] * inside[..., None]
    return seen


def _chosen(count: int, most: int, generator: np.random.Generator) -> Array:
    return np.arange(count) if count <= most else np.sort(generator.choice(count, most, replace=False))
