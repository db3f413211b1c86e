"""Samples as a person can look at them: pictures inside of a page, or a few words."""

import base64
import io
from collections.abc import Mapping

import numpy as np

from lepton_runtime.errors import MissingExtraError
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array

_SHOWN_VALUES = 6
_SHOWN_LETTERS = 80


def picture_uri(values: Array, steps: Preprocessing | FrameInput) -> str:
    """A PNG, as a ``data:`` address, of what the preprocessing made of an image.

    Args:
        values: The model's input without the batch axis.
        steps: What is taken back: standard deviation, mean and scale, and the order of axes and colors; of a frame, what it shows. Raw
            values that are nowhere above 1 are shares of 255.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError('pictures need Pillow: pip install "lepton-edge[image]"') from None
    if isinstance(steps, FrameInput):
        values, steps = steps.picture_of(values), steps.picture
    pixels = np.moveaxis(values, 0, -1) if steps.layout == "nchw" else values
    std, mean = (np.array(found, np.float32) for found in (steps.std, steps.mean))
    raw = (pixels * std + mean) / np.float32(steps.scale)
    raw = raw * 255 if raw.max(initial=0) <= 1 else raw
    bytes_ = np.clip(np.rint(raw), 0, 255).astype(np.uint8)
    image = Image.fromarray(bytes_[..., 0] if bytes_.shape[-1] == 1 else bytes_[..., ::-1] if steps.color == "bgr" else bytes_)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sample_text(inputs: Mapping[str, Array]) -> str:
    """The beginning of each input, in words."""
    return "; ".join(f"{name} {_values_text(values)}" if len(inputs) > 1 else _values_text(values) for name, values in inputs.items())


def _values_text(values: Array) -> str:
    if values.dtype.kind not in "biuf":
        text = " ".join(map(str, values.reshape(-1).tolist()))
        return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "…"
    shown = " ".join(f"{value:.4g}" for value in values.reshape(-1)[:_SHOWN_VALUES].tolist())
    return shown if values.size <= _SHOWN_VALUES else f"{shown} … ({values.size:,} values)"
