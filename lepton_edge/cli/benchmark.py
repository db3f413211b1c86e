"""``lepton-edge benchmark``."""

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.on_device import INTERRUPTED, DeviceCommand, bundle_of
from lepton_edge.cli.options import comma_list, json_option, keep_result
from lepton_edge.cli.progress import ProgressLine
from lepton_edge.latency.settings import LatencySettings, Scenario, parse_duration
from lepton_runtime.errors import InputError, LeptonError, UnstableError
from lepton_runtime.formats import Precision

if TYPE_CHECKING:
    from lepton_edge.latency.result import Candidate
    from lepton_edge.report.document import Report

_BATCHES = (1, 2, 4, 8, 16, 32)
_NOTHING = "interrupted before anything was measured: nothing was written"


def count_of(text: str) -> int:
    """The whole number that a text stands for, from 1."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise click.BadParameter(f"a whole number from 1, found {text!r}")
    return int(text)


def _share(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_percent(value)


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_duration(value)


def parse_percent(text: str) -> float:
    """The share that a percentage stands for.

    Raises:
        InputError: It is none.

    >>> parse_percent("5%")
    0.05
    """
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 < share < 10:
        raise InputError(f"a share is in percent such as 5%, found {text!r}")
    return share


@click.command(cls=DeviceCommand)
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--precision", "precisions", multiple=True, callback=comma_list(Precision.parse), metavar="NAME", help="[default: every artifact]"
)
@click.option("--engine", metavar="NAME", help="onnxruntime, litert or openvino. [default: onnxruntime and litert]")
@click.option("--threads", multiple=True, default=("1",), callback=comma_list(count_of), show_default=True, metavar="N[,N]")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "offline", "fixed-rate"]),
    help="One call after another; the same on growing batches; frames on a clock. [default: single-stream, with --fps fixed-rate]",
)
@click.option("--fps", type=click.FloatRange(0, min_open=True), help="Frames a second that arrive; late and dropped ones are counted.")
@click.option("--batch", "batches", multiple=True, callback=comma_list(count_of), metavar="N[,N]", help="Offline: [default: 1,2,4,8,16,32]")
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True, help="Measured calls, at least.")
@click.option("--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="And how long they take, at least.")
@click.option("--interval", callback=_share, metavar="1%", help="Go on until the median is known this well, in 30 processes at the most.")
@click.option(
    "--processes", type=click.IntRange(1), help="Fresh processes for each candidate. [default: 6, with several bundles 10]", metavar="N"
)
@click.option("--duration", callback=_duration, metavar="30m", help="A sustained run: a median a minute, first minute against last.")
@click.option("--profile", is_flag=True, help="Also say which operators take the time (onnxruntime).")
@click.option("--strict", is_flag=True, help="End with exit code 5 if a result is not stable.")
@click.option("--force", is_flag=True, help="Replace a result that is there.")
@json_option
def benchmark(
    bundles: tuple[Path, ...],
    precisions: tuple[Precision, ...],
    engine: str | None,
    threads: tuple[int, ...],
    scenario: Scenario | None,
    fps: float | None,
    batches: tuple[int, ...],
    processes: int | None,
    duration: float | None,
    profile: bool,
    strict: bool,
    force: bool,
    json_path: str | None,
    **measured: Any,
) -> None:
    """Measure latency on this machine: every artifact of each BUNDLE, or one as BUNDLE/FILE.

    Candidates take turns in fresh processes, so that what changes meanwhile hits them alike; several bundles, or
    a bundle and itself, are compared pair by pair. A verdict says whether the figures hold.
    """
    from lepton_edge.report.terminal import print_report, write_json

    keep_result(json_path, force=force)
    if duration and (processes or measured["interval"]):
        raise InputError("a sustained run is one process, found --duration with --processes or --interval; leave these out")
    settings = LatencySettings(
        scenario=scenario or ("fixed-rate" if fps else "single-stream"),
        fps=fps,
        duration_seconds=duration,
        processes=1 if duration else processes or (6 if len(bundles) == 1 else 10),
        **measured,
    )
    if batches and settings.scenario != "offline":
        raise InputError(f"--batch is for --scenario offline, found {settings.scenario}; export with --batch to fix one")
    candidates = [
        candidate
        for bundle in bundles
        for candidate in choose_candidates(bundle, precisions=precisions, engine=engine, threads=threads)
        for candidate in _swept(candidate, batches, settings)
    ]
    report, failure = measure_report(candidates, settings, with_operators=profile)
    with _finishing():
        if report.results:
            if json_path:
                write_json(report.to_dict(), json_path)
            if json_path != "-":
                print_report(report)
        if failure is not None:
            raise failure
        if report.is_partial:
            click.echo("interrupted: what was measured is kept and marked partial" if report.results else _NOTHING, err=True)
            sys.exit(INTERRUPTED)
    if strict:
        _refuse_unstable(report)


@contextmanager
def _finishing() -> Iterator[None]:
    """What was measured is not lost to a second Ctrl-C: statistics of an hour take a while on a small board."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _refuse_unstable(report: "Report") -> None:
    judged = zip(report.results, report.verdicts, strict=True)
    faults = [f"{result.candidate.file} is {verdict}" for result, verdict in judged if not verdict.is_stable]
    if faults:
        raise UnstableError(f"every result must be stable, {len(faults)} of {len(report.results)} are not: {faults[0]}")


