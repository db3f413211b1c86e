"""Frames in, answers to the newest of them out."""

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_runtime import Frame, LeptonError, Stream, StreamError


class Ticking:
    """A camera whose frames are their numbers, one every so many seconds."""

    is_live = True

    def __init__(self, interval_s: float, *, count: int = 10**9, fails: bool = False) -> None:
        self.interval_s, self.count, self.fails = interval_s, count, fails
        self.is_closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        started = time.monotonic()
        for number in range(self.count):
            time.sleep(max(0.0, started + number * self.interval_s - time.monotonic()))
            yield number
        if self.fails:
            raise StreamError("the cable is out")

    def close(self) -> None:
        self.is_closed.set()


def slow(seconds: float) -> Callable[[int], int]:
    def answer(number: int) -> int:
        time.sleep(seconds)
        return number

    return answer


def test_a_source_that_waits_loses_nothing_and_keeps_its_order() -> None:
    with Stream(range(50), slow(0.001)) as stream:
        answers = list(stream)
    assert [answer.value for answer in answers] == [answer.number for answer in answers] == list(range(50))
    assert (stream.frames, stream.answered, stream.dropped) == (50, 50, 0)
    assert all(answer.frame.image == answer.value and answer.dropped == 0 for answer in answers)


def test_what_the_model_cannot_keep_up_with_is_dropped_and_counted() -> None:
    with Stream(Ticking(0.02), slow(0.05)) as stream:
        answers = list(itertools.islice(stream, 12))
        numbers = [answer.value for answer in answers]
        assert numbers == sorted(set(numbers))
        assert sum(answer.dropped for answer in answers) >= numbers[-1] - len(numbers) + 1 >= 12
        stream.stop()
        assert next(stream, None) is None
    assert stream.frames - stream.answered - stream.dropped in (0, 1, 2)  # one may wait, and one be computed


def test_a_frame_that_has_waited_is_left_for_the_next() -> None:
    ages: list[float] = []

    def answer(image: Frame) -> None:
        time.sleep(0.15)

    source = Ticking(0.1)
    with Stream(source, answer) as stream:  # a frame and a half each
        for found in itertools.islice(stream, 8):
            ages.append(found.latency_s - 0.15)
    assert np.median(ages[2:]) < 0.05  # without that rule every second one waits for 0.05 s


def test_a_machine_that_always_wakes_late_answers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_runtime.stream._FRESH", -1.0)  # every frame has waited for too long
    with Stream(Ticking(0.01), slow(0.0), answer_timeout_s=5) as stream:
        answers = list(itertools.islice(stream, 5))
    assert [answer.number for answer in answers] == sorted({answer.number for answer in answers})


def test_an_answer_waits_until_it_is_taken_and_only_one_does() -> None:
    computed: list[int] = []
    with Stream(range(100), lambda number: computed.append(number)) as stream:
        next(stream)
        until = time.monotonic() + 10
        while len(computed) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert computed == [0, 1]


def test_a_source_that_ends_ends_the_stream_and_is_closed() -> None:
    source = Ticking(0.001, count=3)
    with Stream(source, slow(0)) as stream:
        assert [answer.value for answer in stream][-1] == 2
    assert source.is_closed.wait(1)


def test_what_the_source_raises_is_raised_where_answers_are_waited_for() -> None:
    source = Ticking(0.001, count=3, fails=True)
    with Stream(source, slow(0)) as stream, pytest.raises(StreamError, match="the cable is out"):
        list(stream)
    assert next(stream, None) is None
    assert source.is_closed.is_set()


def test_what_a_source_gave_before_it_failed_is_answered() -> None:
    def failing() -> Iterator[int]:
        yield from range(5)
        raise StreamError("the disk is gone")

    with Stream(failing(), slow(0.01)) as stream, pytest.raises(StreamError, match="the disk is gone"):
        list(stream)
    assert (stream.frames, stream.answered, stream.dropped) == (5, 5, 0)


def test_what_the_model_raises_is_raised_where_answers_are_waited_for() -> None:
    source = Ticking(0.01)
    with Stream(source, lambda number: 1 // (2 - number)) as stream, pytest.raises(ZeroDivisionError):
        list(stream)
    assert source.is_closed.wait(1)


def test_a_camera_that_goes_silent_is_an_error() -> None:
    def silent() -> Iterator[int]:
        yield from range(3)
        time.sleep(2)

    with (
        Stream(silent(), slow(0), is_live=True, frame_timeout_s=0.3) as stream,
        pytest.raises(StreamError, match=r"must give a frame every 0.3 s, it gave none after 3"),
    ):
        list(stream)


def test_a_model_that_hangs_is_an_error() -> None:
    with (
        Stream(Ticking(0.01), slow(2), answer_timeout_s=0.3) as stream,
        pytest.raises(StreamError, match=r"must answer within 0.3 s, it did not for frame \d+;"),
    ):
        next(stream)


def test_a_slow_model_is_no_silent_camera() -> None:
    with Stream(Ticking(0.01), slow(0.5), frame_timeout_s=0.3) as stream:
        assert len(list(itertools.islice(stream, 2))) == 2


def test_none_is_no_frame_yet() -> None:
    with Stream([None, 1, None, 2], slow(0)) as stream:
        assert [answer.value for answer in stream] == [1, 2]
    assert stream.frames == 2


def test_a_signal_may_end_it() -> None:
    with Stream(Ticking(0.01), slow(0)) as stream:
        before = signal.signal(signal.SIGTERM, lambda number, frame: stream.stop())
        try:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            assert all(answer.value >= 0 for answer in stream)
        finally:
            signal.signal(signal.SIGTERM, before)


def test_each_answer_feeds_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Stream(range(2), slow(0)) as stream:
            assert len(list(stream)) == 2
        assert [systemd.recv(100) for _ in range(2)] == [b"READY=1\nWATCHDOG=1"] * 2


def test_nobody_who_listens_for_the_watchdog_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with Stream(range(2), slow(0)) as stream:
        assert len(list(stream)) == 2


def test_memory_does_not_grow_with_frames() -> None:
    import tracemalloc

    frames = (Frame(np.zeros(1000, np.uint8)) for _ in range(3000))
    with Stream(frames, lambda image: image.sum(), is_live=False) as stream:
        next(stream)
        tracemalloc.start()
        for _ in itertools.islice(stream, 200):
            pass
        before = tracemalloc.get_traced_memory()[0]
        for _ in itertools.islice(stream, 2000):
            pass
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    assert grown < 20_000  # 10 bytes a frame


def test_errors_of_streams_are_ours() -> None:
    assert issubclass(StreamError, LeptonError)
