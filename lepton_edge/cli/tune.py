"""``lepton-edge tune``."""

import hashlib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.benchmark import count_of
from lepton_edge.cli.on_device import DeviceCommand
from lepton_edge.cli.options import comma_list, json_option, keep_result
from lepton_edge.cli.progress import ProgressLine
from lepton_runtime.errors import InputError, RemoteError
from lepton_runtime.formats import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_edge.latency.result import Candidate
    from lepton_edge.tune import Tried, Tuning
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.device_profile import DeviceProfile
    from lepton_runtime.manifest import ArtifactRecord


def _keep_here(bundle: Path, document: dict[str, Any], address: str) -> None:
    """Keep another machine's profile beside the bundle here, too, so that both can be copied to others of its kind."""
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.device_profile import UNREADABLE, DeviceProfile, parse_profiles, profiles_text

    opened = Bundle.open(bundle)
    try:
        (profile,) = parse_profiles(profiles_text([DeviceProfile(**document["kept"])]))
    except UNREADABLE as error:
        raise RemoteError(f"{address} must answer with a device profile, found a fault at {error}") from error
    path = save_profile(opened, replace(profile, bundle=opened.digest))
    click.echo(f"Wrote {path}, too: it holds on {address} and on devices of its kind that the bundle is copied to with it.", err=True)


@click.command(cls=DeviceCommand, there=["--user"], on_result=_keep_here)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision", "precisions", multiple=True, callback=comma_list(Precision.parse), metavar="NAME", help="[default: every artifact]"
)
@click.option("--engine", "engines", multiple=True, callback=comma_list(str), metavar="NAME", help="[default: every installed one]")
@click.option(
    "--threads", multiple=True, callback=comma_list(count_of), metavar="N[,N]", help="[default: 1, 2, 4 and so on, up to the cores]"
)
@click.option("--max-drop", metavar="0.5pp|1%", help="Leave out what lost more accuracy on export, or has none recorded.")
@click.option("--under-load", is_flag=True, help="Keep one core busy meanwhile, as an app beside the model would.")
@click.option("--user", is_flag=True, help="Keep the result in ~/.local/share/lepton-edge, not beside the bundle.")
@click.option("--force", is_flag=True, help="Replace a result that is there.")
@json_option
def tune(
    bundle: Path,
    precisions: tuple[Precision, ...],
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    max_drop: str | None,
    under_load: bool,
    user: bool,
    force: bool,
    json_path: str | None,
) -> None:
    """Find the fastest variant of BUNDLE on this machine, and open it so from now on.

    Each artifact is measured on each installed engine, with different numbers of threads. The result is kept beside the bundle,
    or in ~/.local/share/lepton-edge where that cannot be written. `run` and Session.open take it where nothing else is asked for.
    """
    from lepton_edge.tune import tune as find_fastest
    from lepton_runtime.bundle import Bundle

    keep_result(json_path, force=force)
    opened = Bundle.open(bundle)
    opened.check()
    records = allowed_records(opened, precisions, max_drop)
    candidates = choose_variants(opened, records, engines, threads)
    package_versions(candidates)  # before the work: without them nothing can be kept
    files = len({candidate.file for candidate in candidates})
    variants = f"{len(candidates)} variant{'s' if len(candidates) > 1 else ''}"
    click.echo(f"{variants} of {files} artifact{'s' if files > 1 else ''}", err=True)
    with ProgressLine() as show:
        tuning = find_fastest(candidates, under_load=under_load, on_progress=show)
    profile = _profile(opened, tuning.best, _keep_model(opened, tuning.best))
    path = save_profile(opened, profile, for_user=user)
    if json_path:
        from lepton_edge.report.terminal import write_json

        write_json(_to_dict(tuning, profile, path), json_path)
    if json_path != "-":
        _print(tuning)
    if tuning.load:
        click.echo(f"warning: {tuning.load} meanwhile, and this is the fastest beside that: tune again when the machine is quiet", err=True)
    click.echo(f"Wrote {path}, which Session.open and run take from now on.", err=True)


