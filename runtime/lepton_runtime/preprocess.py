"""The recorded steps from an image, or a raw array, to the model's input."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np

from lepton_runtime.errors import InputError, MissingExtraError
from lepton_runtime.formats import did_you_mean
from lepton_runtime.tensors import NUMBER_TYPES, Array, cast_exactly, fits_shape

Resize = Literal["none", "stretch", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Color = Literal["keep", "rgb", "bgr", "gray"]
Layout = Literal["nhwc", "nchw"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_MOST_PIXELS = 2**24  # 64 MB in Pillow
_MODE_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every sample, on the workstation and on the device, by this one piece of code.

    The arithmetic is ``(value * scale - mean) / std``, each step in float32. Resizing is Pillow's integer
    arithmetic. Both give the same bits on every machine.

    Attributes:
        size: ``(height, width)`` of the model's input image, ``None`` for one that is free, or ``None`` if the input is
            not an image.
        channels: The model's number of channels, or ``None`` if the input is not an image.
        resize: ``none`` refuses other sizes; ``stretch`` ignores the aspect ratio; ``crop`` fills the size
            and cuts what stands over, centred; ``pad`` fits the image in and fills the border with zeros.
        interpolation: Of the resize.
        color: ``keep`` refuses another number of channels; ``rgb``, ``bgr`` and ``gray`` convert.
        scale: Factor on the raw values, for example ``1/255``.
        mean: Subtracted after the scale: one number, or one a channel (the last axis of other inputs).
        std: Divided by after that: one number, or one a channel.
        dtype: The number type of the model's input.
        layout: The order of the model's axes.
    """

    size: tuple[int | None, int | None] | None = None
    channels: int | None = None
    resize: Resize = "none"
    interpolation: Interpolation = "bilinear"
    color: Color = "keep"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    layout: Layout = "nhwc"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"preprocessing {name!r} is one of {', '.join(choices)}, found {getattr(self, name)!r}")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(isinstance(number, int | float) and np.isfinite(number) for number in numbers) or 0 in self.std:
            raise InputError(
                f"preprocessing 'scale', 'mean' and 'std' are finite numbers and no 'std' is 0, "
                f"found scale {self.scale!r}, mean {self.mean!r}, std {self.std!r}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if self.channels is not None and len(values) not in (1, self.channels):
                raise InputError(f"preprocessing {name!r} has one value or one a channel ({self.channels}), found {len(values)}")
        if self.size is None and (self.resize != "none" or self.color != "keep"):
            raise InputError("preprocessing 'resize' and 'color' are for image inputs, the model's input is not an image")
        if self.resize != "none" and self.size is not None and None in self.size:
            raise InputError(f"preprocessing 'resize' {self.resize!r} needs a size, the model takes any; give one with --size HEIGHTxWIDTH")
        wanted = {"keep": self.channels, "gray": 1}.get(self.color, 3)
        if self.size is not None and self.channels != wanted:
            raise InputError(f"preprocessing 'color' {self.color!r} gives {wanted} channels, the model takes {self.channels}")
        if np.dtype(self.dtype).kind != "f" and not self.is_unscaled:
            raise InputError(
                f"preprocessing 'scale', 'mean' and 'std' need an input of real numbers, the model takes {self.dtype}; leave them out"
            )

    @property
    def is_identity(self) -> bool:
        """Whether samples pass unchanged, but for their number type."""
        return self.resize == "none" and self.color == "keep" and self.is_unscaled

    @property
    def is_unscaled(self) -> bool:
        """Whether values stay as they are, but for their number type."""
        return self.scale == 1 and set(self.mean) == {0} and set(self.std) == {1}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """The specification that :meth:`to_dict`, or a TOML table, holds.

        Raises:
            InputError: A key is unknown or a value does not fit.
        """
        _check_names(settings, "preprocessing")
        try:
            values = dict(settings)
            for name in ("mean", "std"):
                if name in values:
                    value = values[name]
                    values[name] = tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),)
            if "scale" in values:
                values["scale"] = parse_scale(str(values["scale"]))
            if values.get("size") is not None:
                height, width = (None if length is None else int(length) for length in values["size"])
                values["size"] = (height, width)
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocessing has a value that does not fit: {error}") from error

    @classmethod
    def from_toml(cls, path: Path) -> dict[str, Any]:
        """The settings of a TOML file: its ``[preprocessing]`` table, or its top level.

        Raises:
            InputError: The file cannot be read as TOML, or a key is unknown.
        """
        import tomllib  # for an export, which takes seconds, and not for every start on a device

        try:
            settings: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{str(path)!r} must be a readable TOML file: {error}") from error
        table = settings.get("preprocessing", settings)
        if not isinstance(table, dict):
            raise InputError(f"'preprocessing' in {str(path)!r} must be a table, found {type(table).__name__}")
        _check_names(table, f"preprocessing in {str(path)!r}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def load(self, path: str | Path) -> Array:
        """The model's input for an image file, without the batch axis.

        Pixels are taken as they are stored: an orientation tag is not applied, as Keras does not either.

        Raises:
            InputError: The file is missing, not an image, or of a size or channel count that does not fit.
            MissingExtraError: Pillow is not installed.
        """
        image_module = _import_pillow()
        try:
            with image_module.open(path) as image:
                image.load()
                if image.mode == "P":
                    image = image.convert("RGB")
        except FileNotFoundError as error:
            raise InputError(f"an image file is needed, {str(path)!r} does not exist") from error
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise InputError(f"{str(path)!r} must be a readable image: {error}") from error
        return self._finish(self._fit(image, repr(str(path))))

    def apply(self, array: Array) -> Array:
        """The model's input for one raw sample, without the batch axis.

        Args:
            array: For an image ``(height, width, channels)`` or ``(height, width)``, RGB or gray; uint8 if
                it is to be resized or its color converted. For other inputs, and for an image model with
                channels first, the input's own shape.

        Returns:
            An array of the specification's number type and layout.

        Raises:
            InputError: The size or the channel count does not fit, or it holds no numbers.
            MissingExtraError: It must be resized or converted, and Pillow is not installed.
        """
        if array.dtype.kind not in "biuf":
            raise InputError(f"a sample must hold numbers, found {array.dtype}")
        if self.size is None:
            return self._finish(array)
        is_first = fits_shape(array.shape, (self.channels, *self.size)) and not fits_shape(array.shape, (*self.size, self.channels))
        if self.layout == "nchw" and is_first:
            array = np.moveaxis(array, 0, -1)
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3:
            raise InputError(f"an image array must be (height, width, channels), found shape {array.shape}")
        if 0 in array.shape:
            raise InputError(f"an image array must have pixels, found shape {array.shape}")
        fits = fits_shape(array.shape, (*self.size, self.channels))
        if fits and self.color in ("keep", "rgb", "gray"):
            return self._finish(array)
        if fits and self.color == "bgr" and self.channels == 3:
            return self._finish(array[:, :, ::-1])
        mode = {channels: mode for mode, channels in _MODE_CHANNELS.items()}.get(array.shape[2])
        if array.dtype != np.uint8 or mode is None:
            raise InputError(
                f"an image array must be {self._wanted_text()} as it is, or uint8 with 1, 3 or 4 channels to be resized, "
                f"found {_shape_text(array.shape)} {array.dtype}"
            )
        squeezed = array[:, :, 0] if mode == "L" else array
        return self._finish(self._fit(_import_pillow().fromarray(np.ascontiguousarray(squeezed)), "the image array"))

    def _fit(self, image: Any, name: str) -> Array:  # Any: a PIL image, whose package is optional
        """Pixels ``(height, width, channels)`` uint8 of the model's size and channel order."""
        if self.size is None:
            raise InputError(f"the model's input is not an image, found {name}; give a .npy array")
        height, width = self.size
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{name} must have 8 bits a channel, found mode {image.mode!r}; convert it first")
        if self.color != "keep":
            image = image.convert("L" if self.color == "gray" else "RGB")
        if _MODE_CHANNELS.get(image.mode) != self.channels:
            raise InputError(
                f"{name} must have {self.channels} channels, found mode {image.mode!r}; "
                f"export with --color {'gray' if self.channels == 1 else 'rgb'} to convert images"
            )
        if height is None or width is None or image.size != (width, height):
            if self.resize == "none" or height is None or width is None:
                if fits_shape((image.height, image.width), self.size):
                    return self._pixels(image)
                raise InputError(
                    f"{name} must be {_shape_text(self.size)} (height × width), found {image.height}×{image.width}; "
                    "export with --resize stretch, crop or pad"
                )
            image = _resized(image, height, width, mode=self.resize, interpolation=self.interpolation)
        return self._pixels(image)

    def _pixels(self, image: Any) -> Array:
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        return pixels[:, :, ::-1] if self.color == "bgr" else pixels

    def _finish(self, values: Array) -> Array:
        values = self._normalized(values)
        # Not ascontiguousarray: it would make one axis of none.
        return np.asarray(np.moveaxis(values, -1, 0) if self.layout == "nchw" and self.size is not None else values, order="C")

    def _normalized(self, values: Array) -> Array:
        if self.is_unscaled:
            return cast_exactly(values, self.dtype)
        length = values.shape[-1] if values.ndim else 1
        if any(len(numbers) not in (1, length) for numbers in (self.mean, self.std)):
            raise InputError(
                f"a sample's last axis must be as long as 'mean' and 'std' ({max(len(self.mean), len(self.std))}), "
                f"found shape {values.shape}"
            )
        scaled: Array = values.astype(np.float32) * np.float32(self.scale)
        return ((scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)).astype(self.dtype)

    def _wanted_text(self) -> str:
        return _shape_text((*(self.size or ()), self.channels or 0))


def _check_names(settings: Mapping[str, Any], place: str) -> None:
    names = [field.name for field in fields(Preprocessing)]
    unknown = sorted(set(settings) - set(names))
    if unknown:
        # The name of the TOML table may be misspelled, too.
        raise InputError(
            f"{place} takes {', '.join(names)}, found {', '.join(map(repr, unknown))}{did_you_mean(unknown[0], [*names, 'preprocessing'])}"
        )


def parse_scale(text: str) -> float:
    """A number, or a fraction such as ``1/255``.

    Raises:
        InputError: It is neither.

    >>> parse_scale("1/4")
    0.25
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"a scale is a number or a fraction such as 1/255, found {text!r}") from None


@dataclass(frozen=True)
class ResizedPlace:
    """How large a picture becomes, and where the window is that is kept of it, in pixels.

    Attributes:
        height: Of the whole picture, resized.
        width: Likewise.
        top: Where the window begins; negative where it stands over.
        left: Likewise.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0


def resized_place(found: tuple[int, int], wanted: tuple[int, int], *, mode: Resize) -> ResizedPlace:
    """How a picture is resized.

    Args:
        found: Its height and width.
        wanted: Those of the window.
        mode: ``stretch``, ``crop`` or ``pad``.

    Raises:
        InputError: It would be too large before it is cut.

    >>> resized_place((480, 640), (224, 224), mode="crop")
    ResizedPlace(height=224, width=299, top=0, left=38)
    """
    if mode == "stretch":
        return ResizedPlace(*wanted)
    limit = max if mode == "crop" else min
    ratio = limit(length / old for length, old in zip(wanted, found, strict=True))
    height, width = (limit(max(1, round(old * ratio)), length) for old, length in zip(found, wanted, strict=True))
    if height * width > _MOST_PIXELS:
        raise InputError(
            f"an image must be of a shape that can be resized to {_shape_text(wanted)}, found {_shape_text(found)}, "
            f"which would be {height}×{width} before it is cut"
        )
    top, left = (-((length - inner) // 2) for inner, length in zip((height, width), wanted, strict=True))
    return ResizedPlace(height, width, top, left)


def _resized(image: Any, height: int, width: int, *, mode: Resize, interpolation: Interpolation) -> Any:
    """A PIL image of exactly that size."""
    image_module = _import_pillow()
    place = resized_place((image.height, image.width), (height, width), mode=mode)
    scaled = _resize_in_order(image, place.width, place.height, image_module.Resampling[interpolation.upper()])
    if mode == "stretch":
        return scaled
    if mode == "crop":
        return scaled.crop((place.left, place.top, place.left + width, place.top + height))
    canvas = image_module.new(image.mode, (width, height))
    canvas.paste(scaled, (-place.left, -place.top))
    return canvas


def _resize_in_order(image: Any, width: int, height: int, method: Any) -> Any:
    """The image resized across, then down: from version 13 on, Pillow does flat targets the other way round, which rounds otherwise.

    Source: python-pillow/Pillow, pull request 9549.
    """
    if width * image.height > max(_MOST_PIXELS, image.width * image.height):
        raise InputError(f"an image must be of a shape that can be resized to {height}×{width}, found {image.height}×{image.width}")
    mode = image.mode
    if mode == "RGBA" and method != method.NEAREST:  # as Pillow does, and once: colors count as much as they are seen
        image = image.convert("RGBa")
    return image.resize((width, image.height), method).resize((width, height), method).convert(mode)


def _import_pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError('reading or resizing images needs Pillow: pip install "lepton-edge[image]"') from None
    return Image


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "×".join("any" if axis is None else str(axis) for axis in shape)


_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": NUMBER_TYPES,
    "resize": get_args(Resize),
    "interpolation": get_args(Interpolation),
    "color": get_args(Color),
    "layout": get_args(Layout),
}
