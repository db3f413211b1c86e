"""One HTML file from a template: no network, no script, and no id twice."""

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from lepton_runtime.errors import MissingExtraError


def render_page(template: str, values: Mapping[str, Any]) -> str:  # Any: what the template shows
    """The page that a template of this package makes of values; ``svg(chart)`` in it places one of our own charts.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError('drawing a report needs matplotlib and Jinja: pip install "lepton-edge[report]"') from None
    environment = Environment(
        loader=PackageLoader("lepton_edge.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = count(1)

    def place(chart: str) -> Markup:
        """One of our own charts, whose texts matplotlib has escaped, with ids that no other on the page has."""
        return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>chart-{next(numbers)}-", chart))  # noqa: S704  # no text of a user is in it that is not escaped

    environment.globals["svg"] = place
    return environment.get_template(template).render(values)
