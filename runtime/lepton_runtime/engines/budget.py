"""Several sessions in one process that share the cores."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lepton_runtime.engines import Engine
from lepton_runtime.errors import InputError
from lepton_runtime.tensors import Array


class ThreadBudget:
    """How many threads the sessions that share it may use at a time; who comes first is served first.

    Attributes:
        threads: The budget.

    >>> budget = ThreadBudget(2)
    >>> with budget.take(2):
    ...     "nobody else computes"
    'nobody else computes'
    """

    def __init__(self, threads: int) -> None:
        """Share so many threads.

        Raises:
            InputError: Fewer than 1.
        """
        if not isinstance(threads, int) or threads < 1:
            raise InputError(f"a thread budget must be a whole number of at least 1, found {threads!r}")
        self.threads = threads
        self.reset()

    def reset(self) -> None:
        """Take all as free: in a process that was forked off nobody computes."""
        self._free = self.threads
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def take(self, threads: int) -> Iterator[None]:
        """Wait for so many to be free, and use them."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._free >= threads)
                self._free -= threads
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += threads
                self._changed.notify_all()


class BudgetedEngine:
    """An engine that computes only while its threads are within a budget."""

    def __init__(self, engine: Engine, budget: ThreadBudget, threads: int) -> None:
        """Put an engine under a budget.

        Raises:
            InputError: It may use more threads than there are.
        """
        if threads > budget.threads:
            raise InputError(f"a session may use no more threads than its budget of {budget.threads}, found {threads}")
        self._engine, self._budget, self._threads = engine, budget, threads

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """See :class:`~lepton_runtime.engines.Engine`."""
        with self._budget.take(self._threads):
            return self._engine.run(arrays)

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """See :class:`~lepton_runtime.engines.Engine`."""
        inner = self._engine.bind(arrays, outputs)

        def call() -> object:
            with self._budget.take(self._threads):
                return inner()

        return call
