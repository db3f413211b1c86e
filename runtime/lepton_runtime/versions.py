"""Which versions of packages are installed."""

from collections.abc import Iterable


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed; ``tensorflow-cpu`` counts as ``tensorflow``."""
    from importlib.metadata import PackageNotFoundError, version  # only a workstation asks

    versions = {}
    for name in names:
        for distribution in (name, f"{name}-cpu"):
            try:
                versions[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return versions
