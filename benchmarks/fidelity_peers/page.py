"""The comparison in words: docs/fidelity.md."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import geometric_mean, mean, median

from fidelity_peers.comparison import Lead
from fidelity_peers.method import METHODS, TITLES, Method
from fidelity_peers.result import Key, Latency, Result
from lepton_edge.latency.statistics import paired_ratio

_INTRODUCTION = """\
# How faithful 8 bits are, ours and others'

Made by `python benchmarks/fidelity.py ZOO mnist10k.npz WORK --peer-python nncf=PYTHON ai-edge-quantizer=PYTHON --latency`: the eight
networks of `benchmarks/train_zoo.py`, each quantized by everybody from the same `.keras` file with ranges of the same 200 calibration
images, already preprocessed, and evaluated one image at a time on all 2,000 images to test on.

- **drop**: what float Keras gets right more often, in percentage points, with its 95 % interval. Only images that one of the two
  alone gets right decide (normal approximation of the paired difference, Agresti and Min 2005). An interval that holds 0 is no difference.
- **expected**: the drop as float Keras' own probabilities tell it, calibrated by the labels ([how](quantization.md#a-budget)). Answers that
  change were mostly nearly a tie, where the label is chance, and the drop is mostly the luck of these images. It is never negative, is what
  lepton-edge's own search goes by, and says nothing of a network that was trained on.
- **same answer**: images on which the answer is Keras', right or wrong.
- **latency**: as a share of lepton-edge's fp32 file's on the same engine, of OpenVINO's own fp32 there; one thread, blocks in turns
  A B B A in six processes, medians, and the 95 % interval of Wilcoxon's signed-rank test.
- **seconds**: from the `.keras` file to the finished one, ours verified against Keras; imports are not counted. **peak**: the largest
  memory of the process that did it, and what of it the imports had taken before.
- Who tries settings out does so on other training images: lepton-edge compares ranges and roundings on 1,000 of them by how far the scores
  are from float's, and with `--max-drop` looks for a drop of at most 0.5 points on 2,000 and verifies on 2,000 more; NNCF's accuracy
  control has 2,000; so has onnxruntime's choice among its three calibrations, by how often the answer is float's.
- *onnxruntime, as its guide says*: `quant_pre_process`, QDQ, a scale a channel, unsigned activations, 7-bit weights where the CPU lacks
  VNNI: it is for this CPU, as lepton-edge's row *--target* is; its others are right on any. *onnxruntime, defaults*:
  `quantize_static(model, output, reader)`. Both, and NNCF, start from the ONNX file that Keras' own `model.export(format="onnx")`
  writes. *NNCF*: the preset mixed, and `model_type` transformer for vit. *TensorFlow's converter*: `Optimize.DEFAULT`,
  `TFLITE_BUILTINS_INT8`. *ai-edge-quantizer*: `static_wi8_ai8`. *finetune*: 3 epochs on 8,000 training images with their classes.
  All files take and give floats. OpenVINO computes what is not quantized in float32, not in bfloat16.

