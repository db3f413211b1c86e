"""One measured process, seen from the process that started it."""

import json
import os
import select
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NoReturn

from lepton_edge.latency.result import Candidate, ProcessRecord
from lepton_runtime.errors import LeptonError, UnstableError

IDLE_SECONDS = 1.0
ANSWER_SECONDS = 300.0  # more than what was asked for: engines have been seen to hang while they load, and in a call
_KEPT_WARMUP = 300


class MeasuredProcess:
    """A process of :mod:`lepton_edge.latency.worker` and what it says.

    Attributes:
        candidate: What it has loaded.
        warmup_ns: Its calls that do not count, so far.
        is_settled: Whether its latency settled.
        first_run_ns: What its first answer took, the model being loaded.
        idle_cpu_ns: What it cost while nobody called it for ``IDLE_SECONDS``, once that was measured.
    """

    def __init__(self, candidate: Candidate, stack: ExitStack) -> None:
        """Start it, and wait until it has given its first answer.

        Args:
            candidate: What it loads.
            stack: Ends the process when it is closed.

        Raises:
            LeptonError: The process ended early, or gave no answer in ``ANSWER_SECONDS``; the text says how.
        """
        self.candidate = candidate
        self.warmup_ns: list[int] = []
        self.is_settled = False
        self.idle_cpu_ns: int | None = None
        self._expected_seconds = 0.0
        # Closed by the stack, as the process is ended by it.
        self._stderr = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))  # noqa: SIM115
        request = {name: getattr(candidate, name) for name in ("bundle", "file", "engine", "threads", "spins", "batch")}
        spawned_ns = perf_counter_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lepton_edge.latency.worker", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
        stack.callback(self._end)
        started = self.read()
        self.first_run_ns: int = started["first_run_ns"]
        self._times = {
            "start_ns": started["begun_ns"] - spawned_ns,
            "import_ns": started["import_ns"],
            "load_ns": started["load_ns"],
        }

    def send(self, kind: str, **request: Any) -> None:
        """Ask for something; Any: whatever JSON holds."""
        assert self._process.stdin is not None
        frames_seconds = request["frames"] / request["fps"] if kind == "frames" else 0.0
        self._expected_seconds = request.get("limit_seconds", frames_seconds)
        try:
            self._process.stdin.write(json.dumps({"kind": kind, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def read(self) -> dict[str, Any]:
        """The answer to what was sent."""
        assert self._process.stdout is not None
        limit_seconds = self._expected_seconds + ANSWER_SECONDS
        if not select.select([self._process.stdout], [], [], limit_seconds)[0]:
            self._process.kill()
            raise LeptonError(f"{self._name} must answer within {limit_seconds:.0f} s, it did not, and its process was ended")
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            self._fail()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, kind: str, **request: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self.send(kind, **request)
        return self.read()

    def cpu_ns(self) -> int | None:
        """CPU time that it has used so far."""
        return _cpu_ns(self._process.pid)

    def record(self, *, is_busy: bool) -> ProcessRecord:
        """What it was like; one that was interrupted is busy and cannot be asked for its memory."""
        memory: dict[str, Any] = {"rss_bytes": None, "peak_rss_bytes": None} if is_busy else self.ask("end")
        return ProcessRecord(
            **self._times,
            first_run_ns=self.first_run_ns,
            warmup_ns=tuple(self.warmup_ns[:_KEPT_WARMUP]),
            is_settled=self.is_settled,
            idle_cpu_ns=self.idle_cpu_ns,
            idle_ns=None if self.idle_cpu_ns is None else int(IDLE_SECONDS * 1e9),
            **memory,
        )

    @property
    def _name(self) -> str:
        return f"{self.candidate.file} on {self.candidate.engine}"

    def _fail(self) -> NoReturn:
        try:
            code = self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:  # its answers ended, it did not
            self._process.kill()
            code = self._process.wait()
        self._stderr.seek(0)
        reason = (self._stderr.read().strip().splitlines() or ["no message"])[-1]
        kind = UnstableError if code == UnstableError.exit_code else LeptonError
        raise kind(f"{self._name} must run to the end, its process ended with {code}: {reason}")

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def own_cpu_ns() -> int | None:
    """CPU time that this process has used so far, in the same ticks."""
    return _cpu_ns(os.getpid())


def _cpu_ns(process: int) -> int | None:
    """CPU time of all threads of a process, in the ticks that ``/proc/stat`` counts, too.

    Source: proc(5), ``/proc/pid/stat``: utime and stime are the 14th and 15th field; the 2nd, a name, may hold blanks.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * 10**9 // os.sysconf("SC_CLK_TCK")
