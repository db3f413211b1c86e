"""What the accuracy will be without asking the labels, which are mostly chance where answers change."""

import numpy as np
import pytest

from lepton_converters.expected_drop import expected_drop, temperature_scaled

GENERATOR = np.random.default_rng(5)
TRUE = GENERATOR.dirichlet(np.full(4, 0.7), size=4000)
LOGITS = np.log(TRUE)


def drawn(probabilities: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (generator.uniform(size=(len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 3)


def nearly_the_same(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return scores + generator.normal(0, 0.2, scores.shape)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("form", ["probabilities", "logits"])
def test_too_sure_and_too_unsure_networks_are_scaled(temperature: float, form: str) -> None:
    scores = LOGITS / temperature
    if form == "probabilities":
        scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = temperature_scaled(scores, drawn(TRUE, np.random.default_rng(1)))
    np.testing.assert_allclose(found.mean(axis=0), TRUE.mean(axis=0), atol=0.02)
    assert np.abs(found - TRUE).mean() < 0.02
    assert (found.argmax(axis=1) == TRUE.argmax(axis=1)).all()


def test_labels_that_are_always_right_make_it_sure() -> None:
    assert temperature_scaled(TRUE, TRUE.argmax(axis=1)).max(axis=1).mean() > 0.99


def test_the_drop_is_what_labels_would_say_on_average() -> None:
    before = LOGITS.argmax(axis=1)
    after = nearly_the_same(LOGITS, np.random.default_rng(2)).argmax(axis=1)
    drop, standard_error = expected_drop(TRUE, before, after)
    seen = []
    for seed in range(400):
        labels = drawn(TRUE, np.random.default_rng(seed))
        seen.append(float((before == labels).mean() - (after == labels).mean()))
    assert drop == pytest.approx(np.mean(seen), abs=4 * np.std(seen) / 20)
    assert standard_error == pytest.approx(np.std(seen), rel=0.15)


def test_nineteen_of_twenty_other_sets_keep_to_drop_and_margin() -> None:
    generator, kept = np.random.default_rng(3), []
    for _ in range(400):
        first, second = generator.permutation(4000)[:2000].reshape(2, 1000)
        changed = nearly_the_same(LOGITS, generator).argmax(axis=1)
        drop, standard_error = expected_drop(TRUE[first], LOGITS[first].argmax(axis=1), changed[first])
        labels = drawn(TRUE[second], generator)
        kept.append((LOGITS[second].argmax(axis=1) == labels).mean() - (changed[second] == labels).mean() <= drop + 1.64 * standard_error)
    assert np.mean(kept) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("count", [20, 4000])
def test_answers_that_stay_lose_nothing_within_a_margin_that_few_samples_make_wide(count: int) -> None:
    answers = TRUE[:count].argmax(axis=1)
    assert expected_drop(TRUE[:count], answers, answers) == (0.0, pytest.approx(1 / count))
