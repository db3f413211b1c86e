"""Channels of like ranges across layers, so that one scale a tensor serves them all."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from lepton_converters.float_graph import FloatGraph, Operator, operators_of
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_converters.weight_rounding import along_axis
from lepton_runtime.tensors import Array

_MOST = 16.0  # how much larger a channel may become
_HEADROOM = 1.5  # below the ceiling of an activation, for values that no sample showed


def equalize(graph: FloatGraph, statistics: Mapping[str, TensorStatistics]) -> FloatGraph | None:
    """The network with channels scaled up before, and down after, an activation that passes factors on; ``None`` if it has none.

    A depthwise operator has a scale a channel for its own weights, so that its input's channels can all reach equally far at no
    cost; a dense one shares the cost between its input and its weights. Where the activation has a ceiling, channels that
    reach it stay as they are.

    Args:
        graph: The network.
        statistics: Of its activations, with extremes of channels.

    Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.
    """
    operators = operators_of(graph.blocks)
    uses = Counter(name for operator in operators for name in (operator.weight, operator.bias) if name)
    makers = {operator.output: operator for operator in operators if operator.weight}
    constants: dict[str, Array] = {}
    for second in operators:
        first = makers.get(second.inputs[0]) if second.inputs else None
        if first is None or not second.weight or not _can_share(graph, uses, first, second):
            continue
        weights = [constants.get(name or "", graph.constant(name or "")) for name in (first.weight, second.weight)]
        factors = _factors(statistics[first.output], weights[1], first, second)
        if factors is None or np.allclose(factors, 1):
            continue
        axis = second.output_axis if second.input_axis is None else second.input_axis
        constants[first.weight or ""] = weights[0] * along_axis(factors, first.output_axis, weights[0].ndim)
        constants[second.weight] = weights[1] / along_axis(factors, axis, weights[1].ndim)
        if first.bias:
            constants[first.bias] = constants.get(first.bias, graph.constant(first.bias)) * factors
    return graph.with_constants({name: values.astype(np.float32) for name, values in constants.items()}) if constants else None


def _can_share(graph: FloatGraph, uses: Counter[str], first: Operator, second: Operator) -> bool:
    """Whether factors of the one's outputs can be taken back in the other's weights, and nowhere else are seen."""
    is_own = all(uses[name] == 1 for name in (first.weight, first.bias, second.weight) if name)
    is_passed_on = first.activation in ("linear", "relu", "relu6") and first.channel_axis == second.channel_axis
    return is_own and is_passed_on and graph.reader_count(first.output) == 1


def _factors(found: TensorStatistics, weights: Array, first: Operator, second: Operator) -> Array | None:
    """What each channel is multiplied by."""
    reaches = np.maximum(np.abs(found.channel_lows), np.abs(found.channel_highs)).astype(np.float64)
    axis = second.output_axis if second.input_axis is None else second.input_axis
    if len(reaches) != weights.shape[axis] or not reaches.any():
        return None  # a weight of channels in groups has fewer
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = reaches.max() / reaches
        if second.input_axis is not None:
            sizes = np.abs(np.moveaxis(weights, axis, 0).reshape(len(reaches), -1)).max(axis=1).astype(np.float64)
            factors = np.sqrt(factors * sizes / sizes.max())
            factors /= factors[reaches > 0].min()
        if first.activation == "relu6":
            factors = np.minimum(factors, np.maximum(1.0, reaches.max() / (_HEADROOM * reaches)))
    return np.where(np.isfinite(factors) & (reaches > 0), np.clip(factors, 1.0, _MOST), 1.0)
