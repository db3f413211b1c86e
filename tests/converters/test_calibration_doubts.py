from collections.abc import Callable

import numpy as np
import pytest

from lepton_converters.calibration_doubts import find_doubts
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime import TensorSpec
from lepton_runtime.preprocess import Preprocessing

IMAGE = TensorSpec("image", (None, 8, 8, 3), "float32")
SCORES = TensorSpec("scores", (None, 10), "float32")
IMAGENET = Preprocessing(size=(8, 8), channels=3, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PLAIN = Preprocessing(size=(8, 8), channels=3)
ANSWERS = np.array([30, 18, 22, 9, 31, 20, 25, 15, 10, 20])


def photos(count: int = 200, *, seed: int = 3) -> np.ndarray:
    """Smooth raw images of very different brightness, 0 to 255."""
    generator = np.random.default_rng(seed)
    bright = generator.uniform(20, 200, (count, 1, 1, 3)) + generator.normal(0, 30, (count, 8, 8, 1))
    return np.clip(np.rint(bright), 0, 255).astype(np.float32)


def features(images: np.ndarray, *, channels: int = 32) -> np.ndarray:
    """What a layer with a ReLU makes of the images, a few of its channels dead."""
    weights = np.random.default_rng(1).normal(size=(3, channels)).astype(np.float32)
    bias = np.zeros(channels, np.float32)
    bias[:3] = -1e5
    return np.maximum(images @ weights + bias, 0)


def measured(name: str, values: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics(name, channel_axis=-1)
    statistics.add(np.asarray(values, np.float32), first_sample=0)
    return statistics


def doubts(
    inputs: np.ndarray,
    inner: dict[str, np.ndarray] | None = None,
    *,
    spec: TensorSpec = IMAGE,
    preprocessing: Preprocessing | None = PLAIN,
    takes_raw_pixels: bool = False,
    best_counts: np.ndarray | None = ANSWERS,
) -> list[str]:
    tensors = {spec.name: inputs, **(inner or {})}
    return find_doubts(
        {name: measured(name, values) for name, values in tensors.items()},
        inputs=[spec],
        outputs=[SCORES],
        samples=len(inputs),
        distinct_samples=len({sample.tobytes() for sample in inputs}),
        preprocessing=preprocessing,
        takes_raw_pixels=takes_raw_pixels,
        best_counts=best_counts,
    )


def applied(steps: Preprocessing, raw: np.ndarray) -> np.ndarray:
    return np.stack([steps.apply(sample) for sample in raw])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [64, 65, 200])
@pytest.mark.parametrize(("steps", "takes_raw_pixels"), [(PLAIN, True), (IMAGENET, False), (None, False)])
def test_honest_data_raises_no_doubt(seed: int, count: int, steps: Preprocessing | None, takes_raw_pixels: bool) -> None:
    raw = photos(count, seed=seed)
    inner = {"relu": features(raw), "mean": features(raw).mean(axis=(1, 2)), "one value": raw.mean(axis=(1, 2, 3))[:, None]}
    images = raw if steps is None else applied(steps, raw)
    assert doubts(images, inner, preprocessing=steps, takes_raw_pixels=takes_raw_pixels) == []


def test_too_few_samples_are_counted() -> None:
    (doubt,) = doubts(photos(63), best_counts=None)
    assert doubt.startswith("calibration takes 64 samples or more, found 63: ")
    assert doubt.endswith("give more with --calib and --calib-samples")


def test_black_samples_raise_one_doubt_that_explains_all_others() -> None:
    (doubt,) = doubts(np.zeros((200, 8, 8, 3)), {"relu": np.zeros((200, 8))}, best_counts=np.eye(10)[0] * 200)
    assert doubt.startswith("all 200 calibration samples are the same (every value of 'image' is 0): ")


def test_one_photo_taken_often_is_found() -> None:
    (doubt,) = doubts(np.repeat(photos(1), 100, axis=0))
    assert doubt.startswith("all 100 calibration samples are the same: ranges of one sample fit no other")


def test_an_input_with_one_value_is_found_beside_one_that_varies() -> None:
    generator = np.random.default_rng(0)
    specs = [TensorSpec("age", (None, 1), "float32"), TensorSpec("speed", (None, 1), "float32")]
    values = {"age": generator.normal(size=(100, 1)), "speed": np.full((100, 1), 0.5)}
    (doubt,) = find_doubts(
        {name: measured(name, array) for name, array in values.items()},
        inputs=specs,
        outputs=[],
        samples=100,
        distinct_samples=100,
        preprocessing=None,
        takes_raw_pixels=False,
        best_counts=None,
    )
    assert doubt.startswith("input 'speed' is 0.5 in every calibration sample: nothing that depends on it was measured")


def test_an_empty_color_channel_of_an_image_is_found() -> None:
    raw = photos()
    raw[..., 1] = 0
    (doubt,) = doubts(raw)
    assert doubt.startswith("1 of 3 channels of input 'image' have one value in all calibration samples")


def test_the_empty_border_of_digits_is_no_doubt() -> None:
    rows = np.random.default_rng(0).random((200, 784))
    rows[:, :300] = 0
    assert doubts(rows, spec=TensorSpec("pixels", (None, 784), "float32"), preprocessing=Preprocessing()) == []


def test_many_dead_channels_are_found_in_the_worst_tensor() -> None:
    dead, worse = np.random.default_rng(0).normal(size=(2, 200, 4, 4, 32))
    dead[..., :12], worse[..., :20] = 0, 0
    (doubt,) = doubts(photos(), {"dead": dead, "worse": worse, "fine": features(photos())})
    assert doubt.startswith("many channels have one value in all calibration samples in 'worse', 'dead' (20 of 32 in 'worse'): ")


def test_a_tensor_far_from_zero_is_found_with_its_unused_steps() -> None:
    (doubt,) = doubts(photos(), {"pressure": np.random.default_rng(0).uniform(5, 6, (200, 9))})
    assert "values stay far from 0 in 'pressure' ('pressure' has 5 to 6): 8-bit ranges include 0, so 213 of 256 steps" in doubt


def test_a_tensor_that_wastes_less_than_half_of_its_steps_is_no_doubt() -> None:
    assert doubts(photos(), {"gate": np.random.default_rng(0).uniform(-1, -0.45, (200, 9))}) == []


@pytest.mark.parametrize("steps", [IMAGENET, Preprocessing(size=(8, 8), channels=3, mean=(127.5,), std=(127.5,))])
@pytest.mark.parametrize("normalize", [lambda raw: raw / 255, lambda raw: raw / 127.5 - 1, lambda raw: (raw - raw.mean()) / raw.std()])
def test_samples_that_are_normalized_already_are_found(steps: Preprocessing, normalize: Callable[[np.ndarray], np.ndarray]) -> None:
    found = doubts(applied(steps, normalize(photos())), preprocessing=steps)
    assert "where the recorded preprocessing makes" in found[0]
    assert "the samples look normalized already, and are so twice; give raw values with --calib" in found[0]
    assert not any("center the data with --mean" in doubt for doubt in found)


@pytest.mark.parametrize(
    ("steps", "advice"),
    [
        (PLAIN, "give raw values from 0 to 255 with --calib"),
        (Preprocessing(size=(8, 8), channels=3, scale=1 / 255), "leave --scale, --mean"),
    ],
)
def test_a_model_that_rescales_and_gets_small_values_is_found(steps: Preprocessing, advice: str) -> None:
    (doubt,) = doubts(photos() / 255, preprocessing=steps, takes_raw_pixels=True)
    assert "and the model rescales or normalizes it itself: it looks normalized twice" in doubt
    assert advice in doubt


def test_steps_that_are_meant_for_samples_of_0_to_1_raise_no_doubt() -> None:
    steps = Preprocessing(size=(8, 8), channels=3, mean=(0.5,), std=(0.5,))
    assert doubts(applied(steps, photos() / 255), preprocessing=steps) == []


def test_every_second_sample_spoilt_is_found_in_the_tensor_that_shows_it_most() -> None:
    raw = photos()
    raw[1::2] = 0
    found = doubts(raw, {"quiet": np.random.default_rng(0).normal(size=(200, 4))})
    assert any(doubt.startswith("even and odd calibration samples disagree, most in 'image': ") for doubt in found)


def test_answers_of_one_class_only_are_found() -> None:
    (doubt,) = doubts(photos(), best_counts=np.array([0, 1, 199]))
    assert doubt.startswith("the model answers class 2 of 'scores' to 199 of 200 calibration samples: ")


@pytest.mark.parametrize(("counts", "doubted"), [([3, 2, 70, 15, 10], True), ([10, 20, 50, 15, 5], False), ([5, 75, 20], False)])
def test_one_class_of_many_is_found_by_a_network_that_is_not_always_right(counts: list[int], doubted: bool) -> None:
    assert bool(doubts(photos(), best_counts=np.array(counts))) is doubted


def test_a_rare_second_class_is_no_doubt() -> None:
    assert doubts(photos(), best_counts=np.array([190, 10])) == []


def test_inner_tensors_that_never_change_are_no_doubt() -> None:
    assert doubts(photos(), {"first state": np.zeros((200, 16)), "never reached": np.zeros((200, 0))}) == []
