"""The pipeline: from a trained Keras model to a verified bundle."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lepton_converters.artifact_record import record_of_file, search_doubts, target_doubts, verify_artifacts
from lepton_converters.bill_of_materials import BILL_FILE, bill_of_materials
from lepton_converters.budget import Budget
from lepton_converters.bundle_writer import GOLDEN_FILE, check_output, file_record, pack_arrays, pack_encoders, write_bundle
from lepton_converters.calibration import Calibration
from lepton_converters.check import CheckReport, check_built, check_model
from lepton_converters.conversion import LeftOut, Step, check_named, convert
from lepton_converters.dataset import check_exists
from lepton_converters.door import DoorOptions
from lepton_converters.export_data import ExportData, plan_preprocessing
from lepton_converters.keras_loading import CustomObjects, import_keras
from lepton_converters.keras_source import KerasSource
from lepton_converters.label_doubt import label_doubts
from lepton_converters.model_card import CARD_FILE, ModelCard, card_text
from lepton_converters.output_place import alone_at_output
from lepton_converters.recipe import IntegerIo, Recipe, Repeated, plan_recipe, read_repeated
from lepton_runtime.answers import Answers
from lepton_runtime.errors import InputError, ParityError, UnsupportedError
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.frame_input import PixelFormat
from lepton_runtime.manifest import ArtifactRecord, Manifest, Quantization
from lepton_runtime.tensors import Array
from lepton_runtime.versions import installed_versions

if TYPE_CHECKING:
    import keras


_TOOLCHAIN = ("lepton-edge", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        path: Where the bundle lies.
        manifest: What it says about itself.
        verified: Every artifact that was verified, those that failed included.
        left_out: What the bundle lacks, and why.
        failed: Precisions that were asked for by name and failed; all that failed if nothing passed.
        remarks: What else whoever exports should know, of this machine and not of the model.
    """

    path: Path
    manifest: Manifest
    verified: tuple[ArtifactRecord, ...]
    left_out: tuple[LeftOut, ...]
    failed: tuple[Precision, ...]
    remarks: tuple[str, ...] = ()


