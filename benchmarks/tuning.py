"""How often ``tune`` finds the fastest variant: many runs of it, each held against a longer measurement of all that came near.

python benchmarks/tuning.py BUNDLE [REPEATS] [--under-load]

The longer measurement follows each run at once, in turns, in six sets of fresh processes: a core of a shared machine may be worth
less a minute later, and what is fastest then is another one.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from math import exp
from pathlib import Path
from time import monotonic

from lepton_edge.cli.tune import allowed_records, choose_variants
from lepton_edge.device import PACKAGES, read_device
from lepton_edge.latency.result import Candidate
from lepton_edge.tune import WITHIN, _BusyCore, _Entry, _one_stage, tune
from lepton_runtime import Bundle
from lepton_runtime.versions import installed_versions

STAGES = 6
NEAR = 1.5  # times the fastest


def long_measurement(candidates: list[Candidate]) -> dict[Candidate, float]:
    """The median of each one's processes, in nanoseconds."""
    entries = [_Entry(candidate) for candidate in candidates]
    for _ in range(STAGES):
        _one_stage(entries, until=monotonic() + 1e6)
    return {entry.candidate: exp(statistics.median(entry.logs)) for entry in entries}


def main(path: str, repeats: int, *, under_load: bool) -> None:
    """Print one line a run, and how many were right."""
    bundle = Bundle.open(Path(path))
    candidates = choose_variants(bundle, allowed_records(bundle, (), None))
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    print(f"{len(candidates)} variants of {len(bundle.manifest.artifacts)} artifacts{', beside a busy core' if under_load else ''}")
    right, longest = 0, 0.0
    for _ in range(repeats):
        tuning = tune(candidates, under_load=under_load)
        near = {one.candidate for one in tuning.tried if one.ratio is not None and one.ratio < NEAR} | {tuning.best.candidate}
        with _BusyCore() if under_load else nullcontext():
            truth = long_measurement(sorted(near, key=str))
        best = tuning.best.candidate
        ratio = truth[best] / min(truth.values())
        right, longest = right + (ratio <= 1 + WITHIN), max(longest, tuning.seconds)
        chosen = f"{best.file} on {best.engine}, {best.threads} thread{'s' if best.threads > 1 else ''}"
        reached = f"confidence {tuning.confidence:.3f}, {ratio:.3f} of the fastest of {len(near)}"
        print(f"{tuning.seconds:5.1f} s  {chosen}, {reached}", flush=True)
    print(f"{right} of {repeats} runs chose the fastest or one within {100 * WITHIN:.0f} %; longest run {longest:.0f} s")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(words[0], int(words[1]) if len(words) > 1 else 20, under_load="--under-load" in sys.argv)
