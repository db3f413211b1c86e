"""The whole-number weights with which Pillow resizes one axis of a picture."""

import numpy as np

from lepton_runtime.errors import UnsupportedError
from lepton_runtime.preprocess import Interpolation
from lepton_runtime.tensors import Array

WEIGHT_BITS = 22


def resize_weights(found: int, wanted: int, *, interpolation: Interpolation) -> Array:
    """What each of the found pixels of a row counts for each of the wanted ones, in units of ``2**-22``.

    A wanted pixel is the sum of products, plus a half, rounded down.

    Args:
        found: Pixels that there are.
        wanted: Pixels that are wanted.
        interpolation: ``nearest`` or ``bilinear``.

    Returns:
        ``(wanted, found)`` int64; none is negative.

    Raises:
        UnsupportedError: Another interpolation.

    Source:
        Pillow, libImaging/Resample.c: ``precompute_coeffs`` and ``normalize_coeffs_8bpc``; Geometry.c, ``ImagingScaleAffine``.

    >>> resize_weights(4, 2, interpolation="nearest").argmax(axis=1)
    array([1, 3])
    """
    weights = np.zeros((wanted, found), np.int64)
    scale = found / wanted
    if interpolation == "nearest":
        centers = np.add.accumulate([scale * 0.5, *[scale] * (wanted - 1)])  # with the rounding that adds up
        weights[np.arange(wanted), np.minimum(centers.astype(int), found - 1)] = 1 << WEIGHT_BITS
        return weights
    if interpolation != "bilinear":
        raise UnsupportedError(f"a resize inside the network is bilinear or nearest, found {interpolation!r}; resize in front of it")
    reach = max(scale, 1.0)
    for place in range(wanted):
        center = (place + 0.5) * scale
        first, last = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), found)
        parts = np.array([max(0.0, 1 - abs((place - center + 0.5) * (1.0 / reach))) for place in range(first, last)])
        parts /= np.add.accumulate(parts)[-1]  # not numpy's sum, which adds up pairs
        weights[place, first:last] = (parts * (1 << WEIGHT_BITS) + 0.5).astype(np.int64)
    return weights
