"""``lepton-edge keygen``, ``sign`` and ``verify``."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--comment", default="lepton-edge", show_default=True, help="What the public key says of itself.")
@click.option("--force", is_flag=True, help="Replace a key that is there.")
def keygen(path: Path, comment: str, force: bool) -> None:
    """Make a key to sign bundles with: the private part at PATH, the public part in PATH.pub, as ssh-keygen -t ed25519 does.

    A passphrase in LEPTON_EDGE_KEY_PASSPHRASE encrypts the private part.
    """
    from lepton_edge.signing import make_key

    key = make_key(path, comment=comment, force=force)
    click.echo(f"Wrote {path}, for you alone, and {path}.pub, for those who check: {key.fingerprint}.", err=True)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="A private Ed25519 key, of keygen or ssh-keygen.")
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE: its manifest, which has the checksums of all its files; beside signatures by other keys.

    The signature, manifest.sig, is one of OpenSSH in the namespace lepton-edge, which ssh-keygen -Y verify checks, too.
    """
    from lepton_edge.signing import sign as sign_bundle

    public = sign_bundle(bundle, key)
    click.echo(f"Signed {bundle} with {public.fingerprint}.", err=True)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--trusted-keys",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with public keys, *.pub, and `revoked`, a list of those, or of their fingerprints, that are not trusted any more.",
)
def verify(bundle: Path, trusted_keys: Path) -> None:
    """Check that a trusted key signed BUNDLE, and that every file is as it was then."""
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.signature import TrustedKeys

    opened = Bundle.open(bundle)
    key = TrustedKeys.read(trusted_keys).check_bundle(opened)
    opened.check()
    click.echo(f"{bundle} is signed with {key.name}, {key.fingerprint}; all {len(opened.manifest.files)} files are as they were then")
