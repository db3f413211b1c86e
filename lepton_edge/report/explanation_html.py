"""Where an artifact loses accuracy, as one HTML file: no network, no script, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.report.cell import percent_text, short_name
from lepton_edge.report.explanation import (
    BLOCK_HEADERS,
    advice_lines,
    answer_text,
    block_cells,
    class_text,
    clipped_text,
    decibel_text,
    float_words,
    saved_text,
    short_block,
    summary,
    title,
    unmatched_words,
)
from lepton_edge.report.explanation_chart import histogram_svg, noise_chart
from lepton_edge.report.page import render_page
from lepton_edge.report.picture import picture_uri, sample_text
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.preprocess import Preprocessing

if TYPE_CHECKING:
    from lepton_converters.block_tracing import BlockExplanation
    from lepton_converters.explanation import ChangedSample, Explanation
    from lepton_runtime.manifest import Quantization


def render_explanation(explanation: "Explanation", *, bundle: Path, preprocessing: Preprocessing | FrameInput | None) -> str:
    """The page of one explanation.

    Args:
        explanation: Of a bundle's artifact.
        bundle: Where it lies.
        preprocessing: Of the bundle, which pictures are made of again.

    Raises:
        MissingExtraError: matplotlib, Jinja or Pillow is not installed.
    """
    shown = preprocessing.picture if isinstance(preprocessing, FrameInput) else preprocessing
    is_picture = shown is not None and shown.size is not None and shown.channels in (1, 3, 4)
    return render_page(
        "explanation.html.jinja",
        {
            "explanation": explanation,
            "file": short_name(explanation.file),
            "float_file": short_name(explanation.float_file),
            "title": title(explanation),
            "lead": summary(explanation),
            "float_words": float_words(explanation),
            "unmatched": unmatched_words(explanation) if explanation.unmatched else None,
            "advice": advice_lines(explanation, bundle),
            "noise": noise_chart(explanation) if explanation.blocks else None,
            "headers": BLOCK_HEADERS,
            "blocks": list(_blocks(explanation)),
            "has_records": any(block.record for block in explanation.blocks),
            "steps": _steps(explanation.quantization),
            "made": _made(explanation.quantization),
            "changed": [_changed(changed, explanation, preprocessing if is_picture else None) for changed in explanation.changed],
            "is_picture": is_picture,
        },
    )


def _blocks(explanation: "Explanation") -> Iterator[dict[str, Any]]:
    worst = set(explanation.worst[:3])
    for number, block in enumerate(explanation.blocks, 1):
        record = block.record
        drop = "–" if record is None or record.drop is None else f"{100 * record.drop:.2f}pp"
        edges = block.histogram.edges
        yield {
            "number": number,
            "name": block.name,
            "short": short_block(block.name, most=40),
            "tensor": block.tensor.split(";")[0],
            "in_float": block.in_float,
            "is_worst": block in worst and not block.in_float,
            "cells": block_cells(block),
            "saved": saved_text(block),
            "record": ["–"] * 3 if record is None else [f"{record.alone:.2g}", f"{record.cumulative:.2g}", drop],
            "histogram": histogram_svg(block.histogram),
            "ends": (f"{edges[0]:.3g}", f"{edges[-1]:.3g}"),
            "words": _words(block),
        }


def _words(block: "BlockExplanation") -> str:
    noise = f"SNR {decibel_text(block.snr_db)} dB, own {decibel_text(block.own_snr_db)} dB"
    shares = "float32" if block.range is None else f"clipped {clipped_text(block.clipped)}, unused {percent_text(block.unused, digits=0)}"
    return f"float values {block.low:.3g} to {block.high:.3g}; {noise}; {shares}"


def _steps(record: "Quantization | None") -> list[list[str]]:
    """The search for blocks in float, a row a measurement."""
    return [
        [str(number), str(step.float_blocks), step.changed or "several", f"{100 * step.drop:.2f}pp", f"{100 * step.margin:.2f}pp"]
        for number, step in enumerate(record.steps if record else (), 1)
    ]


def _made(record: "Quantization | None") -> str:
    """How the artifact was made, in words."""
    if record is None:
        return "TensorFlow chose the ranges itself"
    equalized = ", channels equalized across layers" if record.equalized else ""
    return f"for {record.target} CPUs, {record.ranges} ranges, {record.rounding} weights{equalized}"


def _changed(changed: "ChangedSample", explanation: "Explanation", steps: Preprocessing | FrameInput | None) -> dict[str, str]:
    labels = explanation.labels
    first = next(iter(changed.inputs.values()))
    return {
        "number": f"{changed.number + 1:,}",
        "label": class_text(changed.label, labels),
        "in_float": answer_text(changed.in_float, labels),
        "in_8_bits": answer_text(changed.in_8_bits, labels),
        "float_is_right": "good" if changed.in_float.number == changed.label else "",
        "quantized_is_right": "good" if changed.in_8_bits.number == changed.label else "",
        "picture": picture_uri(first, steps) if steps else "",
        "text": "" if steps else sample_text(changed.inputs),
    }
