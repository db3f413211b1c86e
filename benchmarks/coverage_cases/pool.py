"""Worker processes that may crash or hang: either is an outcome of the job at hand, and another process takes over."""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from coverage_cases.result import Result, Target
from coverage_cases.worker import serve

Serve = Callable[[Connection, Path, int], None]


@dataclass(frozen=True)
class Job:
    """Cells of one case, converted in one go.

    Attributes:
        case: Its name.
        targets: Which cells.
        folder: For its files.
        limit_seconds: How long it may take.
        is_doubted: Convert with the check switched off.
    """

    case: str
    targets: tuple[Target, ...]
    folder: Path
    limit_seconds: float
    is_doubted: bool = False


class Worker:
    """One process, and what it is at."""

    def __init__(self, log: Path, memory_bytes: int, serve: Serve) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, log, memory_bytes), daemon=True)
        self.process.start()
        other.close()
        self.job: Job | None = None
        self.deadline = 0.0

    def start(self, job: Job) -> None:
        """Hand it a job."""
        self.job, self.deadline = job, time.monotonic() + job.limit_seconds
        self.connection.send((job.case, job.targets, job.folder, job.is_doubted))

    def end(self, *, is_killed: bool = False) -> str:
        """Stop the process, and say how it ended."""
        if is_killed:
            self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def run(jobs: deque[Job], *, count: int, log: Path, memory_bytes: int, serve: Serve = serve) -> Iterator[tuple[Job, list[Result] | str]]:
    """Each job with its results, or with what went wrong in words.

    Args:
        jobs: What to do; jobs may be added while others are under way.
        count: How many processes work at a time.
        log: The file that gets what the processes print.
        memory_bytes: What one process may take; asking for more than that is an outcome as well.
        serve: What a process does.
    """
    workers: list[Worker] = []
    try:
        while jobs or workers:
            idle = [worker for worker in workers if worker.job is None]
            while jobs and (idle or len(workers) < count):
                worker = idle.pop() if idle else Worker(log, memory_bytes, serve)
                if worker not in workers:
                    workers.append(worker)
                worker.start(jobs.popleft())
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            until = min(worker.deadline for worker in busy)
            ready = wait([worker.connection for worker in busy], max(0.0, until - time.monotonic()))
            for worker in busy:
                if worker.connection in ready:
                    yield from _answers(worker, workers)
                elif time.monotonic() >= worker.deadline and worker.job is not None:
                    workers.remove(worker)
                    worker.end(is_killed=True)
                    yield worker.job, f"hangs: not done after {worker.job.limit_seconds:.0f} s"
    finally:
        for worker in workers:
            worker.end(is_killed=True)


def _answers(worker: Worker, workers: list[Worker]) -> Iterator[tuple[Job, list[Result] | str]]:
    job = worker.job
    if job is None:
        return
    answer: list[Result] | str
    try:
        answer, is_leaving = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        workers.remove(worker)
        answer = f"crashes: {worker.end()}"
    else:
        worker.job = None
        if is_leaving:
            workers.remove(worker)
            worker.end()
    yield job, answer
