"""A limit on the weights that a configuration may ask for, before memory is taken for them."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_converters.keras_loading import import_keras
from lepton_runtime.errors import InputError

_TIMES = 8  # the weights that the file has: an optimizer keeps several numbers a weight
_SMALL = 2**20  # numbers that are always allowed


@contextmanager
def limited_weights(stored: int, path: Path) -> Iterator[None]:
    """Let Keras make weights in this thread as long as the file can have been saved from a model with so many.

    Args:
        stored: How many numbers the file holds.
        path: The file, for the message.

    Raises:
        InputError: By Keras: the configuration asks for more.
    """
    variable: Any = import_keras().Variable  # Any: Keras has no type hints
    make, thread, allowed, made = variable.__init__, threading.get_ident(), _TIMES * stored + _SMALL, [0]

    def counted(self: Any, initializer: Any, shape: Any = None, *args: Any, **settings: Any) -> None:
        if threading.get_ident() == thread:
            axes = (shape,) if isinstance(shape, int) else tuple(shape or ())
            made[0] += math.prod(axis for axis in axes if isinstance(axis, int))
            if made[0] > allowed:
                raise InputError(
                    f"the weights of {str(path)!r} must be in it, its configuration asks for {made[0]:,} and more, it holds {stored:,}; "
                    "save the model again with model.save"
                )
        make(self, initializer, shape, *args, **settings)

    variable.__init__ = counted
    try:
        yield
    finally:
        variable.__init__ = make