@alone_at_output
def export(
    model: "str | Path | keras.Model",
    output: str | Path,
    *,
    formats: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    io: IntegerIo = "float",
    input_: Literal["float", "uint8"] = "float",
    pixels: PixelFormat | None = None,
    frame_size: Sequence[int] | None = None,
    answers: Answers | None = None,
    anchors: str | Path | None = None,
    variances: Sequence[float] | None = None,
    batch: int | None = 1,
    size: Sequence[int] | None = None,
    signature: str | None = None,
    custom_objects: CustomObjects = (),
    calib: str | Path | None = None,
    calib_samples: int = 200,
    target: str | None = None,
    repeat: str | Path | None = None,
    seed: int = 0,
    evaluate: str | Path | None = None,
    max_drop: str | None = None,
    measure_blocks: bool = False,
    keep_failed: bool = False,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    license_: str | None = None,
    serial: int | None = None,
    card: str | Path | None = None,
    sbom: bool = False,
    trust_code: bool = False,
    keep_dropout: bool = False,
    force: bool = False,
    on_step: Callable[[Step], None] = lambda step: None,
) -> ExportResult:
    """A verified bundle of everything that was asked for and keeps to the budget.

    Args:
        model: A ``.keras`` or ``.h5`` file, a SavedModel folder, or a ``keras.Model`` that is built or was called.
        output: The bundle's folder, or a ``.zip`` file.
        formats: Names of :class:`lepton_runtime.Format`; all by default.
        precisions: Names of :class:`lepton_runtime.Precision`; by default all that can be made.
        io: ``int8`` or ``uint8`` for integers at the doors of ``static-int8`` artifacts.
        input_: ``uint8`` for artifacts that hold the preprocessing and take the frames of a camera, see :class:`lepton_runtime.FrameInput`.
        pixels: The layout of such a frame: ``rgb``, ``bgr``, ``gray``, ``nv12`` or ``yuyv``; by default ``rgb``, or what the model takes.
        frame_size: Height and width of such a frame; by default those of the model's picture.
        answers: What the artifacts are to do behind the network.
        anchors: A ``.npy`` file, ``(boxes, 4)``: centers, widths and heights that the boxes of a detector are offsets from.
        variances: What these offsets are multiplied by, four numbers.
        batch: The length of the batch axis; ``None`` leaves it free.
        size: Lengths for the free axes of the inputs, such as height and width; without it they stay free.
        signature: Which of a SavedModel's signatures; by default the only one, or ``serving_default``.
        custom_objects: The model's own layers and functions: objects by name, or texts ``module:name``.
        calib: Sample inputs, raw, before the preprocessing (0 to 255 for photos); a path or ``module:function``, see
            :func:`lepton_converters.dataset.open_dataset`, and for texts and tables
            :func:`lepton_converters.raw_dataset.open_raw_dataset`.
        calib_samples: How many of them to calibrate on, at most.
        target: Name of the :class:`lepton_runtime.formats.Target` that ONNX artifacts are for: the arithmetic of ``static-int8`` and
            the form of the others, which run on all; by default that of ``repeat``, or ``any``.
        repeat: A bundle whose ``static-int8`` artifacts are made again as they were, without choosing or searching anew.
        seed: Of everything that is chosen at random, from 0.
        evaluate: Labelled samples to measure the task's accuracy on, raw as well.
        max_drop: How much accuracy may be lost, ``0.5pp`` or ``1%``; 1pp by default. Where it is given, ``static-int8`` artifacts
            that would lose more keep blocks in float, found by a search on samples that neither calibrate nor verify.
        measure_blocks: Record what each block of ``static-int8`` artifacts costs alone in 8 bits, and saves alone in float, for
            :func:`lepton_converters.explanation.explain`; it makes three artifacts a block.
        keep_failed: Keep artifacts that break the budget, marked.
        preprocessing: Settings of :class:`lepton_runtime.Preprocessing`; size, channels and number type
            come from the model.
        labels: Class names in the order of the outputs; by default those of class folders.
        license_: Recorded in the manifest.
        serial: Likewise: a number from 0 that goes up from release to release.
        card: A TOML file with what there is to say of the model, see :class:`lepton_converters.model_card.ModelCard`; with what was
            measured it becomes ``model-card.md``.
        sbom: Add a bill of materials, ``sbom.cdx.json``.
        trust_code: Load Lambda layers and SavedModels, which are programs.
        keep_dropout: Keep dropout that is called with ``training=True``, or all of it if none is; its noise becomes inputs.
        force: Replace a bundle that is there.
        on_step: Told what is happening.

    Raises:
        InputError: A file or an option does not fit.
        OutputError: The bundle cannot be written, or another process is writing it.
        UnsupportedError: The model cannot be converted.
        ParityError: Nothing that was made keeps to the budget.
        MissingExtraError: TensorFlow is not installed.
    """
    path = Path(output)
    answers = None if answers == Answers() else answers
    options = DoorOptions(input_, pixels, tuple(frame_size) if frame_size else None, answers, anchors, variances)
    options.check(io)
    calib, evaluate = _location("calib", calib), _location("evaluate", evaluate)
    recipe = plan_recipe(formats=formats, precisions=precisions, io=io, has_calibration=calib is not None, measures_blocks=measure_blocks)
    if max_drop is not None and evaluate is None:
        raise InputError(f"--max-drop {max_drop} needs labelled data to measure the accuracy on; give --eval PATH")
    budget = Budget.parse(max_drop or "1pp") if evaluate else None
    if serial is not None and serial < 0:
        raise InputError(f"--serial must be at least 0, found {serial}")
    said = ModelCard.read(Path(card)) if card is not None else None
    if (batch is not None and batch < 1) or calib_samples < 1 or seed < 0:
        raise InputError(f"batch and calibration samples must be at least 1 and the seed 0, found {batch}, {calib_samples} and {seed}")
    if measure_blocks and repeat is not None:
        raise InputError("--measure-blocks measures static-int8 artifacts while they are chosen, found --recipe; leave one of both out")
    recipe, left_out = _without_barred(
        recipe, _check(model, trust_code=trust_code, custom_objects=custom_objects, keep_dropout=keep_dropout)
    )
    check_output(path, force=force)
    repeated = read_repeated(repeat) if repeat is not None else Repeated()
    cpu = repeated.target(target)
    on_step(Step("read", "TensorFlow"))
    import_keras()
    source = KerasSource.open(
        model,
        batch=batch,
        size=size,
        signature=signature,
        trust_code=trust_code,
        custom_objects=custom_objects,
        keep_dropout=keep_dropout,
    )
    on_step(Step("read", source.file or "model", f"{source.name}, {source.parameters:,} parameters", 1))

    steps = plan_preprocessing(source, preprocessing or {})
    doors = options.plan(source, steps, labels)
    data = ExportData.open(
        source,
        steps,
        calib=calib,
        calib_samples=calib_samples,
        evaluate=evaluate,
        seed=seed,
        labels=None if doors.detects else labels,
        searches=max_drop is not None
        and any(precision == Precision.STATIC_INT8 and format_ not in repeated.records for format_, precision in recipe.targets),
    )
    quantizer = doubts = None
    if data.calibration and recipe.needs_calibration:
        from lepton_converters.calibration_review import CalibrationReview

        _check_calibration(source, data.calibration)
        doubts = CalibrationReview(source, data.calibration, steps)
        quantizer = _quantizer(data, recipe.io, cpu, seed, budget, repeated.records, doubts, on_step, measure_blocks=measure_blocks)
    artifacts, not_converted = convert(source, recipe, quantizer, data.probes, on_step, target=cpu)
    records, verification, evaluation = verify_artifacts(source, artifacts, data, budget, on_step)
    kept = [record for record in records if record.passed or keep_failed]
    failed = {record.precision for record in records if not record.passed}
    left_out += [*not_converted, *(LeftOut(record.format, record.precision, record.verdict) for record in records if record not in kept)]
    _refuse_nothing(kept, records)

    files = {record.file for record in kept}
    dropped = {artifact.file for artifact in artifacts} - files
    artifacts = [artifact for artifact in artifacts if artifact.file in files]
    golden: Mapping[str, Array] = {name: array for name, array in verification.golden.items() if name.rpartition("/")[0] not in dropped}
    artifacts, golden, faults = doors.fold(source, artifacts, golden, data=calib or evaluate, seed=seed, on_step=on_step)
    left_out += faults
    failed |= {fault.precision for fault in faults}
    kept = [record_of_file(record, artifact) for artifact in artifacts for record in kept if record.file == artifact.file]
    _refuse_nothing(kept, records)
    arrays = pack_arrays(golden)
    encoders, vocabularies = pack_encoders(source.encoders)
    settings = {
        "batch": batch,
        "size": "x".join(map(str, size)) if size else None,
        "calib_samples": len(data.calibration.indices) if data.calibration and recipe.needs_calibration else None,
        "seed": seed,
        "io": io,
        "target": str(cpu),
    }
    manifest = Manifest(
        source={"file": source.file, "sha256": source.sha256},
        inputs=kept[0].inputs if doors.frame else source.inputs,
        outputs=kept[0].outputs if answers else source.outputs,
        preprocessing=doors.frame or steps,
        labels=tuple(labels) if doors.detects and labels else data.labels,
        artifacts=tuple(kept),
        golden=file_record(GOLDEN_FILE, arrays),
        evaluation=evaluation,
        license=license_,
        serial=serial,
        settings=settings,
        versions=installed_versions(_TOOLCHAIN),
        removed_layers=source.removed_layers,
        notes=(
            *source.notes,
            *data.notes,
            *label_doubts(verification.accuracy, verification.counts),
            *(doubts.found if doubts else ()),
            *repeated.doubts(settings),
            *target_doubts(kept),
            *search_doubts(kept),
            *doors.notes(is_evaluated=evaluation is not None),
        ),
        noise_inputs=source.noise,
        answers=doors.answering.answers if doors.answering else None,
        encoders=encoders,
    )
    documents = {CARD_FILE: card_text(said, manifest).encode()} if said else {}
    if sbom:
        documents[BILL_FILE] = bill_of_materials(manifest)
    manifest = replace(manifest, documents=tuple(file_record(name, content) for name, content in documents.items()))
    models = {artifact.file: artifact.model for artifact in artifacts}
    on_step(Step("write", str(path)))
    write_bundle(path, manifest, {**models, GOLDEN_FILE: arrays, **vocabularies, **documents}, force=force)
    size_bytes = sum(record.size_bytes for record in manifest.files)
    on_step(Step("write", str(path), f"{len(manifest.files) + 2} files, {size_bytes / 1000:,.0f} kB", 1))
    if any(record.passed for record in records):
        failed &= recipe.named
    return ExportResult(
        path, manifest, tuple(records), tuple(left_out), tuple(sorted(failed)), tuple(quantizer.cache.notes) if quantizer else ()
    )


