"""Writes ``lepton-edge.cdx.json``, the bill of materials that the wheel carries: ``python docs/make_sbom.py``.

It lists what an installation brings along, each extra's packages and theirs, in the versions that are installed where this runs: those of
``constraints.txt`` after ``pip install -c constraints.txt -e ".[dev]"``. Source: PEP 770; https://cyclonedx.org/docs/1.6/json.
"""

import json
import tomllib
import uuid
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = "lepton-edge"
LEFT_OUT = ("dev", "examples")  # nobody needs them who has the wheel


def wanted(text: str, extras: tuple[str, ...] = ("",)) -> Requirement | None:
    """A requirement, if it holds on this machine with one of the extras."""
    requirement = Requirement(text)
    holds = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
    return requirement if holds else None


def add(requirement: Requirement, found: dict[str, dict[str, Any]], *, scope: str) -> str | None:
    """Add a package and all that it requires; gives its reference, or ``None`` if it is not installed."""
    name = canonicalize_name(requirement.name)
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return None
    reference = f"pkg:pypi/{name}@{package.version}"
    known = found.get(name)
    if known is not None and (known["scope"] == "required" or scope == "optional"):
        return reference
    entry = {"type": "library", "bom-ref": reference, "name": name, "version": package.version, "scope": scope, "purl": reference}
    found[name] = entry
    inner = [wanted(text, ("", *requirement.extras)) for text in package.requires or ()]
    entry["needs"] = sorted(filter(None, (add(part, found, scope=scope) for part in inner if part)))
    return reference


def main() -> None:
    """Write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, dict[str, Any]] = {}
    extras = [text for extra, texts in project["optional-dependencies"].items() if extra not in LEFT_OUT for text in texts]
    direct = []
    for scope, texts in (("required", project["dependencies"]), ("optional", extras)):
        parts = [wanted(text) for text in texts]
        direct += [add(part, found, scope=scope) for part in parts if part and canonicalize_name(part.name) != OURS]
    components = [found[name] for name in sorted(found)]
    ours = f"pkg:pypi/{OURS}@{project['version']}"
    dependencies = [{"ref": ours, "dependsOn": sorted(set(filter(None, direct)))}]
    dependencies += [{"ref": entry["bom-ref"], "dependsOn": entry.pop("needs")} for entry in components]
    about = {"bom-ref": ours, "name": OURS, "version": project["version"], "purl": ours}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}",
        "version": 1,
        "metadata": {"component": {"type": "application", **about, "licenses": [{"license": {"id": project["license"]}}]}},
        "components": components,
        "dependencies": dependencies,
    }
    (ROOT / "docs" / "lepton-edge.cdx.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
