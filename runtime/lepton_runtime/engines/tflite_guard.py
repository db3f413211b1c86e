"""What a TFLite file may hold: looked for in its bytes, before LiteRT parses them, which crashes at some places that lead nowhere.

Source: tensorflow/lite/schema/schema.fbs, and the FlatBuffers internals: tables, vtables and vectors.
"""

import struct
from collections.abc import Iterator, Sequence

from lepton_runtime.errors import BundleError

_IDENTIFIER = b"TFL3"
_CUSTOM = 32
_EVERY = range(1_000)
# Operators that take inputs which may be missing (-1), and at which places. Source: the kernels' GetOptionalInputTensor.
_OPTIONAL: dict[int, range] = {
    3: range(2, 3),  # CONV_2D
    4: range(2, 3),  # DEPTHWISE_CONV_2D
    9: range(2, 3),  # FULLY_CONNECTED
    16: _EVERY,  # LSTM
    27: range(3, 4),  # SVDF
    44: _EVERY,  # UNIDIRECTIONAL_SEQUENCE_LSTM
    46: _EVERY,  # BIDIRECTIONAL_SEQUENCE_RNN
    52: _EVERY,  # BIDIRECTIONAL_SEQUENCE_LSTM
    67: range(3, 4),  # TRANSPOSE_CONV
}


def check_tflite(model: bytes) -> None:
    """Refuse a file whose tensors, operators or buffers are not there, or whose operators are not TFLite's own.

    Raises:
        BundleError: It is such a file, or no TFLite file.
    """
    if model[4:8] != _IDENTIFIER:
        raise BundleError(f"a TFLite model must have the mark {_IDENTIFIER.decode()}, found {model[4:8]!r}; copy the bundle again")
    try:
        _check_model(_Table(model, _offset(model, 0)))
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise BundleError(
            f"a TFLite model must be one that can be read, it breaks off or is none: {error}; copy the bundle again"
        ) from error


def _check_model(model: "_Table") -> None:
    codes = [_code(entry) for entry in model.tables(1)]
    buffers = sum(1 for _ in model.tables(4))
    for number, graph in enumerate(model.tables(2)):
        tensors = list(graph.tables(0))
        _refuse(any(not 0 <= tensor.unsigned(2) < max(buffers, 1) for tensor in tensors), f"graph {number} has a tensor without a buffer")
        for field in (1, 2):
            _check_places(graph.numbers(field), len(tensors), f"graph {number} {'takes' if field == 1 else 'gives'}")
        for operator in graph.tables(3):
            index = operator.unsigned(0)
            _refuse(index >= len(codes), f"graph {number} has an operator of no kind")
            what = f"an operator of kind {codes[index]} in graph {number}"
            _check_places(operator.numbers(1), len(tensors), f"{what} takes", optional=_OPTIONAL.get(codes[index], range(0)))
            _check_places(operator.numbers(2), len(tensors), f"{what} gives")


def _code(entry: "_Table") -> int:
    """The kind of an operator; files from before 2020 have it in one byte."""
    code = max(entry.signed_byte(0), entry.signed(3))
    _refuse(code == _CUSTOM, "it has an operator that is not TFLite's own")
    return code


def _check_places(places: Sequence[int], count: int, what: str, *, optional: range = range(0)) -> None:
    for position, place in enumerate(places):
        is_missing = place == -1 and position in optional
        _refuse(not is_missing and not 0 <= place < count, f"{what} a tensor that is not there, {place}")


def _refuse(is_wrong: bool, why: str) -> None:
    if is_wrong:
        raise BundleError(f"a TFLite model must be whole, {why}; do not use this bundle")


class _Table:
    """A table of a FlatBuffer; fields that are missing are 0 or empty."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        if self._fields < 0:
            raise ValueError("a table lies before the file")
        self._length = struct.unpack_from("<H", data, self._fields)[0]

    def _field(self, number: int) -> int:
        """Where a field lies; 0 if it is missing."""
        at = 4 + 2 * number
        found = struct.unpack_from("<H", self._data, self._fields + at)[0] if at < self._length else 0
        return self._place + int(found) if found else 0

    def unsigned(self, number: int) -> int:
        place = self._field(number)
        return int(struct.unpack_from("<I", self._data, place)[0]) if place else 0

    def signed(self, number: int) -> int:
        place = self._field(number)
        return int(struct.unpack_from("<i", self._data, place)[0]) if place else 0

    def signed_byte(self, number: int) -> int:
        place = self._field(number)
        return int(struct.unpack_from("<b", self._data, place)[0]) if place else 0

    def numbers(self, number: int) -> tuple[int, ...]:
        """A vector of whole numbers."""
        place = self._field(number)
        if not place:
            return ()
        start = _offset(self._data, place)
        return struct.unpack_from(f"<{self._count(start)}i", self._data, start + 4)

    def tables(self, number: int) -> Iterator["_Table"]:
        """A vector of tables."""
        place = self._field(number)
        if not place:
            return
        start = _offset(self._data, place)
        for position in range(self._count(start)):
            yield _Table(self._data, _offset(self._data, start + 4 + 4 * position))

    def _count(self, start: int) -> int:
        count = int(struct.unpack_from("<I", self._data, start)[0])
        if 4 * count > len(self._data):
            raise ValueError("a vector is longer than the file")
        return count


def _offset(data: bytes, place: int) -> int:
    """Where a reference leads: forward, from where it stands."""
    return place + int(struct.unpack_from("<I", data, place)[0])
