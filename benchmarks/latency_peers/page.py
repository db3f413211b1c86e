"""docs/latency.md and its chart, from the results."""

from __future__ import annotations

import re
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from latency_peers.kept import days
from latency_peers.variant import VARIANTS, Kind
from lepton_edge.latency.statistics import FEWEST_PAIRS, paired_ratio

PEERS = {kind: [v.name for v in VARIANTS.values() if v.kind == kind and not v.is_ours] for kind in ("fp32", "int8")}


def median_us(cell: dict[str, Any], variant: str) -> float | None:
    """The median of a row's sets, in microseconds."""
    found = cell["medians_ns"].get(variant)
    return float(np.median(found)) / 1e3 if found else None


def fastest_peer(cell: dict[str, Any], kinds: tuple[Kind, ...]) -> str | None:
    """The name of the peer with the lowest median."""
    found = {name: median_us(cell, name) for kind in kinds for name in PEERS[kind]}
    known = {name: value for name, value in found.items() if value is not None}
    return min(known, key=lambda name: known[name]) if known else None


def ratio_text(cell: dict[str, Any], new: str, base: str | None) -> str:
    """Ours over the peer's, with its 95 % interval."""
    ratio = ratio_of(cell, new, base)
    if ratio is None:
        return "–"
    value, low, high = ratio
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f}–{high:.2f})"


