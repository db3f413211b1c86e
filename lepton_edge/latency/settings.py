"""How much is measured, and how."""

import re
from dataclasses import dataclass
from typing import Literal

from lepton_runtime.errors import InputError

Scenario = Literal["single-stream", "offline", "fixed-rate"]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h)")
_LARGEST = 10**6
_UNIT_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class LatencySettings:
    """How much is measured, and how.

    Attributes:
        scenario: ``single-stream``: one call after another. ``offline``: the same on growing batches, for the
            largest throughput. ``fixed-rate``: frames arrive on a clock. Source of the first two: MLPerf inference.
        processes: How many fresh processes each candidate is measured in; what differs from start to start, such as
            where its memory lies, is seen only so.
        runs: Measured calls of a candidate, at least, over all processes.
        seconds: And how long they take, at least.
        interval: Go on with more processes until the median's 95 % interval is at most this share of the median to
            either side, such as ``0.01``; or ``None``.
        max_processes: And stop there all the same.
        fps: Frames a second for ``fixed-rate``.
        duration_seconds: A sustained run of that length in one process; ``runs``, ``seconds`` and ``processes`` do
            not count then.
        warmup_runs: Calls before the measurement in each process, at least.
        warmup_seconds: And how long they take, at least.
        warmup_max_seconds: When to stop waiting for the latency to settle.
        block_seconds: How long one candidate is measured before it is the next one's turn.
    """

    scenario: Scenario = "single-stream"
    processes: int = 6
    runs: int = 200
    seconds: float = 2.0
    interval: float | None = None
    max_processes: int = 30
    fps: float | None = None
    duration_seconds: float | None = None
    warmup_runs: int = 10
    warmup_seconds: float = 0.3
    warmup_max_seconds: float = 5.0
    block_seconds: float = 0.2

    def __post_init__(self) -> None:
        positive = {
            name: getattr(self, name)
            for name in ("processes", "runs", "interval", "fps", "duration_seconds", "block_seconds")
            if getattr(self, name) is not None
        }
        for name, value in positive.items():
            if not value > 0:
                raise InputError(f"{name.replace('_', ' ')} must be more than 0, found {value:g}")
        for name, smallest in (("seconds", 0), ("interval", 0), ("fps", 1e-3), ("duration_seconds", 0)):
            value = getattr(self, name)
            if value is not None and not smallest <= value <= _LARGEST:
                raise InputError(f"{name.replace('_', ' ')} must be from {smallest:g} to {_LARGEST:,}, found {value:g}")
        if (self.scenario == "fixed-rate") != (self.fps is not None):
            raise InputError(f"a rate of frames belongs to the scenario fixed-rate, found {self.scenario} and fps {self.fps}; give both")


def parse_duration(text: str) -> float:
    """The seconds that a duration stands for.

    Raises:
        InputError: It is none.

    >>> parse_duration("1.5h")
    5400.0
    """
    found = _DURATION.fullmatch(text)
    if not found or float(found[1]) == 0:
        raise InputError(f"a duration is a number above 0 with s, m or h, such as 30m, found {text!r}")
    return float(found[1]) * _UNIT_SECONDS[found[2]]
