"""Artifacts that take a camera's frames, with the preprocessing inside of them."""

import itertools

import numpy as np
import pytest
from PIL import Image

from lepton_converters import export
from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.dataset import Sample
from lepton_converters.frame_export import with_frame
from lepton_converters.frame_steps import add_frame_steps
from lepton_converters.tensor_program import Program, Tensor
from lepton_runtime import Bundle, Format, FrameInput, InputError, Preprocessing, Session, UnsupportedError
from lepton_runtime.golden import Golden

_PIXELS = ("rgb", "bgr", "gray", "nv12", "yuyv")
_SIZES = {"larger": (70, 46), "smaller": (12, 10), "wider": (18, 90)}
_STEPS = {"resize": "crop", "scale": "1/255", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def flat(keras, tmp_path_factory) -> dict[str, list[Artifact]]:
    """Files whose answers are their inputs, by channels and layout of these: what steps give is seen as it is."""
    made = {}
    for name, shape in {"rgb": (24, 20, 3), "gray": (24, 20, 1), "first": (3, 24, 20)}.items():
        model = keras.Sequential([keras.Input(shape, name="image"), keras.layers.Flatten()])
        path = export(model, tmp_path_factory.mktemp("flat") / "flat.bundle", precisions=["fp32"], batch=2).path
        bundle = Bundle.open(path)
        made[name] = [
            Artifact(record.format, record.precision, bundle.read(record), record.inputs, record.outputs, record.requires, record.route)
            for record in bundle.manifest.artifacts
        ]
    return made


def answers(artifact: Artifact, frames: list[np.ndarray]) -> np.ndarray:
    """What the file gives for frames, one row each."""
    batch = artifact.inputs[0].shape[0]
    (found,) = ArtifactRunner(artifact).raw([Sample({artifact.inputs[0].name: frame}, None) for frame in frames], batch).values()
    return found


@pytest.mark.parametrize("pixels", _PIXELS)
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_file_makes_of_a_frame_what_python_makes_of_it(flat, pixels, resize) -> None:
    generator = np.random.default_rng(8)
    for (name, artifacts), color, size in itertools.product(flat.items(), ("rgb", "bgr", "gray"), _SIZES.values()):
        if (color == "gray") != (name == "gray"):
            continue
        steps = Preprocessing(
            size=(24, 20), channels=1 if name == "gray" else 3, resize=resize, color=color, layout="nchw" if name == "first" else "nhwc"
        )
        frame = FrameInput(pixels, size, steps)
        given = [generator.integers(0, 256, frame.shape, np.uint8), np.full(frame.shape, 255, np.uint8)]
        for artifact in artifacts:
            wanted = np.stack([frame.unfolded(values).reshape(-1) for values in given])
            assert np.array_equal(answers(with_frame(artifact, frame), given), wanted), (artifact.file, color, size)


@pytest.mark.parametrize("size", [(24, 20), (480, 640), (1080, 1920)])
def test_normalized_numbers_are_those_of_python_to_the_bit(flat, size) -> None:
    steps = Preprocessing(size=(24, 20), channels=3, resize="stretch", color="rgb", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229,))
    frame = FrameInput("bgr", size, steps)
    given = [np.random.default_rng(2).integers(0, 256, frame.shape, np.uint8)] * 2
    for artifact in flat["rgb"]:
        assert np.array_equal(answers(with_frame(artifact, frame), given)[0], frame.unfolded(given[0]).reshape(-1))


def test_pixels_may_be_repeated_instead_of_blended(flat) -> None:
    generator = np.random.default_rng(4)
    for size in itertools.product((7, 24, 61), (5, 43, 97)):
        frame = FrameInput("rgb", size, Preprocessing(size=(24, 20), channels=3, resize="stretch", color="rgb", interpolation="nearest"))
        given = [generator.integers(0, 256, frame.shape, np.uint8)] * 2
        for artifact in flat["rgb"]:
            assert np.array_equal(answers(with_frame(artifact, frame), given)[0], frame.unfolded(given[0]).reshape(-1))


def test_a_reduction_that_float32_cannot_hold_is_refused(flat) -> None:
    frame = FrameInput("gray", (8, 12_000), Preprocessing(size=(24, 20), channels=1, resize="stretch", color="gray"))
    with pytest.raises(UnsupportedError, match="float32 holds no larger sums"):
        with_frame(flat["gray"][0], frame)


