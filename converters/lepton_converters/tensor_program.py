"""A few plain steps on tensors, to be written before or behind a finished network in either file format."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np

from lepton_runtime.tensors import Array

FROM_FRAME, TO_ANSWER = "from_frame", "to_answer"  # the names of the two programs that artifacts may hold
Elementwise = Literal["add", "subtract", "multiply", "divide", "maximum", "minimum"]


@dataclass(frozen=True)
class Tensor:
    """A value of a program.

    Attributes:
        name: Its name in the file.
        shape: All axes are fixed.
        dtype: A numpy name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


def number(value: float) -> Array:
    """A constant for all values of a tensor."""
    return np.array(value, np.float32)


@dataclass(frozen=True)
class Operation:
    """One step.

    Attributes:
        kind: What it does, the name of the method of :class:`Program` that made it, or of an :data:`Elementwise`.
        inputs: Values, and constants.
        outputs: What it gives.
        axis: For kinds that work along one axis.
        order: For kinds that need several whole numbers.
    """

    kind: str
    inputs: tuple[Tensor | Array, ...]
    outputs: tuple[Tensor, ...]
    axis: int = 0
    order: tuple[int, ...] = ()


@dataclass
class Program:
    """Steps in the order in which they run; each method adds one and returns what it gives.

    Attributes:
        name: Stands before the names of all values.
        operations: What was added.
    """

    name: str
    operations: list[Operation] = field(default_factory=list)

    def transpose(self, values: Tensor, order: Sequence[int]) -> Tensor:
        """The same values, axes in another order."""
        return self._add("transpose", (values,), [values.shape[axis] for axis in order], order=order)

    def reshape(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """The same values in order, axes of other lengths; one may be -1, what is left over."""
        shape = tuple(prod(values.shape) // -prod(shape) if length == -1 else length for length in shape)
        return values if shape == values.shape else self._add("reshape", (values,), shape, order=shape)

    def take(self, values: Tensor, indices: Sequence[int] | Tensor, *, axis: int) -> Tensor:
        """The entries of an axis that the indices name, in their order."""
        named = indices if isinstance(indices, Tensor) else np.array(indices, np.int32)
        shape = (*values.shape[:axis], named.shape[0], *values.shape[axis + 1 :])
        return self._add("take", (values, named), shape, axis=axis)

    def pick(self, table: Array, indices: Tensor) -> Tensor:
        """The rows of a constant table ``(rows, columns)`` that the indices name."""
        return self._add("take", (np.asarray(table, np.float32), indices), (indices.shape[0], table.shape[1]), dtype="float32")

    def slice(self, values: Tensor, start: int, length: int, *, axis: int) -> Tensor:
        """A stretch of an axis."""
        shape = (*values.shape[:axis], length, *values.shape[axis + 1 :])
        return self._add("slice", (values,), shape, axis=axis, order=(start, length))

    def concatenate(self, parts: Sequence[Tensor], *, axis: int) -> Tensor:
        """Values one behind the other along an axis."""
        first = parts[0]
        shape = (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1 :])
        return self._add("concatenate", tuple(parts), shape, axis=axis)

    def cast(self, values: Tensor, dtype: str) -> Tensor:
        """The same values as another number type."""
        return values if dtype == values.dtype else self._add("cast", (values,), values.shape, dtype=dtype)

    def elementwise(self, kind: Elementwise, left: Tensor, right: Tensor | Array) -> Tensor:
        """One value for each pair, in float32; the shorter shape is repeated as numpy does."""
        return self._add(kind, (left, right), np.broadcast_shapes(left.shape, right.shape))

    def floor(self, values: Tensor) -> Tensor:
        """The largest whole numbers that are not above."""
        return self._add("floor", (values,), values.shape)

    def exponential(self, values: Tensor) -> Tensor:
        """The exponential of each."""
        return self._add("exponential", (values,), values.shape)

    def sigmoid(self, values: Tensor) -> Tensor:
        """Each between 0 and 1."""
        return self._add("sigmoid", (values,), values.shape)

    def softmax(self, values: Tensor) -> Tensor:
        """Shares of 1 along the last axis."""
        return self._add("softmax", (values,), values.shape)

    def copy(self, values: Tensor) -> Tensor:
        """The same values."""
        return self._add("reshape", (values,), values.shape, order=values.shape)

    def greater(self, left: Tensor, right: Tensor | Array) -> Tensor:
        """Whether the left value is above the right one; it is not where one is NaN."""
        return self._add("greater", (left, right), np.broadcast_shapes(left.shape, right.shape), dtype="bool")

    def both(self, left: Tensor, right: Tensor) -> Tensor:
        """Whether two conditions hold."""
        return self._add("both", (left, right), np.broadcast_shapes(left.shape, right.shape))

    def select(self, condition: Tensor, values: Tensor | Array, others: Tensor | Array) -> Tensor:
        """The values where the condition holds, else the others; all of one type."""
        shape = np.broadcast_shapes(condition.shape, values.shape, others.shape)
        return self._add("select", (condition, values, others), shape, dtype=str(values.dtype))

    def top_k(self, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The largest along the last axis, the largest first, and their places in int32; of equals the first."""
        shape = (*values.shape[:-1], count)
        name = f"{self.name}/{len(self.operations)}_top_k"
        outputs = Tensor(f"{name}/values", shape, values.dtype), Tensor(f"{name}/places", shape, "int32")
        self.operations.append(Operation("top_k", (values,), outputs, order=(count,)))
        return outputs

    def suppress(self, boxes: Tensor, scores: Tensor, *, count: int, iou: float, threshold: float) -> tuple[Tensor, Tensor]:
        """The places of boxes that no better one covers, the best first, and how many there are.

        Args:
            boxes: ``(boxes, 4)``, two opposite corners.
            scores: ``(boxes,)``; those not above the threshold are left out.
            count: How many places there are at the most; behind the last box, they are 0.
            iou: Boxes that share more than this part with a better one give way.
            threshold: See ``scores``.

        Returns:
            ``(count,)`` and ``()``, int32.
        """
        name = f"{self.name}/{len(self.operations)}_suppress"
        outputs = Tensor(f"{name}/places", (count,), "int32"), Tensor(f"{name}/count", (), "int32")
        limits = (np.array(count, np.int32), np.array(iou, np.float32), np.array(threshold, np.float32))
        self.operations.append(Operation("suppress", (boxes, scores, *limits), outputs))
        return outputs

    def dense(self, values: Tensor, weights: Array) -> Tensor:
        """The product with a constant matrix ``(inputs, outputs)`` along the last axis."""
        return self._add("dense", (values, np.asarray(weights, np.float32)), (*values.shape[:-1], weights.shape[1]))

    def products(self, weights: Array, values: Tensor) -> Tensor:
        """Constant matrices ``(blocks, rows, inner)`` times as many matrices ``(blocks, inner, columns)``."""
        return self._add("products", (np.asarray(weights, np.float32), values), (*weights.shape[:2], values.shape[2]))

    def _add(
        self,
        kind: str,
        inputs: tuple[Tensor | Array, ...],
        shape: Sequence[int],
        *,
        dtype: str = "",
        axis: int = 0,
        order: Sequence[int] = (),
    ) -> Tensor:
        known = next(value for value in inputs if isinstance(value, Tensor))
        output = Tensor(f"{self.name}/{len(self.operations)}_{kind}", tuple(shape), dtype or known.dtype)
        self.operations.append(Operation(kind, inputs, (output,), axis, tuple(order)))
        return output
