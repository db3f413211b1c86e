"""Updates of a device: two slots for bundles, and a link to the one in use, which is replaced in one step.

A folder holds ``slots/a``, ``slots/b`` and ``current``, a link to one of them. Wherever an install is cut off, ``current`` leads to a
bundle that was whole, and answered rightly on this device, before the link was set.
"""

import fcntl
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from lepton_edge.download import download, forget, is_address, shown
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE, Bundle, digest_line
from lepton_runtime.durable import remove, sync, write_durably
from lepton_runtime.errors import BundleError, InputError, OutputError, ParityError, RegressionError, UnsupportedError
from lepton_runtime.golden import Golden, golden_fault, golden_limit
from lepton_runtime.manifest import Manifest
from lepton_runtime.session import Session
from lepton_runtime.signature import TrustedKeys

_NAMES = ("a", "b")
_CURRENT, _SLOTS, _LOCK = "current", "slots", "lock"
_NEW, _OLD = ".new", ".old-"  # the second is followed by the slot that it was in
_CALLS = 20  # of which the median is the latency
_LONGEST_CALL_S = 60.0  # a model that takes longer, does not end
_SPARE_BYTES = 2**20


@dataclass(frozen=True)
class Installed:
    """What is in use now.

    Attributes:
        path: Where it lies: ``current``, which stays the same from update to update.
        slot: ``a`` or ``b``.
        file: The artifact that a session takes here.
        latency_ms: Of one of its calls, the median.
        serial: Its serial number, or ``None``.
    """

    path: Path
    slot: str
    file: str
    latency_ms: float
    serial: int | None


