"""From a text to tokens, as Keras' TextVectorization does it through TensorFlow."""

import re
import string
from collections.abc import Sequence
from typing import Literal

Standardize = Literal["lower_and_strip_punctuation", "lower", "strip_punctuation"]
Split = Literal["whitespace", "character"]

_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
_STRIP = dict.fromkeys(map(ord, string.punctuation))
_RULES: dict[str | None, dict[int, str | None]] = {
    None: {},
    "lower": {**_LOWER},
    "strip_punctuation": {**_STRIP},
    "lower_and_strip_punctuation": {**_LOWER, **_STRIP},
}
_WHITESPACE = re.compile(r"[ \t\n\v\f\r]+")


def split_lines(content: str) -> list[str]:
    r"""The texts of a file that has one a line, without its empty lines.

    A line ends with ``\n`` or ``\r\n`` and with nothing else: what more Python's ``splitlines`` cuts at, such as ``\v``, is
    white space inside a text to Keras, or a letter.

    >>> split_lines("to be\r\n\nor\vnot\u2028\n")
    ['to be', 'or\x0bnot\u2028']
    """
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return [line for line in lines if split_text(line, "whitespace")]


def standardize_text(text: str, how: Standardize | None) -> str:
    """The text in lower case, without punctuation, or as it is; letters and signs outside of ASCII stay as they are.

    Source: keras TextVectorization._preprocess, whose tf.strings.lower without an encoding knows ASCII only, and
    whose pattern holds all of ASCII's punctuation.

    >>> standardize_text("It's ÉTÉ!", "lower_and_strip_punctuation")
    'its ÉtÉ'
    """
    return text.translate(_RULES[how])


def split_text(text: str, how: Split | None) -> list[str]:
    r"""Words, single characters (code points), or the whole text.

    Source: tf.strings.split without a separator, which knows ASCII's six kinds of white space only; and
    tf.strings.unicode_split.

    >>> split_text(" to be\u00a0or ", "whitespace")
    ['to', 'be\xa0or']
    """
    if how == "whitespace":
        return [word for word in _WHITESPACE.split(text) if word]
    return list(text) if how == "character" else [text]


def join_ngrams(tokens: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Runs of neighbouring tokens, joined by spaces: all of the first width, then all of the next.

    Source: tf.strings.ngrams.

    >>> join_ngrams(["to", "be", "or"], (1, 2))
    ['to', 'be', 'or', 'to be', 'be or']
    """
    return [" ".join(tokens[start : start + width]) for width in widths for start in range(len(tokens) - width + 1)]
