"""``lepton-edge install``."""

from pathlib import Path

import click

from lepton_edge.cli.options import trusted_keys_option


@click.command()
@click.argument("bundle", required=False)
@click.option(
    "--slot", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where the two slots are, and `current`."
)
@trusted_keys_option
@click.option(
    "--max-latency", "max_latency_ms", type=click.FloatRange(0, min_open=True), metavar="MS", help="Refuse what takes longer a call."
)
@click.option("--allow-downgrade", is_flag=True, help="Take a lower serial number than that in use, too.")
@click.option("--rollback", is_flag=True, help="Use the bundle before the last install again; without BUNDLE.")
def install(
    bundle: str | None, folder: Path, trusted_keys: Path | None, max_latency_ms: float | None, allow_downgrade: bool, rollback: bool
) -> None:
    """Update a device to BUNDLE: copy it into the slot that is not in use, try it there, and only then use it.

    BUNDLE is a folder, a .zip, or the https:// address of a .zip; a download that was cut off goes on.
    DIR/current is a link to the slot in use, for Session.open. Its golden inputs must give the golden answers here; its serial number
    (export --serial) must not be lower than that in use. Whenever the power fails, DIR/current leads to a bundle that passed.
    """
    from lepton_edge.cli.progress import ending_as_ctrl_c
    from lepton_edge.download import is_address
    from lepton_edge.install import install as install_bundle
    from lepton_edge.install import roll_back
    from lepton_runtime.signature import TrustedKeys

    if rollback == (bundle is not None):
        raise click.UsageError(f"give one of BUNDLE and --rollback, found {'both' if rollback else 'none'}")
    if rollback and allow_downgrade:
        raise click.UsageError("--rollback goes back to a lower serial number by itself; leave --allow-downgrade out")
    trusted = None if trusted_keys is None else TrustedKeys.read(trusted_keys)
    with ending_as_ctrl_c():
        if bundle is None:
            found = roll_back(folder, trusted_keys=trusted, max_latency_ms=max_latency_ms)
        else:
            found = install_bundle(
                bundle if is_address(bundle) else Path(bundle),
                folder,
                trusted_keys=trusted,
                max_latency_ms=max_latency_ms,
                allow_downgrade=allow_downgrade,
                on_step=lambda step: click.echo(f"  {step}", err=True),
            )
    serial = "" if found.serial is None else f" with serial number {found.serial}"
    click.echo(f"{found.path} is slot {found.slot}{serial}: {found.file}, {found.latency_ms:.3g} ms a call", err=True)
