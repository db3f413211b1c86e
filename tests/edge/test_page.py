"""The HTML report, in a real browser: as a phone and as a desk show it, in light and in dark."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
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

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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


class Outline(HTMLParser):
    """What a reader without eyes gets: headings, tables, pictures; and what a page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    parser = Outline()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_the_page_is_one_file_without_network_or_script(page: Path, outline: Outline) -> None:
    assert outline.of("script") == []
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', text) == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert len(text.encode()) < 600_000


def test_ids_are_unique_and_every_reference_has_its_target(page: Path, outline: Outline) -> None:
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)


def test_everything_is_there_for_a_screen_reader(outline: Outline) -> None:
    assert outline.of("html")[0]["lang"] == "en"
    assert len(outline.of("caption")) == len(outline.of("table"))
    assert all("scope" in attributes for attributes in outline.of("th"))
    assert all(attributes.get("aria-label") for attributes in outline.of("figure"))
    assert {attributes.get("aria-hidden") for attributes in outline.of("svg")} == {"true"}
    assert all(attributes.get("tabindex") == "0" for attributes in outline.of("div") if attributes.get("class") == "scroll")
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


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


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_browser_shows_the_page_without_a_word_of_complaint(browser, page: Path, width: int, scheme: str) -> None:
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(request.url))
    tab.goto(page.as_uri())
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Text of the charts can be read: at least nine pixels on a phone, and never outside its picture.
    assert tab.evaluate("[...document.querySelectorAll('svg text')].every(t => t.getBoundingClientRect().height >= 7)")
    clipped = tab.evaluate(
        "[...document.querySelectorAll('svg')].flatMap(s => { const f = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])"
        " .filter(([, r]) => r.left < f.left - 2 || r.right > f.right + 2).map(([text]) => text) })"
    )
    assert clipped == []
    background, ink = tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert (background, ink) == (
        ("rgb(255, 255, 255)", "rgb(27, 27, 27)") if scheme == "light" else ("rgb(22, 22, 22)", "rgb(236, 236, 236)")
    )
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "To the content"
    context.close()


def test_long_runs_are_drawn_with_fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    result = made_result(processes=1, blocks=700, calls=2, samples=lambda process, block: noise(2, seed=block))
    long = made_report(result, settings=LatencySettings(processes=1, runs=1, duration_seconds=1.0))
    few = time_chart(long).count("<use")  # a point of the chart, or one of some fifty ticks
    monkeypatch.setattr("lepton_edge.report.chart._MOST_POINTS", 10_000)
    many = time_chart(long).count("<use")
    assert 700 <= many <= 800
    assert 350 <= few <= 450
