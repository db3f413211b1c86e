"""``lepton-edge report``."""

from pathlib import Path

import click

from lepton_runtime.errors import InputError, OutputError
from lepton_runtime.formats import did_you_mean

_SUFFIXES = (".html", ".md", ".csv")


@click.command()
@click.argument("results", metavar="RESULT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The report: .html (needs [report]), .md or .csv.")
@click.option("--force", is_flag=True, help="Replace a report that is there.")
def report(results: tuple[Path, ...], output: Path, force: bool) -> None:
    """Make one report of RESULTs of ``benchmark --json``: a page to look at, Markdown, or CSV."""
    from lepton_edge.report.document import load_report
    from lepton_edge.report.file import check_writable, write_text
    from lepton_edge.report.text import render_csv, render_markdown

    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"a report ends in {', '.join(_SUFFIXES)}, found {str(output)!r}{did_you_mean(suffix, _SUFFIXES)}")
    if output.exists() and not force:
        raise OutputError(f"the output {str(output)!r} exists; add --force to replace it, or choose another with --output")
    check_writable(output, option="--output")
    reports = [load_report(path) for path in results]
    if suffix == ".html":
        from lepton_edge.report.html import render_html

        text = render_html(reports)
    else:
        text = render_markdown(reports) if suffix == ".md" else render_csv(reports)
    write_text(text, output, option="--output")
    click.echo(f"Wrote {output} ({len(text.encode()) / 1000:,.0f} kB).", err=True)
