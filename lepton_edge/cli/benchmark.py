"""``lepton-edge benchmark``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_edge.cli.options import comma_list, json_option
from lepton_runtime.errors import InputError, MissingExtraError
from lepton_runtime.formats import Precision

if TYPE_CHECKING:
    from lepton_edge.latency import LatencyResult, LatencySettings
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.manifest import ArtifactRecord


def _thread_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise click.BadParameter(f"a whole number from 1, found {text!r}")
    return int(text)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision", "precisions", multiple=True, callback=comma_list(Precision.parse), metavar="NAME", help="[default: every artifact]"
)
@click.option("--engine", metavar="NAME", help="onnxruntime or litert. [default: every installed one]")
@click.option("--threads", multiple=True, default=("1",), callback=comma_list(_thread_count), show_default=True, metavar="N[,N]")
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True, help="Measured calls, at least.")
@click.option("--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="And how long they take, at least.")
@json_option
def benchmark(
    bundle: Path,
    precisions: tuple[Precision, ...],
    engine: str | None,
    threads: tuple[int, ...],
    runs: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Measure the latency of BUNDLE's artifacts on this machine, each in a process of its own."""
    from lepton_edge.device import PACKAGES, read_device
    from lepton_edge.latency import LatencySettings
    from lepton_edge.report import LATENCY_HEADERS, latency_rows, print_table, write_json
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.versions import installed_versions

    opened = Bundle.open(bundle)
    opened.check()
    device = read_device()
    settings = LatencySettings(runs=runs, seconds=seconds)
    results = measure_all(opened, choose_candidates(opened, precisions=precisions, engine=engine), threads, settings)
    if json_path:
        write_json(
            {
                "device": asdict(device),
                "versions": installed_versions(PACKAGES),
                "settings": {"bundle": str(bundle), "threads": list(threads), **asdict(settings)},
                "results": [result.to_dict() for result in results],
            },
            json_path,
        )
    if json_path == "-":
        return
    click.echo(f"{device}")
    accuracies = {record.file: record.accuracy for record in opened.manifest.artifacts}
    count = min(len(result.samples_ns) for result in results)
    batch = opened.manifest.inputs[0].shape[0] or 1
    note = f"* lowest p50. At least {count:,} calls each, after a warm-up; batch {batch}; memory of the whole process."
    print_table(LATENCY_HEADERS, latency_rows(results, accuracies), note=note)


def choose_candidates(bundle: "Bundle", *, precisions: tuple[Precision, ...] = (), engine: str | None = None) -> "list[ArtifactRecord]":
    """The artifacts that were asked for and can run here; what cannot is named on stderr.

    Raises:
        InputError: None fits.
        MissingExtraError: The engine that was asked for, or every one that is needed, is not installed.
    """
    from importlib.util import find_spec

    from lepton_runtime.engines import ENGINE_OF_FORMAT, engine_of

    if engine is not None and engine not in ENGINE_OF_FORMAT.values():
        raise InputError(f"an engine is one of {', '.join(ENGINE_OF_FORMAT.values())}, found {engine!r}")
    fitting = [
        record
        for record in bundle.manifest.artifacts
        if (not precisions or record.precision in precisions) and engine in (None, engine_of(record))
    ]
    if not fitting:
        held = ", ".join(record.file for record in bundle.manifest.artifacts)
        raise InputError(f"{str(bundle.path)!r} holds {held}, found nothing for {', '.join((*precisions, *filter(None, [engine])))}")
    has_litert = find_spec("ai_edge_litert") is not None
    runnable = [record for record in fitting if has_litert or engine_of(record) != "litert"]
    missing = len(fitting) - len(runnable)
    if not runnable:
        raise MissingExtraError('TFLite files need LiteRT: pip install "lepton-edge[litert]"')
    if missing:
        click.echo(f'left out: {missing} TFLite files, LiteRT is not installed: pip install "lepton-edge[litert]"', err=True)
    return runnable


def measure_all(
    bundle: "Bundle", records: "list[ArtifactRecord]", threads: tuple[int, ...], settings: "LatencySettings"
) -> "list[LatencyResult]":
    """One result a candidate, with a line on a terminal for the one under way."""
    import sys

    from lepton_edge.latency import measure_fresh

    results = []
    for record in records:
        for count in threads:
            if sys.stderr.isatty():
                click.echo(f"\r\033[K  measuring {record.file}, {count} threads", nl=False, err=True)
            results.append(measure_fresh(bundle.path, record, count, settings))
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    return results
