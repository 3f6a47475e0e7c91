"""The report on alerts: what is counted, what is fitted, and what is written of it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.spikes import CALIBRATED_ALARMS, CALIBRATED_RATES, OPEN_P, SLOPE
from pipelines import alert_pictures, alert_quality, alert_report
from pipelines.alarm_figures import Bar, bars, calibrate, of_kept, of_quiet, of_restart, of_spikes, rate
from pipelines.alarms import P_LEVELS, THRESHOLDS, Z_LEVELS, Found, Job, Quiet, joined, kept, quiet, restarted, spiky

DOCS = Path(__file__).parent.parent / "docs" / "alert-quality"


def _quiet(rates: np.ndarray, alarms: np.ndarray, weeks: float = 6.0) -> Quiet:
    topics = len(rates)
    return Quiet(
        rates=rates,
        weeks=weeks,
        alarms=alarms,
        cold_alarms=np.ones(topics, dtype=np.int64),
        below=np.tile(np.array(P_LEVELS)[:, None], topics),
        volume_alarms=np.zeros(topics, dtype=np.int64),
        volume_spoken=np.zeros((len(Z_LEVELS), topics), dtype=np.int64),
    )


def _found(**changes: Any) -> Found:
    spike = Found(kind="share", hours=1.0, rate=5.0, usual_items=5.0, extra=15.0, share_delay=2, volume_delay=None)
    return dataclasses.replace(spike, **changes)


def test_the_interval_of_a_rate_is_the_exact_poisson_one() -> None:
    # Garwood 1936: for 10 events 4.795 to 18.39, for none 0 to 3.689.
    ten, none = rate(10, 1.0), rate(0, 2.0)
    assert (ten.value, ten.low, ten.high) == pytest.approx((10, 4.795, 18.39), abs=0.01)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 3.689 / 2), abs=0.001)


def test_false_alarms_are_counted_by_topic_and_week_and_by_rate() -> None:
    alarms = np.zeros((len(THRESHOLDS), 4), dtype=np.int64)
    alarms[THRESHOLDS.index(OPEN_P)] = [0, 0, 3, 9]
    figures = of_quiet(_quiet(np.array([0.5, 1.0, 10.0, 100.0]), alarms))
    assert figures["false_alarms"]["value"] == pytest.approx(12 / 24)
    assert [band["value"] for band in figures["false_alarms_by_rate"].values()] == pytest.approx([0, 3 / 6, 9 / 6])
    assert figures["cold"]["value"] == pytest.approx(1 / 7)
    assert set(figures["observed_to_nominal"].values()) == {1.0}


def test_each_spike_is_held_against_the_kind_that_is_to_find_it() -> None:
    found = [
        _found(),
        _found(share_delay=None, rate=1.0, usual_items=3.0),
        _found(kind="volume", share_delay=0, volume_delay=None),
        _found(kind="volume", volume_delay=4, hours=3.0),
        _found(kind="negatives", extra=50.0),
        _found(kind="market", share_delay=None),
    ]
    figures = of_spikes(found)
    kinds = figures["kinds"]
    assert (kinds["share"]["enough"]["spikes"], kinds["share"]["enough_then"]["spikes"]) == (1, 2)
    assert kinds["share"]["enough_then"]["recall"]["value"] == 0.5
    assert (kinds["volume"]["enough"]["recall"]["value"], kinds["volume"]["enough"]["median_delay"]) == (0.5, 4)
    assert kinds["volume"]["by_rate"]["2 to 20"]["3"]["recall"]["value"] == 1
    assert kinds["share"]["many"] == {"spikes": 0, "recall": None, "median_delay": None}
    told = {row["from"]: row["spikes"] for row in figures["by_extra_negatives"]}
    assert told == {0: 0, 5: 0, 10: 2, 20: 0, 40: 1}
    assert (figures["market"]["episodes"], figures["market"]["share"]["value"]) == (1, 0)


def test_calibration_finds_the_rates_and_the_slope_that_alarms_were_drawn_with() -> None:
    rng = np.random.default_rng(2)
    rates = np.exp(rng.uniform(np.log(0.2), np.log(200), 6_000))
    at_open_p = 0.05 * rates**0.3
    levels = (np.array(THRESHOLDS) / OPEN_P) ** 0.9
    alarms = rng.poisson(6 * at_open_p * levels[:, None])
    fitted, rows = calibrate(_quiet(rates, alarms))
    assert fitted.slope == pytest.approx(0.9, abs=0.03)
    assert fitted.alarms == pytest.approx(0.05 * np.array(fitted.rates) ** 0.3, rel=0.1)
    assert {row["p"] for row in rows} == set(THRESHOLDS)
    at_one = next(row for row in rows if row["p"] == OPEN_P)
    assert at_one["fitted"] == pytest.approx(fitted.alarms[0])


def test_a_bar_is_met_from_its_own_value_on() -> None:
    assert [Bar("", value, 0.5, True).met for value in (0.4, 0.5, 0.6)] == [True, True, False]
    assert [Bar("", value, 0.5, False).met for value in (0.4, 0.5, 0.6)] == [False, True, True]


@pytest.fixture(scope="module")
def usual() -> Quiet:
    """Twenty topics of scenario A for five weeks, three of them scored."""
    return quiet(Job("A", 20, 3, False, weeks=5))


def test_news_of_the_usual_mix_raises_few_alarms_and_cautious_p_values(usual: Quiet) -> None:
    assert usual.weeks == 3
    by_threshold = usual.alarms.sum(axis=1)
    assert list(by_threshold) == sorted(by_threshold, reverse=True)
    assert by_threshold[THRESHOLDS.index(OPEN_P)] <= 0.15 * 20 * 3
    assert usual.below.mean(axis=1)[P_LEVELS.index(1e-2)] <= 1.5e-2


def test_streams_of_one_scenario_are_joined_by_topic(usual: Quiet) -> None:
    both = joined([usual, usual])
    assert len(both.rates) == 40
    assert both.alarms.sum() == 2 * usual.alarms.sum()
    assert of_quiet(both)["false_alarms"]["value"] == of_quiet(usual)["false_alarms"]["value"]


def test_spikes_of_busy_topics_are_found_and_a_moving_market_is_none() -> None:
    found = spiky(Job("A", 30, 2, True, weeks=5))
    figures = of_spikes(found)
    assert figures["kinds"]["share"]["many"]["recall"]["value"] >= 0.9
    assert figures["kinds"]["volume"]["many"]["recall"]["value"] >= 0.9
    assert figures["market"]["share"]["value"] == 0
    assert {spike.kind for spike in found} == {"share", "volume", "negatives", "market"}
    assert figures["by_extra_negatives"][0]["recall"]["value"] < 0.1


def test_a_restart_changes_next_to_nothing() -> None:
    figures = of_restart(restarted(4, 1))
    assert figures["states"] == 288 * 5
    assert figures["other_state"] == 0
    assert figures["largest_p_factor"] < 1.5


def test_asking_for_more_false_alarms_gives_more_at_a_larger_threshold() -> None:
    few, many = (kept(Job("B", 15, 4, False, weeks=4), asked) for asked in (0.1, 20.0))
    assert few.weeks == many.weeks == 2
    assert few.open_p < OPEN_P < many.open_p
    assert few.alarms < many.alarms
    figures = of_kept([many, many])
    assert (figures["monitor_weeks"], figures["alarms"]["value"]) == (4, many.alarms / 2)


def test_without_real_volumes_their_scenario_and_the_benchmark_are_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONITOR_DATA", str(tmp_path))
    assert alert_quality._volumes(None) == []
    assert "scenario R and the benchmark are left out: no " in capsys.readouterr().err
    assert {job.scenario for job in alert_quality._jobs([], 10)} == {"A", "B"}


def test_a_folder_without_series_ends_with_one_line(tmp_path: Path) -> None:
    app = alert_quality.typer.Typer()
    app.command()(alert_quality.main)
    result = CliRunner().invoke(app, ["--nab", str(tmp_path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert re.fullmatch(r"alert-quality: .*: no series here; expected CSV files .*\n", result.stderr)


def _report() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((DOCS / "report.json").read_text(encoding="utf-8"))
    return report


def test_the_document_and_its_pictures_are_made_of_the_reports_figures() -> None:
    document = (DOCS / "report.md").read_text(encoding="utf-8")
    assert document == alert_report.render(_report())
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", document)
    drawn = alert_pictures.draw(_report())
    assert set(pictures) == set(drawn)
    assert {name: (DOCS / name).exists() for name in drawn} == dict.fromkeys(drawn, True)
    assert drawn == alert_pictures.draw(_report())


def test_the_bars_follow_from_the_reports_figures() -> None:
    report = _report()
    assert [one.what for one in bars(report)] == [bar["what"] for bar in report["bars"]]
    assert [one.met for one in bars(report)] == [bar["met"] for bar in report["bars"]]


def test_the_table_that_the_detector_ships_is_the_one_that_the_report_fitted() -> None:
    calibration = _report()["calibration"]
    assert calibration["shipped"] == {
        "rates": list(CALIBRATED_RATES),
        "alarms": list(CALIBRATED_ALARMS),
        "slope": SLOPE,
    }
    assert pytest.approx(calibration["fitted"]["rates"], rel=0.03) == list(CALIBRATED_RATES)
    assert pytest.approx(calibration["fitted"]["alarms"], rel=0.05, abs=0.0005) == list(CALIBRATED_ALARMS)
    assert pytest.approx(calibration["fitted"]["slope"], abs=0.01) == SLOPE


def test_the_figures_of_the_readme_are_those_of_the_report() -> None:
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    for name, scenario in _report()["scenarios"].items():
        share = scenario["spikes"]["kinds"]["share"]
        figures = (scenario["quiet"]["false_alarms"], share["enough"]["recall"], share["many"]["recall"])
        assert f"| {name} | " + " | ".join(f"{figure['value']:.3f}" for figure in figures) + " |" in readme
    asked_one = {row["scenario"]: row["alarms"]["value"] for row in _report()["promise"]["rows"] if row["asked"] == 1}
    came = re.search(r"asked for one false alarm a week\s+raised\s+(\S+) \(A\), (\S+) \(B\) and (\S+) \(R\)", readme)
    assert came
    assert came.groups() == tuple(f"{value:.1f}" for value in asked_one.values())


def test_without_real_volumes_the_document_says_what_was_left_out() -> None:
    report = _report() | {"nab": None}
    report["scenarios"] = {name: report["scenarios"][name] for name in ("A", "B")}
    report["promise"]["rows"] = [row for row in report["promise"]["rows"] if row["scenario"] != "R"]
    document = alert_report.render(report)
    assert "Left out: its series were not there." in document
    assert "| R |" not in document
