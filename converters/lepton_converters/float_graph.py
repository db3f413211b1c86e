"""A float network as quantization sees it: operators with weights, and blocks of them that share one fate."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lepton_converters.artifact import Artifact
from lepton_converters.recipe import IntegerIo
from lepton_converters.weight_rounding import WeightScheme
from lepton_runtime.formats import Format, Target
from lepton_runtime.tensors import Array

Ranges = Mapping[str, tuple[float, float]]
"""The smallest and largest value of each tensor, zero included."""

_INNER_SCOPES = re.compile(r"/((batchnorm|moments)(_\d+)?(?=/|$)|Tensordot(_\d+)?(?=/))")


@dataclass(frozen=True)
class Window:
    """Which activations one output of a convolution sees; each field has one number a spatial axis.

    Attributes:
        kernel: How many it sees.
        strides: From one output to the next.
        dilations: From one that it sees to the next.
        pads: Zeros before the first.
        sizes: How many outputs there are.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator that can compute in 8 bits, with the activation that runtimes fuse into it.

    Attributes:
        kind: What it does, in ONNX' words, such as ``Conv``.
        inputs: The activations it takes, by the names of their tensors.
        output: The tensor it gives, behind the activation.
        weight: The constant that it multiplies by, or ``None``.
        bias: The constant that it adds, or ``None``.
        output_axis: Of the weight, the axis of output channels.
        input_axis: Of the weight, the axis of input channels, those of one group; ``None`` where each channel stays by itself
            (depthwise).
        activation: ``linear``, ``relu``, ``relu6`` (any ceiling above a floor of 0), or ``other``.
        products: How many multiplications of a weight by an activation one sample takes.
        values: How many values one sample gives.
        window: Of a convolution whose rounding can be fitted to data, else ``None``.
        channel_axis: Of what an operator with weights takes and gives, the axis of channels.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    weight: str | None = None
    bias: str | None = None
    output_axis: int = 0
    input_axis: int | None = None
    activation: str = "other"
    products: int = 0
    values: int = 0
    window: Window | None = None
    channel_axis: int = -1


@dataclass(frozen=True)
class Block:
    """Operators of one layer, which are quantized or kept in float together.

    Attributes:
        name: The layer's, from the scopes of its tensors.
        operators: In the order in which they run.
    """

    name: str
    operators: tuple[Operator, ...]

    @property
    def products(self) -> int:
        """How many multiplications one sample takes."""
        return sum(operator.products for operator in self.operators)

    @property
    def values(self) -> int:
        """How many values one sample makes."""
        return sum(operator.values for operator in self.operators)


class FloatGraph(Protocol):
    """A float network that can be looked into, changed in its weights, and quantized."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What can be quantized, in the order in which it runs."""
        ...

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations whose ranges quantization needs."""
        ...

    @property
    def format(self) -> Format:
        """The file format that it becomes."""
        ...

    @property
    def digest(self) -> str:
        """The SHA-256 of the network and of what would be made of it."""
        ...

    def channel_axis(self, tensor: str) -> int | None:
        """The axis of an activation's channels, as the operator that makes it has them; ``None`` if it has none."""
        ...

    def reader_count(self, tensor: str) -> int:
        """How many operators take an activation, those that do not compute in 8 bits and the network's outputs among them."""
        ...

    def values(self, batches: Iterator[Mapping[str, Array]], tensors: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Those activations, batch by batch."""
        ...

    def constant(self, name: str) -> Array:
        """A weight or bias."""
        ...

    def with_constants(self, constants: Mapping[str, Array]) -> "FloatGraph":
        """The same network with other weights and biases."""
        ...

    def with_shared_scales(self) -> "FloatGraph | None":
        """The same network, of which each operator's weights get one scale for all channels; ``None`` where that would not be faster."""
        ...

    def weight_scheme(self, operator: Operator, target: Target) -> WeightScheme:
        """How the weights of an operator become integers."""
        ...

    def quantize(self, ranges: Ranges, *, in_float: frozenset[str], target: Target, io: IntegerIo) -> Artifact:
        """The ``static-int8`` artifact.

        Args:
            ranges: Of all :attr:`tensors`.
            in_float: Names of blocks that keep computing in float32.
            target: The CPU it is for.
            io: The number type at the doors.

        Raises:
            UnsupportedError: It cannot be made.
        """
        ...


def operators_of(blocks: Iterable[Block]) -> list[Operator]:
    """The operators of all those blocks, in order."""
    return [operator for block in blocks for operator in block.operators]


def layer_name(tensor: str) -> str:
    """The layer that a tensor comes from, as far as its name tells.

    >>> layer_name("net_1/re_lu_1/Relu;net_1/conv_1/convolution")
    're_lu_1+conv_1'
    >>> layer_name("net/stem/batch_normalization/batchnorm/add_1:0")
    'stem/batch_normalization'
    """
    scopes = []
    for part in tensor.split(";"):
        path = _INNER_SCOPES.sub("", part.partition(":")[0]).split("/")
        scopes.append("/".join(path[1:-1] if len(path) > 2 else path[:1]))
    return "+".join(dict.fromkeys(scopes))


def gathered(operators: Sequence[Operator]) -> tuple[Block, ...]:
    """Operators of one layer as one block each."""
    blocks: dict[str, list[Operator]] = {}
    for operator in operators:
        blocks.setdefault(layer_name(operator.output), []).append(operator)
    return tuple(Block(name, tuple(found)) for name, found in blocks.items())
