"""Tables for people and JSON for machines."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_edge.latency import LatencyResult
from lepton_runtime.errors import OutputError
from lepton_runtime.manifest import ArtifactRecord


def write_json(value: Any, path: str) -> None:
    """Write one JSON document to a file, or to stdout for ``-``.

    Raises:
        OutputError: The file cannot be written.
    """
    text = json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--json needs a file that can be written, {path!r} cannot: {error.strerror}") from error


def _without_nan(value: Any) -> Any:
    """The value with ``None`` for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> None:
    """A table on stdout. The first column is on the left, numbers are on the right, a last column of words on the left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, header in enumerate(headers):
        is_words = all(row[position] and not row[position][0].isdigit() and row[position][0] != "–" for row in rows)
        table.add_column(header, justify="left" if is_words else "right", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("*") else None)
    console.print(table)
    if note:
        console.print(note)


def artifact_rows(records: Sequence[ArtifactRecord], *, source_accuracy: float | None) -> list[list[str]]:
    """One row an artifact for the headers ``ARTIFACT_HEADERS``."""
    rows = []
    for record in records:
        drop = "–" if record.accuracy is None or source_accuracy is None else f"{100 * (source_accuracy - record.accuracy):+.2f}"
        agreement = record.parity.top1_agreement
        rows.append(
            [
                record.file,
                size_text(record.size_bytes),
                f"{record.parity.max_abs:.1e}",
                f"{record.parity.cosine:.5f}",
                "–" if agreement is None else f"{100 * agreement:.1f} %",
                percent_text(record.accuracy),
                drop,
                record.verdict,
            ]
        )
    return rows


ARTIFACT_HEADERS = ("artifact", "size", "max |diff|", "cosine", "same top-1", "accuracy", "drop pp", "verdict")
LATENCY_HEADERS = ("artifact", "engine", "threads", "p50 ms", "p90 ms", "p99 ms", "runs/s", "load ms", "memory", "accuracy")


def latency_rows(results: Sequence[LatencyResult], accuracies: dict[str, float | None]) -> list[list[str]]:
    """One row a result for the headers ``LATENCY_HEADERS``; the fastest is marked with a star."""
    fastest = min(results, key=lambda result: result.percentile_ms(50))
    rows = []
    for result in results:
        memory = "–" if result.peak_rss_bytes is None else f"{result.peak_rss_bytes / 1e6:.0f} MB"
        rows.append(
            [
                ("* " if result is fastest else "  ") + result.file,
                result.engine,
                str(result.threads),
                *(f"{result.percentile_ms(percent):.3f}" for percent in (50, 90, 99)),
                f"{result.per_second:,.0f}",
                f"{result.load_ns / 1e6:.1f}",
                memory,
                percent_text(accuracies.get(result.file)),
            ]
        )
    return rows


def percent_text(share: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "–" if share is None else f"{100 * share:.2f} %"


def size_text(size_bytes: int) -> str:
    """A file size in kB (1,000 bytes)."""
    return f"{size_bytes / 1000:,.0f} kB"
