"""What the cells and lines of tables say, on the terminal, in Markdown and on a page alike."""

import sys

from lepton_edge.latency.pair import PairRatio
from lepton_edge.latency.result import LatencyResult
from lepton_edge.latency.statistics import FEWEST_PAIRS, Ratio, samples_needed
from lepton_edge.report.document import Report

_BAR_WIDTH = 8


def latency_cells(result: LatencyResult) -> list[str]:
    """p50, how well it is known, p90, p99 and throughput."""
    return [
        milliseconds(result.p50_ms),
        "–" if result.half_width is None else f"{100 * result.half_width:.1f} %",
        milliseconds(result.percentile_ms(90)),
        milliseconds(result.percentile_ms(99)),
        f"{result.per_second:,.0f}",
    ]


def start_cells(result: LatencyResult) -> list[str]:
    """Cold start, load, first run, steady and peak memory, and what idling costs."""
    memory = (result.steady_rss_bytes, result.peak_rss_bytes)
    idle = result.idle_cpu_percent
    return [
        *(f"{value:.1f}" for value in (result.cold_start_ms, result.load_ms, result.first_run_ms)),
        *("–" if value is None else f"{value / 1e6:.0f}" for value in memory),
        "–" if idle is None else f"{idle:.1f} %",
    ]


def remark_lines(result: LatencyResult) -> list[str]:
    """What a scenario adds: frames, and the first minute against the last."""
    lines = []
    if result.frames is not None:
        arrived, late, dropped = result.frames
        words = "holds the rate" if late == dropped == 0 else "does not hold the rate" if dropped else "holds the rate, with late frames"
        lines.append(f"{words}: {arrived:,} frames arrived, {late:,} late, {dropped:,} dropped")
    minutes = result.minutes_ms
    if len(minutes) > 1:
        change = round(100 * (minutes[-1] / minutes[0] - 1), 1) + 0.0  # no -0.0
        lines.append(f"first minute {minutes[0]:.3f} ms, last minute {minutes[-1]:.3f} ms ({change:+.1f} %)")
        lines.append("median a minute, ms: " + " ".join(f"{minute:.3f}" for minute in minutes))
    return lines


def machine_words(report: Report) -> str:
    """How the machine was doing over the run, and what it does not tell."""
    states = [block.state for result in report.results for block in result.blocks]
    known = (
        ("temperature", "°C", [state.temperature_c for state in states]),
        ("fastest core", "MHz", [state.fastest_mhz for state in states]),
        ("power", "W", [state.power_w for state in states]),
    )
    words, absent = [], []
    for name, unit, values in known:
        found = [value for value in values if value is not None]
        if found:
            words.append(f"{name} {min(found):.4g} to {max(found):.4g} {unit}")
        else:
            absent.append(name)
    if any(state.throttled_now is not None for state in states):
        now = sorted({name for state in states for name in state.throttled_now or ()})
        since_boot = sorted({name for state in states for name in state.throttled_since_boot or ()})
        words.append(f"held back: {', '.join(now) or 'never'} (since boot: {', '.join(since_boot) or 'never'})")
    else:
        absent.append("throttling")
    if absent:
        words.append(f"not told: {', '.join(absent)}")
    text = "; ".join(words)
    return text[0].upper() + text[1:]


def candidate_names(report: Report) -> list[str]:
    """A short name for each result: the artifact, and what distinguishes it from the others."""
    candidates = [result.candidate for result in report.results]
    bundles = list(dict.fromkeys(candidate.bundle for candidate in candidates))
    several_threads, several_batches = (len({getattr(c, key) for c in candidates}) > 1 for key in ("threads", "batch"))
    names = []
    for candidate in candidates:
        name = short_name(candidate.file)
        if len(bundles) > 1:
            name += f" {letter(bundles.index(candidate.bundle))}"
        if several_threads:
            name += f" ×{candidate.threads}"
        if several_batches:
            name += f" b{candidate.batch}"
        names.append(name)
    return tell_apart(names)


def tell_apart(names: list[str]) -> list[str]:
    """The names, with a letter behind those that are there more than once: a bundle against itself gives each name twice.

    >>> tell_apart(["fp32", "fp16", "fp32"])
    ['fp32 A', 'fp16', 'fp32 B']
    """
    return [f"{name} {letter(names[:position].count(name))}" if names.count(name) > 1 else name for position, name in enumerate(names)]


