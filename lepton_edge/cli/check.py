"""``lepton-edge check``."""

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_edge.cli.options import json_option
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format

if TYPE_CHECKING:
    from lepton_converters.check import CheckReport, LayerReport, Refusal

_WIDTH = 80
_MODELS = {"Functional": "functional", "Model": "functional", "Sequential": "sequential"}
_TITLES = {"convert": "converted", "take out": "taken out", "preprocess": "preprocessing"}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target-runtime", metavar="NAME==VERSION", help="Also say whether this runtime will load the result: onnxruntime==1.16.")
@click.option(
    "--custom-objects",
    multiple=True,
    metavar="MODULE:NAME",
    help="The model's own layer or function, or a dict of them, as for export; not imported here. May be repeated.",
)
@click.option("--keep-dropout", is_flag=True, help="Convert dropout instead of taking it out.")
@click.option("--trust-code", is_flag=True, help="As for export: Lambda layers and SavedModels may run code that came with the model.")
@json_option
def check(
    model: Path, target_runtime: str | None, custom_objects: tuple[str, ...], keep_dropout: bool, trust_code: bool, json_path: str | None
) -> None:
    """Say what is in MODEL and what export will make of it, without TensorFlow and in half a second.

    Exit code 6 if nothing can be made of it.
    """
    from lepton_converters.check import check_model

    report = check_model(
        model, trust_code=trust_code, custom_objects=custom_objects, keep_dropout=keep_dropout, target_runtime=target_runtime
    )
    if json_path:
        from lepton_edge.report.terminal import write_json  # costs 20 ms, and is not needed for the table

        write_json(
            {**asdict(report), "targets": [{"format": format_, "precision": precision} for format_, precision in report.targets]}, json_path
        )
    if json_path != "-":
        _print(report)
    if report.fault:
        raise UnsupportedError(report.fault)
    options = [*(f"--custom-objects {name}" for name in custom_objects), *["--keep-dropout"] * keep_dropout, *["--trust-code"] * trust_code]
    click.echo(f"Next: lepton-edge export {' '.join([shlex.quote(str(model)), *options])}", err=True)


def _print(report: "CheckReport") -> None:
    facts = [
        f"{report.kind} of Keras {report.keras_version}" if report.keras_version else report.kind,
        _size_text(report.size_bytes),
    ]
    if report.layers:
        facts.insert(0, _MODELS.get(report.model, report.model))
    if report.parameters is not None:
        facts.append(f"{report.parameters:,} parameters")
    lines = [("model", ", ".join(facts))]
    lines += [(title, "; ".join(map(str, found))) for title, found in (("inputs", report.inputs), ("outputs", report.outputs)) if found]
    lines += [*_layer_lines(report.layers), *_refusal_lines(report.refusals), *_target_lines(report)]
    if report.target_runtime and report.targets:
        lines.append((f"{report.target_runtime}", _runtime_text(report)))
    before = ""
    for title, text in lines:
        _print_line("" if title == before else title, text)
        before = title or before


def _print_line(title: str, text: str) -> None:
    """A title and a text beside it, or below it where the title is long, within 80 columns."""
    indent = " " * 15
    lead = f"{title:<14} " if len(title) < len(indent) else f"{title}\n{indent}"
    click.echo(lead + textwrap.fill(text, _WIDTH - len(indent), break_on_hyphens=False).replace("\n", f"\n{indent}"))


def _layer_lines(layers: Sequence["LayerReport"]) -> Iterator[tuple[str, str]]:
    """What becomes of layers: their kinds, with how many there are, and the names of those that there is something to say of."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for layer in layers:
        groups.setdefault((layer.action, layer.note), {}).setdefault(layer.kind, []).append(layer.name)
    for action, title in _TITLES.items():
        for (found, note), kinds in sorted(groups.items(), key=lambda group: group[0][1] != ""):
            if found == action:
                named = [_named(kind, names) if note else _counted(kind, names) for kind, names in kinds.items()]
                yield title, ", ".join(named) + (f": {note}" if note else "")


def _refusal_lines(refusals: Sequence["Refusal"]) -> Iterator[tuple[str, str]]:
    """What is wrong, and what to do; layers that have the same fault share a line."""
    from lepton_converters.check import targets_text
    from lepton_converters.layer_support import EVERY

    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for refusal in refusals:
        where = "" if refusal.targets == EVERY else f", as {targets_text(refusal.targets)},"
        groups.setdefault((refusal.kind, where, refusal.reason, refusal.fix), []).append(refusal.layer)
    for (kind, where, reason, fix), names in groups.items():
        yield "refused", f"{_named(kind, names) if names[0] else kind}{where} {reason}"
        yield "", f"fix: {fix}"


def _target_lines(report: "CheckReport") -> Iterator[tuple[str, str]]:
    for format_ in Format:
        made = [precision for found, precision in report.targets if found == format_]
        plain, calibrated = ([str(entry) for entry in made if entry.needs_calibration == needs] for needs in (False, True))
        with_data = [f"with --calib PATH {', '.join(calibrated)}"] if calibrated else []
        yield f"{format_}", "; ".join([", ".join(plain)] * bool(plain) + with_data) or "nothing"


def _runtime_text(report: "CheckReport") -> str:
    """Which artifacts the target runtime will load; all of it a prediction."""
    groups: dict[tuple[bool, str, int | None], list[str]] = {}
    for entry in report.runtime:
        groups.setdefault((entry.is_read, entry.needs, entry.opset), []).append(entry.precision)
    words = []
    for (is_read, needs, opset), precisions in sorted(groups.items(), key=lambda group: not group[0][0]):
        oldest = f"opset {opset}: needs onnxruntime {needs}" if opset else f"needs TensorFlow Lite {needs}"
        words.append(f"{'will' if is_read else 'will not'} load {', '.join(precisions)} ({oldest} or later)")
    return f"{'; '.join(words)}; predicted from the layers, the exported bundle says for sure" if words else "nothing can be made for it"


def _size_text(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} kB"


def _counted(kind: str, names: Sequence[str]) -> str:
    return f"{kind} ×{len(names)}" if len(names) > 1 else kind


def _named(kind: str, names: Sequence[str], *, most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{_counted(kind, names)} ({', '.join(names[:most])}{more})"
