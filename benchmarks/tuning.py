"""How often ``tune`` finds the fastest variant: many runs of it, each held against longer measurements of all that came near.

python benchmarks/tuning.py BUNDLE [REPEATS] [--under-load]

A longer measurement, in turns, in six sets of fresh processes, precedes each run and another follows it; what is right is held
against their mean. Where it is right by one of the two only, the shared machine became another meanwhile, most often a core of it:
such runs are marked, and are among all that are counted; the others are counted once more by themselves.
"""

from __future__ import annotations

import math
import statistics
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from lepton_edge.cli.tune import allowed_records, choose_variants
from lepton_edge.device import PACKAGES, read_device
from lepton_edge.latency.result import Candidate
from lepton_edge.tune import WITHIN, Tuning, _BusyCore, _Entry, _one_stage, tune
from lepton_runtime import Bundle
from lepton_runtime.versions import installed_versions

STAGES = 6
NEAR = 1.5  # times the fastest


def long_measurement(candidates: list[Candidate]) -> dict[Candidate, float]:
    """The median of each one's processes, in nanoseconds."""
    entries = [_Entry(candidate) for candidate in candidates]
    for _ in range(STAGES):
        _one_stage(entries, until=monotonic() + 1e6)
    return {entry.candidate: math.exp(statistics.median(entry.logs)) for entry in entries}


def main(path: str, repeats: int, *, under_load: bool) -> None:
    """Print one line a run, and how many were right."""
    bundle = Bundle.open(Path(path))
    candidates = choose_variants(bundle, allowed_records(bundle, (), None))
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    print(f"{len(candidates)} variants of {len(bundle.manifest.artifacts)} artifacts{', beside a busy core' if under_load else ''}")

    def measure_near() -> dict[Candidate, float]:
        with _BusyCore() if under_load else nullcontext():
            return long_measurement(sorted(near, key=str))

    near = near_ones(tune(candidates, under_load=under_load))
    before = measure_near()
    right, steady, longest = [], [], 0.0
    for _ in range(repeats):
        tuning = tune(candidates, under_load=under_load)
        near |= near_ones(tuning)
        after = measure_near()
        best = tuning.best.candidate
        mean = {one: math.sqrt(before.get(one, time) * time) for one, time in after.items()}
        ratio, ratio_before, ratio_after = (times.get(best, math.inf) / min(times.values()) for times in (mean, before, after))
        right.append(ratio <= 1 + WITHIN)
        steady.append(best not in before or (ratio_before <= 1 + WITHIN) == (ratio_after <= 1 + WITHIN))
        longest = max(longest, tuning.seconds)
        chosen = f"{best.file} on {best.engine}, {best.threads} thread{'s' if best.threads > 1 else ''}{'' if best.spins else ' asleep'}"
        reached = f"confidence {tuning.confidence:.3f}, {ratio:.3f} of the fastest of {len(near)}"
        changed = "" if steady[-1] else f"; the machine changed: {ratio_before:.3f} before, {ratio_after:.3f} after"
        print(f"{tuning.seconds:5.1f} s  {chosen}, {reached}{changed}", flush=True)
        before = after
    print(f"{sum(right)} of {repeats} runs chose the fastest or one within {100 * WITHIN:.0f} %; longest run {longest:.0f} s")
    print(f"of the {sum(steady)} runs during which the machine stayed as it was, {sum(r for r, s in zip(right, steady, strict=True) if s)}")


def near_ones(tuning: Tuning) -> set[Candidate]:
    """What came near the fastest, and that itself."""
    return {one.candidate for one in tuning.tried if one.ratio is not None and one.ratio < NEAR} | {tuning.best.candidate}


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(words[0], int(words[1]) if len(words) > 1 else 20, under_load="--under-load" in sys.argv)
