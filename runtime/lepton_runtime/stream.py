"""Answers to the newest frames of a source that does not wait."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from lepton_runtime.errors import StreamError
from lepton_runtime.frames import Frame

Value = TypeVar("Value")

_FRESH = 0.25  # of the time between frames


@dataclass(frozen=True)
class Answer(Generic[Value]):
    """What was found in one frame.

    Attributes:
        value: What the stream's function gave.
        frame: The frame.
        number: Which of the source's frames it is, from 0.
        dropped: How many frames were dropped since the last answer.
        latency_s: From when the frame was there to when the answer was taken.
    """

    value: Value
    frame: Frame
    number: int
    dropped: int
    latency_s: float


class Stream(Generic[Value]):
    """Iterates over answers; of a live source always to the newest frame, older ones are dropped and counted.

    One thread takes frames from the source, another computes one answer while the last is used, and no more than one frame and
    one answer wait. A frame of a live source that has waited for more than a quarter of the time between two is left for the next,
    which is there sooner than the answer would be.

    Under systemd (``Type=notify``, ``WatchdogSec=``) each answer that is taken feeds the watchdog.

    Attributes:
        frames: How many the source gave.
        answered: How many were answered.
        dropped: How many were not, since a newer one was there.

    >>> with Stream([1, 2, 3], lambda image: image * 10) as stream:
    ...     [answer.value for answer in stream]
    [10, 20, 30]
    """

    def __init__(
        self,
        source: Iterable[Any],
        answer: Callable[[Any], Value],
        *,
        is_live: bool | None = None,
        frame_timeout_s: float | None = 5.0,
        answer_timeout_s: float | None = 5.0,
    ) -> None:
        """Start reading.

        Args:
            source: Gives frames: a :class:`~lepton_runtime.frames.Camera`, or any other iterable of images or of
                :class:`~lepton_runtime.frames.Frame`; ``None`` is no frame yet. It is read, and at the end closed if it can be, in a
                thread of the stream.
            answer: What is done with an image, such as ``session.predict``.
            is_live: Whether frames are dropped that nobody waits for; by default what the source says, else not.
            frame_timeout_s: How long the next frame of a live source may take; ``None`` for ever.
            answer_timeout_s: How long an answer may take; ``None`` for ever.
        """
        self.frames = self.answered = self.dropped = 0
        self._source, self._answer = source, answer
        self._is_live = bool(getattr(source, "is_live", False)) if is_live is None else is_live
        self._timeouts = frame_timeout_s if self._is_live else None, answer_timeout_s
        self._changed = threading.Condition()
        self._waiting: tuple[int, Frame] | None = None  # the newest frame
        self._found: tuple[Value, Frame, int] | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._ended: set[str] = set()  # of the two threads, by what they run
        self._last_frame = time.monotonic()
        self._started: float | None = None  # the answer that is computed
        self._computed = 0  # of which frame
        self._interval = 0.0
        self._dropped_before = 0
        self._threads = [threading.Thread(target=self._guarded, args=(part,), daemon=True) for part in (self._read, self._work)]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Answer[Value]]:
        return self

    def __next__(self) -> Answer[Value]:
        """The next answer.

        Raises:
            StreamError: The source gave no frame in time, or the model no answer.
            Exception: Whatever the source or the answer's function raised.
        """
        with self._changed:
            while self._found is None or self._is_closed:
                if self._is_closed:
                    raise StopIteration
                if "_work" in self._ended:  # what had been taken before an error is answered
                    self.stop()
                    if self._error is not None:
                        raise self._error
                    raise StopIteration
                self._changed.wait(self._patience())
            (value, frame, number), self._found = self._found, None
            dropped, self._dropped_before = self.dropped - self._dropped_before, self.dropped
            self.answered += 1
            self._changed.notify_all()
        _notify("READY=1\nWATCHDOG=1")
        return Answer(value, frame, number, dropped, time.monotonic() - frame.captured)

    def _patience(self) -> float | None:
        """How long to wait before one of the two is late; it is refused if one is."""
        frame_timeout, answer_timeout = self._timeouts
        since, timeout = (self._last_frame, frame_timeout) if self._started is None else (self._started, answer_timeout)
        if timeout is None:
            return None
        left = since + timeout - time.monotonic()
        if left > 0:
            return left
        self.stop()
        if self._started is None:
            raise StreamError(f"the source must give a frame every {timeout:g} s, it gave none after {self.frames}")
        raise StreamError(
            f"the model must answer within {timeout:g} s, it did not for frame {self._computed}; is another program using the cores?"
        )

    def _guarded(self, part: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            part()
        except BaseException as raised:  # noqa: BLE001  # it is raised anew where answers are waited for
            error = raised
        with self._changed:
            self._error = self._error or error
            self._ended.add(part.__name__)
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_live or self._is_closed or self._waiting is None)
                    if self._is_closed:
                        return
                    if item is not None:
                        self._put(item if isinstance(item, Frame) else Frame(item))
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _put(self, frame: Frame) -> None:
        """Let the newest frame wait, with the lock held."""
        now = time.monotonic()
        apart = now - self._last_frame
        if self.frames < 2:
            self._interval = apart
        else:  # a pause says little about the next frame
            self._interval += 0.1 * (min(apart, 2 * self._interval) - self._interval)
        if self._waiting is not None:
            self.dropped += 1
        self._last_frame, self._waiting = now, (self.frames, frame)
        self.frames += 1
        self._changed.notify_all()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            number, frame = taken
            value = self._answer(frame.image)
            with self._changed:
                self._started = None
                self._found = value, frame, number
                self._changed.notify_all()

    def _take(self) -> tuple[int, Frame] | None:
        """The frame to work on, once it is there and the last answer has been taken; ``None`` after the last."""
        left: int | None = None  # for a fresher one, which is then taken however late this thread wakes: else it might leave all
        with self._changed:
            while not self._is_closed:
                if self._waiting is None and "_read" in self._ended:
                    return None
                wait: float | None = None
                if self._waiting is not None and self._found is None:
                    number, frame = self._waiting
                    wait = self._wait_for_fresher(frame) if left in (None, number) else 0.0
                    left = number
                    if wait <= 0:
                        taken, self._waiting = self._waiting, None
                        self._started, self._computed = time.monotonic(), taken[0]
                        self._changed.notify_all()
                        return taken
                self._changed.wait(wait)
        return None

    def _wait_for_fresher(self, frame: Frame) -> float:
        """How long the next frame is worth waiting for."""
        age = time.monotonic() - frame.captured
        if not self._is_live or "_read" in self._ended or age <= _FRESH * self._interval:
            return 0.0
        return 1.5 * self._interval - age

    def stop(self) -> None:
        """End the iteration; for signal handlers and other threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def close(self, *, grace_s: float = 1.0) -> None:
        """Stop, and wait for the source to be closed; a thread that hangs in it, or in the model, is left behind after a while."""
        self.stop()
        until = time.monotonic() + grace_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> "Stream[Value]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _notify(state: str) -> None:
    """Tell systemd that all is well, where it asks for it.

    Source: systemd's sd_notify(3): one datagram to the socket that the environment names; ``@`` is for the abstract namespace.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        import socket  # for services

        # As sd_notify(3) advises: that nobody listens is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
