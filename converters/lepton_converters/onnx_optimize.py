"""Rewrites of ONNX graphs (NCHW inside) that keep their meaning and make them faster: which there are, and how they are applied."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from lepton_converters.onnx_eight_bit import convolve_blocks, share_real_numbers, share_scale
from lepton_converters.onnx_fused import make_gelu, make_layer_normalization
from lepton_converters.onnx_gates import make_gate_of_a_picture, make_hard_sigmoid
from lepton_converters.onnx_linear import fold_behind, fold_factor
from lepton_converters.onnx_moves import cancel_reversal, convolve_rows, pad_within, skip_reshapes, widen
from lepton_runtime.formats import Target


@dataclass(frozen=True)
class Rewrite:
    """One rewrite.

    Attributes:
        name: What it is called in ``docs/performance.md``.
        apply: Rewrites what ends in a node, if it can; whether it did.
        spares: CPUs on which it takes more work than it saves.
    """

    name: str
    apply: Callable[[ir.Graph, ir.Node], bool]
    spares: tuple[Target, ...] = ()


REWRITES = (
    Rewrite("batch-norm", fold_behind),
    Rewrite("reversal", cancel_reversal),
    Rewrite("reshape", skip_reshapes),
    Rewrite("pad", pad_within),
    Rewrite("factor", fold_factor),
    Rewrite("hard-sigmoid", make_hard_sigmoid),
)
"""Of every graph, again and again until there is nothing left to do."""
WIDE_REWRITES = (Rewrite("wide-offset", widen),)
"""Of every graph, behind those, which would not know it again."""
_FUSED = (Rewrite("gelu", make_gelu), Rewrite("layer-norm", make_layer_normalization))
_OF_MORE_WORK_ON_ARM = (Target.ANY, Target.ARM_DOTPROD, Target.ARM_V8)
FLOAT_REWRITES = (
    Rewrite("gate", make_gate_of_a_picture, spares=_OF_MORE_WORK_ON_ARM),
    Rewrite("rows", convolve_rows, spares=_OF_MORE_WORK_ON_ARM),
    *_FUSED,
)
"""Of graphs that compute in float32, at last."""
EIGHT_BIT_REWRITES = (
    *_FUSED,
    Rewrite("blocks", convolve_blocks, spares=(Target.ARM_V8,)),
    Rewrite("shared-real", share_real_numbers),
    Rewrite("shared-scale", share_scale),
)
"""Of graphs with QuantizeLinear and DequantizeLinear pairs."""


def optimize(model: onnx.ModelProto, *, without: Collection[str] = ()) -> onnx.ModelProto:
    """The graph in the form that the others are made of.

    Args:
        model: Any graph.
        without: Names of rewrites to leave out, to measure what they are worth.
    """
    return _rewritten(model, REWRITES, without)


def optimize_float(model: onnx.ModelProto, *, target: Target, without: Collection[str] = ()) -> onnx.ModelProto:
    """An optimized graph that computes in float32, in the form that onnxruntime runs best.

    Args:
        model: What :func:`optimize` gave.
        target: The CPU that it is for; it runs on all.
        without: Names of rewrites to leave out.
    """
    return _rewritten(with_wide_offsets(model, without=without), _for(target, FLOAT_REWRITES), without)


def with_wide_offsets(model: onnx.ModelProto, *, without: Collection[str] = ()) -> onnx.ModelProto:
    """An optimized graph in which numbers of channels meet whole rows of a picture: the form that is quantized.

    Args:
        model: What :func:`optimize` gave.
        without: Names of rewrites to leave out.
    """
    return _rewritten(model, WIDE_REWRITES, without)


def optimize_eight_bit(model: onnx.ModelProto, *, target: Target, without: Collection[str] = ()) -> onnx.ModelProto:
    """A graph with QuantizeLinear and DequantizeLinear pairs, in the form that onnxruntime runs best.

    Args:
        model: What the quantizer made of what :func:`with_wide_offsets` gave.
        target: The CPU that it is for.
        without: Names of rewrites to leave out.
    """
    return _rewritten(model, _for(target, EIGHT_BIT_REWRITES), without)


def _for(target: Target, rewrites: Sequence[Rewrite]) -> list[Rewrite]:
    return [rewrite for rewrite in rewrites if target not in rewrite.spares]


def _rewritten(model: onnx.ModelProto, rewrites: Sequence[Rewrite], without: Collection[str]) -> onnx.ModelProto:
    """The graph after each rewrite of each node, until none finds anything."""
    rewritten = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    wanted = [rewrite for rewrite in rewrites if rewrite.name not in without]
    is_changed = True
    while is_changed:
        is_changed = False
        for node in list(rewritten.graph):
            for rewrite in wanted:
                if node.graph is not None and rewrite.apply(rewritten.graph, node):
                    is_changed = True
    return ir.to_proto(rewritten)
