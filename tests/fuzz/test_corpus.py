"""Every input that was found to reach something new in a reader, or to be too much for it, is read again."""

import pytest

from tests.fuzz.fuzz import CORPUS
from tests.fuzz.readers import READERS

INPUTS = [(name, path) for name in READERS for path in sorted((CORPUS / name).iterdir())]


def test_every_reader_has_inputs() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(READERS)
    assert {name for name, _ in INPUTS} == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_what_was_found_once_is_read_or_refused(name: str) -> None:
    for path in sorted((CORPUS / name).iterdir()):
        READERS[name](path.read_bytes())
