"""``lepton-edge explain``: on the bundle that is shipped, whose doors are integers, and its page in a browser."""

import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import Digits, shipped_bundle
from lepton_edge.report.explanation import advice_lines, float_words, summary
from lepton_edge.report.explanation_html import render_explanation
from lepton_edge.report.picture import picture_uri, sample_text
from lepton_runtime.bundle import Bundle
from lepton_runtime.manifest import BlockRecord, Quantization, SearchStep
from lepton_runtime.preprocess import Preprocessing
from tests.edge.pages import check_in_browser, check_page

pytest.importorskip("onnx", reason="explaining needs the [convert] extra, which is not installed")

pytestmark = pytest.mark.workstation

SAMPLES = 60


@pytest.fixture(scope="module")
def data(digits: Digits, tmp_path_factory) -> Path:
    """The test digits."""
    path = tmp_path_factory.mktemp("data") / "test.npz"
    np.savez(path, x=digits.test_images[:SAMPLES], y=digits.test_labels[:SAMPLES].astype(np.int64))
    return path


@pytest.fixture(scope="module")
def explanation(data: Path):
    """Of the shipped bundle, as if a search had kept a block in float; two samples answered differently."""
    from lepton_converters.explanation import Answer, ChangedSample, explain

    found = explain(shipped_bundle(), str(data))
    first, *others = found.blocks
    steps = (SearchStep(0, "", 0.012, 0.004), SearchStep(1, first.name, 0.001, 0.003))
    record = Quantization("any", "mse", False, "fitted", (first.name,), len(found.blocks), steps=steps)
    kept = replace(first, in_float=True, record=BlockRecord(first.name, 0.01, 0.01, 0.009, 0.011, saved_error=0.001), own_snr_db=np.inf)
    image = np.linspace(0, 255, 28 * 28, dtype=np.float32).reshape(28, 28, 1)
    changed = [ChangedSample(number, 3, Answer(3, 0.6), Answer(5, 0.5), 0.2, {"image": image}) for number in (4, 8)]
    return replace(found, blocks=(kept, *others), changed=tuple(changed), quantization=record, agreement=0.97, accuracy=0.9)


@pytest.fixture(scope="module")
def page(explanation, tmp_path_factory) -> Path:
    """That explanation's page."""
    path = tmp_path_factory.mktemp("page") / "explanation.html"
    preprocessing = Bundle.open(shipped_bundle()).manifest.preprocessing
    path.write_text(render_explanation(explanation, bundle=Path("digits.bundle"), preprocessing=preprocessing), encoding="utf-8")
    return path


def test_the_table_names_the_worst_blocks_and_what_to_do(lepton_edge, data: Path) -> None:
    outcome = lepton_edge("explain", shipped_bundle(), "--data", data)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"static-int8.onnx against fp32.onnx on {SAMPLES} samples: same answer ")
    assert "accuracy" in " ".join(lines[:4])
    assert "blocks in 8 bits" in " ".join(lines[:4])
    assert "SNR dB own dB clipped unused" in " ".join(outcome.out.split())
    assert max(map(len, lines)) <= 80
    assert "lepton-edge benchmark" in outcome.err or "max-drop" in outcome.err


