"""Measurements of the shipped bundle, in real processes."""

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.cli.benchmark import choose_candidates
from lepton_edge.device import DeviceReader
from lepton_edge.digits import shipped_bundle
from lepton_edge.latency import measure as measure_module
from lepton_edge.latency.measure import agree, measure
from lepton_edge.latency.process import MeasuredProcess
from lepton_edge.latency.result import Candidate
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.report.document import load_report
from lepton_edge.report.terminal import write_json
from lepton_runtime import LeptonError
from tests.edge.made import made_report

TREES = Path(__file__).parent / "trees"
SHORT = LatencySettings(processes=2, runs=40, seconds=0.08, warmup_seconds=0.0, warmup_max_seconds=0.2, block_seconds=0.02)


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    """The shipped fp32 and int8 artifacts."""
    return [replace(candidate, batch=1) for candidate in choose_candidates(shipped_bundle())]


@pytest.fixture(scope="module")
def measured(candidates: list[Candidate]):
    """Both, measured in turns, on what tells it is a Raspberry Pi 4."""
    return measure(candidates, SHORT, reader=DeviceReader(TREES / "pi4"), with_operators=True)


def test_candidates_take_turns_there_and_back(measured) -> None:
    turns = sorted((block.started_ns, number, block.process) for number, result in enumerate(measured.results) for block in result.blocks)
    assert [number for _, number, process in turns if process == 0][:4] == [0, 1, 1, 0]
    assert [number for _, number, process in turns if process == 1][:4] == [1, 0, 0, 1]


def test_every_process_is_fresh_and_tells_its_cold_start(measured) -> None:
    for result in measured.results:
        assert len(result.processes) == 2
        assert result.calls >= 40
        for process in result.processes:
            assert process.start_ns > 0
            assert process.cold_start_ns > process.import_ns + process.load_ns > 0
            assert len(process.warmup_ns) >= 10
            assert process.peak_rss_bytes >= process.rss_bytes > 20e6
        assert result.idle_cpu_percent < 50  # it sleeps; nothing of it spins
        assert result.processes[-1].idle_ns == 10**9


def test_the_operators_are_named(measured) -> None:
    kinds = {operator.kind for operator in measured.results[0].operators}
    assert any("Conv" in kind for kind in kinds)  # ARM has kinds of its own
    assert any("Gemm" in kind or "MatMul" in kind for kind in kinds)
    assert all(operator.mean_ns >= 0 for operator in measured.results[0].operators)


@pytest.mark.parametrize(("tree", "power"), [("pi4", None), ("pi5", 2.022055)])
def test_every_block_knows_how_the_board_was_doing(candidates: list[Candidate], tree: str, power: float | None, tmp_path: Path) -> None:
    reader = DeviceReader(TREES / tree)
    measurement = measure(candidates[:1], replace(SHORT, processes=1), reader=reader)
    (result,) = measurement.results
    expected = reader.state()
    assert all(block.state == expected for block in result.blocks)
    assert expected.power_w == pytest.approx(power)
    # A recorded board's busy time stands still, so what others took cannot come out above what was measured.
    assert all(block.other_ns <= 0 for block in result.blocks)
    report = made_report(result, device=reader.device(), settings=replace(SHORT, processes=1))
    write_json(report.to_dict(), str(tmp_path / "result.json"))
    assert load_report(tmp_path / "result.json").device.board.startswith(f"Raspberry Pi {tree[-1]}")


def test_a_machine_that_tells_nothing_has_nulls_and_no_zeros(candidates: list[Candidate], tmp_path: Path) -> None:
    (result,) = measure(candidates[:1], replace(SHORT, processes=1), reader=DeviceReader(tmp_path)).results
    report = made_report(result, device=DeviceReader(tmp_path).device(), settings=replace(SHORT, processes=1))
    write_json(report.to_dict(), str(tmp_path / "result.json"))
    document = json.loads((tmp_path / "result.json").read_text())
    for block in document["results"][0]["blocks"]:
        assert set(block["state"].values()) == {None}
        assert block["other_ns"] is block["stolen_ns"] is None
    assert document["device"]["board"] is document["device"]["memory_bytes"] is None
    assert load_report(tmp_path / "result.json").results[0].samples_ns == result.samples_ns


def test_it_goes_on_until_the_median_is_known_or_there_were_enough_processes(candidates: list[Candidate]) -> None:
    settings = replace(SHORT, runs=10, seconds=0.0)
    (result,) = measure(candidates[:1], replace(settings, interval=1e-9, max_processes=4)).results
    assert len(result.processes) == 4
    (result,) = measure(candidates[:1], replace(settings, interval=1e6, max_processes=4)).results
    assert len(result.processes) == 2


@pytest.mark.parametrize("settings", [SHORT, replace(SHORT, duration_seconds=3600.0, processes=1)])
def test_what_was_measured_before_ctrl_c_is_kept_and_marked(candidates: list[Candidate], settings: LatencySettings, tmp_path: Path) -> None:
    def interrupt(done: float, text: str) -> None:
        assert "p50" in text
        raise KeyboardInterrupt

    measurement = measure(candidates, settings, on_progress=interrupt)
    assert measurement.is_partial
    (result,) = measurement.results
    assert len(result.processes) == 1
    assert result.calls >= 5
    write_json(made_report(result, settings=settings, is_partial=True).to_dict(), str(tmp_path / "result.json"))
    assert load_report(tmp_path / "result.json").is_partial


