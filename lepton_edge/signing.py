"""Keys, and bundles that are signed with them."""

import os
from pathlib import Path
from typing import Any

from lepton_edge.report.file import write_bytes
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError, MissingExtraError, OutputError
from lepton_runtime.signature import PublicKey, read_public_key, signature_of, without_key

VARIABLE = "LEPTON_EDGE_KEY_PASSPHRASE"


def make_key(path: Path, *, comment: str, force: bool) -> PublicKey:
    """A new Ed25519 key, as ``ssh-keygen`` writes it: its private part at ``path``, for its owner alone, its public part in ``path.pub``.

    Raises:
        OutputError: One of the files is there, or cannot be written.
        MissingExtraError: ``cryptography`` is not installed.
    """
    public_path = path.with_name(f"{path.name}.pub")
    for place in (path, public_path):
        if place.exists() and not force:
            raise OutputError(f"the key {str(place)!r} exists; add --force to replace it, which makes it useless for what it has signed")
    ed25519, serialization = _import_cryptography()
    private = ed25519.Ed25519PrivateKey.generate()
    passphrase = os.environ.get(VARIABLE, "").encode()
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    content = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption)
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    umask = os.umask(0o077)
    try:
        write_bytes(content, path, option="keygen")
    finally:
        os.umask(umask)
    write_bytes(f"{line} {comment}\n".encode(), public_path, option="keygen")
    return read_public_key(line, name=path.name)


def sign(path: Path, key_path: Path) -> PublicKey:
    """Sign a bundle, beside the signatures that it has by other keys.

    Args:
        path: The bundle, whose files must all be whole.
        key_path: A private Ed25519 key of OpenSSH; the passphrase of an encrypted one is in ``LEPTON_EDGE_KEY_PASSPHRASE``.

    Raises:
        BundleError: The bundle is damaged.
        InputError: The key cannot be read, or is of another kind.
        OutputError: The signature cannot be written.
        MissingExtraError: ``cryptography`` is not installed.
    """
    from lepton_converters.bundle_writer import add_signature

    private, public = _read_private(key_path)
    bundle = Bundle.open(path)
    bundle.check()
    data = bundle.read_manifest()
    signatures = bundle.read_signatures()
    others = b"" if signatures is None else without_key(signatures, public)
    add_signature(path, others + signature_of(data, public, private.sign))
    return public


def _read_private(path: Path) -> tuple[Any, PublicKey]:  # Any: a key of an optional package
    ed25519, serialization = _import_cryptography()
    from cryptography import exceptions

    passphrase = os.environ.get(VARIABLE)
    try:
        content = path.read_bytes()
        private = serialization.load_ssh_private_key(content, passphrase.encode() if passphrase else None)
    except OSError as error:
        raise InputError(f"--key must be a file that can be read, {str(path)!r} cannot: {error.strerror}") from error
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:  # of which the text may say what is in the file
        raise InputError(
            f"--key must be a private key of OpenSSH, and {VARIABLE} its passphrase if it has one, {str(path)!r} cannot be read so"
        ) from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise InputError(f"--key must be an Ed25519 key, {str(path)!r} is of another kind; keygen makes one")
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return private, read_public_key(line, name=path.name)


def _import_cryptography() -> tuple[Any, Any]:  # Any: modules of an optional package
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtraError('signing needs the package cryptography: pip install "lepton-edge[sign]"') from None
    return ed25519, serialization
