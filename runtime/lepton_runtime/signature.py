"""Who made a bundle: signatures of its manifest, in the form of OpenSSH, and the keys that are trusted."""

import base64
import binascii
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton_runtime.bundle import SIGNATURE_FILE, Bundle
from lepton_runtime.errors import InputError, MissingExtraError, SignatureError

NAMESPACE = "lepton-edge"
REVOKED_FILE = "revoked"
_KEY_TYPE = b"ssh-ed25519"
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = 70
_MAGIC, _VERSION, _HASH = b"SSHSIG", 1, b"sha512"
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key that signatures are checked with.

    Attributes:
        raw: Its 32 bytes.
        name: What the file that holds it is called, or its fingerprint.
    """

    raw: bytes
    name: str

    @property
    def blob(self) -> bytes:
        """The key as OpenSSH writes it. Source: RFC 8709, section 4."""
        return _string(_KEY_TYPE) + _string(self.raw)

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class TrustedKeys:
    """The keys that bundles may be signed with.

    Attributes:
        keys: By their 32 bytes.
        revoked: Fingerprints of keys that are not trusted any more, whatever else says so.
    """

    keys: Mapping[bytes, PublicKey]
    revoked: frozenset[str]

    @classmethod
    def read(cls, folder: str | Path) -> "TrustedKeys":
        """The keys in a folder: files ``*.pub`` as ``ssh-keygen`` writes them, and ``revoked``, keys or fingerprints, one a line.

        Raises:
            InputError: There is no key, or a line is none.
        """
        folder = Path(folder)
        keys: dict[bytes, PublicKey] = {}
        revoked: list[str] = []
        try:
            for path in sorted(folder.glob("*.pub")):
                for line in _lines(path):
                    key = read_public_key(line, name=path.stem)
                    keys[key.raw] = key
            path = folder / REVOKED_FILE
            if os.path.lexists(path):  # a link that leads nowhere is an error
                revoked = [_fingerprint(line) for line in _lines(path)]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"trusted keys must be in files that can be read, {str(folder)!r} cannot: {error}") from error
        if not keys:
            raise InputError(f"a folder with at least one public key, NAME.pub, is needed, {str(folder)!r} has none; keygen makes one")
        return cls(keys, frozenset(revoked))

    def check_bundle(self, bundle: Bundle) -> PublicKey:
        """The trusted key that signed a bundle: its manifest, which has the digests of all files.

        Raises:
            SignatureError: It is not signed, or not with a trusted key, or was changed after it was.
            MissingExtraError: ``cryptography`` is not installed.
        """
        signatures = bundle.read_signatures()
        if signatures is None:
            raise SignatureError(f"{str(bundle.path)!r} must be signed with a trusted key, it is not signed; get it from who signs it")
        return self.check(bundle.read_manifest(), signatures)

    def check(self, data: bytes, signatures: bytes) -> PublicKey:
        """The key that signed.

        Args:
            data: What was signed: the bytes of a manifest.
            signatures: The content of ``manifest.sig``: one signature or several, each by another key.

        Raises:
            SignatureError: No trusted key signed these bytes; the text says which keys signed what.
            MissingExtraError: ``cryptography`` is not installed.
        """
        reasons = []
        for signature in _signatures(signatures):
            key = self.keys.get(signature.key.raw)
            if signature.key.fingerprint in self.revoked:
                reasons.append(f"{signature.key.fingerprint}, which is revoked")
            elif key is None:
                reasons.append(f"{signature.key.fingerprint}, which is not among the trusted ones")
            elif not signature.is_of(data):
                reasons.append(f"{key.name}, but changed since")
            else:
                return key
        known = ", ".join(sorted(key.name for key in self.keys.values()))
        found = "; ".join(reasons) or "no key of Ed25519"
        raise SignatureError(f"a bundle must be signed with a trusted key ({known}), this one is signed with {found}")


@dataclass(frozen=True)
class _Signature:
    """One signature. Source: OpenSSH, PROTOCOL.sshsig.

    Attributes:
        text: As it stands in the file.
        key: That signed, as it says.
        namespace: What for.
        hash_name: Of the hash that is signed.
        value: 64 bytes.
    """

    text: bytes
    key: PublicKey
    namespace: bytes
    hash_name: bytes
    value: bytes

    def is_of(self, data: bytes) -> bool:
        """Whether it is a signature of these bytes, for this purpose."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError:
            raise MissingExtraError('signatures need the package cryptography: pip install "lepton-edge[sign]"') from None
        if self.namespace != NAMESPACE.encode() or self.hash_name not in _HASHES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.key.raw).verify(self.value, _signed(data, self.hash_name))
        except (InvalidSignature, ValueError):
            return False
        return True