def allowed_records(bundle: "Bundle", precisions: tuple[Precision, ...], max_drop: str | None) -> "list[ArtifactRecord]":
    """The artifacts that may be chosen, by their recorded accuracy.

    Raises:
        InputError: There is none, or the bundle records no accuracy to hold against ``max_drop``.
    """
    from lepton_converters.budget import Budget
    from lepton_runtime.cpu import may_saturate

    records = [record for record in bundle.manifest.artifacts if not precisions or record.precision in precisions]
    allowed = [record for record in records if record.passed and not may_saturate(record)]
    if max_drop is not None:
        budget, evaluation = Budget.parse(max_drop), bundle.manifest.evaluation
        if evaluation is None:
            raise InputError(
                f"--max-drop {max_drop} needs a bundle that was exported with --eval, {str(bundle.path)!r} records no accuracy"
            )
        allowed = [
            record
            for record in allowed
            if record.accuracy is not None and budget.allows(record.accuracy, source_accuracy=evaluation.accuracy)
        ]
    if not allowed:
        held = ", ".join(record.file for record in bundle.manifest.artifacts)
        asked = ", ".join((*precisions, *([f"--max-drop {max_drop}"] if max_drop else [])))
        raise InputError(f"{str(bundle.path)!r} must hold what may be chosen, found {held} and none for {asked or 'this CPU'}")
    return allowed


def choose_variants(
    bundle: "Bundle", records: "list[ArtifactRecord]", engines: tuple[str, ...] = (), threads: tuple[int, ...] = ()
) -> "list[Candidate]":
    """Each artifact on each engine that runs it and is installed, with each number of threads, which spin or sleep.

    Raises:
        InputError: No such engine, or one that runs none of them.
        MissingExtraError: None that runs them is installed.
    """
    from lepton_edge.latency.result import candidate_of
    from lepton_runtime.cpu import usable_cores
    from lepton_runtime.engines import ENGINES_OF_FORMAT, check_engine, is_installed, missing_extra

    for name in engines:
        check_engine(name)
    if threads and max(threads) > usable_cores():
        raise InputError(f"threads must be at most the {usable_cores()} cores that may be used, found {max(threads)}")
    counts = threads or tuple(sorted({2**power for power in range(usable_cores().bit_length())} | {usable_cores()}))
    candidates = [
        candidate_of(bundle, record, engine=engine, threads=count, spins=spins)
        for record in records
        for engine in ENGINES_OF_FORMAT[record.format]
        if engine in (engines or (engine,)) and is_installed(engine)
        for count in counts
        for spins in ((True, False) if engine == "onnxruntime" and count > 1 else (True,))
    ]
    if not candidates:
        able = [engine for record in records for engine in ENGINES_OF_FORMAT[record.format] if engine in (engines or (engine,))]
        if able:
            raise missing_extra(able[0])
        raise InputError(
            f"{str(bundle.path)!r} holds {', '.join(record.file for record in records)}, found nothing for {', '.join(engines)}"
        )
    return candidates


def package_versions(candidates: "Sequence[Candidate]") -> dict[str, str]:
    """The version of each engine's package.

    Raises:
        InputError: One is not installed under its own name.
    """
    from lepton_runtime.engines import PACKAGE_OF_ENGINE
    from lepton_runtime.versions import installed_versions

    packages = {candidate.engine: PACKAGE_OF_ENGINE[candidate.engine] for candidate in candidates}
    found = installed_versions(packages.values())
    missing = sorted(set(packages.values()) - set(found))
    if missing:
        raise InputError(f"an engine must be installed as {missing[0]}, which a profile names with its version, found another package")
    return {engine: found[package] for engine, package in packages.items()}


def _keep_model(bundle: "Bundle", best: "Tried") -> str:
    """The digest of what the engine makes of the fastest artifact, if keeping it shortens the start; empty if it is not kept."""
    from lepton_edge.optimized_model import faster_to_load
    from lepton_edge.report.file import write_bytes
    from lepton_runtime.device_profile import optimized_path
    from lepton_runtime.errors import LeptonError

    path, engine = optimized_path(bundle), best.candidate.engine
    if path is None:
        return ""
    try:
        found = faster_to_load(bundle, best.candidate)
        if found is None:
            path.unlink(missing_ok=True)
            return ""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(found[0], path, option="the kept model")
    except (LeptonError, OSError) as error:  # the profile is worth more
        click.echo(f"what {engine} makes of the file is not kept: {error}", err=True)
        return ""
    click.echo(f"Loading takes {1e3 * found[1]:.0f} ms less with what {engine} makes of the file: kept as {path}.", err=True)
    return hashlib.sha256(found[0]).hexdigest()