def _swept(candidate: "Candidate", batches: Sequence[int], settings: LatencySettings) -> "list[Candidate]":
    """The candidate at every batch, if it is to be swept and its batch is free."""
    if candidate.batch == 0:
        sizes = (batches or _BATCHES) if settings.scenario == "offline" else (1,)
        return [replace(candidate, batch=size) for size in sizes]
    if settings.scenario == "offline":
        click.echo(f"{candidate.file}: its batch is fixed at {candidate.batch}; export with --batch dynamic to sweep it", err=True)
    return [candidate]


def choose_candidates(
    path: Path, *, precisions: Sequence[Precision] = (), engine: str | None = None, threads: Sequence[int] = (1,)
) -> "list[Candidate]":
    """The artifacts that were asked for and can run here; what cannot is named on stderr. A free batch is 0.

    Args:
        path: A bundle, or a bundle's path with one of its files behind it.
        precisions: Which; by default all.
        engine: Which; by default the first of each format.
        threads: One candidate for each.

    Raises:
        InputError: None fits.
        BundleError: The bundle is missing or damaged.
        MissingExtraError: The engine that was asked for, or every one that is needed, is not installed.
    """
    from lepton_edge.latency.result import candidate_of
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.cpu import usable_cores
    from lepton_runtime.engines import ENGINES_OF_FORMAT, check_engine, engine_of, is_installed, missing_extra

    if engine is not None:
        check_engine(engine)
    bundle = Bundle.open(bundle_of(path))
    bundle.check()
    # The table's short name will do, too.
    name = path.name if path.name.startswith("model.") else f"model.{path.name}"
    records = bundle.manifest.artifacts if bundle.path == path else [bundle.artifact(name)]
    wanted = [record for record in records if not precisions or record.precision in precisions]
    fitting = [record for record in wanted if engine is None or engine in ENGINES_OF_FORMAT[record.format]]
    if not fitting:
        held = ", ".join(record.file for record in records)
        raise InputError(f"{str(path)!r} holds {held}, found nothing for {', '.join((*precisions, *filter(None, [engine])))}")
    runnable = [record for record in fitting if is_installed(engine or engine_of(record))]
    absent = {engine or engine_of(record) for record in fitting if record not in runnable}
    if not runnable:
        raise missing_extra(min(absent))
    for name in sorted(absent):
        click.echo(f"left out: {len(fitting) - len(runnable)} files, {missing_extra(name)}", err=True)
    if max(threads) > usable_cores():
        click.echo(
            f"warning: {max(threads)} threads share {usable_cores()} cores; more threads than cores are slower, not faster", err=True
        )
    return [candidate_of(bundle, record, engine=engine or engine_of(record), threads=count) for record in runnable for count in threads]


def measure_report(
    candidates: "Sequence[Candidate]", settings: LatencySettings, *, with_operators: bool = False
) -> "tuple[Report, LeptonError | None]":
    """Measure, with a line on a terminal that says how far it is; what stopped it comes back beside what there is."""
    from lepton_edge.device import PACKAGES, DeviceReader
    from lepton_edge.latency.measure import measure
    from lepton_edge.report.document import Report
    from lepton_runtime.versions import installed_versions

    reader = DeviceReader()
    created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if settings.duration_seconds and len(candidates) > 1:
        total = timedelta(seconds=round(settings.duration_seconds * len(candidates)))
        click.echo(f"{len(candidates)} candidates one after the other take {total} (h:mm:ss); choose with --precision, --engine", err=True)
    governor = reader.state().governor
    if governor not in (None, "performance"):
        text = f'warning: the clock may change while measuring (governor "{governor}"); steady: sudo cpupower frequency-set -g performance'
        click.echo(text, err=True)
    with ProgressLine() as show:
        measurement = measure(candidates, settings, reader=reader, with_operators=with_operators, on_progress=show)
    report = Report(
        created=created,
        command=shlex.join(["lepton-edge", *sys.argv[1:]]),
        device=reader.device(),
        versions=installed_versions(PACKAGES),
        settings=settings,
        results=measurement.results,
        notes=(*_target_notes(candidates), *measurement.notes),
        is_partial=measurement.is_partial,
    )
    return report, measurement.failure


def _target_notes(candidates: "Sequence[Candidate]") -> Iterator[str]:
    """The CPUs that the candidates were made for, and what that means here."""
    from lepton_edge.report.cell import short_name
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.cpu import may_saturate, saturation_text, target_of

    for bundle, file in dict.fromkeys((candidate.bundle, candidate.file) for candidate in candidates):
        record = Bundle.open(bundle).artifact(file)
        if target := target_of(record):
            yield saturation_text(record) if may_saturate(record) else f"{short_name(file)} is made for {target}"
