"""A limit on the weights that a configuration may ask for, before memory is taken for them."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_runtime.errors import InputError

_TIMES = 8  # the weights that the file has: an optimizer keeps several numbers a weight
_SMALL = 2**20  # numbers that are always allowed


class _Count(threading.local):
    """What this thread may still make; ``None`` without a limit."""

    left: int | None = None
    asked = 0


_count = _Count()


class _TooManyError(Exception):
    """More weights are asked for than there may be."""


@contextmanager
def limited_weights(stored: int, path: Path) -> Iterator[None]:
    """Let Keras make weights in this thread as long as the file can have been saved from a model with so many.

    Args:
        stored: How many numbers the file holds.
        path: The file, for the message.

    Raises:
        InputError: The configuration asks for more.
    """
    _count_variables()
    before = _count.left, _count.asked
    _count.left, _count.asked = _TIMES * stored + _SMALL, 0
    try:
        yield
    except _TooManyError as error:
        raise InputError(
            f"the weights of {str(path)!r} must be in it, its configuration asks for {_count.asked:,} and more, it holds {stored:,}; "
            "save the model again with model.save"
        ) from error
    finally:
        _count.left, _count.asked = before


@cache
def _count_variables() -> None:
    """Have each variable of Keras counted from now on, in threads that have a limit."""
    variable: Any = import_keras().Variable  # Any: Keras has no type hints
    make = variable.__init__

    def counted(self: Any, initializer: Any, shape: Any = None, *args: Any, **settings: Any) -> None:
        if _count.left is not None:
            axes = (shape,) if isinstance(shape, int) else tuple(shape or ())
            _count.asked += math.prod(axis for axis in axes if isinstance(axis, int))
            if _count.asked > _count.left:
                raise _TooManyError
        make(self, initializer, shape, *args, **settings)

    variable.__init__ = counted
