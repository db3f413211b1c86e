"""Weights as 8-bit integers with a scale a channel: how far they reach, what they become, and how to lose less by it."""

from dataclasses import dataclass

import numpy as np

from lepton_runtime.tensors import Array

_SMALLEST = np.float32(1e-30)  # of a channel's largest weight
_CLIPS = np.linspace(1.0, 0.5, 26)
_DAMPING = 0.01
_FARTHEST = 2  # integers from the nearest one
_SWEEPS = 8


@dataclass(frozen=True)
class WeightScheme:
    """How one operator's weights become integers.

    Attributes:
        axis: Of the weights, the one with a scale for each of its places.
        largest: The largest integer, of either sign: 127, or 64 where the sum of two products with unsigned 8-bit activations
            must stay below ``2 ** 15``.
        is_shared: Whether all channels have the same scale.
    """

    axis: int
    largest: int
    is_shared: bool = False

    def scales(self, weights: Array) -> Array:
        """The value of the integer 1 in each channel, ``(channels,)`` float32."""
        limits = np.abs(self._by_channel(weights)).max(axis=1, initial=0)
        limits = np.full_like(limits, limits.max(initial=0)) if self.is_shared else limits
        return np.asarray(np.maximum(limits, _SMALLEST) / np.float32(self.largest), np.float32)

    def rounded(self, weights: Array) -> Array:
        """The weights that the integers stand for."""
        scales = self._spread(self.scales(weights), weights.ndim)
        return np.asarray(np.rint(weights / scales) * scales, np.float32)

    def clipped(self, weights: Array, importance: Array | None = None) -> Array:
        """The weights with the largest of each channel cut off where that lowers the error of the whole channel.

        Args:
            weights: As they are.
            importance: How much an error of each weight counts, of a shape that broadcasts to the weights'; the mean square
                of the activation that it multiplies makes the error that of the operator's output.

        Source: Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1, MSE range.
        """
        largest = self._spread(np.abs(self._by_channel(weights)).max(axis=1, initial=0), weights.ndim)
        best, least = weights, np.full(weights.shape[self.axis], np.inf)
        for clip in _CLIPS:
            candidate = np.clip(weights, -clip * largest, clip * largest).astype(np.float32)
            squares = (self.rounded(candidate).astype(np.float64) - weights) ** 2 * (1 if importance is None else importance)
            errors = self._by_channel(squares).sum(axis=1)
            is_better = errors < least
            best = np.where(self._spread(is_better, weights.ndim), candidate, best)
            least = np.where(is_better, errors, least)
        return best

    def _by_channel(self, weights: Array) -> Array:
        return np.moveaxis(weights, self.axis, 0).reshape(weights.shape[self.axis], -1)

    def _spread(self, values: Array, rank: int) -> Array:
        return along_axis(values, self.axis, rank)


def along_axis(values: Array, axis: int, rank: int) -> Array:
    """One value a channel, in a shape that broadcasts to an array of that rank."""
    return values.reshape([-1 if position == axis else 1 for position in range(rank)])


def fit_rounding(start: Array, weights: Array, scales: Array, covariance: Array, *, largest: int) -> Array:
    """Integers for the weights of which the operator's outputs, not the weights themselves, are nearest.

    Rounding each weight up or down on its own leaves errors that add up where activations go together. Here each weight
    in turn takes the integer that is best beside the others, until none changes: the squared error of an output is a
    quadratic form of the weights' errors, with the activations' covariance for a matrix. The largest weight of each
    channel stays, since the scale is read off it.

    Args:
        start: The weights, perhaps clipped, ``(outputs, taps)``.
        weights: As they were, ``(outputs, taps)``.
        scales: The value of the integer 1, ``(outputs,)``.
        covariance: Of the activations, ``(taps, taps)``.
        largest: The largest integer, of either sign.

    Returns:
        Integers, ``(outputs, taps)``.

    Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", equation 13.
    """
    exact = weights / scales.astype(np.float64)[:, None]
    nearest = np.rint(start / scales.astype(np.float64)[:, None])
    integers = nearest.copy()
    # Without a little of the identity, activations that never changed would let their weights go anywhere.
    matrix = covariance + np.eye(len(covariance)) * (_DAMPING * np.trace(covariance) / len(covariance) + _SMALLEST)
    is_largest = np.abs(integers) >= np.abs(integers).max(axis=1, keepdims=True)
    low, high = (np.where(is_largest, nearest, np.clip(nearest + end, -largest, largest)) for end in (-_FARTHEST, _FARTHEST))
    slopes = (integers - exact) @ matrix
    for _ in range(_SWEEPS):
        before = integers.copy()
        for tap in range(weights.shape[1]):
            wanted = np.rint(integers[:, tap] - slopes[:, tap] / matrix[tap, tap])
            changed = np.clip(wanted, low[:, tap], high[:, tap]) - integers[:, tap]
            if changed.any():
                slopes += changed[:, None] * matrix[tap]
                integers[:, tap] += changed
        if np.array_equal(before, integers):
            break
    return np.asarray(integers)
