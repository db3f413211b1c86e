"""Keras' mathematical functions, while a model is traced, in operators that both formats have."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_converters.keras_loading import import_keras
from lepton_converters.replaced import replaced
from lepton_runtime.formats import Format


@contextmanager
def traced_functions(format_: Format) -> Iterator[None]:
    """Places of extremes, spectra and, on request, elementary functions in other words, until the context ends.

    TFLite has a Fourier transform, but none of the hyperbolic and few of the trigonometric functions; ONNX the other way round.

    Args:
        format_: What the graph is converted to.
    """
    import tensorflow as tf

    import_keras()
    from keras.src.backend.tensorflow import math, nn, numpy

    functions: list[tuple[Any, str, Any]] = [
        (numpy, "argmax", _place(tf.argmax)),
        (numpy, "argmin", _place(tf.argmin)),
        (nn, "celu", _celu),
    ]
    if format_ == Format.ONNX:
        functions.append((math, "stft", _stft(math.stft)))
    else:
        functions += [(numpy, name, _floating(function)) for name, function in _elementary().items()]
    with replaced(functions):
        yield


def _place(operator: Callable[..., Any]) -> Callable[..., Any]:
    """ArgMax or ArgMin itself; Keras 3.15 tells -0.0 from 0.0 by their bits, which no converter can."""
    import tensorflow as tf

    def place(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        x = tf.convert_to_tensor(x)
        found = operator(tf.reshape(x, [-1]) if axis is None else x, axis=axis or 0, output_type=tf.int32)
        if not keepdims:
            return found
        return tf.reshape(found, [1] * len(x.shape)) if axis is None else tf.expand_dims(found, axis)

    return place


def _celu(x: Any, alpha: float = 1.0) -> Any:
    """By the exponential linear unit, which both formats have; in 8 bits TFLite computes an Expm1 wrongly."""
    import tensorflow as tf

    return alpha * tf.nn.elu(tf.convert_to_tensor(x) / alpha)


@dataclass(frozen=True)
class _Spectrum:
    """Complex numbers as two tensors: neither format computes with complex ones."""

    real: Any
    imaginary: Any


def _stft(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keras' own, whose inner transform is a product with cosines and sines, for signals of known length."""
    import tensorflow as tf

    def stft(x: Any, *arguments: Any, **settings: Any) -> Any:
        if x.shape[-1] is None:
            return original(x, *arguments, **settings)
        parts = [(tf.signal, "stft", _transform), (tf.math, "real", lambda pair: pair.real), (tf.math, "imag", lambda pair: pair.imaginary)]
        with replaced(parts):
            return original(x, *arguments, **settings)

    return stft


def _transform(signals: Any, *, frame_length: int, frame_step: int, fft_length: int, window_fn: Callable[..., Any] | None) -> _Spectrum:
    """What Keras asks of TensorFlow's short-time Fourier transform, for ``fft_length >= frame_length``."""
    import tensorflow as tf

    starts = np.arange(0, signals.shape[-1] - frame_length + 1, frame_step)
    frames = tf.gather(signals, starts[:, None] + np.arange(frame_length), axis=-1)
    if window_fn is not None:
        frames *= window_fn(frame_length, dtype=signals.dtype)
    angles = 2 * np.pi * np.outer(np.arange(frame_length), np.arange(fft_length // 2 + 1)) / fft_length
    real, imaginary = (tf.matmul(frames, tf.constant(wave.astype(np.float32))) for wave in (np.cos(angles), -np.sin(angles)))
    return _Spectrum(real, imaginary)


def _floating(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tensorflow as tf

    return lambda x: function(tf.cast(tf.convert_to_tensor(x), tf.float32))


def _elementary() -> dict[str, Callable[[Any], Any]]:
    """Functions that TFLite lacks, by those that it has; near zero they are exact to some 1e-7, not to 1e-7 of their value."""
    import tensorflow as tf

    def leg(x: Any) -> Any:
        """The other leg of a right triangle with hypotenuse 1."""
        return tf.sqrt((1 - x) * (1 + x))

    return {
        "cosh": lambda x: (tf.exp(x) + tf.exp(-x)) / 2,
        "sinh": lambda x: (tf.exp(x) - tf.exp(-x)) / 2,
        "tan": lambda x: tf.sin(x) / tf.cos(x),
        "arctan": lambda x: tf.atan2(x, tf.ones_like(x)),
        "arcsin": lambda x: tf.atan2(x, leg(x)),
        "arccos": lambda x: tf.atan2(leg(x), x),
        "arcsinh": lambda x: tf.sign(x) * tf.math.log(tf.abs(x) + tf.sqrt(x * x + 1)),
        "arctanh": lambda x: tf.math.log((1 + x) / (1 - x)) / 2,
    }
