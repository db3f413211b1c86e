"""The eight networks; each takes ``(32, 32, 3)`` normalized images, the LSTM ``(28, 28)`` digits from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers

Tensor = keras.KerasTensor
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """One of the zoo.

    Attributes:
        build: Gives it untrained.
        epochs: How long it is trained, on batches of 64.
        rate: The largest learning rate.
        of_digits: Whether it takes digits instead of photos.
    """

    build: Callable[[], keras.Model]
    epochs: int
    rate: float = 2e-3
    of_digits: bool = False


def _conv(x: Tensor, filters: int, kernel: int, stride: int = 1, *, bias: bool = True) -> Tensor:
    decay = keras.regularizers.L2(1e-4)
    settings = {"padding": "same", "use_bias": bias, "kernel_initializer": "he_normal", "kernel_regularizer": decay}
    return layers.Conv2D(filters, kernel, stride, **settings)(x)


def _bare(x: Tensor, filters: int, kernel: int, stride: int = 1) -> Tensor:
    """A convolution without bias and what normalizes it."""
    return layers.BatchNormalization()(_conv(x, filters, kernel, stride, bias=False))


def _depthwise(x: Tensor, kernel: int, stride: int) -> Tensor:
    settings = {"padding": "same", "use_bias": False, "depthwise_initializer": "he_normal"}
    return layers.BatchNormalization()(layers.DepthwiseConv2D(kernel, stride, **settings)(x))


def _classified(inputs: Tensor, x: Tensor, name: str) -> keras.Model:
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x), name=name)


def _image() -> Tensor:
    return keras.Input((32, 32, 3), name="image")


def resnet8() -> keras.Model:
    """The image-classification network of MLPerf Tiny (Banbury et al. 2021): three residual stacks, 78,666 weights."""
    inputs = _image()
    x = layers.ReLU()(layers.BatchNormalization()(_conv(inputs, 16, 3)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(_conv(x, filters, 3, stride)))
        y = layers.BatchNormalization()(_conv(y, filters, 3))
        shortcut = x if stride == 1 else _conv(x, filters, 1, stride)
        x = layers.ReLU()(layers.add([shortcut, y]))
    return _classified(inputs, layers.GlobalAveragePooling2D()(x), "resnet8")


def _gate(x: Tensor, reduced: int, inner: Activation, outer: Activation) -> Tensor:
    """Squeeze-and-excitation (Hu et al. 2018)."""
    scores = layers.GlobalAveragePooling2D(keepdims=True)(x)
    scores = inner(layers.Conv2D(reduced, 1)(scores))
    return layers.multiply([x, outer(layers.Conv2D(x.shape[-1], 1)(scores))])


def _inverted(x: Tensor, *, expand: int, filters: int, kernel: int, stride: int, activation: Activation, gate: Activation | None) -> Tensor:
    """An inverted residual block (Sandler et al. 2018), with a gate if there is one."""
    y = activation(_bare(x, expand * x.shape[-1], 1)) if expand > 1 else x
    y = activation(_depthwise(y, kernel, stride))
    if gate:
        y = gate(y)
    y = _bare(y, filters, 1)
    return layers.add([x, y]) if stride == 1 and x.shape[-1] == filters else y


def _mobile(name: str, activation: Activation, gate: Activation | None, kernel: int) -> keras.Model:
    inputs = _image()
    x = activation(_bare(inputs, 16, 3))
    for expand, filters, stride in ((1, 16, 1), (4, 24, 2), (4, 24, 1), (4, 40, 2), (4, 40, 1), (4, 64, 2)):
        x = _inverted(x, expand=expand, filters=filters, kernel=kernel, stride=stride, activation=activation, gate=gate)
    x = layers.GlobalAveragePooling2D()(activation(_bare(x, 192, 1)))
    return _classified(inputs, layers.Dropout(0.1)(x), name)


def mobilenetv2() -> keras.Model:
    """Depthwise convolutions, ReLU6, linear bottlenecks (Sandler et al. 2018)."""
    return _mobile("mobilenetv2", lambda x: layers.ReLU(6.0)(x), None, 3)


def mobilenetv3() -> keras.Model:
    """Hard-swish and gates of a hard sigmoid (Howard et al. 2019)."""
    hard_swish, hard_sigmoid = (lambda x, n=name: layers.Activation(n)(x) for name in ("hard_swish", "hard_sigmoid"))
    return _mobile("mobilenetv3", hard_swish, lambda x: _gate(x, x.shape[-1] // 4, lambda y: layers.ReLU()(y), hard_sigmoid), 5)


def efficientnet() -> keras.Model:
    """Swish and gates of a sigmoid (Tan and Le 2019)."""
    swish, sigmoid = (lambda x, n=name: layers.Activation(n)(x) for name in ("swish", "sigmoid"))
    return _mobile("efficientnet", swish, lambda x: _gate(x, max(4, x.shape[-1] // 16), swish, sigmoid), 3)


def densenet() -> keras.Model:
    """Concatenations behind bottlenecks, and compressing transitions (DenseNet-BC, Huang et al. 2017), growth 12."""
    inputs = _image()
    x = _conv(inputs, 24, 3, bias=False)
    for block in range(3):
        if block:
            x = _conv(layers.ReLU()(layers.BatchNormalization()(x)), x.shape[-1] // 2, 1, bias=False)
            x = layers.AveragePooling2D(2)(x)
        for _ in range(4):
            y = _conv(layers.ReLU()(layers.BatchNormalization()(x)), 48, 1, bias=False)
            y = _conv(layers.ReLU()(layers.BatchNormalization()(y)), 12, 3, bias=False)
            x = layers.concatenate([x, y])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return _classified(inputs, layers.GlobalAveragePooling2D()(x), "densenet")


def vgg() -> keras.Model:
    """Plain convolutions with biases and nothing that normalizes (Simonyan and Zisserman 2015)."""
    inputs = x = _image()
    for filters in (32, 64, 96):
        for _ in range(2):
            x = layers.ReLU()(_conv(x, filters, 3))
        x = layers.Dropout(0.2)(layers.MaxPooling2D()(x))
    x = layers.ReLU()(layers.Dense(128)(layers.Flatten()(x)))
    return _classified(inputs, layers.Dropout(0.4)(x), "vgg")


def vit() -> keras.Model:
    """Attention, LayerNorm and GELU on 64 patches that convolutions make (Dosovitskiy et al. 2021, Hassani et al. 2021)."""
    inputs = _image()
    x = inputs
    for filters in (32, 64):
        x = layers.MaxPooling2D()(layers.ReLU()(_conv(x, filters, 3)))
    x = layers.Reshape((64, 64))(x)
    for _ in range(3):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.add([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(128, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.add([x, layers.Dropout(0.1)(layers.Dense(64)(y))])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return _classified(inputs, layers.GlobalAveragePooling1D()(x), "vit")


def lstm() -> keras.Model:
    """Reads a digit row by row."""
    inputs = keras.Input((28, 28), name="rows")
    return _classified(inputs, layers.LSTM(64)(inputs), "lstm")


NETWORKS = {
    "resnet8": Network(resnet8, 24),
    "mobilenetv2": Network(mobilenetv2, 24),
    "mobilenetv3": Network(mobilenetv3, 24),
    "efficientnet": Network(efficientnet, 12),
    "densenet": Network(densenet, 10),
    "vgg": Network(vgg, 12, 1e-3),
    "vit": Network(vit, 15, 1e-3),
    "lstm": Network(lstm, 10, 3e-3, of_digits=True),
}
