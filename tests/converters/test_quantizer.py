"""From a float network to the 8-bit artifact that answers most like it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from lepton_converters.activation_moments import fits
from lepton_converters.artifact import Artifact
from lepton_converters.budget import Budget
from lepton_converters.calibration import Calibration
from lepton_converters.candidate import Candidate, Comparison
from lepton_converters.dataset import Dataset, Sample
from lepton_converters.divergence import divergence
from lepton_converters.equalization import equalize
from lepton_converters.mixed_precision import Search
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.quantizer import Quantizer
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_converters.weight_fitting import Rounding, fit_weights
from lepton_runtime import Format, InputError, Target, UnsupportedError
from lepton_runtime.manifest import BlockRecord, Quantization
from lepton_runtime.tensors import TensorSpec
from tests.converters.float_graphs import Network, float_network, measured

BOTH = pytest.mark.parametrize("format_", list(Format))


@pytest.fixture(scope="module")
def chain(keras, liven) -> dict[Format, Network]:
    """Convolutions in a row, whose channels have unlike ranges."""
    keras.utils.set_random_seed(6)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU()(layers.Conv2D(6, 3, padding="same", name="first")(image))
    x = layers.ReLU()(layers.DepthwiseConv2D(3, padding="same", name="second")(x))
    x = layers.Conv2D(6, 1, activation="relu", name="third")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="scores")(layers.Flatten()(x)))
    liven(keras, model)
    kernel, bias = model.get_layer("first").get_weights()
    factors = np.float32([1, 0.05, 1, 0.2, 3, 1])
    model.get_layer("first").set_weights([kernel * factors, bias * factors])
    return {format_: float_network(model, format_, count=80) for format_ in Format}


@pytest.fixture(scope="module")
def grouped(keras, liven) -> dict[Format, Network]:
    """A convolution in groups between others, whose channels have unlike ranges."""
    keras.utils.set_random_seed(6)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, padding="same", groups=2, activation="relu", name="grouped")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="third")(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="scores")(layers.Flatten()(x)))
    liven(keras, model)
    for name in ("first", "grouped"):
        kernel, bias = model.get_layer(name).get_weights()
        factors = np.float32([1, 0.05, 1, 0.2, 3, 1, 0.1, 1])
        model.get_layer(name).set_weights([kernel * factors, bias * factors])
    return {format_: float_network(model, format_, count=80) for format_ in Format}


def quantizer(network: Network, **options) -> Quantizer:
    """One that compares on as many samples as it measures."""
    count = len(network.calibration.indices) // 2
    indices = network.calibration.indices
    return Quantizer(replace(network.calibration, indices=indices[:count]), spare=indices[count:], **options)


def answers_in_float(network: Network, graph) -> np.ndarray:
    names = frozenset(block.name for block in graph.blocks)
    artifact = graph.quantize(network.ranges(), in_float=names, target=Target.ANY, io="float")
    return network.answers(artifact)["scores"]


@BOTH
@pytest.mark.parametrize("kind", ["chain", "grouped"])
def test_equalized_channels_leave_the_function_as_it_was(request, kind: str, format_: Format) -> None:
    network = request.getfixturevalue(kind)[format_]
    statistics = measured(network.graph, network.calibration)
    equal = equalize(network.graph, statistics)
    assert equal is not None
    np.testing.assert_allclose(answers_in_float(network, equal), network.expected()["scores"], atol=1e-5)


@BOTH
def test_equalized_channels_of_a_depthwise_input_reach_equally_far(chain, format_: Format) -> None:
    network = chain[format_]
    first = network.operators[0]

    def reaches(graph) -> np.ndarray:
        return measured(graph, network.calibration)[first.output].channel_highs

    before = reaches(network.graph)
    after = reaches(equalize(network.graph, measured(network.graph, network.calibration)))
    assert before.max() / before.min() > 16
    assert after.max() / after.min() < before.max() / before.min() / 8
    assert after.max() == pytest.approx(before.max(), rel=1e-5)


@BOTH
def test_channels_that_a_grouped_convolution_mixes_stay_and_those_it_gives_are_equalized(grouped, format_: Format) -> None:
    network = grouped[format_]
    first, middle, third = (operator.weight for operator in network.operators[:3])
    equal = equalize(network.graph, measured(network.graph, network.calibration))
    assert equal is not None
    same = [name for name in (first, middle, third) if np.array_equal(equal.constant(name), network.graph.constant(name))]
    assert same == [first]


def test_a_product_over_the_width_does_not_share_the_channels_of_a_convolution() -> None:
    generator = np.random.default_rng(3)
    kernel, matrix = generator.normal(0, 1, (4, 4, 1, 1)), generator.normal(0, 1, (4, 4))
    kernel *= np.array([1, 0.1, 1, 3]).reshape(4, 1, 1, 1)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 4, 4, 4] image) => (float[n, 4, 4, 4] out) {
            made = Conv(image, kernel)
            out = MatMul(made, matrix)
        }"""
    )
    constants = {"kernel": kernel.astype(np.float32), "matrix": matrix.astype(np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in constants.items())
    graph = OnnxFloatGraph(model, inputs=(TensorSpec("image", (None, 4, 4, 4), "float32"),), outputs=(), route="")
    statistics = {name: TensorStatistics(name, channel_axis=graph.channel_axis(name)) for name in graph.tensors}
    for values in graph.values(iter([{"image": generator.normal(0, 1, (8, 4, 4, 4)).astype(np.float32)}]), graph.tensors):
        for name, array in values.items():
            statistics[name].add(array, first_sample=0)
    assert equalize(graph, statistics) is None


def test_a_network_whose_channels_reach_equally_far_is_not_equalized(chain) -> None:
    network = chain[Format.ONNX]
    graph = network.graph
    for _ in range(12):  # each channel at most 16 times, and layer after layer
        graph = equalize(graph, measured(graph, network.calibration)) or graph
    assert equalize(graph, measured(graph, network.calibration)) is None


@BOTH
@pytest.mark.parametrize("kind", ["chain", "grouped"])
def test_every_way_of_rounding_puts_weights_on_their_integers(request, kind: str, format_: Format) -> None:
    network = request.getfixturevalue(kind)[format_]
    ways = tuple(Rounding)[1:]
    for rounding, graph in fit_weights(network.graph, network.calibration.batches, ways, target=Target.ANY, seed=0).items():
        for operator in network.operators:
            if fits(graph, operator) and rounding != Rounding.BIAS_CORRECTED:
                scheme = graph.weight_scheme(operator, Target.ANY)
                weights = graph.constant(operator.weight)
                np.testing.assert_allclose(scheme.rounded(weights), weights, atol=1e-6 * np.abs(weights).max())


@BOTH
def test_corrected_biases_take_away_what_rounding_adds_to_the_mean(chain, format_: Format) -> None:
    network = chain[format_]
    graph, last = network.graph, [operator for operator in network.operators if operator.weight][-1]
    (corrected,) = fit_weights(graph, network.calibration.batches, (Rounding.BIAS_CORRECTED,), target=Target.ANY, seed=0).values()
    rounded = {last.weight: graph.weight_scheme(last, Target.ANY).rounded(graph.constant(last.weight))}

    def mean(graph) -> np.ndarray:
        found = [values[last.output] for values in graph.values(network.calibration.batches(), [last.output])]
        return np.concatenate(found).mean(axis=0)

    exact, uncorrected = mean(graph), mean(graph.with_constants(rounded))
    assert np.abs(uncorrected - exact).max() > 1e-3
    np.testing.assert_allclose(mean(graph.with_constants({**rounded, last.bias: corrected.constant(last.bias)})), exact, atol=1e-5)


@BOTH
def test_the_chosen_form_is_recorded_and_no_worse_than_the_plain_one(chain, format_: Format) -> None:
    network = chain[format_]
    chosen = quantizer(network).quantize(network.graph)
    plain = Quantization("any", "min-max", False, "nearest", (), len(network.graph.blocks))
    repeated = quantizer(network, recipe={format_: plain}).quantize(network.graph)
    assert chosen.quantization is not None
    assert chosen.quantization.blocks == len(network.graph.blocks)
    expected = network.expected()["scores"]

    def error(artifact) -> float:
        return float(np.abs(network.answers(artifact)["scores"] - expected).mean())

    assert error(chosen) <= 1.1 * error(repeated)


@BOTH
def test_the_same_network_twice_is_the_same_file(chain, format_: Format) -> None:
    network = chain[format_]
    assert quantizer(network).quantize(network.graph) == quantizer(network).quantize(network.graph)


@BOTH
def test_a_record_makes_the_same_file_again(chain, format_: Format) -> None:
    network = chain[format_]
    made = quantizer(network).quantize(network.graph)
    assert made.quantization is not None
    again = quantizer(network, recipe={format_: made.quantization}).quantize(network.graph)
    assert again.model == made.model
    assert again.quantization == made.quantization


@BOTH
def test_every_choice_that_a_record_can_hold_is_made_again(chain, format_: Format) -> None:
    network = chain[format_]
    float_block = network.graph.blocks[1].name
    for rounding in Rounding:
        record = Quantization("any", "percentile", True, str(rounding), (float_block,), len(network.graph.blocks))
        files = [quantizer(network, recipe={format_: record}).quantize(network.graph).model for _ in range(2)]
        assert files[0] == files[1]


def test_too_few_samples_to_compare_leave_the_plain_form(chain) -> None:
    network = chain[Format.ONNX]
    few = replace(network.calibration, indices=tuple(range(31)))
    made = Quantizer(few).quantize(network.graph)
    assert made.quantization == Quantization("any", "min-max", False, "nearest", (), len(network.graph.blocks))


def test_candidates_are_compared_on_samples_of_several_sizes(keras, liven) -> None:
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    scores = keras.layers.Dense(3, activation="softmax", name="scores")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, {"scores": scores, "map": keras.layers.Conv2D(2, 1, name="map")(x)})
    liven(keras, model)
    network = float_network(model, Format.ONNX, count=4)
    candidate = Candidate(network.graph, network.ranges(), Quantization("any", "min-max", False, "nearest", (), 1), "float")
    generator = np.random.default_rng(3)
    samples = [Sample({"image": generator.normal(size=(size, 8, 3)).astype(np.float32)}, 1) for size in (8, 12, 8, 12, 8, 12)]
    comparison = Comparison(candidate, samples, 1)
    error = comparison.error(candidate.artifact())
    assert error.shape == (6,)
    alone = [Comparison(candidate, samples[start::2], 1).measure(candidate.artifact()) for start in (0, 1)]
    measured = comparison.measure(candidate.artifact())[0]
    np.testing.assert_allclose(np.sort(measured), np.sort(np.concatenate([found for found, _ in alone])))


