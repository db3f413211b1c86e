"""The steps from a camera's frame to the input of a network, such that the network can hold them."""

import numpy as np

from lepton_converters.resize_weights import WEIGHT_BITS, resize_weights
from lepton_converters.tensor_program import Elementwise, Program, Tensor, number
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.frame_input import YUV_BITS, YUV_TO_RGB, FrameInput
from lepton_runtime.preprocess import Preprocessing, resized_place
from lepton_runtime.tensors import Array

# Whole numbers below 2**24 are exact in float32, in whatever order an engine adds them up. Weights of more bits are split.
_LOW_BITS = {WEIGHT_BITS: 8, YUV_BITS: 10}
_MOST_SUMMED = 2**24
_BLOCK = 8  # rows that are made of one stretch: fewer cost more copies, more cost more products with 0
# Source: Pillow, libImaging/Convert.c, L24: what red, green and blue count for in gray, in units of 2**-16.
_GRAY_BITS = 16
_RGB_TO_GRAY = np.array([19595, 38470, 7471])


def add_frame_steps(program: Program, frame: Tensor, source: FrameInput) -> Tensor:
    """What :meth:`lepton_runtime.FrameInput.unfolded` gives, to the bit on onnxruntime and LiteRT.

    Args:
        program: What the steps are added to.
        frame: ``(batch, ...)`` uint8, of the shape of ``source``.
        source: Of which frame to make which input.

    Raises:
        UnsupportedError: The picture is made so much smaller that float32 cannot hold the sums; or it is resized by something
            else than ``bilinear`` and ``nearest``.
    """
    steps, height, width = source.folded, *source.size
    picture = _picture(program, frame, source)
    is_reversed = source.pixels == "bgr"
    if steps.color == "gray" and picture.shape[3] == 3:
        weights = _RGB_TO_GRAY[:: -1 if is_reversed else 1, None] * 2.0**-_GRAY_BITS
        picture = _rounded(program, program.dense(program.cast(picture, "float32"), weights))
        is_reversed = False
    if (height, width) != steps.size:
        picture = _resized(program, picture, steps)
    if picture.shape[3] < (steps.channels or 0):
        picture = program.concatenate([picture] * 3, axis=3)
    elif is_reversed != (steps.color == "bgr"):
        picture = program.dense(program.cast(picture, "float32"), np.eye(3)[::-1])  # engines are slow at taking single bytes
    return _finished(program, picture, steps)


def _picture(program: Program, frame: Tensor, source: FrameInput) -> Tensor:
    """``(batch, height, width, channels)``: RGB, BGR or gray, whole numbers from 0 to 255."""
    if source.pixels not in ("nv12", "yuyv"):
        return frame
    (height, width), batch = source.size, frame.shape[0]
    high, low = (_from_nv12 if source.pixels == "nv12" else _from_yuyv)(program, frame, batch * height, width)
    colors = _rounded(program, high, low, bits=YUV_BITS)
    colors = program.elementwise("maximum", program.elementwise("minimum", colors, number(255)), number(0))
    return program.reshape(colors, (batch, height, width, 3))


