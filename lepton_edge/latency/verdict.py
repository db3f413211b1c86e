"""Whether a measurement can be trusted, and why not, in plain words."""

from dataclasses import dataclass

import numpy as np

from lepton_edge.latency.result import Block, LatencyResult
from lepton_edge.latency.statistics import trend
from lepton_runtime.tensors import Array

# Shares above which a reader of the median would be misled. Of one core:
_OTHER_LOAD = 0.10
_STOLEN = 0.05
# of the highest clock seen:
_CLOCK_CHANGE = 0.05
# and of the median:
_DRIFT = 0.05
_WIDE_INTERVAL = 0.05
_PROCESS_SPREAD = 0.10
_PEAK_DISTANCE = 0.05
_SMALLEST_PEAK = 0.2  # of the samples
_VALLEY = 0.5  # of the lower peak's height
_DRIFT_DOUBT = 0.01  # how likely such a trend would be among blocks without one
_FEWEST_BLOCKS = 8
_FEWEST_SAMPLES = 64
_FEWEST_LOAD_NS = 50_000_000  # five ticks of the kernel: below that, it is rounding


@dataclass(frozen=True)
class Verdict:
    """Whether the figures hold.

    Attributes:
        reasons: Why not; empty is: they do.
    """

    reasons: tuple[str, ...]

    @property
    def is_stable(self) -> bool:
        """Whether nothing was found that speaks against the figures."""
        return not self.reasons

    def __str__(self) -> str:
        return "stable" if self.is_stable else "not stable: " + "; ".join(self.reasons)


def judge(result: LatencyResult) -> Verdict:
    """The verdict on one result, from its samples and from how the machine was doing."""
    found = (
        _throttled(result),
        _clock_change(result.blocks),
        _load(result.blocks),
        _settling(result),
        _spread(result),
        _peaks(result),
        _drift(result),
        _width(result),
    )
    return Verdict(tuple(filter(None, found)))


def _throttled(result: LatencyResult) -> str | None:
    """What held a Raspberry Pi back: bits of now, and bits that were set since before the run."""
    states = [block.state for block in result.blocks]
    names = {name for state in states for name in state.throttled_now or ()}
    before, after = result.state_before.throttled_since_boot, states[-1].throttled_since_boot
    if before is not None and after is not None:
        names |= set(after) - set(before)
    return f"throttled ({', '.join(sorted(names))})" if names else None


def _clock_change(blocks: tuple[Block, ...]) -> str | None:
    clocks = [clock for block in blocks if (clock := block.state.fastest_mhz) is not None]
    if not clocks or max(clocks) - min(clocks) <= _CLOCK_CHANGE * max(clocks):
        return None
    return f"clock changed ({min(clocks):.0f} to {max(clocks):.0f} MHz)"


def _load(blocks: tuple[Block, ...]) -> str | None:
    known = [(block.wall_ns, block.other_ns, block.stolen_ns) for block in blocks if None not in (block.other_ns, block.stolen_ns)]
    if not known:
        return None
    wall_ns, other_ns, stolen_ns = (sum(filter(None, column)) for column in zip(*known, strict=True))
    return load_text(wall_ns, other_ns, stolen_ns)


def load_text(wall_ns: int, other_ns: int, stolen_ns: int) -> str | None:
    """What took the machine's cores during a measurement, in words; ``None`` if it is too little to matter.

    Args:
        wall_ns: How long it took.
        other_ns: CPU time of other programs meanwhile.
        stolen_ns: What the hypervisor kept.
    """
    reasons = []
    if other_ns > max(_OTHER_LOAD * wall_ns, _FEWEST_LOAD_NS):
        reasons.append(f"other load took {100 * other_ns / wall_ns:.0f} % of a core")
    if stolen_ns > max(_STOLEN * wall_ns, _FEWEST_LOAD_NS):
        reasons.append(f"the hypervisor took {100 * stolen_ns / wall_ns:.0f} % of a core")
    return "; ".join(reasons) or None


def _settling(result: LatencyResult) -> str | None:
    restless = sum(not process.is_settled for process in result.processes)
    return f"did not settle while warming up ({restless} of {len(result.processes)} processes)" if restless else None