def test_the_target_is_recorded_in_onnx_files_only(chain) -> None:
    targets = {
        format_: quantizer(network, target=Target.X86_VNNI).quantize(network.graph).quantization for format_, network in chain.items()
    }
    assert {format_: found.target for format_, found in targets.items()} == {Format.ONNX: "x86-vnni", Format.TFLITE: "any"}


@pytest.fixture(scope="module")
def damaged(keras, liven) -> dict[Format, Network]:
    """A network one layer of which 8 bits cannot hold: its scale is that of an output channel, and one weight is huge."""
    keras.utils.set_random_seed(8)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="damaged")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="third")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="scores")(layers.Flatten()(x)))
    liven(keras, model)
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 0], bias[0] = 0, 0  # a channel that is always 0 …
    model.get_layer("first").set_weights([kernel, bias])
    kernel, bias = model.get_layer("damaged").get_weights()
    kernel[0, 0, 0, :] = 3000  # … may be multiplied by anything
    model.get_layer("damaged").set_weights([kernel, bias])
    # Answers of every class, each about as often.
    scores = model.get_layer("scores")
    kernel, bias = scores.get_weights()
    samples = np.random.default_rng(1).normal(0.2, 1, (200, 8, 8, 3)).astype(np.float32)
    features = keras.Model(image, scores.input).predict(samples, verbose=0)
    scores.set_weights([kernel, -(features @ kernel).mean(axis=0)])
    return {format_: float_network(model, format_, count=80) for format_ in Format}


