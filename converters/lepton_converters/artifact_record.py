"""What the manifest says of artifacts once they were verified."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from lepton_converters.artifact import Artifact
from lepton_converters.budget import Budget
from lepton_converters.bundle_writer import file_record
from lepton_converters.conversion import Step
from lepton_converters.export_data import ExportData
from lepton_converters.keras_source import KerasSource
from lepton_converters.parity import Verification, judge, verify
from lepton_runtime.cpu import may_saturate, target_of
from lepton_runtime.manifest import ArtifactRecord, Evaluation


def verify_artifacts(
    source: KerasSource, artifacts: Sequence[Artifact], data: ExportData, budget: Budget | None, on_step: Callable[[Step], None]
) -> tuple[list[ArtifactRecord], Verification, Evaluation | None]:
    """What the manifest says of each artifact, what the verification found, and the accuracy of the source model.

    Args:
        source: The trained model.
        artifacts: What was made of it.
        data: With the samples to verify on.
        budget: How much accuracy may be lost; ``None`` without labels.
        on_step: Told what is happening.

    Raises:
        InputError: There are no samples, or labels do not fit the outputs.
        ParityError: An encoder gives something else than the Keras layer it stands for.
        BundleError: An engine cannot load what was made for it.
    """
    total, samples = data.verification()
    subject = f"{len(artifacts)} artifacts"
    verification = verify(
        source, artifacts, samples, on_progress=lambda count: on_step(Step("verify", subject, fraction=min(1.0, count / total)))
    )
    on_step(Step("verify", subject, f"against Keras on {verification.samples:,} samples", 1))
    records = []
    for artifact, report in zip(artifacts, verification.reports, strict=True):
        verdict = judge(artifact.precision, report, budget=budget, source_accuracy=verification.accuracy)
        records.append(
            ArtifactRecord(
                **asdict(file_record(artifact.file, artifact.model)),
                format=artifact.format,
                precision=artifact.precision,
                inputs=artifact.inputs,
                outputs=artifact.outputs,
                requires=artifact.requires,
                route=artifact.route,
                quantization=artifact.quantization,
                parity=report.parity,
                accuracy=report.accuracy,
                verdict=verdict.text + (f"; {why}" if not verdict.passed and (why := _searched_in_vain(artifact)) else ""),
                passed=verdict.passed,
            )
        )
    evaluation = None
    if verification.accuracy is not None and budget is not None:
        evaluation = Evaluation(verification.accuracy, verification.samples, budget.text)
    return records, verification, evaluation


def record_of_file(record: ArtifactRecord, artifact: Artifact) -> ArtifactRecord:
    """What is known of an artifact, said of the file that it became."""
    entry = file_record(artifact.file, artifact.model)
    return replace(
        record,
        size_bytes=entry.size_bytes,
        sha256=entry.sha256,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        requires=artifact.requires,
    )


def target_doubts(records: Sequence[ArtifactRecord]) -> list[str]:
    """What was chosen and verified on a CPU that answers otherwise than those that it is for."""
    return [
        f"{record.file} is for {target_of(record)}, and was chosen and verified on an x86 without VNNI, which may answer wrongly: "
        "export on a CPU that adds up 8-bit products exactly, or with --target any"
        for record in records
        if may_saturate(record)
    ]


def search_doubts(records: Sequence[ArtifactRecord]) -> list[str]:
    """Artifacts of which the search was not sure that they keep to the budget."""
    return [
        f"{record.file} is in 8 bits as a whole, and may lose {100 * (first.drop + first.margin):.2f}pp on other samples: {why}"
        for record in records
        if record.passed and record.quantization and (why := _searched_in_vain(record)) and (first := record.quantization.steps[0])
    ]


def _searched_in_vain(record: Artifact | ArtifactRecord) -> str:
    """Why no block is in float although a search looked for some; empty where none was in vain."""
    made = record.quantization
    if made is None or len(made.steps) < 2 or made.float_blocks:
        return ""
    return f"so many of its {made.blocks} blocks would have to stay in float that 8 bits would save no time: lepton-edge finetune may help"
