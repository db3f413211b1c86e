"""Cases of recurrent layers, attention, embeddings and masks."""

from collections.abc import Iterator
from typing import Any

from coverage_cases.case import Case, Door, flags, indices, layer, padded, padded_rows

# Wide enough for 1024 weights a layer: TensorFlow leaves smaller tensors of dynamic-int8 files as they are.
ROW, SEQUENCE, IDS = Door((32,)), Door((7, 32)), Door((7,), padded(64), "int32")
PADDED = Door((7, 32), padded_rows)
MOVIE = {1: Door((3, 6, 8)), 2: Door((3, 5, 5, 8)), 3: Door((2, 4, 4, 4, 8))}
RECURRENT = ("SimpleRNN", "GRU", "LSTM")


def recurrent() -> Iterator[Case]:
    """SimpleRNN, GRU and LSTM with their options."""
    variants: dict[str, dict[str, Any]] = {
        "last": {},
        "sequences": {"return_sequences": True},
        "backwards": {"go_backwards": True},
        "backwards, sequences": {"go_backwards": True, "return_sequences": True},
        "no bias": {"use_bias": False},
        "relu": {"activation": "relu"},
        "unrolled": {"unroll": True},
        "dropout": {"dropout": 0.3, "recurrent_dropout": 0.3},
    }
    for name in RECURRENT:
        for variant, settings in variants.items():
            yield layer(f"{name}: {variant}", SEQUENCE, lambda layers, n=name, s=settings: getattr(layers, n)(32, **s))
        yield Case(
            f"{name}: states",
            (SEQUENCE,),
            lambda keras, x, n=name: getattr(keras.layers, n)(32, return_sequences=True, return_state=True)(x),
        )
        states = [ROW] * (2 if name == "LSTM" else 1)
        yield Case(
            f"{name}: initial state",
            (SEQUENCE, *states),
            lambda keras, x, *s, n=name: getattr(keras.layers, n)(32)(x, initial_state=list(s)),
        )
        yield Case(f"{name}: masked", (PADDED,), lambda keras, x, n=name: getattr(keras.layers, n)(32)(keras.layers.Masking()(x)))
        yield Case(
            f"{name}: masked, sequences",
            (PADDED,),
            lambda keras, x, n=name: getattr(keras.layers, n)(32, return_sequences=True)(keras.layers.Masking()(x)),
        )
        yield Case(
            f"{name}: masked, backwards",
            (PADDED,),
            lambda keras, x, n=name: getattr(keras.layers, n)(32, go_backwards=True)(keras.layers.Masking()(x)),
        )
        yield Case(
            f"{name}: masked by Embedding",
            (IDS,),
            lambda keras, x, n=name: getattr(keras.layers, n)(32)(keras.layers.Embedding(64, 32, mask_zero=True)(x)),
        )
        yield Case(
            f"{name}: stacked",
            (SEQUENCE,),
            lambda keras, x, n=name: getattr(keras.layers, n)(32)(getattr(keras.layers, n)(32, return_sequences=True)(x)),
        )
        yield Case(f"{name}: stateful", (SEQUENCE,), lambda keras, x, n=name: getattr(keras.layers, n)(32, stateful=True)(x), batch=1)
    yield layer("GRU: reset before", SEQUENCE, lambda layers: layers.GRU(32, reset_after=False))
    yield layer("GRU: reset before, sequences", SEQUENCE, lambda layers: layers.GRU(32, reset_after=False, return_sequences=True))
    yield layer("LSTM: hard sigmoid", SEQUENCE, lambda layers: layers.LSTM(32, recurrent_activation="hard_sigmoid"))
    yield layer("LSTM: 100 steps", Door((100, 32)), lambda layers: layers.LSTM(32, return_sequences=True))
    yield layer("GRU: 100 steps", Door((100, 32)), lambda layers: layers.GRU(32, return_sequences=True))


