"""``lepton-edge finetune``."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.options import (
    PREPROCESSING_EPILOG,
    custom_objects_option,
    json_option,
    preprocessing_options,
    size_option,
)
from lepton_edge.cli.progress import StepPrinter
from lepton_runtime.formats import Target

if TYPE_CHECKING:
    from lepton_converters.finetune import FinetuneResult

# What an export of the tuned network is to be told again.
_EXPORTED = ("evaluate", "target", "size", "toml", "resize", "interpolation", "color", "scale", "mean", "std", "labels")


@click.command(epilog=PREPROCESSING_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="Samples to train on, raw (before preprocessing, 0 to 255 for photos): image folder, .npz, .npy, .csv, .txt (a text a line), "
    "module:function. Labels (class folders, y, a column label) help and are not needed.",
)
@click.option(
    "--eval",
    "evaluate",
    metavar="PATH",
    help="Labelled samples that neither train nor choose, raw, to measure the gain on. [default: the fifth of --data that chooses]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The tuned network, a .keras file. [default: MODEL-tuned.keras]")
@click.option(
    "--epochs", type=click.IntRange(1), default=3, show_default=True, help="How many times to go through the samples; the best one is kept."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-5,
    show_default=True,
    help="Of Adam's first step; it falls to zero along a cosine.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="How many to use, at most; a fifth of them only chooses the best epoch. They are kept in memory.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="How many samples a step takes, at most.")
@click.option(
    "--target",
    type=click.Choice([str(target) for target in Target]),
    default=str(Target.ANY),
    show_default=True,
    help="The CPUs that the static-int8 ONNX file will be for; give the same to export.",
)
@click.option("--ignore-labels", is_flag=True, help="Learn only to answer as the float network does, and nothing from labels.")
@click.option("--keep-frozen", is_flag=True, help="Leave layers with trainable=False as they are; without it they are trained, too.")
@size_option("needed where there are any")
@preprocessing_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice and the order of samples.")
@custom_objects_option
@click.option("--trust-code", is_flag=True, help="Load Lambda layers: runs code that came with the model.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def finetune(
    model: Path,
    output: Path | None,
    ignore_labels: bool,
    json_path: str | None,
    **options: Any,
) -> None:
    """Train MODEL on for a few epochs as its static-int8 file computes, where quantizing alone loses too much.

    It learns to answer as it did in float, and what the labels say, if there are any. The result is the same network with other
    weights, for the ordinary export. Exit code 3 if no epoch was better than the beginning: then nothing is written.
    """
    from lepton_converters.finetune import finetune as tune

    with StepPrinter() as on_step:
        result = tune(
            model,
            output or model.with_name(f"{model.stem}-tuned.keras"),
            use_labels=not ignore_labels,
            on_step=on_step,
            **options,
        )
    _report(result, json_path)
    click.echo(f"Next: {shlex.join(_export_command(result.path, click.get_current_context()))}", err=True)


def _export_command(path: Path, context: click.Context) -> Iterator[str]:
    """The export of the tuned network, with those options that it has in common with the fine-tuning and that were given."""
    yield from ("lepton-edge", "export", str(path), "--calib", context.params["data"])
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in _EXPORTED:
        value = context.params[name]
        if value and value != str(Target.ANY):
            separator = "x" if name == "size" else ","
            yield from (names[name], separator.join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    for text in context.params["custom_objects"]:
        yield from ("--custom-objects", text)
    if context.params["trust_code"]:
        yield "--trust-code"


def _report(result: "FinetuneResult", json_path: str | None) -> None:
    from lepton_edge.report.cell import percent_text
    from lepton_edge.report.terminal import print_table, write_json

    if json_path:
        write_json({**asdict(result), "path": str(result.path)}, json_path)
    if json_path != "-":
        rows = [
            ["float", percent_text(result.float_before), percent_text(result.float_after)],
            ["int8, simulated", percent_text(result.int8_before), percent_text(result.int8_after)],
        ]
        measured = (
            f"the {result.evaluated:,} samples of --eval" if result.evaluated else f"the {result.held_back:,} samples that chose the epoch"
        )
        note = (
            f"{result.metric.capitalize()} on {measured}; trained on {result.samples:,}, "
            f"{sum(epoch.seconds for epoch in result.epochs) / len(result.epochs):.1f} s an epoch, of which the weights after epoch "
            f"{result.best_epoch} were kept. {result.operators} layers with weights were simulated in 8 bits."
        )
        print_table(("", "before", "after"), rows, note=note)
    if result.floating:
        click.echo(f"in float as in the file: {', '.join(result.floating)}", err=True)
    if result.unmatched:
        click.echo(f"in float here, but in 8 bits in the file, which loses more: {', '.join(result.unmatched)}", err=True)
    if result.diverged is not None:
        click.echo(f"the training diverged in epoch {result.diverged}, which ended it: lower --learning-rate", err=True)
    for text in result.notes:
        click.echo(f"note: {text}", err=True)
    click.echo(f"Wrote {result.path} in {result.seconds:.1f} s.", err=True)
