"""The report on alerts as a document: every figure in it comes from the report's JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines import alert_pictures
from pipelines.markdown import interval, table

_KINDS = {
    "share": "share x3, by negative share",
    "volume": "volume x5, by volume burst",
    "negatives": "negatives x5, by negative share",
}


def render(found: Mapping[str, Any]) -> str:
    """Markdown of a report."""
    sections = (
        _head(found),
        _false_alarms(found["scenarios"]),
        _spikes(found["scenarios"]),
        _undetectable(found["scenarios"]),
        _threshold(found["calibration"], found["promise"]),
        _restart(found["restart"]),
        _benchmark(found["nab"]),
        _cost(found["cost"]),
    )
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


def _head(found: Mapping[str, Any]) -> Iterable[str]:
    yield "# How far alerts can be trusted, measured"
    yield (
        "News of known truth is simulated and goes through the monitor's own detector; `make alert-quality` measures "
        "all of this anew. `pipelines/simulation.py` says what the scenarios are: **A** varies by day and week, "
        "**B** comes in clusters too, as news does, and **R** has real volumes. Intervals are 95 %: Poisson's for "
        "counts, Wilson's for shares. They hold what chance does within a scenario, not what other news would do."
    )
    missed = [bar for bar in found["bars"] if not bar["met"]]
    yield f"Of {len(found['bars'])} bars {len(found['bars']) - len(missed)} are met."
    yield table(
        ("what", "measured", "bar", ""),
        (
            (
                bar["what"],
                f"{bar['value']:.3g}",
                f"{'at most' if bar['at_most'] else 'at least'} {bar['bar']:g}",
                "met" if bar["met"] else "**missed**",
            )
            for bar in found["bars"]
        ),
    )


def _false_alarms(scenarios: Mapping[str, Any]) -> Iterable[str]:
    yield "## False alarms"
    yield (
        "Alarms where nothing unusual happens, a topic and week, after two weeks of learning. Negative share opens "
        "at p <= 1e-4 here; in a running monitor the threshold follows from `alerts.false_alarms_per_week`."
    )
    bands = next(iter(scenarios.values()))["quiet"]["false_alarms_by_rate"]
    yield table(
        (
            "scenario",
            "topic-weeks",
            "negative share",
            *(f"{band} items" for band in bands),
            "days 1 to 7, a topic and day",
            "volume burst",
        ),
        (
            (
                name,
                f"{quiet['topic_weeks']:,.0f}",
                interval(quiet["false_alarms"]),
                *(interval(band) for band in quiet["false_alarms_by_rate"].values()),
                interval(quiet["cold"]),
                interval(quiet["volume_alarms"]),
            )
            for name, scenario in scenarios.items()
            for quiet in (scenario["quiet"],)
        ),
    )
    yield (
        "The volumes of R are real: its bursts of volume happened, so they are no false alarms, but nobody labelled "
        "them here either. In B attention itself comes and goes in clusters."
    )
    yield (
        "How often a p-value is at most p, over p; 1 is what a calibrated one gives, less is cautious. It is the "
        "least over the windows, before the gates, times the number of windows:"
    )
    levels = list(next(iter(scenarios.values()))["quiet"]["observed_to_nominal"])
    yield table(
        ("scenario", *(f"p = {level}" for level in levels)),
        (
            (name, *(f"{scenario['quiet']['observed_to_nominal'][level]:.2f}" for level in levels))
            for name, scenario in scenarios.items()
        ),
    )
    yield f"![False alarms by rate, and the calibration of p]({alert_pictures.FALSE_ALARMS})"


def _spikes(scenarios: Mapping[str, Any]) -> Iterable[str]:
    yield "## Spikes"
    yield (
        "A spike is found if an alert opens within it. Its delay is in 5-minute buckets, 0 being an alert at the end "
        "of the spike's first bucket. Each topic has one spike a week, so what a spike teaches the detector is in "
        "the figures. A topic that has two items a bucket on average has few at night; real volumes (R) are mostly "
        "far below their average, and burst so often by themselves that five times the volume is nothing new."
    )
    rows = []
    for name, scenario in scenarios.items():
        for kind, title in _KINDS.items():
            own = scenario["spikes"]["kinds"][kind]
            parts = (
                ("2 and more on average", own["enough"]),
                ("2 and more at the time", own["enough_then"]),
                ("20 and more on average", own["many"]),
            )
            for what, part in parts:
                rows.append((name, title, what, *_found(part)))
    yield table(("scenario", "spike, and what is to find it", "items a bucket", "spikes", "recall", "delay"), rows)
    yield "By rate and length:"
    yield table(
        ("scenario", "spike", "items a bucket", "1 h", "3 h"),
        (
            (
                name,
                _KINDS[kind].split(",", maxsplit=1)[0],
                band,
                *(_found(part)[1] for part in lengths.values()),
            )
            for name, scenario in scenarios.items()
            for kind in _KINDS
            for band, lengths in scenario["spikes"]["kinds"][kind]["by_rate"].items()
        ),
    )
    yield f"![Recall by rate]({alert_pictures.RECALL})"
    yield "The market moves: twice the volume and the usual share, on all topics, for two hours. Alarms a topic:"
    yield table(
        ("scenario", "topics and episodes", "negative share", "volume burst"),
        (
            (name, f"{market['episodes']:,}", *(interval(market[kind]) for kind in ("share", "volume")))
            for name, scenario in scenarios.items()
            for market in (scenario["spikes"]["market"],)
        ),
    )


def _found(part: Mapping[str, Any]) -> tuple[str, str, str]:
    if not part["spikes"]:
        return ("0", "", "")
    delay = "" if part["median_delay"] is None else f"{part['median_delay']:g}"
    return (f"{part['spikes']:,}", interval(part["recall"]), delay)


def _undetectable(scenarios: Mapping[str, Any]) -> Iterable[str]:
    yield "## What cannot be detected"
    yield (
        "A handful of negative items more than usual is what chance brings every day. Spikes of share and of "
        "negatives by how many negatives they held beyond the usual ones, all rates:"
    )
    yield table(
        ("scenario", "extra negatives", "spikes", "found"),
        (
            (
                name,
                f"{row['from']:g} and more" if row["to"] is None else f"{row['from']:g} to {row['to']:g}",
                *_found(row)[:2],
            )
            for name, scenario in scenarios.items()
            for row in scenario["spikes"]["by_extra_negatives"]
        ),
    )
    yield (
        "So with fewer than ten extra negatives hardly anything is found, with ten to twenty about half, and from "
        "some forty on nearly all. A topic with one item in ten minutes sees that many in hours; for such feeds "
        "there are longer windows (`deploy/slow-feed.toml`). A share that creeps up over days is learned as usual, "
        "and a spike in the first hours after the monitor first starts is judged by the share of all series."
    )


def _threshold(calibration: Mapping[str, Any], promise: Mapping[str, Any]) -> Iterable[str]:
    fitted, shipped = calibration["fitted"], calibration["shipped"]
    yield "## From false alarms a week to a threshold"
    yield (
        "`alerts.false_alarms_per_week` is divided over the series that the monitor follows by this table, counted "
        "in scenario B: alarms of a series in a week at p <= 1e-4. At another p they are as many times "
        f"(p / 1e-4)^{shipped['slope']:g}. The shipped table is in `monitor/spikes.py`; the fitted one is of this "
        f"run, with slope {fitted['slope']:.3f}. It holds for the default windows; longer ones raise fewer."
    )
    yield table(
        ("items a bucket", "fitted", "shipped"),
        (
            (f"{rate:.3g}", f"{alarms:.4f}", f"{own:.4f} at {own_rate:.3g}")
            for rate, alarms, own, own_rate in zip(
                fitted["rates"], fitted["alarms"], shipped["alarms"], shipped["rates"], strict=True
            )
        ),
    )
    yield f"![Alarms by threshold: counted and fitted]({alert_pictures.THRESHOLD})"
    yield (
        f"Whether that is kept: monitors of {promise['topics']} topics and the series of everything, other news than "
        "the table was fitted on, alarms of all series a week:"
    )
    yield table(
        ("scenario", "asked for", "came", "monitor-weeks", "threshold that it gave, mean"),
        (
            (
                row["scenario"],
                f"{row['asked']:g}",
                interval(row["alarms"]),
                f"{row['monitor_weeks']:.0f}",
                f"{row['open_p']:.2g}",
            )
            for row in promise["rows"]
        ),
    )


def _restart(found: Mapping[str, Any]) -> Iterable[str]:
    yield "## After a restart"
    yield (
        f"The detector is rebuilt from the buckets of the last {found['days']} days. In scenario B, with spikes, "
        "that was compared after nine weeks with a detector that never stopped, for a day: of "
        f"{found['states']:,} states {found['other_state']} differed in whether a series was in a spike. P-values "
        f"below 0.05 differed by a factor of {found['median_p_factor']:.3f} (median; {found['largest_p_factor']:.2f} "
        f"at most), scores of volume by {found['median_z_difference']:.3f} (median; "
        f"{found['largest_z_difference']:.2f} at most)."
    )


def _benchmark(found: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## Numenta Anomaly Benchmark"
    if found is None:
        yield "Left out: its series were not there."
        return
    yield (
        f"Volume bursts on {len(found['series'])} series of realTweets ({', '.join(found['series'])}), scored as "
        "Lavin and Ahmad (arXiv:1510.03336) describe: 0 is what silence gets, 100 what is perfect. No record is "
        "judged by a later one; one threshold holds for all series. It is the best for each profile, as that "
        "benchmark has it; beside it stands the one that alerts open at. Nothing was fitted to these series. "
        '`make alert-quality ARGS="--nab DIR"` runs all ten series of a checkout.'
    )
    yield table(
        ("profile", "score", "threshold", "windows found", "false detections", "score at the shipped threshold"),
        (
            (
                name,
                f"{result['score']:.1f}",
                f"{result['threshold']:.2f}",
                f"{result['found']} of {result['windows']}",
                str(result["false_detections"]),
                f"{found['shipped'][name]['score']:.1f} at {found['shipped'][name]['threshold']:g}",
            )
            for name, result in found["profiles"].items()
        ),
    )


def _cost(cost: Mapping[str, Any]) -> Iterable[str]:
    yield "## Cost"
    yield (
        "The median step of the detector, all kinds together, from counts to readings, in one process on "
        f"{cost['processor']}; beside it the incomplete beta function of its p-values alone, which no implementation "
        "can do without."
    )
    yield table(
        ("series", "a step, ms", "a series and step, microseconds", "p-values alone, ms"),
        (
            (
                f"{row['series']:,}",
                f"{1e3 * row['seconds']:.2f}",
                f"{1e6 * row['seconds'] / row['series']:.1f}",
                f"{1e3 * row['p_values']:.2f}",
            )
            for row in cost["rows"]
        ),
    )