def install(
    source: Path | str,
    folder: Path,
    *,
    trusted_keys: TrustedKeys | None = None,
    max_latency_ms: float | None = None,
    allow_downgrade: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Installed:
    """Put a bundle into the slot that is not in use, try it there, and only then use it.

    Args:
        source: The bundle, a folder or a ``.zip``; or the https:// address of a ``.zip``.
        folder: Where the slots are; made if it is not there.
        trusted_keys: A bundle that none of them signed is refused.
        max_latency_ms: A bundle whose calls take longer here is refused; ``None`` for any.
        allow_downgrade: Take a bundle of a lower serial number than that in use, too.
        on_step: Told what is happening.

    Raises:
        BundleError: It is damaged, or not signed with a trusted key.
        InputError: Its serial number is lower than that in use, or the address does not give it.
        OutputError: It cannot be written, or another install is at work.
        ParityError: Its answers here are not the golden ones.
        RegressionError: Its calls take longer than allowed.
        CallTimeoutError: A call does not end.
    """
    with ExitStack() as stack:
        bundle = None if is_address(source) else _trusted(source, trusted_keys)  # if it is wrong, the folder is left alone
        slots = stack.enter_context(_locked(folder))
        if bundle is None:
            bundle = stack.enter_context(_downloaded(str(source), folder, trusted_keys, on_step))
        _check_serial(bundle, _serial_in_use(folder), allow_downgrade=allow_downgrade)
        name = _other(_used_name(folder))
        on_step(f"copy to slot {name}")
        _copy(bundle, slots / _NEW)
        on_step("try it here")
        tried = _tried(slots / _NEW, max_latency_ms)
        old = slots / f"{_OLD}{name}"
        if os.path.lexists(slots / name):
            os.rename(slots / name, old)
        os.rename(slots / _NEW, slots / name)
        (slots / f"{name}.tuned.json").unlink(missing_ok=True)  # of the bundle that was there
        sync(slots)
        _use(folder, name)
        with suppress(OSError):  # it is done; the next install tidies up
            remove(old)
    return Installed(folder / _CURRENT, name, *tried)


def _trusted(path: Path | str, trusted_keys: TrustedKeys | None) -> Bundle:
    bundle = Bundle.open(path)
    if trusted_keys is not None:
        trusted_keys.check_bundle(bundle)
    return bundle


@contextmanager
def _downloaded(address: str, folder: Path, trusted_keys: TrustedKeys | None, on_step: Callable[[str], None]) -> Iterator[Bundle]:
    """The bundle at an address, as a zip that is there meanwhile; of a download that stops a part stays, of one that is wrong nothing."""
    path = download(address, folder, on_step=on_step)
    try:
        try:
            bundle = _trusted(path, trusted_keys)
            bundle.check()
        except BundleError as error:
            raise type(error)(f"{shown(address)} must give a bundle: {str(error).replace(str(path), 'the download')}") from error
        yield bundle
    finally:
        forget(path)


def roll_back(folder: Path, *, trusted_keys: TrustedKeys | None = None, max_latency_ms: float | None = None) -> Installed:
    """Use the bundle in the other slot again, the one before the last install.

    Args:
        folder: Where the slots are.
        trusted_keys: As for :func:`install`.
        max_latency_ms: Likewise.

    Raises:
        BundleError: It is damaged, or not signed with a trusted key.
        InputError: There is none.
        OutputError: The link cannot be set, or an install is at work.
        ParityError: Its answers here are not the golden ones.
        RegressionError: Its calls take longer than allowed.
        CallTimeoutError: A call does not end.
    """
    with _locked(folder) as slots:
        used = _used_name(folder)
        name = _other(used)
        if used is None or not (slots / name).exists():
            raise InputError(f"{str(folder)!r} must hold a bundle of before, to go back to, it has none; install one")
        if trusted_keys is not None:
            trusted_keys.check_bundle(Bundle.open(slots / name))
        tried = _tried(slots / name, max_latency_ms)
        _use(folder, name)
    return Installed(folder / _CURRENT, name, *tried)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The folder of the slots, which is this process's alone meanwhile; what an install before has left half-done is gone."""
    slots = folder / _SLOTS
    try:
        slots.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it back, however this process ends
            except BlockingIOError:
                raise OutputError(f"{str(folder)!r} must be free, another install is at work there; wait for it") from None
            _tidy(folder, slots)
            try:
                yield slots
            finally:
                with suppress(OSError):  # the next install tidies up
                    remove(slots / _NEW)
    except OSError as error:
        raise OutputError(f"{str(folder)!r} must be writable: {error.strerror}; what was in use stays in use") from error


def _tidy(folder: Path, slots: Path) -> None:
    """Take back what an install has begun and not brought to its end."""
    remove(slots / _NEW)
    (folder / f".{_CURRENT}.new").unlink(missing_ok=True)
    for name in _NAMES:
        old = slots / f"{_OLD}{name}"
        if os.path.lexists(old) and name != _used_name(folder):  # what came in its place was never used
            remove(slots / name)
            os.rename(old, slots / name)
        remove(old)


def _used_name(folder: Path) -> str | None:
    """The slot that is in use; ``None`` before the first install."""
    link = folder / _CURRENT
    if not os.path.lexists(link):
        return None
    found = os.readlink(link) if link.is_symlink() else "no link"
    names = {str(Path(_SLOTS) / name): name for name in _NAMES}
    if found not in names:
        raise InputError(f"{str(link)!r} must be a link to {' or '.join(names)}, found {found!r}; give another --slot")
    return names[found]


def _other(name: str | None) -> str:
    return _NAMES[1] if name == _NAMES[0] else _NAMES[0]


def _serial_in_use(folder: Path) -> int | None:
    """Of the bundle in use, also of a damaged one as long as its manifest can be read; ``None`` if it has none."""
    current = folder / _CURRENT
    try:
        return Bundle.open(current).manifest.serial
    except BundleError:
        pass
    try:
        return Manifest.from_json((current / MANIFEST_FILE).read_bytes()).serial
    except (BundleError, OSError):
        return None


def _check_serial(bundle: Bundle, before: int | None, *, allow_downgrade: bool) -> None:
    now = bundle.manifest.serial
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


def _tried(path: Path, max_latency_ms: float | None) -> tuple[str, float, int | None]:
    """The artifact that a session takes here, once its answers are the golden ones, how long a call takes in ms, and the serial number."""
    bundle = Bundle.open(path)
    bundle.check()
    golden = Golden.open(bundle)
    with _opened(bundle) as session:
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
        if max_latency_ms is not None and not latency_ms <= max_latency_ms:  # nor where that is no number
            raise RegressionError(
                f"{session.artifact.file} must answer within {max_latency_ms:g} ms here, it takes {latency_ms:.3g}; the other stays in use"
            )
        return session.artifact.file, latency_ms, bundle.manifest.serial


def _opened(bundle: Bundle) -> Session:
    """A session whose calls end, where its engine can be stopped; where it cannot, to end this process leaves in use what is."""
    try:
        return Session.open(bundle, timeout_s=_LONGEST_CALL_S)
    except UnsupportedError:
        return Session.open(bundle)


def _use(folder: Path, name: str) -> None:
    """Let ``current`` lead to a slot, in one step."""
    link = folder / f".{_CURRENT}.new"
    link.symlink_to(Path(_SLOTS) / name)
    os.replace(link, folder / _CURRENT)
    sync(folder)
