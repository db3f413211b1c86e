"""docs/arm-work.md, from the results of ``benchmarks/arm_work.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latency_peers.kept import days
from lepton_converters.onnx_optimize import EIGHT_BIT_REWRITES, FLOAT_REWRITES, REWRITES, WIDE_REWRITES

TITLES = {
    "keras-onnx": "Keras' ONNX export",
    "litert": "TensorFlow's converter",
    "ours-fp32.onnx": "**lepton-edge fp32.onnx**",
    "ours-fp32.tflite": "**lepton-edge fp32.tflite**",
    "ort-default": "`quantize_static` defaults",
    "litert-int8": "TensorFlow's converter, 8 bits",
    "litert-dynamic": "the same, dynamic ranges",
    "ours-dynamic-int8.onnx": "**lepton-edge dynamic-int8.onnx**",
    "ours-dynamic-int8.tflite": "**lepton-edge dynamic-int8.tflite**",
    "ours-static-int8.onnx": "**lepton-edge static-int8.onnx**",
    "ours-static-int8.tflite": "**lepton-edge static-int8.tflite**",
}
BOARDS = {"pi4": "As a Raspberry Pi 4 (Cortex-A72)", "pi5": "As a Raspberry Pi 5 (Cortex-A76)"}


def write_work(results: dict[str, Any], path: Path) -> None:
    """Write the page."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# Work on ARM",
        "",
        f"Made by `python benchmarks/arm_work.py WORK FOLDER` on {days([*results['dates'].values()])}. {versions}.",
        "",
        "Instructions of one inference, in millions, counted under emulation, with one thread and batch 1, of trained networks of",
        "32 × 32 pixels (the LSTM: 28 × 28). The count is the same to 0.05 % each time. It is **work, not speed**: it knows nothing of",
        "caches, of memory, or of how long an instruction takes, and below a fifth or so a difference says little about time. Nothing was",
        "measured on a board here. ONNX files run on onnxruntime, TFLite files on LiteRT; ours are exported with the board's `--target`.",
        "The last line is the least of ours over the least of the others.",
    ]
    for board, title in BOARDS.items():
        networks = {name.removeprefix("trained-"): found[board] for name, found in results["networks"].items() if board in found}
        lines += ["", f"## {title}", "", f"| | {' | '.join(networks)} |", f"|---|{'---:|' * len(networks)}"]
        for key, words in TITLES.items():
            cells = [f"{found[key] / 1e6:,.2f}" if key in found else "–" for found in networks.values()]
            lines.append(f"| {words} | {' | '.join(cells)} |")
        ratios = []
        for found in networks.values():
            ours, others = ([count for key, count in found.items() if key.startswith("ours") == is_ours] for is_ours in (True, False))
            ratios.append(f"{min(ours) / min(others):.3f}")
        lines.append(f"| ours / others | {' | '.join(ratios)} |")
    lines += [
        "",
        "## What each rewrite spares",
        "",
        "Work with all rewrites of [the ONNX files](performance.md) over that with all but one; below 1 is less work. Files that a rewrite",
        "does not change have no row.",
        "",
        "| rewrite | network | precision | Pi 4 | Pi 5 |",
        "|---|---|---|---:|---:|",
        *_gains(results["rewrites"]),
    ]
    failed: dict[tuple[str, str, str], None] = {}
    for name, boards in results["failed"].items():
        for found in boards.values():
            failed |= {(TITLES[key], name, why): None for key, why in found.items()}
    missing = [f"- {title}, {name}: {why}" for title, name, why in failed]
    if missing:
        lines += ["", "## What does not run", "", *missing]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _gains(networks: dict[str, dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for network, boards in networks.items():
        for board, precisions in boards.items():
            for precision, ratios in precisions.items():
                for name, ratio in ratios.items():
                    found.setdefault((name, network.removeprefix("trained-"), precision), {})[board] = ratio
    order = [rewrite.name for rewrite in (*REWRITES, *WIDE_REWRITES, *FLOAT_REWRITES, *EIGHT_BIT_REWRITES)]
    return [
        f"| `{name}` | {network} | {precision} | "
        + " | ".join(f"{ratios[board]:.3f}" if board in ratios else "–" for board in BOARDS)
        + " |"
        for (name, network, precision), ratios in sorted(found.items(), key=lambda entry: order.index(entry[0][0]))
    ]
