"""Cases of the layers that compute on numbers: convolutions, pooling, normalization, merging, shapes, activations."""

from collections.abc import Callable, Iterator
from typing import Any

from coverage_cases.case import Case, Door, flags, layer, positive

# Wide enough for 1024 weights a layer: TensorFlow leaves smaller tensors of dynamic-int8 files as they are.
ROW, SEQUENCE, IMAGE, VOLUME = Door((32,)), Door((12, 16)), Door((8, 8, 8)), Door((4, 6, 6, 8))
SEQUENCE_FIRST, IMAGE_FIRST, VOLUME_FIRST = Door((16, 12)), Door((8, 8, 8)), Door((8, 4, 6, 6))
FILTERS = {1: 48, 2: 32, 3: 32}
DEPTHWISE = {1: Door((12, 352)), 2: Door((8, 8, 128))}
DEPTHWISE_FIRST = {1: Door((352, 12)), 2: Door((128, 8, 8))}
LAST = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}
FIRST = {1: SEQUENCE_FIRST, 2: IMAGE_FIRST, 3: VOLUME_FIRST}
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear"),
    *("log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign"),
    *("sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink"),
)


def convolutions() -> Iterator[Case]:
    """Conv, transposed, depthwise and separable ones."""
    for rank in (1, 2, 3):
        name = f"Conv{rank}D"
        variants: dict[str, dict[str, Any]] = {
            "valid": {},
            "same": {"padding": "same"},
            "stride 2": {"strides": 2},
            "same, stride 2": {"padding": "same", "strides": 2},
            "dilation 2": {"dilation_rate": 2, "kernel_size": 2},
            "same, dilation 2": {"dilation_rate": 2, "padding": "same", "kernel_size": 2},
            "groups 2": {"groups": 2},
            "pointwise": {"kernel_size": 1},
            "no bias": {"use_bias": False},
            "relu": {"activation": "relu"},
        }
        if rank == 1:
            variants["causal"] = {"padding": "causal"}
            variants["causal, dilation 2"] = {"padding": "causal", "dilation_rate": 2}
        yield from variants_of(name, rank, variants, {"filters": FILTERS[rank], "kernel_size": 3})
    for rank in (1, 2, 3):
        variants = {
            "valid": {},
            "same": {"padding": "same"},
            "stride 2": {"strides": 2},
            "same, stride 2": {"padding": "same", "strides": 2},
            "kernel 2, stride 2": {"kernel_size": 2, "strides": 2},
            "kernel 4, stride 2, same": {"kernel_size": 4, "strides": 2, "padding": "same"},
            "stride 2, output padding": {"strides": 2, "output_padding": 1},
            "no bias": {"use_bias": False},
            "relu": {"activation": "relu"},
        }
        yield from variants_of(f"Conv{rank}DTranspose", rank, variants, {"filters": FILTERS[rank], "kernel_size": 3})
        dilated = {"filters": FILTERS[rank], "kernel_size": 3, "dilation_rate": 2}
        yield layer(
            f"Conv{rank}DTranspose: dilation 2", LAST[rank], lambda layers, r=rank, s=dilated: kind(layers, f"Conv{r}DTranspose")(**s)
        )
    for rank in (1, 2):
        depthwise: dict[str, dict[str, Any]] = {
            "valid": {},
            "same": {"padding": "same"},
            "stride 2": {"strides": 2},
            "same, stride 2": {"padding": "same", "strides": 2},
            "dilation 2": {"dilation_rate": 2},
            "depth multiplier 2": {"depth_multiplier": 2},
            "no bias": {"use_bias": False},
            "relu": {"activation": "relu"},
        }
        yield from variants_of(f"DepthwiseConv{rank}D", rank, depthwise, {"kernel_size": 3}, doors=(DEPTHWISE[rank], DEPTHWISE_FIRST[rank]))
        yield from variants_of(f"SeparableConv{rank}D", rank, depthwise, {"filters": FILTERS[rank], "kernel_size": 3})


def variants_of(
    name: str,
    rank: int,
    variants: dict[str, dict[str, Any]],
    settings: dict[str, Any],
    *,
    doors: tuple[Door, Door] | None = None,
) -> Iterator[Case]:
    """One case a variant, and one with the channels first; ``doors`` are what the two take."""
    last, first = doors or (LAST[rank], FIRST[rank])
    for variant, changed in variants.items():
        yield layer(f"{name}: {variant}", last, lambda layers, s={**settings, **changed}: kind(layers, name)(**s))
    changed = {**settings, "data_format": "channels_first"}
    yield layer(f"{name}: channels first", first, lambda layers: kind(layers, name)(**changed))