def labelled(network: Network) -> Calibration:
    """Samples whose label is what the float network answers."""
    expected = network.expected()["scores"].argmax(axis=1)
    made = [Sample(sample.inputs, int(label)) for sample, label in zip(network.samples, expected, strict=True)]
    read = Dataset("labelled", len(made), None, True, lambda indices: (made[index] for index in sorted(indices)))
    return Calibration(read, tuple(range(len(made))), 1)


def search(network: Network, text: str, *, count: int = 80, on_progress: Callable[[str], None] = lambda told: None) -> Search:
    samples = replace(labelled(network), indices=tuple(range(count))).samples
    return Search(samples, Budget.parse(text), batch=1, on_progress=on_progress)


@BOTH
def test_the_search_keeps_the_damaged_block_in_float_and_no_other(damaged, format_: Format) -> None:
    network = damaged[format_]
    plain = Quantization("any", "min-max", False, "nearest", (), len(network.graph.blocks))
    broken = network.answers(quantizer(network, recipe={format_: plain}).quantize(network.graph))["scores"]
    labels = network.expected()["scores"].argmax(axis=1)
    assert (broken.argmax(axis=1) == labels).mean() < 0.8
    made = quantizer(network, search=search(network, "35pp"))
    record = made.quantize(network.graph).quantization
    assert record is not None
    assert record.float_blocks == (network.block("damaged").name,)
    assert record.steps[0].float_blocks == 0
    assert record.steps[0].drop > 0.35
    assert max(record.measured, key=lambda block: block.alone).name == record.float_blocks[0]
    assert {block.name for block in record.measured} == network.names


