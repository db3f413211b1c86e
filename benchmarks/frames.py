"""What a frame of 480×640 costs from the camera's bytes to the answer: inside of the file, in Python, and with OpenCV, alternating.

python benchmarks/frames.py MODEL.keras [ROUNDS]

MODEL takes RGB pictures of one size; its numbers are ``pixel / 127.5 - 1``, cropped from the frame's middle. Three ways to the same
network: ``inside``, a bundle made with ``--input uint8``; ``Pillow``, the recorded preprocessing, as ``Session.predict`` does it;
``OpenCV``, cvtColor, resize and numpy, whose pixels are others (it does not average what it makes smaller).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns

import cv2
import numpy as np

from lepton_converters import export
from lepton_edge.device import read_device
from lepton_runtime import FrameInput, Session
from lepton_runtime.preprocess import resized_place
from lepton_runtime.versions import installed_versions

CALLS = 20  # a round and way
SIZE = (480, 640)
_PACKAGES = ("lepton-edge", "onnxruntime", "ai-edge-litert", "pillow", "numpy")
STEPS = {"resize": "crop", "color": "rgb", "scale": "1/127.5", "mean": 1.0}
CODES = {
    "rgb": None,
    "bgr": cv2.COLOR_BGR2RGB,
    "gray": cv2.COLOR_GRAY2RGB,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}


def with_opencv(frame: np.ndarray, pixels: str, size: tuple[int, int]) -> np.ndarray:
    """What many apps do."""
    code = CODES[pixels]
    picture = frame if code is None else cv2.cvtColor(frame, code)
    place = resized_place(picture.shape[:2], size, mode="crop")
    resized = cv2.resize(picture, (place.width, place.height))
    cut = resized[place.top : place.top + size[0], place.left : place.left + size[1]]
    return (cut.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1))[None]


def medians_of(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds a call: the median of the medians of rounds, in turns there and back."""

    def median(call: Callable[[], object]) -> float:
        samples = []
        for _ in range(CALLS):
            started = perf_counter_ns()
            call()
            samples.append(perf_counter_ns() - started)
        return statistics.median(samples) / 1e6

    found: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        median(call)
    for _ in range(rounds):
        for name in (*ways, *reversed(ways)):
            found[name].append(median(ways[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def main(model: Path, rounds: int) -> None:
    """Print a table."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(_PACKAGES)}")
    print(f"opencv {cv2.__version__}; 1 thread; {2 * rounds} rounds of {CALLS} calls; ms, and in brackets the ratio to inside")
    print("| frame | file | network alone | inside | Pillow | OpenCV |\n| --- | --- | ---: | ---: | ---: | ---: |")
    options = {"precisions": ["fp32"], "preprocessing": STEPS}
    with tempfile.TemporaryDirectory() as folder:
        plain = export(model, Path(folder) / "plain.bundle", **options).path
        for pixels in CODES:
            path = export(model, Path(folder) / f"{pixels}.bundle", **options, input_="uint8", pixels=pixels, frame_size=SIZE).path
            for engine in ("onnxruntime", "litert"):
                with Session.open(path, engine=engine) as inside, Session.open(plain, engine=engine) as outside:
                    print(row(inside, outside, rounds), flush=True)


def row(inside: Session, outside: Session, rounds: int) -> str:
    """One frame layout on one engine."""
    steps = inside.bundle.manifest.preprocessing
    assert isinstance(steps, FrameInput)
    frame = np.random.default_rng(0).integers(0, 256, steps.shape, np.uint8)
    batch, ready = frame[None], steps.unfolded(frame)[None]
    height, width = steps.folded.size
    assert np.array_equal(inside.run(batch), outside.run(ready))
    found = medians_of(
        {
            "alone": lambda: outside.run(ready),
            "inside": lambda: inside.run(batch),
            "Pillow": lambda: outside.run(steps.unfolded(frame)[None]),
            "OpenCV": lambda: outside.run(with_opencv(frame, steps.pixels, (height, width))),
        },
        rounds,
    )
    ratios = " | ".join(f"{found[name]:.2f} ({found[name] / found['inside']:.2f})" for name in ("Pillow", "OpenCV"))
    return f"| {steps.pixels} | {inside.artifact.format} | {found['alone']:.2f} | {found['inside']:.2f} | {ratios} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
