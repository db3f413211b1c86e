"""Frames as cameras give them, and the pictures that they hold."""

import numpy as np
import pytest

from lepton_runtime import FrameInput, InputError, Preprocessing
from lepton_runtime.frame_input import PixelFormat
from lepton_runtime.manifest import Manifest

_STEPS = Preprocessing(size=(32, 32), channels=3, resize="crop", color="rgb", scale=1 / 255)
_YUV: list[PixelFormat] = ["nv12", "yuyv"]


def frames(pixels: PixelFormat, *, seed: int = 3) -> tuple[FrameInput, np.ndarray]:
    """A frame of any bytes."""
    source = FrameInput(pixels, (48, 64), _STEPS)
    return source, np.random.default_rng(seed).integers(0, 256, source.shape, np.uint8)


@pytest.mark.parametrize(("pixels", "code"), [("nv12", "COLOR_YUV2RGB_NV12"), ("yuyv", "COLOR_YUV2RGB_YUY2")])
def test_yuv_becomes_the_rgb_of_opencv(pixels: PixelFormat, code: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    source, frame = frames(pixels)
    assert np.array_equal(source.picture_of(frame), cv2.cvtColor(frame, getattr(cv2, code)))


@pytest.mark.parametrize(
    ("yuv", "rgb"),
    [((16, 128, 128), (0, 0, 0)), ((235, 128, 128), (255, 255, 255)), ((81, 90, 240), (254, 0, 0)), ((41, 240, 110), (0, 0, 255))],
)
def test_the_colors_of_the_standard_are_right(yuv: tuple[int, int, int], rgb: tuple[int, int, int]) -> None:
    luma, u, v = yuv
    frame = np.full((2, 2, 2), luma, np.uint8)
    frame[:, :, 1] = [u, v]
    picture = FrameInput("yuyv", (2, 2), _STEPS).picture_of(frame)
    assert np.abs(picture.astype(int) - rgb).max() <= 1  # ITU-R BT.601 has them in whole numbers, too


@pytest.mark.parametrize("pixels", ["rgb", "bgr", "nv12", "yuyv"])
def test_a_picture_comes_back_from_its_frame(pixels: PixelFormat) -> None:
    slope = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.broadcast_to(np.stack([slope, slope[::-1], slope // 2 + 64], axis=1), (48, 64, 3))
    source, _ = frames(pixels)
    frame = source.apply(np.ascontiguousarray(picture))
    assert frame.shape == source.shape
    assert frame.dtype == np.uint8
    apart = np.abs(source.picture_of(frame).astype(int) - picture).max()
    assert apart <= (12 if pixels in _YUV else 0)  # two neighbors share their color, which are 12 levels apart at the most here


def test_a_frame_is_not_taken_for_a_gray_picture() -> None:
    source, frame = frames("nv12")
    with pytest.raises(
        InputError, match=r"found a frame, nv12 of 48×64 pixels, \(72, 64\) uint8; the models take it: run\(frame\[None\]\)"
    ):
        source.apply(frame)


@pytest.mark.parametrize(("pixels", "size"), [("nv12", (47, 64)), ("nv12", (48, 63)), ("yuyv", (48, 63)), ("rgb", (0, 4))])
def test_pairs_of_pixels_must_be_whole(pixels: PixelFormat, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least 1, found"):
        FrameInput(pixels, size, _STEPS)


@pytest.mark.parametrize("picture", [None, [[None]], np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(InputError, match=r"must h(old|ave) (numbers|pixels)"):
        frames("rgb")[0].apply(np.asarray(picture))


def test_an_unknown_layout_lists_those_that_are_known() -> None:
    with pytest.raises(InputError, match="rgb, bgr, gray, nv12, yuyv, found 'rgba'"):
        FrameInput.from_dict({**frames("rgb")[0].to_dict(), "pixels": "rgba"})


def test_it_is_read_as_it_was_written() -> None:
    source, _ = frames("yuyv")
    manifest = Manifest({}, (), (), source, None, (), None)  # type: ignore[arg-type]  # the golden arrays are of no matter here
    assert FrameInput.from_dict(manifest.to_dict()["preprocessing"]) == source


@pytest.mark.parametrize(
    "change",
    [
        {"size": [48]},
        {"size": "48x64"},
        {"size": "12"},
        {"size": [2.5, 4]},
        {"size": [60_000, 60_000]},
        {"more": 1},
        {"folded": {"resize": "zoom"}},
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        FrameInput.from_dict({**frames("rgb")[0].to_dict(), **change})
