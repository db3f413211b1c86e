"""Charts as SVG that an HTML page can color: text stays text, and colors are the page's own, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_edge.latency.result import LatencyResult
from lepton_edge.report.cell import candidate_names
from lepton_edge.report.document import Report
from lepton_runtime.errors import MissingExtraError
from lepton_runtime.tensors import Array

# Stand-ins that are replaced by variables of the page. Series: eight that differ for color-blind eyes.
INK, _LINE = "#010101", "#020202"
_SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a")
_MARKERS = "osD^vPX*hd"  # ten for eight colors, so that no two of the first forty are alike
_WIDTH_INCH = 4.4
_MOST_POINTS = 600
_STYLE: dict[Any, Any] = {  # Any: matplotlib lists its several hundred keys as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "lepton-edge",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}


def distribution_chart(report: Report) -> str:
    """Every candidate's latencies on one axis: half of the calls in the thick bar, 98 % in the thin one, the median marked."""
    names = candidate_names(report)

    def draw(axes: Any) -> None:  # Any: matplotlib's axes
        for row, result in enumerate(report.results):
            color = series_color(row)
            low, first, middle, third, high = np.percentile(result.samples, [1, 25, 50, 75, 99]) / 1e6
            axes.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
            axes.plot([first, third], [row, row], color=color, linewidth=8, solid_capstyle="round")
            axes.plot(middle, row, "|", color=INK, markersize=12, markeredgewidth=2)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("ms a call (logarithmic)")
        _plain_ticks(axes)

    return draw_svg(draw, height=0.8 + 0.32 * len(names))


