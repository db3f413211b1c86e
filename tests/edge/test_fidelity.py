"""The figures of benchmarks/fidelity.py, and the page they come on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.workstation


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield


@pytest.fixture
def result(_benchmarks_on_the_path):
    from fidelity_peers.result import Result

    figures = {"drop": 0.01, "drop_low": 0.005, "drop_high": 0.015, "expected_drop": 0.008, "agreement": 0.97}
    return Result("resnet8", "tflite", "0", accuracy=0.75, seconds=3.0, date="2026-01-01", machine="a board", **figures)


def test_only_samples_that_one_alone_gets_right_make_a_drop() -> None:
    from fidelity_peers.comparison import compare

    labels = np.array([0, 0, 0, 1])
    reference, scores = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 0, 0]]
    found = compare(scores, reference, labels)
    assert (found.accuracy, found.drop, found.agreement) == (0.5, 0.25, 0.25)
    assert found.low < found.drop < found.high


def test_a_lead_counts_samples_that_one_alone_answers_as_expected() -> None:
    from fidelity_peers.comparison import lead

    expected = np.array([0, 0, 0, 1])
    ours, theirs = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 1, 0]]
    found = lead(ours, theirs, expected, over="a peer")
    assert (found.over, found.value) == ("a peer", 0.5)
    assert found.low < found.value < found.high


def test_the_paired_interval_holds_the_true_drop_in_nineteen_of_twenty_draws() -> None:
    from fidelity_peers.comparison import paired_interval

    draws = np.random.default_rng(0).multinomial(2000, [0.02, 0.01, 0.97], size=2000)
    ends = np.array([paired_interval(int(lost), int(won), 2000) for lost, won, _ in draws])
    assert np.mean((ends[:, 0] <= 0.01) & (ends[:, 1] >= 0.01)) == pytest.approx(0.95, abs=0.02)


def test_the_interval_of_equal_answers_has_a_width() -> None:
    from fidelity_peers.comparison import paired_interval

    low, high = paired_interval(0, 0, 2000)
    assert -0.002 < low < 0 < high < 0.002


def test_a_line_that_was_cut_off_makes_place_for_the_next(tmp_path, result) -> None:
    from fidelity_peers.result import Result, append_record, read_records

    append_record(tmp_path / "results.jsonl", result)
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"network": "res')
    assert read_records(tmp_path / "results.jsonl", Result) == {result.key: result}
    later = replace(result, method="ours-tflite")
    append_record(tmp_path / "results.jsonl", later)
    assert list(read_records(tmp_path / "results.jsonl", Result).values()) == [result, later]


def test_the_page_names_failures_peers_that_are_not_installed_and_networks_that_are_not_there(result) -> None:
    from fidelity_peers.page import write_page

    failed = replace(result, method="ort-default", failure="crashes: SIGSEGV", accuracy=None, drop=None)
    results = {each.key: each for each in (result, failed)}
    page = write_page(["resnet8"], results, {}, {}, absent=["vit"], environments=["nncf"])
    assert "| LiteRT | TensorFlow's converter | 75.00 % | +1.00 (+0.50 to +1.50) | 0.80 | 97.00 % |" in page
    assert "| onnxruntime | onnxruntime, defaults | failed: crashes: SIGSEGV |" in page
    assert "| LiteRT | ai-edge-quantizer | not measured: ai-edge-quantizer is not installed |" in page
    assert "| OpenVINO | NNCF | not measured |" in page
    assert "**Not measured**: vit." in page