def kind(layers: Any, name: str) -> Callable[..., Any]:
    """The layer class of that name."""
    found: Callable[..., Any] = getattr(layers, name)
    return found


def pooling() -> Iterator[Case]:
    """Windows, global and adaptive ones."""
    for rank in (1, 2, 3):
        for method in ("Average", "Max"):
            variants: dict[str, dict[str, Any]] = {
                "valid": {},
                "same": {"padding": "same", "pool_size": 3},
                "overlapping": {"pool_size": 3, "strides": 1},
                "same, overlapping": {"pool_size": 3, "strides": 2, "padding": "same"},
            }
            yield from variants_of(f"{method}Pooling{rank}D", rank, variants, {"pool_size": 2})
            variants = {"flat": {}, "keepdims": {"keepdims": True}}
            yield from variants_of(f"Global{method}Pooling{rank}D", rank, variants, {})
            # Keras 3.15 itself fails for an output of one: it asks for windows larger than the input
            variants = {"dividing": {"output_size": 2}, "not dividing": {"output_size": 3 if rank == 3 else 5}}
            yield from variants_of(f"Adaptive{method}Pooling{rank}D", rank, variants, {"output_size": 2})


def normalization() -> Iterator[Case]:
    """All of them, with their options."""
    name = "BatchNormalization"
    yield layer(f"{name}: row", ROW, lambda layers: layers.BatchNormalization())
    yield layer(f"{name}: sequence", SEQUENCE, lambda layers: layers.BatchNormalization())
    yield layer(f"{name}: image", IMAGE, lambda layers: layers.BatchNormalization())
    yield layer(f"{name}: volume", VOLUME, lambda layers: layers.BatchNormalization())
    yield layer(f"{name}: axis 1", IMAGE_FIRST, lambda layers: layers.BatchNormalization(axis=1))
    yield layer(f"{name}: no scale", IMAGE, lambda layers: layers.BatchNormalization(scale=False))
    yield layer(f"{name}: no center", IMAGE, lambda layers: layers.BatchNormalization(center=False, epsilon=1e-5))
    yield Case(
        f"{name}: behind Conv2D",
        (IMAGE,),
        lambda keras, x: keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(32, 3, use_bias=False)(x))),
    )
    yield Case(
        f"{name}: behind Conv2DTranspose",
        (IMAGE,),
        lambda keras, x: keras.layers.BatchNormalization()(keras.layers.Conv2DTranspose(32, 3)(x)),
    )
    yield Case(f"{name}: behind Dense", (ROW,), lambda keras, x: keras.layers.BatchNormalization()(keras.layers.Dense(32)(x)))
    yield Case(f"{name}: before Conv2D", (IMAGE,), lambda keras, x: keras.layers.Conv2D(32, 3)(keras.layers.BatchNormalization()(x)))
    yield layer("LayerNormalization: row", ROW, lambda layers: layers.LayerNormalization())
    yield layer("LayerNormalization: sequence", SEQUENCE, lambda layers: layers.LayerNormalization())
    yield layer("LayerNormalization: image", IMAGE, lambda layers: layers.LayerNormalization())
    yield layer("LayerNormalization: axes", IMAGE, lambda layers: layers.LayerNormalization(axis=[1, 2, 3]))
    yield layer("LayerNormalization: axis 1", SEQUENCE, lambda layers: layers.LayerNormalization(axis=1))
    yield layer("LayerNormalization: plain", SEQUENCE, lambda layers: layers.LayerNormalization(center=False, scale=False))
    yield layer("GroupNormalization: image", IMAGE, lambda layers: layers.GroupNormalization(groups=2))
    yield layer("GroupNormalization: sequence", SEQUENCE, lambda layers: layers.GroupNormalization(groups=2))
    yield layer("GroupNormalization: instance", IMAGE, lambda layers: layers.GroupNormalization(groups=-1))
    yield layer("GroupNormalization: one group", IMAGE, lambda layers: layers.GroupNormalization(groups=1, center=False))
    yield layer("GroupNormalization: axis 1", IMAGE_FIRST, lambda layers: layers.GroupNormalization(groups=2, axis=1))
    yield layer("RMSNormalization: row", ROW, lambda layers: layers.RMSNormalization())
    yield layer("RMSNormalization: sequence", SEQUENCE, lambda layers: layers.RMSNormalization())
    yield layer("UnitNormalization: row", ROW, lambda layers: layers.UnitNormalization())
    yield layer("UnitNormalization: axes", IMAGE, lambda layers: layers.UnitNormalization(axis=[1, 2]))
    yield layer("SpectralNormalization: Conv2D", IMAGE, lambda layers: layers.SpectralNormalization(layers.Conv2D(32, 3)))
    yield layer("SpectralNormalization: Dense", ROW, lambda layers: layers.SpectralNormalization(layers.Dense(32)))


