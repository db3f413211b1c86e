"""Frames of folders, videos and cameras."""

import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lepton_runtime import Camera, Folder, InputError, MissingExtraError, StreamError, Video


@pytest.fixture
def cv2(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return pytest.importorskip("cv2", reason="needs OpenCV")


def colors(count: int) -> list[np.ndarray]:
    """Pictures of one color each, RGB."""
    return [np.full((32, 48, 3), (40 * number, 100, 250 - 40 * number), np.uint8) for number in range(count)]


@pytest.fixture
def video(cv2: Any, tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 32))
    for image in colors(5):
        writer.write(image[:, :, ::-1])
    writer.release()
    return tmp_path / "video.avi"


def test_a_videos_frames_are_rgb(video: Path) -> None:
    source = Video(video)
    images = [frame.image for frame in source]
    source.close()
    assert [image.shape for image in images] == [(32, 48, 3)] * 5
    np.testing.assert_allclose(np.array(images)[:, 16, 24], np.array(colors(5))[:, 16, 24], atol=6)  # JPEG
    assert not source.is_live


def test_what_opencv_opens_and_finds_no_frame_in_is_refused(cv2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk")
    empty = SimpleNamespace(isOpened=lambda: True, read=lambda: (False, None))
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: empty)
    with pytest.raises(InputError, match=r"must hold frames that OpenCV reads, found none in .*junk\.png"):
        list(Video(tmp_path / "junk.png"))


@pytest.mark.parametrize("name", ["missing.avi", "text.avi"])
def test_what_is_no_video_is_refused(cv2: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(InputError, match=f"a video must be a file that OpenCV reads, found .*{name}"):
        Video(tmp_path / name)


def test_a_camera_that_is_not_there_is_refused(cv2: Any) -> None:
    with pytest.raises(StreamError, match=r"camera 63 on opencv must be there and free, it cannot be opened"):
        Camera(63, backend="opencv")


def test_a_camera_that_ends_is_an_error(cv2: Any, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: real(str(video)))
    camera = Camera(0, backend="opencv", size=(32, 48))
    frames = iter(camera)
    assert [next(frames).image.shape for _ in range(5)] == [(32, 48, 3)] * 5
    with pytest.raises(StreamError, match="camera 0 on opencv must go on giving frames, it gave none"):
        next(frames)
    camera.close()
    assert camera.is_live


def test_a_camera_of_the_raspberry_pi_is_asked_for_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Picamera2:
        def __init__(self, number: int) -> None:
            if number:
                raise IndexError("list index out of range")

        def create_video_configuration(self, main: dict[str, Any]) -> dict[str, Any]:
            asked.update(main)
            return main

        def configure(self, configuration: object) -> None: ...

        def start(self) -> None: ...

        def capture_array(self, name: str) -> np.ndarray:
            return colors(1)[0]

        def close(self) -> None:
            asked["closed"] = True

    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=Picamera2))
    camera = Camera(0, backend="picamera2", size=(32, 48))
    np.testing.assert_array_equal(next(iter(camera)).image, colors(1)[0])
    camera.close()
    assert asked == {"format": "BGR888", "size": (48, 32), "closed": True}
    with pytest.raises(StreamError, match="camera 1 on picamera2 must be there and free"):
        Camera(1, backend="picamera2")


@pytest.mark.parametrize(
    ("backend", "words"), [("opencv", r'pip install "lepton-edge\[camera\]"'), ("picamera2", "apt install python3-picamera2")]
)
def test_what_reads_cameras_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, backend: str, words: str) -> None:
    for name in ("cv2", "picamera2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=words):
        Camera(0, backend=backend)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="backend is picamera2 or opencv, found 'v4l'"):
        Camera(0, backend="v4l")


def test_a_folders_images_come_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    assert [frame.name for frame in Folder(tmp_path)] == ["a.JPG", "b.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold images \(.*\.png.*\), found none"):
        Folder(tmp_path)
    with pytest.raises(InputError, match="a folder of images must be given, found "):
        Folder(tmp_path / "missing", watch=True)


def test_a_watched_folder_gives_each_file_once_it_no_longer_grows(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"x")
    assert next(iter(Folder(tmp_path, watch=True))) is None  # one look cannot tell whether it grows
    looks = iter(Folder(tmp_path, watch=True))

    def names_until(name: str) -> list[str]:
        found: list[str] = []
        until = time.monotonic() + 10
        while name not in found and time.monotonic() < until:
            frame = next(looks)
            found += [frame.name] if frame else []
        return found

    assert names_until("old.png") == ["old.png"]
    with (tmp_path / "new.png").open("wb") as file:
        for _ in range(2):
            file.write(b"part")
            file.flush()
            frame = next(looks)
            assert frame is None  # it has grown since the last look
        file.close()
        assert names_until("new.png") == ["new.png"]
    (tmp_path / "new.png").write_bytes(b"it went on after a pause")
    assert names_until("new.png") == ["new.png"]
    shutil.rmtree(tmp_path)
    with pytest.raises(StreamError, match="must stay while it is read, it has gone"):
        list(looks)
