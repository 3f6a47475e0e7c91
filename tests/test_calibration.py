import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import calibration


def answers(*pairs: tuple[float, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether each answer is right."""
    confidence, correct = zip(*pairs, strict=True)
    return np.array(confidence), np.array(correct, dtype=np.bool_)


FIVE = answers((0.95, True), (0.93, False), (0.55, True), (0.52, True), (0.51, False))


def test_the_calibration_error_is_the_weighted_gap_of_the_bins():
    # (0.5, 0.6]: 3 answers, 2 right, confidences add up to 1.58; (0.9, 1.0]: 2 answers, 1 right, 1.88.
    expected = (abs(2 - 1.58) + abs(1 - 1.88)) / 5

    assert calibration.expected_calibration_error(*FIVE, bins=10) == pytest.approx(expected)


def test_bins_of_equal_mass_hold_equally_many_answers():
    # In order of confidence: .51 .52 .55 | .93 .95
    expected = (abs(2 - 1.58) + abs(1 - 1.88)) / 5
    # .51 .52 | .55 .93 | .95
    finer = (abs(1 - 1.03) + abs(1 - 1.48) + abs(1 - 0.95)) / 5

    assert calibration.equal_mass_calibration_error(*FIVE, bins=2) == pytest.approx(expected)
    assert calibration.equal_mass_calibration_error(*FIVE, bins=3) == pytest.approx(finer)


def test_an_edge_belongs_to_the_bin_below_it():
    assert calibration.bin_of(np.array([0.0, 0.5, 0.5000001, 1.0]), bins=2).tolist() == [0, 0, 1, 1]


def test_reliability_tells_confidence_and_accuracy_of_each_bin_and_nothing_of_an_empty_one():
    bins = calibration.reliability(*FIVE, bins=10)

    assert [part.texts for part in bins] == [0, 0, 0, 0, 0, 3, 0, 0, 0, 2]
    assert (bins[5].low, bins[5].high) == pytest.approx((0.5, 0.6))
    assert bins[5].confidence == pytest.approx(1.58 / 3)
    assert bins[5].accuracy == pytest.approx(2 / 3)
    assert bins[0].confidence is None
    assert bins[0].accuracy is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_reliability_bins_add_up_to_the_calibration_error(pairs):
    confidence, correct = answers(*pairs)

    bins = calibration.reliability(confidence, correct)
    summed = sum(part.texts * abs(part.accuracy - part.confidence) for part in bins if part.texts) / len(pairs)

    assert calibration.expected_calibration_error(confidence, correct) == pytest.approx(summed)
    assert calibration.equal_mass_calibration_error(confidence, correct, bins=1) == pytest.approx(
        abs(correct.mean() - confidence.mean())
    )


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(known):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (20_000, 4))
    probs = np.exp(logits / known) / np.exp(logits / known).sum(axis=1, keepdims=True)
    labels = (rng.random((20_000, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=3)

    assert calibration.fit_temperature(logits, labels) == pytest.approx(known, rel=0.03)


def test_log_probabilities_give_the_temperature_that_their_logits_give():
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(0, 4, (500, 3)), rng.integers(0, 3, 500)
    probs = calibration.with_temperature(np.exp(logits), 1.0)

    assert calibration.fit_temperature(np.log(probs), labels) == pytest.approx(
        calibration.fit_temperature(logits, labels), rel=1e-4
    )


def test_the_fitted_temperature_makes_the_labels_likelier_than_those_beside_it():
    rng = np.random.default_rng(7)
    probs = calibration.with_temperature(np.exp(rng.normal(0, 4, (400, 3))), 1.0)
    labels = np.where(rng.random(400) < 0.7, probs.argmax(axis=1), rng.integers(0, 3, 400))
    found = calibration.fit_temperature(np.log(probs), labels)

    def loss(temperature: float) -> float:
        return calibration.negative_log_likelihood(calibration.with_temperature(probs, temperature), labels)

    assert loss(found) < min(loss(found * 1.05), loss(found / 1.05), loss(1.0))


def test_a_temperature_and_its_inverse_leave_probabilities_as_they_were():
    probs = np.random.default_rng(8).dirichlet(np.ones(5), 20)

    there = calibration.with_temperature(probs, 1.7)

    assert not np.allclose(there, probs)
    assert (there.argmax(axis=1) == probs.argmax(axis=1)).all()
    np.testing.assert_allclose(calibration.with_temperature(there, 1 / 1.7), probs, rtol=1e-9)


def test_a_probability_that_was_rounded_to_nothing_stays_a_number():
    probs = calibration.with_temperature(np.array([[1.0, 0.0]], np.float32), 2.0)

    assert np.isfinite(calibration.negative_log_likelihood(probs, np.array([1])))
    assert probs.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"temperature: 2 rows of logits and 0 labels"),
        ([0, -100], r"temperature: labels from -100 to 0, expected 0 to 2; leave out texts without a label"),
        ([0, 3], r"temperature: labels from 0 to 3, expected 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_the_logits_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.fit_temperature(np.zeros((2, 3)), labels)


def test_likelihood_and_brier_are_those_worked_out_by_hand():
    probs, labels = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0])

    assert calibration.negative_log_likelihood(probs, labels) == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert calibration.brier(probs, labels) == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)


def test_chance_alone_explains_the_error_of_a_calibrated_model_and_not_that_of_an_overconfident_one():
    rng = np.random.default_rng(9)
    confidence = rng.uniform(0.5, 1, 2_000)
    calibrated, overconfident = rng.random(2_000) < confidence, rng.random(2_000) < confidence - 0.1

    mean, high = calibration.error_of_the_calibrated(confidence, np.random.default_rng(1))

    assert 0 < mean < high < 0.05
    assert calibration.expected_calibration_error(confidence, calibrated) < high
    assert calibration.expected_calibration_error(confidence, overconfident) > high
    fewer, _ = calibration.error_of_the_calibrated(confidence[:200], np.random.default_rng(1))
    assert fewer > 2 * mean
