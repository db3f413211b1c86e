import hashlib
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, BundleError, Session
from lepton_runtime.golden import Golden

FILES = sorted(path.name for path in shipped_bundle().iterdir())


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.37, 0.999999])
@pytest.mark.parametrize("file", FILES)
def test_one_flipped_bit_in_any_file_is_a_clean_error(digits_bundle: Path, file: str, share: float) -> None:
    flip_byte(digits_bundle / file, int(share * (digits_bundle / file).stat().st_size))
    with pytest.raises(BundleError, match="checksum"):
        Bundle.open(digits_bundle).check()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("change", ["shorter", "longer", "missing"])
def test_a_file_of_another_size_is_a_clean_error(digits_bundle: Path, file: str, change: str) -> None:
    path = digits_bundle / file
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if change == "shorter" else path.read_bytes() + b"\n")
    with pytest.raises(BundleError, match=r"checksum|another size|No such file|is missing"):
        Bundle.open(digits_bundle).check()


@pytest.mark.parametrize("name", ["more.onnx", ".hidden", "model.fp32.onnx.old"])
def test_a_file_that_the_manifest_does_not_list_is_refused(digits_bundle: Path, name: str) -> None:
    (digits_bundle / name).write_bytes(b"more")
    with pytest.raises(BundleError, match=f"must hold the files that its manifest lists, '{name}' is not one of them"):
        Bundle.open(digits_bundle)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(digits_bundle: Path, kind: str) -> None:
    path = digits_bundle / "golden.npz"
    elsewhere = path.rename(digits_bundle.parent / "elsewhere")
    {"link": lambda: path.symlink_to(elsewhere), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(BundleError, match=r"golden\.npz \(no plain file\)' is not one of them"):
        Bundle.open(digits_bundle)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(digits_bundle: Path) -> None:
    (digits_bundle / "manifest.json").unlink()
    os.mkfifo(digits_bundle / "manifest.json")
    with pytest.raises(BundleError, match="it is no plain file"):
        Bundle.open(digits_bundle)


@pytest.mark.parametrize(("name", "content"), [("more.onnx", b"more"), ("../more.onnx", b"more"), ("golden.npz", b"twice")])
def test_a_zip_holds_each_listed_file_once_and_nothing_else(digits_bundle: Path, tmp_path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for path in digits_bundle.iterdir():
            archive.write(path, path.name)
        with warnings.catch_warnings(action="ignore"):  # of a name that is there already
            archive.writestr(name, content)
    with pytest.raises(BundleError, match="is not one of them, or there twice"):
        Bundle.open(tmp_path / "digits.zip")


def test_a_session_refuses_the_damaged_file_that_it_would_load(digits_bundle: Path) -> None:
    flip_byte(digits_bundle / "model.static-int8.onnx", 5000)
    with pytest.raises(BundleError, match=r"model\.static-int8\.onnx.*checksum.*copy the bundle again"):
        Session.open(digits_bundle, precision="static-int8")
    assert Session.open(digits_bundle, precision="fp32").artifact.precision == "fp32"


def test_a_newer_schema_says_how_to_update(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(schema_version=2))
    with pytest.raises(BundleError, match=r"reads bundles of schema 1, found schema 2; update with: pip install --upgrade"):
        Bundle.open(digits_bundle)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/b.onnx", "..", "", ".hidden", "a\\b", "a\0b"])
def test_a_path_that_escapes_the_bundle_is_refused(digits_bundle: Path, rewrite_manifest, name: str) -> None:
    rewrite_manifest(digits_bundle, lambda values: values["artifacts"][0].update(file=name))
    with pytest.raises(BundleError, match="plain names inside its folder"):
        Bundle.open(digits_bundle)


def test_a_link_out_of_the_bundle_is_refused(digits_bundle: Path) -> None:
    file = digits_bundle / "model.fp32.onnx"
    moved = file.rename(digits_bundle.parent / "elsewhere.onnx")
    file.symlink_to(moved)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx"):
        Bundle.open(digits_bundle).check()


@pytest.mark.parametrize("key", ["source", "inputs", "outputs", "preprocessing", "labels", "artifacts", "golden", "removed_layers"])
def test_a_manifest_that_lacks_a_key_is_refused(digits_bundle: Path, rewrite_manifest, key: str) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.pop(key))
    with pytest.raises(BundleError, match=f"complete manifest of schema 1, found a fault at '{key}'"):
        Bundle.open(digits_bundle)


def test_a_key_of_a_newer_version_says_how_to_update(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(surprise=1, versions={"lepton-edge": "0.9.1"}))
    message = r"found the key 'surprise' in manifest\.json: a newer version \(0\.9\.1\) made it; update with: pip install --upgrade lepton"
    with pytest.raises(BundleError, match=message):
        Bundle.open(digits_bundle)
    rewrite_manifest(digits_bundle, lambda values: values.pop("versions"))
    with pytest.raises(BundleError, match="a newer version made it; update with"):
        Bundle.open(digits_bundle)


@pytest.mark.parametrize("place", ["inputs", "artifacts", "golden", "evaluation"])
def test_a_key_of_a_newer_version_is_found_deep_inside(digits_bundle: Path, rewrite_manifest, place: str) -> None:
    def change(values: dict) -> None:
        (values[place][0] if isinstance(values[place], list) else values[place]).update(surprise=1)

    rewrite_manifest(digits_bundle, change)
    with pytest.raises(BundleError, match="found the key 'surprise' in manifest"):
        Bundle.open(digits_bundle)


def test_a_zipped_bundle_gives_the_same_files(digits_bundle: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "digits.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in digits_bundle.iterdir():
            archive.write(path, path.name)
    folder, archived = Bundle.open(digits_bundle), Bundle.open(zipped)
    assert folder.manifest == archived.manifest
    assert [folder.read(record) for record in folder.manifest.files] == [archived.read(record) for record in archived.manifest.files]


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing.bundle' does not exist"):
        Bundle.open(tmp_path / "nothing.bundle")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"readable manifest\.json: No such file"):
        Bundle.open(tmp_path)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(os.urandom(100))
    with pytest.raises(BundleError, match="File is not a zip file"):
        Bundle.open(tmp_path / "photo.png")


@pytest.mark.parametrize("kind", ["pipe", "loop", "long", "nul"])
def test_what_cannot_be_a_bundle_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.zip"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = tmp_path / {"long": "x" * 300, "nul": "a\0b"}[kind]
    with pytest.raises(BundleError, match=r"a bundle folder or \.zip is needed"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("golden", {"size_bytes": 2**70}),
        ("golden", {"size_bytes": -2}),
        ("golden", {"size_bytes": True}),
        ("golden", {"file": "manifest.json"}),
        ("golden", {"file": "model.fp32.onnx"}),
        ("artifact", {"inputs": []}),
        ("input", {"dtype": "foo"}),
        ("input", {"dtype": "object"}),
        ("input", {"shape": [1, -28, 28, 1]}),
        ("input", {"shape": [1, "28", 28, 1]}),
    ],
)
def test_a_manifest_with_values_that_cannot_be_is_refused(digits_bundle: Path, rewrite_manifest, place: str, change: dict) -> None:
    places = {"golden": lambda values: values["golden"], "artifact": lambda values: values["artifacts"][0]}
    places["input"] = lambda values: values["artifacts"][0]["inputs"][0]
    rewrite_manifest(digits_bundle, lambda values: places[place](values).update(change))
    with pytest.raises(BundleError):
        Bundle.open(digits_bundle)