def wrapped() -> Iterator[Case]:
    """Bidirectional, TimeDistributed, RNN and cells."""
    for name in RECURRENT:
        for mode in ("concat", "sum", "mul", "ave"):
            yield layer(
                f"Bidirectional: {name}, {mode}",
                SEQUENCE,
                lambda layers, n=name, m=mode: layers.Bidirectional(getattr(layers, n)(32), merge_mode=m),
            )
        yield layer(
            f"Bidirectional: {name}, sequences",
            SEQUENCE,
            lambda layers, n=name: layers.Bidirectional(getattr(layers, n)(32, return_sequences=True)),
        )
        yield Case(
            f"Bidirectional: {name}, masked",
            (PADDED,),
            lambda keras, x, n=name: keras.layers.Bidirectional(getattr(keras.layers, n)(32, return_sequences=True))(
                keras.layers.Masking()(x)
            ),
        )
    yield Case(
        "Bidirectional: LSTM, not merged",
        (SEQUENCE,),
        lambda keras, x: keras.layers.Bidirectional(keras.layers.LSTM(32), merge_mode=None)(x),
    )
    yield Case(
        "Bidirectional: LSTM, states",
        (SEQUENCE,),
        lambda keras, x: keras.layers.Bidirectional(keras.layers.LSTM(32, return_state=True))(x),
    )
    yield layer(
        "Bidirectional: two layers",
        SEQUENCE,
        lambda layers: layers.Bidirectional(layers.LSTM(32), backward_layer=layers.GRU(32, go_backwards=True)),
    )
    yield Case(
        "Bidirectional: LSTM, stacked",
        (SEQUENCE,),
        lambda keras, x: keras.layers.Bidirectional(keras.layers.LSTM(32))(
            keras.layers.Bidirectional(keras.layers.LSTM(32, return_sequences=True))(x)
        ),
    )
    yield layer("TimeDistributed: Dense", SEQUENCE, lambda layers: layers.TimeDistributed(layers.Dense(32)))
    yield layer("TimeDistributed: Conv2D", Door((3, 6, 6, 8)), lambda layers: layers.TimeDistributed(layers.Conv2D(16, 3)))
    yield layer("TimeDistributed: LSTM", Door((3, 7, 32)), lambda layers: layers.TimeDistributed(layers.LSTM(32)))
    yield Case(
        "TimeDistributed: masked",
        (PADDED,),
        lambda keras, x: keras.layers.LSTM(32)(keras.layers.TimeDistributed(keras.layers.Dense(32))(keras.layers.Masking()(x))),
    )
    for name in RECURRENT:
        yield layer(f"RNN: {name}Cell", SEQUENCE, lambda layers, n=name: layers.RNN(getattr(layers, f"{n}Cell")(32)))
        states = [ROW] * (2 if name == "LSTM" else 1)
        yield Case(
            f"{name}Cell",
            (Door((32,)), *states),
            lambda keras, x, *s, n=name: keras.tree.flatten(getattr(keras.layers, f"{n}Cell")(32)(x, list(s))),
        )
    yield layer(
        "RNN: list of cells", SEQUENCE, lambda layers: layers.RNN([layers.LSTMCell(32), layers.LSTMCell(24)], return_sequences=True)
    )
    yield layer(
        "StackedRNNCells: in RNN",
        SEQUENCE,
        lambda layers: layers.RNN(layers.StackedRNNCells([layers.GRUCell(32), layers.SimpleRNNCell(32)])),
    )
    for rank, door in MOVIE.items():
        name = f"ConvLSTM{rank}D"
        yield layer(f"{name}: last", door, lambda layers, n=name: getattr(layers, n)(3, 2))
        yield layer(f"{name}: sequences", door, lambda layers, n=name: getattr(layers, n)(3, 3, padding="same", return_sequences=True))
    yield layer("ConvLSTM2D: stride 2", MOVIE[2], lambda layers: layers.ConvLSTM2D(12, 3, strides=2, padding="same"))
    yield layer("ConvLSTM2D: backwards", MOVIE[2], lambda layers: layers.ConvLSTM2D(12, 2, go_backwards=True))


