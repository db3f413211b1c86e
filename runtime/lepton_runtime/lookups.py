"""Words, whole numbers and texts to the ids that a vocabulary gives them: Keras' lookup layers, which no graph can hold."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from lepton_runtime.categories import (
    Output,
    Shape,
    check_choice,
    check_count,
    count_ids,
    encode_ids,
    encoded_shape,
    step_settings,
    whole_numbers,
)
from lepton_runtime.errors import InputError
from lepton_runtime.hashing import Salt, hash_text, read_salt
from lepton_runtime.tensors import Array
from lepton_runtime.text import Split, Standardize, join_ngrams, split_text, standardize_text

_NOT_COUNTED = -1  # the id of a masked token where ids are counted: it has no place there


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a lookup knows.

    Attributes:
        tokens: In the order of their ids, words or whole numbers, without those that stand for unknown or masked ones.
        idf_weights: For a ``tf_idf`` output one weight a place, else ``None``.
    """

    tokens: tuple[str | int, ...]
    idf_weights: tuple[float, ...] | None = None

    def to_json(self) -> bytes:
        """The content of a vocabulary file: the same bytes for the same tokens."""
        return (json.dumps(asdict(self), ensure_ascii=False, indent=0) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Vocabulary":
        """The vocabulary that a file's bytes hold.

        Raises:
            ValueError: It is not JSON.
            KeyError: It lacks something.
            TypeError: It holds something else.
        """
        values = json.loads(data)
        weights = values["idf_weights"]
        return cls(tuple(values["tokens"]), None if weights is None else tuple(map(float, weights)))


@dataclass(frozen=True)
class Lookup:
    """Ids by a vocabulary: Keras' StringLookup and IntegerLookup.

    Attributes:
        vocabulary: What it knows.
        takes: Whether its tokens are words (``string``) or whole numbers (``int64``).
        oov_indices: How many ids stand for unknown tokens; with none an unknown token is an error.
        mask_token: The token of id 0, or one that is not counted; ``None`` for none.
        oov_method: How an unknown whole number gets one of several ids; a word gets it by its hash always.
        salt: The key of SipHash, or ``None`` for FarmHash.
        output: What is made of the ids.
        depth: The width of an output other than ``int``.
    """

    vocabulary: Vocabulary
    takes: Literal["string", "int64"]
    oov_indices: int = 1
    mask_token: str | int | None = None
    oov_method: Literal["floormod", "farmhash"] = "floormod"
    salt: Salt | None = None
    output: Output = "int"
    depth: int | None = None

    def __post_init__(self) -> None:
        check_choice("takes", self.takes, ("string", "int64"))
        check_choice("oov_method", self.oov_method, ("floormod", "farmhash"))
        check_choice("output", self.output, get_args(Output))
        check_count("oov_indices", self.oov_indices, least=0)
        if self.output != "int":
            check_count("depth", self.depth, least=1)
        kind = str if self.takes == "string" else int
        if not all(isinstance(token, kind) for token in self.vocabulary.tokens):
            raise InputError(f"the vocabulary of a {self.takes} lookup must hold {kind.__name__} tokens only, it holds others")
        weights = self.vocabulary.idf_weights
        if self.output == "tf_idf" and (weights is None or len(weights) != self.depth):
            raise InputError(f"a tf_idf output needs {self.depth} weights, found {'none' if weights is None else len(weights)}")

    @cached_property
    def _ids(self) -> dict[str | int, int]:
        ids = {token: number for number, token in enumerate(self.vocabulary.tokens, self._first_oov + self.oov_indices)}
        if self.mask_token is not None:
            ids[self.mask_token] = 0 if self.output == "int" else _NOT_COUNTED
        return ids

    @property
    def _first_oov(self) -> int:
        return 1 if self.mask_token is not None and self.output == "int" else 0

    def ids(self, tokens: Iterable[str | int]) -> list[int]:
        """One id a token.

        Source: keras IndexLookup._lookup_dense.

        Raises:
            InputError: A token is unknown, and no id stands for unknown ones.
        """
        known = self._ids
        return [known[token] if token in known else self._unknown(token) for token in tokens]

    def _unknown(self, token: str | int) -> int:
        if self.oov_indices == 0:
            raise InputError(
                f"every value must be one of the {len(self.vocabulary.tokens)} known ones, found {token!r}; clean the data first"
            )
        if self.oov_indices == 1:
            return self._first_oov
        if isinstance(token, int) and self.oov_method == "floormod":
            return self._first_oov + token % self.oov_indices
        return self._first_oov + hash_text(str(token), self.salt) % self.oov_indices

    def apply(self, values: Array) -> Array:
        """Ids of the values' shape, or their encoding.

        Args:
            values: Words as numpy's ``str``, or numbers.

        Raises:
            InputError: A value is unknown, and no id stands for unknown ones.
        """
        tokens = values if self.takes == "string" else whole_numbers(values)
        ids = np.array(self.ids(tokens.ravel().tolist()), np.int64).reshape(values.shape)
        return encode_ids(ids, self.output, self.depth, weights=self.vocabulary.idf_weights)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the result for values of that shape."""
        return encoded_shape(shape, self.output, self.depth)

    @property
    def dtype(self) -> str:
        """The number type of the result."""
        return "int64" if self.output == "int" else "float32"

    def to_dict(self) -> dict[str, Any]:
        """Every setting but the vocabulary, ready for JSON."""
        return step_settings(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], vocabulary: Vocabulary | None) -> "Lookup":
        """The step that :meth:`to_dict` and a vocabulary describe.

        Raises:
            InputError: A value does not fit.
        """
        if vocabulary is None:
            raise InputError("a lookup needs its vocabulary, found none")
        return cls(vocabulary, **{**settings, "salt": read_salt(settings["salt"])})


@dataclass(frozen=True)
class TextVectorization:
    """Ids of the tokens of texts: Keras' layer of that name.

    Attributes:
        lookup: From tokens to ids.
        standardize: What is done to a text first.
        split: What a text is cut into.
        ngrams: How many neighbouring tokens are looked up together, each width in turn; ``None`` for single tokens.
        sequence_length: The length that ids are cut or filled to with zeros; ``None`` for that of the batch's longest text,
            and where ids are counted.
    """

    lookup: Lookup
    standardize: Standardize | None = "lower_and_strip_punctuation"
    split: Split | None = "whitespace"
    ngrams: tuple[int, ...] | None = None
    sequence_length: int | None = None

    def __post_init__(self) -> None:
        check_choice("standardize", self.standardize, (None, *get_args(Standardize)))
        check_choice("split", self.split, (None, *get_args(Split)))
        check_choice("takes", self.lookup.takes, ("string",))
        check_choice("output", self.lookup.output, ("int", "multi_hot", "count", "tf_idf"))
        if self.sequence_length is not None:
            check_count("sequence_length", self.sequence_length, least=1)

    @property
    def vocabulary(self) -> Vocabulary:
        """What it knows."""
        return self.lookup.vocabulary

    def tokens(self, texts: Iterable[str]) -> list[str]:
        """What is looked up for the texts of one sample: one, or several that are not split.

        Source: keras TextVectorization._preprocess.
        """
        tokens = [token for text in texts for token in split_text(standardize_text(text, self.standardize), self.split)]
        return join_ngrams(tokens, self.ngrams) if self.ngrams else tokens

    def apply(self, values: Array) -> Array:
        """Ids ``(batch, sequence_length)``, or their counts ``(batch, depth)``.

        Source: keras TextVectorization.call.

        Args:
            values: Texts as numpy's ``str``, ``(batch,)``, ``(batch, 1)``, or ``(batch, n)`` if they are not split.

        Raises:
            InputError: No text holds a token, and their ids have no length of their own.
        """
        lookup = self.lookup
        rows = [lookup.ids(self.tokens(texts)) for texts in values.reshape(len(values), -1).tolist()]
        if lookup.output != "int":
            return count_ids(rows, lookup.output, lookup.depth or 0, weights=self.vocabulary.idf_weights)
        length = self.sequence_length or max(map(len, rows), default=0)
        if not length:
            raise InputError("a text must hold at least one token for a model of texts of any length, found none")
        ids = np.zeros((len(rows), length), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row[:length]
        return ids

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the result for texts of that shape."""
        return (shape[0], self.sequence_length if self.lookup.output == "int" else self.lookup.depth)

    @property
    def dtype(self) -> str:
        """The number type of the result."""
        return self.lookup.dtype

    def to_dict(self) -> dict[str, Any]:
        """Every setting but the vocabulary, ready for JSON."""
        return {**step_settings(self), "lookup": self.lookup.to_dict()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], vocabulary: Vocabulary | None) -> "TextVectorization":
        """The step that :meth:`to_dict` and a vocabulary describe.

        Raises:
            InputError: A value does not fit.
        """
        widths = settings["ngrams"]
        lookup = Lookup.from_dict(settings["lookup"], vocabulary)
        return cls(**{**settings, "lookup": lookup, "ngrams": None if widths is None else tuple(map(int, widths))})