@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(60), b"\x93NUMPY", b"", "rows", "scalars"])
def test_golden_arrays_that_are_none_are_a_bundle_error(digits_bundle: Path, rewrite_manifest, content: bytes | str) -> None:
    path = digits_bundle / "golden.npz"
    if isinstance(content, str):
        with np.load(path) as archive:
            arrays = dict(archive)
        np.savez(path, **{name: array[:0] if content == "rows" else np.float32(1) for name, array in arrays.items()})
    else:
        path.write_bytes(content)
    data = path.read_bytes()
    rewrite_manifest(digits_bundle, lambda values: values["golden"].update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(BundleError, match=r"golden\.npz"):
        Golden.open(Bundle.open(digits_bundle))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_compressed_in_another_way_is_refused(digits_bundle: Path, tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "digits.zip", "w", compression) as archive:
        for path in digits_bundle.iterdir():
            archive.write(path, path.name)
    with pytest.raises(BundleError, match="compressed in a way that no bundle is"):
        Bundle.open(tmp_path / "digits.zip")


def test_no_message_sends_control_characters_to_a_terminal(digits_bundle: Path) -> None:
    (digits_bundle / "\x1b[2Jmore").write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        Bundle.open(digits_bundle)
    assert "\x1b" not in str(caught.value)
