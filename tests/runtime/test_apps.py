"""What an app does to sessions: asyncio, several at once, processes that are forked off."""

import asyncio
import multiprocessing
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import InputError, LeptonError, Session, ThreadBudget


@pytest.fixture
def session() -> Iterator[Session]:
    with Session.open(shipped_bundle(), threads=2) as session:
        yield session


@pytest.fixture
def digit() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (1, 28, 28, 1)).astype(np.float32)


def loop_of(coroutine: Coroutine[Any, Any, np.ndarray | list[np.ndarray]]) -> Any:
    """What it gives in a loop of its own: in this thread one may be running, as the browser's driver leaves it behind."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def test_answers_can_be_awaited(session: Session, digit: np.ndarray) -> None:
    async def many() -> list[np.ndarray]:
        return await asyncio.gather(*(session.run_async(digit) for _ in range(20)))

    for answer in loop_of(many()):
        np.testing.assert_array_equal(answer, session.run(digit))


def test_the_loop_goes_on_while_a_model_computes(session: Session, digit: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    run = session.run
    monkeypatch.setattr(session, "run", lambda inputs: released.wait(10) and run(inputs))

    async def both() -> np.ndarray:
        task = asyncio.create_task(session.run_async(digit))
        await asyncio.sleep(0.05)
        assert not task.done()
        released.set()
        return await task

    np.testing.assert_array_equal(loop_of(both()), run(digit))


def test_awaited_input_that_does_not_fit_is_refused(session: Session) -> None:
    with pytest.raises(InputError, match="shape"):
        loop_of(session.run_async(np.zeros((1, 2), np.float32)))


class Counting:
    """An engine that knows how many threads compute at a time."""

    def __init__(self) -> None:
        self.lock, self.now, self.most, self.calls = threading.Lock(), 0, 0, 0

    def entered(self, threads: int) -> None:
        with self.lock:
            self.now, self.calls = self.now + threads, self.calls + 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.002)
        with self.lock:
            self.now -= threads


@pytest.mark.parametrize("bound", [False, True])
def test_sessions_that_share_a_budget_keep_to_it(digit: np.ndarray, monkeypatch: pytest.MonkeyPatch, bound: bool) -> None:
    budget, counting = ThreadBudget(2), Counting()
    sessions = [Session.open(shipped_bundle(), threads=threads, budget=budget) for threads in (1, 2, 1, 1)]
    expected = [session.run(digit) for session in sessions]
    for session in sessions:
        inner, threads = session._engine._engine, session.threads

        class Counted:
            def __init__(self, inner: object, threads: int) -> None:
                self.inner, self.threads = inner, threads

            def run(self, arrays):
                counting.entered(self.threads)
                return self.inner.run(arrays)

            def bind(self, arrays, outputs):
                call = self.inner.bind(arrays, outputs)
                return lambda: (counting.entered(self.threads), call())

        session._engine._engine = Counted(inner, threads)

    def calls(number: int) -> bool:
        session, out = sessions[number % 4], np.empty((1, 10), np.float32) if bound else None
        return all(np.array_equal(session.run(digit.copy() if out is None else digit, out=out), expected[number % 4]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(4 if bound else 8)))
    assert counting.calls >= 80
    assert counting.most <= 2
    for session in sessions:
        session.close()


def test_who_comes_first_is_served_first() -> None:
    budget, order = ThreadBudget(2), []
    started = [threading.Event() for _ in range(2)]

    def use(name: str, threads: int, event: threading.Event) -> None:
        event.set()
        with budget.take(threads):
            order.append(name)

    with budget.take(1):
        users = []
        for name, threads, event in (("two", 2, started[0]), ("one", 1, started[1])):
            users.append(threading.Thread(target=use, args=(name, threads, event)))
            users[-1].start()
            event.wait(5)
            for _ in range(10_000):
                if len(budget._queue) == len(users):
                    break
                threading.Event().wait(0.001)
            assert len(budget._queue) == len(users)
        assert order == []  # one thread is free, and whoever wants two is not overtaken
    for user in users:
        user.join(5)
    assert order == ["two", "one"]


def test_a_budget_that_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="a thread budget must be a whole number of at least 1, found 0"):
        ThreadBudget(0)
    with pytest.raises(InputError, match="no more threads than its budget of 1, found 2"):
        Session.open(shipped_bundle(), threads=2, budget=ThreadBudget(1))


def _answers(session: Session, digit: np.ndarray, queue) -> None:
    out = np.empty((1, 10), np.float32)
    queue.put((session.run(digit), session.run(digit, out=out).copy()))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks with threads: that they work is tested here
def test_a_session_works_in_a_forked_process_also_while_threads_compute(digit: np.ndarray) -> None:
    fork = multiprocessing.get_context("fork")
    budget, stop = ThreadBudget(2), threading.Event()
    with Session.open(shipped_bundle(), threads=2, budget=budget) as session:
        expected = session.run(digit)
        session.run(digit, out=np.empty((1, 10), np.float32))

        def keep_busy() -> None:
            while not stop.is_set():
                session.run(digit.copy())

        threads = [threading.Thread(target=keep_busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                queue = fork.SimpleQueue()
                child = fork.Process(target=_answers, args=(session, digit, queue))
                child.start()
                child.join(30)
                assert child.exitcode == 0
                for answer in queue.get():
                    np.testing.assert_array_equal(answer, expected)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        np.testing.assert_array_equal(session.run(digit), expected)


def _ends(session: Session, queue) -> None:
    try:
        session.run(np.zeros((1, 28, 28, 1), np.float32))
    except LeptonError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_closed_session_stays_closed_in_a_forked_process() -> None:
    fork = multiprocessing.get_context("fork")
    session = Session.open(shipped_bundle())
    session.close()
    queue = fork.SimpleQueue()
    child = fork.Process(target=_ends, args=(session, queue))
    child.start()
    child.join(30)
    assert "it was closed" in queue.get()


def _draws(session: Session, queue) -> None:
    queue.put(session._generator.random())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_processes_draw_noise_of_their_own() -> None:
    fork = multiprocessing.get_context("fork")
    with Session.open(shipped_bundle()) as session:
        session._generator = np.random.default_rng()  # as of a model that keeps its dropout
        queue = fork.SimpleQueue()
        for _ in range(2):
            child = fork.Process(target=_draws, args=(session, queue))
            child.start()
            child.join(30)
        assert len({queue.get(), queue.get(), session._generator.random()}) == 3
