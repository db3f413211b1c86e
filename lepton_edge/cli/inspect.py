"""``lepton-edge inspect``."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from lepton_edge.cli.options import json_option
from lepton_runtime.bundle import Bundle
from lepton_runtime.cpu import target_of
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.manifest import ArtifactRecord, Manifest
from lepton_runtime.preprocess import Preprocessing


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def inspect(bundle: Path, json_path: str | None) -> None:
    """Say what is in BUNDLE, after every file's checksum was compared."""
    from lepton_edge.report.cell import short_name
    from lepton_edge.report.terminal import ARTIFACT_HEADERS, artifact_rows, print_table, write_json

    opened = Bundle.open(bundle)
    opened.check()
    manifest = opened.manifest
    if json_path:
        write_json(manifest.to_dict(), json_path)
    if json_path == "-":
        return
    for line in _lines(opened):
        click.echo(line)
    print_table(ARTIFACT_HEADERS, artifact_rows(manifest.artifacts))
    for record in manifest.artifacts:
        for text in _remarks(record, manifest):
            click.echo(f"{short_name(record.file):<18} {text}")
    for document in manifest.documents:
        click.echo(f"\n{document.file}:")
        if document.file.endswith(".md"):
            click.echo(_shown(opened.read(document).decode(errors="replace")))


def _shown(text: str) -> str:
    """The text without what a terminal would take for commands."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text.strip())


def _lines(bundle: Bundle) -> Iterator[str]:
    """What stands above the table."""
    manifest = bundle.manifest
    yield from _origin_lines(bundle)
    for name, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        yield f"{name:<14} {'; '.join(map(str, specs))}"
    for encoder in bundle.load_encoders():
        yield f"{'encoder':<14} {encoder}"
    yield from _step_lines(manifest)
    if manifest.labels:
        yield f"labels         {len(manifest.labels)}: {', '.join(manifest.labels[:8])}{'…' if len(manifest.labels) > 8 else ''}"
    if manifest.evaluation:
        yield f"Keras          {100 * manifest.evaluation.accuracy:.2f} % on {manifest.evaluation.samples:,} samples"


def _step_lines(manifest: Manifest) -> Iterator[str]:
    steps = manifest.preprocessing
    if isinstance(steps, FrameInput):
        yield f"frame          {steps}; the preprocessing is inside of the files"
        steps = steps.folded
    if steps:
        usual = Preprocessing().to_dict()
        changed = {name: value for name, value in steps.to_dict().items() if value != usual[name] and name not in ("size", "channels")}
        yield f"preprocessing  {', '.join(f'{name} {value}' for name, value in changed.items()) or 'none'}"
    if manifest.answers:
        given = ", ".join(f"{name} {value}" for name, value in asdict(manifest.answers).items() if value not in (None, "none"))
        yield f"answers        {given}; made inside of the files"


def _origin_lines(bundle: Bundle) -> Iterator[str]:
    source = bundle.manifest.source
    digest = source["sha256"]
    yield f"source         {source['file'] or 'a model in memory'}" + (f"  sha256 {digest[:16]}…" if digest else "")
    if bundle.manifest.serial is not None:
        yield f"serial         {bundle.manifest.serial}"
    if signatures := bundle.read_signatures():
        from lepton_runtime.signature import signers

        yield f"signed         with {', '.join(key.fingerprint for key in signers(signatures))}, which verify checks"


def _remarks(record: ArtifactRecord, manifest: Manifest) -> Iterator[str]:
    if _dtypes(record) != _dtypes(manifest):
        inputs, outputs = ("; ".join(map(str, specs)) for specs in (record.inputs, record.outputs))
        yield f"takes {inputs}, gives {outputs}"
    if target := target_of(record):
        yield f"is made for {target}{'' if target.saturates else ', not for x86 without VNNI'}"


def _dtypes(model: Manifest | ArtifactRecord) -> list[str]:
    return [spec.dtype for spec in (*model.inputs, *model.outputs)]