@BOTH
def test_nothing_is_kept_in_float_where_nothing_must(chain, format_: Format) -> None:
    network = chain[format_]
    record = quantizer(network, search=search(network, "50pp")).quantize(network.graph).quantization
    assert record is not None
    assert record.float_blocks == ()
    assert [step.float_blocks for step in record.steps] == [0]


def test_a_budget_that_8_bits_cannot_keep_to_leaves_no_block_in_float(damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    network = damaged[Format.ONNX]
    monkeypatch.setattr(Budget, "allows", lambda self, accuracy, *, source_accuracy: False)
    record = quantizer(network, search=search(network, "0pp")).quantize(network.graph).quantization
    assert record is not None
    assert record.float_blocks == ()  # it would be slower than the float network; the verdict says that it lost too much
    assert max(step.float_blocks for step in record.steps) == 3


def test_a_block_that_cannot_be_measured_stays_in_8_bits_and_the_others_are_searched(damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    network = damaged[Format.ONNX]
    third, make = network.block("third").name, Candidate.artifact

    def refusing(candidate: Candidate, in_float: frozenset[str] | None = None) -> Artifact:
        if in_float == {third}:
            raise UnsupportedError(f"{third} cannot be in float by itself")
        return make(candidate, in_float)

    monkeypatch.setattr(Candidate, "artifact", refusing)
    told: list[str] = []
    record = quantizer(network, search=search(network, "35pp", on_progress=told.append)).quantize(network.graph).quantization
    assert record is not None
    assert third not in {block.name for block in record.measured}
    assert record.float_blocks == (network.block("damaged").name,)
    assert f"{third} stays in 8 bits: {third} cannot be in float by itself" in told


def test_blocks_that_can_be_measured_stay_in_8_bits_where_they_do_not_suffice(damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    network = damaged[Format.ONNX]
    (damage,) = (name for name in network.names if "damaged" in name)
    monkeypatch.setattr(
        "lepton_converters.mixed_precision.measure_blocks",
        lambda *arguments, **options: [BlockRecord(name, 1, 1, 1, None) for name in network.names - {damage}],
    )
    record = quantizer(network, search=search(network, "35pp")).quantize(network.graph).quantization
    assert record is not None
    assert record.float_blocks == ()
    assert max(step.float_blocks for step in record.steps) == 3


@BOTH
def test_blocks_in_float_keep_their_weights_whatever_the_rounding(damaged, format_: Format) -> None:
    network = damaged[format_]
    names = tuple(block.name for block in network.graph.blocks)
    for rounding in Rounding:
        record = Quantization("any", "min-max", True, str(rounding), names, len(names))
        found = network.answers(quantizer(network, recipe={format_: record}).quantize(network.graph))
        np.testing.assert_allclose(found["scores"], network.expected()["scores"], atol=1e-5)


@pytest.mark.parametrize("count", [20, 80])
def test_a_budget_is_searched_for_where_too_few_samples_can_be_spared(damaged, count: int) -> None:
    network = damaged[Format.ONNX]
    few = replace(network.calibration, indices=tuple(range(31)))
    made = Quantizer(few, search=search(network, "35pp", count=count)).quantize(network.graph).quantization
    assert made is not None
    assert made.steps[0].float_blocks == 0
    assert made.float_blocks == (network.block("damaged").name,)
    assert (made.rounding == Rounding.NEAREST) == (count < 32)


@BOTH
def test_what_each_block_saves_alone_in_float_is_measured_without_a_budget_too(damaged, format_: Format) -> None:
    network = damaged[format_]
    made = quantizer(network, measures_blocks=True).quantize(network.graph)
    record = made.quantization
    assert record is not None
    assert record.float_blocks == ()
    assert record.steps == ()
    assert {block.name for block in record.measured} == network.names
    blamed = max(record.measured, key=lambda block: block.saved)
    assert blamed.name == network.block("damaged").name
    assert blamed.saved > 2 * blamed.saved_error
    again = quantizer(network, recipe={format_: replace(record, float_blocks=(blamed.name,))}).quantize(network.graph)
    plain, kept = (divergence(network.expected(), network.answers(artifact)).mean() for artifact in (made, again))
    assert blamed.saved == pytest.approx(plain - kept, rel=0.5)  # on other samples


def test_blocks_are_measured_beside_a_search_that_needs_none_of_them(chain) -> None:
    network = chain[Format.ONNX]
    told: list[str] = []
    both = quantizer(network, search=search(network, "50pp"), measures_blocks=True, on_progress=told.append)
    record = both.quantize(network.graph).quantization
    assert record is not None
    assert [step.float_blocks for step in record.steps] == [0]
    assert len(record.measured) == len(network.names)
    assert f"block {len(network.names)} of {len(network.names)}" in told


def test_blocks_cannot_be_measured_without_samples_to_compare_by(chain) -> None:
    network = chain[Format.ONNX]
    few = replace(network.calibration, indices=tuple(range(31)))
    with pytest.raises(
        InputError, match=r"--measure-blocks needs 32 samples .* found 31 to calibrate on and 0 others: give more with --calib"
    ):
        Quantizer(few, measures_blocks=True).quantize(network.graph)


@BOTH
def test_blocks_are_measured_between_float_doors_whatever_the_doors_of_the_file(chain, format_: Format) -> None:
    network = chain[format_]
    record = quantizer(network, measures_blocks=True, io="int8").quantize(network.graph).quantization
    assert record is not None
    assert {block.name for block in record.measured} == network.names


def test_a_block_whose_answers_are_no_numbers_is_left_out(chain, monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain[Format.ONNX]
    names = [block.name for block in network.graph.blocks]
    measure = Comparison.measure
    alone: list[Artifact] = []

    def spoilt(self: Comparison, artifact: Artifact) -> tuple[np.ndarray, float | None]:
        alone.append(artifact)
        error, drop = measure(self, artifact)
        return (error * np.nan if len(alone) == 1 else error), drop

    monkeypatch.setattr(Comparison, "measure", spoilt)
    told: list[str] = []
    record = quantizer(network, measures_blocks=True, on_progress=told.append).quantize(network.graph).quantization
    assert [block.name for block in record.measured] == names[1:]
    assert f"{names[0]} stays in 8 bits: its answers are no numbers" in told


def test_few_samples_whose_answers_all_stay_ask_for_no_block_in_float(chain) -> None:
    network = chain[Format.ONNX]
    record = quantizer(network, search=search(network, "0pp", count=5)).quantize(network.graph).quantization
    assert record is not None
    (step,) = record.steps
    assert (step.float_blocks, step.drop, step.margin) == (0, 0.0, pytest.approx(1.64 / 5))
    assert record.float_blocks == ()


def test_a_record_is_made_again_for_its_own_target(chain) -> None:
    network = chain[Format.ONNX]
    record = Quantization("x86-vnni", "min-max", False, str(Rounding.FITTED), (), len(network.graph.blocks))
    files = [
        quantizer(network, recipe={Format.ONNX: record}, target=target).quantize(network.graph).model
        for target in (Target.ANY, Target.X86_VNNI)
    ]
    assert files[0] == files[1]


def test_a_record_of_another_network_is_refused(chain) -> None:
    record = quantizer(chain[Format.ONNX]).quantize(chain[Format.ONNX].graph).quantization
    with pytest.raises(InputError, match="--recipe must be of the same network, found 3 blocks in it and 4 in the model"):
        quantizer(chain[Format.ONNX], recipe={Format.ONNX: replace(record, blocks=3)}).quantize(chain[Format.ONNX].graph)
