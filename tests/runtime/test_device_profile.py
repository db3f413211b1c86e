"""A bundle that was tuned on this device is opened as its fastest variant, and as ever where that does not hold."""

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, ProfileWarning, Session
from lepton_runtime.device_profile import DeviceProfile, device_name, load_profile, optimized_path, profile_paths, profiles_text
from lepton_runtime.engines import optimized_model
from lepton_runtime.versions import installed_versions

PI_4 = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Bundle.open(shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle"))


@pytest.fixture
def profile(bundle: Bundle) -> DeviceProfile:
    version = installed_versions(["onnxruntime"])["onnxruntime"]
    file = "model.static-int8.onnx"
    return DeviceProfile(bundle.digest, device_name(), version, file, "onnxruntime", 2, False, 0.04, "2026-11-26T12:00:00Z")


def opened(bundle: Bundle, **settings: object) -> tuple[str, int]:
    with Session.open(bundle.path, **settings) as session:
        return str(session.artifact.precision), session.threads


@pytest.mark.parametrize("place", [0, 1])
def test_the_fastest_variant_is_opened(bundle: Bundle, profile: DeviceProfile, place: int) -> None:
    path = profile_paths(bundle)[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(profiles_text([replace(profile, device="another"), profile]))
    with Session.open(bundle.path) as session:
        assert (session.artifact.file, session.engine, session.threads, session.spins) == (profile.file, "onnxruntime", 2, False)
        assert session.run(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 10)


def test_without_a_profile_it_is_the_closest_to_keras_with_one_thread(bundle: Bundle) -> None:
    assert opened(bundle) == ("fp32", 1)


@pytest.mark.parametrize("settings", [{"precision": "fp32"}, {"engine": "onnxruntime"}, {"threads": 1}])
def test_whoever_asks_for_something_gets_that(bundle: Bundle, profile: DeviceProfile, settings: dict[str, object]) -> None:
    profile_paths(bundle)[0].write_text(profiles_text([profile]))
    assert opened(bundle, **settings) == ("fp32", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundle": "0" * 64}, "is for a bundle of another content"),
        ({"engine_version": "1.0"}, r"was measured with onnxruntime 1.0, found \d"),
        ({"file": "model.fp16.onnx"}, "names 'model.fp16.onnx', which the bundle does not hold"),
        ({"engine": "litert"}, "names 'litert' with 2 threads for 'model.static-int8.onnx'"),
        ({"threads": 1024}, "names 'onnxruntime' with 1024 threads"),
        ({"threads": 0}, "found a fault at threads"),
        ({"threads": "2"}, "found a fault at threads"),
        ({"spins": 1}, "found a fault at spins"),
    ],
)
def test_a_profile_that_does_not_hold_is_told_of_and_not_used(
    bundle: Bundle, profile: DeviceProfile, change: dict[str, object], message: str
) -> None:
    profile_paths(bundle)[0].write_text(profiles_text([replace(profile, **change)]))
    with pytest.warns(ProfileWarning, match=f"(?s){message}.*run lepton-edge tune again, or delete it"):
        assert opened(bundle) == ("fp32", 1)


def test_a_profile_of_another_device_is_left_for_that(bundle: Bundle, profile: DeviceProfile) -> None:
    profile_paths(bundle)[0].write_text(profiles_text([replace(profile, device="Cortex-A72, aarch64, 4 cores")]))
    assert opened(bundle) == ("fp32", 1)  # a warning would be an error


@pytest.mark.parametrize(
    "text", ["", "{", 200_000 * "[", "[]", "{}", '{"schema_version": 3, "profiles": []}', '{"schema_version": 1, "profiles": [{}]}']
)
def test_a_damaged_profile_is_told_of_and_not_used(bundle: Bundle, text: str) -> None:
    profile_paths(bundle)[0].write_text(text)
    with pytest.warns(ProfileWarning, match="must be a device profile that can be read"):
        assert opened(bundle) == ("fp32", 1)


def test_a_profile_that_cannot_be_read_is_told_of(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lepton_runtime.device_profile.read_profiles", refused)
    with pytest.warns(ProfileWarning, match=r"\.tuned\.json' must be one that can be read, found Permission denied"):
        assert opened(bundle) == ("fp32", 1)


def test_one_that_holds_makes_up_for_one_that_does_not(bundle: Bundle, profile: DeviceProfile) -> None:
    beside, own = profile_paths(bundle)
    beside.write_text(profiles_text([replace(profile, device="another")]))
    own.parent.mkdir(parents=True)
    own.write_text(profiles_text([profile]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(bundle) == ("static-int8", 2)


def test_a_device_is_its_processor_and_what_it_can_do(tmp_path: Path) -> None:
    (tmp_path / "pi4").write_text(PI_4)
    (tmp_path / "pi5").write_text(PI_4.replace("asimd", "asimd asimddp").replace("0xd08", "0xd0b"))
    names = [device_name(tmp_path / name) for name in ("pi4", "pi5", "unknown")]
    assert len(set(names)) == 3
    assert names[0].startswith("CPU implementer 0x41, CPU part 0xd08, CPU variant 0x0, ")
    assert names[2].startswith("unknown CPU, ")


def test_a_profile_says_what_it_is(bundle: Bundle, profile: DeviceProfile) -> None:
    document = json.loads(profiles_text([profile]))
    assert document["schema_version"] == 2
    assert set(document["profiles"][0]) == {
        *("bundle", "device", "engine_version", "file", "engine", "threads", "spins", "p50_ms", "created", "optimized")
    }


def test_the_newest_of_two_that_hold_is_opened(bundle: Bundle, profile: DeviceProfile) -> None:
    beside, own = profile_paths(bundle)
    beside.write_text(profiles_text([profile]))
    own.parent.mkdir(parents=True)
    own.write_text(profiles_text([replace(profile, threads=1, created="2026-11-27T12:00:00Z")]))
    assert opened(bundle) == ("static-int8", 1)


def test_an_artifact_that_broke_its_budget_is_not_opened(bundle: Bundle, profile: DeviceProfile) -> None:
    profile_paths(bundle)[0].write_text(profiles_text([profile]))
    records = tuple(replace(record, passed=record.file != profile.file) for record in bundle.manifest.artifacts)
    with pytest.warns(ProfileWarning, match="which broke its accuracy budget"):
        assert load_profile(replace(bundle, manifest=replace(bundle.manifest, artifacts=records))) is None


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/deeper"])
def test_a_folder_that_cannot_be_entered_holds_no_profile(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(bundle) == ("fp32", 1)


def test_a_user_without_a_home_has_no_folder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert opened(bundle) == ("fp32", 1)
    assert len(profile_paths(bundle)) == 1


@pytest.fixture
def kept(bundle: Bundle, profile: DeviceProfile) -> Path:
    """A profile with what onnxruntime makes of the artifact."""
    model = optimized_model("onnxruntime", bundle.read(bundle.artifact(profile.file)), threads=1)
    assert model is not None
    place = optimized_path(bundle)
    assert place is not None
    place.parent.mkdir(parents=True)
    write_kept(bundle, profile, model)
    return place


def write_kept(bundle: Bundle, profile: DeviceProfile, model: bytes) -> None:
    place = optimized_path(bundle)
    assert place is not None
    place.write_bytes(model)
    profile_paths(bundle)[0].write_text(profiles_text([replace(profile, optimized=hashlib.sha256(model).hexdigest())]))


def test_what_the_engine_made_of_it_is_loaded_in_its_place(bundle: Bundle, kept: Path, profile: DeviceProfile) -> None:
    (bundle.path / profile.file).write_bytes(b"nobody reads it")
    digits = np.random.default_rng(2).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
    usual = Session.open(shipped_bundle(), precision="static-int8")
    with Session.open(bundle.path) as session:
        for digit in digits:
            np.testing.assert_array_equal(session.run(digit[None]), usual.run(digit[None]))


@pytest.mark.parametrize("fault", ["damaged", "cut", "longer", "another"])
def test_what_is_kept_and_damaged_is_told_of_and_not_used(bundle: Bundle, kept: Path, fault: str) -> None:
    content = kept.read_bytes()
    other = bundle.read(bundle.artifact("model.fp32.onnx"))
    faults = {"damaged": content[:-1] + b"x", "cut": content[:100], "longer": content + bytes(2**23), "another": other}
    kept.write_bytes(faults[fault])
    with pytest.warns(ProfileWarning, match="must be what the profile names.*run lepton-edge tune again"):
        assert opened(bundle) == ("static-int8", 2)


def test_what_is_kept_and_cannot_be_loaded_is_told_of_and_not_used(bundle: Bundle, kept: Path, profile: DeviceProfile) -> None:
    write_kept(bundle, profile, b"no model")
    with pytest.warns(ProfileWarning, match="must be one that onnxruntime loads.*run lepton-edge tune again"):
        assert opened(bundle) == ("static-int8", 2)


def test_who_has_no_kept_file_opens_the_bundles_own(bundle: Bundle, kept: Path) -> None:
    kept.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(bundle) == ("static-int8", 2)


def test_a_file_beside_the_bundle_takes_nothings_place(bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(kept, bundle.path.parent / kept.name)
    kept.unlink()
    loaded = []
    monkeypatch.setattr("lepton_runtime.session.open_engine", lambda *given, is_optimized, **settings: loaded.append(is_optimized))
    opened(bundle)
    assert loaded == [False]


@pytest.mark.parametrize("digest", ["../../etc/passwd", "0" * 63, "G" * 64])
def test_a_profile_names_a_digest_and_nothing_else(bundle: Bundle, profile: DeviceProfile, digest: str) -> None:
    profile_paths(bundle)[0].write_text(profiles_text([replace(profile, optimized=digest)]))
    with pytest.warns(ProfileWarning, match="found a fault at optimized"):
        assert opened(bundle) == ("fp32", 1)
