"""``lepton-edge explain``."""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_edge.cli.options import json_option
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import MissingExtraError
from lepton_runtime.formats import Format

if TYPE_CHECKING:
    from lepton_converters.explanation import Explanation

_SHOWN = 10
_WIDEST_KIND = 12
_SAVED = (
    "Saved: what the divergence with all blocks in 8 bits loses with only this one in float, as the export measured it; –: nothing, or no "
    "more than chance. "
)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="Samples that were not calibrated on, raw, as for export: image folder, .npz, .npy, .csv, .txt, module:function. "
    "Labels (class folders, y, a column label) add the accuracy.",
)
@click.option(
    "--format", "format_", type=click.Choice([str(format_) for format_ in Format]), help="Which file. [default: onnx where there are both]"
)
@click.option("--samples", type=click.IntRange(1), default=200, show_default=True, help="How many to look at, at most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of their choice.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Also write a page with every block and the changed answers (needs [report])."
)
@json_option
def explain(bundle: Path, data: str, format_: str | None, samples: int, seed: int, html: Path | None, json_path: str | None) -> None:
    """Say where the static-int8 file of BUNDLE loses accuracy against its fp32 file.

    Both are run on the same samples. For each block of the network: how far its values are from those in float, how much of
    that it adds itself, and what its range makes of them.
    """
    from lepton_edge.report.file import check_writable, write_text
    from lepton_edge.report.terminal import write_json

    if html:
        check_writable(html, option="--html")
    opened = Bundle.open(bundle)
    opened.check()
    explanation = _explain(opened, data, format_=format_, samples=samples, seed=seed)
    if html:
        from lepton_edge.report.explanation_html import render_explanation

        text = render_explanation(explanation, bundle=bundle, preprocessing=opened.manifest.preprocessing)
        write_text(text, html, option="--html")
    if json_path:
        write_json(explanation.to_dict(), json_path)
    if json_path != "-":
        _print(explanation, bundle)
    if html:
        click.echo(f"Wrote {html}.", err=True)


def _explain(bundle: Bundle, data: str, *, format_: str | None, samples: int, seed: int) -> "Explanation":
    try:
        from lepton_converters.explanation import explain as explain_bundle
    except ImportError as error:
        raise MissingExtraError(
            f"explaining needs what exporting does ({error.name or error} is not installed here); "
            'on a workstation: pip install "lepton-edge[convert]"'
        ) from error

    def show(done: int, count: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\033[K  explain  {done} of {count} samples", nl=False, err=True)
            if done == count:
                click.echo("\r\033[K", nl=False, err=True)

    return explain_bundle(bundle, data, format_=Format(format_) if format_ else None, samples=samples, seed=seed, on_progress=show)


def _print(explanation: "Explanation", bundle: Path) -> None:
    from lepton_edge.report.explanation import (
        BLOCK_HEADERS,
        advice_lines,
        block_cells,
        float_words,
        short_block,
        summary,
        title,
        unmatched_words,
    )
    from lepton_edge.report.terminal import print_table

    click.echo(textwrap.fill(f"{title(explanation)}: {summary(explanation)}; {float_words(explanation)}.", 80, break_on_hyphens=False))
    has_records = any(block.record for block in explanation.blocks)
    shown = len(BLOCK_HEADERS) - 2 * has_records  # what is saved takes the place of the last two
    headers = ("block", *(["saved"] if has_records else []), *BLOCK_HEADERS[:shown])
    rows = []
    for block in explanation.worst[:_SHOWN]:
        kind, *cells = block_cells(block)[:shown]
        saved = [f"{block.surely_saved:.2g}" if block.surely_saved else "–"] if has_records else []
        rows.append([short_block(block.name), *saved, kind if len(kind) <= _WIDEST_KIND else kind[: _WIDEST_KIND - 1] + "…", *cells])
    count = len(explanation.blocks)
    order = "save most alone in float, then those that do most to the answers" if has_records else "do most to the answers"
    first = f"The {len(rows)} of {count} blocks that {order}" if count > len(rows) else f"First the blocks that {order}"
    note = (
        f"{first}. {_SAVED if has_records else ''}Effect: divergence of the answers if only this block is in 8 bits. "
        "SNR: of the values there, what has added up; own: what the block adds itself. Clipped: values beyond the range"
        f"{'' if has_records else '; unused: of the integers'}."
    )
    if rows:
        print_table(headers, rows, note=note)
    if explanation.unmatched:
        click.echo(textwrap.fill(unmatched_words(explanation), 80))
    for line in advice_lines(explanation, bundle):
        click.echo(line, err=True)
