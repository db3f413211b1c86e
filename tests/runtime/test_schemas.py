"""Bundles of every schema that was released: they load, and answer as on the day they were made."""

from pathlib import Path

import numpy as np
import pytest

from lepton_runtime import Bundle, BundleError, Session
from lepton_runtime.cpu import may_saturate
from lepton_runtime.engines import engine_of, is_installed
from lepton_runtime.golden import Golden, golden_fault, golden_limit
from lepton_runtime.manifest import SCHEMA_VERSION

BUNDLES = sorted((Path(__file__).parents[1] / "data").glob("schema_*.zip"))


def test_each_schema_has_bundles() -> None:
    assert {int(path.name.split("_")[1]) for path in BUNDLES} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_a_bundle_answers_as_on_the_day_it_was_made(path: Path) -> None:
    bundle = Bundle.open(path)
    bundle.check()
    golden, tried = Golden.open(bundle), 0
    for record in bundle.manifest.artifacts:
        if not is_installed(engine_of(record)) or may_saturate(record):
            continue
        with Session(bundle, record) as session:
            assert not golden_fault(golden.difference(session), golden_limit(record)), record.file
        tried += 1
    assert tried >= len(bundle.manifest.artifacts) // 3


def test_pictures_frames_and_texts_are_taken_as_ever() -> None:
    by_name = {path.stem: path for path in BUNDLES}
    with Session.open(by_name["schema_1_picture"]) as session:
        found = session.predict(np.zeros((12, 16, 3), np.uint8))
        assert sorted(answer.label for answer in found) == ["cat", "dog", "fox"]
    with Session.open(by_name["schema_1_frame"]) as session:
        assert session.inputs[0].shape == (1, 36, 32)
        assert len(session.predict(np.zeros((24, 32, 3), np.uint8))) == 2
    with Session.open(by_name["schema_1_text"]) as session:
        assert len(session.run(session.encode({"words": "very good", "number": [1.0, 2.0]}))["scores"]) == 1


def test_a_schema_to_come_is_refused_with_a_sentence(tmp_path: Path, digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(BundleError, match=r"reads bundles of schema 1, found schema 2; update with: pip install --upgrade"):
        Bundle.open(digits_bundle)