def _refuse_nothing(kept: Sequence[ArtifactRecord], records: Sequence[ArtifactRecord]) -> None:
    if not kept:
        raise ParityError(
            "at least one artifact must keep to the budget, and answer as Python does, none did: "
            + "; ".join(f"{record.file} {record.verdict}" for record in records)
            + "; nothing was written"
        )


def _check(model: "str | Path | keras.Model", *, trust_code: bool, custom_objects: CustomObjects, keep_dropout: bool) -> CheckReport | None:
    """What can be made of the model, before TensorFlow starts; ``None`` for one in memory that has no configuration."""
    if isinstance(model, str | Path):
        known = None if "keras" in sys.modules else custom_objects  # where Keras runs already, classes may be registered with it
        return check_model(model, trust_code=trust_code, custom_objects=known, keep_dropout=keep_dropout, is_verified=True)
    return check_built(model, keep_dropout=keep_dropout)


def _without_barred(recipe: Recipe, report: CheckReport | None) -> tuple[Recipe, list[LeftOut]]:
    """The recipe without what cannot be made, unless it was asked for by name."""
    if report and report.fault:
        raise UnsupportedError(report.fault)
    left_out = []
    for format_, precision in recipe.targets:
        refusal = report and report.refusal(format_, precision)
        if refusal and recipe.must_make(format_, precision):
            raise UnsupportedError(f"{format_} {precision} cannot be made: {refusal}")
        if refusal:
            left_out.append(LeftOut(format_, precision, f"not converted: {refusal}"))
    barred = {(entry.format, entry.precision) for entry in left_out}
    targets = tuple(target for target in recipe.targets if target not in barred)
    check_named(recipe, {precision for _, precision in targets}, left_out)
    return replace(recipe, targets=targets), left_out


