"""What a bundle is made of, and by what, for tools that look for known faults: CycloneDX 1.6.

Source: https://cyclonedx.org/docs/1.6/json, and "Machine Learning Bill of Materials" there.
"""

import hashlib
import json
import uuid
from typing import Any

from lepton_runtime.manifest import ArtifactRecord, FileRecord, Manifest

BILL_FILE = "sbom.cdx.json"


def bill_of_materials(manifest: Manifest) -> bytes:
    """The content of ``sbom.cdx.json``: the source model, each file, the packages that made them; the same bytes for the same manifest."""
    source, versions = manifest.source, dict(manifest.versions)
    name = source["file"] or "a model given in memory"
    model: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": "source", "name": name}
    if source["sha256"]:
        model["hashes"] = [_sha256(source["sha256"])]
    if manifest.license:
        model["licenses"] = [{"license": {"name": manifest.license}}]
    components = [_component(record) for record in manifest.files]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(components)}",
        "version": 1,
        "metadata": {"tools": {"components": [_package(*entry) for entry in sorted(versions.items())]}, "component": model},
        "components": components,
        "dependencies": [{"ref": "source", "dependsOn": [component["bom-ref"] for component in components]}],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _component(record: FileRecord) -> dict[str, Any]:
    kind = "machine-learning-model" if isinstance(record, ArtifactRecord) else "data"
    component: dict[str, Any] = {"type": kind, "bom-ref": record.file, "name": record.file, "hashes": [_sha256(record.sha256)]}
    if isinstance(record, ArtifactRecord):
        component["properties"] = [
            {"name": f"lepton-edge:{key}", "value": str(value)}
            for key, value in (("format", record.format), ("precision", record.precision), *sorted(record.requires.items()))
        ]
    return component


def _package(name: str, version: str) -> dict[str, Any]:
    reference = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _serial(components: list[dict[str, Any]]) -> uuid.UUID:
    """A number that is another for other files."""
    digest = hashlib.sha256(json.dumps(components).encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)
