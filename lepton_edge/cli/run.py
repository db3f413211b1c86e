"""``lepton-edge run``."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import click

from lepton_edge.cli.options import json_option
from lepton_runtime.errors import InputError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--precision", metavar="NAME", help="Which artifact. [default: the closest to Keras]")
@click.option("--engine", metavar="NAME", help="onnxruntime or litert. [default: onnxruntime where it can]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many answers are shown.")
@json_option
def run(bundle: Path, input: Path, precision: str | None, engine: str | None, threads: int, top: int, json_path: str | None) -> None:  # noqa: A002
    """Run BUNDLE once on INPUT.

    INPUT is an image, which goes through the recorded preprocessing; or a .npy file, or a .npz file with one
    array an input, whose arrays are taken as the model takes them.
    """
    from lepton_edge.report import write_json
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.labels import class_output, rank_labels
    from lepton_runtime.session import Session

    opened = Bundle.open(bundle)
    opened.check()
    with Session.open(opened, precision=precision, engine=engine, threads=threads) as session:
        outputs = session.run(_read_inputs(input, session))
        real = {spec.name: spec.dequantize(outputs[spec.name]) for spec in session.artifact.outputs}
    scores = class_output(session.artifact.outputs)
    labels = opened.manifest.labels
    answers = rank_labels(real[scores.name][0], labels, count=top) if labels and scores else None
    if json_path:
        document: dict[str, Any] = {"outputs": {name: array.tolist() for name, array in outputs.items()}}
        if answers is not None:
            document["top"] = [{"label": answer.label, "score": answer.score} for answer in answers]
        write_json(document, json_path)
    if json_path == "-":
        return
    if answers is None:
        for name, array in real.items():
            click.echo(f"{name} {'×'.join(map(str, array.shape))}\n{array}")
    else:
        width = max(len(answer.label) for answer in answers)
        for answer in answers:
            click.echo(f"  {answer.label:<{width}}  {answer.score:8.4f}  {'█' * round(30 * min(1.0, max(0.0, answer.score)))}")
    click.echo(f"{session.artifact.file} on {session.engine}, {threads} thread{'s' if threads > 1 else ''}", err=True)


def _read_inputs(path: Path, session: Any) -> dict[str, Any]:
    """One checked array an input."""
    import numpy as np

    specs = session.artifact.inputs
    if path.suffix not in (".npy", ".npz"):
        return {specs[0].name: session.preprocess(path)}
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if path.suffix == ".npz" else {specs[0].name: loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"INPUT must be an image or a NumPy file of plain numbers, {str(path)!r} cannot be read: {error}") from error
    for spec in specs:
        if spec.name in arrays:
            spec.check(arrays[spec.name], finite=True)
    return arrays
