"""What the two files of a format tell of each other, block by block."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_converters import export
from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.block_tracing import BlockExplanation, BlockTracing
from lepton_converters.dataset import Sample
from lepton_converters.divergence import divergence
from lepton_converters.equalization import equalize
from lepton_converters.explanation import Explanation, explain
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.onnx_inner_tensors import OnnxInnerTensors
from lepton_converters.quantizer import find_ranges
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_converters.tflite_inner_tensors import TfliteInnerTensors, tflite_blocks
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format, Target
from lepton_runtime.manifest import Quantization
from lepton_runtime.session import Session

FORMATS = list(Format)
RECORD = Quantization("any", "min-max", False, "nearest", (), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Samples: ``few.npz`` to calibrate on, ``many.npz`` to look at, and ``large.npz``, the same three times as large."""
    folder = tmp_path_factory.mktemp("explained")
    generator = np.random.default_rng(4)
    # So few that nothing is held back to compare by, and weights are rounded to the nearest.
    np.savez(folder / "few.npz", x=generator.uniform(0, 1, (8, 8, 8, 3)).astype(np.float32))
    x = generator.uniform(0, 1, (24, 8, 8, 3)).astype(np.float32)
    labels = np.arange(24) % 4
    np.savez(folder / "many.npz", x=x, y=labels)
    np.savez(folder / "large.npz", x=3 * x)
    return folder


@pytest.fixture(scope="module")
def bundle(keras, folder: Path) -> Bundle:
    """A network with a layer that 8 bits are useless for: a tap that is always multiplied by 0 spoils the scale of all others."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="damaged")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="scores")(x), name="net")
    generator = np.random.default_rng(8)
    for name in ("first", "damaged", "third", "scores"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel, bias = generator.normal(0, 0.4, kernel.shape), generator.normal(0, 0.1, bias.shape)
        if name == "first":
            kernel[..., 0], bias[0] = 0, -1
        if name == "damaged":
            kernel[:, :, 0, :] = 1000
        model.get_layer(name).set_weights([kernel, bias])
    options = {"precisions": ["fp32", "static-int8"], "calib": folder / "few.npz", "keep_failed": True}
    return Bundle.open(export(model, folder / "net.bundle", **options).path)


@pytest.fixture(scope="module")
def explanations(bundle: Bundle, folder: Path) -> dict[Format, Explanation]:
    """Of that network's files."""
    return {format_: explain(bundle, str(folder / "many.npz"), format_=format_) for format_ in FORMATS}


def named(explanation: Explanation, name: str) -> BlockExplanation:
    return next(block for block in explanation.blocks if name in block.name)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_block_with_the_useless_weights_is_blamed(explanations, format_: Format) -> None:
    blamed, *others = explanations[format_].worst
    assert "damaged" in blamed.name
    assert all(other.own_snr_db > blamed.own_snr_db + 20 for other in others)


@pytest.mark.parametrize("format_", FORMATS)
def test_blocks_behind_it_inherit_its_error_and_are_not_blamed(explanations, format_: Format) -> None:
    blamed, behind = (named(explanations[format_], name) for name in ("damaged", "third"))
    assert behind.snr_db < blamed.own_snr_db + 10
    assert behind.own_snr_db > 30


@pytest.mark.parametrize("format_", FORMATS)
def test_the_first_block_adds_all_of_its_error_itself(explanations, format_: Format) -> None:
    first = explanations[format_].blocks[0]
    assert "first" in first.name
    assert first.own_snr_db == pytest.approx(first.snr_db, abs=1e-6)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_block_is_found_in_both_files(explanations, format_: Format) -> None:
    explanation = explanations[format_]
    assert [name for name in ("first", "damaged", "third", "mean", "scores") if named(explanation, name)]
    assert len(explanation.blocks) == 5
    assert explanation.unmatched == ()
    assert not any(block.in_float for block in explanation.blocks)


@pytest.mark.parametrize("format_", FORMATS)
def test_answers_are_those_of_the_two_files(bundle: Bundle, folder: Path, explanations, format_: Format) -> None:
    explanation = explanations[format_]
    with np.load(folder / "many.npz") as data:
        x, labels = data["x"], data["y"]
    best = []
    for precision in ("fp32", "static-int8"):
        engine = "onnxruntime" if format_ == Format.ONNX else "litert"
        with Session.open(bundle, precision=precision, engine=engine) as session:
            best.append(np.array([session.run(row[None]).argmax() for row in x]))
    assert explanation.samples == explanation.labeled == 24
    assert explanation.agreement == (best[0] == best[1]).mean()
    assert (explanation.float_accuracy, explanation.accuracy) == tuple((found == labels).mean() for found in best)
    changed = {sample.number: (sample.in_float.number, sample.in_8_bits.number, sample.label) for sample in explanation.changed}
    rows = np.flatnonzero(best[0] != best[1]).tolist()
    assert changed == {row: (best[0][row], best[1][row], labels[row]) for row in rows}
    assert np.all(np.diff([sample.divergence for sample in explanation.changed]) <= 0)


