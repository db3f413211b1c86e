"""One HTML file for people: no network, no script, light and dark, for a phone and for a desk."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lepton_edge.latency.result import LatencyResult
from lepton_edge.report.cell import (
    best_results,
    best_words,
    bundle_lines,
    candidate_names,
    caveat_lines,
    interval_text,
    latency_cells,
    machine_words,
    milliseconds,
    percent_text,
    ratio_verdict,
    remark_lines,
    scenario_words,
    size_text,
    start_cells,
)
from lepton_edge.report.chart import (
    distribution_chart,
    histogram_chart,
    memory_chart,
    pareto_chart,
    size_chart,
    time_chart,
)
from lepton_edge.report.document import Report
from lepton_edge.report.page import render_page

_SHOWN_OPERATORS = 12
_TREND_DOUBT = 0.01
_GROWTH = 0.01  # of the resident memory, over the second half of a run


def render_html(reports: Sequence[Report]) -> str:
    """The page for one or several runs.

    Raises:
        MissingExtraError: matplotlib or Jinja is not installed.
    """
    return render_page("report.html.jinja", {"runs": [_run(report) for report in reports]})


def _run(report: Report) -> dict[str, Any]:
    """What the template shows of one run."""
    results, names = report.results, candidate_names(report)
    best = best_results(report)
    return {
        "report": report,
        "headline": _headline(report),
        "scenario": scenario_words(report),
        "caveats": [*bundle_lines(report), *caveat_lines(report)],
        "is_stable": all(verdict.is_stable for verdict in report.verdicts),
        "rows": [
            {
                "name": names[number],
                "is_best": number in best,
                "cells": [
                    *latency_cells(result),
                    percent_text(result.candidate.accuracy),
                    size_text(result.candidate.size_bytes),
                    str(result.candidate.threads),
                ],
                "start": start_cells(result),
                "verdict": report.verdicts[number],
                "remarks": remark_lines(result),
            }
            for number, result in enumerate(results)
        ],
        "ratios": [
            {
                "new": names[pair.new],
                "base": names[pair.base],
                "ratio": f"{pair.ratio.value:.3f}",
                "interval": interval_text(pair.ratio, between=" to "),
                "verdict": ratio_verdict(report, pair),
            }
            for pair in report.ratios
        ],
        "distribution": distribution_chart(report),
        "histograms": [
            {"name": names[number], "chart": histogram_chart(result, number), "words": _histogram_words(result)}
            for number, result in enumerate(results)
        ],
        "time": time_chart(report),
        "time_words": machine_words(report),
        "pareto": pareto_chart(report),
        "size": size_chart(report),
        "memory": [
            {"name": names[number], "chart": chart, "words": memory_words(result)}
            for number, result in enumerate(results)
            if (chart := memory_chart(result)) is not None
        ],
        "operators": [
            {"name": names[number], "rows": _operator_rows(result), "count": len(result.operators)}
            for number, result in enumerate(results)
            if result.operators
        ],
        "settings": {key.replace("_", " "): value for key, value in asdict(report.settings).items() if value is not None},
        "bundles": {
            name: f"{result.candidate.bundle}/{result.candidate.file}, SHA-256 {result.candidate.sha256[:16]}…"
            for name, result in zip(names, results, strict=True)
        },
    }


def _headline(report: Report) -> str:
    best = best_results(report)
    if len(report.results) > 1 and not best:
        return "No artifact holds the rate"
    number = best[0] if best else 0
    result, name = report.results[number], candidate_names(report)[number]
    word = best_words(report) if best else "latency"
    if report.settings.scenario == "offline":
        return f"{word[0].upper()}{word[1:]}: {name}, {result.per_second:,.0f} samples a second"
    accuracy = "" if result.candidate.accuracy is None else f", accuracy {percent_text(result.candidate.accuracy)}"
    return f"{word[0].upper()}{word[1:]}: {name}, median {milliseconds(result.p50_ms)} ms{accuracy}"


def _histogram_words(result: LatencyResult) -> str:
    known = [(percent, result.percentile_ms(percent)) for percent in (90, 99, 99.9)]
    tails = ", ".join(f"p{percent:g} {milliseconds(value)}" for percent, value in known if value is not None)
    return (
        f"min {milliseconds(result.min_ms)}, median {milliseconds(result.p50_ms)}, {tails + ', ' if tails else ''}"
        f"max {milliseconds(result.max_ms)} ms; MAD {milliseconds(result.mad_ms)} ms; {result.calls:,} calls"
    )


def memory_words(result: LatencyResult) -> str:
    """Whether memory grows, in words."""
    if result.memory_trend is None:
        return "too short to say"
    slope, doubt = result.memory_trend
    text = f"{slope / 1000:+,.1f} kB an hour over the second half"
    if slope <= 0 or doubt > _TREND_DOUBT:
        return f"flat, {text}, within the noise"
    # Pages come and go in steps that a test of single looks takes for a trend: only what adds up counts.
    hours = (result.blocks[-1].started_ns - result.blocks[0].started_ns) / 2 / 3.6e12
    return f"{'growing' if slope * hours > _GROWTH * (result.steady_rss_bytes or 1) else 'flat'}, {text}"


def _operator_rows(result: LatencyResult) -> list[dict[str, Any]]:
    operators = result.operators or ()
    total = sum(operator.mean_ns for operator in operators) or 1
    return [
        {
            "kind": operator.kind,
            "name": operator.name,
            "microseconds": f"{operator.mean_ns / 1e3:.1f}",
            "percent": f"{100 * operator.mean_ns / total:.1f}",
        }
        for operator in operators[:_SHOWN_OPERATORS]
    ]
