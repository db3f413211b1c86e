"""From JSON values to records, strictly: every key there, no other, each of its type."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from lepton_runtime.errors import InputError

Record = TypeVar("Record")
_LARGEST = 2**63


def decode(kind: type[Record], value: Any, name: str) -> Record:  # Any: JSON in, a record out
    """The record of that type that a JSON value holds.

    Args:
        kind: A dataclass.
        value: What ``json.loads`` gave.
        name: How errors call it.

    Raises:
        InputError: A key is missing or unknown, or a value is of another type.
    """
    found: Record = _decode(kind, value, name)
    return found


def _decode(kind: Any, value: Any, name: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = get_args(kind)
        if value is None and NoneType in options:
            return None
        return _decode(next(option for option in options if option is not NoneType), value, name)
    if origin is Literal:
        return value if value in get_args(kind) else _refuse(name, " or ".join(map(repr, get_args(kind))), value)
    if origin is Mapping:
        if not isinstance(value, dict):
            _refuse(name, "an object", value)
        return {key: _decode(get_args(kind)[1], entry, f"{name}.{key}") for key, entry in value.items()}
    if origin is tuple:
        return _decode_tuple(get_args(kind)[0], value, name)
    if is_dataclass(kind):
        return _decode_record(kind, value, name)
    if type(value) in (int, float) and not abs(value) < _LARGEST:
        _refuse(name, "a finite number of 64 bits", value)
    if kind is float and type(value) in (int, float):
        return float(value)
    return value if type(value) is kind else _refuse(name, kind.__name__, value)


def _decode_tuple(inner: Any, value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        _refuse(name, "a list", value)
    if inner is int:  # raw samples: by the hundred thousand
        if not all(type(entry) is int and abs(entry) < _LARGEST for entry in value):
            _refuse(name, "a list of whole numbers of 64 bits", value)
        return tuple(value)
    return tuple(_decode(inner, entry, f"{name}[{number}]") for number, entry in enumerate(value))


def _decode_record(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        _refuse(name, "an object", value)
    hints = get_type_hints(kind)
    names = [entry.name for entry in fields(kind)]
    if missing := sorted(set(names) - set(value)):
        raise InputError(f"{name} must have {', '.join(map(repr, missing))}, it is missing")
    if unknown := sorted(set(value) - set(names)):
        raise InputError(f"{name} has {', '.join(map(repr, names))}, found {', '.join(map(repr, unknown))}")
    return kind(**{entry: _decode(hints[entry], value[entry], f"{name}.{entry}") for entry in names})


def _refuse(name: str, wanted: str, value: Any) -> NoReturn:
    text = repr(value)
    raise InputError(f"{name} must be {wanted}, found {text if len(text) <= 40 else text[:40] + '…'}")
