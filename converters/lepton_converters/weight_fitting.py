"""Weights and biases that lose less by 8 bits, for the activations that they meet."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

import numpy as np

from lepton_converters.activation_moments import Moments, as_rows, fits, from_rows, grouped_by_size, measure_moments
from lepton_converters.float_graph import FloatGraph, Operator, operators_of
from lepton_converters.weight_rounding import WeightScheme, fit_rounding
from lepton_runtime.formats import Target
from lepton_runtime.tensors import Array


class Rounding(StrEnum):
    """How weights become integers; each does what those before it do.

    ``bias-corrected`` biases make up for what rounding adds to the mean of an output, ``fitted`` weights are rounded so that
    outputs change least, and ``clipped`` ones have their largest cut off before, where that helps.
    Source: Nagel et al. 2019, "Data-Free Quantization", section 4.2; 2020, "Up or Down?"; 2021, the white paper's section 3.1.
    """

    NEAREST = "nearest"
    BIAS_CORRECTED = "bias-corrected"
    FITTED = "fitted"
    CLIPPED = "clipped"


def fit_weights(
    graph: FloatGraph,
    batches: Callable[[], Iterator[Mapping[str, Array]]],
    roundings: tuple[Rounding, ...],
    *,
    target: Target,
    seed: int,
) -> dict[Rounding, FloatGraph]:
    """The network with its weights on their integers' values, once for each way of rounding.

    Args:
        graph: The network.
        batches: Its inputs, anew at each call: one pass for about every quarter of a GiB of covariances.
        roundings: Which.
        target: The CPU it is for.
        seed: Of the choice of activations that are looked at.
    """
    operators = [operator for operator in operators_of(graph.blocks) if fits(graph, operator)]
    shared = Counter(operator.bias for operator in {operator.weight: operator for operator in operators}.values() if operator.bias)
    constants: dict[Rounding, dict[str, Array]] = {rounding: {} for rounding in roundings}
    done: set[str] = set()
    for group in grouped_by_size(graph, operators):
        moments = measure_moments(graph, group, batches(), seed=seed)
        for operator in group:
            name = operator.weight or ""
            if name in done or name not in moments:
                continue
            done.add(name)
            bias = operator.bias if operator.bias and shared[operator.bias] == 1 else None
            for rounding in roundings:
                constants[rounding].update(_fitted(graph, operator, bias, moments[name], rounding, graph.weight_scheme(operator, target)))
    return {rounding: graph.with_constants(found) for rounding, found in constants.items()}


def _fitted(
    graph: FloatGraph, operator: Operator, bias: str | None, moments: Moments, rounding: Rounding, scheme: WeightScheme
) -> Iterator[tuple[str, Array]]:
    """The constants of one operator."""
    name = operator.weight or ""
    weights = graph.constant(name)
    exact = as_rows(weights, operator)
    # A bias makes up for the mean; without one, it counts like any other error.
    spread = moments.covariance if bias else moments.covariance + moments.mean[:, :, None] * moments.mean[:, None, :]
    start = weights
    if rounding == Rounding.CLIPPED:
        importance = np.broadcast_to(np.einsum("gtt->gt", spread)[:, None], exact.shape)
        start = scheme.clipped(weights, from_rows(importance, operator, weights.shape))
    if rounding == Rounding.BIAS_CORRECTED:
        made = as_rows(scheme.rounded(weights), operator)
    else:
        scales = scheme.scales(start).reshape(len(exact), -1)
        rows = as_rows(start, operator)
        integers = np.stack([fit_rounding(rows[g], exact[g], scales[g], spread[g], largest=scheme.largest) for g in range(len(exact))])
        made = (integers * scales[..., None]).astype(np.float32)
        yield name, from_rows(made, operator, weights.shape)
    if bias:
        shift = np.einsum("got,gt->go", (exact - made).astype(np.float64), moments.mean).reshape(-1)
        yield bias, (graph.constant(bias) + shift).astype(np.float32)
