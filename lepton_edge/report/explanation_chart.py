"""The charts of an explanation: noise along the network, and what 8 bits make of a tensor."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.report.chart import INK, draw_svg, series_color

if TYPE_CHECKING:
    from lepton_converters.block_tracing import Histogram
    from lepton_converters.explanation import Explanation

_WIDTH, _HEIGHT = 256, 64
_RAREST = 1e-5  # the share of values whose bar is just not seen


def noise_chart(explanation: "Explanation") -> str:
    """Signal-to-noise ratios along the depth of the network: what has added up, and what each block adds itself."""
    numbers = np.arange(1, len(explanation.blocks) + 1)
    series = (
        ("added up until here", [block.snr_db for block in explanation.blocks], "o-"),
        ("added by the block itself", [block.own_snr_db for block in explanation.blocks], "s:"),
    )
    in_float = np.array([block.in_float for block in explanation.blocks])

    def draw(axes: Any) -> None:  # Any: matplotlib's axes
        for number, (label, values, style) in enumerate(series):
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.plot(numbers, shown, style, color=series_color(number), markersize=4, linewidth=1.2, label=label)
        if in_float.any():
            shown = np.where(np.isfinite(series[0][1]), series[0][1], np.nan)
            axes.plot(numbers[in_float], shown[in_float], "o", color=INK, markersize=9, fillstyle="none", label="in float")
        axes.set_xlabel("block, in the order in which they run")
        axes.set_ylabel("signal to noise, dB")
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False, handletextpad=0.3, columnspacing=1)

    return draw_svg(draw, height=3.0)


def histogram_svg(histogram: "Histogram") -> str:
    """The float file's values as an area, the quantized file's as a line over it; heights are logarithmic.

    It is drawn by hand: a network has hundreds of them, and matplotlib would take half a minute and a megabyte.
    """
    area, line = (_outline(shares) for shares in (histogram.in_float, histogram.in_8_bits))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 2}" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<path d="{area}V{_HEIGHT}Z" fill="var(--series-0)" fill-opacity=".4"/>'
        f'<path d="{line}V{_HEIGHT}" fill="none" stroke="var(--series-1)" stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
    )


def _outline(shares: tuple[float, ...]) -> str:
    """Steps from the left to the right, as an SVG path."""
    heights = np.clip(1 - np.log(np.maximum(shares, _RAREST)) / np.log(_RAREST), 0, 1)
    width = _WIDTH / len(shares)
    steps = "".join(f"V{_HEIGHT * (1 - height) + 1:.1f}H{width * (number + 1):g}" for number, height in enumerate(heights))
    return f"M0,{_HEIGHT}{steps}"
