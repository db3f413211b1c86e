"""The HTML report, in a real browser: as a phone and as a desk show it, in light and in dark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.device import DeviceState
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.report.chart import pareto_front, time_chart
from lepton_edge.report.document import Report
from lepton_edge.report.html import memory_words, render_html
from lepton_runtime.engines import OperatorTime
from tests.edge.made import CANDIDATE, QUIET, made_report, made_result, noise
from tests.edge.pages import check_in_browser, check_page

pytestmark = pytest.mark.workstation

OPERATORS = tuple(OperatorTime(f"block_{number}/conv<{number}>", "Conv", 90_000 - 1000 * number) for number in range(20))


def warming(process: int, block: int) -> DeviceState:
    """A board that gets hot and, in the end, slow."""
    step = 4 * process + block
    return replace(
        QUIET, temperature_c=50.0 + step, clocks_mhz=(1800.0 if step < 20 else 1500.0,), throttled_now=("throttled",) * (step > 20)
    )


def candidate(number: int, file: str):
    """A candidate that is slower and more accurate the higher its number; the second gets hot."""

    def samples(process: int, block: int) -> np.ndarray:
        return noise(150, median_ms=0.3 * (1 + number), seed=100 * number + 10 * process + block)

    accuracy = None if number == 3 else 0.7 + 0.01 * number
    changed = replace(CANDIDATE, file=file, accuracy=accuracy, size_bytes=10**5 * (9 - number))
    return made_result(samples=samples, state=warming if number == 1 else lambda process, block: QUIET, candidate=changed)


@pytest.fixture(scope="module")
def report() -> Report:
    """Five candidates, one of them hot."""
    files = ("fp32.onnx", "fp16.onnx", "dynamic-int8.onnx", "static-int8.onnx", "fp32.tflite")
    first, *others = [candidate(number, f"model.{file}") for number, file in enumerate(files)]
    return made_report(replace(first, operators=OPERATORS), *others, notes=("vcgencmd <slept>",))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory) -> Path:
    """The report of that run and of a sustained one, on one page."""
    hour = made_result(processes=1, blocks=150, calls=20, samples=lambda process, block: noise(20, seed=block))
    sustained = made_report(hour, settings=LatencySettings(processes=1, duration_seconds=5.0), is_partial=True)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html([report, sustained]), encoding="utf-8")
    return path


def test_the_page_is_one_file_that_everybody_can_read(page: Path) -> None:
    check_page(page.read_text(encoding="utf-8"))
    assert page.stat().st_size < 600_000


def test_the_page_says_what_was_measured_and_what_speaks_against_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Lowest p50: fp32.onnx, median 0.30" in text
    assert "not stable: throttled (throttled); clock changed (1500 to 1800 MHz)" in text
    assert "Partial: it was stopped before it was done." in text
    assert "Temperature 50 to 73 °C; fastest core 1500 to 1800 MHz; held back: throttled (since boot: throttled); not told: power" in text
    assert "vcgencmd &lt;slept&gt;" in text
    assert "block_0/conv&lt;0&gt;" in text
    assert "Raspberry Pi 4 Model B Rev 1.4" in text
    assert "flat, +0.0 kB an hour over the second half, within the noise" in text


def test_the_same_report_is_the_same_page(report: Report) -> None:
    assert render_html([report]) == render_html([report])


def test_growing_memory_is_called_so() -> None:
    result = made_result(processes=1, blocks=40)

    def words(step: int) -> str:
        blocks = tuple(replace(block, rss_bytes=50_000_000 + step * number) for number, block in enumerate(result.blocks))
        return memory_words(replace(result, blocks=blocks))

    assert words(65536).startswith("growing, +")
    assert words(4096).startswith("flat, +")  # 80 kB in all
    assert words(-65536).endswith("within the noise")


def test_the_pareto_front_has_what_no_other_beats_at_both() -> None:
    assert pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.8), (3, 0.9)]) == [(1, 0.5), (2, 0.8), (3, 0.9)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_browser_shows_the_page_without_a_word_of_complaint(browser, page: Path, width: int, scheme: str) -> None:
    check_in_browser(browser, page, width=width, scheme=scheme)


def test_long_runs_are_drawn_with_fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    result = made_result(processes=1, blocks=700, calls=2, samples=lambda process, block: noise(2, seed=block))
    long = made_report(result, settings=LatencySettings(processes=1, runs=1, duration_seconds=1.0))
    few = time_chart(long).count("<use")  # a point of the chart, or one of some fifty ticks
    monkeypatch.setattr("lepton_edge.report.chart._MOST_POINTS", 10_000)
    many = time_chart(long).count("<use")
    assert 700 <= many <= 800
    assert 350 <= few <= 450
