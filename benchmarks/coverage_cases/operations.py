"""Cases of ``keras.ops`` in functional models."""

from collections.abc import Iterator

from coverage_cases.case import Case, Door, indices, normal, positive, ranks, unit

ROW, SEQUENCE, IMAGE, IDS = Door((8,)), Door((6, 4)), Door((8, 8, 4)), Door((6,), indices(5), "int32")
RANKS = Door((8,), ranks)
ONE_INPUT = {
    **dict.fromkeys(("abs", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "negative", "round", "sign", "sin"), normal),
    **dict.fromkeys(("sinh", "square", "arctan", "arcsinh", "trunc", "isfinite", "isnan", "logical_not", "nan_to_num"), normal),
    **dict.fromkeys(("log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sqrt", "cbrt"), positive),
    **dict.fromkeys(("arccos", "arcsin", "arctanh", "erfinv", "tan"), unit),
}
TWO_INPUTS = (
    *("add", "subtract", "multiply", "divide", "divide_no_nan", "maximum", "minimum", "power", "arctan2", "logaddexp", "hypot", "mod"),
    *("floor_divide", "equal", "not_equal", "greater", "greater_equal", "less", "less_equal", "logical_and", "logical_or"),
)
REDUCTIONS = (
    *("sum", "mean", "max", "min", "prod", "var", "std", "logsumexp", "argmax", "argmin", "any", "all", "median", "norm"),
    "count_nonzero",
)


def elementwise() -> Iterator[Case]:
    """One number from one or two."""
    for name, sample in ONE_INPUT.items():
        if name in ("isfinite", "isnan"):
            # Of finite numbers they are constants: a quotient with zeros in it is not
            yield Case(
                f"ops.{name}",
                (Door((8,), lambda g, s: normal(g, s).round()),) * 2,
                lambda keras, x, y, n=name: getattr(keras.ops, n)(x / y),
            )
        elif name == "logical_not":
            yield Case("ops.logical_not", (ROW,), lambda keras, x: keras.ops.logical_not(x > 0))
        else:
            yield Case(f"ops.{name}", (Door((8,), sample),), lambda keras, x, n=name: getattr(keras.ops, n)(x))
    for name in TWO_INPUTS:
        sample = positive if name in ("power", "mod", "floor_divide") else normal
        doors = (Door((8,), sample), Door((8,), sample))
        if name == "divide":
            doors = (Door((8,), normal), Door((8,), positive))
        if name == "divide_no_nan":
            doors = (Door((8,), normal), Door((8,), lambda generator, shape: normal(generator, shape).round()))
        if name in ("equal", "not_equal"):
            doors = (Door((8,), indices(3), "int32"),) * 2
        if name in ("logical_and", "logical_or"):
            yield Case(f"ops.{name}", doors, lambda keras, x, y, n=name: getattr(keras.ops, n)(x > 0, y > 0))
        else:
            yield Case(f"ops.{name}", doors, lambda keras, x, y, n=name: getattr(keras.ops, n)(x, y))
    yield Case("ops.add: a number", (ROW,), lambda keras, x: 2.0 * x + 1.0)
    yield Case("ops.clip", (ROW,), lambda keras, x: keras.ops.clip(x, -0.5, 0.7))
    yield Case("ops.threshold", (ROW,), lambda keras, x: keras.ops.threshold(x, 0.2, -1.0))
    yield Case("ops.where", (ROW, ROW), lambda keras, x, y: keras.ops.where(x > 0, x, y))
    yield Case("ops.cast: to integers", (ROW,), lambda keras, x: keras.ops.cast(3 * x, "int32"))
    yield Case("ops.cast: to numbers", (IDS,), lambda keras, x: keras.ops.cast(x, "float32") / 4)