@pytest.mark.parametrize("format_", FORMATS)
def test_values_beyond_the_calibrated_range_are_counted(bundle: Bundle, folder: Path, explanations, format_: Format) -> None:
    large = explain(bundle, str(folder / "large.npz"), format_=format_)
    assert large.accuracy is None
    assert large.labeled == 0
    assert named(large, "third").clipped > 0.1 > named(explanations[format_], "first").clipped
    assert large.blocks[0].high > 2 * large.blocks[0].range[1]


@pytest.mark.parametrize(("format_", "opened"), [(Format.ONNX, OnnxInnerTensors), (Format.TFLITE, TfliteInnerTensors)])
def test_unused_integers_and_noise_are_those_of_the_tensor(bundle: Bundle, folder: Path, explanations, format_: Format, opened) -> None:
    block = named(explanations[format_], "third")
    in_float, in_8_bits = (
        opened(bundle.read(bundle.artifact(f"model.{name}.{format_}")), [block.tensor]) for name in ("fp32", "static-int8")
    )
    with np.load(folder / "many.npz") as data:
        rows = [{"image": row[None]} for row in data["x"]]
    wanted, found = (np.concatenate([file.values(row)[block.tensor] for row in rows]) for file in (in_float, in_8_bits))
    spec = in_8_bits.specs[block.tensor]
    assert spec.dtype == ("uint8" if format_ == Format.ONNX else "int8")
    assert block.unused == 1 - len(np.unique(found)) / 256
    noise = np.square(spec.dequantize(found).astype(np.float64) - wanted).sum()
    assert block.snr_db == pytest.approx(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / noise), abs=1e-6)
    assert (block.low, block.high) == (wanted.min(), wanted.max())


@pytest.mark.parametrize("format_", FORMATS)
def test_histograms_hold_all_values(explanations, format_: Format) -> None:
    for block in explanations[format_].blocks:
        edges, *shares = (np.array(values) for values in (block.histogram.edges, block.histogram.in_float, block.histogram.in_8_bits))
        assert all(found.sum() == pytest.approx(1) for found in shares)
        assert len(edges) == len(shares[0]) + 1 == len(shares[1]) + 1
        # Both files hold about the same values, but for what is behind the damage.
        if "first" in block.name:
            assert np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max() < 0.05


def test_blocks_without_a_tensor_in_the_other_file_are_reported(bundle: Bundle) -> None:
    in_float, in_8_bits = artifacts(bundle, Format.TFLITE)
    blocks = tflite_blocks(in_float.model)
    renamed = replace(blocks[0].operators[0], output="another/name")
    blocks = (replace(blocks[0], operators=(renamed,)), *blocks[1:])
    tracing = BlockTracing(in_float, in_8_bits, blocks, samples=1, channel_axis=lambda name: -1, opened=TfliteInnerTensors)
    assert tracing.unmatched == (blocks[0].name,)


def artifacts(bundle: Bundle, format_: Format) -> list[Artifact]:
    records = [bundle.artifact(f"model.{precision}.{format_}") for precision in ("fp32", "static-int8")]
    return [Artifact(r.format, r.precision, bundle.read(r), r.inputs, r.outputs, r.requires, r.route, r.quantization) for r in records]


def traced(graph: OnnxFloatGraph, in_float: Artifact, in_8_bits: Artifact, samples: np.ndarray) -> dict[str, BlockExplanation]:
    tracing = BlockTracing(
        in_float, in_8_bits, graph.blocks, samples=len(samples), channel_axis=graph.channel_axis, opened=OnnxInnerTensors
    )
    for row in samples if tracing.needs_factors else ():
        tracing.learn({"image": row[None]})
    for row in samples:
        tracing.add({"image": row[None]})
    return {block.name: block for block in tracing.blocks()}


def test_a_block_in_float_adds_its_inputs_rounding_only(bundle: Bundle, folder: Path) -> None:
    in_float = artifacts(bundle, Format.ONNX)[0]
    graph = OnnxFloatGraph(onnx.load_from_string(in_float.model), inputs=in_float.inputs, outputs=in_float.outputs, route="graph")
    samples = np.load(folder / "many.npz")["x"]
    ranges = find_ranges(statistics_of(graph, samples), "min-max")
    kept = next(block.name for block in graph.blocks if "damaged" in block.name)
    in_8_bits = graph.quantize(ranges, in_float=frozenset({kept}), target=Target.ANY, io="float")
    blocks = traced(graph, in_float, replace(in_8_bits, quantization=replace(RECORD, float_blocks=(kept,))), samples)
    assert [name for name, block in blocks.items() if block.in_float] == [kept]
    assert blocks[kept].own_snr_db > 25


def test_channels_that_were_equalized_are_compared_with_their_own_factor(bundle: Bundle, folder: Path) -> None:
    in_float = artifacts(bundle, Format.ONNX)[0]
    graph = OnnxFloatGraph(onnx.load_from_string(in_float.model), inputs=in_float.inputs, outputs=in_float.outputs, route="graph")
    samples = np.load(folder / "many.npz")["x"]
    equal = equalize(graph, statistics_of(graph, samples))
    assert equal is not None
    in_8_bits = equal.quantize(find_ranges(statistics_of(equal, samples), "min-max"), in_float=frozenset(), target=Target.ANY, io="float")
    first = graph.blocks[0].name
    samples = np.concatenate([np.zeros_like(samples[:1]), samples])  # one sample alone does not tell factors
    known, unknown = (
        traced(graph, in_float, replace(in_8_bits, quantization=replace(RECORD, equalized=equalized)), samples)[first].own_snr_db
        for equalized in (True, False)
    )
    assert unknown + 10 < known > 25


