"""How often `benchmark A B` and `compare` are right: on a copy of an artifact, and on one that takes 5 % longer.

python benchmarks/verdicts.py [REPEATS]

A is a chain of 20 equal convolutions, its copy is the same file in another bundle, and the slower one has 21. All three
are measured side by side, again and again, with the settings that ``benchmark A B`` has by default but for the time.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from made_bundle import write_made_bundle

from lepton_edge.cli.benchmark import choose_candidates, measure_report
from lepton_edge.device import read_device
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.latency.verdict import judge
from lepton_edge.report.comparison import compare_reports
from lepton_edge.report.document import Report

SETTINGS = LatencySettings(processes=10, seconds=1.0)
SHAPE = (1, 16, 32, 32)


def write_chain(path: Path, length: int) -> Path:
    """A bundle whose model is that many convolutions of 16 to 16 channels, 3×3."""
    generator = np.random.default_rng(1)
    names = ["x", *(f"h{number}" for number in range(1, length)), "y"]
    constants = {f"w{number}": (generator.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32) for number in range(length)}
    nodes = [
        onnx.helper.make_node("Conv", [given, f"w{number}"], [made], pads=[1, 1, 1, 1])
        for number, (given, made) in enumerate(pairwise(names))
    ]
    return write_made_bundle(path, nodes, constants, SHAPE)


def alone(report: Report, number: int) -> Report:
    """The report as if only one candidate had been measured."""
    return replace(report, results=(report.results[number],))


def main(repeats: int) -> None:
    """Print how often each verdict was given."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  onnxruntime {onnxruntime.__version__}  {repeats} repeats of {SETTINGS}")
    side_by_side = {"copy": Counter(), "5 % slower": Counter()}
    run_by_run = {"copy": Counter(), "5 % slower": Counter()}
    ratios: dict[str, list[float]] = {name: [] for name in side_by_side}
    previous: Report | None = None
    with tempfile.TemporaryDirectory() as folder:
        lengths = {"a": 20, "copy": 20, "slower": 21}
        paths = [write_chain(Path(folder) / f"{name}.bundle", length) for name, length in lengths.items()]
        candidates = [candidate for path in paths for candidate in choose_candidates(path)]
        for number in range(repeats):
            report, _ = measure_report(candidates, SETTINGS)
            for name, pair in zip(side_by_side, report.ratios, strict=True):
                side_by_side[name][pair.ratio.verdict] += 1
                ratios[name].append(pair.ratio.value)
            if previous is not None:
                for name, position in (("copy", 1), ("5 % slower", 2)):
                    (change,) = compare_reports(alone(previous, 0), alone(report, position)).changes
                    run_by_run[name][change.verdict + (" (not stable)" if change.reason else "")] += 1
            previous = report
            stable = [judge(result).is_stable for result in report.results]
            values = "  ".join(
                f"{name} {pair.ratio.value:.4f} {pair.ratio.verdict}" for name, pair in zip(ratios, report.ratios, strict=True)
            )
            print(f"{number + 1:3}  {values}  stable {sum(stable)} of 3", flush=True)
    for title, counts in (("benchmark A B", side_by_side), ("compare BASE NEW", run_by_run)):
        for name, verdicts in counts.items():
            print(f"{title:<18} {name:<12} " + ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common()))
    for name, values in ratios.items():
        print(f"ratio {name:<12} median {np.median(values):.4f}, from {min(values):.4f} to {max(values):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
