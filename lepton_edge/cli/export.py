"""``lepton-edge export``."""

import shlex
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.options import (
    PREPROCESSING_EPILOG,
    answer_options,
    comma_list,
    custom_objects_option,
    frame_size_option,
    json_option,
    preprocessing_options,
    size_option,
)
from lepton_edge.cli.progress import StepPrinter
from lepton_runtime.errors import ParityError
from lepton_runtime.formats import Format, Precision, Target

if TYPE_CHECKING:
    from lepton_converters import ExportResult


def _batch(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "dynamic":
        return None
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"a whole number from 1, or 'dynamic', found {value!r}")
    return int(value)


@click.command(epilog=PREPROCESSING_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle: a folder, or a .zip file. [default: MODEL.bundle]")
@click.option("--format", "formats", multiple=True, callback=comma_list(Format.parse), metavar="onnx|tflite", help="[default: both]")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    callback=comma_list(Precision.parse),
    metavar="NAME",
    help="fp32, fp16, dynamic-int8, static-int8 or int16x8; repeat it or use commas. [default: all that can be made]",
)
@click.option(
    "--calib",
    metavar="PATH",
    help="Sample inputs for static-int8 and int16x8, raw (before preprocessing, 0 to 255 for photos): image folder, .npz, .npy, .csv, "
    ".txt (a text a line), module:function.",
)
@click.option("--calib-samples", type=click.IntRange(1), default=200, show_default=True, help="How many to calibrate on, at most.")
@click.option(
    "--eval",
    "evaluate",
    metavar="PATH",
    help="Labelled samples to measure accuracy on, raw like those: class folders, .npz with x and y, .csv with a column label.",
)
@click.option(
    "--max-drop",
    metavar="0.5pp|1%",
    help="Accuracy that may be lost, absolute or relative. Where it is given, a search on half of --eval finds what static-int8 must "
    "keep in float. "
    "[default: 1pp with --eval, without a search]",
)
@click.option(
    "--target",
    type=click.Choice([str(target) for target in Target]),
    help="The CPUs that static-int8 ONNX files are for; with any, weights keep to 7 bits, which no CPU adds up wrongly. "
    "[default: that of --recipe, or any]",
)
@click.option("--recipe", "repeat", metavar="BUNDLE", help="Make static-int8 files as those of that bundle were made, without a search.")
@click.option(
    "--measure-blocks",
    is_flag=True,
    help="Record what each block of static-int8 files costs alone in 8 bits and saves alone in float, for explain; it takes minutes.",
)
@click.option("--keep-failed", is_flag=True, help="Keep artifacts that break the budget, marked.")
@click.option("--batch", default="1", callback=_batch, show_default=True, metavar="N|dynamic", help="Length of the batch axis.")
@size_option("without it they stay free")
@click.option(
    "--io", type=click.Choice(["float", "int8", "uint8"]), default="float", show_default=True, help="Numbers at the doors of static-int8."
)
@click.option(
    "--input",
    "input_",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="What the files take: preprocessed numbers; or a camera's frames, with the preprocessing inside of them.",
)
@click.option(
    "--pixels",
    type=click.Choice(["rgb", "bgr", "gray", "nv12", "yuyv"]),
    help="With --input uint8: the layout of a frame. [default: rgb, or gray for a model of gray pictures]",
)
@frame_size_option
@preprocessing_options
@answer_options
@click.option("--license", "license_", help="Recorded in the bundle.")
@click.option(
    "--card",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What there is to say of the model, as `lepton-edge card` prints it; it becomes model-card.md, with what was measured.",
)
@click.option("--sbom", is_flag=True, help="Add a bill of materials, sbom.cdx.json (CycloneDX).")
@click.option("--serial", type=click.IntRange(0, 10**15), help="Recorded: a number that goes up from release to release; see install.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything chosen at random.")
@click.option("--signature", metavar="NAME", help="Which of a SavedModel's signatures. [default: serving_default, or the only one]")
@custom_objects_option
@click.option("--trust-code", is_flag=True, help="Load Lambda layers and SavedModels: runs code that came with the model.")
@click.option("--keep-dropout", is_flag=True, help="Keep dropout (Monte-Carlo dropout): its noise is drawn anew in each call.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@json_option
def export(
    model: Path,
    output: Path | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Convert MODEL (.keras, .h5 or a SavedModel folder), verify every result against Keras, and write one bundle."""
    from lepton_converters import export as export_bundle

    started = monotonic()
    with StepPrinter() as on_step:
        result = export_bundle(
            model,
            output or model.with_suffix(".bundle"),
            on_step=on_step,
            **options,
        )
    report_export(result, json_path=json_path, seconds=monotonic() - started)
    if not options["calib"] and not options["precisions"]:
        click.echo("Without --calib PATH there is no static-int8 and no int16x8: they need sample inputs.", err=True)
    if result.failed:
        raise ParityError(f"every precision asked for must keep to the budget, {', '.join(result.failed)} did not; the table says how far")


def report_export(result: "ExportResult", *, json_path: str | None, seconds: float) -> None:
    """Print what an export made: the table, what was left out, the next command."""
    from lepton_edge.report.terminal import ARTIFACT_HEADERS, artifact_rows, print_table, write_json

    manifest = result.manifest
    if json_path:
        left_out = [asdict(entry) for entry in result.left_out]
        write_json({**manifest.to_dict(), "path": str(result.path), "left_out": left_out}, json_path)
    if json_path != "-":
        print_table(ARTIFACT_HEADERS, artifact_rows(result.verified))
        if manifest.evaluation:
            click.echo(f"Keras: {100 * manifest.evaluation.accuracy:.2f} % on {manifest.evaluation.samples:,} samples.")
    for entry in result.left_out:
        click.echo(f"left out: {entry.precision} {entry.format}: {entry.reason}", err=True)
    if any("over the budget" in entry.reason for entry in result.left_out):
        click.echo("--keep-failed keeps such files, for lepton-edge explain; lepton-edge finetune makes them lose less.", err=True)
    if manifest.removed_layers:
        click.echo(f"taken out (they work in training only): {', '.join(manifest.removed_layers)}", err=True)
    for note in (*manifest.notes, *result.remarks):
        click.echo(f"note: {note}", err=True)
    click.echo(f"Wrote {result.path} in {seconds:.1f} s.", err=True)
    click.echo(f"Next: lepton-edge benchmark {shlex.quote(str(result.path))}", err=True)
