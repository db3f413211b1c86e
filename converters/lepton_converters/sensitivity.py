"""What each block of a network costs in 8 bits."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lepton_converters.candidate import Candidate, Comparison
from lepton_converters.divergence import standard_error
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.manifest import BlockRecord


def measure_blocks(candidate: Candidate, comparison: Comparison, *, on_progress: Callable[[str], None]) -> list[BlockRecord]:
    """What each block costs: alone in 8 bits, with those before it in 8 bits, and alone in float.

    The doors are float32, so that a block at one of them can be in float. A block of which one of these cannot be made, or
    has answers that are no numbers, is left out.
    """
    candidate = replace(candidate, io="float")
    names = [block.name for block in candidate.graph.blocks]
    plain = comparison.error(candidate.artifact(frozenset()))
    records = []
    for number, name in enumerate(names):
        on_progress(f"block {number + 1} of {len(names)}")
        kept = (frozenset(names) - {name}, frozenset(names[number + 1 :]), frozenset({name}))
        try:
            artifacts = [candidate.artifact(in_float) for in_float in kept]
        except UnsupportedError as error:
            on_progress(f"{name} stays in 8 bits: {error}")
            continue
        (alone, drop), (cumulative, _), (without, _) = map(comparison.measure, artifacts)
        saved = plain - without
        found = BlockRecord(name, float(alone.mean()), float(cumulative.mean()), float(saved.mean()), drop)
        if not np.isfinite([found.alone, found.cumulative, found.saved]).all():
            on_progress(f"{name} stays in 8 bits: its answers are no numbers")
            continue
        records.append(replace(found, saved_error=standard_error(saved) if len(saved) > 1 else None))
    return records
