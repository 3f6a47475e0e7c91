"""A new champion while the daemon runs: taken up between batches, or refused, and no item the worse for it."""

import gc
import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import safetensors.numpy

from monitor.champion import Succession, check_fit, describe, file_state, named_model, verify
from monitor.config import (
    EntitySettings,
    FileSettings,
    HttpSettings,
    ModelSettings,
    OverrideSettings,
    Settings,
    SilenceSettings,
    SourceSettings,
    StoreSettings,
)
from monitor.daemon import Daemon
from monitor.engine import Engine
from monitor.following import follow
from monitor.metrics import Metrics
from monitor.model import checkpoint
from monitor.model.encoder import CheckpointError
from monitor.model.scorer import open_scorer
from monitor.models import Model, Models
from monitor.records import EVERYTHING, Batch, PositionUpdate, RawRecord, Series
from monitor.store import Store
from tests import tiny_model
from tests.support import WordScorer, running, until

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = datetime(2023, 3, 10, tzinfo=UTC)
SHIPPED = checkpoint.read("default").info


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of other weights and topics than the shipped one, `one` and `two`."""
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny_model.write_encoder(folder / "encoder")
    for seed, name in enumerate(("one", "two"), start=1):
        tiny_model.write_checkpoint(folder / name, tiny_model.network(encoder, seed=seed), encoder)
    return folder


def _settings(tmp_path: Path, backend: str = "torch", follows: bool = True, **sections: Any) -> Settings:
    return Settings(
        source=SourceSettings(kind="file", batch_items=16),
        file=FileSettings(path=tmp_path / "news.jsonl", follow=follows),
        model=ModelSettings(path="champion", backend=backend, device="cpu", check_s=0.05),
        store=StoreSettings(url=f"sqlite:///{tmp_path / 'monitor.db'}"),
        http=HttpSettings(port=0),
        **sections,
    )


def _add(settings: Settings, folder: Path | str) -> Model:
    with Store(settings.store.url) as store:
        return store.models.add(describe(Path(folder), settings, NOW, lambda _: None))


def _promote(settings: Settings, model: Model) -> None:
    with Store(settings.store.url) as store:
        store.models.promote(model.version, seen=store.models.champion(), at=NOW, by="anna@desk")


def _copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def _value(metrics: Metrics, metric: str, /, **labels: str) -> float:
    return metrics.registry.get_sample_value(metric, labels) or 0.0


def _swaps(metrics: Metrics) -> tuple[float, float]:
    return tuple(_value(metrics, "sentiment_model_swaps_total", outcome=one) for one in ("swapped", "refused"))  # type: ignore[return-value]


def _models_shown(metrics: Metrics) -> list[str]:
    exposed, _ = metrics.exposition("")
    return re.findall(r'^sentiment_model_info\{.*model="([^"]+)".*\} 1\.0$', exposed.decode(), re.MULTILINE)


class News:
    """A file that grows until it is told to stop."""

    def __init__(self, path: Path) -> None:
        self.written = 0
        self._path = path
        self._enough = threading.Event()
        path.touch()

    def add(self, records: int) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for number in range(self.written, self.written + records):
                published = (DAY + timedelta(seconds=number)).isoformat()
                file.write(
                    json.dumps({"id": f"n{number}", "title": f"Bank {number} posts", "published_at": published})
                )
                file.write("\n")
        self.written += records

    @contextmanager
    def growing(self) -> Iterator[None]:
        def grow() -> None:
            while not self._enough.wait(0.01):
                self.add(5)

        writer = threading.Thread(target=grow)
        writer.start()
        try:
            yield
        finally:
            self._enough.set()
            writer.join()


def _stored(tmp_path: Path) -> list[tuple[int, str, str]]:
    """(offset, id, model) of every item, in the order of the file."""
    with sqlite3.connect(tmp_path / "monitor.db") as database:
        return database.execute('SELECT "offset", id, model FROM items ORDER BY "offset"').fetchall()


def _runs(tmp_path: Path) -> list[str]:
    return [model for model, _ in groupby(_stored(tmp_path), key=lambda row: row[2])]


def test_under_load_each_item_is_stored_once_by_one_model_after_the_other(trained: Path, tmp_path: Path) -> None:
    #  shipped |------------|
    #  one                  |-----------|           |--------
    #  two                              |-----------|            rolled back
    settings, metrics = _settings(tmp_path, backend="auto"), Metrics()
    one, two = (_add(settings, trained / name) for name in ("one", "two"))
    news = News(tmp_path / "news.jsonl")

    def some_by(version: str, swaps: int) -> None:
        until(lambda: _swaps(metrics) == (swaps, 0))
        assert _models_shown(metrics) == [version]
        until(lambda: sum(model == version for _, _, model in _stored(tmp_path)[-50:]) == 50)

    with running(settings, metrics):
        with news.growing():
            until(lambda: (tmp_path / "monitor.db").exists() and len(_stored(tmp_path)) > 50)
            assert _models_shown(metrics) == [SHIPPED.version]
            _promote(settings, one)
            some_by(one.version, 1)
            _promote(settings, two)
            some_by(two.version, 2)
            with Store(settings.store.url) as store:
                store.models.roll_back(seen=store.models.champion(), at=NOW, by="anna@desk")
            some_by(one.version, 3)
        until(lambda: len(_stored(tmp_path)) == news.written)
    stored = _stored(tmp_path)
    assert [(offset, name) for offset, name, _ in stored] == [(n, f"n{n}") for n in range(news.written)]
    assert _runs(tmp_path) == [SHIPPED.version, one.version, two.version, one.version]
    assert (
        _value(metrics, "sentiment_repeated_items_total"),
        _value(metrics, "sentiment_batches_given_up_total"),
    ) == (
        0,
        0,
    )
    with Store(settings.store.url) as store:
        counted = sum(counts.items for _, _, counts in store.buckets(DAY, DAY + timedelta(days=9), EVERYTHING))
    assert counted == news.written


def test_a_stop_while_a_champion_is_being_prepared_does_not_wait_for_it(trained: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    one = _add(settings, trained / "one")
    News(tmp_path / "news.jsonl")
    cache = tmp_path / "cache"
    cache.mkdir()
    for exported in platformdirs.user_cache_path("sentiment-monitor").glob(f"{SHIPPED.version}-*.onnx"):
        shutil.copy(exported, cache)
    config, log = tmp_path / "monitor.toml", tmp_path / "log"
    config.write_text(
        f'[source]\nkind = "file"\n[file]\npath = "{tmp_path}/news.jsonl"\n[http]\nport = 0\n'
        f'[store]\nurl = "{settings.store.url}"\n'
        f'[model]\npath = "champion"\nbackend = "onnx"\ncache_dir = "{cache}"\ncheck_s = 0.1\n'
    )
    with log.open("w") as told:
        command = [sys.executable, "-m", "monitor", "run", "--config", str(config)]
        process = subprocess.Popen(command, stdout=told, stderr=told)
    try:
        until(lambda: "reading file:" in log.read_text(), within_s=120)
        _promote(settings, one)
        until(lambda: f"exporting model {one.version}" in log.read_text())
        started_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()
        assert time.monotonic() - started_s < 10
    finally:
        process.kill()
        process.wait()
    assert "stopped, with nothing half-written" in log.read_text()
    assert "takes over" not in log.read_text(), "it was to be stopped before"


def test_without_a_champion_the_shipped_model_scores_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(tmp_path, follows=False)
    News(tmp_path / "news.jsonl").add(3)
    with caplog.at_level("INFO"):
        Daemon(settings, Metrics(), io.StringIO()).run()
    assert _runs(tmp_path) == [SHIPPED.version]
    assert "no model was promoted in the registry yet, so the shipped one scores" in caplog.messages


def test_a_restart_goes_on_with_the_champion(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path, follows=False), Metrics()
    one = _add(settings, trained / "one")
    _promote(settings, one)
    News(tmp_path / "news.jsonl").add(3)
    Daemon(settings, metrics, io.StringIO()).run()
    assert _runs(tmp_path) == [one.version]
    assert (_models_shown(metrics), _swaps(metrics)) == ([one.version], (0, 0))


def test_a_daemon_does_not_start_with_a_champion_that_cannot_be_used(trained: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, follows=False)
    one = _add(settings, _copied(trained / "one", tmp_path / "one"))
    _promote(settings, one)
    (tmp_path / "one" / "weights.safetensors").unlink()
    News(tmp_path / "news.jsonl")
    with pytest.raises(CheckpointError, match=r"one/weights\.safetensors: cannot be read"):
        Daemon(settings, Metrics(), io.StringIO()).run()


def _changed(folder: Path) -> None:
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    safetensors.numpy.save_file({name: value + 1 for name, value in weights.items()}, folder / "weights.safetensors")


def _recalibrated(folder: Path) -> None:
    info = checkpoint.read(folder).info
    checkpoint.write_info(folder, replace(info, temperatures={"topic": 2.0, "sentiment": 2.0}))


DAMAGES = {
    "changed weights": (_changed, r"one/weights\.safetensors: changed since model .* was added on 2026-11-24 12:00"),
    "changed description": (_recalibrated, r"one/model\.json: changed since model"),
    "missing weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        r"one/weights\.safetensors: cannot",
    ),
    "missing folder": (shutil.rmtree, r"one/model\.json: cannot be read"),
}
Damage = Callable[[Path], None]


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_champion_whose_files_are_not_those_that_were_added_is_refused_once_and_the_old_one_goes_on(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, message: str
) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one = _add(settings, _copied(trained / "one", tmp_path / "one"))
    two = _add(settings, trained / "two")
    _promote(settings, two)
    damage(tmp_path / "one")
    news = News(tmp_path / "news.jsonl")
    with running(settings, metrics), news.growing():
        until(lambda: (tmp_path / "monitor.db").exists() and _stored(tmp_path))
        _promote(settings, one)
        until(lambda: _swaps(metrics) == (0, 1))
        seen = len(_stored(tmp_path))
        until(lambda: len(_stored(tmp_path)) > seen + 50)
        assert _models_shown(metrics) == [two.version]
    assert _runs(tmp_path) == [two.version]
    assert _swaps(metrics) == (0, 1)
    [told] = [each for each in caplog.messages if "is refused" in each]
    assert re.search(rf"^champion {one.version} is refused, model {two.version} goes on: .*{message}", told)


def _refused(settings: Settings, first: Model, second: Model, caplog: pytest.LogCaptureFixture) -> str:
    """Why the second model is refused where the first one scores."""
    metrics = Metrics()
    _promote(settings, first)
    with Store(settings.store.url) as store:
        succession = Succession(settings, store.models, metrics)
        succession.first()
        _promote(settings, second)
        succession.look()
        succession.look()
        assert succession.take() is None
        assert (_models_shown(metrics), _swaps(metrics)) == ([first.version], (0, 1))
    [message] = [each for each in caplog.messages if "is refused" in each]
    return message


LASTS = {"starts_at": NOW, "ends_at": NOW + timedelta(days=1)}
NAMES = {
    "override": ({"overrides": (OverrideSettings(name="IPO", kinds=()),)}, r"overrides\[0\]\.name: 'IPO' is not"),
    "silence": ({"silences": (SilenceSettings(name="IPO", comment="x", **LASTS),)}, r"silences\[0\]\.name: 'IPO'"),  # type: ignore[arg-type]
    "watched entity": (
        {"watchlist": (EntitySettings(name="Shell", topics=("IPO",)),)},
        r"watchlist, 'Shell': topics: 'IPO' is not a topic of the model, expected one of Earnings, Energy",
    ),
}


@pytest.mark.parametrize(("sections", "message"), NAMES.values(), ids=NAMES)
def test_a_champion_without_a_topic_that_the_settings_name_is_refused_and_cannot_be_promoted_with_them(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, sections: dict[str, Any], message: str
) -> None:
    settings = _settings(tmp_path, **sections)
    one, shipped = _add(settings, trained / "one"), _add(settings, "default")
    assert re.search(message, _refused(settings, shipped, one, caplog))
    with pytest.raises(Exception, match=message):
        check_fit(one, settings)
    check_fit(shipped, settings)


def test_a_champion_that_gives_no_probabilities_is_refused(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Weights that overflow leave files that are whole, and answers that are not.
    folder = _copied(trained / "one", tmp_path / "nan")
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    safetensors.numpy.save_file(
        {name: value * np.nan for name, value in weights.items()}, folder / "weights.safetensors"
    )
    info = checkpoint.read(folder).info
    files = checkpoint.file_hashes(folder)
    checkpoint.write_info(folder, replace(info, version="nan", weights_sha256=files["weights.safetensors"]))
    settings = _settings(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"nan: task 'topic' gives no probabilities, its weights are not finite"
    ):
        _add(settings, folder)
    with Store(settings.store.url) as store:
        broken = store.models.add(
            Model(version="nan", folder=folder, files=checkpoint.file_hashes(folder), added_at=NOW)
        )
    assert "gives no probabilities" in _refused(settings, _add(settings, trained / "two"), broken, caplog)


def test_what_was_refused_is_tried_again_only_when_the_registry_changes(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one = _add(settings, _copied(trained / "one", tmp_path / "one"))
    two = _add(settings, trained / "two")
    _promote(settings, two)
    with Store(settings.store.url) as store:
        succession = Succession(settings, store.models, metrics)
        succession.first()
        description = (tmp_path / "one" / "model.json").read_bytes()
        _recalibrated(tmp_path / "one")
        _promote(settings, one)
        succession.look()
        (tmp_path / "one" / "model.json").write_bytes(description)
        succession.look()
        assert (succession.take(), _swaps(metrics)) == (None, (0, 1))
        store.models.roll_back(seen=store.models.champion(), at=NOW, by="anna@desk")
        succession.look()
        assert (succession.take(), _swaps(metrics)) == (None, (0, 1)), "what scores needs no swap"
        _promote(settings, one)
        succession.look()
        successor = succession.take()
        assert successor is not None
        assert (successor.scorer.version, _swaps(metrics)) == (one.version, (1, 1))


def test_a_champion_that_was_rolled_back_before_it_was_taken_is_not_taken(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one, two = (_add(settings, trained / name) for name in ("one", "two"))
    _promote(settings, two)
    with Store(settings.store.url) as store:
        succession = Succession(settings, store.models, metrics)
        succession.first()
        _promote(settings, one)
        succession.look()
        assert succession.waits
        store.models.roll_back(seen=store.models.champion(), at=NOW, by="anna@desk")
        succession.look()
        assert not succession.waits
    assert (_models_shown(metrics), _swaps(metrics)) == ([two.version], (0, 0))


def test_a_champion_that_was_rolled_back_while_it_was_opened_is_not_taken(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one, two = _add(settings, trained / "one"), _add(settings, trained / "two")
    _promote(settings, one)
    with Store(settings.store.url) as store:

        class TakenBack(Models):
            """The registry, with somebody who takes a promotion back as soon as a daemon begins to look into it."""

            def get(self, version: str) -> Model:
                if version == two.version:
                    store.models.roll_back(seen=store.models.champion(), at=NOW, by="anna@desk")
                return super().get(version)

        succession = Succession(settings, TakenBack(store._database), metrics)
        succession.first()
        _promote(settings, two)
        succession.look()
        assert (succession.waits, succession.take()) == (False, None)
        succession.look()
        assert (succession.take(), _swaps(metrics)) == (None, (0, 0))


def test_a_registry_that_cannot_be_read_is_read_at_the_next_look(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one = _add(settings, trained / "one")
    with Store(settings.store.url) as store:
        succession = Succession(settings, store.models, metrics)
        succession.first()
        _promote(settings, one)
        with sqlite3.connect(tmp_path / "monitor.db") as other:
            other.execute("ALTER TABLE promotions RENAME TO away")
        other.close()
        succession.look()
        assert not succession.waits
        with sqlite3.connect(tmp_path / "monitor.db") as other:
            other.execute("ALTER TABLE away RENAME TO promotions")
        other.close()
        succession.look()
        assert succession.waits
    assert _swaps(metrics) == (0, 0)


def test_a_model_that_was_replaced_leaves_memory(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path), Metrics()
    one, two = (_add(settings, trained / name) for name in ("one", "two"))
    _promote(settings, two)
    with Store(settings.store.url) as store:
        succession = Succession(settings, store.models, metrics)
        engine = Engine(settings, store, succession.first(), metrics, source="memory", reject=lambda *_: None)
        replaced = weakref.ref(engine.scorer)
        _promote(settings, one)
        succession.look()
        successor = succession.take()
        assert successor is not None
        engine.adopt(successor.scorer, successor.followed)
        gc.collect()
        assert replaced() is None
        assert engine.scorer.version == one.version


def test_an_engine_that_adopts_a_model_follows_and_shows_its_topics_alone(trained: Path, tmp_path: Path) -> None:
    settings, metrics = _settings(tmp_path, watchlist=(EntitySettings(name="Shell"),)), Metrics()
    with Store("sqlite://") as store:
        engine = Engine(settings, store, WordScorer(), metrics, source="memory", reject=lambda *_: None)
        _feed(engine, ["Macro: Shell does well", "Financials: fine"], 0)
        engine.finish()
        shown = {"dimension": "topic", "window": "1h"}
        assert _value(metrics, "sentiment_window_items", name="Macro", **shown) == 1
        scorer = open_scorer(replace(settings.model, path=str(trained / "one")))
        engine.adopt(scorer, follow(settings, scorer.topics))
        names = [series.name for series in engine.series]
        assert names == ["Everything", "Earnings", "Energy", "Financials", "Shell"]
        read = metrics.registry.get_sample_value
        assert read("sentiment_window_items", {"name": "Macro", **shown}) is None
        assert read("sentiment_window_items", {"name": "Energy", **shown}) == 0
        # What is stored is stored: the windows, and what is usual, go on from there.
        assert read("sentiment_window_items", {"name": "Financials", **shown}) == 1
        assert read("sentiment_window_items", {**shown, "dimension": "entity", "name": "Shell"}) == 1
        assert read("sentiment_items_total", {"topic": "Energy", "sentiment": "negative"}) == 0
        _feed(engine, ["Shell raises rates"], 2)
        engine.finish()
        assert store.models_seen(Series("entity", "Shell"), DAY, DAY + timedelta(days=1)) == (
            scorer.version,
            "words-1",
        )


def _feed(engine: Engine, titles: list[str], start: int) -> None:
    at = (DAY + timedelta(minutes=start)).isoformat()
    records = tuple(
        RawRecord(0, start + n, json.dumps({"title": title, "published_at": at}).encode())
        for n, title in enumerate(titles)
    )
    position = PositionUpdate(0, start or None, start + len(titles))
    engine.process(Batch(records, (position,)), DAY + timedelta(minutes=start))


def test_the_state_of_a_models_files_is_what_they_are(trained: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    one = _add(settings, _copied(trained / "one", tmp_path / "one"))
    verify(one)
    states = [file_state(one)]
    _recalibrated(one.folder)
    states.append(file_state(one))
    (one.folder / "weights.safetensors").unlink()
    states.append(file_state(one))
    assert states == ["complete", "changed", "missing"]


def test_weights_that_are_not_those_of_the_description_are_not_added(trained: Path, tmp_path: Path) -> None:
    folder = _copied(trained / "one", tmp_path / "one")
    settings = _settings(tmp_path, backend="onnx")
    _add(settings, folder)  # exported by now, so that opening it does not read the weights
    _changed(folder)
    with pytest.raises(CheckpointError, match=r"one/weights\.safetensors: SHA-256 is .*, the model was saved with"):
        _add(settings, folder)


def test_commands_find_the_champion_in_the_registry(trained: Path, tmp_path: Path) -> None:
    settings, told = _settings(tmp_path), []
    assert named_model(settings, told.append).path == str(checkpoint.DEFAULT)
    one = _add(settings, trained / "one")
    _promote(settings, one)
    assert named_model(settings, told.append) == replace(settings.model, path=str(one.folder))
    assert told == [
        "no model was promoted in the registry yet, so the shipped one scores",
        f"model {one.version} is the champion since 2026-11-24 12:00 UTC",
    ]
    plain = settings.model_copy(update={"model": ModelSettings(path="runs/mine")})
    assert named_model(plain, told.append) is plain.model
    assert len(told) == 2
