"""``lepton-edge doctor``."""

import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lepton_edge.cli.on_device import DeviceCommand
from lepton_edge.cli.options import json_option
from lepton_runtime.errors import LeptonError, TargetWarning

if TYPE_CHECKING:
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.manifest import ArtifactRecord


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        area: ``device``, ``runtime``, ``export`` or ``bundle``.
        state: ``ok``, ``info``, ``warn`` or ``FAIL``.
        text: What was found.
        fix: The command that helps, or an empty text.
    """

    area: str
    state: str
    text: str
    fix: str = ""


@click.command(cls=DeviceCommand)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@json_option
def doctor(bundle: Path | None, json_path: str | None) -> None:
    """Say what is installed, what this CPU can do, what is missing and how to get it.

    With BUNDLE, also check its files and run its golden inputs here.
    """
    from lepton_edge.report.terminal import write_json

    checks = [*_check_device(), *_check_packages(), *(_check_bundle(bundle) if bundle else [])]
    if json_path:
        write_json({"checks": [asdict(check) for check in checks]}, json_path)
    if json_path != "-":
        area = ""
        for check in checks:
            if check.area != area:
                area = check.area
                click.echo(area)
            click.echo(f"  {check.state:<4}  {check.text}")
            if check.fix:
                click.echo(f"        fix: {check.fix}")
    problems = sum(check.state == "FAIL" for check in checks)
    if problems:
        raise LeptonError(f"every check must pass, {problems} did not; the lines marked FAIL say how to fix it")


def _check_device(root: Path = Path("/")) -> list[Check]:
    from lepton_edge.device import DeviceReader

    reader = DeviceReader(root)
    device, state = reader.device(), reader.state()
    checks = [Check("device", "ok", f"{device}"), Check("device", "info", f"{device.system}, Python {device.python}")]
    features = set(device.features)
    if features & {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}:
        checks.append(Check("device", "ok", f"8-bit dot product: {', '.join(device.features)}"))
    else:
        text = f"no 8-bit dot product ({', '.join(device.features) or 'no known features'}): int8 may be slower than fp32 here, measure it"
        checks.append(Check("device", "info", text))
    if state.governor not in (None, "performance"):
        text = f'the governor is "{state.governor}": timings will vary with the clock'
        checks.append(Check("device", "warn", text, "sudo cpupower frequency-set -g performance"))
    if state.throttled_now or state.throttled_since_boot:
        now, before = (", ".join(names or ()) or "nothing" for names in (state.throttled_now, state.throttled_since_boot))
        checks.append(Check("device", "warn", f"held back now: {now}; since boot: {before}", "a stronger power supply, or cooling"))
    elif state.throttled_now is not None:
        checks.append(Check("device", "ok", "power supply and cooling: not throttled since boot"))
    checks += [Check("device", "info", note) for note in reader.notes]
    return checks


def _check_packages() -> list[Check]:
    from lepton_edge.device import PACKAGES
    from lepton_runtime.versions import installed_versions

    versions = installed_versions(PACKAGES)
    checks = [Check("runtime", "ok", ", ".join(f"{name} {versions[name]}" for name in ("lepton-edge", "onnxruntime", "numpy")))]
    for name, module, extra, use in (
        ("LiteRT", "ai_edge_litert", "litert", "runs TFLite files"),
        ("OpenVINO", "openvino", "openvino", "also runs ONNX files"),
        ("Pillow", "PIL", "image", "reads image files"),
    ):
        is_there = find_spec(module) is not None
        state, fix = ("ok", "") if is_there else ("info", f'pip install "lepton-edge[{extra}]"')
        checks.append(Check("runtime", state, f"{name} ({use}) is {'installed' if is_there else 'not installed, optional'}", fix))
    missing = [name for name in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir") if find_spec(name) is None]
    if missing:
        text = f"exporting is for workstations and not possible here: {', '.join(missing)} not installed"
        checks.append(Check("export", "info", text, 'pip install "lepton-edge[convert]"'))
    else:
        checks.append(Check("export", "ok", ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras", "tf2onnx"))))
    return checks


def _check_bundle(path: Path) -> list[Check]:
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.engines import engine_of, is_installed
    from lepton_runtime.golden import Golden, golden_fault, golden_limit
    from lepton_runtime.session import Session

    area = f"bundle {path}"
    try:
        bundle = Bundle.open(path)
        bundle.check()
        golden = Golden.open(bundle)
    except LeptonError as error:
        found, _, fix = str(error).partition("; ")  # our errors say what to do behind it, if there is something to do
        return [Check(area, "FAIL", found, fix)]
    checks = [Check(area, "ok", f"{len(bundle.manifest.files)} files match their checksums")]
    for record in bundle.manifest.artifacts:
        if not is_installed(engine_of(record)):
            continue
        try:
            with warnings.catch_warnings(action="ignore", category=TargetWarning), Session(bundle, record) as session:
                difference = golden.difference(session)
        except LeptonError as error:
            checks.append(Check(area, "FAIL", f"{record.file}: {error}", 'pip install --upgrade "onnxruntime"'))
            continue
        fault = golden_fault(difference, golden_limit(record))
        if fault:
            checks.append(Check(area, "FAIL", f"{record.file}: {fault}", "this CPU computes differently: use another precision"))
        else:
            checks.append(Check(area, "ok", f"{record.file} gives its golden answers (largest difference {difference:.1e})"))
        checks += _check_target(record, area)
    return [*checks, _check_profile(bundle, path)]


def _check_profile(bundle: "Bundle", path: Path) -> Check:
    """What is opened where nothing else is asked for."""
    from lepton_runtime.device_profile import load_profile, read_optimized

    area, fix = f"bundle {path}", f"lepton-edge tune {path}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        profile = load_profile(bundle)
        model = read_optimized(bundle, profile) if profile is not None else None
    if profile is not None and not caught:
        threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
        kept = "" if model is None else f", as {profile.engine} has rewritten it here"
        text = f"tuned on {profile.created[:10]}: {profile.file} on {profile.engine}, {threads}, is opened{kept}"
        if profile.optimized and model is None:
            return Check(area, "info", f"{text}; this user has not the file that would load faster", fix)
        return Check(area, "ok", text)
    if caught:
        return Check(area, "warn", str(caught[0].message).partition("; ")[0], fix)
    return Check(area, "info", "not tuned for this device: the file closest to Keras is opened, with one thread", fix)


def _check_target(record: "ArtifactRecord", area: str) -> list[Check]:
    """Whether an 8-bit artifact is right on this CPU."""
    from lepton_runtime.cpu import may_saturate, saturation_text, target_of

    target, saturates = target_of(record), may_saturate(record)
    if target is None:
        return []
    if saturates is None:
        return [Check(area, "info", f"{record.file} is made for {target}; whether this x86 has the VNNI that it needs is unknown")]
    if saturates:
        found, _, fix = saturation_text(record).partition("; ")
        return [Check(area, "warn", found, fix)]
    return [Check(area, "ok", f"{record.file} is made for {target}, and adds up exactly here")]
