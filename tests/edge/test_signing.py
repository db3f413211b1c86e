"""Bundles that are signed, and keys that are trusted."""

import base64
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lepton_edge.digits import shipped_bundle
from lepton_edge.signing import VARIABLE, make_key, sign
from lepton_runtime import Bundle, BundleError, InputError, OutputError, Session, SignatureError
from lepton_runtime.signature import TrustedKeys, read_public_key, signers

pytest.importorskip("cryptography", reason="needs the [sign] extra")
needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Two keys, of which the folder ``trusted`` has the first."""
    (tmp_path / "trusted").mkdir()
    for name in ("ours", "theirs"):
        make_key(tmp_path / name, comment=name, force=False)
    shutil.copy(tmp_path / "ours.pub", tmp_path / "trusted")
    return tmp_path


def test_a_signed_bundle_opens_and_says_who_signed_it(lepton_edge, digits_bundle: Path, keys: Path) -> None:
    assert "Signed" in lepton_edge("sign", digits_bundle, "--key", keys / "ours").err
    outcome = lepton_edge("verify", digits_bundle, "--trusted-keys", keys / "trusted")
    assert outcome.code == 0
    key = read_public_key((keys / "ours.pub").read_text(), name="ours")
    assert f"is signed with ours, {key.fingerprint}; all 3 files are as they were then" in outcome.out.replace("\n", " ")
    with Session.open(digits_bundle, trusted_keys=keys / "trusted") as session:
        assert session.artifact.precision == "fp32"
    assert Session.open(digits_bundle).artifact.precision == "fp32"  # who asks for no key, gets none checked


def test_run_and_serve_refuse_what_no_trusted_key_signed(lepton_edge, digits_bundle: Path, keys: Path, digits) -> None:
    from PIL import Image

    Image.fromarray(digits.test_images[0]).save(keys / "digit.png")
    trusted = ("--trusted-keys", keys / "trusted")
    lepton_edge("run", digits_bundle, keys / "digit.png", *trusted).refused(1, because="it is not signed")
    lepton_edge("serve", digits_bundle, "--port", 0, *trusted).refused(1, because="it is not signed")
    key = sign(digits_bundle, keys / "ours")
    assert lepton_edge("run", digits_bundle, keys / "digit.png", *trusted).code == 0
    assert f"signed         with {key.fingerprint}, which verify checks" in lepton_edge("inspect", digits_bundle).out


def test_a_bundle_that_is_not_signed_is_refused(lepton_edge, digits_bundle: Path, keys: Path) -> None:
    lepton_edge("verify", digits_bundle, "--trusted-keys", keys / "trusted").refused(1, because="must be signed .* it is not signed")
    with pytest.raises(SignatureError, match="it is not signed"):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")


def test_another_key_is_refused_by_its_fingerprint(digits_bundle: Path, keys: Path) -> None:
    key = sign(digits_bundle, keys / "theirs")
    with pytest.raises(SignatureError, match="which is not among the trusted ones") as caught:
        Session.open(digits_bundle, trusted_keys=keys / "trusted")
    assert key.fingerprint in str(caught.value)


def test_a_changed_byte_with_the_right_checksums_is_refused(digits_bundle: Path, keys: Path, rewrite_manifest) -> None:
    sign(digits_bundle, keys / "ours")
    rewrite_manifest(digits_bundle, lambda values: values.update(license="MIT"))
    Bundle.open(digits_bundle).check()
    with pytest.raises(SignatureError, match="signed with ours, but changed since"):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")


def test_a_signature_for_another_purpose_is_none(digits_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_runtime.signature.NAMESPACE", "file")
    sign(digits_bundle, keys / "ours")
    monkeypatch.undo()
    with pytest.raises(SignatureError, match="signed with ours, but changed since"):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")


def test_a_revoked_key_is_refused_by_line_and_by_fingerprint(digits_bundle: Path, keys: Path) -> None:
    key = sign(digits_bundle, keys / "ours")
    for line in (key.fingerprint, (keys / "ours.pub").read_text(), f"{key.fingerprint}  # lost"):
        (keys / "trusted" / "revoked").write_text(f"# since March\n{line}\n")
        with pytest.raises(SignatureError, match="which is revoked"):
            Session.open(digits_bundle, trusted_keys=keys / "trusted")


def test_a_bundle_may_be_signed_by_the_old_key_and_the_new_one(digits_bundle: Path, keys: Path) -> None:
    old, new = sign(digits_bundle, keys / "ours"), sign(digits_bundle, keys / "theirs")
    sign(digits_bundle, keys / "theirs")  # once more, which changes nothing
    assert [key.raw for key in signers((digits_bundle / "manifest.sig").read_bytes())] == [old.raw, new.raw]
    for name in ("ours", "theirs"):
        (keys / name).with_suffix(".trusted").mkdir()
        shutil.copy(keys / f"{name}.pub", keys / f"{name}.trusted")
        assert TrustedKeys.read(keys / f"{name}.trusted").check_bundle(Bundle.open(digits_bundle)).name == name


def test_a_zip_is_signed_like_a_folder(digits_bundle: Path, keys: Path) -> None:
    path = digits_bundle.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in digits_bundle.iterdir():
            archive.write(file, file.name)
    sign(path, keys / "ours")
    with Session.open(path, trusted_keys=keys / "trusted") as session:
        assert session.bundle.read_signatures()
    assert list(path.parent.glob(".*")) == []


@needs_ssh_keygen
def test_openssh_checks_our_signature_and_we_check_its(digits_bundle: Path, keys: Path) -> None:
    sign(digits_bundle, keys / "ours")
    (keys / "signers").write_text(f"me@example.org {(keys / 'ours.pub').read_text()}")
    checked = ["ssh-keygen", "-Y", "verify", "-f", keys / "signers", "-I", "me@example.org", "-n", "lepton-edge", "-s", "manifest.sig"]
    manifest = (digits_bundle / "manifest.json").read_bytes()
    done = subprocess.run(checked, input=manifest, cwd=digits_bundle, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run(checked, input=manifest + b" ", cwd=digits_bundle, capture_output=True, check=False).returncode != 0

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "made"], check=True)
    shutil.copy(keys / "made.pub", keys / "trusted")
    (digits_bundle / "manifest.sig").unlink()
    for hash_name in ("sha256", "sha512"):
        signed = ["ssh-keygen", "-Y", "sign", "-O", f"hashalg={hash_name}", "-f", keys / "made", "-n", "lepton-edge"]
        made = subprocess.run(signed, input=manifest, capture_output=True, check=True)
        (digits_bundle / "manifest.sig").write_bytes(made.stdout)
        assert TrustedKeys.read(keys / "trusted").check_bundle(Bundle.open(digits_bundle)).name == "made"


@needs_ssh_keygen
def test_a_key_of_openssh_signs_also_with_a_passphrase(digits_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", keys / "made"], check=True)
    with pytest.raises(InputError, match=f"and {VARIABLE} its passphrase if it has one"):
        sign(digits_bundle, keys / "made")
    monkeypatch.setenv(VARIABLE, "open sesame")
    shutil.copy(keys / "made.pub", keys / "trusted")
    sign(digits_bundle, keys / "made")
    assert TrustedKeys.read(keys / "trusted").check_bundle(Bundle.open(digits_bundle)).name == "made"
    make_key(keys / "ciphered", comment="", force=False)
    assert subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", keys / "ciphered"], capture_output=True, check=False).returncode != 0


def test_a_private_key_is_for_its_owner_and_is_not_replaced(lepton_edge, keys: Path) -> None:
    assert (keys / "ours").stat().st_mode & 0o777 == 0o600
    before = (keys / "ours").read_bytes()
    lepton_edge("keygen", keys / "ours").refused(1, because="exists; add --force to replace it")
    assert (keys / "ours").read_bytes() == before
    assert lepton_edge("keygen", keys / "ours", "--force").code == 0
    assert (keys / "ours").read_bytes() != before


def test_no_message_shows_a_private_key(lepton_edge, digits_bundle: Path, keys: Path) -> None:
    secret = base64.b64encode(b"secret" * 40).decode()
    (keys / "broken").write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}\n-----END OPENSSH PRIVATE KEY-----\n")
    for key in ("ours", "broken", "ours.pub"):
        outcome = lepton_edge("sign", digits_bundle, "--key", keys / key)
        content = (keys / key).read_text()
        assert not any(line in outcome.err + outcome.out for line in content.splitlines()[1:-1] if len(line) > 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold signatures of OpenSSH, found none"),
        (b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n", "a damaged one: it breaks off"),
        (b"-----BEGIN SSH SIGNATURE-----\n!\n-----END SSH SIGNATURE-----\n", "a damaged one"),
        (b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAA\n-----END SSH SIGNATURE-----\n", "a damaged one"),
        (b"\xff" * 100_000, "must hold signatures of OpenSSH, found none"),
    ],
)
def test_what_is_no_signature_is_refused(digits_bundle: Path, keys: Path, content: bytes, message: str) -> None:
    (digits_bundle / "manifest.sig").write_bytes(content)
    with pytest.raises(SignatureError, match=message):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_no_changed_signature_is_taken_for_a_good_one(digits_bundle: Path, keys: Path, position: int) -> None:
    sign(digits_bundle, keys / "ours")
    path = digits_bundle / "manifest.sig"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    trusted = TrustedKeys.read(keys / "trusted")
    try:
        key = trusted.check_bundle(Bundle.open(digits_bundle))
    except BundleError:
        return
    assert key.name == "ours"  # what base 64 leaves open, and OpenSSH does not look at


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("rsa.pub", "ssh-rsa AAAA me", "begins with ssh-ed25519, found 'ssh-rsa'"),
        ("cut.pub", "ssh-ed25519 AAAA me", "must hold a whole public key"),
        ("bare.pub", "ssh-ed25519", "must hold a whole public key"),
        ("revoked", "nonsense", "a line of 'revoked' is a public key, or its fingerprint"),
    ],
)
def test_a_line_that_is_no_key_is_named(keys: Path, name: str, line: str, message: str) -> None:
    (keys / "trusted" / name).write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        TrustedKeys.read(keys / "trusted")


def test_a_folder_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one public key"):
        TrustedKeys.read(tmp_path)


def test_a_damaged_bundle_is_not_signed(lepton_edge, digits_bundle: Path, keys: Path) -> None:
    (digits_bundle / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        sign(digits_bundle, keys / "ours")
    assert not (digits_bundle / "manifest.sig").exists()


def test_a_bundle_that_cannot_be_written_stays_as_it_was(digits_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device; it is as it was"):
        sign(digits_bundle, keys / "ours")
    Bundle.open(digits_bundle).check()
    assert list(digits_bundle.parent.glob(".*")) == []


def test_without_cryptography_the_extra_is_named(digits_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, lepton_edge) -> None:
    sign(digits_bundle, keys / "ours")
    for name in [name for name in sys.modules if name.startswith("cryptography")] + ["cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    for arguments in (("verify", digits_bundle, "--trusted-keys", keys / "trusted"), ("sign", digits_bundle, "--key", keys / "ours")):
        lepton_edge(*arguments).refused(1, because=r'pip install "lepton-edge\[sign\]"')


def test_the_shipped_bundle_stays_unsigned() -> None:
    assert Bundle.open(shipped_bundle()).read_signatures() is None


@pytest.mark.parametrize("line", ["SHA256: abc", "SHA256:", "{short}", "{lower}", "{more},x", "dangling"])
def test_a_revocation_that_is_misspelled_is_not_passed_over(digits_bundle: Path, keys: Path, line: str) -> None:
    key = sign(digits_bundle, keys / "ours")
    path = keys / "trusted" / "revoked"
    if line == "dangling":
        path.symlink_to(keys / "nowhere")
    else:
        path.write_text(line.format(short=key.fingerprint[:-1], lower=key.fingerprint.lower(), more=key.fingerprint) + "\n")
    with pytest.raises(InputError, match=r"a line of 'revoked' is|must be in files that can be read"):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")


@needs_ssh_keygen
def test_signatures_by_keys_of_other_kinds_are_passed_over(digits_bundle: Path, keys: Path) -> None:
    sign(digits_bundle, keys / "ours")
    path = digits_bundle / "manifest.sig"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", keys / "other"], check=True)
    signed = ["ssh-keygen", "-Y", "sign", "-f", keys / "other", "-n", "lepton-edge"]
    made = subprocess.run(signed, input=(digits_bundle / "manifest.json").read_bytes(), capture_output=True, check=True).stdout
    path.write_bytes(made + path.read_bytes().replace(b"\n", b"\r\n").rstrip())  # as an editor may leave it
    assert TrustedKeys.read(keys / "trusted").check_bundle(Bundle.open(digits_bundle)).name == "ours"
    sign(digits_bundle, keys / "theirs")
    assert len(signers(path.read_bytes())) == 2
    path.write_bytes(made)
    with pytest.raises(SignatureError, match="no key of Ed25519"):
        Session.open(digits_bundle, trusted_keys=keys / "trusted")
    with pytest.raises(InputError, match=r"must be an Ed25519 key|must be a private key of OpenSSH"):
        sign(digits_bundle, keys / "other")


def test_a_signature_reaches_the_bundle_that_a_link_leads_to(digits_bundle: Path, keys: Path) -> None:
    path = digits_bundle.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in digits_bundle.iterdir():
            archive.write(file, file.name)
    path.chmod(0o600)
    link = keys / "link.zip"
    link.symlink_to(path)
    sign(link, keys / "ours")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Bundle.open(path).read_signatures()


def test_nothing_but_the_manifest_is_read_of_a_bundle_that_no_trusted_key_signed(
    lepton_edge, digits_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(bundle: Bundle, record: object) -> bytes:
        raise AssertionError(record)

    monkeypatch.setattr(Bundle, "read", read)
    for command in (("run", digits_bundle, keys / "x.png"), ("serve", digits_bundle, "--port", 0)):
        lepton_edge(*command, "--trusted-keys", keys / "trusted").refused(1, because="it is not signed")