def _location(name: str, samples: str | Path | None) -> str | None:
    """Where the samples are; arrays are not taken, since a bundle must be made the same way again."""
    if samples is None:
        return None
    if not isinstance(samples, str | Path):
        raise InputError(f"{name} is a path or module:function, found {type(samples).__name__}; save it with numpy.save")
    check_exists(str(samples), option="--eval" if name == "evaluate" else f"--{name}")
    return str(samples)


def _quantizer(
    data: ExportData,
    io: IntegerIo,
    target: Target,
    seed: int,
    budget: Budget | None,
    repeated: Mapping[Format, Quantization],
    review: Any,
    on_step: Callable[[Step], None],
    *,
    measure_blocks: bool,
) -> Any:
    """What makes the calibrated artifacts."""
    from lepton_converters.mixed_precision import Search
    from lepton_converters.quantizer import Quantizer

    assert data.calibration is not None

    def tell(text: str) -> None:
        on_step(Step("quantize", "static-int8", doing=text))

    search = Search(data.search, budget, batch=data.calibration.batch, on_progress=tell) if budget and data.search else None
    return Quantizer(
        data.calibration,
        spare=data.spare,
        io=io,
        target=target,
        seed=seed,
        search=search,
        measures_blocks=measure_blocks,
        recipe=repeated,
        on_measured=review.look_at,
        on_progress=tell,
    )


def _check_calibration(source: KerasSource, calibration: Calibration) -> None:
    """Refuse indices that the Keras model itself cannot take; the quantizers would blame an operator."""
    if any(spec.dtype.startswith(("int", "uint")) for spec in source.inputs):
        for batch in calibration.batches():
            source.predict(batch)
