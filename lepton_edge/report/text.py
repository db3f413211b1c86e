"""Reports as Markdown, for a pull request, and as CSV, for a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from lepton_edge.report.cell import (
    best_results,
    bundle_lines,
    candidate_names,
    caveat_lines,
    latency_cells,
    machine_words,
    percent_text,
    ratio_verdict,
    remark_lines,
    scenario_words,
    size_text,
)
from lepton_edge.report.document import Report, statistics_of

_MARKDOWN_COLUMNS = ("artifact", "p50 ms", "±", "p90 ms", "p99 ms", "per second", "accuracy", "size", "verdict")
_CSV_COLUMNS = (
    *("calls", "min_ms", "p50_ms", "p50_low_ms", "p50_high_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms", "mad_ms", "per_second"),
    *("load_ms", "first_run_ms", "cold_start_ms", "peak_rss_bytes", "steady_rss_bytes", "idle_cpu_percent"),
    *("frames_arrived", "frames_late", "frames_dropped"),
)


def render_markdown(reports: Sequence[Report]) -> str:
    """A table a run, with what it was measured on and what speaks against it."""
    parts = []
    for report in reports:
        names, best = candidate_names(report), best_results(report)
        lines = [f"**{report.device}**, {scenario_words(report)}, {report.created}" + (" (partial)" if report.is_partial else ""), ""]
        lines += [_row(_MARKDOWN_COLUMNS), _row(["---", *["---:"] * (len(_MARKDOWN_COLUMNS) - 2), "---"])]
        for number, result in enumerate(report.results):
            name = f"**{names[number]}**" if number in best else names[number]
            cells = [*latency_cells(result), percent_text(result.candidate.accuracy), size_text(result.candidate.size_bytes)]
            lines.append(_row([name, *cells, str(report.verdicts[number])]))
        lines += ["", *(f"- {names[number]}: {line}" for number, result in enumerate(report.results) for line in remark_lines(result))]
        for pair in report.ratios:
            ratio, verdict = pair.ratio, ratio_verdict(report, pair)
            interval = "" if ratio.low is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
            lines.append(f"- {names[pair.new]} takes {ratio.value:.3f}{interval} times as long as {names[pair.base]}: {verdict}")
        lines += [f"- {line}" for line in (*bundle_lines(report), *caveat_lines(report), machine_words(report), *report.notes)]
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        lines += ["", f"{versions}. Repeat it: `{report.command}`", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def render_csv(reports: Sequence[Report]) -> str:
    """One line a result; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ("created", "board", "cpu", "scenario", "fps")
    names = ("bundle", "file", "engine", "precision", "threads", "batch", "size_bytes", "accuracy")
    writer.writerow([*head, *names, *_CSV_COLUMNS, "is_stable", "reasons"])
    for report in reports:
        for result, verdict in zip(report.results, report.verdicts, strict=True):
            candidate, values = result.candidate, statistics_of(result)
            values["p50_low_ms"], values["p50_high_ms"] = result.interval_ms or (None, None)
            values["frames_arrived"], values["frames_late"], values["frames_dropped"] = result.frames or (None, None, None)
            writer.writerow(
                [report.created, report.device.board, report.device.cpu, report.settings.scenario, report.settings.fps]
                + [getattr(candidate, name) for name in names]
                + [values[name] for name in _CSV_COLUMNS]
                + [verdict.is_stable, "; ".join(verdict.reasons)]
            )
    return buffer.getvalue()
