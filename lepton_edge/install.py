"""Updates of a device: two slots for bundles, and a link to the one in use, which is replaced in one step.

A folder holds ``slots/a``, ``slots/b`` and ``current``, a link to one of them. Wherever an install is cut off, ``current`` leads to a
bundle that was whole, and answered rightly on this device, before the link was set.
"""

import fcntl
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE, Bundle, digest_line
from lepton_runtime.durable import sync, write_durably
from lepton_runtime.errors import BundleError, InputError, OutputError, ParityError, RegressionError
from lepton_runtime.golden import Golden, golden_fault, golden_limit
from lepton_runtime.session import Session
from lepton_runtime.signature import TrustedKeys

_NAMES = ("a", "b")
_CURRENT, _SLOTS, _LOCK = "current", "slots", "lock"
_NEW, _OLD = ".new", ".old"
_CALLS = 20  # of which the median is the latency
_SPARE_BYTES = 2**20


@dataclass(frozen=True)
class Installed:
    """What is in use now.

    Attributes:
        path: Where it lies: ``current``, which stays the same from update to update.
        slot: ``a`` or ``b``.
        file: The artifact that a session takes here.
        latency_ms: Of one of its calls, the median.
    """

    path: Path
    slot: str
    file: str
    latency_ms: float


def install(
    source: Path,
    folder: Path,
    *,
    trusted_keys: TrustedKeys | None = None,
    max_latency_ms: float | None = None,
    allow_downgrade: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Installed:
    """Put a bundle into the slot that is not in use, try it there, and only then use it.

    Args:
        source: The bundle, a folder or a ``.zip``.
        folder: Where the slots are; made if it is not there.
        trusted_keys: A bundle that none of them signed is refused.
        max_latency_ms: A bundle whose calls take longer here is refused; ``None`` for any.
        allow_downgrade: Take a bundle of a lower serial number than that in use, too.
        on_step: Told what is happening.

    Raises:
        BundleError: It is damaged, or not signed with a trusted key.
        InputError: Its serial number is lower than that in use.
        OutputError: It cannot be written, or another install is at work.
        ParityError: Its answers here are not the golden ones.
        RegressionError: Its calls take longer than allowed.
    """
    bundle = Bundle.open(source)
    if trusted_keys is not None:
        trusted_keys.check_bundle(bundle)
    with _locked(folder) as slots:
        _check_serial(bundle, _in_use(folder), allow_downgrade=allow_downgrade)
        used = _used_name(folder)
        name = _NAMES[1] if used == _NAMES[0] else _NAMES[0]
        on_step(f"copy to slot {name}")
        _copy(bundle, slots / _NEW)
        on_step("try it here")
        file, latency_ms = _tried(slots / _NEW, max_latency_ms)
        if (slots / name).exists():
            os.rename(slots / name, slots / _OLD)
        os.rename(slots / _NEW, slots / name)
        sync(slots)
        _use(folder, name)
        _remove(slots / _OLD)
    return Installed(folder / _CURRENT, name, file, latency_ms)


def roll_back(folder: Path) -> Installed:
    """Use the bundle in the other slot again, the one before the last install.

    Raises:
        BundleError: It is damaged.
        InputError: There is none.
        OutputError: The link cannot be set, or an install is at work.
        ParityError: Its answers here are not the golden ones.
    """
    with _locked(folder) as slots:
        used = _used_name(folder)
        name = _NAMES[1] if used == _NAMES[0] else _NAMES[0]
        if used is None or not (slots / name).exists():
            raise InputError(f"{str(folder)!r} must hold a bundle of before, to go back to, it has none; install one")
        file, latency_ms = _tried(slots / name, None)
        _use(folder, name)
    return Installed(folder / _CURRENT, name, file, latency_ms)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The folder of the slots, which is this process's alone meanwhile; what an install before has left half-done is gone."""
    slots = folder / _SLOTS
    try:
        slots.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it back, however this process ends
            except BlockingIOError:
                raise OutputError(f"{str(folder)!r} must be free, another install is at work there; wait for it") from None
            _tidy(folder, slots)
            yield slots
    except OSError as error:
        raise OutputError(f"{str(folder)!r} must be writable: {error.strerror}; what was in use stays in use") from error


def _tidy(folder: Path, slots: Path) -> None:
    for name in (_NEW, _OLD):
        _remove(slots / name)
    (folder / f".{_CURRENT}.new").unlink(missing_ok=True)


def _used_name(folder: Path) -> str | None:
    """The slot that is in use; ``None`` before the first install."""
    link = folder / _CURRENT
    if not link.is_symlink():
        if link.exists():
            raise InputError(f"{str(link)!r} must be a link to a slot, it is something else; give another --slot")
        return None
    name = Path(os.readlink(link)).name
    if name not in _NAMES:
        raise InputError(f"{str(link)!r} must lead to slot a or b, it leads to {name!r}; give another --slot")
    return name


def _in_use(folder: Path) -> Bundle | None:
    """The bundle in use; ``None`` if there is none that opens, which any may replace."""
    try:
        return Bundle.open(folder / _CURRENT)
    except BundleError:
        return None


def _check_serial(bundle: Bundle, used: Bundle | None, *, allow_downgrade: bool) -> None:
    before, now = (None if one is None else one.manifest.serial for one in (used, bundle))
    if before is not None and not allow_downgrade and (now is None or now < before):
        raise InputError(f"a bundle's serial number must not go down, {before} is in use, found {now}; --allow-downgrade takes it")


def _copy(bundle: Bundle, target: Path) -> None:
    """The bundle as a folder, on the disk when this returns."""
    manifest = bundle.read_manifest()
    signatures = bundle.read_signatures()
    needed = len(manifest) + sum(record.size_bytes for record in bundle.manifest.files) + _SPARE_BYTES
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputError(f"{str(target.parent)!r} must have {needed / 1e6:.1f} MB of free space, found {free / 1e6:.1f}; delete something")
    target.mkdir()
    for record in bundle.manifest.files:
        write_durably(target / record.file, bundle.read(record))
    if signatures is not None:
        write_durably(target / SIGNATURE_FILE, signatures)
    write_durably(target / DIGEST_FILE, digest_line(manifest))
    write_durably(target / MANIFEST_FILE, manifest)
    sync(target)


def _tried(path: Path, max_latency_ms: float | None) -> tuple[str, float]:
    """The artifact that a session takes here, once its answers are the golden ones, and how long a call takes in ms."""
    bundle = Bundle.open(path)
    bundle.check()
    golden = Golden.open(bundle)
    with Session.open(bundle) as session:
        fault = golden_fault(golden.difference(session), golden_limit(session.artifact))
        if fault:
            raise ParityError(f"{session.artifact.file} must answer here as on export, {fault}; the other stays in use")
        inputs = golden.batches(session.artifact)[0]
        samples = []
        for _ in range(_CALLS):
            started = perf_counter()
            session.run(inputs)
            samples.append(1e3 * (perf_counter() - started))
        latency_ms = statistics.median(samples)
        if max_latency_ms is not None and latency_ms > max_latency_ms:
            raise RegressionError(
                f"{session.artifact.file} must answer within {max_latency_ms:g} ms here, it takes {latency_ms:.1f}; the other stays in use"
            )
        return session.artifact.file, latency_ms


def _use(folder: Path, name: str) -> None:
    """Let ``current`` lead to a slot, in one step."""
    link = folder / f".{_CURRENT}.new"
    link.symlink_to(Path(_SLOTS) / name)
    os.replace(link, folder / _CURRENT)
    sync(folder)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
