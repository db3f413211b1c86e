"""Options that several commands share, and how their texts are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Item = TypeVar("Item")


def _writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from lepton_edge.report.file import check_writable

    if value and value != "-":
        check_writable(Path(value), option="--json")
    return value


json_option = click.option(
    "--json",
    "json_path",
    metavar="PATH",
    callback=_writable,
    help="Also write the result as one JSON document; '-' writes it to stdout instead of the table.",
)


def comma_list(read: Callable[[str], Item]) -> Callable[[click.Context, click.Parameter, Any], tuple[Item, ...]]:
    """A callback for an option that takes ``a,b`` and may be repeated."""

    def callback(context: click.Context, parameter: click.Parameter, values: Any) -> tuple[Item, ...]:
        texts = values if isinstance(values, tuple) else (values,) if values else ()
        return tuple(read(part.strip()) for text in texts for part in text.split(","))

    return callback
