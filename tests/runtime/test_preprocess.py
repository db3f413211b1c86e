from pathlib import Path

import numpy as np
import pytest

from lepton_runtime import InputError, Preprocessing
from lepton_runtime.preprocess import parse_scale

Image = pytest.importorskip("PIL.Image", reason="images need Pillow, which is not installed")

GENERATOR = np.random.default_rng(3)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(GENERATOR.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


def test_arithmetic_is_scale_then_mean_then_deviation_in_float32() -> None:
    steps = Preprocessing((2, 2), 3, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    pixels = GENERATOR.integers(0, 256, (2, 2, 3), np.uint8)
    expected = (pixels * np.float32(1 / 255) - np.float32([0.5, 0.4, 0.3])) / np.float32([0.1, 0.2, 0.3])
    found = steps.apply(pixels)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_file_and_its_pixels_give_the_same_tensor(photo: Path, resize, color, interpolation) -> None:
    channels = 1 if color == "gray" else 3
    steps = Preprocessing((32, 24), channels, resize=resize, color=color, interpolation=interpolation, scale=1 / 127.5, mean=(1.0,))
    found = steps.load(photo)
    assert found.shape == (32, 24, channels)
    np.testing.assert_array_equal(found, steps.apply(np.asarray(Image.open(photo))))


def test_stretch_is_pillows_resize(photo: Path) -> None:
    expected = np.asarray(Image.open(photo).resize((24, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Preprocessing((32, 24), 3, resize="stretch").load(photo), expected)


def resized_exactly(pixels: np.ndarray, length: int) -> np.ndarray:
    """Bilinear along the last axis, in Pillow's integers: coefficients of 22 bits, sums rounded to 8. Source: its Resample.c."""
    scale = pixels.shape[-1] / length
    reach = max(scale, 1.0)
    columns = []
    for position in range(length):
        center = (position + 0.5) * scale
        first, last = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), pixels.shape[-1])
        weights = np.array([max(0.0, 1.0 - abs((place - center + 0.5) * (1.0 / reach))) for place in range(first, last)])
        whole = (weights / np.add.accumulate(weights)[-1] * 2**22 + 0.5).astype(np.int64)
        columns.append((pixels[..., first:last].astype(np.int64) @ whole + 2**21) >> 22)
    return np.stack(columns, axis=-1).clip(0, 255)


@pytest.mark.parametrize(
    ("source", "target"), [((480, 640), (224, 224)), ((115, 75), (13, 70)), ((20, 30), (96, 96)), ((106, 49), (9, 63))]
)
def test_a_resize_goes_across_and_then_down_whatever_version_pillow_has(source, target) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 1), np.uint8)
    across = resized_exactly(image[:, :, 0], target[1])
    expected = resized_exactly(across.T, target[0]).T
    np.testing.assert_array_equal(Preprocessing(target, 1, resize="stretch").apply(image)[:, :, 0], expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_transparent_pixels_count_as_much_as_they_are_seen(interpolation) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    found = Preprocessing((40, 30), 4, resize="stretch", interpolation=interpolation).apply(image)
    expected = Image.fromarray(image).resize((30, 40), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_a_shape_that_would_fill_the_memory_before_it_is_cut_is_refused() -> None:
    steps = Preprocessing((224, 224), 3, resize="crop")
    with pytest.raises(InputError, match="of a shape that can be resized to 224×224, found 1×20000, which would be 224×4480000 before"):
        steps.apply(np.zeros((1, 20000, 3), np.uint8))
    assert steps.apply(np.zeros((500, 20000, 3), np.uint8)).shape == (224, 224, 3)  # a panorama
    with pytest.raises(InputError, match=r"of a shape that can be resized to 10×2000, found 20000×1$"):
        Preprocessing((10, 2000), 3, resize="stretch").apply(np.zeros((20000, 1, 3), np.uint8))


def test_crop_keeps_the_middle_and_pad_keeps_everything() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    cropped = Preprocessing((10, 10), 3, resize="crop").apply(wide)
    assert (cropped == 200).all()
    padded = Preprocessing((30, 30), 3, resize="pad").apply(wide)
    assert (padded[10:20] == wide).all()
    assert (padded[:10] == 0).all()
    assert (padded[20:] == 0).all()


def test_bgr_turns_the_channels_round(photo: Path) -> None:
    size = (40, 60)
    rgb, bgr = Preprocessing(size, 3).load(photo), Preprocessing(size, 3, color="bgr").load(photo)
    np.testing.assert_array_equal(rgb[..., ::-1], bgr)


def test_channels_first_moves_the_channels(photo: Path) -> None:
    size = (40, 60)
    last, first = Preprocessing(size, 3).load(photo), Preprocessing(size, 3, layout="nchw").load(photo)
    np.testing.assert_array_equal(last.transpose(2, 0, 1), first)


def test_another_size_without_a_resize_is_refused(photo: Path) -> None:
    with pytest.raises(InputError, match=r"must be 32×32 .*, found 40×60; export with --resize"):
        Preprocessing((32, 32), 3).load(photo)


def test_another_channel_count_without_a_color_is_refused(photo: Path) -> None:
    with pytest.raises(InputError, match=r"must have 1 channels, found mode 'RGB'; export with --color gray"):
        Preprocessing((40, 60), 1).load(photo)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="must be a readable image"):
        Preprocessing((32, 32), 3).load(tmp_path / "fake.png")
    with pytest.raises(InputError, match="does not exist"):
        Preprocessing((32, 32), 3).load(tmp_path / "nothing.png")


def test_a_cut_image_is_refused(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(InputError, match="must be a readable image"):
        Preprocessing((40, 60), 3).load(photo)


def test_a_specification_survives_json_and_toml(tmp_path: Path) -> None:
    steps = Preprocessing((32, 24), 3, resize="crop", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert Preprocessing.from_dict(steps.to_dict()) == steps
    path = tmp_path / "steps.toml"
    path.write_text('[preprocessing]\nresize = "crop"\nscale = "1/255"\nmean = [0.5, 0.4, 0.3]\nstd = 0.2\n')
    assert Preprocessing.from_dict({**Preprocessing.from_toml(path), "size": (32, 24), "channels": 3}).mean == steps.mean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('scal = "1/255"\n', r"steps\.toml' takes size, .* found 'scal'; did you mean 'scale'"),
        ("[preprocessing]\nmena = 1\n", r"steps\.toml' takes .* found 'mena'; did you mean 'mean'"),
        ("[preprocesing]\nmean = 1\n", r"found 'preprocesing'; did you mean 'preprocessing'"),
    ],
)
def test_a_typo_in_a_file_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "steps.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        Preprocessing.from_toml(tmp_path / "steps.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resise": "crop"}, r"preprocessing takes size, .* found 'resise'; did you mean 'resize'"),
        ({"resize": "squash"}, r"'resize' is one of none, stretch, crop, pad, found 'squash'"),
        ({"std": [0.0]}, r"no 'std' is 0"),
        ({"scale": "1/0"}, r"fraction such as 1/255, found '1/0'"),
        ({"mean": [float("nan")]}, r"finite numbers"),
        ({"size": [8, 8], "channels": 3, "mean": [1.0, 2.0]}, r"one a channel \(3\), found 2"),
        ({"mean": "a"}, r"does not fit"),
        ({"resize": "crop"}, r"for image inputs"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing.from_dict(settings)


def test_a_scale_may_be_a_fraction() -> None:
    assert parse_scale("1/255") == 1 / 255
