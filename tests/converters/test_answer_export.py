"""Artifacts that give answers: probabilities, the best classes, or the boxes of a detector."""

import itertools

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.answer_arrays import answers_of
from lepton_converters.answer_plan import AnswerPlan, plan_answers
from lepton_runtime import Answers, Bundle, BundleError, Detection, Format, InputError, ParityError, Session, TensorSpec, UnsupportedError
from lepton_runtime.golden import Golden

_BOXES, _CLASSES = 60, 3


def sessions(path) -> list[Session]:
    """One on each artifact."""
    bundle = Bundle.open(path)
    return [
        Session(bundle, record, engine="onnxruntime" if record.format == Format.ONNX else "litert") for record in bundle.manifest.artifacts
    ]


@pytest.fixture(scope="module")
def scorer(keras):
    """A network whose scores are its inputs."""
    return keras.Sequential([keras.Input((6,), name="row"), keras.layers.Reshape((6,), name="scores")])


@pytest.fixture(scope="module")
def detectors(keras):
    """Networks that give the boxes and scores that they are given, in every form."""
    layers = keras.layers
    both = keras.Input((_BOXES, 4 + _CLASSES), name="both")
    rows = keras.Model(both, layers.Reshape((_BOXES, 4 + _CLASSES), name="rows")(both))
    columns = keras.Model(both, layers.Permute((2, 1), name="columns")(both))
    apart = keras.Model(
        both, [layers.Reshape((_BOXES, _CLASSES), name="scores")(both[:, :, 4:]), layers.Reshape((_BOXES, 4), name="place")(both[:, :, :4])]
    )
    return {"rows": rows, "columns": columns, "apart": apart}


def crowd(kind: str, *, seed: int) -> np.ndarray:
    """Boxes of a hundred pixels that cover each other, and their scores; ``(1, boxes, 4 + classes)``."""
    generator = np.random.default_rng(seed)
    low = generator.uniform(-20, 60, (_BOXES, 2))
    lengths = generator.uniform(10, 40, (_BOXES, 2))
    parts = {
        "xyxy": [low, low + lengths],
        "yxyx": [low[:, ::-1], (low + lengths)[:, ::-1]],
        "xywh": [low, lengths],
        "center_xywh": [low + lengths / 2, lengths],
    }[kind]
    scores = generator.normal(0, 2, (_BOXES, _CLASSES))
    return np.concatenate([*parts, scores], axis=1)[None].astype(np.float32)


def test_scores_become_probabilities(scorer, tmp_path) -> None:
    for activation in ("softmax", "sigmoid"):
        path = export(scorer, tmp_path / f"{activation}.bundle", precisions=["fp32"], answers=Answers(activation=activation)).path
        row = np.float32([[0, 1, -1, 3, 2, 700 if activation == "softmax" else 30]])
        powers = np.exp(row.astype(float) - row.max())
        wanted = powers / powers.sum() if activation == "softmax" else 1 / (1 + np.exp(-row.astype(float)))
        for session in sessions(path):
            assert session.artifact.outputs[0].name == "scores"
            np.testing.assert_allclose(session.run(row), wanted, atol=1e-6)


def test_the_best_classes_come_first_and_of_equals_the_first(scorer, tmp_path) -> None:
    path = export(
        scorer, tmp_path / "top.bundle", precisions=["fp32"], answers=Answers(top_k=4, threshold=0.5), labels=list("abcdef"), batch=2
    ).path
    rows = np.float32([[0.1, 0.9, 0.7, 0.9, 0.5, 0.2], [0.1] * 6])
    for session in sessions(path):
        found = session.run({"row": rows})
        np.testing.assert_array_equal(found["scores"], np.float32([[0.9, 0.9, 0.7, 0], [0] * 4]))
        np.testing.assert_array_equal(found["classes"], [[1, 3, 2, -1], [-1] * 4])
        assert [[(one.label, round(one.score, 3)) for one in row] for row in session.named(found)] == [
            [("b", 0.9), ("d", 0.9), ("c", 0.7)],
            [],
        ]
        assert Golden.open(session.bundle).difference(session) == 0


