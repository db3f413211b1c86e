"""``lepton-edge compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.benchmark import parse_percent
from lepton_edge.cli.options import json_option
from lepton_runtime.errors import RegressionError

if TYPE_CHECKING:
    from lepton_edge.report.comparison import Change, Comparison


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--fail-if-slower", "limit", metavar="5%", help="End with exit code 4 if an artifact surely takes that much longer.")
@json_option
def compare(base: Path, new: Path, limit: str | None, json_path: str | None) -> None:
    """Say what became faster or slower from BASE to NEW, two results of ``benchmark --json``.

    An artifact is faster or slower only if the 95 % interval over its processes says so and both measurements
    were stable; else it cannot be told.
    """
    from lepton_edge.report.comparison import compare_reports
    from lepton_edge.report.document import load_report
    from lepton_edge.report.terminal import print_comparison, write_json

    share = None if limit is None else parse_percent(limit)
    comparison = compare_reports(load_report(base), load_report(new))
    for warning in comparison.warnings:
        click.echo(f"warning: {warning}", err=True)
    if json_path:
        write_json(_to_dict(comparison), json_path)
    if json_path != "-":
        print_comparison(comparison)
    open_ones = [change.new.candidate.file for change in comparison.changes if change.verdict == "cannot tell"]
    if limit is not None and open_ones:
        click.echo(f"warning: --fail-if-slower {limit} decided nothing about {', '.join(open_ones)}: it cannot be told", err=True)
    slower = [change for change in comparison.changes if share is not None and change.is_slower_than(share)]
    if slower:
        names = ", ".join(f"{change.new.candidate.file} ({100 * (change.ratio.value - 1):+.1f} %)" for change in slower)
        raise RegressionError(f"no artifact must be slower than {limit}, these surely are: {names}")


def _to_dict(comparison: "Comparison") -> dict[str, Any]:
    return {
        "changes": [_change_dict(change) for change in comparison.changes],
        "only_base": list(comparison.only_base),
        "only_new": list(comparison.only_new),
        "warnings": list(comparison.warnings),
    }


def _change_dict(change: "Change") -> dict[str, Any]:
    ratio, candidate = change.ratio, change.new.candidate
    return {
        "file": candidate.file,
        "engine": candidate.engine,
        "threads": candidate.threads,
        "batch": candidate.batch,
        "base_p50_ms": change.base.p50_ms,
        "new_p50_ms": change.new.p50_ms,
        "ratio": ratio.value,
        "interval": None if ratio.low is None else [ratio.low, ratio.high],
        "verdict": change.verdict,
        "reason": change.reason,
    }
