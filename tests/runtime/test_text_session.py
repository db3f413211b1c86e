from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, BundleError, InputError, Session, UnsupportedError
from lepton_runtime.golden import Golden


def test_a_text_gets_named_answers(text_bundle: Path) -> None:
    with Session.open(text_bundle) as session:
        assert [answer.label for answer in session.predict("A very BAD film!", count=1)] == ["bad"]
        assert session.predict("good")[0].score == pytest.approx(0.5)


def test_a_row_of_a_table_gets_named_answers(table_bundle: Path) -> None:
    with Session.open(table_bundle) as session:
        assert session.predict({"color": "green", "age": 41})[0].label == "good"
        assert session.predict({"color": "red", "age": 2.5})[0].score == 2.5


def test_encode_gives_what_run_takes(text_bundle: Path, table_bundle: Path) -> None:
    with Session.open(text_bundle) as session:
        assert session.encode("very good, unknown")["words"].tolist() == [[4, 2, 1, 0]]
    with Session.open(table_bundle) as session:
        encoded = session.encode({"age": [[3.0]], "color": np.array(["red"])})
        assert encoded["color_lookup"].tolist() == [[0, 1, 0]]
        assert session.run(encoded)["scores"].tolist() == [[3, 0]]
        with pytest.raises(InputError, match=r"call run\(encode\(sample\)\) for raw values"):
            session.run({"color": np.array(["red"]), "age": np.array([3.0])})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("red", r"the model's raw inputs are \['color', 'age'\], found str; give a mapping with one entry each"),
        ({"color": "red"}, r"raw inputs are .*, found \['color'\]"),
        ({"color": 3, "age": 1.0}, "input 'color' takes text, found 3"),
        ({"color": "red", "age": "old"}, "input 'age' takes numbers"),
        ({"color": ["red", "green"], "age": [1.0, 2.0]}, r"every raw input must hold 1 samples, found \{'color': 2, 'age': 2\}"),
    ],
)
def test_what_does_not_fit_a_table_is_named(table_bundle: Path, raw, message: str) -> None:
    with Session.open(table_bundle) as session, pytest.raises(InputError, match=message):
        session.predict(raw)


def test_encode_is_not_for_pictures() -> None:
    with Session.open(shipped_bundle()) as session:
        assert session.encoders == ()
        with pytest.raises(UnsupportedError, match=r"encode is for models of texts and tables, this one takes image .*; call predict"):
            session.encode("a text")


def test_encoders_that_change_are_noticed_by_the_golden_values(text_bundle: Path, rewrite_manifest) -> None:
    with Session.open(text_bundle) as session:
        assert Golden.open(session.bundle).difference(session) > 0  # of the answers, which nobody has filled in
    rewrite_manifest(text_bundle, lambda values: values["encoders"][0]["settings"].update(standardize=None))
    with Session.open(text_bundle) as session, pytest.raises(BundleError, match=r"must give the recorded inputs .* review → words"):
        Golden.open(session.bundle).difference(session)


def test_a_damaged_vocabulary_is_a_clean_error(text_bundle: Path) -> None:
    file = text_bundle / "vocabulary.words.json"
    file.write_bytes(file.read_bytes().replace(b"good", b"gold"))
    with pytest.raises(BundleError, match=r"vocabulary\.words\.json' must be .* bytes with the manifest's checksum"):
        Session.open(text_bundle)
    with pytest.raises(BundleError, match="checksum"):
        Bundle.open(text_bundle).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "spell-checking"}, "'kind' is one of lookup, .*; update with: pip install"),
        ({"vocabulary": None}, "a lookup needs its vocabulary, found none"),
        ({"settings": {}}, "must describe its encoders in full, found a fault at 'ngrams'"),
    ],
)
def test_an_encoder_that_this_version_cannot_run_is_refused(text_bundle: Path, rewrite_manifest, change, message: str) -> None:
    rewrite_manifest(text_bundle, lambda values: values["encoders"][0].update(change))
    if "vocabulary" in change:
        (text_bundle / "vocabulary.words.json").unlink()
    with pytest.raises(BundleError, match=message):
        Session.open(text_bundle)


def test_a_vocabulary_outside_of_the_bundle_is_refused(text_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(text_bundle, lambda values: values["encoders"][0]["vocabulary"].update(file="../words.json"))
    with pytest.raises(BundleError, match="plain names inside its folder"):
        Bundle.open(text_bundle)


def test_a_bundle_of_before_encoders_is_read(digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.pop("encoders", None))
    assert Bundle.open(digits_bundle).load_encoders() == ()