def attention() -> Iterator[Case]:
    """Attention with its variants."""
    query, value = Door((6, 32)), Door((9, 32))
    for name in ("Attention", "AdditiveAttention"):
        yield Case(f"{name}: two inputs", (query, value), lambda keras, *x, n=name: getattr(keras.layers, n)()(list(x)))
        yield Case(f"{name}: three inputs", (query, value, value), lambda keras, *x, n=name: getattr(keras.layers, n)()(list(x)))
        yield Case(
            f"{name}: masks",
            (query, value, Door((6,), flags, "bool"), Door((9,), flags, "bool")),
            lambda keras, q, v, *m, n=name: getattr(keras.layers, n)()([q, v], mask=list(m)),
        )
        yield Case(f"{name}: causal", (query,), lambda keras, q, n=name: getattr(keras.layers, n)()([q, q], use_causal_mask=True))
    yield Case("Attention: scale", (query, value), lambda keras, *x: keras.layers.Attention(use_scale=True)(list(x)))
    yield Case("Attention: concat", (query, value), lambda keras, *x: keras.layers.Attention(score_mode="concat")(list(x)))
    yield Case("Attention: scores", (query, value), lambda keras, *x: keras.layers.Attention()(list(x), return_attention_scores=True))
    yield Case("AdditiveAttention: no scale", (query, value), lambda keras, *x: keras.layers.AdditiveAttention(use_scale=False)(list(x)))
    heads = "MultiHeadAttention"
    yield Case(f"{heads}: self", (query,), lambda keras, q: keras.layers.MultiHeadAttention(2, 16)(q, q))
    yield Case(f"{heads}: cross", (query, value), lambda keras, q, v: keras.layers.MultiHeadAttention(2, 16)(q, v))
    yield Case(
        f"{heads}: key and value sizes",
        (query, value, value),
        lambda keras, q, v, k: keras.layers.MultiHeadAttention(2, 16, value_dim=24)(q, v, key=k),
    )
    yield Case(
        f"{heads}: no bias", (query,), lambda keras, q: keras.layers.MultiHeadAttention(2, 16, use_bias=False, output_shape=32)(q, q)
    )
    yield Case(f"{heads}: causal", (query,), lambda keras, q: keras.layers.MultiHeadAttention(2, 16)(q, q, use_causal_mask=True))
    yield Case(
        f"{heads}: mask",
        (query, Door((6, 6), flags, "bool")),
        lambda keras, q, m: keras.layers.MultiHeadAttention(2, 16)(q, q, attention_mask=m),
    )
    yield Case(f"{heads}: scores", (query,), lambda keras, q: keras.layers.MultiHeadAttention(2, 16)(q, q, return_attention_scores=True))
    yield Case(
        f"{heads}: two axes", (Door((3, 4, 32)),), lambda keras, q: keras.layers.MultiHeadAttention(2, 16, attention_axes=(1, 2))(q, q)
    )
    yield Case(
        f"{heads}: masked by Embedding", (IDS,), lambda keras, x: attend_to_itself(keras, keras.layers.Embedding(64, 32, mask_zero=True)(x))
    )
    groups = "GroupQueryAttention"
    yield Case(f"{groups}: self", (query,), lambda keras, q: keras.layers.GroupQueryAttention(16, 4, 2)(q, q))
    yield Case(f"{groups}: causal", (query,), lambda keras, q: keras.layers.GroupQueryAttention(16, 4, 2)(q, q, use_causal_mask=True))
    yield Case(
        f"{groups}: one key head", (query, value), lambda keras, q, v: keras.layers.GroupQueryAttention(16, 4, 1, use_bias=False)(q, v)
    )
    yield Case(f"{groups}: gate", (query,), lambda keras, q: keras.layers.GroupQueryAttention(16, 4, 2, use_gate=True)(q, q))
    yield Case(f"{groups}: sliding window", (query,), lambda keras, q: keras.layers.GroupQueryAttention(16, 4, 2, sliding_window=2)(q, q))
    yield Case(f"{heads}: transformer block", (query,), transformer_block)


def attend_to_itself(keras: Any, tensor: Any) -> Any:
    """Self-attention over what carries a mask."""
    return keras.layers.MultiHeadAttention(2, 16)(tensor, tensor)


def transformer_block(keras: Any, tensor: Any) -> Any:
    """Attention and a feed-forward net, each normalized and with a way around it."""
    layers = keras.layers
    normalized = layers.LayerNormalization()(tensor)
    tensor = layers.Add()([tensor, layers.MultiHeadAttention(2, 16, dropout=0.1)(normalized, normalized)])
    inner = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(tensor))
    return layers.Add()([tensor, layers.Dropout(0.1)(layers.Dense(32)(inner))])


def embedded() -> Iterator[Case]:
    """Embeddings and masks."""
    ids = Door((7,), indices(64), "int32")
    yield layer("Embedding: ids", ids, lambda layers: layers.Embedding(64, 32))
    yield layer("Embedding: one id", Door((1,), indices(64), "int32"), lambda layers: layers.Embedding(64, 32))
    yield layer(
        "Embedding: float ids",
        Door((7,), lambda generator, shape: indices(64)(generator, shape).astype("float32")),
        lambda layers: layers.Embedding(64, 32),
    )
    yield Case(
        "Embedding: flattened", (ids,), lambda keras, x: keras.layers.Dense(32)(keras.layers.Flatten()(keras.layers.Embedding(64, 32)(x)))
    )
    yield Case(
        "Embedding: mask and GlobalAveragePooling1D",
        (IDS,),
        lambda keras, x: keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(64, 32, mask_zero=True)(x)),
    )
    yield layer("ReversibleEmbedding: ids", ids, lambda layers: layers.ReversibleEmbedding(64, 32))
    yield Case("ReversibleEmbedding: there and back", (ids,), there_and_back)
    yield Case(
        "Masking: and GlobalAveragePooling1D", (PADDED,), lambda keras, x: keras.layers.GlobalAveragePooling1D()(keras.layers.Masking()(x))
    )
    yield Case("Masking: alone", (PADDED,), lambda keras, x: keras.layers.Dense(32)(keras.layers.Masking()(x)))


def there_and_back(keras: Any, tensor: Any) -> Any:
    """Ids to vectors, and vectors to a score an id with the same weights."""
    table = keras.layers.ReversibleEmbedding(64, 32)
    return table(keras.layers.Dense(32)(table(tensor)), reverse=True)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from recurrent()
    yield from wrapped()
    yield from attention()
    yield from embedded()