def merging() -> Iterator[Case]:
    """Layers with several inputs."""
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        yield Case(f"{name}: two", (IMAGE, IMAGE), lambda keras, *x, n=name: kind(keras.layers, n)()(list(x)))
        yield Case(f"{name}: broadcast", (IMAGE, Door((1, 1, 8))), lambda keras, *x, n=name: kind(keras.layers, n)()(list(x)))
        if name != "Subtract":
            yield Case(f"{name}: three", (ROW, ROW, ROW), lambda keras, *x, n=name: kind(keras.layers, n)()(list(x)))
    yield Case("Concatenate: last axis", (IMAGE, IMAGE), lambda keras, *x: keras.layers.Concatenate()(list(x)))
    yield Case("Concatenate: axis 1", (IMAGE, IMAGE), lambda keras, *x: keras.layers.Concatenate(axis=1)(list(x)))
    yield Case("Concatenate: three rows", (ROW, Door((3,)), ROW), lambda keras, *x: keras.layers.Concatenate()(list(x)))
    yield Case(
        "Concatenate: of two Conv2D", (IMAGE,), lambda keras, x: keras.layers.Concatenate()([keras.layers.Conv2D(16, 3)(x) for _ in "ab"])
    )
    yield Case("Dot: rows", (ROW, ROW), lambda keras, *x: keras.layers.Dot(axes=1)(list(x)))
    yield Case("Dot: normalized", (ROW, ROW), lambda keras, *x: keras.layers.Dot(axes=1, normalize=True)(list(x)))
    yield Case("Dot: sequences", (SEQUENCE, Door((6, 16))), lambda keras, *x: keras.layers.Dot(axes=2)(list(x)))
    yield Case("Dot: two axes", (SEQUENCE, Door((16, 6))), lambda keras, *x: keras.layers.Dot(axes=(2, 1))(list(x)))


def shapes() -> Iterator[Case]:
    """Reshaping, cropping, padding, up-sampling."""
    yield layer("Flatten: image", IMAGE, lambda layers: layers.Flatten())
    yield layer("Flatten: channels first", IMAGE_FIRST, lambda layers: layers.Flatten(data_format="channels_first"))
    yield Case("Flatten: before Dense", (IMAGE,), lambda keras, x: keras.layers.Dense(32)(keras.layers.Flatten()(x)))
    yield layer("Reshape: sizes", IMAGE, lambda layers: layers.Reshape((32, 16)))
    yield layer("Reshape: one free", IMAGE, lambda layers: layers.Reshape((-1, 8)))
    yield layer("Permute: image", IMAGE, lambda layers: layers.Permute((3, 1, 2)))
    yield layer("Permute: sequence", SEQUENCE, lambda layers: layers.Permute((2, 1)))
    yield layer("RepeatVector", ROW, lambda layers: layers.RepeatVector(3))
    yield layer("Cropping1D: even", SEQUENCE, lambda layers: layers.Cropping1D(2))
    yield layer("Cropping1D: uneven", SEQUENCE, lambda layers: layers.Cropping1D((1, 3)))
    yield layer("ZeroPadding1D: even", SEQUENCE, lambda layers: layers.ZeroPadding1D(2))
    yield layer("ZeroPadding1D: uneven", SEQUENCE, lambda layers: layers.ZeroPadding1D((1, 3)))
    yield layer("ZeroPadding1D: channels first", SEQUENCE_FIRST, lambda layers: layers.ZeroPadding1D(2, data_format="channels_first"))
    for rank in (2, 3):
        uneven = ((1, 0), (2, 1), (0, 1))[:rank]
        for name in (f"Cropping{rank}D", f"ZeroPadding{rank}D"):
            yield layer(f"{name}: even", LAST[rank], lambda layers, n=name: kind(layers, n)(1))
            yield layer(f"{name}: uneven", LAST[rank], lambda layers, n=name, u=uneven: kind(layers, n)(u))
            yield layer(f"{name}: channels first", FIRST[rank], lambda layers, n=name: kind(layers, n)(1, data_format="channels_first"))
    yield Case(
        "ZeroPadding2D: before Conv2D", (IMAGE,), lambda keras, x: keras.layers.Conv2D(32, 3, strides=2)(keras.layers.ZeroPadding2D(1)(x))
    )
    yield layer("UpSampling1D", SEQUENCE, lambda layers: layers.UpSampling1D(3))
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"):
        yield layer(f"UpSampling2D: {interpolation}", IMAGE, lambda layers, i=interpolation: layers.UpSampling2D((2, 3), interpolation=i))
    yield layer("UpSampling2D: channels first", IMAGE_FIRST, lambda layers: layers.UpSampling2D(2, data_format="channels_first"))
    yield layer("UpSampling3D: last", VOLUME, lambda layers: layers.UpSampling3D((2, 1, 3)))
    yield layer("UpSampling3D: channels first", VOLUME_FIRST, lambda layers: layers.UpSampling3D(2, data_format="channels_first"))


