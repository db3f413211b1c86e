"""Candidates that were measured in turns against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_edge.latency.result import LatencyResult
from lepton_edge.latency.statistics import Ratio, paired_ratio


@dataclass(frozen=True)
class PairRatio:
    """Two candidates that were measured in turns.

    Attributes:
        base: The number of one among the results.
        new: The number of the other.
        ratio: How many times as long ``new`` takes.
    """

    base: int
    new: int
    ratio: Ratio


def pair_ratios(results: Sequence[LatencyResult]) -> list[PairRatio]:
    """Each result against its twin in another bundle, or else against the first of the same batch."""
    pairs = []
    for number, new in enumerate(results):
        twin = next((other for other in range(number) if match_key(results[other]) == match_key(new)), None)
        first = next(other for other in range(number + 1) if results[other].candidate.batch == new.candidate.batch)
        base = twin if twin is not None else first
        if base == number:
            continue
        ours, theirs = new.process_medians_ms, results[base].process_medians_ms
        common = sorted(ours.keys() & theirs.keys())
        if common:
            ratio = paired_ratio([theirs[process] for process in common], [ours[process] for process in common])
            pairs.append(PairRatio(base, number, ratio))
    return pairs


def match_key(result: LatencyResult) -> tuple[str, str, int, int]:
    """What two results have in common that are to be compared: artifact, engine, threads and batch."""
    candidate = result.candidate
    return candidate.file, candidate.engine, candidate.threads, candidate.batch
