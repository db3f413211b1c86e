"""Whether a bundle's artifacts answer on this machine as they did on export, each in a process of its own."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lepton_edge.latency.process import MeasuredProcess
from lepton_edge.latency.result import Candidate
from lepton_runtime.errors import LeptonError
from lepton_runtime.golden import golden_fault


@dataclass(frozen=True)
class Checked:
    """One artifact on one engine.

    Attributes:
        candidate: Which, on what.
        difference: The largest of its answers from the golden ones, as :meth:`lepton_runtime.golden.Golden.difference` has it;
            ``None`` if it gave none.
        limit: How far they may be off; ``None`` likewise.
        fault: Why it is not right, in words; empty if it is.
    """

    candidate: Candidate
    difference: float | None
    limit: float | None
    fault: str


def selfcheck(candidates: Sequence[Candidate], *, on_progress: Callable[[float, str], None] = lambda done, text: None) -> list[Checked]:
    """Run the golden inputs through each; one that crashes, or hangs, is not right.

    Args:
        candidates: What to check.
        on_progress: Told the share that is done, and what is checked.
    """
    found = []
    for number, candidate in enumerate(candidates):
        on_progress(number / len(candidates), f"{candidate.file} on {candidate.engine}")
        try:
            with ExitStack() as stack:
                answer = MeasuredProcess(candidate, stack).ask("golden")
            found.append(Checked(candidate, **answer, fault=golden_fault(**answer)))
        except LeptonError as error:
            found.append(Checked(candidate, None, None, str(error)))
    return found