@pytest.mark.parametrize("form", ["rows", "columns", "apart"])
@pytest.mark.parametrize("kind", ["xyxy", "yxyx", "xywh", "center_xywh"])
def test_of_boxes_that_cover_each_other_the_best_stays(detectors, tmp_path, form, kind) -> None:
    answers = Answers(activation="sigmoid", top_k=50, threshold=0.6, boxes=kind, iou=0.3)
    path = export(detectors[form], tmp_path / "boxes.bundle", precisions=["fp32"], answers=answers).path
    scores = TensorSpec("both", (1, _BOXES, 4 + _CLASSES), "float32")
    plan = AnswerPlan(answers, scores, scores)
    for session, seed in itertools.product(sessions(path), range(4)):
        given = crowd(kind, seed=seed)
        found = session.run({"both": given})
        wanted = answers_of({"both": given}, plan)
        assert (wanted["classes"] >= 0).sum() > 8
        assert (wanted["classes"] < 0).any()
        for name in ("boxes", "scores", "classes"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)


def test_numpys_boxes_are_those_of_a_second_way_to_find_them() -> None:
    """Suppression by a matrix of all pairs, in float64, which shares no line with the one that exports are compared with."""
    answers = Answers(top_k=_BOXES, threshold=0.0, boxes="xyxy", iou=0.3)
    scores = TensorSpec("both", (1, _BOXES, 4 + _CLASSES), "float32")
    for seed in range(10):
        given = crowd("xyxy", seed=seed)
        found = answers_of({"both": given}, AnswerPlan(answers, scores, scores))
        boxes, values = given[0, :, :4].astype(float), given[0, :, 4:]
        order = [place for place in np.argsort(-values.max(axis=1), kind="stable") if values[place].max() > 0]
        low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        common = np.clip(high - low, 0, None).prod(axis=2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        rivals = (common / (area[:, None] + area[None] - common) > 0.3) & (values.argmax(axis=1)[:, None] == values.argmax(axis=1)[None])
        is_alive = np.ones(_BOXES, bool)
        for position, place in enumerate(order):
            if is_alive[place]:
                is_alive[[later for later in order[position + 1 :] if rivals[place, later]]] = False
        kept = [place for place in order if is_alive[place]]
        np.testing.assert_array_equal(found["boxes"][0, : len(kept)], given[0, kept, :4])
        assert (found["classes"][0, len(kept) :] == -1).all()


def test_offsets_from_anchors_are_decoded(detectors, tmp_path) -> None:
    generator = np.random.default_rng(3)
    anchors = np.concatenate([generator.uniform(0, 1, (_BOXES, 2)), generator.uniform(0.1, 0.3, (_BOXES, 2))], axis=1)
    np.save(tmp_path / "anchors.npy", anchors)
    answers = Answers(top_k=_BOXES, boxes="center_xywh", iou=0.99)
    path = export(
        detectors["apart"],
        tmp_path / "boxes.bundle",
        precisions=["fp32"],
        answers=answers,
        anchors=tmp_path / "anchors.npy",
        variances=(0.1, 0.1, 0.2, 0.2),
        labels=["ant", "bee", "cat"],
    ).path
    given = np.float32(generator.normal(0, 1, (1, _BOXES, 4 + _CLASSES)))
    center = anchors[:, :2] + 0.1 * given[0, :, :2] * anchors[:, 2:]
    lengths = anchors[:, 2:] * np.exp(0.2 * given[0, :, 2:4])
    order = np.argsort(-given[0, :, 4:].max(axis=1))
    wanted = np.concatenate([center - lengths / 2, center + lengths / 2], axis=1)[order]
    for session in sessions(path):
        found = session.run({"both": given})
        np.testing.assert_allclose(found["boxes"][0], wanted, atol=1e-5)
        assert session.bundle.manifest.answers.variances == (0.1, 0.1, 0.2, 0.2)
        assert len(session.bundle.manifest.answers.anchors) == 64
        assert session.artifact.outputs[0].shape == (1, _BOXES, 4)
        best = session.named(found, count=1)[0][0]
        assert isinstance(best, Detection)
        assert best.label == ["ant", "bee", "cat"][int(given[0, order[0], 4:].argmax())]
        np.testing.assert_allclose(best.box, wanted[0], atol=1e-5)


def test_frames_in_and_classes_out_in_every_precision(models, photos, tmp_path) -> None:
    options = {"calib": photos, "calib_samples": 20, "preprocessing": {"resize": "crop", "scale": "1/255"}}
    plain = export(models / "tiny_cnn.keras", tmp_path / "plain.bundle", **options).path
    path = export(
        models / "tiny_cnn.keras", tmp_path / "cnn.bundle", **options, input_="uint8", frame_size=(30, 40), answers=Answers(top_k=2)
    ).path
    photo = next(photos.rglob("*.png"))
    for session, other in zip(sessions(path), sessions(plain), strict=True):
        frame = session.bundle.manifest.preprocessing
        sent = frame.load(photo)
        scores = other.run(frame.unfolded(sent)[None])[0]
        order = np.argsort(-scores, kind="stable")[:2]
        assert [(one.label, one.score) for one in session.predict(photo)] == [
            (session.bundle.manifest.labels[place], float(scores[place])) for place in order
        ], session.artifact.file


def test_an_engine_that_answers_otherwise_is_found(scorer, tmp_path, monkeypatch) -> None:
    from lepton_converters import answer_export

    def wrong(outputs, plan):
        return {name: values + 1 for name, values in answers_of(outputs, plan).items()}

    monkeypatch.setattr(answer_export, "answers_of", wrong)
    with pytest.raises(ParityError, match="answer as Python does, none did"):
        export(scorer, tmp_path / "top.bundle", precisions=["fp32"], answers=Answers(top_k=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.5}, "give --threshold with --top-k, or with --boxes"),
        ({"top_k": 2, "threshold": 1.0, "activation": "softmax"}, "0 or more and below 1, found 1.0"),
        ({"top_k": 0}, "at least 1, found 0"),
        ({"threshold": float("nan"), "top_k": 2}, "finite number, found nan"),
        ({"threshold": "0.5", "top_k": 2}, "finite number, found '0.5'"),
        ({"top_k": True}, "whole number of at least 1, found True"),
        ({"boxes": "xyxy", "top_k": 9, "iou": 1.0}, "0 to 0.99"),
        ({"top_k": 3, "iou": 0.5}, "give it with --boxes, found 0.5 alone"),
        ({"activation": "relu"}, "none, softmax, sigmoid"),
        ({"boxes": "corners", "top_k": 9, "iou": 0.5}, "xyxy, yxyx, xywh, center_xywh"),
        ({"boxes": "xyxy", "top_k": 9, "iou": 0.5, "anchors": "0" * 64}, "center_xywh, found 'xyxy'"),
    ],
)
def test_steps_that_do_not_go_together_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        Answers(**settings)


