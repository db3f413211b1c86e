"""TensorFlow without the wall of text."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keep what TensorFlow, its compiler and tf2onnx print out of the terminal.

    Python exceptions pass as they are, so nothing that matters is lost. ``LEPTON_EDGE_DEBUG=1`` shows it all.
    """
    if os.environ.get("LEPTON_EDGE_DEBUG") == "1":
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    previous = {name: logging.getLogger(name).level for name in ("tensorflow", "tf2onnx", "absl", "root")}
    for name in previous:
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        # The C++ side writes to the file descriptor, past sys.stderr.
        with Path(os.devnull).open("w") as sink, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        for name, level in previous.items():
            logging.getLogger(name).setLevel(level)