def test_frames_at_a_fixed_rate_are_counted(candidates: list[Candidate]) -> None:
    settings = LatencySettings(scenario="fixed-rate", fps=100.0, processes=1, runs=20, seconds=0.1, warmup_max_seconds=0.1)
    (result,) = measure(candidates[:1], settings).results
    arrived, late, dropped = result.frames
    assert arrived == result.calls + dropped >= 100
    assert 0 <= late <= arrived


def test_what_was_measured_before_a_process_died_is_kept_and_marked(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(done: float, text: str) -> None:
        if done >= 0.5:
            raise LeptonError("the process was killed")

    measurement = measure(candidates[:1], SHORT, on_progress=die)
    assert measurement.is_partial
    assert str(measurement.failure) == "the process was killed"
    assert measurement.notes == ("the process was killed",)
    assert measurement.results[0].calls >= 20


class Talker:
    """A measured process whose latency is told beforehand: one a window."""

    def __init__(self, *medians_ms: float) -> None:
        self._medians = list(medians_ms)
        self.warmup_ns: list[int] = []
        self.is_settled = False

    def ask(self, kind: str, **request: object) -> dict[str, object]:
        median_ns = int(1e6 * (self._medians.pop(0) if len(self._medians) > 1 else self._medians[0]))
        return {"lead_ns": [], "samples_ns": [median_ns] * 50, "calls": 50, "measured_ns": 100_000_000}


@pytest.mark.parametrize(
    ("medians_ms", "windows", "is_settled"),
    [((2, 2), 3, True), ((9, 5, 3, 2, 2), 5, True), ((2, 3) * 30, 50, False)],
)
def test_a_warm_up_ends_when_it_has_settled_or_took_too_long(
    candidates: list[Candidate], tmp_path: Path, medians_ms, windows: int, is_settled: bool
) -> None:
    run = measure_module._Run([], LatencySettings(), DeviceReader(tmp_path), lambda done, text: None)
    talker = Talker(*medians_ms)
    run._warm_up(talker)
    assert talker.is_settled == is_settled
    assert len(talker.warmup_ns) == 50 * windows  # at least 0.3 s of windows of 0.1 s, at most 5 s


def test_a_process_that_ends_early_is_named(candidates: list[Candidate]) -> None:
    with pytest.raises(
        LeptonError, match=r"model\.fp32\.onnx on onnxruntime must run to the end, its process ended with 1: .*does not exist"
    ):
        measure([replace(candidates[0], bundle="nowhere.bundle")], SHORT)


def test_a_process_that_hangs_is_ended_and_named(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        worker = MeasuredProcess(candidates[0], stack)
        monkeypatch.setattr("lepton_edge.latency.process.ANSWER_SECONDS", 0.05)
        worker.send("idle", seconds=60.0)
        with pytest.raises(LeptonError, match=r"^model\.fp32\.onnx on onnxruntime must answer within 0 s, it did not"):
            worker.read()
        monkeypatch.undo()
        with pytest.raises(LeptonError, match="its process ended with -9"):
            worker.ask("end")


def test_a_process_that_hangs_at_its_end_is_ended(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        worker = MeasuredProcess(candidates[0], stack)
        worker._process.kill()
        worker._process.communicate()
        silent = [sys.executable, "-c", "import os, time; os.close(1); time.sleep(60)"]
        worker._process = subprocess.Popen(silent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        monkeypatch.setattr("lepton_edge.latency.process.ANSWER_SECONDS", 1.0)
        with pytest.raises(LeptonError, match=r"must run to the end, its process ended with -9"):
            worker.read()


def test_an_answer_is_waited_for_as_long_as_was_asked_for(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        worker = MeasuredProcess(candidates[0], stack)
        monkeypatch.setattr("lepton_edge.latency.process.ANSWER_SECONDS", 1.5)
        assert worker.ask("frames", fps=2.0, frames=4, keep=10)["calls"] > 0


def test_a_step_of_the_time_of_day_is_noted(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([0, 0, *[7_000_000_000] * 1000])
    monkeypatch.setattr(measure_module, "time_ns", lambda: measure_module.perf_counter_ns() + next(steps))
    measurement = measure(candidates[:1], replace(SHORT, processes=1))
    assert measurement.notes == ("the time of day was set by +7.0 s during the run; latencies are not affected",)


def test_processes_that_do_not_fit_into_memory_are_refused(candidates: list[Candidate], tmp_path: Path, monkeypatch) -> None:
    class Shrinking(DeviceReader):
        left = 2**30

        def state(self):
            self.left //= 8
            return replace(super().state(), memory_available_bytes=self.left)

    with pytest.raises(LeptonError, match=r"memory must hold a process of every candidate at once, 2 of 2 left"):
        measure(candidates, SHORT, reader=Shrinking(tmp_path))


def test_windows_agree_within_two_percent_or_their_own_noise() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(100, 0.1, 50), generator.normal(101, 0.1, 50)
    assert agree(first, second)
    assert not agree(first, 1.05 * second)
    assert agree(generator.normal(100, 30, 50), generator.normal(108, 30, 50))
