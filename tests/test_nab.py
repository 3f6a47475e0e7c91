"""The benchmark's scoring, against examples worked by hand from the published formula."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.alert_quality import told
from pipelines.dataset import default_folder
from pipelines.nab import (
    PROFILES,
    BenchmarkError,
    LabelledSeries,
    Profile,
    best,
    probation,
    read,
    score_at,
    sigma,
    worth,
)

STANDARD = PROFILES["standard"]


def _series(name: str, windows: tuple[tuple[int, int], ...], records: int = 1_000) -> LabelledSeries:
    times = pd.date_range("2015-01-01", periods=records, freq="5min", tz="UTC")
    return LabelledSeries(name, times, np.ones(records), windows)


def _said(records: int, *at: int, score: float = 1.0) -> np.ndarray:
    scores = np.zeros(records)
    scores[list(at)] = score
    return scores


def test_sigma_is_that_of_the_paper() -> None:
    # 2 / (1 + exp(5 y)) - 1: at -1 2 / (1 + 0.0067379) - 1; at 0.2 2 / (1 + e) - 1.
    values = sigma(np.array([-1.0, -0.5, 0.0, 0.2, 3.1]))
    assert values == pytest.approx([0.986614, 0.848284, 0.0, -0.462117, -1.0], abs=1e-6)


def test_a_detection_is_worth_most_at_a_windows_first_record_and_loses_beyond_it() -> None:
    # A window of records 200 to 299, so of width 100: the middle is at -0.5, record 398 one width beyond the end.
    value, inside = worth(1_000, [(200, 299)])
    assert value[200] == pytest.approx(1.0)
    assert value[250] == pytest.approx(0.848284 / 0.986614, abs=1e-6)
    assert value[299] == pytest.approx((2 / (1 + np.exp(-0.05)) - 1) / 0.986614, abs=1e-6)
    assert value[398] == pytest.approx(-0.986614, abs=1e-6)
    assert (value[100], value[999]) == (-1.0, -1.0)
    assert (inside[199], inside[200], inside[299], inside[300]) == (-1, 0, 0, -1)


def test_between_two_windows_a_false_detection_counts_by_the_one_before_it() -> None:
    value, _ = worth(1_000, [(500, 599), (200, 299)])
    assert value[319] == pytest.approx(float(sigma(np.array(20 / 99))))
    assert value[619] == pytest.approx(float(sigma(np.array(20 / 99))))


def test_perfect_is_100_and_silence_is_0() -> None:
    one = _series("one", ((200, 299), (600, 699)))
    assert score_at([one], {"one": _said(1_000, 200, 600)}, 0.5, STANDARD).score == pytest.approx(100)
    assert score_at([one], {"one": np.zeros(1_000)}, 0.5, STANDARD).score == pytest.approx(0)


def test_a_worked_example() -> None:
    # Two windows of 100 records. Said: 250, the middle of the first; 260, in it again; 150 before any window; nothing
    # in the second. S = 0.859793 - 0.11 - 1 = -0.250207, null -2, perfect 2: 100 x 1.749793 / 4 = 43.7448.
    one = _series("one", ((200, 299), (600, 699)))
    result = score_at([one], {"one": _said(1_000, 150, 250, 260)}, 0.5, STANDARD)
    assert result.score == pytest.approx(43.7448, abs=1e-3)
    assert (result.found, result.windows, result.false_detections) == (1, 2, 1)
    # Missed windows at twice the loss: S = 0.859793 - 0.11 - 2 = -1.250207, null -4: 100 x 2.749793 / 6 = 45.8299.
    low_fn = score_at([one], {"one": _said(1_000, 150, 250, 260)}, 0.5, PROFILES["low FN"])
    assert low_fn.score == pytest.approx(45.8299, abs=1e-3)
    # False ones at twice the loss: S = 0.859793 - 0.22 - 1 = -0.360207: 100 x 1.639793 / 4 = 40.9948.
    low_fp = score_at([one], {"one": _said(1_000, 150, 250, 260)}, 0.5, PROFILES["low FP"])
    assert low_fp.score == pytest.approx(40.9948, abs=1e-3)


def test_what_is_said_in_probation_does_not_count() -> None:
    one = _series("one", ((200, 299),))
    assert probation(1_000) == 150
    assert probation(16_000) == 750
    early, none = _said(1_000, 10, 149), np.zeros(1_000)
    assert score_at([one], {"one": early}, 0.5, STANDARD) == score_at([one], {"one": none}, 0.5, STANDARD)


def test_one_threshold_holds_for_all_series_and_the_best_one_is_taken() -> None:
    # Above 5 both windows are found; above 2 a false detection comes in; above 8 one window is lost.
    series = [_series("a", ((200, 299),)), _series("b", ((200, 299),))]
    scores = {"a": _said(1_000, 200, score=5.0), "b": _said(1_000, 200, score=9.0)}
    scores["a"][160] = 3.0
    result = best(series, scores, STANDARD)
    assert (result.threshold, result.score) == (5.0, pytest.approx(100))
    assert best(series, {"a": np.zeros(1_000), "b": np.zeros(1_000)}, STANDARD).score == 0


def test_missing_a_window_costs_as_the_profile_says() -> None:
    one = _series("one", ((200, 299), (600, 699)))
    profile = Profile(1.0, 0.0, 3.0)
    # S = 1 - 3 = -2, null -6, perfect 2.
    assert score_at([one], {"one": _said(1_000, 200)}, 0.5, profile).score == pytest.approx(50)


def _write(folder: Path, labels: Path) -> None:
    folder.mkdir(parents=True)
    times = pd.date_range("2015-01-01", periods=20, freq="5min")
    pd.DataFrame({"timestamp": times, "value": range(20)}).to_csv(folder / "A.csv", index=False)
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text(
        json.dumps({"realTweets/A.csv": [["2015-01-01 00:25:00.000000", "2015-01-01 00:50:00.000000"]]})
    )


@pytest.mark.parametrize(
    ("series", "labels"),
    [("", "windows.json"), ("data/realTweets", "labels/combined_windows.json")],
    ids=["folder", "checkout"],
)
def test_series_are_read_from_a_folder_and_from_a_checkout(tmp_path: Path, series: str, labels: str) -> None:
    root = tmp_path / "nab"
    _write(root / series, root / labels)
    (one,) = read(root)
    assert (one.name, one.windows) == ("A", ((5, 10),))
    assert one.counts.tolist() == list(range(20))


def test_a_folder_without_series_is_named_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no series here; expected CSV files and windows\.json, or a checkout"):
        read(tmp_path)


def test_a_series_without_labels_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "nab"
    _write(root, root / "windows.json")
    (root / "windows.json").write_text("{}")
    with pytest.raises(BenchmarkError, match=r"windows\.json and the series beside it are not as expected: KeyError"):
        read(root)


def test_no_record_is_scored_by_what_comes_after_it() -> None:
    counts = np.random.default_rng(1).poisson(20, 2_000).astype(float)
    counts[1_500:1_510] = 300
    times = pd.date_range("2015-01-01", periods=2_000, freq="5min", tz="UTC").to_pydatetime().tolist()
    whole, part = told(counts, times), told(counts[:1_505], times[:1_505])
    assert part.tolist() == whole[:1_505].tolist()
    assert part[1_500] > 6.5


def test_volume_bursts_reach_the_bar_on_the_open_series() -> None:
    folder = default_folder() / "nab-open"
    if not folder.is_dir():
        pytest.skip(f"the series of the benchmark are not in {folder}; name their parent folder with MONITOR_DATA")
    series = read(folder)
    scores = {one.name: told(one.counts, one.times.to_pydatetime().tolist()) for one in series}
    assert best(series, scores, STANDARD).score >= 70
