"""What a TFLite file may hold: looked for in its bytes, before LiteRT parses them, which crashes at some places that lead nowhere.

Source: tensorflow/lite/schema/schema.fbs, and the FlatBuffers internals: tables, vtables and vectors.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

from lepton_runtime.errors import BundleError

_short, _signed, _unsigned = (struct.Struct(kind).unpack_from for kind in ("<H", "<i", "<I"))
_IDENTIFIER = b"TFL3"
_CUSTOM = 32
# Operators that take inputs which may be missing (-1), and at which places. Source: the kernels' GetOptionalInputTensor.
_LSTMS = (16, 44)  # LSTM, UNIDIRECTIONAL_SEQUENCE_LSTM
_OF_LSTM = frozenset({1, 5, 9, 10, 11, 12, 16, 17, 20, 21, 22, 23})
_INPUT_GATE = (1, 5, 12)  # all of it, or nothing
_OPTIONAL: dict[int, frozenset[int]] = {
    3: frozenset({2}),  # CONV_2D
    4: frozenset({2}),  # DEPTHWISE_CONV_2D
    9: frozenset({2}),  # FULLY_CONNECTED
    16: _OF_LSTM,
    27: frozenset({3}),  # SVDF
    44: _OF_LSTM,
    67: frozenset({3}),  # TRANSPOSE_CONV
}
_NEVER: frozenset[int] = frozenset()
_GRAPHS_OF = {118: (0, 1), 119: (0, 1), 129: (0,)}  # IF, WHILE, CALL_ONCE: the fields of their options that name graphs
_REFUSED = {31, 206}  # CALL, STABLEHLO_COMPOSITE: they name graphs in other ways, and no file of ours has them


def check_tflite(model: bytes) -> None:
    """Refuse a file that names tensors or kinds of operators that are not there, or whose operators are not TFLite's own.

    Raises:
        BundleError: It is such a file, or no TFLite file.
    """
    if model[4:8] != _IDENTIFIER:
        raise BundleError(f"a TFLite model must have the mark {_IDENTIFIER.decode()}, found {model[4:8]!r}; copy the bundle again")
    try:
        _check_model(_Table(model, _offset(model, 0), [len(model)]))
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise BundleError(f"a TFLite model must be one that can be read, it breaks off or is none: {error}; copy it again") from error


def _check_model(model: "_Table") -> None:
    codes = [_code(entry) for entry in model.tables(1)]
    graphs = model.length(2)
    inner: dict[int, set[int]] = {}
    for number, graph in enumerate(model.tables(2)):
        count = graph.length(0)
        inner[number] = set()
        _check_places(graph.numbers(1), count, f"graph {number} takes")
        _check_places(graph.numbers(2), count, f"graph {number} gives")
        for operator in graph.tables(3):
            index = operator.unsigned(0)
            if index >= len(codes):
                raise _not_whole(f"graph {number} has an operator of no kind")
            _check_operator(operator, codes[index], count)
            for field in _GRAPHS_OF.get(codes[index], ()):
                named = _options(operator).signed(field)
                if not 0 <= named < graphs:
                    raise _not_whole(f"an operator runs a graph that is not there, {named}")
                inner[number].add(named)
    _check_ends(inner)


def _check_operator(operator: "_Table", kind: int, count: int) -> None:
    taken = operator.numbers(1)
    _check_places(taken, count, "an operator takes", optional=_OPTIONAL.get(kind, _NEVER))
    _check_places(operator.numbers(2), count, "an operator gives")
    _check_places(operator.numbers(8), count, "an operator works with")
    if kind in _LSTMS and len({place >= len(taken) or taken[place] == -1 for place in _INPUT_GATE}) > 1:
        raise _not_whole("a recurrent operator has half of an input gate")


def _options(operator: "_Table") -> "_Table":
    found = operator.table(4)
    if found is None:
        raise _not_whole("an operator lacks its options")
    return found


def _check_ends(inner: Mapping[int, set[int]]) -> None:
    """Refuse a graph that runs itself, at once or by others."""
    ending: set[int] = set()
    while len(ending) < len(inner):
        more = {number for number, named in inner.items() if named <= ending} - ending
        if not more:
            raise _not_whole("a graph runs itself")
        ending |= more


def _code(entry: "_Table") -> int:
    """The kind of an operator; files from before 2020 have it in one byte."""
    code = max(entry.signed_byte(0), entry.signed(3))
    if code == _CUSTOM:
        raise _not_whole("it has an operator that is not TFLite's own")
    if code in _REFUSED:
        raise _not_whole(f"it has an operator of kind {code}, which no exporter of ours writes")
    return code


def _check_places(places: Sequence[int], count: int, what: str, *, optional: frozenset[int] = _NEVER) -> None:
    if places and min(places) >= 0 and max(places) < count:
        return
    for position, place in enumerate(places):
        if not 0 <= place < count and not (place == -1 and position in optional):
            raise _not_whole(f"{what} a tensor that is not there, {place}")


def _not_whole(why: str) -> BundleError:
    return BundleError(f"a TFLite model must be whole, {why}; do not use this bundle")


class _Table:
    """A table of a FlatBuffer; fields that are missing are 0 or empty."""

    def __init__(self, data: bytes, place: int, left: list[int]) -> None:
        self._data, self._place = data, place
        self._left = left  # how many more entries may be read: no more than the file has bytes, however often it names them
        self._fields = place - _signed(data, place)[0]
        if self._fields < 0:
            raise ValueError("a table lies before the file")
        self._length = _short(data, self._fields)[0]

    def _field(self, number: int) -> int:
        """Where a field lies; 0 if it is missing."""
        at = 4 + 2 * number
        found = _short(self._data, self._fields + at)[0] if at < self._length else 0
        return self._place + int(found) if found else 0

    def unsigned(self, number: int) -> int:
        place = self._field(number)
        return int(_unsigned(self._data, place)[0]) if place else 0

    def signed(self, number: int) -> int:
        place = self._field(number)
        return int(_signed(self._data, place)[0]) if place else 0

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

    def length(self, number: int) -> int:
        """How long a vector is."""
        place = self._field(number)
        return self._count(_offset(self._data, place)) if place else 0

    def table(self, number: int) -> "_Table | None":
        """A table inside."""
        place = self._field(number)
        return _Table(self._data, _offset(self._data, place), self._left) if place else None

    def tables(self, number: int) -> Iterator["_Table"]:
        """A vector of tables."""
        place = self._field(number)
        if not place:
            return
        start = _offset(self._data, place)
        offsets = struct.unpack_from(f"<{self._count(start)}I", self._data, start + 4)
        for position, offset in enumerate(offsets):
            yield _Table(self._data, start + 4 + 4 * position + offset, self._left)

    def _count(self, start: int) -> int:
        count = int(_unsigned(self._data, start)[0])
        self._left[0] -= 1 + count
        if self._left[0] < 0:
            raise ValueError("vectors are longer than the file")
        return count


def _offset(data: bytes, place: int) -> int:
    """Where a reference leads: forward, from where it stands."""
    return place + int(_unsigned(data, place)[0])
