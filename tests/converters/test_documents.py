"""The model card and the bill of materials of a bundle."""

import json
from pathlib import Path

import pytest

from lepton_converters import export
from lepton_converters.model_card import TEMPLATE, ModelCard
from lepton_runtime import Bundle, BundleError, InputError
from tests.sbom_schema import faults_of

CARD = 'task = "Tells cats from dogs."\ndata = """Photos.\nOf pets."""\nlimits = "Other animals."\n'


@pytest.fixture(scope="module")
def documented(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    (folder / "card.toml").write_text(CARD, encoding="utf-8")
    options = {"precisions": ["fp32"], "card": folder / "card.toml", "sbom": True, "license_": "CC-BY-4.0"}
    for name in ("one.bundle", "other.bundle"):
        export(models / "tiny_cnn.keras", folder / name, **options)
    return folder


def test_a_card_says_what_was_said_and_what_was_measured(documented: Path) -> None:
    text = (documented / "one.bundle" / "model-card.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny_cnn.keras\n\nExported by lepton-edge, SHA-256 `")
    for part in ("## Task\n\nTells cats from dogs.", "## Data\n\nPhotos.\nOf pets.", "## Limits\n\nOther", "## License\n\nCC-BY-4.0"):
        assert part in text
    record = Bundle.open(documented / "one.bundle").artifact("model.fp32.tflite")
    row = f"| model.fp32.tflite | fp32 | {record.size_bytes / 1000:.0f} | not measured | {record.parity.max_abs:.1e} | 100.0 % of"
    assert row in text
    assert "Contact" not in text


def test_a_bill_names_the_source_the_files_and_the_packages(documented: Path) -> None:
    content = (documented / "one.bundle" / "sbom.cdx.json").read_bytes()
    assert faults_of(content) == []
    bill, manifest = json.loads(content), Bundle.open(documented / "one.bundle").manifest
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": manifest.source["sha256"]}]
    made = {component["name"]: component["hashes"][0]["content"] for component in bill["components"]}
    assert made == {record.file: record.sha256 for record in manifest.files if record not in manifest.documents}
    tools = {component["name"]: component["version"] for component in bill["metadata"]["tools"]["components"]}
    assert tools == manifest.versions


def test_a_schema_that_cannot_fail_would_show_nothing() -> None:
    assert faults_of(b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "nonsense", "name": "x"}]}')


def test_both_are_the_same_to_the_byte_when_made_twice(documented: Path) -> None:
    for name in ("model-card.md", "sbom.cdx.json", "manifest.json"):
        assert (documented / "one.bundle" / name).read_bytes() == (documented / "other.bundle" / name).read_bytes()


def test_a_changed_card_is_noticed(documented: Path) -> None:
    path = documented / "other.bundle" / "model-card.md"
    path.write_text(path.read_text(encoding="utf-8").replace("dogs", "frogs"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"model-card.md' must be"):
        Bundle.open(documented / "other.bundle").check()


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (TEMPLATE, r"has texts for task, data, limits, contact, in '.*' 'task' says nothing; `lepton-edge card` prints one"),
        (CARD + 'tsk = "x"', r"'tsk' is none of them"),
        (CARD.replace('"Other animals."', "3"), r"'limits' says nothing"),
        (CARD + "contact = 3", r"'contact' says nothing"),
        ("task = ", r"--card takes a TOML file, '.*' cannot be read as one"),
        ("a = " + "[" * 100_000, r"--card takes a TOML file"),
    ],
)
def test_a_card_that_is_not_filled_in_is_refused(text: str, because: str, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=because):
        ModelCard.read(tmp_path / "card.toml")
    with pytest.raises(InputError, match=r"--card takes a TOML file, .*missing.toml"):
        ModelCard.read(tmp_path / "missing.toml")
