"""What is said of where an artifact loses accuracy, on the terminal and on a page alike."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.report.cell import percent_text, short_name

if TYPE_CHECKING:
    from lepton_converters.block_tracing import BlockExplanation
    from lepton_converters.explanation import Answer, Explanation
    from lepton_runtime.manifest import SearchStep

_MUCH_CLIPPED = 0.005  # every way to find ranges leaves less of the values out on data like that of the calibration
_TRAINED_ON = "or train the network on with lepton-edge finetune"
BLOCK_HEADERS = ("kind", "effect", "SNR dB", "own dB", "clipped", "unused", "range")


def title(explanation: "Explanation") -> str:
    """What is compared with what, on how many samples."""
    return f"{short_name(explanation.file)} against {short_name(explanation.float_file)} on {explanation.samples:,} samples"


def summary(explanation: "Explanation") -> str:
    """How far the answers are apart."""
    words = [] if explanation.agreement is None else [f"same answer {percent_text(explanation.agreement, digits=1)}"]
    words += [f"divergence {explanation.divergence:.2g}"]
    if explanation.accuracy is not None:
        words += [f"accuracy {percent_text(explanation.accuracy)} ({short_name(explanation.float_file)} {_float_accuracy(explanation)})"]
    return ", ".join(words)


def _float_accuracy(explanation: "Explanation") -> str:
    return percent_text(explanation.float_accuracy)


def float_words(explanation: "Explanation") -> str:
    """How many blocks compute in float, and why."""
    kept = [block.name for block in explanation.blocks if block.in_float]
    count, steps = len(explanation.blocks), explanation.quantization.steps if explanation.quantization else ()
    if not count:
        return "no block that computes in 8 bits was found in both files"
    if kept:
        names = ", ".join(map(short_block, kept))
        return f"{len(kept)} of {count} blocks in float ({names})" + (f": all in 8 bits lost {step_text(steps[0])}" if steps else "")
    text = f"all {count} blocks in 8 bits" if count > 1 else "its one block in 8 bits"
    if len(steps) > 1:
        return text + f", lost {step_text(steps[0])}: so many would have to be in float that 8 bits saved no time"
    return text + (f", which kept to the budget: lost {step_text(steps[0])}" if steps else "")


def step_text(step: "SearchStep") -> str:
    """The accuracy lost at one step of the search for blocks in float."""
    return f"{100 * step.drop:.2f}pp ± {100 * step.margin:.2f}pp on the samples of the search"


def unmatched_words(explanation: "Explanation") -> str:
    """Which blocks could not be looked at."""
    in_float, in_8_bits = explanation.routes
    other = f" (the one was made by the route {in_float}, the other by {in_8_bits})" if in_float != in_8_bits else ""
    file, float_file = short_name(explanation.file), short_name(explanation.float_file)
    return f"not looked at, for {file} has no tensor of the name that {float_file} has{other}: {', '.join(explanation.unmatched)}"


def block_cells(block: "BlockExplanation") -> list[str]:
    """The cells for ``BLOCK_HEADERS``."""
    range_ = "float" if block.range is None else f"{block.range[0]:.3g} to {block.range[1]:.3g}"
    cells = [f"{block.effect:.2g}", decibel_text(block.snr_db), decibel_text(block.own_snr_db), clipped_text(block.clipped)]
    return ["+".join(block.kinds), *cells, percent_text(block.unused, digits=0), range_]


def saved_text(block: "BlockExplanation") -> str:
    """What it would save in float by itself, and how far chance goes."""
    record = block.record
    if record is None:
        return "–"
    if not record.saved_error:
        return f"{record.saved:.2g}"
    digits = max(0, -int(np.floor(np.log10(record.saved_error))))
    return f"{record.saved:.{digits}f} ± {record.saved_error:.{digits}f}"


def clipped_text(share: float) -> str:
    """A share that is small where all is well.

    >>> clipped_text(0.0000312)
    '0.0031 %'
    """
    return f"{100 * share:.2g} %"


def decibel_text(value: float) -> str:
    """A ratio in decibels; exact where there is no noise."""
    return f"{value:.1f}" if np.isfinite(value) else "exact" if value > 0 else "no signal"


def short_block(name: str, *, most: int = 25) -> str:
    """The end of a block's name, which tells more than its beginning.

    >>> short_block("batch_normalization_1+conv2d_1", most=16)
    '…tion_1+conv2d_1'
    """
    return name if len(name) <= most else "…" + name[1 - most :]


def answer_text(answer: "Answer", labels: tuple[str, ...] | None) -> str:
    """A class with its score."""
    return f"{class_text(answer.number, labels)} {answer.score:.3f}"


def class_text(number: int | None, labels: tuple[str, ...] | None) -> str:
    """A class by its name, or its number where it has none."""
    return "–" if number is None else labels[number] if labels and number < len(labels) else str(number)


def advice_lines(explanation: "Explanation", bundle: Path) -> list[str]:
    """What to do next."""
    path = shlex.quote(str(bundle))
    if explanation.agreement == 1 or (explanation.accuracy is not None and explanation.accuracy >= (explanation.float_accuracy or 0)):
        lost = "Nothing" if explanation.agreement == 1 else "No accuracy"
        return [f"{lost} is lost on these samples. Next: lepton-edge benchmark {path}"]
    lines = []
    clipped = sorted((block for block in explanation.blocks if block.clipped > _MUCH_CLIPPED), key=lambda block: -block.clipped)
    if clipped:
        lines.append(
            f"{len(clipped)} block{'s' if len(clipped) > 1 else ''} clip over {percent_text(_MUCH_CLIPPED, digits=1)} of their values "
            f"({short_block(clipped[0].name)} {clipped_text(clipped[0].clipped)}): calibrate on more samples (--calib-samples), or on "
            "others that are more like these"
        )
    worst = next((block for block in explanation.worst if not block.in_float), None)
    record = explanation.quantization
    if worst and record is not None:
        lead = f"{short_block(worst.name)} does most to the answers (divergence {worst.effect:.2g} by itself)"
        if worst.surely_saved:
            lead = (
                f"{short_block(worst.name)} is most to blame: in float by itself it saves {worst.surely_saved:.2g} of the divergence that "
                "the export measured with all blocks in 8 bits"
            )
        elif record.measured and not any(block.surely_saved for block in explanation.blocks):
            lead = f"no block in float by itself saves more than chance, the loss is spread; {lead}"
        if record.steps:
            lines.append(f"{lead}: a smaller --max-drop than it was exported with keeps more blocks in float, {_TRAINED_ON}")
        else:
            lines.append(f"{lead}: export with --eval PATH --max-drop 0.5pp, which keeps blocks in float where they must be, {_TRAINED_ON}")
    return lines or [f"Next: lepton-edge benchmark {path}"]
