"""A monitor of its own in a folder, for the trial of the retraining loop: its settings, database, news and labels."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from monitor import config, history
from monitor.champion import describe, named_model
from monitor.engine import Engine
from monitor.labelling import parsed, take
from monitor.labels import Task
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.records import MonitorError, RawRecord, RecordError
from monitor.retraining import Retraining
from monitor.store import Store
from pipelines.services import Process

WEEKS: Final = 4
"""Of event time that a desk's news is spread over."""
LIVE_DEADLINE_S: Final = 1_800.0

_ROOT: Final = Path(__file__).parents[1]
_PART: Final = 256  # items that are processed, or labels that are stored, together
_LIVE_PART: Final = 32
_LABEL_AFTER: Final = timedelta(hours=6)


class TrialError(MonitorError):
    """The trial itself could not be held; what a retraining refuses is no error."""


class Desk:
    """A fresh monitor whose champion is the model given.

    Args:
        folder: is made, and must not be there yet.
        shared: where the champion's exported network is kept, `base.csv` and `reference.csv` lie.
        retrain: more lines of its table `retrain`.

    Raises:
        TrialError: the folder is there.
        CheckpointError: the model cannot be used.
    """

    def __init__(self, folder: Path, champion: Path, shared: Path, retrain: Sequence[str], now: datetime) -> None:
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise TrialError(
                f"{folder}: is there already; remove it, or give another folder with --output"
            ) from error
        self.folder = folder
        self.live = folder / "live.jsonl"
        self.live.touch()
        self.config = folder / "monitor.toml"
        lines = (
            "[model]",
            'path = "champion"',
            'backend = "onnx"',
            'device = "cpu"',
            f"cache_dir = {_quoted(shared / 'cache')}",
            "check_s = 1.0",
            '[source]\nkind = "file"',
            f"[file]\npath = {_quoted(self.live)}",
            f"[store]\nurl = {_quoted(f'sqlite:///{folder}/monitor.db')}",
            "[http]\nport = 0",
            "[retrain]",
            f"folder = {_quoted(folder / 'retraining')}",
            f"base_data = {_quoted(shared / 'base.csv')}",
            f"reference = {_quoted(shared / 'reference.csv')}",
            'device = "cpu"',
            "report_to = []",
            *retrain,
        )
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.settings = config.load(self.config)
        with self.store() as store:
            model = store.models.add(describe(champion, self.settings, now, lambda _: None))
            store.models.promote(model.version, seen=None, at=now, by="the trial", reason="it is to be beaten")

    def store(self) -> Store:
        return Store(self.settings.store.url)

    def read_news(self, titles: Sequence[str], now: datetime) -> dict[str, str]:
        """Have the engine read these titles, item `n0` and so on, evenly over the weeks before `now`.

        Returns:
            By item, the topic that the champion gave it.
        """
        file = self.folder / "news.jsonl"
        start, step = now - timedelta(weeks=WEEKS), timedelta(weeks=WEEKS) / len(titles)
        with file.open("w", encoding="utf-8") as news:
            news.writelines(_line(f"n{row}", title, start + row * step) for row, title in enumerate(titles))
        scorer = open_scorer(named_model(self.settings, lambda _: None))
        with self.store() as store:
            engine = Engine(self.settings, store, scorer, Metrics(), source="trial", reject=_refuse)
            items = history.read_history(file, {}, _refuse)
            steps = history.run(engine, history.by_count(items, _PART))
            return {entry.scored.item.id: entry.scored.topic for step in steps for entry in step.entries}

    def label(self, labels: Mapping[str, str], task: Task, now: datetime) -> None:
        """Store labels by item, by the way that all labels take, each given some hours after its item came."""
        with self.store() as store:
            at = {
                scored.item.id: scored.item.published_at + _LABEL_AFTER
                for _, scored in store.labels.scored(list(labels))
            }
            records = [
                json.dumps(
                    {
                        "id": item,
                        "task": task,
                        "label": label,
                        "by": "the trial",
                        "at": min(at[item], now).isoformat(),
                    }
                ).encode()
                for item, label in labels.items()
            ]
            for start in range(0, len(records), _PART):
                receipt = take(store, [parsed(raw, now) for raw in records[start : start + _PART]], now)
                for error in receipt.rejected.values():
                    raise TrialError(f"{self.folder}: a label was rejected: {error}")

    def command(self) -> list[str]:
        """That runs a retraining in a process of its own."""
        return [sys.executable, "-m", "pipelines.retrain", "--config", str(self.config)]

    def retrain(self) -> Retraining:
        """Run the steps of a retraining that a process of its own does.

        Raises:
            TrialError: the process failed.
        """
        log = self.folder / "retrain.log"
        with log.open("ab") as output:
            status = subprocess.run(  # noqa: S603
                self.command(), stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=_ROOT, check=False
            ).returncode
        row = self.newest()
        if row is None or (status != 0 and row.outcome != "failed"):
            raise TrialError(
                f"python -m pipelines.retrain ended with {status}; the end of {log}:\n{log.read_text()[-2000:]}"
            )
        return row

    def newest(self) -> Retraining | None:
        """The newest retraining as it stands."""
        with self.store() as store:
            return next(iter(store.retrainings.newest(1)), None)

    def go_live(self, titles: Sequence[str]) -> Retraining:
        """Run the daemon on these titles, again and again as new items, until the retraining has ended.

        Raises:
            RuntimeError: the daemon ended before, or the retraining did not end within `LIVE_DEADLINE_S`.
        """
        daemon = Process(
            [sys.executable, "-m", "monitor", "run", "--config", str(self.config)], self.folder / "daemon.log"
        )
        sent = 0

        def ended() -> bool:
            nonlocal sent
            row = self.newest()
            if row is not None and row.outcome is not None:
                return True
            with self.live.open("a", encoding="utf-8") as news:
                for number in range(sent, sent + _LIVE_PART):
                    news.write(_line(f"live-{number}", titles[number % len(titles)], datetime.now(UTC)))
            sent += _LIVE_PART
            return False

        try:
            daemon.wait_until(ended, "the retraining on live news", LIVE_DEADLINE_S, every_s=0.25)
        finally:
            daemon.stop()
        row = self.newest()
        assert row is not None  # noqa: S101  (it has ended)
        return row

    def wait_for_training(self, process: Process) -> None:
        """Until the retraining that `process` runs is at work on the network.

        Raises:
            RuntimeError: it ended before.
        """

        def trains() -> bool:
            row = self.newest()
            return row is not None and row.step == "train" and (row.folder / "model" / "run").exists()

        process.wait_until(trains, "the retraining", within_s=600)
        time.sleep(2)  # the first step compiles and warms up


def _line(item: str, title: str, published_at: datetime) -> str:
    record = {"id": item, "title": title, "published_at": published_at.isoformat()}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _quoted(value: Path | str) -> str:
    """As a string of TOML, which JSON's strings are."""
    return json.dumps(str(value), ensure_ascii=False)


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error
