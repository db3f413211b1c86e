"""Options that several commands share, and how their texts are read."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from lepton_runtime.answers import MOST_SHARED, Activation, Answers, BoxFormat
from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import InputError, OutputError

Item = TypeVar("Item")


def _writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from lepton_edge.report.file import check_writable

    if value and value != "-":
        check_writable(Path(value), option="--json")
    return value


json_option = click.option(
    "--json",
    "json_path",
    metavar="PATH",
    callback=_writable,
    help="Also write the result as one JSON document; '-' writes it to stdout instead of the table.",
)

precision_option = click.option("--precision", metavar="NAME", help="Which artifact. [default: as tuned, else the closest to Keras]")
engine_option = click.option(
    "--engine", metavar="NAME", help="onnxruntime, litert or openvino. [default: as tuned, else onnxruntime where it can]"
)

trusted_keys_option = click.option(
    "--trusted-keys",
    type=click.Path(path_type=Path),
    help="Refuse a bundle that no key in this folder signed: public keys, *.pub, and `revoked`, a list of those that are trusted no more.",
)


def check_trusted(bundle: Bundle, trusted_keys: Path | None) -> None:
    """Refuse a bundle that no trusted key signed, where one must have; before its other files are read, which may be of any size.

    Raises:
        SignatureError: None did.
        InputError: The keys cannot be read.
    """
    if trusted_keys is not None:
        from lepton_runtime.signature import TrustedKeys

        TrustedKeys.read(trusted_keys).check_bundle(bundle)


def keep_result(json_path: str | None, *, force: bool) -> None:
    """Refuse to replace a measured result, unless it is asked for.

    Raises:
        OutputError: There is one.
    """
    if json_path and json_path != "-" and Path(json_path).is_file() and not force:
        raise OutputError(f"the result {json_path!r} exists; add --force to replace it, or choose another with --json")


def comma_list(read: Callable[[str], Item]) -> Callable[[click.Context, click.Parameter, Any], tuple[Item, ...]]:
    """A callback for an option that takes ``a,b`` and may be repeated."""

    def callback(context: click.Context, parameter: click.Parameter, values: Any) -> tuple[Item, ...]:
        texts = values if isinstance(values, tuple) else (values,) if values else ()
        return tuple(read(part.strip()) for text in texts for part in text.split(","))

    return callback


PREPROCESSING_EPILOG = """\b
A TOML file for --preprocess, for example:
    resize = "crop"
    scale = "1/255"
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
"""

_STEPS = ("resize", "interpolation", "color", "scale", "mean", "std")
_PREPROCESSING = (
    click.option(
        "--preprocess", "toml", type=click.Path(path_type=Path), help="TOML file with the preprocessing; options below override it."
    ),
    click.option(
        "--resize", type=click.Choice(["none", "stretch", "crop", "pad"]), help="How images get the model's size. [default: none]"
    ),
    click.option(
        "--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]), help="Of the resize. [default: bilinear]"
    ),
    click.option("--color", type=click.Choice(["keep", "rgb", "bgr", "gray"]), help="Convert images to this. [default: keep]"),
    click.option("--scale", metavar="1/255", help="Factor on raw values. [default: 1]"),
    click.option("--mean", callback=comma_list(str), metavar="A[,B,C]", help="Subtracted after the scale. [default: 0]"),
    click.option("--std", callback=comma_list(str), metavar="A[,B,C]", help="Divided by after that. [default: 1]"),
    click.option("--labels", type=click.Path(path_type=Path), help="Text file, one class name a line. [default: names of class folders]"),
)


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for what happens to samples before the network, and for the names of classes.

    The command gets them as ``preprocessing``, the settings in a TOML file with those in their place that were given beside it, and
    ``labels``, the names or ``None``.
    """

    @wraps(command)
    def collected(*arguments: Any, toml: Path | None, labels: Path | None, **options: Any) -> Any:
        from lepton_runtime.preprocess import Preprocessing

        given = {name: value for name in _STEPS if (value := options.pop(name))}
        settings = {**(Preprocessing.from_toml(toml) if toml else {}), **given}
        return command(*arguments, preprocessing=settings, labels=_read_labels(labels), **options)

    decorated: Callable[..., Any] = collected
    for option in reversed(_PREPROCESSING):
        decorated = option(decorated)
    return decorated


def _read_labels(path: Path | None) -> list[str] | None:
    """The class names in a text file.

    Raises:
        InputError: It cannot be read.
    """
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels must be a text file with one name a line, {str(path)!r} cannot be read: {error}") from error


_ANSWERS = (
    click.option(
        "--activation", type=click.Choice(["none", "softmax", "sigmoid"]), default="none", show_default=True, help="What scores go through."
    ),
    click.option("--top-k", type=click.IntRange(1), help="Give the best classes and their scores only. [default: all; 100 boxes]"),
    click.option("--threshold", type=float, metavar="SCORE", help="With --top-k or --boxes: answers below or at it get class -1."),
    click.option(
        "--boxes",
        type=click.Choice(["xyxy", "yxyx", "xywh", "center_xywh"]),
        help="A detector: how it gives boxes. They are decoded, and of those of one class that cover each other the best stays.",
    ),
    click.option(
        "--iou",
        type=click.FloatRange(0, MOST_SHARED),
        help="With --boxes: the part that is shared above which a box gives way. [default: 0.5]",
    ),
    click.option(
        "--anchors", type=click.Path(path_type=Path), help="With --boxes center_xywh: .npy file (boxes, 4) that they are offsets from."
    ),
    click.option(
        "--variances", callback=comma_list(float), metavar="A,B,C,D", help="With --anchors: factors of the offsets. [default: 1,1,1,1]"
    ),
)


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for what the files do behind the network; the command gets them as ``answers``, ``anchors`` and ``variances``."""

    @wraps(command)
    def collected(
        *arguments: Any,
        activation: Activation,
        top_k: int | None,
        threshold: float | None,
        boxes: BoxFormat | None,
        iou: float | None,
        anchors: Path | None,
        variances: tuple[float, ...],
        **options: Any,
    ) -> Any:
        found = Answers(activation=activation, top_k=top_k, threshold=threshold, boxes=boxes, iou=iou)
        return command(*arguments, answers=found, anchors=anchors, variances=variances or None, **options)

    decorated: Callable[..., Any] = collected
    for option in reversed(_ANSWERS):
        decorated = option(decorated)
    return decorated


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    lengths = value.lower().replace("×", "x").split("x") if value else []
    if not all(length.isdigit() and int(length) > 0 for length in lengths):
        raise click.BadParameter(f"lengths such as 224x160 (height x width), or one such as 50 for a sequence, found {value!r}")
    return [int(length) for length in lengths] or None


def _frame_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    lengths = _size(context, parameter, value)
    if lengths is not None and len(lengths) != 2:
        raise click.BadParameter(f"a height and a width such as 480x640, found {value!r}")
    return (lengths[0], lengths[1]) if lengths else None


frame_size_option = click.option(
    "--frame-size",
    callback=_frame_size,
    metavar="HxW",
    help="With --input uint8: height and width of a frame. [default: those of the model's picture]",
)


def size_option(otherwise: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for the lengths of free axes, with what becomes of them without it."""
    return click.option("--size", callback=_size, metavar="HxW", help=f"Lengths for the free axes of inputs; {otherwise}.")


custom_objects_option = click.option(
    "--custom-objects",
    multiple=True,
    metavar="MODULE:NAME",
    help="The model's own layer or function, or a dict of them; imported, and so run, from here. May be repeated.",
)
