"""What is measured in the measured process, with clocks that are told what to say."""

import os
from collections.abc import Callable

import pytest

from lepton_edge.latency import worker
from lepton_edge.latency.worker import measure_block, measure_frames, thin
from lepton_runtime import UnstableError


class Clock:
    """A clock that moves when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def work(self, *durations: int) -> Callable[[], None]:
        """A call that takes each duration in turn, and the last one from then on."""
        left = list(durations)

        def call() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


MS = 1_000_000


def test_a_block_ends_when_enough_calls_and_enough_time_are_measured() -> None:
    clock = Clock()
    answer = measure_block(clock.work(MS), calls=20, seconds=0, limit_seconds=9, keep=1000, clock=clock)
    assert answer["samples_ns"] == [MS] * 20
    assert answer["lead_ns"] == [MS, MS]  # two milliseconds that are kept apart
    answer = measure_block(clock.work(MS), calls=1, seconds=0.05, limit_seconds=9, keep=1000, clock=clock)
    assert answer["calls"] == 50
    assert answer["measured_ns"] == answer["total_ns"] == 50 * MS


def test_a_block_ends_at_its_limit_but_not_before_five_calls() -> None:
    clock = Clock()
    assert measure_block(clock.work(MS), calls=1000, seconds=60, limit_seconds=0.2, keep=1000, clock=clock)["calls"] == 200
    assert measure_block(clock.work(900 * MS), calls=1000, seconds=60, limit_seconds=0.2, keep=1000, clock=clock)["calls"] == 5


def test_what_is_not_kept_is_counted() -> None:
    clock = Clock()
    answer = measure_block(clock.work(*[MS] * 30, 50 * MS, MS), calls=100, seconds=0, limit_seconds=9, keep=10, clock=clock)
    assert (answer["calls"], len(answer["samples_ns"])) == (100, 10)
    assert (answer["min_ns"], answer["max_ns"], answer["total_ns"]) == (MS, 50 * MS, 149 * MS)


def test_thinning_keeps_an_even_spread() -> None:
    assert thin(list(range(1000)), 4) == [0, 250, 500, 750]
    assert thin([5, 6], 4) == [5, 6]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(worker, "perf_counter_ns", made)
    monkeypatch.setattr(worker, "sleep", lambda seconds: setattr(made, "now", made.now + round(seconds * 1e9)))
    return made


def test_frames_that_are_answered_in_time(clock: Clock) -> None:
    answer = measure_frames(clock.work(3 * MS), fps=100, frames=50, keep=1000)
    assert answer["samples_ns"] == [3 * MS] * 50
    assert (answer["late"], answer["dropped"]) == (0, 0)
    assert answer["measured_ns"] == pytest.approx(503 * MS, abs=10)


def test_a_rate_that_cannot_be_held_drops_all_but_the_newest_frame(clock: Clock) -> None:
    answer = measure_frames(clock.work(25 * MS), fps=100, frames=100, keep=1000)
    assert answer["calls"] + answer["dropped"] == 100
    assert answer["late"] == answer["calls"]
    assert answer["dropped"] == pytest.approx(60, abs=2)  # 25 ms a frame: four in ten are looked at
    assert max(answer["samples_ns"]) <= 35 * MS  # from arrival: at most a period old when it is taken


def test_frames_that_arrive_while_the_last_one_is_looked_at_are_dropped_too(clock: Clock) -> None:
    answer = measure_frames(clock.work(5010 * MS), fps=30, frames=30, keep=1000)
    assert answer["samples_ns"] == [5010 * MS]
    assert (answer["calls"], answer["late"], answer["dropped"]) == (1, 1, 149)


def test_one_slow_frame_is_late_and_costs_those_that_it_kept_waiting(clock: Clock) -> None:
    # The first call is not counted; the fourth frame takes 45 ms while frames arrive each 10 ms.
    answer = measure_frames(clock.work(*[2 * MS] * 4, 45 * MS, 2 * MS), fps=100, frames=20, keep=1000)
    assert (answer["late"], answer["dropped"]) == (1, 3)
    assert max(answer["samples_ns"]) == 45 * MS


def test_a_clock_that_jumps_back_is_not_measured_by() -> None:
    clock = Clock()
    with pytest.raises(UnstableError, match="a clock must go forward, it gave a call of -5000000 ns"):
        measure_block(clock.work(3 * MS, MS, -5 * MS, MS), calls=10, seconds=0, limit_seconds=9, keep=10, clock=clock)


def test_the_worker_ends_with_the_code_of_its_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(*streams: object, **request: object) -> None:
        raise UnstableError("the clock failed")

    monkeypatch.setattr(worker, "serve", fail)
    monkeypatch.setattr("sys.argv", ["worker", "{}"])
    saved = os.dup(1)
    try:
        with pytest.raises(SystemExit) as caught:
            worker.main()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert caught.value.code == 5
    assert capfd.readouterr().err == "the clock failed\n"