def _from_nv12(program: Program, frame: Tensor, rows: int, width: int) -> list[Tensor]:
    """Both parts of red, green and blue: those of brightness, and those of color, which two rows and two columns share."""
    luma, chroma = (
        program.cast(program.slice(frame, start, length, axis=1), "float32")
        for start, length in ((0, frame.shape[1] // 3 * 2), (frame.shape[1] // 3 * 2, frame.shape[1] // 3))
    )
    luma = program.elementwise("maximum", program.elementwise("subtract", luma, number(16)), number(0))
    chroma = program.elementwise("subtract", chroma, number(128))
    luma, chroma = program.reshape(luma, (rows, width // 2, 2)), program.reshape(chroma, (rows // 2, width // 2, 2))
    parts = []
    for of_luma, of_chroma in zip(_yuv_weights("yy"), _yuv_weights("uv"), strict=True):
        bright = program.reshape(program.dense(luma, of_luma), (rows // 2, 2, 3 * width))
        colored = program.reshape(program.dense(chroma, of_chroma), (rows // 2, 1, 3 * width))
        parts.append(program.elementwise("add", bright, colored))
    return parts


def _from_yuyv(program: Program, frame: Tensor, rows: int, width: int) -> list[Tensor]:
    """Both parts of red, green and blue."""
    # Constants as long as a row: engines repeat these much faster than such of four numbers.
    offsets, lowest = (np.tile(np.array(numbers, np.float32), width // 2) for numbers in ((16, 128, 16, 128), (0, -128, 0, -128)))
    values = program.cast(program.reshape(frame, (rows, 2 * width)), "float32")
    values = program.elementwise("maximum", program.elementwise("subtract", values, offsets), lowest)
    values = program.reshape(values, (rows, width // 2, 4))
    return [program.dense(values, part) for part in _yuv_weights("yuyv")]


def _yuv_weights(order: str) -> tuple[Array, Array]:
    """What a group of values counts for in red, green and blue of its two pixels.

    Args:
        order: What the values are, such as ``yuyv``; each ``y`` is of the next pixel.
    """
    weights = np.zeros((len(order), 2, 3), np.int64)
    pixel = 0
    for place, part in enumerate(order):
        if part == "y":
            weights[place, pixel] = YUV_TO_RGB[0]
            pixel += 1
        else:
            weights[place, :] = YUV_TO_RGB["yuv".index(part)]
    return _split(weights.reshape(len(order), 6), YUV_BITS, largest=2 * 239)


def _resized(program: Program, picture: Tensor, steps: Preprocessing) -> Tensor:
    """Across, then down, as Pillow does; what is not shown of the picture is not computed, what is outside of it is 0."""
    batch, height, width, channels = picture.shape
    wanted_height, wanted_width = fixed_size(steps)
    place = resized_place((height, width), (wanted_height, wanted_width), mode=steps.resize)
    across = resize_weights(width, place.width, interpolation=steps.interpolation, start=place.left, length=wanted_width)
    down = resize_weights(height, place.height, interpolation=steps.interpolation, start=place.top, length=wanted_height)
    # Matrices of two axes: engines transpose these much faster than pixels of three bytes.
    rows = program.transpose(program.reshape(picture, (batch * height, width * channels)), (1, 0))
    rows = _products(program, program.reshape(rows, (width, channels * batch * height)), across)
    rows = program.transpose(program.reshape(rows, (wanted_width * channels, batch * height)), (1, 0))
    rows = _rows_first(program, program.reshape(rows, (batch, height, wanted_width * channels)))
    rows = _products(program, program.reshape(rows, (height, -1)), down)
    rows = _rows_first(program, program.reshape(rows, (wanted_height, batch, wanted_width * channels)))
    return program.reshape(rows, (batch, wanted_height, wanted_width, channels))


def _rows_first(program: Program, values: Tensor) -> Tensor:
    """The first two axes swapped."""
    first, second, last = values.shape
    return program.reshape(values, (second, first, last)) if 1 in (first, second) else program.transpose(values, (1, 0, 2))


def _products(program: Program, rows: Tensor, weights: Array) -> Tensor:
    """Weighted sums of rows, rounded to whole numbers: the products of blocks, each with the stretch of rows that it needs.

    Args:
        program: What the steps are added to.
        rows: ``(rows, values)``, whole numbers from 0 to 255.
        weights: ``(wanted rows, rows)`` in units of ``2**-WEIGHT_BITS``.
    """
    wanted, found = weights.shape
    if np.array_equal(weights, np.eye(found, dtype=np.int64)[:wanted] << WEIGHT_BITS):
        return program.cast(rows if wanted == found else program.slice(rows, 0, wanted, axis=0), "float32")
    count = -(-wanted // _BLOCK)
    blocks = np.zeros((count * _BLOCK, found), np.int64)
    blocks[:wanted] = weights
    blocks = blocks.reshape(count, _BLOCK, found)
    used = [np.flatnonzero(block.any(axis=0)) for block in blocks]
    length = max(int(places[-1] - places[0]) + 1 if len(places) else 1 for places in used)
    starts = [min(int(places[0]) if len(places) else 0, found - length) for places in used]
    stretches = program.take(rows, [start + place for start in starts for place in range(length)], axis=0)
    stretches = program.cast(program.reshape(stretches, (count, length, rows.shape[1])), "float32")
    parts = np.stack([block[:, start : start + length] for block, start in zip(blocks, starts, strict=True)])
    high, low = _split(parts, WEIGHT_BITS, largest=255, axis=2)
    sums = _rounded(program, program.products(high, stretches), program.products(low, stretches), bits=WEIGHT_BITS)
    sums = program.reshape(sums, (count * _BLOCK, rows.shape[1]))
    return sums if count * _BLOCK == wanted else program.slice(sums, 0, wanted, axis=0)


def _split(weights: Array, bits: int, *, largest: int, axis: int = 0) -> tuple[Array, Array]:
    """Weights of whole numbers as two of float32 whose sums are exact: the upper bits as shares of 1, the lower of the upper's unit.

    Raises:
        UnsupportedError: There are too many in a sum.
    """
    low_bits = _LOW_BITS[bits]
    high, low = weights >> low_bits, weights & (2**low_bits - 1)
    if max(int(np.abs(part).sum(axis=axis).max()) * largest for part in (high, low)) + 2 ** (bits - low_bits) >= _MOST_SUMMED:
        raise UnsupportedError(
            "a frame must be at most a hundred times as high and as wide as the network's picture: float32 holds no larger sums"
        )
    return high * 2.0 ** (low_bits - bits), low * 2.0**-low_bits


def _rounded(program: Program, high: Tensor, low: Tensor | None = None, *, bits: int = 0) -> Tensor:
    """Sums to the nearest whole number, halves up, of what :func:`_split` made two."""
    if low is not None:
        carried = program.elementwise("multiply", program.floor(low), number(2.0 ** (_LOW_BITS[bits] - bits)))
        high = program.elementwise("add", carried, high)
    return program.floor(program.elementwise("add", high, number(0.5)))


def _finished(program: Program, picture: Tensor, steps: Preprocessing) -> Tensor:
    """The picture as numbers of the network, by the same arithmetic as :class:`lepton_runtime.Preprocessing`."""
    values = picture
    if not steps.is_unscaled:
        values = program.cast(values, "float32")
        arithmetic: tuple[tuple[Elementwise, tuple[float, ...], int], ...] = (
            ("multiply", (steps.scale,), 1),
            ("subtract", steps.mean, 0),
            ("divide", steps.std, 1),
        )
        for kind, numbers, neutral in arithmetic:
            if set(numbers) != {neutral}:
                values = program.elementwise(kind, values, np.array(numbers, np.float32))
    if steps.layout == "nchw":
        values = program.transpose(values, (0, 3, 1, 2))
    values = program.cast(values, steps.dtype)
    return values if program.operations else program.copy(values)  # bytes, for a network that takes these


def fixed_size(steps: Preprocessing) -> tuple[int, int]:
    """The height and width of the network's picture.

    Raises:
        UnsupportedError: One is free, or the input is no picture.
    """
    height, width = steps.size or (None, None)
    if height is None or width is None:
        raise UnsupportedError("frames of a camera need a network that takes pictures of one size; give it with --size HEIGHTxWIDTH")
    return height, width
