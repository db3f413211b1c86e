"""Each verdict arises from samples made to cause it, and from no others."""

from dataclasses import replace

import numpy as np
import pytest

from lepton_edge.latency.verdict import find_peaks, judge
from tests.edge.made import QUIET, made_result, noise


@pytest.mark.parametrize("seed", range(40))
def test_clean_samples_are_stable(seed: int) -> None:
    result = made_result(samples=lambda process, block: noise(120, seed=1000 * seed + 10 * process + block))
    assert judge(result).reasons == ()
    assert str(judge(result)) == "stable"


@pytest.mark.parametrize("name", ["under-voltage", "frequency capped", "throttled", "soft temperature limit"])
def test_a_bit_that_is_set_now(name: str) -> None:
    result = made_result(state=lambda process, block: replace(QUIET, throttled_now=(name,)) if process == 3 else QUIET)
    assert judge(result).reasons == (f"throttled ({name})",)


def test_a_bit_that_was_set_between_the_looks() -> None:
    later = replace(QUIET, throttled_since_boot=("throttled", "under-voltage"))
    result = made_result(state=lambda process, block: later if process >= 4 else QUIET)
    assert judge(result).reasons == ("throttled (under-voltage)",)
    # What was set before the run is no fault of the run: QUIET has such a bit. From the first block on is during it.
    assert judge(made_result()).is_stable
    assert judge(made_result(state=lambda process, block: later)).reasons == ("throttled (under-voltage)",)


def test_a_clock_that_changed() -> None:
    slow = replace(QUIET, clocks_mhz=(1500.0, 600.0))
    assert judge(made_result(state=lambda process, block: slow if block else QUIET)).reasons == ("clock changed (1500 to 1800 MHz)",)
    sleeping_core = replace(QUIET, clocks_mhz=(1800.0, 600.0))
    assert judge(made_result(state=lambda process, block: sleeping_core if block else QUIET)).is_stable
    assert judge(made_result(state=lambda process, block: replace(QUIET, clocks_mhz=None))).is_stable


def test_other_load() -> None:
    result = made_result()
    blocks = tuple(replace(block, other_ns=block.measured_ns * 23 // 100) for block in result.blocks)
    assert judge(replace(result, blocks=blocks)).reasons == ("other load took 23 % of a core",)
    stolen = tuple(replace(block, stolen_ns=block.measured_ns * 8 // 100) for block in result.blocks)
    assert judge(replace(result, blocks=stolen)).reasons == ("the hypervisor took 8 % of a core",)
    ticks = tuple(replace(block, other_ns=10_000_000 * (number == 0)) for number, block in enumerate(result.blocks[:1]))
    short = replace(result, blocks=ticks, samples_ns=result.samples_ns[: ticks[0].kept], processes=result.processes[:1])
    assert judge(short).is_stable  # one tick of the kernel is no load
    unknown = tuple(replace(block, other_ns=None, stolen_ns=None) for block in result.blocks)
    assert judge(replace(result, blocks=unknown)).is_stable


def test_two_latencies_instead_of_one() -> None:
    def samples(process: int, block: int) -> np.ndarray:
        values = noise(120, seed=10 * process + block)
        values[::3] = values[::3] * 13 // 10
        return values

    result = made_result(samples=samples)
    assert judge(result).reasons == ("bimodal (around 2 and 2.6 ms)",)


def test_a_long_tail_is_not_a_second_latency() -> None:
    def samples(process: int, block: int) -> np.ndarray:
        values = noise(120, seed=10 * process + block)
        values[::20] = values[::20] * 3
        return values

    assert judge(made_result(samples=samples)).is_stable
    assert find_peaks(np.random.default_rng(0).normal(1, 0.1, 500)) is None
    assert find_peaks(np.ones(500)) is None


def test_a_drift_over_the_run() -> None:
    result = made_result(processes=1, blocks=40, samples=lambda process, block: noise(60, median_ms=2 * (1 + 0.004 * block), seed=block))
    reasons = judge(result).reasons
    assert any(reason.startswith("drifting (+1") for reason in reasons)
    assert not any(reason.startswith(("throttled", "clock", "other", "processes")) for reason in reasons)


@pytest.mark.parametrize(
    ("slow", "reason"),
    [
        (range(114, 180), "drifting (+20 %, from 2 ms in the first minute to 2.4 ms in the last)"),
        (range(57, 114), "drifting (+20 %, from 2 ms in the first minute to 2.4 ms in minute 2)"),
    ],
)
def test_a_minute_that_differs_from_the_first(slow: range, reason: str) -> None:
    def samples(process: int, block: int) -> np.ndarray:
        return noise(30, median_ms=2.4 if block in slow else 2.0, seed=block)

    result = made_result(processes=1, blocks=180, samples=samples)
    assert len(result.minutes_ms) == 3
    assert reason in judge(result).reasons


def test_processes_that_differ() -> None:
    result = made_result(samples=lambda process, block: noise(120, median_ms=2.3 if process == 2 else 2.0, seed=10 * process + block))
    assert judge(result).reasons[0] == "processes differ by 15 %"
    assert all(reason.startswith("noisy") for reason in judge(result).reasons[1:])  # one process in six makes the median doubtful, too


def test_a_warm_up_that_did_not_settle() -> None:
    result = made_result()
    restless = replace(result.processes[0], is_settled=False)
    result = replace(result, processes=(restless, *result.processes[1:]))
    assert judge(result).reasons == ("did not settle while warming up (1 of 6 processes)",)


def test_a_median_that_is_hardly_known() -> None:
    generator = np.random.default_rng(3)
    result = made_result(processes=2, blocks=2, calls=8, samples=lambda process, block: (generator.uniform(1, 3, 8) * 1e6).astype(int))
    assert any(reason.startswith("noisy (the median is known to ±") for reason in judge(result).reasons)