def test_the_table_says_what_each_block_saves_where_it_was_measured(explanation, capsys) -> None:
    from lepton_edge.cli.explain import _print

    first, second, *others = (
        replace(block, name=f"batch_normalization_{number}+{block.name}", kinds=("DepthwiseConv", "GlobalAveragePool"), in_float=False)
        for number, block in enumerate(explanation.blocks)
    )
    blocks = [
        replace(block, record=BlockRecord(block.name, 0.01, 0.01, saved, None, saved_error=0.001))
        for block, saved in ((first, 0.001), (second, 0.009))
    ]
    _print(replace(explanation, blocks=(*blocks, *others)), Path("b"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    header = next(number for number, row in enumerate(rows) if row[:2] == ["block", "saved"])
    assert rows[header + 2][1] == "0.009"
    assert [row[1] for row in rows[header + 3 : header + 2 + len(explanation.blocks)]] == ["–"] * (len(explanation.blocks) - 1)
    assert max(map(len, lines)) <= 80


def test_the_document_holds_every_block(lepton_edge, data: Path) -> None:
    outcome = lepton_edge("explain", shipped_bundle(), "--data", data, "--samples", 20, "--json", "-")
    document = json.loads(outcome.out)
    assert document["samples"] == document["labeled"] == 20
    assert {"agreement", "divergence", "accuracy", "float_accuracy", "blocks", "unmatched", "changed", "quantization"} <= set(document)
    for block in document["blocks"]:
        assert {"name", "kinds", "snr_db", "own_snr_db", "range", "clipped", "unused", "histogram"} <= set(block)
        assert len(block["histogram"]["edges"]) == len(block["histogram"]["in_float"]) + 1
        assert block["own_snr_db"] > 15
    assert document["unmatched"] == []


def test_the_page_is_written_beside(lepton_edge, data: Path, tmp_path: Path) -> None:
    outcome = lepton_edge("explain", shipped_bundle(), "--data", data, "--samples", 5, "--html", tmp_path / "page.html")
    assert outcome.err.endswith(f"Wrote {tmp_path / 'page.html'}.\n")
    check_page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_what_cannot_be_explained_is_refused_in_one_line(lepton_edge, data: Path, tmp_path: Path) -> None:
    lepton_edge("explain", shipped_bundle(), "--data", data, "--format", "tflite").refused(1, because="fp32 file of the same format")
    lepton_edge("explain", shipped_bundle(), "--data", "nowhere.npz").refused(1, because="--data takes .* does not exist")
    lepton_edge("explain", shipped_bundle(), "--data", data, "--html", tmp_path / "no" / "page.html").refused(1, because="--html needs")


def test_without_the_converters_the_install_line_is_given(lepton_edge, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lepton_converters.explanation", None)
    outcome = lepton_edge("explain", shipped_bundle(), "--data", data)
    outcome.refused(1, because=r'on a workstation: pip install "lepton-edge\[convert\]"')


def test_the_reasons_for_float_are_those_of_the_record(explanation) -> None:
    assert float_words(explanation).startswith("1 of ")
    assert float_words(explanation).endswith(": all in 8 bits lost 1.20pp ± 0.40pp on the samples of the search")


def test_the_advice_fits_what_was_found(explanation) -> None:
    bundle = Path("my digits")
    assert advice_lines(replace(explanation, agreement=1.0), bundle) == [
        "Nothing is lost on these samples. Next: lepton-edge benchmark 'my digits'"
    ]
    searched = advice_lines(explanation, bundle)[-1]
    assert "a smaller --max-drop than it was exported with" in searched
    assert searched.endswith("or train the network on with lepton-edge finetune")
    unsearched = replace(explanation, quantization=replace(explanation.quantization, steps=()))
    assert "--eval PATH --max-drop" in advice_lines(unsearched, bundle)[-1]
    worst = explanation.worst[0]
    for saved, words in (
        (0.009, f"{worst.name} is most to blame: in float by itself it saves 0.009 of the divergence"),
        (0.001, "no block in float by itself saves more than chance"),
    ):
        measured = replace(worst, record=BlockRecord(worst.name, 0.01, 0.01, saved, None, saved_error=0.001))
        found = replace(
            explanation, blocks=(measured,), quantization=replace(explanation.quantization, measured=(measured.record,), steps=())
        )
        assert advice_lines(found, bundle)[-1].startswith(words)
    clipped = replace(explanation, blocks=tuple(replace(block, clipped=0.03) for block in explanation.blocks))
    assert "(--calib-samples)" in advice_lines(clipped, bundle)[0]
    assert "same answer 97.0 %" in summary(explanation)


def test_the_page_is_one_file_that_everybody_can_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    check_page(text)
    assert text.count("data:image/png;base64,") == 2
    assert "The search for blocks in float" in text
    assert "<td>0.009 ± 0.001</td>" in text
    assert 'fp32 <span class="good">3 0.600</span>' in text


def test_the_same_explanation_is_the_same_page(explanation, page: Path) -> None:
    preprocessing = Bundle.open(shipped_bundle()).manifest.preprocessing
    assert render_explanation(explanation, bundle=Path("digits.bundle"), preprocessing=preprocessing) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_page_without_a_word_of_complaint(browser, page: Path, width: int, scheme: str) -> None:
    check_in_browser(browser, page, width=width, scheme=scheme)


def test_inputs_that_are_no_pictures_are_a_table(explanation) -> None:
    text = render_explanation(explanation, bundle=Path("b"), preprocessing=None)
    check_page(text)
    assert "0 0.3257 0.6513 0.977 1.303 1.628 … (784 values)" in text
    assert "data:image/png" not in text


def test_a_picture_is_what_was_read_before_the_preprocessing() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    for settings in ({"layout": "nchw"}, {"color": "bgr"}, {"scale": 1.0, "mean": (3.0,), "std": (2.0,)}):
        steps = Preprocessing(
            **{"size": (6, 5), "channels": 3, "scale": 1 / 255, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3), **settings}
        )
        uri = picture_uri(steps.apply(pixels.astype(np.float32)), steps)
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert np.array_equal(found, pixels), settings


def test_a_text_is_shown_as_it_is() -> None:
    assert sample_text({"review": np.array("good " * 40)}) == ("good " * 16)[:80] + "…"
    assert sample_text({"age": np.float32([41.5]), "color": np.array(["red"])}) == "age 41.5; color red"
