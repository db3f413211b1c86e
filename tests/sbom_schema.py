"""CycloneDX' own schema, for the bills of materials that we write."""

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def faults_of(content: bytes) -> list[str]:
    """What is wrong with a bill of materials; empty for one that keeps to version 1.6."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode(), all_errors=True)
    return [repr(error) for error in found or ()]
