"""Results that are kept while a long run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def continued(path: Path, conditions: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """What a run that was stopped has found, or the beginning of one.

    Args:
        path: Where it is kept.
        conditions: The machine, the versions and the settings: results of others are no part of the same page.
        parts: What results have besides, each a mapping.

    Raises:
        SystemExit: The results are of other conditions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**conditions, **{part: {} for part in parts}}
    given = json.loads(json.dumps(conditions))
    if others := {name: results.get(name) for name in given if results.get(name) != given[name]}:
        raise SystemExit(f"{path} must be of this machine, these versions and settings, found {others}; move it away")
    return results


def days(dates: list[str]) -> str:
    """The day, or the first and the last, on which results were found."""
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"