@pytest.mark.parametrize("pixels", _PIXELS)
def test_every_precision_answers_a_frame_as_what_python_makes_of_it(models, photos, tmp_path, pixels) -> None:
    result = export(
        models / "tiny_cnn.keras",
        tmp_path / "cnn.bundle",
        calib=photos,
        calib_samples=20,
        preprocessing={**_STEPS, "color": "rgb"},
        input_="uint8",
        pixels=pixels,
        frame_size=(30, 44),
    )
    plain = export(
        models / "tiny_cnn.keras", tmp_path / "plain.bundle", calib=photos, calib_samples=20, preprocessing={**_STEPS, "color": "rgb"}
    )
    assert len(result.manifest.artifacts) == len(plain.manifest.artifacts) == 9
    frame = result.manifest.preprocessing
    assert isinstance(frame, FrameInput)
    assert frame.folded == plain.manifest.preprocessing
    given = np.random.default_rng(6).integers(0, 256, frame.shape, np.uint8)
    for record in result.manifest.artifacts:
        engine = "onnxruntime" if record.format == Format.ONNX else "litert"
        with (
            Session(Bundle.open(result.path), record, engine=engine) as session,
            Session(Bundle.open(plain.path), plain.manifest.artifacts[result.manifest.artifacts.index(record)], engine=engine) as other,
        ):
            assert np.array_equal(session.run(given[None]), other.run(frame.unfolded(given)[None])), record.file
            assert Golden.open(session.bundle).difference(session) == 0


def test_a_session_takes_frames_and_pictures_of_any_size(models, photos, tmp_path) -> None:
    path = export(
        models / "tiny_cnn.keras",
        tmp_path / "cnn.bundle",
        precisions=["fp32"],
        formats=["onnx"],
        preprocessing=_STEPS,
        input_="uint8",
        pixels="bgr",
        frame_size=[30, 44],
        labels=list("abcd"),
    ).path
    photo = next(photos.rglob("*.png"))
    picture = np.asarray(Image.open(photo).convert("RGB"))
    with Session.open(path) as session:
        frame = session.bundle.manifest.preprocessing
        assert isinstance(frame, FrameInput)
        sent = frame.load(photo)
        assert np.array_equal(session.preprocess(picture), sent[None])
        assert session.predict(photo) == session.predict(picture) == session.named(session.run(sent[None]))[0]
        shown = np.ascontiguousarray(sent[:, :, ::-1])  # a picture is RGB, whatever the frames of the camera are
        assert session.predict(shown) == session.predict(photo)
        with pytest.raises(InputError, match=r"input 'frame' must have shape \(1, 30, 44, 3\), found \(1, 12, 12, 3\)"):
            session.run(np.zeros((1, 12, 12, 3), np.uint8))


def test_a_network_that_takes_bytes_takes_frames(keras, tmp_path) -> None:
    image = keras.Input((8, 10, 3), dtype="uint8", name="image")
    model = keras.Model(image, keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image)))
    frame = np.random.default_rng(1).integers(0, 256, (1, 8, 10, 3), np.uint8)
    wanted = model(frame).numpy()
    for pixels, given in (("rgb", frame), ("bgr", frame[..., ::-1])):
        path = export(
            model, tmp_path / f"{pixels}.bundle", precisions=["fp32"], input_="uint8", pixels=pixels, preprocessing={"color": "rgb"}
        ).path
        for record in Bundle.open(path).manifest.artifacts:
            engine = "onnxruntime" if record.format == Format.ONNX else "litert"
            with Session(Bundle.open(path), record, engine=engine) as session:
                np.testing.assert_allclose(session.run(np.ascontiguousarray(given)), wanted, atol=1e-6)


@pytest.mark.parametrize("place", ["input", "inner", "output"])
def test_a_network_may_call_something_frame_itself(keras, tmp_path, place) -> None:
    names = {one: "frame" if one == place else one for one in ("input", "inner", "output")}
    image = keras.Input((8, 8, 3), name=names["input"])
    inner = keras.layers.Conv2D(2, 3, name=names["inner"])(image)
    model = keras.Model(image, keras.layers.Flatten(name=names["output"])(inner))
    path = export(model, tmp_path / "cnn.bundle", precisions=["fp32"], input_="uint8").path
    (spec,) = Bundle.open(path).manifest.inputs
    assert spec.name == ("camera_frame" if place == "output" else "frame")
    with Session.open(path) as session:
        assert Golden.open(session.bundle).difference(session) == 0


