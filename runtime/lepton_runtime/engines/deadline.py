"""Calls that end by a deadline: one thread of this process tells the engines of those to stop that do not."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lepton_runtime.errors import CallTimeoutError

_LONGEST_WAIT_S = 3600.0  # a condition takes no more than some years


class _Call:
    def __init__(self, stop: Callable[[], object], ends_s: float) -> None:
        self.stop, self.ends_s, self.is_stopped = stop, ends_s, False


class _Watch:
    """The calls under way that have a deadline, and the thread that sleeps until the next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: set[_Call] = set()
        self._wakes_s = math.inf
        self._thread: threading.Thread | None = None

    def add(self, call: _Call) -> None:
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="lepton-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._calls.add(call)
            if call.ends_s < self._wakes_s:
                self._changed.notify()

    def remove(self, call: _Call) -> None:
        with self._changed:
            self._calls.discard(call)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for call in [call for call in self._calls if call.ends_s <= now]:
                    self._calls.discard(call)
                    call.is_stopped = True
                    call.stop()
                self._wakes_s = min((call.ends_s for call in self._calls), default=math.inf)
                self._changed.wait(None if self._wakes_s == math.inf else min(max(0.0, self._wakes_s - now), _LONGEST_WAIT_S))


_watch = _Watch()
WATCHING = _Watch._watch.__code__
"""By which the thread is known that watches."""


@contextmanager
def deadline(seconds: float, stop: Callable[[], object]) -> Iterator[_Call]:
    """Call ``stop`` from another thread if the block is not done in time; the call's ``is_stopped`` says whether it was.

    Args:
        seconds: How long the block may take.
        stop: Returns at once, and raises nothing.
    """
    call = _Call(stop, time.monotonic() + seconds)
    _watch.add(call)
    try:
        yield call
    finally:
        _watch.remove(call)


def timed_out(seconds: float) -> CallTimeoutError:
    """What to raise for a call that was stopped."""
    return CallTimeoutError(
        f"a call may take {seconds:g} s, this one took longer and was stopped; allow more with timeout_s, or take a faster model"
    )


def _forget() -> None:
    """In a process that was forked off: the thread is the parent's."""
    _watch.__init__()  # type: ignore[misc]  # as new


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
