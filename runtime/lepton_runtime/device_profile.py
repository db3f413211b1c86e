"""The fastest variant of a bundle on a device, as ``lepton-edge tune`` measured it there; a session opens it from then on."""

import json
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lepton_runtime.bundle import Bundle
from lepton_runtime.cpu import may_saturate, read_cpu, usable_cores
from lepton_runtime.engines import ENGINES_OF_FORMAT, PACKAGE_OF_ENGINE
from lepton_runtime.errors import BundleError, ProfileWarning
from lepton_runtime.versions import installed_versions

SCHEMA_VERSION = 2
_LIMIT_BYTES = 2**20
UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError)
"""What a file that is no file of profiles raises."""


class OtherSchemaError(ValueError):
    """A file of profiles is of another version of lepton-edge."""


@dataclass(frozen=True)
class DeviceProfile:
    """What to open, and where that holds.

    Attributes:
        bundle: The digest of the bundle's manifest.
        device: The processor, as :func:`device_name` tells it.
        engine_version: Of the engine that was measured.
        file: The fastest artifact.
        engine: What runs it.
        threads: How many threads one call uses.
        spins: Whether these wait actively for work while a call goes on.
        p50_ms: The median that was measured.
        created: When, ISO 8601.
        optimized: The SHA-256 of what the engine made of the artifact here, kept at :func:`optimized_path` since it loads faster;
            empty without.
    """

    bundle: str
    device: str
    engine_version: str
    file: str
    engine: str
    threads: int
    spins: bool
    p50_ms: float
    created: str
    optimized: str = ""


def device_name(cpuinfo: Path | None = None) -> str:
    """What decides how fast an engine is here: the processor, how many cores this process may use, and what they can do.

    Args:
        cpuinfo: The kernel's description; by default ``/proc/cpuinfo``.
    """
    import hashlib  # only where there is a profile

    cpu, cores = read_cpu(cpuinfo), usable_cores()
    features = hashlib.sha256(" ".join(sorted(cpu.features)).encode()).hexdigest()[:12]
    return f"{cpu.model or 'unknown CPU'}, {cpu.machine}, {cores} core{'s' if cores > 1 else ''}, features {features}"


def profile_paths(bundle: Bundle) -> tuple[Path, ...]:
    """Where profiles of a bundle are looked for: beside it, and in the user's own folder, if there is one."""
    path = bundle.path.absolute()
    beside = path.with_name(f"{path.name}.tuned.json")
    try:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    except RuntimeError:  # a service's user may have no home
        return (beside,)
    return beside, data / "lepton-edge" / "tuned" / f"{bundle.digest}.json"


