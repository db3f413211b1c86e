"""Every input that was found to reach something new in a reader, or to be too much for it, is read again."""

import pytest

from tests.fuzz.fuzz import CORPUS
from tests.fuzz.readers import READERS


def test_every_reader_has_inputs() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(READERS)
    assert all(any((CORPUS / name).iterdir()) for name in READERS)


@pytest.mark.parametrize("name", READERS)
def test_what_was_found_once_is_read_or_refused(name: str) -> None:
    for path in sorted((CORPUS / name).iterdir()):
        READERS[name](path.read_bytes())