def _profile(bundle: "Bundle", best: "Tried", optimized: str) -> "DeviceProfile":
    """What is to be opened on this machine from now on."""
    from lepton_runtime.device_profile import DeviceProfile, device_name

    candidate = best.candidate
    return DeviceProfile(
        bundle=bundle.digest,
        device=device_name(),
        engine_version=package_versions([candidate])[candidate.engine],
        file=candidate.file,
        engine=candidate.engine,
        threads=candidate.threads,
        spins=candidate.spins,
        p50_ms=best.p50_ms or 0.0,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        optimized=optimized,
    )


def save_profile(bundle: "Bundle", profile: "DeviceProfile", *, for_user: bool = False) -> Path:
    """Keep a profile beside the bundle, or in the user's own folder; those of other devices stay.

    Args:
        bundle: What it is of.
        profile: It.
        for_user: Only in the user's own folder.

    Raises:
        OutputError: Neither can be written.
    """
    from lepton_edge.report.file import write_text
    from lepton_runtime.device_profile import OtherSchemaError, profile_paths, profiles_text
    from lepton_runtime.errors import OutputError

    fault: Exception | None = None
    for path in profile_paths(bundle)[1 if for_user else 0 :]:
        try:
            others = _kept_profiles(path)
            kept = [other for other in others if other.bundle == bundle.digest and other.device != profile.device]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(profiles_text([*kept, profile]), path, option="the device profile")
        except (OutputError, OSError, OtherSchemaError) as error:
            fault = error
            continue
        return path
    places = "in the user's folder" if for_user else "beside the bundle or in the user's folder"
    raise OutputError(f"the device profile must have a place that can be written, {places}: {fault or 'this user has none'}")


def _kept_profiles(path: Path) -> "list[DeviceProfile]":
    """The profiles that a file holds; none if it is damaged, which then is replaced.

    Raises:
        OtherSchemaError: It is of another version, and not ours to replace.
        OSError: It cannot be read.
    """
    from lepton_runtime.device_profile import UNREADABLE, OtherSchemaError, read_profiles

    try:
        return read_profiles(path)
    except FileNotFoundError:
        return []
    except (OSError, OtherSchemaError):
        raise
    except UNREADABLE:
        return []


def _to_dict(tuning: "Tuning", profile: "DeviceProfile", path: Path) -> dict[str, Any]:
    return {
        "best": _variant(tuning.best),
        "confidence": tuning.confidence,
        "seconds": tuning.seconds,
        "load": tuning.load,
        "profile": str(path),
        "kept": asdict(profile),
        "tried": [_variant(tried) for tried in tuning.tried],
    }


def _variant(tried: "Tried") -> dict[str, Any]:
    values = asdict(tried)
    candidate = values.pop("candidate")
    return {**{key: candidate[key] for key in ("file", "engine", "precision", "threads", "spins", "accuracy")}, **values}


def _print(tuning: "Tuning") -> None:
    from lepton_edge.report.cell import milliseconds, percent_text, short_name
    from lepton_edge.report.terminal import print_table
    from lepton_edge.tune import CONFIDENCE

    rows = []
    for tried in tuning.tried:
        candidate = tried.candidate
        threads = f"{candidate.threads}{'' if candidate.spins or candidate.threads == 1 else ' asleep'}"
        rows.append(
            [
                f"{'* ' if candidate == tuning.best.candidate else '  '}{short_name(candidate.file)}",
                candidate.engine,
                threads,
                "–" if tried.p50_ms is None else milliseconds(tried.p50_ms),
                "–" if tried.ratio is None else f"{tried.ratio:.2f}",
                "–" if candidate.accuracy is None else percent_text(candidate.accuracy),
                "–" if tried.rss_bytes is None else f"{tried.rss_bytes / 1e6:.0f} MB",
                tried.remark,
            ]
        )
    print_table(["variant", "engine", "threads", "p50 ms", "ratio", "accuracy", "memory", ""], rows)
    sure = "more than 99 %" if tuning.confidence > 0.99 else f"{100 * tuning.confidence:.0f} %"
    doubt = "" if tuning.confidence >= CONFIDENCE else "; the time was over before it was more certain"
    click.echo(f"* to be opened here: none that took turns is more than 2 % faster, with {sure} confidence{doubt}; {tuning.seconds:.0f} s")
