"""``lepton-edge demo``."""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

import click
import numpy as np

from lepton_edge.cli.options import json_option
from lepton_edge.digits import Digits, load_digits, recall_by_class, shipped_bundle
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import OutputError

_DEMO_FILES = {"digits.keras", "digits.bundle", "train.npz", "test.npz"}


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("lepton-demo"), show_default=True, help="Folder for what is made."
)
@click.option("--force", is_flag=True, help="Replace what an earlier demo made.")
@json_option
def demo(output: Path, force: bool, json_path: str | None) -> None:
    """Show the whole way on handwritten digits: train, export, verify, run, benchmark.

    Without the [convert] extra, as on a device, a bundle that is shipped with the package is run and
    benchmarked instead.
    """
    from lepton_edge.cli.benchmark import choose_candidates, measure_report
    from lepton_edge.latency.settings import LatencySettings
    from lepton_edge.report.cell import bar, milliseconds, percent_text, size_text
    from lepton_edge.report.terminal import print_table, write_json

    digits = load_digits()
    missing = [name for name in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "ai_edge_litert") if find_spec(name) is None]
    if missing:
        click.echo(f"No export here ({', '.join(missing)} not installed): running the shipped bundle.", err=True)
        path = shipped_bundle()
    else:
        path = _train_and_export(digits, output, force=force)
    bundle = Bundle.open(path)
    bundle.check()
    _run_one(bundle, digits)
    click.echo("benchmark: one thread, each artifact in a process of its own", err=True)
    report, failure = measure_report(choose_candidates(path), LatencySettings(processes=3))
    if failure is not None:
        raise failure
    if report.is_partial:
        raise KeyboardInterrupt
    fastest = min(report.results, key=lambda result: result.p50_ms)
    formats = {record.file: record.format for record in bundle.manifest.artifacts}
    if json_path:
        write_json({"bundle": str(path), **bundle.manifest.to_dict(), "results": report.to_dict()["results"]}, json_path)
    if json_path != "-":
        rows = []
        for result in report.results:
            candidate = result.candidate
            name = ("* " if result is fastest else "  ") + formats[candidate.file]
            cells = [size_text(candidate.size_bytes), percent_text(candidate.accuracy), milliseconds(result.p50_ms)]
            rows.append([name, candidate.precision, *cells, bar(result.p50_ms / max(other.p50_ms for other in report.results))])
        click.echo(f"{report.device}")
        print_table(("format", "precision", "size", "accuracy", "p50 ms", ""), rows, note="* fastest. One thread, batch 1.")
        doubtful = [verdict for verdict in report.verdicts if not verdict.is_stable]
        if doubtful:
            click.echo(f"{len(doubtful)} of {len(rows)} latencies are not stable, for {doubtful[0].reasons[0]}.")
        click.echo(f"The bundle lies in {path}")
    click.echo(f"Next: lepton-edge benchmark {shlex.quote(str(path))}", err=True)


def _train_and_export(digits: Digits, output: Path, *, force: bool) -> Path:
    """Train the network and export it in every format and precision; the bundle's path."""
    from lepton_converters import export
    from lepton_converters.digits_model import EPOCHS, answer_digits, train_digits
    from lepton_edge.cli.export import report_export
    from lepton_edge.cli.progress import StepPrinter

    if output.exists() and not force:
        raise OutputError(f"the folder {str(output)!r} exists; add --force to replace what is in it, or choose another with --output")
    if output.exists() and (not output.is_dir() or {entry.name for entry in output.iterdir()} - _DEMO_FILES):
        raise OutputError(f"--force replaces what a demo made, {str(output)!r} is or holds something else; choose another --output")
    started = monotonic()
    count = len(digits.train_labels)
    click.echo(
        f"data: {count:,} digits to train on, {len(digits.test_labels):,} to test; {digits.removed} removed as blank or repeated", err=True
    )
    click.echo("loading TensorFlow", err=True)
    model = train_digits(digits.train_images, digits.train_labels, on_batch=_Bar(EPOCHS).show)
    answers = answer_digits(model, digits.test_images)
    accuracy = float((answers == digits.test_labels).mean())
    click.echo(f"trained: {100 * accuracy:.2f} % of the test digits are right, in {monotonic() - started:.0f} s", err=True)
    recalls = recall_by_class(digits.test_labels, answers, 10)
    click.echo("recall by class: " + "  ".join(f"{number}: {100 * recall:.1f} %" for number, recall in enumerate(recalls)), err=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
        model.save(output / "digits.keras")
        np.savez_compressed(output / "train.npz", x=digits.train_images, y=digits.train_labels)
        np.savez_compressed(output / "test.npz", x=digits.test_images, y=digits.test_labels)
    except OSError as error:
        raise OutputError(f"--output must be a folder that can be written to, {str(output)!r} cannot: {error.strerror}") from error
    started = monotonic()
    with StepPrinter() as on_step:
        result = export(
            output / "digits.keras",
            output / "digits.bundle",
            calib=str(output / "train.npz"),
            evaluate=str(output / "test.npz"),
            labels=[str(number) for number in range(10)],
            force=force,
            on_step=on_step,
        )
    report_export(result, json_path=None, seconds=monotonic() - started)
    return result.path


def _run_one(bundle: Bundle, digits: Digits) -> None:
    """Recognize one digit and show it."""
    from lepton_runtime.session import Session

    with Session.open(bundle) as session:
        best = session.predict(digits.test_images[0], count=1)[0]
    for row in digits.test_images[0][4:24:2, 2:26]:
        click.echo("    " + "".join(" .:*#"[value // 52] for value in row), err=True)
    click.echo(f"run: this is a {digits.test_labels[0]}, {session.artifact.file} says {best.label} with {best.score:.3f}", err=True)


class _Bar:
    """How far the training is: one line that grows on a terminal, one line an epoch elsewhere."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._shown = 0

    def show(self, done: float, accuracy: float) -> None:
        epoch = int(done * self._epochs)
        is_new = epoch > self._shown
        number = min(epoch + (not is_new), self._epochs)
        text = f"training  epoch {number}/{self._epochs}  {100 * done:3.0f} %  accuracy {100 * accuracy:.1f} %"
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{text}", nl=epoch == self._epochs, err=True)
        elif is_new:
            click.echo(text, err=True)
        self._shown = epoch
