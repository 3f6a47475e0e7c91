"""What the daemon starts: real processes, a real database, and a clock that the test sets."""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor import config
from monitor.config import DriftSettings, ModelSettings, RetrainSettings, Settings, StoreSettings
from monitor.daemon import Daemon
from monitor.metrics import Metrics
from monitor.models import Model
from monitor.retraining import SILENT_AFTER, Retraining, Step
from monitor.retraining_schedule import RetrainingSchedule, pipeline_commands, recurring
from monitor.store import Store
from tests.support import until
from tests.test_stored_schedule import make_due, now, stored

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SLEEPS = "import time; print('at work', flush=True); time.sleep(600)"
FAILS = "raise SystemExit('no labels')"


def _settings(folder: Path, **retrain: object) -> Settings:
    given = {"schedule": "0 3 1 jan *", "folder": folder / "retraining", **retrain}
    return Settings(
        model=ModelSettings(path="champion"),
        store=StoreSettings(url=f"sqlite:///{folder / 'news.db'}"),
        retrain=RetrainSettings(**given),  # type: ignore[arg-type]
        drift=DriftSettings(enabled=True),
    )


class _World:
    """A schedule whose pipelines are scripts."""

    def __init__(self, folder: Path, life: ExitStack, script: str = SLEEPS) -> None:
        self.now = NOON
        self.settings = _settings(folder)
        self.store = life.enter_context(Store(self.settings.store.url))
        for version in ("a", "b"):
            model = Model(version=version, folder=folder / version, files={"model.json": version}, added_at=NOON)
            self.store.models.add(model)
        self.metrics = Metrics()
        self.metrics.retraining.prepare()
        self.log = folder / "retraining" / "retrain.log"
        command = [sys.executable, "-c", script]
        self.schedule = RetrainingSchedule(
            self.settings, self.store, self.metrics, {"retrain": command, "drift": command}, lambda: self.now
        )
        life.enter_context(self.schedule.running())

    def begin(self, step: Step = "snapshot") -> Retraining:
        begun = self.store.retrainings.begin(
            "hand", by="one:1", champion="a", folder=self.settings.retrain.folder, now=self.now
        )
        return self.store.retrainings.advance(begun, self.now, step=step)

    def counts(self, pipeline: str = "retrain") -> dict[str, float]:
        """How often it was started, skipped ..., without zeros."""
        return {
            sample.labels["outcome"]: sample.value
            for family in self.metrics.retraining.pipelines.collect()
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels["pipeline"] == pipeline and sample.value
        }

    def starts(self) -> int:
        return self.log.read_text().count("at work") if self.log.exists() else 0


@pytest.fixture
def life() -> Iterator[ExitStack]:
    with ExitStack() as life:
        yield life


def test_what_is_due_when_follows_the_settings(tmp_path: Path) -> None:
    settings = _settings(tmp_path, timezone="Europe/London", misfire_hours=1.5)
    wanted = recurring(settings)
    assert (wanted["retrain"].cron, wanted["retrain"].zone) == ("0 3 1 jan *", "Europe/London")
    assert wanted["retrain"].grace == timedelta(minutes=90)
    assert (wanted["drift"].cron, wanted["drift"].zone) == ("30 1 * * *", "UTC")
    assert recurring(config.defaults()) == {}


def test_pipelines_are_started_with_the_settings_of_the_daemon() -> None:
    commands = pipeline_commands(Path("deploy/monitor.toml"))
    file = str(Path("deploy/monitor.toml").resolve())
    assert commands["retrain"] == [
        *(sys.executable, "-m", "pipelines.retrain", "--config", file, "--trigger", "schedule")
    ]
    assert commands["drift"] == [sys.executable, "-m", "pipelines.drift", "--config", file]
    assert "--config" not in pipeline_commands(None)["retrain"]


def test_a_retraining_that_is_due_is_started_once_and_stopped_with_the_daemon(tmp_path: Path) -> None:
    with ExitStack() as life:
        world = _World(tmp_path, life)
        make_due(world.settings.store.url, "retrain", now() - MINUTE)
        world.schedule.look()
        until(world.starts)
        world.schedule.due("retrain")
        assert world.counts() == {"started": 1, "skipped": 1}
    assert world.starts() == 1
    assert world.counts() == {"started": 1, "skipped": 1}, "to be stopped is no failure"


def test_drift_has_a_process_and_a_log_of_its_own(tmp_path: Path, life: ExitStack) -> None:
    world = _World(tmp_path, life)
    world.schedule.due("retrain")
    world.schedule.due("drift")
    until(lambda: "at work" in (tmp_path / "retraining" / "drift.log").read_text())
    assert world.counts("drift") == {"started": 1}


