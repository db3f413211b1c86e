"""How often ``tune`` finds the fastest variant: many runs of it, held against one long measurement of all that came near.

python benchmarks/tuning.py BUNDLE [REPEATS] [--under-load]

The long measurement takes turns with every variant that any run chose or kept to the end, in twelve sets of fresh processes.
"""

from __future__ import annotations

import statistics
import sys
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

STAGES = 12


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
    found = []
    for _ in range(repeats):
        found.append(tune(candidates, under_load=under_load))
        best = found[-1].best.candidate
        print(
            f"{found[-1].seconds:5.1f} s  {best.file} on {best.engine}, {best.threads} threads, confidence {found[-1].confidence:.3f}",
            flush=True,
        )
    near = {one.candidate for tuning in found for one in tuning.tried if one.ratio is not None and one.ratio < 1.3}
    near |= {tuning.best.candidate for tuning in found}
    if under_load:
        with _BusyCore():
            truth = long_measurement(sorted(near, key=str))
    else:
        truth = long_measurement(sorted(near, key=str))
    fastest = min(truth.values())
    for candidate, median_ns in sorted(truth.items(), key=lambda item: item[1]):
        print(f"{median_ns / 1e3:9.1f} µs  {median_ns / fastest:.3f}  {candidate.file} on {candidate.engine}, {candidate.threads} threads")
    right = sum(truth[tuning.best.candidate] <= (1 + WITHIN) * fastest for tuning in found)
    print(
        f"{right} of {repeats} runs chose the fastest or one within {100 * WITHIN:.0f} %; longest run {max(t.seconds for t in found):.0f} s"
    )


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(words[0], int(words[1]) if len(words) > 1 else 20, under_load="--under-load" in sys.argv)
