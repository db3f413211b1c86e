"""What holds for all values: what is written is read again, and what is read is right or refused with one of our errors."""

import copy
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import Bundle, InputError, LeptonError, Manifest, Preprocessing, Session, TensorSpec
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, digest_line
from lepton_runtime.device_profile import UNREADABLE, DeviceProfile, parse_profiles, profiles_text
from lepton_runtime.encoders import raw_inputs
from lepton_runtime.tensors import cast_exactly, fits_shape

hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis")
given, some = hypothesis.given, pytest.importorskip("hypothesis.strategies")
some_numpy = pytest.importorskip("hypothesis.extra.numpy")

pytestmark = pytest.mark.simulation
hypothesis.settings.register_profile("ours", deadline=None, database=None, derandomize=True, max_examples=300)
hypothesis.settings.load_profile("ours")

BUNDLES = [shipped_bundle(), *sorted((Path(__file__).parents[1] / "data").glob("schema_*.zip"))]
JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(max_size=8)
    | some.sampled_from(["float32", ",,", "fp32", "a/b"]),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, found in inner for place in places(found, (*path, key)))]


def changed(values: Any, path: tuple[Any, ...], to: Any) -> Any:
    values = copy.deepcopy(values)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if path:
        inner[path[-1]] = to
        return values
    return to


def removed(values: Any, path: tuple[Any, ...]) -> Any:
    values = copy.deepcopy(values)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if path:
        del inner[path[-1]]
    return values


def other_manifests() -> some.SearchStrategy[tuple[Path, bytes]]:
    """A bundle, and its manifest with some values replaced or taken out."""

    def of(path: Path) -> some.SearchStrategy[tuple[Path, bytes]]:
        values = json.loads(Bundle.open(path).read_manifest())
        where = some.sampled_from(places(values)[1:])
        replaced = some.builds(lambda place, to: changed(values, place, to), where, JSON)
        return some.tuples(
            some.just(path), (replaced | some.builds(lambda place: removed(values, place), where)).map(lambda v: json.dumps(v).encode())
        )

    return some.sampled_from(BUNDLES).flatmap(of)


@given(other_manifests())
def test_any_manifest_is_read_or_refused_and_written_as_it_was_read(made: tuple[Path, bytes]) -> None:
    try:
        manifest = Manifest.from_json(made[1])
    except LeptonError:
        return
    with suppress(ValueError):  # of infinity, which no manifest of ours holds
        written = manifest.to_json()
        assert Manifest.from_json(written).to_json() == written


@hypothesis.settings(max_examples=150)
@given(other_manifests())
def test_a_bundle_with_any_manifest_answers_or_is_refused(tmp_path_factory: pytest.TempPathFactory, made: tuple[Path, bytes]) -> None:
    """With checksums that are right: nothing but one of our errors comes of it."""
    import zipfile

    bundle = Bundle.open(made[0])
    path = tmp_path_factory.mktemp("any") / "any.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for record in bundle.manifest.files:
            archive.writestr(record.file, bundle.read(record))
        archive.writestr(MANIFEST_FILE, made[1])
        archive.writestr(DIGEST_FILE, digest_line(made[1]))
    try:
        with Session.open(path) as session:
            inputs = {spec.name: np.zeros([axis or 1 for axis in spec.shape], spec.dtype) for spec in session.inputs}
            session.named(session.run(inputs))
            raw_inputs(session.bundle.manifest.given_inputs, session.encoders)
            if len(session.inputs) == 1:
                session.predict(np.zeros(session.inputs[0].shape[1:], np.uint8))
    except LeptonError:
        pass
    finally:
        path.unlink()


@given(JSON)
def test_any_preprocessing_is_read_or_refused_and_written_as_it_was_read(values: Any) -> None:
    names = ("scale", "mean", "std", "size", "dtype", "resize", "channels", "color")
    for name in names:
        try:
            steps = Preprocessing.from_dict({name: values})
        except InputError:
            continue
        assert Preprocessing.from_dict(steps.to_dict()) == steps


@given(some.builds(DeviceProfile), JSON)
def test_profiles_are_read_as_they_were_written(profile: DeviceProfile, other: Any) -> None:
    hypothesis.assume(profile.threads > 0 and all(math.isfinite(value) for value in vars(profile).values() if isinstance(value, float)))
    hypothesis.assume(not profile.optimized)
    assert parse_profiles(profiles_text([profile, profile])) == [profile, profile]
    for place in places(json.loads(profiles_text([profile]))):
        try:
            parse_profiles(json.dumps(changed(json.loads(profiles_text([profile])), place, other)))
        except UNREADABLE:
            continue


REAL = some_numpy.arrays(np.float32, some_numpy.array_shapes(max_dims=3), elements=some.floats(-1e6, 1e6, width=32))


@given(REAL, some.floats(1e-6, 1e3), some.integers(-128, 127))
def test_quantizing_is_off_by_half_a_step_where_it_does_not_saturate(values: np.ndarray, scale: float, zero_point: int) -> None:
    spec = TensorSpec("x", values.shape, "int8", scale, zero_point)
    integers = spec.quantize(values)
    real = spec.dequantize(integers)
    inside = (integers > -128) & (integers < 127)
    assert np.abs(real - values)[inside].max(initial=0) <= 0.5 * scale * (1 + 1e-5) + 1e-6 * np.abs(values).max(initial=0)
    np.testing.assert_array_equal(spec.quantize(real), integers)


@given(
    some_numpy.arrays(some.sampled_from(["float64", "int64", "uint8"]), some.integers(0, 5)), some.sampled_from(["int8", "uint16", "int64"])
)
def test_a_cast_to_integers_changes_no_value_or_is_refused(values: np.ndarray, dtype: str) -> None:
    try:
        made = cast_exactly(values, dtype)
    except InputError:
        return
    assert made.dtype == dtype
    np.testing.assert_array_equal(made.astype(values.dtype), values)


@given(some.lists(some.integers(0, 4), max_size=4), some.lists(some.none() | some.integers(1, 4), max_size=4))
def test_what_fits_a_shape_is_as_long_in_every_fixed_axis(found: list[int], wanted: list[int | None]) -> None:
    fits = fits_shape(found, wanted)
    assert fits == (len(found) == len(wanted) and all((a > 0 if b is None else a == b) for a, b in zip(found, wanted, strict=False)))


@given(some.data())
def test_an_input_of_another_type_or_shape_is_never_taken(data: Any) -> None:
    spec = TensorSpec("x", (1, None, 3), "float32")
    dtype = data.draw(
        some.sampled_from(["float32", ">f4", "float64", "uint8", "int32", "bool", "complex64", "object", "<U3", "datetime64[s]"])
    )
    shape = data.draw(some_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = np.zeros(shape, dtype)
    if dtype == "float32" and len(shape) == 3 and shape[0] == 1 and shape[1] > 0 and shape[2] == 3:
        spec.check(array)
    else:
        with pytest.raises(InputError):
            spec.check(array)
