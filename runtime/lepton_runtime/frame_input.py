"""What a camera gives, for bundles whose models take it as it is: the layout of its bytes, and what is done to them inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lepton_runtime.errors import InputError
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array, cast_exactly

MOST_LENGTH = 16_384  # no camera has more, and a manifest that says so fills the memory
PixelFormat = Literal["rgb", "bgr", "gray", "nv12", "yuyv"]

# What y - 16, u - 128 and v - 128 count for in red, green and blue, in units of 2**-20, for studio-range BT.601.
# Source: ITU-R BT.601-7, section 2.5; the rounding to whole numbers is OpenCV's, color_yuv.simd.hpp.
YUV_BITS = 20
YUV_TO_RGB = np.array([[1220542, 1220542, 1220542], [0, -409993, 2116026], [1673527, -852492, 0]])
_RGB_TO_YUV = np.array([[269484, -155188, 460324], [528482, -305135, -385875], [102760, 460324, -74448]])


@dataclass(frozen=True)
class FrameInput:
    """The preprocessing of a bundle whose models hold it themselves: they take ``uint8`` frames.

    Attributes:
        pixels: ``rgb`` and ``bgr`` are ``(height, width, 3)``, ``gray`` is ``(height, width, 1)``; ``nv12`` is
            ``(height * 3 / 2, width)``, brightness above pairs of u and v; ``yuyv`` is ``(height, width, 2)``. The last two are
            BT.601 in studio range (16 to 235), as cameras send it.
        size: ``(height, width)`` of the frame in pixels.
        folded: What the models do to the frame, as RGB or gray, first.
    """

    pixels: PixelFormat
    size: tuple[int, int]
    folded: Preprocessing

    def __post_init__(self) -> None:
        if self.pixels not in get_args(PixelFormat):
            raise InputError(f"a frame's pixels are {', '.join(get_args(PixelFormat))}, found {self.pixels!r}")
        if len(self.size) != 2 or not all(type(length) is int for length in self.size):
            raise InputError(f"a frame's size is a height and a width in pixels, found {self.size!r}")
        height, width = self.size
        if max(height, width) > MOST_LENGTH:
            raise InputError(f"a frame has at most {MOST_LENGTH} pixels in height and width, found {height}×{width}")
        if min(height, width) < 1 or (self.pixels in ("nv12", "yuyv") and width % 2) or (self.pixels == "nv12" and height % 2):
            even = {"nv12": "an even height and width", "yuyv": "an even width"}.get(self.pixels, "a height and a width")
            raise InputError(f"a frame of {self.pixels} needs {even}, at least 1, found {height}×{width}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that holds a frame, without the batch axis."""
        height, width = self.size
        if self.pixels == "nv12":
            return (height * 3 // 2, width)
        return (height, width, {"yuyv": 2, "gray": 1}.get(self.pixels, 3))

    @cached_property
    def picture(self) -> Preprocessing:
        """The steps from any picture to one of the frame's size, RGB or gray."""
        is_gray = self.pixels == "gray"
        return Preprocessing(
            size=self.size,
            channels=1 if is_gray else 3,
            resize=self.folded.resize,
            interpolation=self.folded.interpolation,
            color="gray" if is_gray else "rgb",
            dtype="uint8",
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "FrameInput":
        """What :meth:`to_dict` wrote.

        Raises:
            InputError: A value does not fit.
        """
        try:
            if set(settings) != {"pixels", "size", "folded"}:
                raise InputError(f"a frame has pixels, size and folded, found {', '.join(map(repr, settings))}")
            height, width = settings["size"]
            return cls(settings["pixels"], (height, width), Preprocessing.from_dict(settings["folded"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a frame has a value that does not fit: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, ready for JSON."""
        return {"pixels": self.pixels, "size": list(self.size), "folded": self.folded.to_dict()}

    def load(self, path: str | Path) -> Array:
        """The frame that a camera would have sent of the picture in a file, ``uint8`` of :attr:`shape`.

        Raises:
            InputError: The file is missing or not an image; or its size does not fit and nothing is resized.
            MissingExtraError: Pillow is not installed.
        """
        return self._sent(self.picture.load(path))

    def apply(self, picture: Array) -> Array:
        """The frame that a camera would have sent of a picture.

        Args:
            picture: ``(height, width, channels)`` or ``(height, width)``, RGB or gray, of any size that can be resized; 0 to 255.

        Raises:
            InputError: It is no such picture, but perhaps a frame.
            MissingExtraError: It must be resized or converted, and Pillow is not installed.
        """
        if picture.dtype.kind not in "biuf":
            raise InputError(f"a picture must hold numbers, found {picture.dtype}")
        if self.pixels == "nv12" and picture.shape == self.shape:
            raise InputError(
                f"a picture of (height, width, channels) is needed, found a frame, {self}; the models take it: run(frame[None])"
            )
        return self._sent(self.picture.apply(cast_exactly(picture, "uint8")))

    def _sent(self, picture: Array) -> Array:
        if self.pixels in ("rgb", "gray"):
            return picture
        if self.pixels == "bgr":
            return np.ascontiguousarray(picture[:, :, ::-1])
        height, width = self.size
        parts = (picture.astype(np.int64) @ _RGB_TO_YUV + np.array([16, 128, 128]) * 2**YUV_BITS) / 2**YUV_BITS
        rows = 2 if self.pixels == "nv12" else 1
        chroma = parts[:, :, 1:].reshape(height // rows, rows, width // 2, 2, 2).mean(axis=(1, 3))
        luma, chroma = (np.rint(values).astype(np.uint8) for values in (parts[:, :, 0], chroma))
        if self.pixels == "nv12":
            return np.concatenate([luma, chroma.reshape(height // 2, width)])
        return np.stack([luma, chroma.reshape(height, width)], axis=2)

    def picture_of(self, frame: Array) -> Array:
        """What a frame shows, ``(height, width, channels)`` uint8, RGB or gray.

        Args:
            frame: Of :attr:`shape`, uint8.
        """
        height, width = self.size
        if self.pixels in ("rgb", "gray"):
            return frame
        if self.pixels == "bgr":
            return frame[:, :, ::-1]
        if self.pixels == "nv12":
            luma = frame[:height]
            chroma = frame[height:].reshape(height // 2, width // 2, 2).repeat(2, axis=0).repeat(2, axis=1)
        else:
            luma = frame[:, :, 0]
            chroma = frame[:, :, 1].reshape(height, width // 2, 2).repeat(2, axis=1)
        parts = np.concatenate([luma[:, :, None], chroma], axis=2).astype(np.int64)
        centered = np.maximum(parts - np.array([16, 128, 128]), [0, -128, -128])
        rounded = (centered @ YUV_TO_RGB + 2 ** (YUV_BITS - 1)) >> YUV_BITS
        picture: Array = np.clip(rounded, 0, 255).astype(np.uint8)
        return picture

    def unfolded(self, frame: Array) -> Array:
        """What the network behind gets of a frame, without the batch axis: the steps that the models hold, done here.

        Raises:
            MissingExtraError: It must be resized or converted, and Pillow is not installed.
        """
        return self.folded.apply(self.picture_of(frame))

    def __str__(self) -> str:
        return f"{self.pixels} of {self.size[0]}×{self.size[1]} pixels, {self.shape} uint8"
