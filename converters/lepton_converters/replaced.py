"""Functions of other packages replaced by ours for a while, and put back whatever happens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(functions: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Until the context ends, each owner (a module or class) has that value under that name."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in functions]
    try:
        for owner, name, value in functions:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)
