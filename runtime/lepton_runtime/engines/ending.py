"""How a process ends while its daemon threads compute.

A thread that comes back from an engine's C++ while Python 3.13 or an earlier one shuts down is ended in a way that C++ takes for an
error: the process ends with SIGABRT, each time. So before Python shuts down, calls under way are waited for, and threads that begin
another end.

Source: CPython's documentation of ``PyEval_RestoreThread``; C++'s ``std::terminate`` on a forced unwind through ``noexcept``.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from lepton_runtime.engines import Engine, deadline
from lepton_runtime.tensors import Array

_LONGEST_WAIT_S = 5.0


class EndingEngine:
    """An engine of a process that ends: only the thread that ends it may still compute."""

    def __init__(self, engine: Engine) -> None:
        """Let nobody compute but the thread that calls this."""
        self._engine, self._thread = engine, threading.get_ident()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """See :class:`~lepton_runtime.engines.Engine`."""
        self._refuse()
        return self._engine.run(arrays)

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """See :class:`~lepton_runtime.engines.Engine`."""
        self._refuse()
        return self._engine.bind(arrays, outputs)

    def _refuse(self) -> None:
        if threading.get_ident() != self._thread:
            raise SystemExit  # which ends a thread without a word


def wait_for_calls() -> None:
    """Wait until no other thread is in a call; not for ever."""
    here, ends = threading.get_ident(), time.monotonic() + _LONGEST_WAIT_S
    while any(_computes(frame) for thread, frame in sys._current_frames().items() if thread != here) and time.monotonic() < ends:
        time.sleep(0.001)


def _computes(frame: FrameType | None) -> bool:
    """Whether a thread is in a session's call, by what it is in the middle of: to count calls would cost each of them."""
    is_called = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code is deadline.WATCHING:  # the thread that watches over calls
            return False
        is_called |= module == "lepton_runtime.session" or module.startswith("lepton_runtime.engines")
        frame = frame.f_back
    return is_called