@pytest.mark.parametrize("step", ["train", "shadow", "watch"])
def test_none_is_started_while_another_goes_on(
    tmp_path: Path, life: ExitStack, caplog: pytest.LogCaptureFixture, step: Step
) -> None:
    world = _World(tmp_path, life)
    world.begin(step)
    if step != "train":  # what is live is no process's, so that it may be silent
        world.now += timedelta(days=1)
    world.schedule.due("retrain")
    assert world.counts() == {"skipped": 1}
    assert f"a retraining is due and skipped: retraining 1 goes on since 2026-03-10 12:00 UTC, at step '{step}'" in (
        caplog.text
    )
    assert world.starts() == 0


def test_one_whose_process_is_silent_is_gone_on_with(tmp_path: Path, life: ExitStack) -> None:
    world = _World(tmp_path, life)
    world.begin("train")
    world.now += SILENT_AFTER - timedelta(seconds=1)
    world.schedule.due("resume")
    assert world.counts() == {}
    world.now += timedelta(seconds=1)
    world.schedule.due("resume")
    until(world.starts)
    world.schedule.due("resume")
    assert world.counts() == {"resumed": 1}, "it is at work already"


@pytest.mark.parametrize("step", ["shadow", "watch"])
def test_one_that_is_live_is_left_to_the_daemons(tmp_path: Path, life: ExitStack, step: Step) -> None:
    world = _World(tmp_path, life)
    world.begin(step)
    world.now += timedelta(days=1)
    world.schedule.due("resume")
    assert world.counts() == {}


def test_one_that_is_not_heard_of_after_three_starts_is_left_alone(
    tmp_path: Path, life: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world = _World(tmp_path, life, FAILS)
    begun = world.begin("train")
    world.now += SILENT_AFTER
    for times in (1, 2, 3):
        world.schedule.due("resume")
        until(lambda times=times: world.schedule.look() or world.counts().get("failed") == times)
    world.schedule.due("resume")
    world.schedule.due("resume")
    assert world.counts() == {"resumed": 3, "failed": 3}
    assert caplog.text.count("retraining 1 is left alone, its process was started 3 times and not heard of") == 1

    world.store.retrainings.beat(begun, world.now)
    world.now += SILENT_AFTER
    world.schedule.due("resume")
    assert world.counts()["resumed"] == 4, "it was heard of since, so it is worth another try"


def test_a_process_that_cannot_be_started_is_counted_and_told(
    tmp_path: Path, life: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world = _World(tmp_path, life)
    (tmp_path / "retraining").write_text("a file where the folder should be")
    world.schedule.due("retrain")
    assert world.counts() == {"failed": 1}
    assert "retrain is due and cannot be started: " in caplog.text


def test_what_was_missed_is_counted_and_told(
    tmp_path: Path, life: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world = _World(tmp_path, life)
    world.schedule.missed("retrain", NOON)
    assert world.counts() == {"missed": 1}
    assert "retrain was due at 2026-03-10 12:00 UTC, which is too long ago" in caplog.text


def test_the_daemon_starts_what_is_due_and_stops_it_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "news.jsonl").write_text('{"title": "Bank cuts rates", "published_at": "2023-03-10T16:42:07Z"}\n')
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").touch()
    script = f"import sys; print(sys.argv[1:], flush=True)\n{SLEEPS}\n"
    (tmp_path / "pipelines" / "retrain.py").write_text(script)
    file = tmp_path / "monitor.toml"
    file.write_text(
        f'[model]\npath = "champion"\n[store]\nurl = "sqlite:///{tmp_path}/news.db"\n[http]\nport = 0\n'
        f'[source]\nkind = "file"\n[file]\npath = "{tmp_path}/news.jsonl"\nfollow = true\n'
        f'[retrain]\nschedule = "0 3 1 jan *"\nfolder = "{tmp_path}/retraining"\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where the process finds the pipeline that stands for ours
    monkeypatch.chdir(tmp_path)
    settings = config.load(file)

    def run(metrics: Metrics, meanwhile: str) -> None:
        daemon = Daemon(settings, metrics, io.StringIO(), config_path=Path("monitor.toml"))
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            until(lambda: meanwhile in caplog.text)
            if log.parent.exists():
                until(lambda: "at work" in log.read_text())
        finally:
            daemon.stop()
            thread.join(timeout=30)
        assert not thread.is_alive()

    log = tmp_path / "retraining" / "retrain.log"
    with caplog.at_level(logging.INFO):
        run(Metrics(), "scheduled: retrain next at ")
        make_due(settings.store.url, "retrain", now() - MINUTE)
        run(Metrics(), "retrain: started as process ")
    assert log.read_text().splitlines() == [str(["--config", str(file), "--trigger", "schedule"]), "at work"]
    assert "retrain: stopping its process, which can go on later" in caplog.text

    unscheduled = settings.model_copy(update={"retrain": RetrainSettings(folder=tmp_path / "retraining")})
    unscheduled = unscheduled.model_copy(
        update={"file": config.FileSettings(path=tmp_path / "news.jsonl", follow=False)}
    )
    Daemon(unscheduled, Metrics(), io.StringIO(), config_path=file).run()
    assert stored(settings.store.url) == {}
