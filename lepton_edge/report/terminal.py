"""Tables for people and JSON for machines, on the terminal."""

import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lepton_edge.latency.result import LatencyResult
from lepton_edge.report.cell import (
    bar,
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
    short_name,
    size_text,
    start_cells,
    tell_apart,
)
from lepton_edge.report.comparison import Change, Comparison
from lepton_edge.report.document import Report
from lepton_edge.report.file import write_text
from lepton_runtime.manifest import ArtifactRecord

_NUMBERS = re.compile(r"\[\s+([-\d.,e+\s]*[\d.])\s+\]")


def write_json(value: Any, path: str) -> None:
    """Write one JSON document to a file, or to stdout for ``-``; lists of numbers take one line each.

    Raises:
        OutputError: The file cannot be written.
    """
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)
    if path == "-":
        sys.stdout.write(text)
    else:
        write_text(text, Path(path), option="--json")


def without_nan(value: Any) -> Any:
    """The value with ``None`` for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> None:
    """A table on stdout, within 80 columns: words on the left, numbers on the right; starred rows stand out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for position, header in enumerate(headers):
        is_words = position == 0 or not header or any(row[position] and row[position][0].isalpha() for row in rows)
        table.add_column(header, justify="left" if is_words else "right", no_wrap=position < len(headers) - 1)
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("*") else None)
    console.print(table)
    if note:
        click.echo(textwrap.fill(note, 80))


ARTIFACT_HEADERS = ("artifact", "size", "max diff", "same top-1", "accuracy", "verdict")


def artifact_rows(records: Sequence[ArtifactRecord]) -> list[list[str]]:
    """One row an artifact for the headers ``ARTIFACT_HEADERS``."""
    return [
        [
            short_name(record.file),
            size_text(record.size_bytes),
            f"{record.parity.max_abs:.1e}",
            percent_text(record.parity.top1_agreement, digits=1),
            percent_text(record.accuracy),
            record.verdict,
        ]
        for record in records
    ]


def print_report(report: Report) -> None:
    """What was measured: the table, what speaks against it, cold starts and memory, the candidates against each other."""
    results, names, best = report.results, candidate_names(report), best_results(report)
    click.echo(f"{report.device}")
    for line in bundle_lines(report):
        click.echo(line)
    lengths = [result.per_second if report.settings.scenario == "offline" else result.p50_ms for result in results]
    rows = []
    for number, result in enumerate(results):
        accuracy = percent_text(result.candidate.accuracy).removesuffix(" %")
        name, length = ("* " if number in best else "  ") + names[number], bar(lengths[number] / max(lengths))
        rows.append([name, *latency_cells(result), accuracy, length])
    print_table(("artifact", "p50 ms", "±", "p90 ms", "p99 ms", "runs/s", "acc. %", ""), rows, note=_table_note(report))
    print_table(
        ("artifact", "cold start ms", "load ms", "first ms", "memory MB", "peak MB", "idle CPU"),
        [[names[number], *start_cells(result)] for number, result in enumerate(results)],
    )
    click.echo(textwrap.fill(machine_words(report) + ".", 80))
    for name, result, verdict in zip(names, results, report.verdicts, strict=True):
        for remark in (*remark_lines(result), *([] if verdict.is_stable else [verdict])):
            click.echo(f"{name}: {remark}")
    stable = [name for name, verdict in zip(names, report.verdicts, strict=True) if verdict.is_stable]
    if stable:
        click.echo(f"stable: {'all' if len(stable) == len(names) else ', '.join(stable)}")
    if report.ratios:
        print_ratios(report)
    for number, result in enumerate(results):
        if result.operators is not None:
            print_operators(names[number], result)
    for note in report.notes:
        click.echo(f"note: {note}")


def _table_note(report: Report) -> str:
    """What the star means, what all rows have in common, and what to know before deciding by them."""
    results = report.results
    words = [f"* {best_words(report)}"] if best_results(report) else []
    threads, batches = ({getattr(result.candidate, key) for result in results} for key in ("threads", "batch"))
    words += [_threads_text(*threads)] if len(threads) == 1 else []
    words += [f"batch {batches.pop()}"] if len(batches) == 1 else []
    calls, processes = min(result.calls for result in results), min(len(result.processes) for result in results)
    each = ", at least, of each" if len(results) > 1 else ""
    words += [f"{calls:,} calls in {processes} process{'es' if processes > 1 else ''}{each}"]
    return " ".join([f"{scenario_words(report)}: " + "; ".join(words) + ".", *caveat_lines(report)])


def print_ratios(report: Report) -> None:
    """The candidates that were measured side by side against each other."""
    names = candidate_names(report)
    rows = []
    for pair in report.ratios:
        ratio = pair.ratio
        rows.append([names[pair.new], names[pair.base], f"{ratio.value:.3f}", interval_text(ratio), ratio_verdict(report, pair)])
    note = "Time as a multiple of the base's, with its 95 % interval over pairs of processes."
    print_table(("artifact", "base", "ratio", "interval", "verdict"), rows, note=note)


def print_operators(name: str, result: LatencyResult, *, count: int = 10) -> None:
    """The operators that take the most time."""
    operators = list(result.operators or ())
    total = sum(operator.mean_ns for operator in operators) or 1
    rows = []
    for operator in operators[:count]:
        name_shown = operator.name if len(operator.name) <= 44 else "…" + operator.name[-43:]
        share, of_dearest = operator.mean_ns / total, operator.mean_ns / (operators[0].mean_ns or 1)
        rows.append([operator.kind, name_shown, f"{operator.mean_ns / 1e3:.1f}", f"{100 * share:.0f} %", bar(of_dearest)])
    note = f"{name}: {min(count, len(operators))} of {len(operators)} operators; the profiler itself adds 1 to 2 µs to each."
    print_table(("operator", "name", "µs", "share", ""), rows, note=note)


def print_comparison(comparison: Comparison) -> None:
    """One run against another."""
    rows = []
    names = tell_apart([_change_name(change) for change in comparison.changes])
    for name, change in zip(names, comparison.changes, strict=True):
        ratio = change.ratio
        cells = [
            milliseconds(change.base.p50_ms),
            milliseconds(change.new.p50_ms),
            f"{ratio.value:.3f}",
            interval_text(ratio),
            change.verdict,
        ]
        rows.append([name, *cells])
    print_table(("artifact", "base ms", "new ms", "ratio", "95 % interval", "verdict"), rows)
    for name, change in zip(names, comparison.changes, strict=True):
        if change.reason:
            click.echo(f"{name}: cannot tell: {change.reason}")
    for title, missing in (("only in the base", comparison.only_base), ("only in the new result", comparison.only_new)):
        if missing:
            click.echo(f"{title}: {'; '.join(missing)}")


def _change_name(change: Change) -> str:
    candidate = change.new.candidate
    threads = f" ×{candidate.threads}" if candidate.threads > 1 else ""
    return short_name(candidate.file) + threads + (f" b{candidate.batch}" if candidate.batch > 1 else "")


def _threads_text(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"
