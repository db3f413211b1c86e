"""Layers and functions of Keras 1 and 2 that Keras 3 no longer has."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_converters.keras_names import HARD_SIGMOID, LEGACY_PACKAGE, is_mathematical
from lepton_runtime.errors import UnsupportedError


class _Layers(Mapping[str, Any]):
    """The classes by name; they are made when the first is asked for, since Keras is needed to make them."""

    _NAMES = (
        *("TFOpLambda", "SlicingOpLambda", "ThresholdedReLU", "LocallyConnected1D", "LocallyConnected2D"),
        *("RandomHeight", "RandomWidth", "CroppedToSize"),
    )

    def __getitem__(self, name: str) -> Any:
        if name not in self._NAMES:
            raise KeyError(name)
        return _make_layers()[name]

    def __iter__(self) -> Any:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)


LEGACY_LAYERS: Mapping[str, Any] = _Layers()


def legacy_objects() -> dict[str, Any]:
    """Everything by the name that a configuration of Keras 1 or 2 has for it."""
    return {**LEGACY_LAYERS, HARD_SIGMOID: hard_sigmoid_of_keras_2}


def register_legacy() -> None:
    """Let Keras save and load all of it in its present format.

    So a network of Keras 2 that was trained on is one of Keras 3, and a class of the user's own that is called the same is another.
    """
    register = import_keras().saving.register_keras_serializable
    for made in legacy_objects().values():
        register(LEGACY_PACKAGE)(made)


def hard_sigmoid_of_keras_2(x: Any) -> Any:
    """``0.2 x + 0.5``, cut to 0…1; Keras 3 has ``x / 6 + 0.5``.

    Source: keras/backend/tensorflow_backend.py of Keras 2, ``hard_sigmoid``.
    """
    return import_keras().ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _function(name: str) -> Any:  # Any: TensorFlow has no type hints
    """The TensorFlow function of that public name, if it is one that only computes."""
    import tensorflow as tf

    if is_mathematical(name):
        found: Any = tf
        for part in name.split("."):
            found = getattr(found, part, None)
        if callable(found):
            return found
    raise UnsupportedError(
        f"an operation in a Keras 2 file must be one of TensorFlow's mathematical functions, found {name!r}; "
        "save the model as a SavedModel with the Keras that made it, and export that with --trust-code"
    )


@cache
def _make_layers() -> dict[str, Any]:
    made = (*_operations(), *_locally_connected(), *_random_sizes(), _thresholded(), _cropped())
    return {layer.__name__: layer for layer in made}


def _operations() -> tuple[Any, Any]:
    keras = import_keras()

    class Operation(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """A TensorFlow function that was called on a layer's output."""

        def __init__(self, function: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.function = function
            self._allow_non_tensor_positional_args = True
            self._compute = _function(function)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "function": self.function}

    class TFOpLambda(Operation):
        def call(self, *values: Any, **settings: Any) -> Any:
            settings.pop("name", None)
            return self._compute(*values, **settings)

    class SlicingOpLambda(Operation):
        def call(self, value: Any, slice_spec: Any = ()) -> Any:
            return value[tuple(_slice(part) for part in slice_spec)]

    return TFOpLambda, SlicingOpLambda


def _slice(part: Any) -> Any:
    if isinstance(part, Mapping):
        return slice(part.get("start"), part.get("stop"), part.get("step"))
    return Ellipsis if part == "..." else part


def _thresholded() -> Any:
    keras = import_keras()

    class ThresholdedReLU(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, theta: float = 1.0, **settings: Any) -> None:
            super().__init__(**settings)
            self.theta = float(theta)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "theta": self.theta}

        def call(self, x: Any) -> Any:
            return x * keras.ops.cast(x > self.theta, x.dtype)

    return ThresholdedReLU


def _locally_connected() -> tuple[Any, Any]:
    keras = import_keras()

    class LocallyConnected(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """A convolution with a kernel of its own at each place."""

        def __init__(
            self,
            filters: int,
            kernel_size: Any,
            strides: Any = 1,
            padding: str = "valid",
            data_format: str = "channels_last",
            activation: Any = None,
            use_bias: bool = True,
            implementation: int = 1,
            **settings: Any,
        ) -> None:
            super().__init__(**settings)
            if (padding, data_format, implementation) != ("valid", "channels_last", 1):
                raise UnsupportedError(
                    f"a locally connected layer must have valid padding, channels_last and implementation 1, {self.name!r} has "
                    f"{padding}, {data_format} and {implementation}; build the model again with another layer"
                )
            self.filters, self.use_bias, self.activation = filters, use_bias, keras.activations.get(activation)
            self.kernel_size, self.strides = tuple(kernel_size), tuple(strides)

        def get_config(self) -> dict[str, Any]:
            activation = keras.activations.serialize(self.activation)
            own = {"filters": self.filters, "kernel_size": self.kernel_size, "strides": self.strides, "use_bias": self.use_bias}
            return {**super().get_config(), **own, "activation": activation}

        def build(self, shape: Any) -> None:
            lengths = zip(shape[1:-1], self.kernel_size, self.strides, strict=True)
            self.places = tuple((length - size) // stride + 1 for length, size, stride in lengths)
            kernel_shape = (math.prod(self.places), math.prod(self.kernel_size) * shape[-1], self.filters)
            self.kernel = self.add_weight(shape=kernel_shape, name="kernel")
            self.bias = self.add_weight(shape=(*self.places, self.filters), name="bias") if self.use_bias else None

        def call(self, x: Any) -> Any:
            ops, patches = keras.ops, [x]
            for axis, (size, stride, place) in enumerate(zip(self.kernel_size, self.strides, self.places, strict=True), 1):
                spans = [slice(start, start + (place - 1) * stride + 1, stride) for start in range(size)]
                patches = [patch[(slice(None),) * axis + (span,)] for patch in patches for span in spans]
            count, width, _ = self.kernel.shape
            rows = ops.reshape(ops.stack(patches, axis=-2), (-1, count, width))
            products = ops.transpose(ops.matmul(ops.transpose(rows, (1, 0, 2)), self.kernel), (1, 0, 2))
            outputs = ops.reshape(products, (-1, *self.places, self.filters))
            return self.activation(outputs if self.bias is None else outputs + self.bias)

    class LocallyConnected1D(LocallyConnected):
        pass

    class LocallyConnected2D(LocallyConnected):
        pass

    return LocallyConnected1D, LocallyConnected2D


def _random_sizes() -> tuple[Any, Any]:
    keras = import_keras()

    class RandomSize(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Changes the size of images in training only."""

        def __init__(self, factor: Any = None, interpolation: str = "bilinear", **settings: Any) -> None:
            super().__init__(**settings)

        def call(self, x: Any) -> Any:
            return x

    class RandomHeight(RandomSize):
        pass

    class RandomWidth(RandomSize):
        pass

    return RandomHeight, RandomWidth


def _cropped() -> Any:
    keras = import_keras()

    class CroppedToSize(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """What ``RandomCrop`` of Keras 2 did outside of training: the middle, in the size's aspect ratio, resized to it."""

        def __init__(self, height: int, width: int, **settings: Any) -> None:
            super().__init__(**settings)
            self.height, self.width = height, width

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "height": self.height, "width": self.width}

        def call(self, x: Any) -> Any:
            return keras.ops.image.resize(x, (self.height, self.width), crop_to_aspect_ratio=True)

    return CroppedToSize
