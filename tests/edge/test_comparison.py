from dataclasses import replace

import numpy as np
import pytest

from lepton_edge.latency.settings import LatencySettings
from lepton_edge.report.cell import candidate_names
from lepton_edge.report.comparison import compare_reports
from lepton_runtime import InputError
from tests.edge.made import CANDIDATE, DEVICE, QUIET, made_report, made_result, noise


def slowed(factor: float, **changes: object):
    """A result whose calls take that many times as long, and whose processes differ a little."""

    def samples(process: int, block: int) -> np.ndarray:
        return noise(120, median_ms=2 * factor * (1 + 0.002 * (process % 3)), seed=10 * process + block + 7)

    return made_result(samples=samples, **changes)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "cannot tell"), (1.08, "slower"), (0.9, "faster")])
def test_an_artifact_gets_one_of_three_verdicts(factor: float, verdict: str) -> None:
    (change,) = compare_reports(made_report(slowed(1)), made_report(slowed(factor))).changes
    assert change.verdict == verdict
    assert change.ratio.value == pytest.approx(factor, rel=0.01)
    assert change.is_slower_than(0.05) == (factor == 1.08)
    assert not change.is_slower_than(0.1)


def test_a_measurement_that_does_not_hold_tells_nothing() -> None:
    hot = slowed(1.5, state=lambda process, block: replace(QUIET, throttled_now=("throttled",)))
    (change,) = compare_reports(made_report(slowed(1)), made_report(hot)).changes
    assert change.verdict == "cannot tell"
    assert change.reason == "new is not stable: throttled (throttled)"
    assert not change.is_slower_than(0.01)


def test_too_few_processes_tell_nothing() -> None:
    (change,) = compare_reports(made_report(slowed(1, processes=2)), made_report(slowed(1.5, processes=2))).changes
    assert change.reason == "too few processes to know (2), measure with --processes 6"


def test_candidates_are_matched_by_artifact_engine_and_threads() -> None:
    base = made_report(slowed(1), slowed(1, candidate=replace(CANDIDATE, threads=2)))
    new = made_report(slowed(1, candidate=replace(CANDIDATE, threads=2)), slowed(1, candidate=replace(CANDIDATE, threads=4)))
    comparison = compare_reports(base, new)
    assert [change.new.candidate.threads for change in comparison.changes] == [2]
    assert comparison.only_base == ("model.fp32.onnx on onnxruntime, 1 thread",)
    assert comparison.only_new == ("model.fp32.onnx on onnxruntime, 4 threads",)


def test_two_machines_and_other_versions_are_warned_about() -> None:
    new = made_report(device=replace(DEVICE, board="Raspberry Pi 5 Model B Rev 1.0"), versions={"onnxruntime": "1.31.0"}, is_partial=True)
    assert compare_reports(made_report(), new).warnings == (
        "two machines are compared: Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, aarch64, 4 cores, 4.0 GiB and "
        "Raspberry Pi 5 Model B Rev 1.0, Cortex-A72, aarch64, 4 cores, 4.0 GiB",
        "onnxruntime was 1.32.0 and is 1.31.0",
        "the new result is partial",
    )


def test_two_models_are_refused() -> None:
    dogs = made_report(made_result(candidate=replace(CANDIDATE, source_sha256="2" * 64)))
    with pytest.raises(InputError, match=r"must be of one model, found source models 111111111111… and 222222222222…"):
        compare_reports(made_report(), dogs)
    memory = made_report(made_result(candidate=replace(CANDIDATE, source_sha256=None)))
    assert "cannot be checked" in compare_reports(made_report(), memory).warnings[0]


def test_models_are_matched_by_their_digests_even_in_one_run() -> None:
    dogs = replace(CANDIDATE, bundle="dogs.bundle", source_sha256="2" * 64)
    both = made_report(slowed(1), slowed(1.5, candidate=dogs))
    (change,) = compare_reports(both, made_report(slowed(1))).changes
    assert change.verdict == "cannot tell"
    assert change.ratio.value == pytest.approx(1, abs=0.01)
    twice = made_report(slowed(1), slowed(1.5))
    assert [round(change.ratio.value, 1) for change in compare_reports(twice, made_report(slowed(1), slowed(3))).changes] == [1.0, 2.0]


def test_two_sustained_runs_are_one_process_each() -> None:
    settings = LatencySettings(duration_seconds=5.0, processes=1)
    runs = [made_report(slowed(factor, processes=1, blocks=40), settings=settings) for factor in (1, 1.5)]
    (change,) = compare_reports(*runs).changes
    assert change.reason == "a sustained run is one process; measure both in one: benchmark A B"


def test_two_scenarios_and_nothing_in_common_are_refused() -> None:
    other = made_report(made_result(late=0, dropped=0), settings=LatencySettings(scenario="fixed-rate", fps=30.0, seconds=0.5))
    with pytest.raises(InputError, match="must be of one scenario, found single-stream and fixed-rate"):
        compare_reports(made_report(), other)
    with pytest.raises(InputError, match="must hold the same artifacts"):
        compare_reports(made_report(), made_report(made_result(candidate=replace(CANDIDATE, file="model.fp16.onnx"))))


def test_twins_of_two_bundles_are_compared_with_each_other() -> None:
    files = ("model.fp32.onnx", "model.fp16.onnx")
    results = [
        slowed(factor * (1 + 0.5 * number), candidate=replace(CANDIDATE, bundle=bundle, file=file))
        for factor, bundle in ((1.0, "a"), (1.2, "b"))
        for number, file in enumerate(files)
    ]
    report = made_report(*results)
    assert candidate_names(report) == ["fp32.onnx A", "fp16.onnx A", "fp32.onnx B", "fp16.onnx B"]
    assert [(pair.base, pair.new) for pair in report.ratios] == [(0, 1), (0, 2), (1, 3)]
    assert [round(pair.ratio.value, 2) for pair in report.ratios] == [1.5, 1.2, 1.2]


def test_a_bundle_against_itself_has_names_too() -> None:
    report = made_report(slowed(1), slowed(1))
    assert candidate_names(report) == ["fp32.onnx A", "fp32.onnx B"]