def _spread(result: LatencyResult) -> str | None:
    medians = list(result.process_medians_ms.values())
    spread = max(medians) / min(medians) - 1
    return f"processes differ by {100 * spread:.0f} %" if spread > _PROCESS_SPREAD else None


def _peaks(result: LatencyResult) -> str | None:
    """Two latencies instead of one, within processes: what differs between them is another matter."""
    centred = [np.concatenate(blocks) for blocks in result.by_process().values()]
    samples = np.concatenate([samples / np.median(samples) for samples in centred])
    peaks = find_peaks(samples)
    if peaks is None:
        return None
    low, high = (peak * result.p50_ms for peak in peaks)
    return f"bimodal (around {low:.3g} and {high:.3g} ms)"


def find_peaks(samples: Array) -> tuple[float, float] | None:
    """The two latencies that samples gather around, if there is a deep valley between them.

    Args:
        samples: ``(samples,)``, as shares of their median.

    Source: Silverman 1986, "Density Estimation", equation 3.31 for the width of the kernel.
    """
    if len(samples) < _FEWEST_SAMPLES:
        return None
    inner = samples[(samples >= np.percentile(samples, 1)) & (samples <= np.percentile(samples, 99))]
    quartiles = np.percentile(inner, [25, 75])
    width = 0.9 * min(inner.std(), (quartiles[1] - quartiles[0]) / 1.34 or np.inf) * len(inner) ** -0.2
    # Nearer peaks are of no interest, steps of the clock are not peaks, and the grid must stay small.
    width = max(width, _PEAK_DISTANCE / 8, float(np.ptp(inner)) / 2000)
    edges = np.arange(inner.min() - 4 * width, inner.max() + 4 * width, width / 4)
    counts, _ = np.histogram(inner, edges)
    kernel = np.exp(-0.5 * (np.arange(-16, 17) / 4) ** 2)
    density = np.convolve(counts, kernel, mode="same")
    centres = (edges[:-1] + edges[1:]) / 2
    tops = [i for i in range(1, len(density) - 1) if density[i - 1] < density[i] >= density[i + 1]]
    best: tuple[float, float, float] | None = None
    for left, right in ((a, b) for a in tops for b in tops if a < b):
        valley = left + int(np.argmin(density[left : right + 1]))
        share = counts[:valley].sum() / counts.sum()
        lower = min(density[left], density[right])
        is_deep = density[valley] < _VALLEY * lower and min(share, 1 - share) >= _SMALLEST_PEAK
        if is_deep and centres[right] - centres[left] > _PEAK_DISTANCE and (best is None or lower > best[0]):
            best = (float(lower), float(centres[left]), float(centres[right]))
    return None if best is None else (best[1], best[2])


def _drift(result: LatencyResult) -> str | None:
    """A stretch of a run in one process that differs from its beginning; else a trend that is not by chance."""
    if len(result.blocks) < _FEWEST_BLOCKS:
        return None
    minutes = result.minutes_ms
    if len(minutes) > 1:
        worst = max(range(len(minutes)), key=lambda minute: abs(minutes[minute] - minutes[0]))
        change = minutes[worst] / minutes[0] - 1
        if abs(change) > _DRIFT:
            where = "the last" if worst == len(minutes) - 1 else f"minute {worst + 1}"
            return f"drifting ({100 * change:+.0f} %, from {minutes[0]:.3g} ms in the first minute to {minutes[worst]:.3g} ms in {where})"
    times = np.array([block.started_ns for block in result.blocks], np.float64)
    medians = np.array([np.median(samples) for samples in result.block_samples])
    order = np.argsort(times)
    change, doubt = trend(times[order], medians[order])
    share = change / (1e6 * result.p50_ms)
    return f"drifting ({100 * share:+.0f} % over the run)" if abs(share) > _DRIFT and doubt <= _DRIFT_DOUBT else None


def _width(result: LatencyResult) -> str | None:
    wide = result.half_width
    return f"noisy (the median is known to ±{100 * wide:.0f} % only)" if wide is not None and wide > _WIDE_INTERVAL else None