def activations() -> Iterator[Case]:
    """Activation layers, and every function by name."""
    for name in ACTIVATIONS:
        # Keras 3.15's sparsemax gives zeros for long rows
        door = {"sparse_plus": Door((32,), positive), "sparsemax": Door((3,))}.get(name, ROW)
        # An identity in between: a graph of nothing but "linear" has no node
        if name == "linear":
            yield Case("Activation: linear", (ROW,), lambda keras, x: keras.layers.Activation("linear")(keras.layers.Dense(32)(x)))
        else:
            yield layer(f"Activation: {name}", door, lambda layers, n=name: layers.Activation(n))
    for name in ("relu", "gelu", "silu", "hard_silu", "tanh", "sigmoid", "elu", "leaky_relu", "softmax"):
        yield Case(f"Activation: {name} behind Conv2D", (IMAGE,), lambda keras, x, n=name: keras.layers.Conv2D(32, 3, activation=n)(x))
    yield layer("ReLU: plain", IMAGE, lambda layers: layers.ReLU())
    yield layer("ReLU: max value 6", IMAGE, lambda layers: layers.ReLU(max_value=6.0))
    yield layer("ReLU: slope and threshold", IMAGE, lambda layers: layers.ReLU(max_value=1.0, negative_slope=0.2, threshold=0.25))
    yield layer("LeakyReLU", IMAGE, lambda layers: layers.LeakyReLU(0.2))
    yield layer("ELU", IMAGE, lambda layers: layers.ELU(0.7))
    yield layer("PReLU: plain", IMAGE, lambda layers: layers.PReLU())
    yield layer("PReLU: shared axes", IMAGE, lambda layers: layers.PReLU(shared_axes=[1, 2]))
    yield layer("PReLU: row", ROW, lambda layers: layers.PReLU())
    yield layer("Softmax: last axis", IMAGE, lambda layers: layers.Softmax())
    yield layer("Softmax: axis 1", IMAGE, lambda layers: layers.Softmax(axis=1))
    yield layer("Softmax: two axes", IMAGE, lambda layers: layers.Softmax(axis=[1, 2]))
    yield Case("Softmax: mask", (ROW, Door((32,), flags, "bool")), lambda keras, x, mask: keras.layers.Softmax()(x, mask=mask))


def core() -> Iterator[Case]:
    """Dense and what does not fit elsewhere."""
    yield layer("Dense: row", ROW, lambda layers: layers.Dense(32))
    yield layer("Dense: no bias", ROW, lambda layers: layers.Dense(32, use_bias=False))
    yield layer("Dense: softmax", ROW, lambda layers: layers.Dense(32, activation="softmax"))
    yield layer("Dense: sequence", SEQUENCE, lambda layers: layers.Dense(64, activation="relu"))
    yield layer("Dense: image", IMAGE, lambda layers: layers.Dense(128))
    yield layer("EinsumDense: row", ROW, lambda layers: layers.EinsumDense("ab,bc->ac", output_shape=32, bias_axes="c"))
    yield layer("EinsumDense: sequence", SEQUENCE, lambda layers: layers.EinsumDense("abc,cd->abd", output_shape=(None, 64), bias_axes="d"))
    yield layer(
        "EinsumDense: heads", SEQUENCE, lambda layers: layers.EinsumDense("abc,cde->abde", output_shape=(None, 4, 16), bias_axes="de")
    )
    yield layer("EinsumDense: ellipsis", IMAGE, lambda layers: layers.EinsumDense("...x,xy->...y", output_shape=128, bias_axes="y"))
    yield Case("Identity", (ROW,), lambda keras, x: keras.layers.Identity()(keras.layers.Dense(32)(x)))
    yield Case("InputLayer", (ROW,), lambda keras, x: keras.layers.Dense(32)(x))
    yield Case("Lambda: trusted", (ROW,), lambda keras, x: keras.layers.Lambda(lambda values: 2 * values + 1)(x), trust_code=True)
    yield Case("Lambda: not trusted", (ROW,), lambda keras, x: keras.layers.Lambda(lambda values: 2 * values + 1)(x))
    yield Case("ActivityRegularization", (ROW,), lambda keras, x: keras.layers.ActivityRegularization(0.1)(keras.layers.Dense(32)(x)))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from core()
    yield from convolutions()
    yield from pooling()
    yield from normalization()
    yield from merging()
    yield from shapes()
    yield from activations()