def histogram_chart(result: LatencyResult, number: int) -> str:
    """How often each latency was seen; the median and the 99th percentile are marked."""
    samples = result.samples / 1e6
    shown = samples[samples <= 1.1 * np.percentile(samples, 99)]

    def draw(axes: Any) -> None:
        axes.hist(shown, bins=min(60, max(10, len(shown) // 20)), color=series_color(number))
        for percent, style in ((50, "-"), (99, ":")):
            axes.axvline(np.percentile(samples, percent), color=INK, linestyle=style, linewidth=1.2)
        axes.set_xlabel("ms a call")
        axes.set_ylabel("calls")

    return draw_svg(draw, height=1.7)


def time_chart(report: Report) -> str:
    """Medians of the blocks over the run; under them what the machine told: temperature, clock, other load."""
    results, names = report.results, candidate_names(report)
    blocks = sorted((block for result in results for block in result.blocks), key=lambda block: block.started_ns)
    minutes = np.array([block.started_ns for block in blocks]) / 60e9
    panels: list[tuple[str, list[float | None]]] = [
        ("°C", [block.state.temperature_c for block in blocks]),
        ("MHz", [block.state.fastest_mhz for block in blocks]),
        ("other load, %", [None if block.other_ns is None else 100 * max(0, block.other_ns) / block.measured_ns for block in blocks]),
    ]
    panels = [(label, values) for label, values in panels if any(value is not None for value in values)]

    def draw(axes: Any) -> None:
        first, *others = axes if panels else [axes]
        for number, result in enumerate(results):
            times = [block.started_ns / 60e9 for block in result.blocks]
            medians = np.array([np.median(samples) for samples in result.block_samples]) / 1e6
            shown = medians if len(results) == 1 else 100 * (medians / result.p50_ms - 1)
            marker = _MARKERS[number % len(_MARKERS)]
            first.plot(_coarse(times), _coarse(shown), marker, color=series_color(number), markersize=3, label=names[number], alpha=0.8)
        first.set_ylabel("median, ms" if len(results) == 1 else "median, % off")
        if len(results) > 1:
            first.legend(fontsize=6.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.5), frameon=False, handletextpad=0.1)
        for panel, (label, values) in zip(others, panels, strict=True):
            panel.plot(_coarse(minutes), _coarse([np.nan if value is None else value for value in values]), color=INK, linewidth=1)
            panel.set_ylabel(label)
        (others or [first])[-1].set_xlabel("minutes")

    heights = [2.2] + [0.9] * len(panels)
    return draw_svg(draw, height=sum(heights) + 0.5, rows=heights)


def pareto_chart(report: Report) -> str | None:
    """Accuracy against latency; candidates that no other beats at both are ringed. ``None`` without two."""
    names = candidate_names(report)
    points = [
        (result.p50_ms, 100 * result.candidate.accuracy, number)
        for number, result in enumerate(report.results)
        if result.candidate.accuracy is not None
    ]
    if len(points) < 2:
        return None
    front = pareto_front([(x, y) for x, y, _ in points])

    def draw(axes: Any) -> None:
        axes.plot(*zip(*front, strict=True), "o--", color=INK, linewidth=1, markersize=11, fillstyle="none")
        for x, y, number in points:
            axes.plot(x, y, _MARKERS[number % len(_MARKERS)], color=series_color(number), label=names[number], markersize=6)
        axes.set_xscale("log")
        axes.set_xlabel("median, ms a call (logarithmic)")
        axes.set_ylabel("accuracy, %")
        axes.margins(0.1, 0.15)
        _plain_ticks(axes)
        axes.legend(fontsize=6.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False, handletextpad=0.1)

    return draw_svg(draw, height=3.2)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats at both: less of the first, more of the second.

    >>> pareto_front([(1.0, 0.7), (2.0, 0.9), (3.0, 0.8)])
    [(1.0, 0.7), (2.0, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def size_chart(report: Report) -> str | None:
    """The files' sizes; ``None`` with nothing to compare."""
    names = candidate_names(report)
    if len(names) < 2:
        return None

    def draw(axes: Any) -> None:
        sizes = [result.candidate.size_bytes / 1000 for result in report.results]
        axes.barh(range(len(names)), sizes, color=[series_color(number) for number in range(len(names))], height=0.6)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("kB")

    return draw_svg(draw, height=0.7 + 0.3 * len(names))


def memory_chart(result: LatencyResult) -> str | None:
    """Resident memory over a run in one process; ``None`` where there is none to show."""
    known = [(block.started_ns / 60e9, block.rss_bytes / 1e6) for block in result.blocks if block.rss_bytes is not None]
    if result.memory_trend is None:
        return None

    def draw(axes: Any) -> None:
        minutes, megabytes = zip(*known, strict=True)
        axes.plot(_coarse(minutes), _coarse(megabytes), color=series_color(0), linewidth=1.2)
        axes.set_ylim(0, 1.2 * max(megabytes))
        axes.set_xlabel("minutes")
        axes.set_ylabel("MB")

    return draw_svg(draw, height=1.6)


def _coarse(values: Sequence[float] | Array) -> Array:
    """Medians of as many neighbours as it takes to have at most 600 points: an hour of seconds is drawn by six."""
    points = np.asarray(values, np.float64)
    step = -(-len(points) // _MOST_POINTS)
    return points if step == 1 else np.array([np.median(points[start : start + step]) for start in range(0, len(points), step)])


def series_color(number: int) -> str:
    """The color of one series: eight that differ, then again from the first."""
    return _SERIES[number % len(_SERIES)]


def _plain_ticks(axes: Any) -> None:
    """Numbers such as 0.2 on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    is_narrow = high / low < 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high / low < 10 else (1, 2, 5) if is_narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_svg(draw: Callable[[Any], None], *, height: float, rows: Sequence[float] = ()) -> str:
    """What a function draws, with the page's colors; the same bytes for the same data."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('drawing a report needs matplotlib and Jinja: pip install "lepton-edge[report]"') from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCH, height), layout="constrained")
        draw(figure.subplots(len(rows), sharex=True, height_ratios=rows) if len(rows) > 1 else figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for color, variable in {INK: "ink", _LINE: "line", **{color: f"series-{n}" for n, color in enumerate(_SERIES)}}.items():
        text = text.replace(color, f"var(--{variable})")
    return text
