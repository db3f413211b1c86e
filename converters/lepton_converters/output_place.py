"""Where an output is written: a folder that can be written to, by one process at a time."""

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lepton_runtime.durable import existing_parent
from lepton_runtime.errors import OutputError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def check_folder(path: Path) -> None:
    """Refuse an output whose folder cannot be written to, or made.

    Raises:
        OutputError: The nearest folder that exists is not writable.
    """
    folder = existing_parent(path)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the output's folder must be writable, {str(folder)!r} is not; choose another with --output")


def alone_at_output(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let one process at a time write an output, the function's second argument.

    Raises:
        OutputError: Another process is at work there.
    """

    @wraps(function)
    def alone(*given: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        output: Any = given[1] if len(given) > 1 else options.get("output")
        if not isinstance(output, str | Path):
            return function(*given, **options)
        with _alone(Path(output)):
            return function(*given, **options)

    return alone


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a name that the kernel gives to one process of this machine, and takes back however that ends: no file is left. Linux only.

    Source: unix(7), abstract socket addresses.
    """
    if sys.platform != "linux":
        yield
        return
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0lepton-edge-output-{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise OutputError(
                f"the output {str(path)!r} must be free, another process is writing it; wait for it, or choose another with --output"
            ) from None
        yield