_SCORES, _FOUR = TensorSpec("scores", (1, 9, 3), "float32"), TensorSpec("place", (1, 9, 4), "float32")


@pytest.mark.parametrize(
    ("outputs", "settings", "error", "message"),
    [
        ([TensorSpec("scores", (1, 5), "float32")], {"top_k": 6}, InputError, "at most the number of classes, 5, found 6"),
        ([TensorSpec("scores", (None, 5), "float32")], {"top_k": 2}, UnsupportedError, "found --batch dynamic"),
        ([_FOUR], {"top_k": 2}, UnsupportedError, "one output of class scores, found place"),
        ([_SCORES], {"boxes": "xyxy"}, UnsupportedError, "--boxes is for a batch of 1"),
        ([_FOUR, _FOUR], {"boxes": "xyxy"}, UnsupportedError, "with 'box' in its name"),
        ([_FOUR, TensorSpec("scores", (1, 8, 3), "float32")], {"boxes": "xyxy"}, UnsupportedError, "found place"),
        ([TensorSpec("scores", (1, 5), "float32")], {"boxes": "xyxy"}, UnsupportedError, "--boxes is for"),
        ([TensorSpec("ids", (1, 5), "int32")], {"top_k": 2}, UnsupportedError, "real numbers of float32, found ids"),
    ],
)
def test_outputs_that_are_no_such_answers_are_refused(outputs, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        plan_answers(outputs, Answers(**settings))


def test_anchors_that_do_not_fit_are_refused(tmp_path) -> None:
    answers = Answers(boxes="center_xywh", top_k=5, iou=0.5)
    np.save(tmp_path / "anchors.npy", np.zeros((8, 4)))
    (tmp_path / "text.npy").write_text("no numbers")
    for name, message in (
        ("anchors.npy", r"must be \(9, 4\) finite numbers"),
        ("text.npy", "which is none"),
        ("none.npy", "which is none"),
    ):
        with pytest.raises(InputError, match=message):
            plan_answers([_FOUR, _SCORES], answers, anchors=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": Answers(top_k=2), "io": "uint8", "precisions": ["static-int8"]}, "steps behind the network take real numbers"),
        ({"anchors": "anchors.npy"}, "give --boxes center_xywh, too"),
        ({"variances": (1, 1, 1, 1)}, "--variances are four numbers above 0 and given with --anchors"),
        ({"input_": "int8"}, "--input is float or uint8, found 'int8'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(scorer, tmp_path, options, message) -> None:
    with pytest.raises(InputError, match=message):
        export(scorer, tmp_path / "top.bundle", **options)


def test_a_detector_needs_a_label_a_class(detectors, tmp_path) -> None:
    with pytest.raises(InputError, match=r"2 are given \(ant, bee\) and the network has 3 classes .* give 3 names with --labels"):
        export(detectors["rows"], tmp_path / "b.bundle", answers=Answers(boxes="xyxy", top_k=5, iou=0.5), labels=["ant", "bee"])


def test_a_network_may_have_names_that_answers_have_too(keras, tmp_path) -> None:
    row = keras.Input((6,), name="row")
    inner = keras.layers.Dense(6, name="classes")(row)
    path = export(
        keras.Model(row, keras.layers.Dense(6, name="scores")(inner)),
        tmp_path / "top.bundle",
        precisions=["fp32"],
        answers=Answers(top_k=2),
    ).path
    for session in sessions(path):
        assert [spec.name for spec in session.artifact.outputs] == ["scores", "classes"]
    taken = keras.Input((6,), name="scores")
    with pytest.raises(UnsupportedError, match="found an input 'scores'; rename it"):
        export(keras.Model(taken, keras.layers.Dense(6)(taken)), tmp_path / "other.bundle", answers=Answers(top_k=2))


def test_equal_scores_and_boxes_that_are_none_keep_their_order_on_every_engine(detectors, tmp_path) -> None:
    """8 bits have few different scores; a box without area, one far away and one that is no number take nothing from the others."""
    answers = Answers(activation="sigmoid", top_k=30, threshold=0.55, boxes="xyxy", iou=0.3)
    path = export(detectors["rows"], tmp_path / "boxes.bundle", precisions=["fp32"], answers=answers).path
    plan = plan_answers([TensorSpec("both", (1, _BOXES, 4 + _CLASSES), "float32")], answers)
    for seed in range(6):
        given = crowd("xyxy", seed=seed)
        given[:, :, 4:] = np.round(given[:, :, 4:])
        given[0, 3] = [5, 5, 5, 9, 60, 0, 0]
        given[0, 7] = [0, 0, np.inf, np.nan, 70, 0, 0]
        given[0, 11] = [0, 0, 1e9, 10, -60, -60, -60]
        given[0, 12] = [-1e9, 20, 1e9, 21, 50, 0, 0]
        given[0, 13] = [9, 9, 4, 4, 80, 0, 0]
        given[0, 14, 4:] = np.nan
        wanted = answers_of({"both": given}, plan)
        assert (np.diff(wanted["scores"][0][wanted["classes"][0] >= 0]) == 0).sum() > 5
        for session in sessions(path):
            found = session.run({"both": given})
            for name in ("scores", "boxes"):
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(found["classes"], wanted["classes"])


def test_confident_scores_keep_the_order_of_what_they_come_from(keras, tmp_path) -> None:
    for activation in ("softmax", "sigmoid"):
        model = keras.Sequential([keras.Input((1000,), name="row"), keras.layers.Reshape((1000,), name="scores")])
        path = export(model, tmp_path / f"{activation}.bundle", precisions=["fp32"], answers=Answers(activation=activation, top_k=20)).path
        row = np.random.default_rng(1).normal(0, 30, (1, 1000)).astype(np.float32)
        for session in sessions(path):
            np.testing.assert_array_equal(session.run({"row": row})["classes"][0], np.argsort(-row[0], kind="stable")[:20])


def test_a_detector_answers_in_every_precision(keras, tmp_path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(4)
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, strides=4, padding="same", activation="relu")(image)
    scores = layers.Reshape((64, 2), name="scores")(layers.Conv2D(2, 1)(x))
    boxes = layers.Reshape((64, 4), name="places")(layers.Conv2D(4, 1, activation="relu")(x))
    np.save(tmp_path / "calib.npy", np.random.default_rng(0).uniform(0, 1, (40, 32, 32, 3)).astype(np.float32))
    result = export(
        keras.Model(image, [boxes, scores]),
        tmp_path / "finder.bundle",
        calib=tmp_path / "calib.npy",
        calib_samples=20,
        answers=Answers(activation="sigmoid", top_k=20, boxes="xywh", iou=0.4),
        labels=["ant", "bee"],
    )
    assert len(result.manifest.artifacts) == 9, result.left_out
    for session in sessions(result.path):
        assert Golden.open(session.bundle).difference(session) == 0


def test_which_axis_holds_the_boxes_is_told_by_the_labels() -> None:
    answers = Answers(boxes="xyxy", top_k=5, iou=0.5)
    grid = TensorSpec("grid", (1, 25, 84), "float32")
    assert plan_answers([grid], answers).classes == 21  # the longer one, where nothing is told
    told = plan_answers([grid], answers, labels=[str(number) for number in range(80)])
    assert (told.classes, told.count) == (80, 25)


def test_selfcheck_sees_another_box_and_another_class(detectors, tmp_path) -> None:
    answers = Answers(top_k=6, boxes="xyxy", iou=0.5)
    path = export(detectors["rows"], tmp_path / "boxes.bundle", precisions=["fp32"], formats=["onnx"], answers=answers).path
    (session,) = sessions(path)
    golden = Golden.open(session.bundle)
    for name in ("boxes", "classes"):
        arrays = {key: values + 7 if key.endswith(f"/{name}") else values for key, values in golden.arrays.items()}
        assert Golden(arrays).difference(session) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"boxes": "xyxy", "iou": 0.5}}, "must give its answers, boxes, classes, scores"),
        ({"labels": [1, 2, 3, 4, 5, 6]}, "labels are names"),
        ({"answers": {"newer": 1}}, "newer version"),
        ({"answers": {"top_k": -1}}, "complete manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_its_models_is_refused(scorer, tmp_path, rewrite_manifest, change, message) -> None:
    path = export(scorer, tmp_path / "top.bundle", precisions=["fp32"], formats=["onnx"], answers=Answers(top_k=2)).path

    def forge(values: dict) -> None:
        for key, found in change.items():
            values[key] = {**values[key], **found} if isinstance(found, dict) else found

    rewrite_manifest(path, forge)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


def test_boxes_are_a_hundred_or_all_that_there_are() -> None:
    for count, wanted in ((300, 100), (9, 9)):
        known = plan_answers([TensorSpec("rows", (1, count, 7), "float32")], Answers(boxes="xyxy")).answers
        assert (known.top_k, known.iou) == (wanted, 0.5)
    with pytest.raises(InputError, match="at most the number of boxes, 9, found 10"):
        plan_answers([TensorSpec("rows", (1, 9, 7), "float32")], Answers(boxes="xyxy", top_k=10))


def test_an_activation_is_not_put_behind_another(models, tmp_path) -> None:
    with pytest.raises(InputError, match="--activation softmax is for scores without one, the network ends in softmax; leave it out"):
        export(models / "tiny_cnn.keras", tmp_path / "cnn.bundle", answers=Answers(activation="softmax"))