def ratio_of(cell: dict[str, Any], new: str, base: str | None) -> tuple[float, float | None, float | None] | None:
    """The same in numbers; without an interval where there are too few sets."""
    medians = cell["medians_ns"]
    if base is None or new not in medians or base not in medians:
        return None
    pairs = min(len(medians[new]), len(medians[base]))
    found = paired_ratio(medians[base][:pairs], medians[new][:pairs])
    return (found.value, found.low, found.high) if pairs >= FEWEST_PAIRS else (found.value, None, None)


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the page, and the chart beside it."""
    cells = results["cells"]
    by_threads: dict[str, dict[str, Any]] = {}
    for key, cell in cells.items():
        name, _, threads = key.rpartition("/")
        by_threads.setdefault(threads, {})[name] = cell
    lines = [*_head(results)]
    for threads, found in by_threads.items():
        plural = "thread" if threads == "1" else "threads"
        for kind in ("fp32", "int8"):
            lines += [f"## {'float32' if kind == 'fp32' else '8 bits'}, {threads} {plural}", "", *_table(found, kind), ""]
        lines += [f"## Ratios, {threads} {plural}", "", *_ratios(found), ""]
    lines += ["## How much of the machine is used", "", *_shares(by_threads.get("1", {}), results["peak"].get("1"))]
    lines += ["", "## What was tuned to", "", *_chosen(cells), "", "## What is missing", "", *_missing(results)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(by_threads, path.with_suffix(".svg"))


def _head(results: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    peers = "; ".join(f"{name}: {', '.join(f'{key} {value}' for key, value in found.items())}" for name, found in results["peers"].items())
    return [
        "# Latency beside others",
        "",
        "Made by `python benchmarks/peers.py WORK --zoo ZOO --digits mnist10k.npz --peer-python nncf=PYTHON ncnn=PYTHON …`",
        f"on {days([cell['date'] for cell in results['cells'].values()])}, {results['device']}.",
        f"{versions}. Peers' environments: {peers}.",
        "",
        "Batch 1. Every row is a process of its own; the rows of a network take turns there and back in one run, anew in",
        f"{results['sets']} sets of fresh processes. A figure is the median of the sets' medians, in µs; the fastest of a column is bold.",
        "Ratios are ours over the peer's, with a 95 % interval over the sets (Wilcoxon's signed ranks); below 1 we are faster. The first",
        "nine networks have random weights: what their 8-bit files answer says nothing, and they are tuned among float files only.",
        "Trained networks are exported with `--max-drop 0.5pp`. Ours are exported with `--target` for this CPU. A row whose answers are",
        "wrong, or others in each process, is not shown. The machine is shared: read the ratios.",
        "",
        "![Ours over the fastest peer](latency.svg)",
        "",
    ]


def _table(found: dict[str, Any], kind: Kind) -> list[str]:
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    best = {
        name: min((v for key in VARIANTS if VARIANTS[key].kind == kind and (v := median_us(cell, key))), default=0.0)
        for name, cell in found.items()
    }
    for variant in VARIANTS.values():
        if variant.kind == kind:
            values = {name: median_us(cell, variant.name) for name, cell in found.items()}
            texts = ["–" if v is None else f"**{v:,.1f}**" if v == best[name] else f"{v:,.1f}" for name, v in values.items()]
            lines.append(f"| {variant.title} | {' | '.join(texts)} |")
    return lines


_PAIRS: tuple[tuple[str, str, str | None, tuple[Kind, ...]], ...] = (
    ("float32 on onnxruntime / Keras' export on onnxruntime", "ours-onnx", "keras-onnx", ("fp32",)),
    ("float32 on onnxruntime / fastest peer", "ours-onnx", None, ("fp32",)),
    ("8 bits on onnxruntime / `quantize_static` defaults", "ours-onnx-int8", "ort-default", ("int8",)),
    ("8 bits on onnxruntime / TensorFlow's on LiteRT", "ours-onnx-int8", "litert-int8", ("int8",)),
    ("float32 on LiteRT / TensorFlow's on LiteRT", "ours-tflite", "litert", ("fp32",)),
    ("8 bits on LiteRT / TensorFlow's on LiteRT", "ours-tflite-int8", "litert-int8", ("int8",)),
    ("tuned among float files / fastest float32 peer", "ours-tuned-float", None, ("fp32",)),
    ("tuned within 0.5pp / fastest peer of both kinds", "ours-tuned", None, ("fp32", "int8")),
)


def _ratios(found: dict[str, Any]) -> list[str]:
    """One row a pair, and the geometric mean over the random and over the trained networks."""
    lines = [f"| | {' | '.join(found)} | geometric mean |", f"|---|{'---:|' * (len(found) + 1)}"]
    for title, new, base, kinds in _PAIRS:
        bases = {name: base or fastest_peer(cell, kinds) for name, cell in found.items()}
        texts = [ratio_text(cell, new, bases[name]) for name, cell in found.items()]
        means = []
        for is_trained in (False, True):
            group = [ratio_of(cell, new, bases[name]) for name, cell in found.items() if name.startswith("trained-") == is_trained]
            logs = [log(ratio[0]) for ratio in group if ratio is not None]
            if logs:
                means.append(f"{exp(sum(logs) / len(logs)):.2f}{' trained' if is_trained else ''}")
        lines.append(f"| {title} | {' | '.join(texts)} | {', '.join(means)} |")
    return lines


def _shares(found: dict[str, Any], peak: float | None) -> list[str]:
    """The share of the measured peak that float32 rows reach."""
    if not peak:
        return ["Not measured."]
    rows = ("keras-onnx", "litert", "openvino", "ours-onnx", "ours-tuned-float")
    lines = [
        f"A product of two large matrices in onnxruntime reaches {peak / 1e9:.0f} GFLOP/s with one thread. Two operations a product;",
        "who needs fewer, as by Winograd's convolution of 3 × 3 pixels, may be above 100 %.",
        "",
        f"| network | million products | {' | '.join(VARIANTS[row].title for row in rows)} |",
        f"|---|---:|{'---:|' * len(rows)}",
    ]
    for name, cell in found.items():
        shares = [median_us(cell, row) for row in rows]
        products = cell["products"]
        texts = ["–" if None in (value, products) else f"{100 * 2 * products / (value * 1e-6) / peak:.0f} %" for value in shares]
        lines.append(f"| {name} | {'–' if products is None else f'{products / 1e6:,.2f}'} | {' | '.join(texts)} |")
    return lines


def _chosen(cells: dict[str, Any]) -> list[str]:
    lines = ["| network | threads | among | what |", "|---|---:|---|---|"]
    for key, cell in cells.items():
        name, _, threads = key.rpartition("/")
        for variant, chosen in cell["chosen"].items():
            asleep = "" if chosen["spins"] or chosen["threads"] == 1 else ", which sleep within a call, too"
            count = f"{chosen['threads']} thread{'s' if chosen['threads'] > 1 else ''}{asleep}"
            what = f"{chosen['file'].removeprefix('model.')} on {chosen['engine']}, {count}"
            lines.append(f"| {name} | {threads} | {VARIANTS[variant].title.replace('**', '')} | {what} |")
    return lines


def _missing(results: dict[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for key, cell in results["cells"].items():
        for variant, reason in cell["absent"].items():
            text = re.sub(r"(/[\w.+-]+)+/", "", reason)  # folders of the machine
            entry = found.setdefault(f"{VARIANTS[variant].title}: {text.replace('|', ' ')}", [])
            entry.append(key.rpartition("/")[0])
    return [f"- {text} ({', '.join(dict.fromkeys(names))})" for text, names in found.items()] or ["Nothing."]


def _draw(by_threads: dict[str, dict[str, Any]], path: Path) -> None:
    """One dot a network and kind: ours over the fastest peer."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lepton-edge"
    from matplotlib import pyplot

    rows = (
        ("ours-onnx", ("fp32",), "float32, onnxruntime", "o"),
        ("ours-tuned-float", ("fp32",), "float32, tuned", "D"),
        ("ours-onnx-int8", ("int8",), "8 bits, onnxruntime", "s"),
        ("ours-tuned", ("fp32", "int8"), "within 0.5pp, tuned", "^"),
    )
    figure, panels = pyplot.subplots(1, len(by_threads), figsize=(5.5 * len(by_threads), 6), sharey=True, squeeze=False)
    for panel, (threads, found) in zip(panels[0], by_threads.items(), strict=True):
        names = list(found)[::-1]
        for variant, kinds, label, marker in rows:
            ratios = [ratio_of(found[name], variant, fastest_peer(found[name], kinds)) for name in names]
            points = [(ratio[0], place) for place, ratio in enumerate(ratios) if ratio is not None]
            panel.plot([x for x, _ in points], [y for _, y in points], marker, label=label, markersize=6, alpha=0.85)
        panel.axvline(1, color="gray", linewidth=1)
        panel.set_xscale("log")
        panel.set_yticks(range(len(names)), names)
        panel.set_title(f"{threads} thread{'s' if threads != '1' else ''}")
        panel.set_xlabel("ours / fastest peer of the same kind")
        panel.grid(axis="y", linewidth=0.3)
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