{facts}
"""


def write_page(
    networks: Sequence[str],
    results: Mapping[Key, Result],
    latencies: Mapping[Key, Latency],
    leads: Mapping[Key, tuple[Lead, Lead]],
    *,
    absent: Sequence[str],
    environments: Collection[str],
) -> str:
    """The page's text; what was not measured is named.

    Args:
        networks: The networks, in order.
        results: Those of all methods that were run.
        latencies: Likewise.
        leads: Of our plain files, over the most accurate and the most faithful of the others.
        absent: Networks that are not there.
        environments: The peers that are installed.
    """
    parts = [_INTRODUCTION.format(facts=_facts([*results.values()], [*latencies.values()])), "## In short\n"]
    parts += _summary(networks, results, latencies, environments)
    if absent:
        parts += [f"\n**Not measured**: {', '.join(absent)}."]
    parts += ["\n## Against the best of the others\n", *_leads(leads)]
    parts += ["\n## Where 8 bits are not faster\n", *_slower(latencies)]
    for network in networks:
        parts += [f"\n## {network}\n", *_table(network, results, latencies, environments)]
    return "\n".join(parts) + "\n"


def _facts(results: Sequence[Result], latencies: Sequence[Latency]) -> str:
    """When, with what and on which machine."""
    records = [*results, *latencies]
    dates, machines = (sorted({getattr(record, name) for record in records}) for name in ("date", "machine"))
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.versions.items():
            versions.setdefault(name, set()).add(version)
    named = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in versions.items())
    return f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))} · {named} · {'; '.join(machines)}" if records else "Nothing was measured."


def _summary(
    networks: Sequence[str], results: Mapping[Key, Result], latencies: Mapping[Key, Latency], environments: Collection[str]
) -> Iterable[str]:
    yield f"Means over the networks that a method made a file of, of {len(networks)}. *over 0.5*: how many drop more than half a point."
    yield ""
    yield "| engine | method | networks | mean drop | largest drop | over 0.5 | mean expected | same answer | latency | median seconds |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for method in METHODS.values():
        if method.name == "keras":
            continue
        found = [result for network in networks if (result := results.get((network, method.name))) and result.drop is not None]
        drops = [result.drop for result in found if result.drop is not None]
        if not found:
            is_known = any((network, method.name) in results for network in networks)
            reason = "all failed" if is_known else _absence(method, environments)
            yield f"| {TITLES[method.engine]} | {method.title} | {reason} | | | | | | | |"
            continue
        worst = max(found, key=lambda result: result.drop or 0)
        ratios = [_ratio(latencies[result.key])[0] for result in found if result.key in latencies and not latencies[result.key].failure]
        cells = (
            f"{len(found)}",
            f"{100 * mean(drops):+.2f}",
            f"{100 * max(drops):+.2f} ({worst.network})",
            f"{sum(drop > 0.005 + 1e-9 for drop in drops)}",
            "" if method.is_tuned else f"{100 * mean(result.expected_drop or 0 for result in found):.2f}",
            f"{100 * mean(result.agreement or 0 for result in found):.2f} %",
            f"{100 * geometric_mean(ratios):.0f} % ({len(ratios)})" if ratios else "–",
            f"{median(result.seconds or 0 for result in found):.1f}",
        )
        yield f"| {TITLES[method.engine]} | {method.title} | {' | '.join(cells)} |"


def _leads(leads: Mapping[Key, tuple[Lead, Lead]]) -> Iterable[str]:
    yield "Our plain file against that one of the others without a budget on the same engine that is right most often, and against that"
    yield "one that answers most often as Keras does, both chosen by these very images: how much more often ours does, in points (95 %)."
    yield ""
    yield "| engine | ours | network | most often right | ours more | most faithful | ours more |"
    yield "|---|---|---|---|--:|---|--:|"
    for (network, name), (right, faithful) in leads.items():
        cells = (right.over, _points(right), faithful.over, _points(faithful))
        yield f"| {TITLES[METHODS[name].engine]} | {METHODS[name].title} | {network} | {' | '.join(cells)} |"


def _slower(latencies: Mapping[Key, Latency]) -> Iterable[str]:
    """Our files with a budget that take longer than float32."""
    yield "Our files of `--max-drop 0.5pp` that are not faster than fp32 on the same engine: 8 bits are not worth it there, on this CPU and"
    yield "at this size ([why](quantization.md#where-8-bits-are-not-faster)). The others are faster."
    yield ""
    yield "| engine | network | latency |"
    yield "|---|---|--:|"
    for (network, name), latency in latencies.items():
        if "budget" in name and name.startswith("ours") and not latency.failure and _ratio(latency)[2] >= 1:
            yield f"| {TITLES[METHODS[name].engine]} | {network} | {_latency(latency)} |"


def _points(lead: Lead) -> str:
    return f"{100 * lead.value:+.2f} ({100 * lead.low:+.2f} to {100 * lead.high:+.2f})"


def _absence(method: Method, environments: Collection[str]) -> str:
    return "not measured" if method.environment in ("", *environments) else f"not measured: {method.environment} is not installed"


def _table(network: str, results: Mapping[Key, Result], latencies: Mapping[Key, Latency], environments: Collection[str]) -> Iterable[str]:
    yield "| engine | method | accuracy | drop (95 %) | expected | same answer | latency | kB | seconds | peak MB (imports) |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for method in METHODS.values():
        result = results.get((network, method.name))
        head = f"| {TITLES[method.engine]} | {method.title}"
        if result is None or result.failure:
            reason = f"failed: {_escaped(result.failure)}" if result else _absence(method, environments)
            yield f"{head} | {reason} | | | | | | | |"
            continue
        cells = [f"{100 * (result.accuracy or 0):.2f} %"]
        if method.name == "keras":
            yield f"{head} | {cells[0]} | | | | | {_kilobytes(result)} | | |"
            continue
        cells += [
            _drop(result),
            "" if method.is_tuned else f"{100 * (result.expected_drop or 0):.2f}",
            f"{100 * (result.agreement or 0):.2f} %",
            _latency(latencies.get(result.key)),
            _kilobytes(result),
        ]
        cells += [f"{result.seconds:.1f}", f"{(result.peak_bytes or 0) / 1e6:,.0f} ({(result.import_bytes or 0) / 1e6:,.0f})"]
        yield f"{head}{f', {result.note}' if result.note else ''} | {' | '.join(cells)} |"


def _drop(result: Result) -> str:
    return " ".join((f"{100 * (result.drop or 0):+.2f}", f"({100 * (result.drop_low or 0):+.2f} to {100 * (result.drop_high or 0):+.2f})"))


def _kilobytes(result: Result) -> str:
    return f"{(result.size_bytes or 0) / 1000:,.0f}"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    if latency.failure:
        return f"failed: {_escaped(latency.failure)}"
    value, low, high = _ratio(latency)
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _ratio(latency: Latency) -> tuple[float, float, float]:
    """The ratio of latencies and its interval, which six processes are enough for."""
    ratio = paired_ratio(latency.base_ms, latency.new_ms)
    if ratio.low is None or ratio.high is None:
        raise ValueError(f"a ratio must rest on at least 6 processes, {latency.network} {latency.method} has {ratio.processes}")
    return ratio.value, ratio.low, ratio.high


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
