"""Discretization and category encoding, while a model is traced, in operators that both file formats have, with the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced


@contextmanager
def traced_ops() -> Iterator[None]:
    """Keras with those functions replaced, until the context ends; image layers take integers as they do outside of a graph."""
    import_keras()
    from keras.src.backend.tensorflow import numpy
    from keras.src.utils import backend_utils, numerical_utils

    replacements: list[tuple[Any, str, Callable[..., Any]]] = [
        (numpy, "digitize", digitize),
        (numerical_utils, "encode_categorical_inputs", _encode(numerical_utils.encode_categorical_inputs)),
        # Within a graph, Keras' image layers make float of what they take; the model itself is run outside of one.
        (backend_utils, "in_tf_graph", lambda: False),
    ]
    with replaced(replacements):
        yield


def digitize(x: Any, bins: Sequence[float]) -> Any:  # Any: TensorFlow has no type hints
    """How many of the boundaries are not above each value; all for NaN.

    Source: tensorflow/core/kernels/bucketize_op.cc compares in float32, or in float64 for values of that type.
    """
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    x = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    boundaries = tf.cast(tf.constant([float(value) for value in bins], tf.float32), x.dtype)
    is_below = tf.less(x[..., None], boundaries)
    return tf.reduce_sum(tf.cast(tf.logical_not(is_below), tf.int32), axis=-1)


def _encode(original: Callable[..., Any]) -> Callable[..., Any]:
    """One-hot, multi-hot and counted categories by comparing with each; an id that has no place gives zeros.

    Source: keras numerical_utils.encode_categorical_inputs.
    """
    import tensorflow as tf

    def encode_categorical_inputs(inputs: Any, output_mode: str, depth: int, dtype: str, **options: Any) -> Any:
        rank = len(inputs.shape)
        if output_mode == "int" or options.get("sparse") or rank == 0 or (output_mode != "one_hot" and rank > 2):
            return original(inputs, output_mode, depth, dtype, **options)
        if output_mode == "one_hot" and rank > 1 and inputs.shape[-1] == 1:
            inputs = tf.squeeze(inputs, axis=-1)
        is_here = tf.equal(inputs[..., None], tf.range(depth, dtype=inputs.dtype))
        weights = options.get("count_weights")
        places = tf.cast(is_here, dtype if weights is None or output_mode != "count" else weights.dtype)
        if output_mode == "one_hot":
            return places
        if output_mode == "multi_hot":
            return tf.reduce_max(places, axis=-2)
        return tf.cast(tf.reduce_sum(places if weights is None else places * weights[..., None], axis=-2), dtype)

    return encode_categorical_inputs
