"""``lepton-edge selfcheck``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.on_device import DeviceCommand
from lepton_edge.cli.options import json_option
from lepton_edge.cli.progress import ProgressLine
from lepton_runtime.errors import ParityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_edge.selfcheck import Checked
    from lepton_runtime.bundle import Bundle


@click.command(cls=DeviceCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def selfcheck(bundle: Path, json_path: str | None) -> None:
    """Check that BUNDLE answers on this machine as it did on export.

    Its golden inputs run through each artifact on each installed engine, in processes of their own, and are compared with the
    stored answers. Ends with 3 if what Session.open takes here is not right; Session.open(..., selfcheck=True) then takes another.
    """
    from lepton_edge.latency.result import candidate_of
    from lepton_edge.selfcheck import selfcheck as check_all
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.engines import ENGINES_OF_FORMAT, is_installed

    opened = Bundle.open(bundle)
    opened.check()
    variants = [(record, engine) for record in opened.manifest.artifacts for engine in ENGINES_OF_FORMAT[record.format]]
    candidates = [candidate_of(opened, record, engine=engine, threads=1) for record, engine in variants if is_installed(engine)]
    with ProgressLine() as show:
        found = check_all(candidates, on_progress=show)
    first, taken = _taken(opened, found)
    if json_path:
        from lepton_edge.report.terminal import write_json

        document = {"opened": _variant(first), "taken": _variant(taken), "checked": [_to_dict(checked) for checked in found]}
        write_json(document, json_path)
    if json_path != "-":
        _print(found)
    if first is not taken:
        instead = f"takes {_name(taken)}" if taken else "finds nothing in its place"
        raise ParityError(
            f"{_name(first)}, which Session.open takes here, must answer as it did on export: {first.fault}; "
            f"Session.open(..., selfcheck=True) {instead}"
        )
    click.echo(f"Session.open takes {_name(first)} here, which answers as it did on export.", err=True)


def _taken(bundle: "Bundle", found: "Sequence[Checked]") -> "tuple[Checked, Checked | None]":
    """What a session opens here, and what it opens with ``selfcheck``, if there is anything that is right."""
    from lepton_runtime.choice import choose_artifact, other_choices
    from lepton_runtime.device_profile import load_profile
    from lepton_runtime.engines import engine_of

    by_variant = {(checked.candidate.file, checked.candidate.engine): checked for checked in found}
    profile = load_profile(bundle)
    record = bundle.artifact(profile.file) if profile else choose_artifact(bundle)
    engine = profile.engine if profile else engine_of(record)
    others = [by_variant[other.file, name] for other, name in other_choices(bundle, record, engine)]
    first = by_variant[record.file, engine]
    return first, next((checked for checked in (first, *others) if not checked.fault), None)


def _name(checked: "Checked") -> str:
    return f"{checked.candidate.file} on {checked.candidate.engine}"


def _variant(checked: "Checked | None") -> dict[str, str] | None:
    return {"file": checked.candidate.file, "engine": checked.candidate.engine} if checked else None


def _to_dict(checked: "Checked") -> dict[str, Any]:
    values = asdict(checked)
    candidate = values.pop("candidate")
    return {**{key: candidate[key] for key in ("file", "engine", "precision")}, **values}


def _print(found: "Sequence[Checked]") -> None:
    from lepton_edge.report.cell import short_name
    from lepton_edge.report.terminal import print_table

    rows = [
        [
            short_name(checked.candidate.file),
            checked.candidate.engine,
            "–" if checked.difference is None else f"{checked.difference:.1e}",
            "–" if checked.limit is None else f"{checked.limit:.1e}",
            f"FAIL: {checked.fault}" if checked.fault else "ok",
        ]
        for checked in found
    ]
    print_table(["variant", "engine", "difference", "allowed", ""], rows)
