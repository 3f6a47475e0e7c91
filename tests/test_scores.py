import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from pipelines import scores
from pipelines.calibration import expected_calibration_error


def drawn(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels of three, probabilities that are right four times in five whatever they say, and distinct texts."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, 3, count)
    given_labels = np.where(rng.random(count) < 0.8, wanted, (wanted + 1) % 3)
    confidence = rng.uniform(0.6, 1.0, count)  # too small at first, then too large
    probs = np.repeat(((1 - confidence) / 2)[:, None], 3, axis=1)
    probs[np.arange(count), given_labels] = confidence
    return wanted, probs, [f"text {row}" for row in range(count)]


def bootstrap(wanted, probs, texts, seed: int = 2, resamples: int = 1_000) -> scores.Bootstrap:
    return scores.bootstrap(wanted, probs, texts, resamples=resamples, rng=np.random.default_rng(seed))


def test_the_point_estimates_are_those_of_the_rows_themselves():
    wanted, probs, texts = drawn(300)
    said = probs.argmax(axis=1)

    found = bootstrap(wanted, probs, texts)

    assert found.accuracy.value == pytest.approx((said == wanted).mean())
    assert found.macro_f1.value == pytest.approx(f1_score(wanted, said, average="macro"))
    assert found.calibration_error.value == pytest.approx(
        expected_calibration_error(probs.max(axis=1), said == wanted)
    )


def test_a_label_that_is_said_and_never_right_is_no_label_of_the_mean():
    probs = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.0, 0.9]])

    found = bootstrap(np.array([0, 1, 1]), probs, ["a", "b", "c"])

    assert found.macro_f1.value == pytest.approx((1 + 2 / 3) / 2)


def test_each_interval_holds_its_point_estimate_and_halves_with_four_times_the_texts():
    small, large = bootstrap(*drawn(400)), bootstrap(*drawn(1_600))

    for name in ("accuracy", "macro_f1", "calibration_error"):
        few, many = getattr(small, name), getattr(large, name)
        assert few.low < few.value < few.high
        assert many.low < many.value < many.high
        assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.25)


def test_the_interval_of_accuracy_is_as_wide_as_the_binomial_says():
    wanted, probs, texts = drawn(1_000)
    found = bootstrap(wanted, probs, texts, resamples=4_000).accuracy

    expected = 1.96 * np.sqrt(found.value * (1 - found.value) / 1_000)

    assert found.high - found.value == pytest.approx(expected, rel=0.1)
    assert found.value - found.low == pytest.approx(expected, rel=0.1)


def test_rows_of_one_text_are_drawn_together_and_make_no_interval_narrower():
    wanted, probs, texts = drawn(200)
    repeated = np.repeat(wanted, 10), np.repeat(probs, 10, axis=0), [text for text in texts for _ in range(10)]

    once, often = bootstrap(wanted, probs, texts), bootstrap(*repeated)

    assert often.accuracy.low == pytest.approx(once.accuracy.low)
    assert often.accuracy.high == pytest.approx(once.accuracy.high)
    assert often.macro_f1.high == pytest.approx(once.macro_f1.high)


def test_the_same_seed_gives_the_same_intervals():
    assert bootstrap(*drawn(100), seed=3) == bootstrap(*drawn(100), seed=3) != bootstrap(*drawn(100), seed=4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_macro_f1_is_the_mean_over_the_labels_that_occur(pairs):
    wanted, said = map(np.array, zip(*pairs, strict=True))

    found = scores.macro_f1(scores.confusion(wanted, said, 4))

    assert found == pytest.approx(
        f1_score(wanted, said, labels=np.unique(wanted), average="macro", zero_division=0.0)
    )


def test_scores_by_label_are_those_worked_out_by_hand():
    found = scores.by_label(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), ("up", "down", "never"))

    assert found["up"] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "rows": 3}
    assert found["down"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "rows": 1}
    assert found["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}


def test_the_rows_of_the_confusion_matrix_are_the_right_labels():
    assert scores.confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), 2).tolist() == [[0, 2], [0, 1]]


def both(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Labels of three, and answers of two models that mostly agree; every fifth text stands there twice."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, 3, count)
    before = np.where(rng.random(count) < 0.8, wanted, (wanted + 1) % 3)
    after = np.where(rng.random(count) < 0.9, before, wanted)
    return wanted, before, after, [f"text {row - (row % 5 == 4)}" for row in range(count)]


def paired(wanted, before, after, texts, *, resamples: int = 2_000, recalled: int = 0) -> scores.Changes:
    return scores.paired(
        wanted, before, after, texts,
        labels=3, recalled=recalled, resamples=resamples, rng=np.random.default_rng(2),
    )  # fmt: skip


def test_paired_figures_are_those_of_each_model_by_itself():
    wanted, before, after, texts = both(400)

    found = paired(wanted, before, after, texts, recalled=2)

    assert (found.accuracy.before, found.accuracy.after) == (np.mean(wanted == before), np.mean(wanted == after))
    assert found.macro_f1.after == pytest.approx(f1_score(wanted, after, average="macro"))
    assert found.recall.before == pytest.approx(np.mean(before[wanted == 2] == 2))
    assert (found.accuracy.rows, found.recall.rows) == (400, (wanted == 2).sum())


def test_a_paired_difference_varies_as_the_texts_that_models_differ_on_and_not_as_all_texts():
    wanted, before, after, _ = both(2_000)
    texts = [str(row) for row in range(2_000)]

    found = paired(wanted, before, after, texts, resamples=4_000).accuracy

    each = (after == wanted).astype(int) - (before == wanted).astype(int)
    assert found.drawn.std() == pytest.approx(each.std() / np.sqrt(2_000), rel=0.05)
    assert found.interval().high - found.interval().low == pytest.approx(2 * 1.96 * found.drawn.std(), rel=0.05)
    assert found.interval(0.99).low < found.interval().low


def test_rows_of_one_text_are_drawn_together():
    """Twice the same rows say no more than once, so the interval is as wide."""
    wanted, before, after, _ = both(500)
    texts = [str(row) for row in range(500)]

    once = paired(wanted, before, after, texts).accuracy
    twice = paired(*(np.tile(values, 2) for values in (wanted, before, after)), texts * 2).accuracy

    assert twice.drawn.std() == pytest.approx(once.drawn.std(), rel=0.06)


def test_models_that_say_the_same_differ_in_no_draw():
    wanted, before, _, texts = both(300)
    found = paired(wanted, before, before, texts)
    for change in (found.accuracy, found.macro_f1, found.recall):
        assert not change.drawn.any()


def test_no_rows_are_refused():
    none = np.empty(0, np.intp)
    with pytest.raises(ValueError, match="paired bootstrap: no rows; give at least one"):
        paired(none, none, none, [])
