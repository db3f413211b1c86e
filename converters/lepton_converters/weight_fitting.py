"""Weights and biases that lose less by 8 bits, for the activations that they meet."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    operators = operators_of(graph.blocks)
    uses = Counter(bias for _, bias in {(operator.weight, operator.bias) for operator in operators})
    constants: dict[Rounding, dict[str, Array]] = {rounding: {} for rounding in roundings}
    for group in grouped_by_size(graph, [operator for operator in operators if fits(graph, operator)]):
        moments = measure_moments(graph, group, batches(), seed=seed)
        for operator in {operator.weight: operator for operator in group}.values():
            readers = [(bias if uses[bias] == 1 else None, found) for (name, bias), found in moments.items() if name == operator.weight]
            for rounding in roundings:
                constants[rounding].update(_fitted(graph, operator, readers, rounding, graph.weight_scheme(operator, target)))
    return {rounding: graph.with_constants(found) for rounding, found in constants.items()}


def _fitted(
    graph: FloatGraph, operator: Operator, readers: Sequence[tuple[str | None, Moments]], rounding: Rounding, scheme: WeightScheme
) -> Iterator[tuple[str, Array]]:
    """The constants of the operators with one weight: theirs, and the bias, if it is no other's, of each."""
    name = operator.weight or ""
    weights = graph.constant(name)
    exact = as_rows(weights, operator)
    spread = _spread(readers)
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
    for bias, moments in readers:
        if bias:
            shift = np.einsum("got,gt->go", (exact - made).astype(np.float64), moments.mean).reshape(-1)
            yield bias, (graph.constant(bias) + shift).astype(np.float32)


def _spread(readers: Sequence[tuple[str | None, Moments]]) -> Array:
    """How errors of the weights go together in the outputs, in the mean over all rows, ``(groups, taps, taps)``.

    A bias makes up for the mean; without one, it counts like any other error.
    """
    count = sum(found.count for _, found in readers)
    spreads = [found.covariance + (0 if bias else found.mean[:, :, None] * found.mean[:, None, :]) for bias, found in readers]
    return np.asarray(sum(found.count / count * spread for (_, found), spread in zip(readers, spreads, strict=True)))
