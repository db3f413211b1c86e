"""The whole-number weights with which Pillow resizes one axis of a picture."""

import numpy as np

from lepton_runtime.errors import UnsupportedError
from lepton_runtime.preprocess import Interpolation
from lepton_runtime.tensors import Array

WEIGHT_BITS = 22


def resize_weights(found: int, wanted: int, *, interpolation: Interpolation, start: int = 0, length: int | None = None) -> Array:
    """What each of the found pixels of a row counts for each of a window of the wanted ones, in units of ``2**-22``.

    A wanted pixel is the sum of products, plus a half, rounded down.

    Args:
        found: Pixels that there are.
        wanted: Pixels that they become.
        interpolation: ``nearest`` or ``bilinear``.
        start: The first of these in the window; where that begins before them or ends behind, nothing counts.
        length: Pixels in the window; all by default.

    Returns:
        ``(length, found)`` int64; none is negative.

    Raises:
        UnsupportedError: Another interpolation.

    Source:
        Pillow, libImaging/Resample.c: ``precompute_coeffs`` and ``normalize_coeffs_8bpc``; Geometry.c, ``ImagingScaleAffine``.

    >>> resize_weights(4, 2, interpolation="nearest").argmax(axis=1)
    array([1, 3])
    """
    if interpolation not in ("nearest", "bilinear"):
        raise UnsupportedError(f"a resize inside the network is bilinear or nearest, found {interpolation!r}; resize in front of it")
    length = wanted if length is None else length
    weights = np.zeros((length, found), np.int64)
    scale = found / wanted
    reach = max(scale, 1.0)
    centers = np.add.accumulate([scale * 0.5, *[scale] * (wanted - 1)])  # with the rounding that adds up, for nearest
    for place in range(max(start, 0), min(start + length, wanted)):
        if interpolation == "nearest":
            weights[place - start, min(int(centers[place]), found - 1)] = 1 << WEIGHT_BITS
            continue
        center = (place + 0.5) * scale
        first, last = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), found)
        parts = np.array([max(0.0, 1 - abs((pixel - center + 0.5) * (1.0 / reach))) for pixel in range(first, last)])
        parts /= np.add.accumulate(parts)[-1]  # not numpy's sum, which adds up pairs
        weights[place - start, first:last] = (parts * (1 << WEIGHT_BITS) + 0.5).astype(np.int64)
    return weights
