"""``lepton-edge finetune``."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.options import (
    PREPROCESSING_EPILOG,
    custom_objects_option,
    json_option,
    preprocessing_options,
    read_labels,
    read_preprocessing,
    size_option,
)
from lepton_runtime.formats import Target

if TYPE_CHECKING:
    from lepton_converters.finetune import FinetuneResult
    from lepton_converters.quantized_training import Epoch


@click.command(epilog=PREPROCESSING_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="Samples to train on, raw as for export, with classes where there are any: image folder, .npz, .npy, .csv, module:function.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The tuned network, a .keras file. [default: MODEL-tuned.keras]")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="How many times to go through the samples.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=1e-5, show_default=True, help="At first."
)
@click.option("--samples", type=click.IntRange(2), default=2000, show_default=True, help="How many to use, at most; a fifth only judges.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="How many samples a step takes.")
@click.option(
    "--target",
    type=click.Choice([str(target) for target in Target]),
    default=str(Target.ANY),
    show_default=True,
    help="The CPUs that the static-int8 ONNX file will be for, as for export.",
)
@size_option
@preprocessing_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice and the order of samples.")
@custom_objects_option
@click.option("--trust-code", is_flag=True, help="Load Lambda layers: runs code that came with the model.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def finetune(
    model: Path,
    output: Path | None,
    toml: Path | None,
    resize: str | None,
    interpolation: str | None,
    color: str | None,
    scale: str | None,
    mean: tuple[str, ...],
    std: tuple[str, ...],
    labels: Path | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Train MODEL on for a few epochs as its static-int8 file computes, where quantizing alone loses too much.

    It learns to answer as it did in float, and what the labels say, if there are any. The result is the same network with other
    weights, for the ordinary export. Exit code 3 if no epoch was better than the beginning: then nothing is written.
    """
    from lepton_converters.finetune import finetune as tune

    click.echo("loading TensorFlow", err=True)
    result = tune(
        model,
        output or model.with_name(f"{model.stem}-tuned.keras"),
        preprocessing=read_preprocessing(
            toml, {"resize": resize, "interpolation": interpolation, "color": color, "scale": scale, "mean": mean, "std": std}
        ),
        labels=read_labels(labels),
        on_epoch=_show,
        **options,
    )
    _report(result, json_path)


def _show(epoch: "Epoch") -> None:
    name = "before" if epoch.loss is None else f"epoch {epoch.number}/{epoch.count}  loss {epoch.loss:.4f}"
    click.echo(f"  {name:<28} held back {epoch.held_loss:.4f}, int8 {100 * epoch.score:6.2f} %  {epoch.seconds:6.1f} s", err=True)


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
        note = (
            f"{result.metric.capitalize()} on {result.held_back:,} samples that were held back; trained on {result.samples:,}, "
            f"{sum(epoch.seconds for epoch in result.epochs) / len(result.epochs):.1f} s an epoch, of which the weights after epoch "
            f"{result.best_epoch} were kept. {result.operators} layers with weights were simulated in 8 bits."
        )
        print_table(("", "before", "after"), rows, note=note)
    if result.floating:
        click.echo(f"in float as in the file: {', '.join(result.floating)}", err=True)
    click.echo(f"Wrote {result.path}.", err=True)
    click.echo(f"Next: lepton-edge export {shlex.quote(str(result.path))} with the --calib, --eval and preprocessing of before", err=True)
