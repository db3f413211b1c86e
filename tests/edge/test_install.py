"""Updates by two slots, which may be cut off anywhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_edge.digits import shipped_bundle
from lepton_edge.install import install, roll_back
from lepton_runtime import Bundle, BundleError, InputError, OutputError, ParityError, RegressionError, Session
from lepton_runtime.golden import Golden

fcntl = pytest.importorskip("fcntl", reason="needs a POSIX system")
Rewrite = Callable[[Path, Callable[[dict[str, Any]], None]], None]

# The power fails before the step with that number that changes anything on the disk.
CUT = """
import os, sys
from pathlib import Path
count = 0
def watch(event, arguments):
    global count
    changes = event in ("os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
    if event == "open" and len(arguments) == 3 and isinstance(arguments[2], int):
        changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and str(arguments[0]).startswith(sys.argv[2])
    if changes:
        count += 1
        if count == int(sys.argv[3]):
            os._exit(9)
from lepton_edge.install import install
import lepton_runtime.engines.onnxruntime
sys.addaudithook(watch)
install(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def releases(tmp_path: Path, rewrite_manifest: Rewrite) -> dict[int, Path]:
    """Bundles with the serial numbers 1, 2 and 3."""
    made = {}
    for serial in (1, 2, 3):
        made[serial] = Path(shutil.copytree(shipped_bundle(), tmp_path / f"release{serial}.bundle"))
        rewrite_manifest(made[serial], lambda values, serial=serial: values.update(serial=serial))
    return made


def serial_in_use(folder: Path) -> int | None:
    """Of the bundle in use, which must be whole and answer rightly."""
    bundle = Bundle.open(folder / "current")
    bundle.check()
    with Session.open(bundle) as session:
        assert Golden.open(bundle).difference(session) < 1e-4
    return bundle.manifest.serial


def test_updates_take_turns_in_two_slots_and_the_last_one_can_be_taken_back(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device" / "models"
    for serial, slot in ((1, "a"), (2, "b"), (3, "a")):
        found = install(releases[serial], folder)
        assert (found.slot, found.path, found.file) == (slot, folder / "current", "model.fp32.onnx")
        assert found.latency_ms > 0
        assert serial_in_use(folder) == serial
    assert sorted(path.name for path in folder.iterdir()) == ["current", "lock", "slots"]
    assert sorted(path.name for path in (folder / "slots").iterdir()) == ["a", "b"]
    assert roll_back(folder).slot == "b"
    assert serial_in_use(folder) == 2
    assert roll_back(folder).slot == "a"  # and forth
    assert serial_in_use(folder) == 3


def test_a_session_stays_with_its_bundle_when_the_link_moves(releases: dict[int, Path], tmp_path: Path) -> None:
    install(releases[1], tmp_path / "slots")
    with Session.open(tmp_path / "slots" / "current") as session:
        install(releases[2], tmp_path / "slots")
        session.bundle.check()
        assert session.bundle.manifest.serial == 1


def test_a_serial_number_does_not_go_down_unless_it_is_said(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    install(releases[2], folder)
    for source, found in ((releases[1], "1"), (shipped_bundle(), "None")):
        with pytest.raises(InputError, match=f"must not go down, 2 is in use, found {found}; --allow-downgrade"):
            install(source, folder)
    assert install(releases[2], folder).slot == "b"  # the same again is no step down
    assert install(releases[1], folder, allow_downgrade=True).slot == "a"
    assert serial_in_use(folder) == 1


def test_what_answers_otherwise_or_too_late_is_not_used(releases: dict[int, Path], tmp_path: Path, forge_golden) -> None:
    folder = tmp_path / "device"
    install(releases[1], folder)
    with pytest.raises(RegressionError, match=r"must answer within 1e-06 ms here, it takes .* the other stays in use"):
        install(releases[2], folder, max_latency_ms=1e-6)
    forge_golden(releases[3], "model.fp32.onnx")
    with pytest.raises(ParityError, match="must answer here as on export"):
        install(releases[3], folder)
    (releases[2] / "model.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="copy the bundle again"):
        install(releases[2], folder)
    assert serial_in_use(folder) == 1


def test_a_full_disk_is_named_before_anything_is_copied(releases: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "device"
    install(releases[1], folder)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10))
    with pytest.raises(OutputError, match=r"must have \d\.\d MB of free space, found 0\.0"):
        install(releases[2], folder)
    monkeypatch.undo()
    assert serial_in_use(folder) == 1
    assert [path.name for path in (folder / "slots").iterdir()] == ["a"]


def test_a_disk_that_fills_up_leaves_what_was_in_use(releases: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "device"
    install(releases[1], folder)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lepton_edge.install.write_durably", full)
    with pytest.raises(OutputError, match="No space left on device; what was in use stays in use"):
        install(releases[2], folder)
    monkeypatch.undo()
    assert serial_in_use(folder) == 1
    install(releases[2], folder)
    assert serial_in_use(folder) == 2


def test_two_installs_at_once_are_refused(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    install(releases[1], folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another install is at work there"):
            install(releases[2], folder)
    assert install(releases[2], folder).slot == "b"


@pytest.mark.parametrize("target", [None, "..", "/else/a", "slots/c"])
def test_what_is_no_link_of_ours_is_left_alone(releases: dict[int, Path], tmp_path: Path, target: str | None) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    if target is None:
        (folder / "current").mkdir()
    else:
        (folder / "current").symlink_to(target)
    with pytest.raises(InputError, match="give another --slot"):
        install(releases[1], folder)


def test_there_is_nothing_to_go_back_to_after_the_first_install(releases: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has none; install one"):
        roll_back(tmp_path / "device")
    install(releases[1], tmp_path / "device")
    with pytest.raises(InputError, match="it has none; install one"):
        roll_back(tmp_path / "device")


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_power_may_fail_at_any_step(releases: dict[int, Path], tmp_path: Path, before: int) -> None:
    """After it, the device has the bundle of before or the new one, whole and right, and the next install works."""
    folder = tmp_path / "device"
    base = tmp_path / "base"
    for serial in range(1, before + 1):
        install(releases[serial], base)
    base.mkdir(exist_ok=True)
    step, new = 0, before + 1
    while True:
        step += 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder, symlinks=True)
        command = [sys.executable, "-c", CUT, str(releases[new]), str(folder), str(step)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        if (folder / "current").exists():
            assert serial_in_use(folder) in ({new} if done.returncode == 0 else {before, new} - {0})
        else:
            assert before == 0
        if done.returncode == 0:
            break
        assert install(releases[new], folder).path == folder / "current"
        assert serial_in_use(folder) == new
        assert not [path.name for path in (*folder.iterdir(), *(folder / "slots").iterdir()) if path.name.startswith(".")]
    assert step > 10


def test_the_command_says_what_is_in_use(lepton_edge, releases: dict[int, Path], tmp_path: Path) -> None:
    slot = ("--slot", tmp_path / "device")
    outcome = lepton_edge("install", releases[1], *slot)
    assert outcome.code == 0
    assert "current is slot a with serial number 1: model.fp32.onnx, " in outcome.err.replace("\n", " ")
    assert lepton_edge("install", releases[2], *slot, "--max-latency", 60_000).code == 0
    assert "is slot a" in lepton_edge("install", "--rollback", *slot).err.replace("\n", " ")
    for arguments, found in (((), "none"), ((releases[1], "--rollback"), "both")):
        outcome = lepton_edge("install", *arguments, *slot)
        assert outcome.code == 2
        assert f"give one of BUNDLE and --rollback, found {found}" in outcome.err
    assert os.readlink(tmp_path / "device" / "current") == "slots/a"


def test_a_device_that_trusts_keys_takes_nothing_unsigned(lepton_edge, releases: dict[int, Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the [sign] extra")
    (tmp_path / "keys").mkdir()
    assert lepton_edge("keygen", tmp_path / "keys" / "release").code == 0
    options = ("--slot", tmp_path / "device", "--trusted-keys", tmp_path / "keys")
    lepton_edge("install", releases[1], *options).refused(1, because="it is not signed")
    assert not (tmp_path / "device").exists()
    assert lepton_edge("sign", releases[1], "--key", tmp_path / "keys" / "release").code == 0
    assert lepton_edge("install", releases[1], *options).code == 0
    assert lepton_edge("verify", tmp_path / "device" / "current", "--trusted-keys", tmp_path / "keys").code == 0


@pytest.mark.parametrize("name", ["b", ".new", ".old-b"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_slot_that_is_no_folder_does_not_hold_up_updates(releases: dict[int, Path], tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "device"
    for serial in (1, 2, 3):
        install(releases[serial], folder)  # the last in slot a
    place = folder / "slots" / name
    if place.exists():
        shutil.rmtree(place)
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.write_bytes(b"")
    for slot in ("b", "a"):
        assert install(releases[3], folder).slot == slot
        assert serial_in_use(folder) == 3
    assert (tmp_path / "elsewhere").exists() == (kind == "link")


def test_an_install_that_was_cut_off_leaves_the_way_back(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    for serial in (1, 2):
        install(releases[serial], folder)
    slots = folder / "slots"
    (slots / "a").rename(slots / ".old-a")  # between the two
    assert roll_back(folder).slot == "a"
    assert serial_in_use(folder) == 1
    assert roll_back(folder).slot == "b"
    (slots / "a").rename(slots / ".old-a")
    shutil.copytree(releases[3], slots / "a")  # before the link
    assert roll_back(folder).slot == "a"
    assert serial_in_use(folder) == 1


def test_going_back_asks_for_keys_too(lepton_edge, releases: dict[int, Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the [sign] extra")
    (tmp_path / "keys").mkdir()
    assert lepton_edge("keygen", tmp_path / "keys" / "release").code == 0
    slot, trusted = ("--slot", tmp_path / "device"), ("--trusted-keys", tmp_path / "keys")
    assert lepton_edge("install", releases[1], *slot).code == 0
    assert lepton_edge("sign", releases[2], "--key", tmp_path / "keys" / "release").code == 0
    assert lepton_edge("install", releases[2], *slot, *trusted).code == 0
    lepton_edge("install", "--rollback", *slot, *trusted).refused(1, because="it is not signed")
    lepton_edge("install", "--rollback", *slot, "--max-latency", "1e-6").refused(4, because="must answer within")
    assert serial_in_use(tmp_path / "device") == 2
    assert lepton_edge("install", "--rollback", *slot, "--allow-downgrade").code == 2


def test_a_damaged_bundle_in_use_is_no_way_around_its_serial_number(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    install(releases[3], folder)
    (folder / "current" / "more").write_bytes(b"")
    with pytest.raises(InputError, match="must not go down, 3 is in use"):
        install(releases[2], folder)


def test_a_profile_of_the_bundle_before_goes_with_it(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    for serial in (1, 2):
        install(releases[serial], folder)
    (folder / "slots" / "a.tuned.json").write_text("[]")
    install(releases[3], folder)
    assert not (folder / "slots" / "a.tuned.json").exists()


def test_the_lock_follows_no_link(releases: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    (tmp_path / "victim").write_text("kept")
    (folder / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError):
        install(releases[1], folder)
    assert (tmp_path / "victim").read_text() == "kept"