def load_profile(bundle: Bundle) -> DeviceProfile | None:
    """The newest profile of a bundle on this device that holds.

    ``None`` without one, with a :class:`ProfileWarning` if what is there does not hold.
    """
    doubt = ""
    held: list[DeviceProfile] = []
    for path in profile_paths(bundle):
        try:
            profiles = read_profiles(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            if os.access(path.parent, os.X_OK):  # others' folders are nobody's fault
                doubt = doubt or f"{str(path)!r} must be one that can be read, found {error.strerror}"
            continue
        except UNREADABLE as error:
            doubt = doubt or f"{str(path)!r} must be a device profile that can be read, found a fault at {error}"
            continue
        device = device_name()
        mine = [profile for profile in profiles if (profile.bundle, profile.device) == (bundle.digest, device)]
        if not mine and any(profile.bundle == bundle.digest for profile in profiles):
            continue  # it is for the devices that the bundle is to be copied to
        fault = _fault(bundle, mine[0]) if mine else "is for a bundle of another content"
        if not fault:
            held.append(mine[0])
        doubt = doubt or (f"{str(path)!r} {fault}" if fault else "")
    if doubt and not held:
        warnings.warn(f"the device profile {doubt}; it is not used: run lepton-edge tune again, or delete it", ProfileWarning, stacklevel=3)
    return max(held, key=lambda profile: profile.created, default=None)


def optimized_path(bundle: Bundle) -> Path | None:
    """Where what an engine made of an artifact is kept for this device: in the user's own folder only, where nobody else writes.

    ``None`` for a user without one.
    """
    import hashlib

    folders = profile_paths(bundle)[1:]
    device = hashlib.sha256(device_name().encode()).hexdigest()[:12]
    return folders[0].with_name(f"{bundle.digest}.{device}.onnx") if folders else None


def read_optimized(bundle: Bundle, profile: DeviceProfile) -> bytes | None:
    """What the engine made of a profile's artifact, checked against the profile; ``None`` where none is kept for this user.

    A :class:`ProfileWarning` says if it is not what the profile names.
    """
    import hashlib

    path = optimized_path(bundle) if profile.optimized else None
    if path is None:
        return None
    limit = _LIMIT_BYTES + 2 * bundle.artifact(profile.file).size_bytes
    try:
        with path.open("rb") as stream:
            data = stream.read(limit)
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() == profile.optimized:
        return data
    warn_of_optimized(path, "must be what the profile names, found another or a damaged one")
    return None


def warn_of_optimized(path: Path | None, fault: str) -> None:
    """Say why what an engine made of an artifact is not used."""
    text = f"the kept model {str(path)!r} {fault}; it is not used: run lepton-edge tune again, or delete it"
    warnings.warn(text, ProfileWarning, stacklevel=4)


def read_profiles(path: Path) -> list[DeviceProfile]:
    """The profiles that a file holds, one a device.

    Raises:
        OSError: It cannot be read. :data:`UNREADABLE` has all of these.
        OtherSchemaError: It is of another version of lepton-edge.
        ValueError: It is no file of profiles.
        TypeError: Likewise.
        KeyError: Likewise.
        RecursionError: Likewise.
    """
    with path.open("rb") as stream:
        text = stream.read(_LIMIT_BYTES + 1)
    if len(text) > _LIMIT_BYTES:
        raise ValueError(f"its size, more than {_LIMIT_BYTES} bytes")
    return parse_profiles(text)


def parse_profiles(text: str | bytes) -> list[DeviceProfile]:
    """The profiles in a file's text; raises as :func:`read_profiles`."""
    document = json.loads(text)
    if document["schema_version"] != SCHEMA_VERSION:
        raise OtherSchemaError(f"schema {document['schema_version']!r}, this version of lepton-edge reads schema {SCHEMA_VERSION}")
    kinds = {entry.name: entry.type for entry in fields(DeviceProfile)}
    profiles = [DeviceProfile(**entry) for entry in document["profiles"]]
    for profile in profiles:
        wrong = [name for name, kind in kinds.items() if kind is not float and type(getattr(profile, name)) is not kind]
        if wrong or profile.threads < 1 or not re.fullmatch("([0-9a-f]{64})?", profile.optimized):
            raise ValueError((wrong or ["threads" if profile.threads < 1 else "optimized"])[0])
    return profiles


def profiles_text(profiles: Iterable[DeviceProfile]) -> str:
    """The file of some profiles."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "profiles": [asdict(profile) for profile in profiles]}, indent=2) + "\n"


def _fault(bundle: Bundle, profile: DeviceProfile) -> str:
    """Why a profile of this bundle and device does not hold; empty if it does."""
    try:
        record = bundle.artifact(profile.file)
    except BundleError:
        return f"names {profile.file!r}, which the bundle does not hold"
    if profile.engine not in ENGINES_OF_FORMAT[record.format] or profile.threads > usable_cores():
        return f"names {profile.engine!r} with {profile.threads} threads for {profile.file!r} on {usable_cores()} cores"
    if not record.passed or may_saturate(record):
        return f"names {profile.file!r}, which broke its accuracy budget or may be wrong on this CPU"
    package = PACKAGE_OF_ENGINE[profile.engine]
    found = installed_versions([package]).get(package)
    if found == profile.engine_version:
        return ""
    return f"was measured with {package} {profile.engine_version}, found {found or 'none'}"