def test_effects_are_those_on_samples_among_all(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    in_float, in_8_bits = artifacts(bundle, Format.ONNX)
    graph = OnnxFloatGraph(onnx.load_from_string(in_float.model), inputs=in_float.inputs, outputs=in_float.outputs, route="graph")
    judged: list[int] = []

    def judge(self: BlockTracing, inputs: dict[str, np.ndarray], errors: dict[str, np.ndarray]) -> None:
        judged.append(round(96 * float(inputs["image"][0, 0, 0, 0])))
        self._judged += 1

    monkeypatch.setattr(BlockTracing, "_judge", judge)
    traced(graph, in_float, in_8_bits, np.ones((96, 8, 8, 3), np.float32) * np.arange(96, dtype=np.float32)[:, None, None, None] / 96)
    assert judged == list(range(0, 96, 3))


def test_the_effect_of_a_block_is_what_it_does_alone_in_8_bits(bundle: Bundle, folder: Path) -> None:
    in_float = artifacts(bundle, Format.ONNX)[0]
    graph = OnnxFloatGraph(onnx.load_from_string(in_float.model), inputs=in_float.inputs, outputs=in_float.outputs, route="graph")
    samples = np.load(folder / "many.npz")["x"]
    ranges = find_ranges(statistics_of(graph, samples), "min-max")
    names = frozenset(block.name for block in graph.blocks)
    made = graph.quantize(ranges, in_float=frozenset(), target=Target.ANY, io="float")
    rows = [Sample({"image": row}, None) for row in samples]
    for name, block in traced(graph, in_float, replace(made, quantization=RECORD), samples).items():
        alone = graph.quantize(ranges, in_float=names - {name}, target=Target.ANY, io="float")
        found, wanted = (ArtifactRunner(artifact, threads=1).answers(rows, 1) for artifact in (alone, in_float))
        # Its own output is rounded here as well, which is not if its reader is in float.
        assert block.effect == pytest.approx(float(divergence(wanted, found).mean()), rel=0.5, abs=1e-5), name


def statistics_of(graph: OnnxFloatGraph, samples: np.ndarray) -> dict[str, TensorStatistics]:
    statistics = {name: TensorStatistics(name, channel_axis=graph.channel_axis(name)) for name in graph.tensors}
    for values in graph.values(({"image": row[None]} for row in samples), graph.tensors):
        for name, array in values.items():
            statistics[name].add(array, first_sample=0)
    return statistics


@pytest.mark.parametrize("format_", FORMATS)
def test_integers_at_the_end_of_a_network_are_found(models: Path, tmp_path: Path, format_: Format) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32))
    made = export(
        models / "table.keras",
        tmp_path / "b",
        formats=[format_],
        precisions=["fp32", "static-int8"],
        calib=tmp_path / "rows.npy",
        io="int8",
    )
    explanation = explain(made.path, str(tmp_path / "rows.npy"))
    assert explanation.unmatched == ()
    assert explanation.blocks[-1].range is not None
    assert explanation.blocks[-1].snr_db > 10  # some of the few samples go beyond the ranges of the fewer calibrated ones


@pytest.mark.parametrize(("format_", "opened"), [(Format.ONNX, OnnxInnerTensors), (Format.TFLITE, TfliteInnerTensors)])
def test_a_network_of_which_no_block_is_found_has_answers_only(bundle: Bundle, folder: Path, format_: Format, opened) -> None:
    tracing = BlockTracing(*artifacts(bundle, format_), [], samples=1, channel_axis=lambda name: -1, opened=opened)
    tracing.add({"image": np.load(folder / "many.npz")["x"][:1]})
    assert tracing.blocks() == ()


def test_samples_can_be_fewer_than_the_data(bundle: Bundle, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    explanation = explain(bundle, str(folder / "many.npz"), samples=5, on_progress=lambda done, count: seen.append((done, count)))
    assert explanation.samples == 5
    assert seen[-1] == (5, 5)
    assert explanation.format == Format.ONNX
    assert explanation.to_dict()["blocks"][0]["name"] == explanation.blocks[0].name


def test_a_bundle_without_the_two_files_is_refused(bundle: Bundle, folder: Path) -> None:
    records = tuple(record for record in bundle.manifest.artifacts if record.file != "model.fp32.tflite")
    partial = replace(bundle, manifest=replace(bundle.manifest, artifacts=records))
    assert explain(partial, str(folder / "many.npz"), samples=1).format == Format.ONNX
    with pytest.raises(InputError, match=r"static-int8 file with the fp32 file of the same format, .* export it again"):
        explain(partial, str(folder / "many.npz"), format_=Format.TFLITE)