def best_results(report: Report) -> list[int]:
    """The number of the best of several results, or none.

    The lowest median; offline the largest throughput; at a fixed rate the lowest median of those that hold the rate.
    """
    results = list(enumerate(report.results))
    if report.settings.fps is not None:
        results = [(number, result) for number, result in results if result.frames is not None and result.frames[2] == 0]
    if len(report.results) < 2 or not results:
        return []
    if report.settings.scenario == "offline":
        return [max(results, key=lambda entry: entry[1].per_second)[0]]
    return [min(results, key=lambda entry: entry[1].p50_ms)[0]]


def best_words(report: Report) -> str:
    """What makes a result the best."""
    if report.settings.fps is not None:
        return "lowest p50 of those that hold the rate"
    return "largest throughput" if report.settings.scenario == "offline" else "lowest p50"


def scenario_words(report: Report) -> str:
    """How calls came."""
    if report.settings.fps is not None:
        return f"fixed-rate, {report.settings.fps:g} frames a second"
    return report.settings.scenario + (", sustained" if report.settings.duration_seconds is not None else "")


def caveat_lines(report: Report) -> list[str]:
    """What a reader must know before deciding by the figures."""
    lines = []
    unknown = [percent for percent in (90, 99) if any(result.percentile_ms(percent) is None for result in report.results)]
    if unknown:
        lines.append("– is not known: " + ", ".join(f"p{percent} takes {samples_needed(percent)} calls" for percent in unknown) + ".")
    if any(len(result.processes) == 1 for result in report.results):
        advice = "." if report.settings.duration_seconds is not None else "; --processes 6 sees that."
        lines.append("± is within one process: what differs from start to start is not in it" + advice)
    if any(pair.ratio.low is None for pair in report.ratios):
        lines.append(f"Too few: to tell candidates apart takes {FEWEST_PAIRS} processes of each.")
    if report.settings.fps is not None:
        lines.append("Latency runs from a frame's arrival; between frames caches and clocks go cold.")
    return lines


def interval_text(ratio: Ratio, *, between: str = "–") -> str:
    """The ends of a ratio's interval, or a dash."""
    return "–" if ratio.low is None else f"{ratio.low:.3f}{between}{ratio.high:.3f}"


def ratio_verdict(report: Report, pair: PairRatio) -> str:
    """Faster, slower or cannot tell, and what to think of it."""
    if pair.ratio.low is None:
        return f"{pair.ratio.verdict} (too few)"
    is_stable = all(report.verdicts[number].is_stable for number in (pair.base, pair.new))
    return pair.ratio.verdict if is_stable else f"{pair.ratio.verdict} (not stable)"


def bundle_lines(report: Report) -> list[str]:
    """Which letter stands for which bundle, if there are several."""
    bundles = list(dict.fromkeys(result.candidate.bundle for result in report.results))
    return [f"{letter(number)} is {path}" for number, path in enumerate(bundles if len(bundles) > 1 else [])]


def letter(number: int) -> str:
    """A, B, C, …: a short name for one of several bundles."""
    return chr(ord("A") + number) if number < 26 else str(number)


def bar(share: float) -> str:
    """A small bar; plain where the terminal cannot show blocks."""
    width = max(0.0, min(1.0, share)) * _BAR_WIDTH
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    if not encoding.startswith("utf"):
        return "#" * max(1, round(width))
    whole, eighths = divmod(round(width * 8), 8)
    return ("█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths]) or "▏"


def milliseconds(value: float | None) -> str:
    """A latency with three digits that count, at most three behind the point."""
    if value is None:
        return "–"
    if value < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def short_name(file: str) -> str:
    """An artifact's file name without the ``model.`` that all of them begin with."""
    return file.removeprefix("model.")


def percent_text(share: float | None, *, digits: int = 2) -> str:
    """A share as a percentage, or a dash; all is 100 %, and nearly all is not.

    >>> percent_text(0.9999, digits=1)
    '99.9 %'
    """
    if share is None:
        return "–"
    return f"{min(100 * share, 100 - 10**-digits if share < 1 else 100):.{digits}f} %"


def size_text(size_bytes: int) -> str:
    """A file size in kB (1,000 bytes)."""
    return f"{size_bytes / 1000:,.{0 if size_bytes >= 10_000 else 1}f} kB"