def signature_of(data: bytes, key: PublicKey, sign: Callable[[bytes], bytes]) -> bytes:
    """A signature as a text, which ``ssh-keygen -Y verify -n lepton-edge`` checks, too.

    Args:
        data: What is signed.
        key: The public part of the key.
        sign: Signs bytes with the private part.
    """
    value = _string(_KEY_TYPE) + _string(sign(_signed(data, _HASH)))
    parts = (key.blob, NAMESPACE.encode(), b"", _HASH, value)
    encoded = base64.b64encode(_MAGIC + struct.pack(">I", _VERSION) + b"".join(map(_string, parts))).decode()
    return _armored(encoded)


def signers(signatures: bytes) -> tuple[PublicKey, ...]:
    """The Ed25519 keys that say to have signed; nothing is checked.

    Raises:
        SignatureError: It is no such file.
    """
    return tuple(signature.key for signature in _signatures(signatures))


def without_key(signatures: bytes, key: PublicKey) -> bytes:
    """The Ed25519 signatures that are by other keys.

    Raises:
        SignatureError: It is no such file.
    """
    return b"".join(signature.text for signature in _signatures(signatures) if signature.key.raw != key.raw)


def _fingerprint(line: str) -> str:
    """Of a revoked key: as it stands there, or of the key that stands there."""
    first = line.split()[0]
    if _FINGERPRINT.fullmatch(first):
        return first.rstrip("=")
    if line.startswith(_KEY_TYPE.decode()):
        return read_public_key(line, name=REVOKED_FILE).fingerprint
    raise InputError(f"a line of {REVOKED_FILE!r} is a public key, or its fingerprint, SHA256: and 43 letters, found {line[:80]!r}")


def read_public_key(line: str, *, name: str) -> PublicKey:
    """The key in a line of OpenSSH: ``ssh-ed25519``, the key in base 64, a comment.

    Raises:
        InputError: It is none, or of another kind.
    """
    kind, _, rest = line.partition(" ")
    if kind != _KEY_TYPE.decode():
        raise InputError(f"a public key is a line that begins with ssh-ed25519, found {kind[:40]!r} in {name!r}; keygen makes such keys")
    try:
        return _public_key(base64.b64decode(rest.split()[0], validate=True), name)
    except (binascii.Error, IndexError, ValueError, struct.error) as error:
        raise InputError(f"{name!r} must hold a whole public key, found a damaged one") from error


def _public_key(blob: bytes, name: str) -> PublicKey:
    kind, raw = _strings(blob)
    if kind != _KEY_TYPE or len(raw) != 32:
        raise ValueError("it is no Ed25519 key")
    return PublicKey(raw, name)


def _signatures(text: bytes) -> Iterator[_Signature]:
    """Each signature of a file.

    Raises:
        SignatureError: There is none, or one is damaged.
    """
    parts = text.decode("ascii", "replace").split(_BEGIN)
    if len(parts) < 2 or parts[0].strip():
        raise SignatureError(f"{SIGNATURE_FILE} must hold signatures of OpenSSH, found none; sign the bundle again")
    for part in parts[1:]:
        encoded, end, rest = part.partition(_END)
        try:
            if not end or rest.strip():
                raise ValueError("it breaks off")
            signature = _signature("".join(encoded.split()))
        except (ValueError, struct.error) as error:  # base64's own error is a ValueError
            raise SignatureError(f"{SIGNATURE_FILE} must hold whole signatures, found a damaged one: {error}; sign it again") from error
        if signature is not None:
            yield signature


def _signature(encoded: str) -> _Signature | None:
    """``None`` for one by a key of another kind, which is not looked at."""
    blob = base64.b64decode(encoded, validate=True)
    if blob[:6] != _MAGIC or struct.unpack(">I", blob[6:10])[0] != _VERSION:
        raise ValueError("it is of another kind")
    key, namespace, _, hash_name, value = _strings(blob[10:])
    if _strings(key)[:1] != [_KEY_TYPE]:
        return None
    kind, signature = _strings(value)
    if kind != _KEY_TYPE:
        raise ValueError("it is by another key than it says")
    public = _public_key(key, "")
    return _Signature(_armored(encoded), PublicKey(public.raw, public.fingerprint), namespace, hash_name, signature)


def _armored(encoded: str) -> bytes:
    lines = [encoded[start : start + _LINE] for start in range(0, len(encoded), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def _signed(data: bytes, hash_name: bytes) -> bytes:
    """The bytes that the key signs."""
    digest = _HASHES[hash_name](data).digest()
    return _MAGIC + b"".join(map(_string, (NAMESPACE.encode(), b"", hash_name, digest)))


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _strings(data: bytes) -> list[bytes]:
    """All of a message of strings, each behind its length."""
    found, place = [], 0
    while place < len(data):
        length = struct.unpack_from(">I", data, place)[0]
        place += 4
        if place + length > len(data):
            raise ValueError("it breaks off")
        found.append(data[place : place + length])
        place += length
    return found


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")]
