"""How far alerts can be trusted, measured: `python -m pipelines.alert_quality --output DIR`.

Simulated streams of known truth go through the monitor's own detector, volume bursts are scored as the Numenta
Anomaly Benchmark does, and the cost of a step is timed. What needs real volumes is left out, with a line that says
so, where these are absent.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import special

from monitor.config import SpikeSettings
from monitor.output import Misuse, progress_bar
from monitor.records import BUCKET, EVERYTHING, Counts, MonitorError, Series
from monitor.spikes import CALIBRATED_ALARMS, CALIBRATED_RATES, SLOPE, Detector
from monitor.volumes import Volumes
from pipelines import alarm_figures, alert_pictures, alert_report, documents, nab
from pipelines.alarms import Found, Job, Quiet, joined, kept, quiet, restarted, spiky
from pipelines.simulation import Scenario

FORMAT: Final = 1
REPORT: Final = "report.json"
DOCUMENT: Final = "report.md"
_TOPICS_A_STREAM: Final = 200
# Streams without spikes; B has more, as the p-value threshold is calibrated on it.
_QUIET_STREAMS: Final[dict[Scenario, int]] = {"A": 3, "B": 6, "R": 3}
_SPIKY_STREAMS: Final = 2
# Monitors that are asked for false alarms a week.
_PROMISE_TOPICS: Final = 30
_PROMISE_STREAMS: Final = 4
_ASKED: Final = (1.0, 5.0)
_COST_SERIES: Final = (30, 1_000, 10_000)
_COST_STEPS: Final = 40


def measure(
    volumes: Sequence[nab.LabelledSeries],
    *,
    workers: int,
    topics: int = _TOPICS_A_STREAM,
    bar: Progress | None = None,
) -> dict[str, Any]:
    """The report's figures; all but the cost are the same for the same arguments.

    Args:
        volumes: real counts, for scenario R and the benchmark; none: these are left out.
        topics: of each simulated stream.
    """
    bar = bar or Progress(disable=True)
    cost = _cost()  # before the workers take the processors
    with ProcessPoolExecutor(workers) as pool:
        restart = pool.submit(restarted, topics, 0)
        promised = [(job, pool.submit(kept, job, asked)) for job, asked in _promises(volumes)]
        watched = _watch(_jobs(volumes, topics), pool, bar)
    calibration, rows = alarm_figures.calibrate(joined(watched["B"][0]))
    found: dict[str, Any] = {
        "format": FORMAT,
        "topics_a_stream": topics,
        "scenarios": {
            name: {"quiet": alarm_figures.of_quiet(joined(parts)), "spikes": alarm_figures.of_spikes(spikes)}
            for name, (parts, spikes) in watched.items()
        },
        "calibration": {
            "fitted": asdict(calibration),
            "shipped": {"rates": CALIBRATED_RATES, "alarms": CALIBRATED_ALARMS, "slope": SLOPE},
            "rows": rows,
        },
        "promise": {
            "topics": _PROMISE_TOPICS,
            "rows": [
                {"scenario": name, **alarm_figures.of_kept([one for job, one in results if job.scenario == name])}
                for results in (
                    [(job, future.result()) for job, future in promised if future.result().asked == asked]
                    for asked in _ASKED
                )
                for name in watched
            ],
        },
        "restart": alarm_figures.of_restart(restart.result()) | {"days": SpikeSettings().baseline_days},
        "nab": _benchmark(volumes),
        "cost": cost,
    }
    found["bars"] = [asdict(one) | {"met": one.met} for one in alarm_figures.bars(found)]
    made: dict[str, Any] = documents.rounded(found)
    return made


def write(folder: Path, found: dict[str, Any]) -> None:
    """The report, its document and its pictures into `folder`."""
    documents.replace(
        folder,
        {
            **alert_pictures.draw(found),
            DOCUMENT: alert_report.render(found).encode(),
            REPORT: (json.dumps(found, indent=2, allow_nan=False) + "\n").encode(),
        },
    )


def told(counts: NDArray[np.float64], times: Sequence[datetime]) -> NDArray[np.float64]:
    """What the volume burst kind says of each record of one series, (records,); 0 where it is silent."""
    volumes = Volumes(SpikeSettings())
    volumes.grow(1)
    scores = np.zeros(len(counts))
    for index, (count, at) in enumerate(zip(counts, times, strict=True)):
        volumes.advance(np.array([count]), np.zeros(1), at)
        scores[index] = volumes.spoken[0, 0]
    return scores


def _jobs(volumes: Sequence[nab.LabelledSeries], topics: int) -> list[Job]:
    return [
        Job(scenario, topics, seed, spikes, _counts(volumes) if scenario == "R" else ())
        for scenario, streams in _QUIET_STREAMS.items()
        if scenario != "R" or volumes
        for spikes in (False, True)
        for seed in range(_SPIKY_STREAMS if spikes else streams)
    ]


def _counts(volumes: Sequence[nab.LabelledSeries]) -> tuple[NDArray[np.int64], ...]:
    return tuple(series.counts.astype(np.int64) for series in volumes)


def _promises(volumes: Sequence[nab.LabelledSeries]) -> list[tuple[Job, float]]:
    """Monitors of a usual size, and how many false alarms a week each is asked for."""
    scenarios: list[Scenario] = ["A", "B", "R"] if volumes else ["A", "B"]
    return [
        (Job(scenario, _PROMISE_TOPICS, 1_000 + seed, False, _counts(volumes) if scenario == "R" else ()), asked)
        for asked in _ASKED
        for scenario in scenarios
        for seed in range(_PROMISE_STREAMS)
    ]


def _watch(
    jobs: Sequence[Job], pool: ProcessPoolExecutor, bar: Progress
) -> dict[Scenario, tuple[list[Quiet], list[Found]]]:
    shown = bar.add_task("simulation", total=len(jobs))
    watched: dict[Scenario, tuple[list[Quiet], list[Found]]] = {job.scenario: ([], []) for job in jobs}
    for job, future in [(job, pool.submit(_one, job)) for job in jobs]:
        result = future.result()
        parts, spikes = watched[job.scenario]
        if isinstance(result, Quiet):
            parts.append(result)
        else:
            spikes += result
        bar.advance(shown)
    return watched


def _one(job: Job) -> Quiet | list[Found]:
    return spiky(job) if job.spikes else quiet(job)


def _benchmark(series: Sequence[nab.LabelledSeries]) -> dict[str, Any] | None:
    if not series:
        return None
    scores = {one.name: told(one.counts, one.times.to_pydatetime().tolist()) for one in series}
    shipped = SpikeSettings().volume_z
    return {
        "series": [one.name for one in series],
        "profiles": {name: asdict(nab.best(series, scores, profile)) for name, profile in nab.PROFILES.items()},
        "shipped": {
            name: asdict(nab.score_at(series, scores, shipped, profile)) for name, profile in nab.PROFILES.items()
        },
    }


def _cost() -> dict[str, Any]:
    """Seconds of a step of the detector, all kinds and readings included, beside those of its p-values alone."""
    rows = []
    for series in _COST_SERIES:
        rng = np.random.default_rng(series)
        detector = Detector(SpikeSettings(), false_alarms_per_week=1.0)
        names = [Series("entity", f"entity {index}") for index in range(series)]
        at = datetime(2024, 1, 1, tzinfo=UTC)
        seconds, bare = [], []
        for _ in range(_COST_STEPS):
            items = rng.poisson(5, series)
            counts = {
                name: Counts(int(n), int(k))
                for name, n, k in zip(names, items, rng.binomial(items, 0.25), strict=True)
            }
            counts[EVERYTHING] = sum(counts.values(), Counts())
            started = time.perf_counter()
            detector.update(counts, at)
            seconds.append(time.perf_counter() - started)
            at += BUCKET
            observed, window = detector.shares.observed + 1e-9, detector.shares.items
            started = time.perf_counter()
            special.betainc(observed, window - observed + 1, 0.25)
            bare.append(time.perf_counter() - started)
        rows.append({"series": series, "seconds": statistics.median(seconds), "p_values": statistics.median(bare)})
    return {"processor": f"{platform.machine()}, {os.cpu_count()} cores", "rows": rows}


def _volumes(folder: Path | None) -> list[nab.LabelledSeries]:
    """The series of the folder that was named, or of the one where they are looked for; none if that is absent."""
    if folder is not None:
        return nab.read(folder)
    usual = Path(os.environ.get("MONITOR_DATA", Path(__file__).parents[2] / "shared" / "data")) / "nab-open"
    if usual.is_dir():
        return nab.read(usual)
    typer.echo(
        f"scenario R and the benchmark are left out: no {usual}; name a checkout of the benchmark with --nab",
        err=True,
    )
    return []


def main(
    *,
    nab_folder: Annotated[
        Path | None,
        typer.Option("--nab", help="a checkout of the Numenta Anomaly Benchmark, or series and windows.json"),
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for the report and its pictures")] = Path("alert-quality"),
    topics: Annotated[int, typer.Option(min=10, help="topics of each simulated stream")] = _TOPICS_A_STREAM,
    workers: Annotated[int, typer.Option(min=1, help="processes to simulate with")] = 2,
) -> None:
    """Measure false alarms, recall, delay and cost, and write report.json, report.md and pictures."""
    started = time.perf_counter()
    try:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misuse(f"--output: {output} cannot be a folder ({error.strerror}); give another") from error
        with progress_bar("streams") as bar:
            found = measure(_volumes(nab_folder), workers=workers, topics=topics, bar=bar)
        write(output, found)
    except Misuse as error:
        typer.echo(f"alert-quality: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, OSError) as error:
        typer.echo(f"alert-quality: {error}", err=True)
        raise typer.Exit(1) from error
    Console().print(_table(found))
    typer.echo(f"{DOCUMENT}, {REPORT} and pictures are in {output}, after {time.perf_counter() - started:.0f} s")


def _table(found: dict[str, Any]) -> Table:
    table = Table("what", "measured", "bar", "", title="How far alerts can be trusted")
    for bar in found["bars"]:
        sign = "<=" if bar["at_most"] else ">="
        table.add_row(bar["what"], f"{bar['value']:.3g}", f"{sign} {bar['bar']:g}", "" if bar["met"] else "missed")
    return table


if __name__ == "__main__":
    typer.run(main)