def reductions() -> Iterator[Case]:
    """Fewer numbers from many."""
    for name in REDUCTIONS:
        door = Door((6, 4), ranks) if name in ("argmax", "argmin", "median") else SEQUENCE
        if name == "count_nonzero":
            door = Door((6, 4), lambda generator, shape: normal(generator, shape).round())
        if name in ("any", "all"):
            yield Case(f"ops.{name}", (SEQUENCE,), lambda keras, x, n=name: getattr(keras.ops, n)(x > (-1 if n == "all" else 1), axis=-1))
        else:
            yield Case(f"ops.{name}", (door,), lambda keras, x, n=name: getattr(keras.ops, n)(x, axis=-1))
    yield Case("ops.mean: axes, keepdims", (IMAGE,), lambda keras, x: keras.ops.mean(x, axis=(1, 2), keepdims=True))
    yield Case("ops.sum: axis 1", (SEQUENCE,), lambda keras, x: keras.ops.sum(x, axis=1))
    yield Case("ops.cumsum", (SEQUENCE,), lambda keras, x: keras.ops.cumsum(x, axis=1))
    yield Case("ops.cumprod", (SEQUENCE,), lambda keras, x: keras.ops.cumprod(x, axis=1))
    yield Case("ops.top_k", (RANKS,), lambda keras, x: list(keras.ops.top_k(x, 3)))
    yield Case("ops.sort", (RANKS,), lambda keras, x: keras.ops.sort(x, axis=-1))
    yield Case("ops.argsort", (RANKS,), lambda keras, x: keras.ops.argsort(x, axis=-1))
    yield Case("ops.softmax", (SEQUENCE,), lambda keras, x: keras.ops.softmax(x, axis=1))
    yield Case("ops.normalize", (ROW,), lambda keras, x: keras.ops.normalize(x, axis=-1))
    yield Case("ops.moments", (SEQUENCE,), lambda keras, x: list(keras.ops.moments(x, axes=[1])))


def products() -> Iterator[Case]:
    """Products of matrices."""
    yield Case("ops.matmul: two", (SEQUENCE, Door((4, 5))), lambda keras, x, y: keras.ops.matmul(x, y))
    yield Case("ops.matmul: four axes", (Door((2, 6, 4)), Door((2, 4, 5))), lambda keras, x, y: keras.ops.matmul(x, y))
    yield Case("ops.einsum: two", (SEQUENCE, Door((5, 4))), lambda keras, x, y: keras.ops.einsum("bij,bkj->bik", x, y))
    yield Case("ops.einsum: heads", (Door((6, 2, 4)), Door((5, 2, 4))), lambda keras, x, y: keras.ops.einsum("bqhd,bkhd->bhqk", x, y))
    yield Case(
        "ops.tensordot",
        (SEQUENCE,),
        lambda keras, x: keras.ops.tensordot(x, keras.ops.reshape(keras.ops.arange(12.0), (4, 3)) / 12, axes=1),
    )
    yield Case("ops.dot_product_attention", (Door((6, 2, 4)),) * 3, lambda keras, *x: keras.ops.dot_product_attention(*x))
    yield Case("ops.outer: by broadcast", (ROW, ROW), lambda keras, x, y: x[:, :, None] * y[:, None, :])


