"""``lepton-edge card``."""

import click


@click.command()
def card() -> None:
    """Print an empty model card, to be filled in and given to export --card."""
    from lepton_converters.model_card import TEMPLATE

    click.echo(TEMPLATE, nl=False)
