"""``lepton-edge run``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.options import check_trusted, engine_option, json_option, precision_option, trusted_keys_option

if TYPE_CHECKING:
    from lepton_runtime.labels import Prediction


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path), required=False)
@click.option("--text", metavar="TEXT", help="A text in place of INPUT.")
@click.option("--camera", type=click.IntRange(0), metavar="N", help="Answer the frames of camera N, from 0, until stopped.")
@click.option("--video", type=click.Path(path_type=Path), help="Answer all frames of a video file.")
@click.option("--folder", type=click.Path(path_type=Path), help="Answer all image files of a folder.")
@click.option("--watch", is_flag=True, help="With --folder: also those that come later, until stopped.")
@click.option("--count", type=click.IntRange(1), help="Of frames: stop after so many answers.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Of frames: how long the camera, or an answer, may take before it is an error.",
)
@trusted_keys_option
@precision_option
@engine_option
@click.option("--threads", type=click.IntRange(1), help="[default: as tuned, else 1]")
@click.option("--top", type=click.IntRange(1), help="How many answers are shown. [default: 5; all where the files choose them]")
@json_option
def run(
    bundle: Path,
    input: Path | None,  # noqa: A002
    text: str | None,
    camera: int | None,
    video: Path | None,
    folder: Path | None,
    watch: bool,
    count: int | None,
    timeout_s: float,
    trusted_keys: Path | None,
    precision: str | None,
    engine: str | None,
    threads: int | None,
    top: int | None,
    json_path: str | None,
) -> None:
    """Run BUNDLE once on INPUT, or on frame after frame.

    INPUT is an image, which goes through the recorded preprocessing; or a .npy file, or a .npz file with one
    array an input, whose arrays are taken as the model takes them: already preprocessed, with the batch axis, of
    the artifact's own number type (`inspect` names it).

    For a model of texts, INPUT is a .txt file with one text a line. For one of tables it is a .csv file whose header
    names the inputs, or a .json file with one object, or a list of them.

    Several texts or rows at once are answered one by one; --json then has `tops`, one list a sample, and `top` is the
    first sample's.

    Of a camera it is always the newest frame that is answered; older ones are dropped and counted. Frames are answered by one line
    of JSON each on stdout (NDJSON): `frame`, `name` of a file, `latency_ms`, `dropped` since the last answer, and `top` or `outputs`.
    An image file that cannot be answered has `error`. SIGTERM and Ctrl-C end it cleanly.
    """
    from lepton_edge.cli.sample import run_on_file, run_on_text
    from lepton_edge.cli.stream import is_named
    from lepton_edge.report.terminal import write_json
    from lepton_runtime.bundle import Bundle
    from lepton_runtime.cpu import target_of
    from lepton_runtime.frame_input import FrameInput
    from lepton_runtime.session import Session

    streams = {"--camera": camera, "--video": video, "--folder": folder}
    given = [name for name, value in {"INPUT": input, "--text": text, **streams}.items() if value is not None]
    if watch and folder is None:
        raise click.UsageError("--watch is for --folder")
    if len(given) != 1:
        raise click.UsageError(f"give one of INPUT, --text, --camera, --video and --folder, found {' and '.join(given) or 'none'}")
    if given[0] in streams and json_path:
        raise click.UsageError(f"{given[0]} prints one line of JSON a frame by itself; leave --json out")
    opened = Bundle.open(bundle)
    check_trusted(opened, trusted_keys)
    opened.check()
    if given[0] in streams:
        from lepton_edge.cli.stream import open_source, print_answers

        steps = opened.manifest.preprocessing
        source = open_source(camera, video, folder, watch=watch, size=steps.size if isinstance(steps, FrameInput) else None)
        with Session.open(opened, precision=precision, engine=engine, threads=threads) as session:
            print_answers(session, source, count=count, top=top, timeout_s=timeout_s, strict=not watch)
        return
    with Session.open(opened, precision=precision, engine=engine, threads=threads) as session:
        outputs = run_on_file(input, session) if input is not None else run_on_text(text or "", session)
        real = {spec.name: spec.dequantize(outputs[spec.name]) for spec in session.artifact.outputs}
    answers = session.named(outputs, count=top) if is_named(opened.manifest) else []
    if json_path:
        tops = [[asdict(answer) for answer in ranked] for ranked in answers]
        document: dict[str, Any] = {"outputs": {name: array.tolist() for name, array in outputs.items()}}
        document |= {"top": tops[0]} if tops else {}
        document |= {"tops": tops} if len(tops) > 1 else {}
        write_json(document, json_path)
    if json_path == "-":
        return
    if answers:
        _print_answers(answers)
    else:
        for name, array in real.items():
            click.echo(f"{name} {'×'.join(map(str, array.shape))}\n{array}")
    target = target_of(session.artifact)
    made = f", made for {target}" if target else ""
    click.echo(f"{session.artifact.file} on {session.engine}, {session.threads} thread{'s' if session.threads > 1 else ''}{made}", err=True)


def _print_answers(answers: "list[list[Prediction]]") -> None:
    from lepton_runtime.answers import Detection

    width = max((len(answer.label) for ranked in answers for answer in ranked), default=0)
    for number, ranked in enumerate(answers, 1):
        if len(answers) > 1:
            click.echo(f"sample {number}")
        for answer in ranked:
            box = f"  at {' '.join(f'{place:.4g}' for place in answer.box)}" if isinstance(answer, Detection) else ""
            click.echo(f"  {answer.label:<{width}}  {answer.score:8.4f}{box}  {'█' * round(30 * min(1.0, max(0.0, answer.score)))}")
        if not ranked:
            click.echo("  nothing above the threshold")
