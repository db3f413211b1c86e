"""Dropout that is kept when a network is used: arithmetic on noise that comes in as inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced
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
    from keras.src.backend.common.name_scope import current_path
    from keras.src.backend.tensorflow import random
    from keras.src.layers.attention.attention import Attention
    from keras.src.layers.regularization.spatial_dropout import BaseSpatialDropout

    # The names of the layers that drop values, the innermost last; None for one that draws masks and uses none.
    dropping: list[str | None] = []

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        import tensorflow as tf

        if rate == 0:
            return inputs
        if not dropping:
            raise UnsupportedError(
                "dropout that is kept must be a layer of Keras, it is drawn by a function (keras.random.dropout) in "
                f"{current_path() or 'the model'!r}; let that layer hold a keras.layers.Dropout and call it with training=True"
            )
        if dropping[-1] is None:
            return inputs
        wanted = tuple(inputs.shape) if noise_shape is None else tuple(noise_shape)
        shape = tuple(own if axis is None else axis for axis, own in zip(wanted, inputs.shape, strict=True))
        if rate >= 1:
            return tf.zeros_like(inputs)
        kept = tf.cast(take(dropping[-1], shape) >= rate, inputs.dtype)
        return inputs * (kept * tf.constant(1 / (1 - rate), inputs.dtype))

    def calling(original: Any, drops: Callable[[Any], bool], draws: Callable[[Any], bool] = lambda layer: True) -> Any:
        def call(layer: Any, *values: Any, training: Any = False, **settings: Any) -> Any:
            if not draws(layer):
                return original(layer, *values, training=training, **settings)
            is_kept = drops(layer) and (everywhere or training is True)
            # A recurrent layer draws its masks whether or not it uses them: nobody is to ask for noise then.
            dropping.append(layer.name if is_kept else None)
            try:
                return original(layer, *values, training=is_kept or training, **settings)
            finally:
                dropping.pop()

        return call

    functions = [
        (random, "dropout", dropout),
        (keras.layers.Dropout, "call", calling(keras.layers.Dropout.call, lambda layer: True)),
        (BaseSpatialDropout, "call", calling(BaseSpatialDropout.call, lambda layer: True)),
        (Attention, "call", calling(Attention.call, lambda layer: bool(layer.dropout))),
        (keras.layers.RNN, "call", calling(keras.layers.RNN.call, _drops, _draws)),
    ]
    with replaced(functions):
        yield


def _masked_cells(layer: Any) -> list[bool]:
    """Of each cell of a recurrent layer, whether it is one of those of Keras, which draw masks."""
    from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

    return [isinstance(cell, DropoutRNNCell) for cell in getattr(layer.cell, "cells", [layer.cell])]


def _draws(layer: Any) -> bool:
    return any(_masked_cells(layer))


def _drops(layer: Any) -> bool:
    cells = getattr(layer.cell, "cells", [layer.cell])
    return all(_masked_cells(layer)) and any(cell.dropout or cell.recurrent_dropout for cell in cells)


@contextmanager
def explicit_training(layers: Sequence[Any]) -> Iterator[None]:
    """Within it, ``training=True`` in a model's own call of one of these layers holds in a model that is called with another.

    Everything else, such as augmentation, whose calls say ``training=True`` by themselves, gets what the model gets.

    Source: ``operation_fn`` in keras/src/models/functional.py, which replaces the argument in every call.
    """
    from keras.src.models import functional

    original = functional.operation_fn

    def operation_fn(operation: Any, **context: Any) -> Any:
        def call(*values: Any, **settings: Any) -> Any:
            is_explicit = settings.get("training") is True and any(operation is layer for layer in layers)
            return original(operation, **(context | {"training": True} if is_explicit else context))(*values, **settings)

        return call

    with replaced([(functional, "operation_fn", operation_fn)]):
        yield


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