def test_a_long_picture_takes_no_more_memory_than_the_window_needs() -> None:
    frame = FrameInput("gray", (4, 1000), Preprocessing(size=(24, 20), channels=1, resize="crop", color="gray"))
    program = Program("steps")
    add_frame_steps(program, Tensor("frame", (1, 4, 1000, 1), "uint8"), frame)
    constants = [value for operation in program.operations for value in operation.inputs if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in constants) < 100_000
    huge = FrameInput("gray", (2, 16_000), Preprocessing(size=(640, 640), channels=1, resize="crop", color="gray"))
    with pytest.raises(InputError, match="before it is cut"):
        add_frame_steps(program, Tensor("frame", (1, 2, 16_000, 1), "uint8"), huge)


def test_the_source_of_the_bundle_stays_reproducible(models, photos, tmp_path) -> None:
    options = {
        "precisions": ["fp32"],
        "preprocessing": _STEPS,
        "input_": "uint8",
        "pixels": "yuyv",
        "frame_size": (20, 20),
        "calib": photos,
    }
    first, second = (export(models / "tiny_cnn.keras", tmp_path / f"{number}.bundle", **options).path for number in range(2))
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_": "float", "pixels": "rgb"}, InputError, "--pixels and --frame-size are for --input uint8"),
        ({"io": "uint8"}, InputError, "leave one of both out"),
        ({"batch": None}, UnsupportedError, "found --batch dynamic"),
        ({"frame_size": (20, 30)}, InputError, "20×30 must be resized to 12×12 .* --resize stretch, crop or pad"),
        ({"pixels": "gray"}, InputError, "must have the 3 channels of the model, or be converted: give --color rgb"),
        (
            {"pixels": "nv12", "frame_size": (25, 30), "preprocessing": {"resize": "crop"}},
            InputError,
            "nv12 needs an even height and width, at least 1, found 25×30",
        ),
        (
            {"frame_size": (24, 30), "preprocessing": {"resize": "crop", "interpolation": "bicubic"}},
            UnsupportedError,
            "bilinear or nearest, found 'bicubic'",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused_before_anything_is_converted(models, tmp_path, options, error, message) -> None:
    with pytest.raises(error, match=message):
        export(
            models / "tiny_cnn.keras", tmp_path / "cnn.bundle", **{"input_": "uint8", **options}, on_step=lambda step: _refuse(step.name)
        )
    assert not list(tmp_path.iterdir())


def _refuse(step: str) -> None:
    assert step == "read"


def test_whoever_reads_the_accuracy_is_told_what_it_is_of(models, photos, tmp_path) -> None:
    result = export(
        models / "tiny_cnn.keras",
        tmp_path / "cnn.bundle",
        precisions=["fp32"],
        evaluate=photos,
        preprocessing={**_STEPS, "color": "rgb"},
        input_="uint8",
        pixels="gray",
        frame_size=(24, 30),
    )
    assert any("the accuracy is that of pictures which are preprocessed at once" in note for note in result.manifest.notes)
    assert any("the frames are gray, the network was verified on pictures in color" in note for note in result.manifest.notes)


def test_frames_are_for_pictures(models, tmp_path) -> None:
    with pytest.raises(UnsupportedError, match=r"--input uint8 is for a model of one picture, this one takes row"):
        export(models / "table.keras", tmp_path / "table.bundle", input_="uint8")


def test_samples_that_are_no_pictures_are_refused(models, tmp_path) -> None:
    np.save(tmp_path / "calib.npy", np.random.default_rng(0).random((24, 12, 12, 3), np.float32))
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        export(models / "tiny_cnn.keras", tmp_path / "cnn.bundle", calib=tmp_path / "calib.npy", precisions=["fp32"], input_="uint8")


def test_a_bundle_of_frames_is_explained(models, photos, tmp_path) -> None:
    from lepton_converters.explanation import explain

    plain, framed = (
        export(
            models / "tiny_cnn.keras",
            tmp_path / f"{name}.bundle",
            calib=photos,
            precisions=["fp32", "static-int8"],
            preprocessing=_STEPS,
            **options,
        ).path
        for name, options in {"plain": {}, "framed": {"input_": "uint8", "frame_size": (40, 40)}}.items()
    )
    for format_ in Format:
        wanted, found = (explain(path, str(photos), samples=8, format_=format_) for path in (plain, framed))
        assert [block.name for block in found.blocks] == [block.name for block in wanted.blocks]
