"""Dropout that is kept when a network is used: arithmetic on noise that comes in as inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_runtime.errors import UnsupportedError

Take = Callable[[str, tuple[int | None, ...]], Any]
"""Gives noise of 0…1 for a mask of that shape, for the layer of that name."""


@dataclass(frozen=True)
class Mask:
    """One mask that a network draws in each call.

    Attributes:
        layer: Which layer drops values by it.
        shape: Its own, batch axis first; ``None`` for a free axis.
    """

    layer: str
    shape: tuple[int | None, ...]


@contextmanager
def kept_dropout(take: Take, *, everywhere: bool) -> Iterator[None]:
    """Within it, dropout layers, recurrent ones and attention drop the values whose noise is below their rate.

    Args:
        take: Where noise comes from, asked once a mask in the order in which the network draws them.
        everywhere: Keep all dropout; else only that which is called with ``training=True``.

    Source: tf.nn.dropout: a value is kept where uniform noise reaches the rate, and then divided by what is left of 1.
    """
    keras = import_keras()
    from keras.src.backend.tensorflow import random
    from keras.src.layers.attention.attention import Attention
    from keras.src.layers.regularization.spatial_dropout import BaseSpatialDropout
    from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

    dropping: list[str] = []  # the names of the layers that drop values, the innermost last

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        import tensorflow as tf

        if not dropping or rate == 0:
            return inputs
        wanted = tuple(inputs.shape) if noise_shape is None else tuple(noise_shape)
        shape = tuple(own if axis is None else axis for axis, own in zip(wanted, inputs.shape, strict=True))
        if rate >= 1:
            return tf.zeros_like(inputs)
        kept = tf.cast(take(dropping[-1], shape) >= rate, inputs.dtype)
        return inputs * (kept * tf.constant(1 / (1 - rate), inputs.dtype))

    def calling(original: Any, drops: Callable[[Any], bool]) -> Any:
        def call(layer: Any, *values: Any, training: Any = False, **settings: Any) -> Any:
            is_kept = drops(layer) and (everywhere or training is True)
            if not is_kept:
                # A recurrent layer draws its masks whether or not it uses them: nobody is to ask for noise then.
                hidden, dropping[:] = dropping[:], []
                try:
                    return original(layer, *values, training=training, **settings)
                finally:
                    dropping[:] = hidden
            dropping.append(layer.name)
            try:
                return original(layer, *values, training=True, **settings)
            finally:
                dropping.pop()

        return call

    def has_cells(layer: Any) -> bool:
        cells = getattr(layer.cell, "cells", [layer.cell])
        return all(isinstance(cell, DropoutRNNCell) for cell in cells) and any(cell.dropout or cell.recurrent_dropout for cell in cells)

    replaced = [
        (random, "dropout", dropout),
        (keras.layers.Dropout, "call", calling(keras.layers.Dropout.call, lambda layer: True)),
        (BaseSpatialDropout, "call", calling(BaseSpatialDropout.call, lambda layer: True)),
        (Attention, "call", calling(Attention.call, lambda layer: bool(layer.dropout))),
        (keras.layers.RNN, "call", calling(keras.layers.RNN.call, has_cells)),
    ]
    originals = [getattr(holder, name) for holder, name, _ in replaced]
    for holder, name, function in replaced:
        setattr(holder, name, function)
    try:
        yield
    finally:
        for (holder, name, _), original in zip(replaced, originals, strict=True):
            setattr(holder, name, original)


def record_masks(call: Callable[[], Any], *, everywhere: bool) -> list[Mask]:
    """Which masks a network draws when it is called, in their order; nothing is dropped."""
    import tensorflow as tf

    found: list[Mask] = []

    def take(layer: str, shape: tuple[int | None, ...]) -> Any:
        found.append(Mask(layer, shape))
        return tf.ones([1] * len(shape))

    with kept_dropout(take, everywhere=everywhere):
        call()
    return found


def noise_shape(mask: Mask, batch: int | None) -> tuple[int | None, ...]:
    """The shape of the input that a mask is made of, with the batch axis first.

    Raises:
        UnsupportedError: It has an axis of free size, or all samples of a batch share one mask.
    """
    first, *rest = mask.shape
    if None in rest:
        raise UnsupportedError(
            f"dropout that is kept must have fixed sizes, the mask of {mask.layer!r} is {mask.shape}; fix them with --size, or build the "
            "model for one size"
        )
    if first is None or batch is None or first == batch:
        return (batch, *rest)
    if first % batch:
        raise UnsupportedError(
            f"dropout that is kept must have a mask a sample, {mask.layer!r} has {first} for a batch of {batch}; give --batch 1"
        )
    return (batch, first // batch, *rest)  # steps of a sequence, as samples of their own


class Noise:
    """Noise inputs, handed out in the order of the masks."""

    def __init__(self, masks: Sequence[Mask], tensors: Sequence[Any]) -> None:
        """Prepare for one call of the network.

        Args:
            masks: As :func:`record_masks` found them.
            tensors: One a mask, of :func:`noise_shape`.
        """
        self._left = list(zip(masks, tensors, strict=True))

    def take(self, layer: str, shape: tuple[int | None, ...]) -> Any:
        """See :data:`Take`."""
        import tensorflow as tf

        if not self._left or self._left[0][0].layer != layer:
            raise UnsupportedError(f"dropout that is kept must draw the same masks in each call, {layer!r} draws another")
        _, tensor = self._left.pop(0)
        return tensor if len(tensor.shape) == len(shape) else tf.reshape(tensor, (-1, *shape[1:]))
