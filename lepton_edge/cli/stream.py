"""Answers to frame after frame, one line of JSON each."""

import json
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np

from lepton_edge.report.terminal import without_nan
from lepton_runtime.errors import InputError
from lepton_runtime.frames import Camera, Folder, Video
from lepton_runtime.manifest import Manifest
from lepton_runtime.session import Session
from lepton_runtime.stream import Answer, Stream
from lepton_runtime.tensors import Array

_REMEMBERED = 4096  # latencies, for the median: a camera may run for months


def open_source(
    camera: int | None, video: Path | None, folder: Path | None, *, watch: bool, size: tuple[int, int] | None = None
) -> Camera | Video | Folder:
    """What gives the frames.

    Args:
        camera: Its number.
        video: Its file.
        folder: Where pictures are.
        watch: Whether to wait for more of them.
        size: Height and width that a camera is asked for.

    Raises:
        InputError: The video or the folder cannot be read.
        MissingExtraError: What reads it is not installed.
        StreamError: The camera cannot be opened.
    """
    if camera is not None:
        return Camera(camera, size=size)
    if video is not None:
        return Video(video)
    assert folder is not None
    return Folder(folder, watch=watch)


def is_named(manifest: Manifest) -> bool:
    """Whether answers are shown by their names: scores of classes that have some, or the best classes."""
    return bool(manifest.labels) or (manifest.answers is not None and manifest.answers.top_k is not None)


def print_answers(
    session: Session, source: Camera | Video | Folder, *, count: int | None, top: int | None, timeout_s: float, strict: bool
) -> None:
    """Print a line an answer, until the source ends, there are enough, or a signal comes; then what became of the frames, on stderr.

    Args:
        session: What answers.
        source: What gives the frames.
        count: How many answers are enough; ``None`` for all.
        top: How many classes an answer names; see :meth:`lepton_runtime.Session.predict`.
        timeout_s: How long a camera's frame, or an answer, may take.
        strict: Whether an image file that cannot be answered is an error at the end, and not in its line only.

    Raises:
        InputError: Images of the folder could not be answered, which their lines say; or a frame does not fit the model.
        StreamError: The camera fails, or a frame or an answer is late.
    """
    has_names = is_named(session.bundle.manifest)

    def answer(image: Array | Path) -> dict[str, Any]:
        try:
            outputs = session.run({session.artifact.inputs[0].name: session.preprocess(image)})
        except InputError as error:
            if not isinstance(image, Path):
                raise
            return {"error": str(error)}
        if has_names and (named := session.named(outputs, count=top)):
            return {"top": [asdict(one) for one in named[0]]}
        return {"outputs": {spec.name: spec.dequantize(outputs[spec.name]).tolist() for spec in session.artifact.outputs}}

    latencies: deque[float] = deque(maxlen=_REMEMBERED)
    worst, failed = 0.0, 0
    with Stream(source, answer, frame_timeout_s=timeout_s, answer_timeout_s=timeout_s) as stream, ended_by_signals(stream.stop):
        try:
            for found in stream:
                click.echo(json.dumps(without_nan(_line(found)), allow_nan=False))
                latencies.append(found.latency_s)
                worst, failed = max(worst, found.latency_s), failed + ("error" in found.value)
                if stream.answered == count:
                    break
        finally:
            times = f", latency median {1e3 * np.median(latencies):.1f} ms, worst {1e3 * worst:.1f} ms" if latencies else ""
            faults = f"{failed} not readable, " if failed else ""
            click.echo(f"{stream.frames} frames, {stream.answered - failed} answered, {faults}{stream.dropped} dropped{times}", err=True)
    if failed and strict:
        raise InputError(f"every image must fit the model, {failed} of {stream.answered} did not; their lines have an 'error'")


def _line(found: Answer[dict[str, Any]]) -> dict[str, Any]:
    name = {"name": found.frame.name} if found.frame.name else {}
    return {"frame": found.number, **name, "latency_ms": round(1e3 * found.latency_s, 3), "dropped": found.dropped, **found.value}


@contextmanager
def ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM, as systemd sends it, and Ctrl-C are the ordinary way to end."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
