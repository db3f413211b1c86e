"""Where frames come from: a camera, a video, a folder of images."""

import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_runtime.errors import InputError, MissingExtraError, StreamError
from lepton_runtime.preprocess import IMAGE_SUFFIXES
from lepton_runtime.tensors import Array

_POLL_S = 0.2
_Stamp = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        image: ``(height, width, 3)`` uint8 in RGB order, or an image file.
        name: Of the file, or an empty text.
        captured: When it was there, on the clock of ``time.monotonic``.
    """

    image: Array | Path
    name: str = ""
    captured: float = field(default_factory=time.monotonic)


class Camera:
    """Frames of a camera, until it is closed: by picamera2 where that is installed, else by OpenCV.

    Attributes:
        is_live: Frames come whether they are wanted or not.
        backend: What reads it, ``picamera2`` or ``opencv``.
    """

    is_live = True

    def __init__(self, number: int = 0, *, backend: str | None = None, size: tuple[int, int] | None = None) -> None:
        """Open a camera.

        Args:
            number: Which, from 0.
            backend: ``picamera2`` (Raspberry Pi cameras on a ribbon cable) or ``opencv`` (USB cameras).
            size: ``(height, width)`` of the frames, as near as the camera can; by default what it gives.

        Raises:
            MissingExtraError: Neither is installed.
            StreamError: There is no such camera, or another program has it.
        """
        if backend not in (None, "picamera2", "opencv"):
            raise InputError(f"a camera's backend is picamera2 or opencv, found {backend!r}")
        self.backend = backend or ("picamera2" if _has_picamera2() else "opencv")
        self._name = f"camera {number} on {self.backend}"
        if self.backend == "picamera2":
            self._capture, self._close = _open_picamera2(number, size, self._name)
        else:
            self._capture, self._close = _open_opencv(number, size, self._name)

    def __iter__(self) -> Iterator[Frame]:
        while True:
            image = self._capture()
            if image is None:
                raise StreamError(f"{self._name} must go on giving frames, it gave none; check its cable, and that no other program has it")
            yield Frame(image)

    def close(self) -> None:
        """Give it back to others."""
        self._close()


class Video:
    """All frames of a video file, by OpenCV.

    Attributes:
        is_live: Frames wait until they are wanted.
    """

    is_live = False

    def __init__(self, path: str | Path) -> None:
        """Open a video.

        Raises:
            MissingExtraError: OpenCV is not installed.
            InputError: It is none that OpenCV reads.
        """
        self._name = str(path)
        self._video = _import_opencv().VideoCapture(str(path))
        if not (Path(path).is_file() and self._video.isOpened()):
            raise InputError(f"a video must be a file that OpenCV reads, found {str(path)!r}")

    def __iter__(self) -> Iterator[Frame]:
        frame = None
        while (image := _read_opencv(self._video)) is not None:
            frame = Frame(image)
            yield frame
        if frame is None:
            raise InputError(f"a video must hold frames that OpenCV reads, found none in {self._name!r}")

    def close(self) -> None:
        """Free the file."""
        self._video.release()


class Folder:
    """The image files of a folder, by name; with ``watch`` also those that come later, or change.

    A watched file is given once two looks, a fifth of a second apart, have found it alike; one that goes on growing after a longer
    pause is given again. Who moves finished files in is never early.

    Attributes:
        is_live: Frames wait until they are wanted.
    """

    is_live = False

    def __init__(self, path: str | Path, *, watch: bool = False) -> None:
        """Look into a folder.

        Raises:
            InputError: It is none; or there is no image in it, and none to wait for.
        """
        self._path, self._watch = Path(path), watch
        if not self._path.is_dir():
            raise InputError(f"a folder of images must be given, found {str(path)!r}")
        if not watch and not self._stamps():
            raise InputError(f"{str(path)!r} must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")

    def __iter__(self) -> Iterator[Frame | None]:
        """Frames, and ``None`` after each look at a watched folder."""
        given: dict[Path, _Stamp] = {}
        before: dict[Path, _Stamp] = {}
        while True:
            now = self._stamps()
            for path in sorted(path for path, stamp in now.items() if given.get(path) != stamp):
                if not self._watch or before.get(path) == now[path]:
                    given[path] = now[path]
                    yield Frame(path, path.name)
            if not self._watch:
                return
            given = {path: stamp for path, stamp in given.items() if path in now}
            before = now
            time.sleep(_POLL_S)
            yield None

    def _stamps(self) -> dict[Path, _Stamp]:
        """What tells a file from what it was: its length, and when it was written last."""
        try:
            paths = [path for path in self._path.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except FileNotFoundError:
            raise StreamError(f"the folder {str(self._path)!r} must stay while it is read, it has gone") from None
        found = {}
        for path in paths:
            try:
                status = path.stat()
            except FileNotFoundError:  # gone since it was listed
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                found[path] = status.st_size, status.st_mtime_ns
        return found


def _has_picamera2() -> bool:
    from importlib.util import find_spec

    return find_spec("picamera2") is not None


def _open_picamera2(number: int, size: tuple[int, int] | None, name: str) -> tuple[Callable[[], Array | None], Callable[[], None]]:
    try:
        from picamera2 import Picamera2
    except ImportError:
        raise MissingExtraError(
            "picamera2 is not installed: sudo apt install python3-picamera2 (in a venv --system-site-packages)"
        ) from None
    try:
        camera: Any = Picamera2(number)
        main = {"format": "BGR888"} | ({"size": size[::-1]} if size else {})  # named by the order of a word's bits: RGB in memory
        camera.configure(camera.create_video_configuration(main=main))
        camera.start()
    except (IndexError, RuntimeError) as error:
        raise StreamError(f"{name} must be there and free, it cannot be opened: {error}") from error
    return lambda: camera.capture_array("main"), camera.close


def _open_opencv(number: int, size: tuple[int, int] | None, name: str) -> tuple[Callable[[], Array | None], Callable[[], None]]:
    cv2 = _import_opencv()
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise StreamError(f"{name} must be there and free, it cannot be opened; `ls /dev/video*` lists what there is")
    if size:
        camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
        camera.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return lambda: _read_opencv(camera), camera.release


def _import_opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingExtraError('cameras and videos need OpenCV: pip install "lepton-edge[camera]"') from None
    return cv2


def _read_opencv(video: Any) -> Array | None:
    """The next frame in RGB order; OpenCV gives BGR."""
    is_there, image = video.read()
    return image[:, :, ::-1] if is_there else None
