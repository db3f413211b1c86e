"""TensorFlow without the wall of text."""

import logging
import os
import re
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


def reason_of(error: Exception) -> str:
    """What an exception of Keras, TensorFlow or tf2onnx says, in one line.

    Keras wraps what went wrong in a first line that says where, in colors.
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    kept = lines[:2] if lines[0].startswith("Exception encountered when calling") else lines[:1]
    return " ".join(kept)[:300]
