"""Whether a model answers on this machine as it did when it was exported, and what does in its place."""

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import BundleError, LeptonError, SelfcheckWarning
from lepton_runtime.golden import Answering, Golden, golden_fault, golden_limit

Opened = TypeVar("Opened", bound=Answering)


def open_right(bundle: Bundle, openers: Iterable[tuple[str, Callable[[], Opened]]]) -> Opened:
    """What the first opener gives whose golden answers are right here; a :class:`SelfcheckWarning` says if it is not the first.

    Args:
        bundle: With the golden arrays.
        openers: What each opens, in words, and how; each is opened only if none before it is right.

    Raises:
        BundleError: None is right, or the golden arrays are damaged.
    """
    golden = Golden.open(bundle)
    faults: list[str] = []
    for name, opener in openers:
        try:
            opened = opener()
        except BundleError as error:
            faults.append(f"{name} is not right on this machine: {error}")
            continue
        fault = _fault(golden, opened)
        if not fault:
            if faults:
                warnings.warn(f"{name} is opened, since {'; '.join(faults)}", SelfcheckWarning, stacklevel=3)
            return opened
        faults.append(f"{name} is not right on this machine: {fault}")
    raise BundleError(f"an artifact of {str(bundle.path)!r} must give its golden answers on this machine, none does: {'; '.join(faults)}")


def _fault(golden: Golden, opened: Answering) -> str:
    try:
        return golden_fault(golden.difference(opened), golden_limit(opened.artifact))
    except LeptonError as error:  # it fails on these values
        return str(error)
