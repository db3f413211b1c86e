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
    """A table on stdout, within 80 columns: words on the left, numbers on the right; starred rows stand out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for position, header in enumerate(headers):
        is_words = position == 0 or any(row[position] and row[position][0].isalpha() for row in rows)
        table.add_column(header, justify="left" if is_words else "right", no_wrap=position < len(headers) - 1)
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("*") else None)
    console.print(table)
    if note:
        console.print(note)


ARTIFACT_HEADERS = ("artifact", "size", "max diff", "same top-1", "accuracy", "verdict")
LATENCY_HEADERS = ("artifact", "threads", "p50 ms", "p90 ms", "p99 ms", "runs/s", "load ms", "memory", "acc. %")


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


def latency_rows(results: Sequence[LatencyResult], accuracies: dict[str, float | None]) -> list[list[str]]:
    """One row a result for the headers ``LATENCY_HEADERS``; the fastest is marked with a star."""
    fastest = min(results, key=lambda result: result.percentile_ms(50))
    return [
        [
            ("* " if result is fastest else "  ") + short_name(result.file),
            str(result.threads),
            *(f"{result.percentile_ms(percent):.3f}" for percent in (50, 90, 99)),
            f"{result.per_second:,.0f}",
            f"{result.load_ns / 1e6:.1f}",
            "–" if result.peak_rss_bytes is None else f"{result.peak_rss_bytes / 1e6:.0f} MB",
            percent_text(accuracies.get(result.file)).removesuffix(" %"),
        ]
        for result in results
    ]


def short_name(file: str) -> str:
    """An artifact's file name without the ``model.`` that all of them begin with."""
    return file.removeprefix("model.")


def percent_text(share: float | None, *, digits: int = 2) -> str:
    """A share as a percentage, or a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def size_text(size_bytes: int) -> str:
    """A file size in kB (1,000 bytes)."""
    return f"{size_bytes / 1000:,.{0 if size_bytes >= 10_000 else 1}f} kB"