def moves() -> Iterator[Case]:
    """The same numbers in other places."""
    yield Case("ops.reshape", (IMAGE,), lambda keras, x: keras.ops.reshape(x, (-1, 16, 16)))
    yield Case("ops.transpose", (IMAGE,), lambda keras, x: keras.ops.transpose(x, (0, 3, 1, 2)))
    yield Case("ops.swapaxes", (SEQUENCE,), lambda keras, x: keras.ops.swapaxes(x, 1, 2))
    yield Case("ops.moveaxis", (IMAGE,), lambda keras, x: keras.ops.moveaxis(x, 3, 1))
    yield Case("ops.expand_dims", (SEQUENCE,), lambda keras, x: keras.ops.expand_dims(x, 2))
    yield Case("ops.squeeze", (Door((6, 1, 4)),), lambda keras, x: keras.ops.squeeze(x, 2))
    yield Case("ops.concatenate", (ROW, ROW), lambda keras, *x: keras.ops.concatenate(list(x), axis=-1))
    yield Case("ops.stack", (ROW, ROW), lambda keras, *x: keras.ops.stack(list(x), axis=1))
    yield Case("ops.split", (ROW,), lambda keras, x: keras.ops.split(x, 2, axis=-1))
    yield Case("ops.unstack", (SEQUENCE,), lambda keras, x: keras.ops.unstack(x, axis=-1))
    yield Case("ops.tile", (SEQUENCE,), lambda keras, x: keras.ops.tile(x, (1, 2, 3)))
    yield Case("ops.repeat", (SEQUENCE,), lambda keras, x: keras.ops.repeat(x, 2, axis=1))
    yield Case("ops.flip", (SEQUENCE,), lambda keras, x: keras.ops.flip(x, axis=1))
    yield Case("ops.roll", (SEQUENCE,), lambda keras, x: keras.ops.roll(x, 2, axis=1))
    yield Case("ops.pad: constant", (IMAGE,), lambda keras, x: keras.ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))))
    yield Case("ops.pad: reflect", (IMAGE,), lambda keras, x: keras.ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), mode="reflect"))
    yield Case("ops.pad: symmetric", (IMAGE,), lambda keras, x: keras.ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), mode="symmetric"))
    yield Case("ops.take", (SEQUENCE,), lambda keras, x: keras.ops.take(x, [3, 0, 2], axis=1))
    yield Case("ops.take_along_axis", (ROW, IDS), lambda keras, x, i: keras.ops.take_along_axis(x, i, axis=1))
    yield Case("ops.get_item: slice", (IMAGE,), lambda keras, x: x[:, 1:6:2, -3:, 0])
    yield Case("ops.get_item: one step", (SEQUENCE,), lambda keras, x: x[:, -1])
    yield Case("ops.slice", (SEQUENCE,), lambda keras, x: keras.ops.slice(x, (0, 2, 1), (1, 3, 2)), batch=1)
    yield Case("ops.broadcast_to", (Door((1, 4)),), lambda keras, x: keras.ops.broadcast_to(x, (1, 6, 4)), batch=1)
    yield Case("ops.tril", (Door((5, 5)),), lambda keras, x: keras.ops.tril(x))
    yield Case("ops.diagonal", (Door((5, 5)),), lambda keras, x: keras.ops.diagonal(x, axis1=1, axis2=2))
    yield Case("ops.one_hot", (IDS,), lambda keras, x: keras.ops.one_hot(x, 5))
    yield Case("ops.multi_hot", (IDS,), lambda keras, x: keras.ops.multi_hot(x, 5))
    yield Case("ops.depth_to_space", (IMAGE,), lambda keras, x: keras.ops.depth_to_space(x, 2))
    yield Case("ops.space_to_depth", (IMAGE,), lambda keras, x: keras.ops.space_to_depth(x, 2))
    yield Case("ops.image.resize", (IMAGE,), lambda keras, x: keras.ops.image.resize(x, (5, 11)))
    yield Case("ops.image.extract_patches", (IMAGE,), lambda keras, x: keras.ops.image.extract_patches(x, 2))
    yield Case("ops.image.rgb_to_grayscale", (Door((8, 8, 3)),), lambda keras, x: keras.ops.image.rgb_to_grayscale(x))
    yield Case("ops.image.crop_images", (IMAGE,), lambda keras, x: keras.ops.image.crop_images(x, 1, 2, None, None, 4, 3))
    yield Case("ops.average_pool", (IMAGE,), lambda keras, x: keras.ops.average_pool(x, 2, strides=2))
    yield Case("ops.max_pool", (IMAGE,), lambda keras, x: keras.ops.max_pool(x, 3, strides=2, padding="same"))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from elementwise()
    yield from reductions()
    yield from products()
    yield from moves()
