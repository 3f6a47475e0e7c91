"""A challenger beside the champion: compared, promoted, watched, kept or taken back, by real daemons and models."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from monitor.champion import Succession, describe
from monitor.config import FileSettings, HttpSettings, ModelSettings, Settings, SourceSettings, StoreSettings
from monitor.measures import sampled
from monitor.metrics import Metrics
from monitor.model import checkpoint
from monitor.model.scorer import Scorer, open_scorer
from monitor.models import Model
from monitor.records import Entry, NewsItem
from monitor.retrain_settings import RetrainSettings
from monitor.retraining import Comparison, Phase, Retraining
from monitor.shadow import NICENESS, Shadow
from monitor.spike_settings import SpikeSettings
from monitor.store import Store
from monitor.stored_retrainings import LostRetraining
from tests import tiny_model
from tests.support import running, until

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = datetime(2023, 3, 10, tzinfo=UTC)
GOLD = tiny_model.WORDS.index("gold") + 4  # after the four special tokens


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: `base`; `alike`, which says the same; `other`, which does not; and `turned`, which says the same
    until there is gold in the news, which it takes for negative."""
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny_model.write_encoder(folder / "encoder")
    changed = Path(shutil.copytree(encoder, folder / "changed"))
    weights = safetensors.numpy.load_file(changed / "model.safetensors")
    [words] = [name for name in weights if "word_embeddings" in name]
    weights[words] = weights[words].copy()
    weights[words][GOLD] = np.random.default_rng(3).normal(size=32) * 3
    safetensors.numpy.save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    for name, its_encoder, seed in (
        ("base", encoder, 5),
        ("alike", encoder, 5),
        ("other", encoder, 8),
        ("turned", changed, 5),
    ):
        tiny_model.write_checkpoint(folder / name, tiny_model.network(its_encoder, seed=seed), its_encoder)
        info = checkpoint.read(folder / name).info
        temperature = 0.205 if name == "alike" else 0.2
        temperatures = {"topic": temperature, "sentiment": temperature}
        checkpoint.write_info(folder / name, replace(info, version=name, temperatures=temperatures))
    return folder


def _settings(tmp_path: Path, cache: Path | None = None, **retrain: Any) -> Settings:
    """With torch; with a cache with ONNX Runtime, which a process starts with in a moment."""
    usual: dict[str, Any] = {"shadow_share": 0.5, "shadow_items": 150, "watch_items": 150}
    return Settings(
        source=SourceSettings(kind="file", batch_items=16),
        file=FileSettings(path=tmp_path / "news.jsonl", follow=True),
        model=ModelSettings(
            path="champion", backend="onnx" if cache else "torch", device="cpu", check_s=0.05, cache_dir=cache
        ),
        store=StoreSettings(url=f"sqlite:///{tmp_path / 'monitor.db'}"),
        http=HttpSettings(port=0),
        retrain=RetrainSettings(**usual | retrain),
    )


def _add(settings: Settings, store: Store, folder: Path) -> Model:
    return store.models.add(describe(folder, settings, NOW, lambda _: None))


def _at_shadow(settings: Settings, store: Store, trained: Path, challenger: str, *, promoted: bool = True) -> None:
    """A retraining that was to beat `base`, and left this challenger."""
    for name in ("base", challenger):
        _add(settings, store, trained / name)
    if promoted:
        store.models.promote("base", seen=None, at=NOW, by="anna@desk")
    begun = store.retrainings.begin("hand", by="one:1", champion="base", folder=trained, now=NOW)
    store.retrainings.advance(begun, NOW, step="shadow", challenger=challenger)


class News:
    """A file of headlines that grows until it is told to stop."""

    def __init__(self, path: Path) -> None:
        self.written = 0
        self.gold = False
        self._path = path
        self._random = random.Random(1)
        path.touch()

    def add(self, records: int) -> None:
        words = [word for word in tiny_model.WORDS if word != "gold"]
        with self._path.open("a", encoding="utf-8") as file:
            for number in range(self.written, self.written + records):
                title = " ".join([*self._random.choices(words, k=8), *["gold"] * 4 * self.gold])
                published = (DAY + timedelta(seconds=number)).isoformat()
                file.write(json.dumps({"id": f"n{number}", "title": title, "published_at": published}) + "\n")
        self.written += records

    @contextmanager
    def growing(self) -> Iterator[None]:
        enough = threading.Event()

        def grow() -> None:
            while not enough.wait(0.02):
                self.add(5)

        writer = threading.Thread(target=grow)
        writer.start()
        try:
            yield
        finally:
            enough.set()
            writer.join()


def _stored(tmp_path: Path) -> list[tuple[str, str]]:
    """(id, model) of every item, in the order of the file."""
    with closing(sqlite3.connect(tmp_path / "monitor.db")) as database:
        return database.execute('SELECT id, model FROM items ORDER BY "offset"').fetchall()


def _newest_by(tmp_path: Path, version: str) -> bool:
    return [model for _, model in _stored(tmp_path)[-20:]] == [version] * 20


def _ended(store: Store) -> Retraining:
    until(lambda: store.retrainings.running() is None, within_s=120)
    return store.retrainings.get(1)


def _promotions(store: Store) -> list[tuple[str, str]]:
    return [(one.version, one.by) for one in store.models.promotions()]


def _passed(found: dict[str, Any]) -> dict[str, bool]:
    return {row["measure"]: row["passed"] for row in found["rows"]}


def _value(metrics: Metrics, metric: str, /, **labels: str) -> float:
    return metrics.registry.get_sample_value(metric, labels) or 0.0


AGREE = {"topic_agreement": True, "sentiment_agreement": True, "negative_ratio": True}
CHANGES = dict.fromkeys((f"{name}_change" for name in AGREE), True)


def test_a_challenger_that_agrees_is_promoted_takes_over_is_watched_and_stays(trained: Path, tmp_path: Path) -> None:
    settings, metrics, news = _settings(tmp_path), Metrics(), News(tmp_path / "news.jsonl")
    settings = settings.model_copy(update={"spikes": SpikeSettings(negative_from=0.4)})
    with Store(settings.store.url) as store:
        _at_shadow(settings, store, trained, "alike")
        with running(settings, metrics), news.growing():
            ended = _ended(store)
            until(lambda: _newest_by(tmp_path, "alike"))
            [thread] = [one.native_id for one in threading.enumerate() if one.name == "shadow"]
            if sys.platform == "linux":
                assert thread is not None
                own, of_scoring = (os.getpriority(os.PRIO_PROCESS, one) for one in (thread, os.getpid()))
                assert own == NICENESS > of_scoring, "scoring goes first"
        assert (ended.outcome, ended.step, ended.promotion) == ("promoted", "watch", 2)
        assert _promotions(store) == [("base", "anna@desk"), ("alike", "retraining 1")]
        assert _passed(ended.found["shadow"]) == AGREE
        assert _passed(ended.found["watch"]) == AGREE | CHANGES
        assert (ended.found["shadow"]["items"] >= 150, ended.found["watch"]["items"] >= 150) == (True, True)
        assert ended.reason.startswith(
            f"of {ended.found['watch']['items']} items that both models scored: topic agree"
        )

        # The comparisons are a sample of what was stored, once each, of what the one model and the other really say.
        models = dict(_stored(tmp_path))
        before, after = (open_scorer(replace(settings.model, path=str(trained / name))) for name in ("base", "alike"))
        for phase, scores in (("shadow", "base"), ("watch", "alike")):
            compared = store.retrainings.comparisons(ended, [phase])  # type: ignore[list-item]
            assert {models[one.item] for one in compared} == {scores}
            assert all(sampled(one.item, 0.5) for one in compared)
            _check(compared[:40], tmp_path, before, after, settings)
        total = sum(store.retrainings.count_comparisons(ended, phase) for phase in ("shadow", "watch"))
        assert total == sum(
            _value(metrics, "sentiment_shadow_items_total", phase=phase, outcome="compared")
            for phase in ("shadow", "watch")
        )


def _check(compared: list[Comparison], tmp_path: Path, before: Scorer, after: Scorer, settings: Settings) -> None:
    """See that comparisons are of what these models say of the items' titles, and what is stored of the items too."""
    with closing(sqlite3.connect(tmp_path / "monitor.db")) as database:
        rows = dict(database.execute("SELECT id, title FROM items").fetchall())
        probs = dict(database.execute("SELECT id, sentiment_probs FROM items").fetchall())
        models = dict(database.execute("SELECT id, model FROM items").fetchall())
    items = [NewsItem(id=one.item, title=rows[one.item], published_at=DAY) for one in compared]
    for one, old, new in zip(compared, before.score(items), after.score(items), strict=True):
        assert (one.before_topic, one.after_topic) == (old.topic, new.topic)
        assert (one.before_sentiment, one.after_sentiment) == (old.sentiment, new.sentiment)
        limit = settings.spikes.negative_from
        assert one.before_negative == (old.sentiment_probs["negative"] >= limit)
        assert one.after_negative == (new.sentiment_probs["negative"] >= limit)
        assert one.before_confidence == pytest.approx(max(old.sentiment_probs.values()), abs=1e-4)
        assert one.after_confidence == pytest.approx(max(new.sentiment_probs.values()), abs=1e-4)
        own = old if models[one.item] == before.version else new
        assert json.loads(probs[one.item]) == pytest.approx(dict(own.sentiment_probs), abs=1e-4)


def test_a_challenger_that_disagrees_is_refused_and_never_scores(trained: Path, tmp_path: Path) -> None:
    settings, news = _settings(tmp_path), News(tmp_path / "news.jsonl")
    with Store(settings.store.url) as store:
        _at_shadow(settings, store, trained, "other")
        with running(settings, Metrics()), news.growing():
            ended = _ended(store)
        assert (ended.outcome, ended.step, ended.promotion) == ("refused", "shadow", None)
        assert _passed(ended.found["shadow"])["topic_agreement"] is False
        assert "topic agreement" in ended.reason and "beyond the bound of 75.0%" in ended.reason
        assert _promotions(store) == [("base", "anna@desk")]
    assert {model for _, model in _stored(tmp_path)} == {"base"}


def test_a_challenger_that_turns_after_its_promotion_is_taken_back_at_once_and_the_old_champion_scores_again(
    trained: Path, tmp_path: Path
) -> None:
    settings, metrics, news = _settings(tmp_path, watch_items=100_000), Metrics(), News(tmp_path / "news.jsonl")
    with Store(settings.store.url) as store:
        _at_shadow(settings, store, trained, "turned")
        with running(settings, metrics), news.growing():
            until(lambda: store.retrainings.get(1).step == "watch", within_s=120)
            news.gold = True
            ended = _ended(store)
            until(lambda: _newest_by(tmp_path, "base"))
        assert ended.outcome == "rolled back"
        assert _promotions(store) == [("base", "anna@desk"), ("turned", "retraining 1"), ("base", "retraining 1")]
        assert store.models.promotions()[-1].reason == ended.reason
        assert _passed(ended.found["shadow"]) == AGREE
        assert _passed(ended.found["watch"])["topic_agreement_change"] is False
        assert ended.found["watch"]["items"] < 100_000, "it was hopeless before"
        # What is usual follows each change of model, by the items that both have scored.
        assert {2, 3} == _rebased(tmp_path)
    stored = _stored(tmp_path)
    assert [name for name, _ in stored] == [f"n{n}" for n in range(len(stored))]
    assert {model for _, model in stored} == {"base", "turned"}


def _rebased(tmp_path: Path) -> set[int]:
    """The promotions that say what becomes of counts."""
    with closing(sqlite3.connect(tmp_path / "monitor.db")) as database:
        return {number for (number,) in database.execute("SELECT DISTINCT promotion FROM rebases").fetchall()}


def test_without_a_watch_a_promotion_ends_the_retraining(trained: Path, tmp_path: Path) -> None:
    settings, news = _settings(tmp_path, watch_items=0, shadow_items=20), News(tmp_path / "news.jsonl")
    with Store(settings.store.url) as store:
        _at_shadow(settings, store, trained, "alike", promoted=False)
        news.add(1)  # the shipped model scores until something is promoted, and its items are not base's
        with running(settings, Metrics()):
            until(lambda: _stored(tmp_path))
            store.models.promote("base", seen=None, at=NOW, by="anna@desk")
            with news.growing():
                ended = _ended(store)
        assert (ended.outcome, ended.promotion) == ("promoted", 2)
        assert "watch" not in ended.found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as opened:
        yield opened


def _compare(store: Store, phase: Phase, items: int, differ: int = 0) -> None:
    """So many comparisons more, of which the models differ in `differ`."""
    live = store.retrainings.running()
    assert live is not None
    first = store.retrainings.count_comparisons(live, phase)
    compared = [
        Comparison(
            item=f"n{n}",
            event_at=DAY,
            before_topic="Energy",
            after_topic="Energy" if n >= first + differ else "Earnings",
            before_sentiment="neutral",
            after_sentiment="neutral",
            before_negative=False,
            after_negative=False,
            before_confidence=0.9,
            after_confidence=0.9,
        )
        for n in range(first, first + items)
    ]
    store.retrainings.add_comparisons(live, phase, compared, NOW)


def _shadow(settings: Settings, store: Store, succession: Succession | None = None) -> Shadow:
    metrics = Metrics()
    return Shadow(settings, store, succession or Succession(settings, store.models, metrics), metrics, lambda: NOW)


def test_what_a_person_decides_meanwhile_ends_the_retraining_and_is_said(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path)
    _at_shadow(settings, store, trained, "alike")
    other = _add(settings, store, trained / "other")
    look = _shadow(settings, store).look
    look()
    assert store.retrainings.running() is not None

    def promote(version: str, **reason: str) -> None:
        store.models.promote(version, seen=store.models.champion(), at=NOW, by="ben@desk", **reason)

    promote(other.version)
    look()
    ended = store.retrainings.get(1)
    assert ended.outcome == "refused"
    assert ended.reason == (
        "ben@desk promoted other on 2026-11-24 12:00 UTC, and it was to replace base; retrain again, from that model"
    )

    def again(*, watched: bool) -> None:
        promote("base")
        begun = store.retrainings.begin("hand", by="one:1", champion="base", folder=tmp_path, now=NOW)
        store.retrainings.advance(begun, NOW, step="shadow", challenger="alike")
        if watched:
            _compare(store, "shadow", 150)
            look()
            _compare(store, "watch", 3)
            look()
            assert store.retrainings.running().step == "watch"  # type: ignore[union-attr]

    again(watched=False)
    promote("alike", reason="I know it")
    look()
    ended = store.retrainings.get(2)
    assert (ended.outcome, ended.promotion) == ("promoted", 4)
    assert ended.reason == "ben@desk promoted it before it was compared to the end: I know it"

    again(watched=True)
    store.models.roll_back(seen=store.models.champion(), at=NOW, by="ben@desk", reason="too many alerts")
    look()
    ended = store.retrainings.get(3)
    assert (ended.outcome, ended.reason) == (
        "rolled back",
        "ben@desk went back to base when 3 items were watched: too many alerts",
    )

    again(watched=True)
    promote(other.version)
    look()
    ended = store.retrainings.get(4)
    assert (ended.outcome, ended.reason) == (
        "promoted",
        "ben@desk promoted other after it when 3 items were watched",
    )


def test_a_promotion_of_what_was_never_promoted_before_can_be_taken_back(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path)
    _at_shadow(settings, store, trained, "alike", promoted=False)
    _compare(store, "shadow", 150)
    look = _shadow(settings, store).look
    look()
    assert _promotions(store) == [("base", "retraining 1"), ("alike", "retraining 1")]
    _compare(store, "watch", 150, differ=60)
    look()
    assert store.retrainings.get(1).outcome == "rolled back"
    assert _promotions(store)[-1] == ("base", "retraining 1")


def test_a_watch_that_is_hopeless_ends_after_200_items_and_one_that_may_yet_pass_goes_on(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path, watch_items=2000)
    _at_shadow(settings, store, trained, "alike")
    _compare(store, "shadow", 150, differ=30)
    look = _shadow(settings, store).look
    look()
    _compare(store, "watch", 199, differ=60)  # 70 % agree: below the bound, as chance may have it
    look()
    _compare(store, "watch", 1)
    look()
    assert store.retrainings.running() is not None
    _compare(store, "watch", 199, differ=199)
    look()
    assert store.retrainings.running() is not None, "it is not looked at again before 200 more"
    _compare(store, "watch", 1)
    look()
    ended = store.retrainings.get(1)
    assert (ended.outcome, ended.found["watch"]["items"]) == ("rolled back", 400)


def test_what_the_watch_must_keep_up_is_what_the_shadow_found(trained: Path, tmp_path: Path, store: Store) -> None:
    settings = _settings(tmp_path, shadow_items=1000, watch_items=1000)
    _at_shadow(settings, store, trained, "alike")
    _compare(store, "shadow", 1000)
    look = _shadow(settings, store).look
    look()
    _compare(store, "watch", 1000, differ=150)  # within the bound of 75 %, and far from the 100 % of before
    look()
    ended = store.retrainings.get(1)
    assert ended.outcome == "rolled back"
    assert _passed(ended.found["watch"]) == AGREE | {
        "topic_agreement_change": False,
        "sentiment_agreement_change": True,
    }


def test_of_several_workers_one_promotes_and_the_others_go_on_from_there(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path)
    _at_shadow(settings, store, trained, "alike")
    _compare(store, "shadow", 150)
    failed: list[Exception] = []

    def work() -> None:
        with Store(settings.store.url) as own:
            shadow = _shadow(settings, own)
            for _ in range(3):
                try:
                    shadow.look()
                except Exception as error:
                    failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert _promotions(store) == [("base", "anna@desk"), ("alike", "retraining 1")]
    running = store.retrainings.running()
    assert running is not None
    assert (running.step, running.promotion) == ("watch", 2)
    assert {type(error).__name__ for error in failed} <= {"LostRetraining", "PromotionConflict"}


def test_a_challenger_whose_files_were_changed_ends_the_retraining_as_failed(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path)
    copied = Path(shutil.copytree(trained / "alike", tmp_path / "alike"))
    _at_shadow(settings, store, trained, "base")
    begun = store.retrainings.running()
    assert begun is not None
    _add(settings, store, copied)
    store.retrainings.advance(begun, NOW, challenger="alike")
    (copied / "weights.safetensors").unlink()
    _shadow(settings, store).look()
    ended = store.retrainings.get(1)
    assert ended.outcome == "failed"
    assert ended.reason.startswith("challenger alike cannot be used: ")  # type: ignore[union-attr]
    assert "weights.safetensors: cannot be read" in ended.reason  # type: ignore[operator]


def test_a_retraining_without_a_challenger_ends_as_failed(trained: Path, tmp_path: Path, store: Store) -> None:
    settings = _settings(tmp_path)
    _add(settings, store, trained / "base")
    begun = store.retrainings.begin("hand", by="one:1", champion="base", folder=tmp_path, now=NOW)
    store.retrainings.advance(begun, NOW, step="shadow")
    _shadow(settings, store).look()
    assert (store.retrainings.get(1).outcome, store.retrainings.get(1).reason) == (
        "failed",
        "it has left no challenger",
    )


def test_a_champion_that_a_daemon_cannot_take_up_is_taken_back(trained: Path, tmp_path: Path, store: Store) -> None:
    settings = _settings(tmp_path)
    copied = Path(shutil.copytree(trained / "alike", tmp_path / "alike"))
    _add(settings, store, copied)
    _add(settings, store, trained / "base")
    store.models.promote("base", seen=None, at=NOW, by="anna@desk")
    begun = store.retrainings.begin("hand", by="one:1", champion="base", folder=tmp_path, now=NOW)
    store.retrainings.advance(begun, NOW, step="shadow", challenger="alike")
    succession = Succession(settings, store.models, Metrics())
    succession.first()
    _compare(store, "shadow", 150)
    shadow = _shadow(settings, store, succession)
    shadow.look()
    (copied / "model.json").unlink()
    succession.look()
    shadow.look()
    ended = store.retrainings.get(1)
    assert ended.outcome == "rolled back"
    assert ended.reason.startswith("a daemon could not take it up: ")  # type: ignore[union-attr]
    assert _promotions(store)[-1] == ("base", "retraining 1")


def _entries(store: Store, scorer: Scorer, items: int) -> list[Entry]:
    words = random.Random(2)
    news = [
        NewsItem(id=f"n{n}", title=" ".join(words.choices(tiny_model.WORDS, k=8)), published_at=DAY)
        for n in range(items)
    ]
    return [
        Entry(scored=scored, partition=0, offset=n, event_at=DAY, story=f"s{n}", negative_from=0.5)
        for n, scored in enumerate(scorer.score(news))
    ]


def test_what_comes_faster_than_it_can_be_compared_is_dropped_and_counted_and_items_of_another_model_are_left_out(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings, metrics = _settings(tmp_path, shadow_share=1.0, shadow_items=5000), Metrics()
    _at_shadow(settings, store, trained, "alike")
    base, alike = (open_scorer(replace(settings.model, path=str(trained / name))) for name in ("base", "alike"))
    shadow = Shadow(settings, store, Succession(settings, store.models, metrics), metrics, lambda: NOW)
    shadow.offer(_entries(store, base, 5))  # nothing is compared yet
    shadow.look()
    shadow.offer(_entries(store, alike, 5))
    shadow.offer(_entries(store, base, 1500))
    while shadow._queue:
        shadow.compare()

    def counted(outcome: str) -> float:
        return _value(metrics, "sentiment_shadow_items_total", phase="shadow", outcome=outcome)

    assert (counted("compared"), counted("dropped")) == (1024, 476)
    running = store.retrainings.running()
    assert running is not None
    assert store.retrainings.count_comparisons(running, "shadow") == 1024


def test_comparisons_that_could_not_be_stored_are_stored_when_the_database_is_back(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path, shadow_share=1.0)
    _at_shadow(settings, store, trained, "alike")
    shadow = _shadow(settings, store)
    shadow.look()
    shadow.offer(_entries(store, open_scorer(replace(settings.model, path=str(trained / "base"))), 20))
    _rename(tmp_path, "comparisons", "away")
    with pytest.raises(Exception, match="comparisons"):
        shadow.compare()
    _rename(tmp_path, "away", "comparisons")
    shadow.compare()
    running = store.retrainings.running()
    assert running is not None
    assert store.retrainings.count_comparisons(running, "shadow") == 20


def _rename(tmp_path: Path, table: str, to: str) -> None:
    with closing(sqlite3.connect(tmp_path / "monitor.db")) as database:
        database.execute(f"ALTER TABLE {table} RENAME TO {to}")


def test_a_challenger_that_fails_while_it_scores_has_failed(trained: Path, tmp_path: Path, store: Store) -> None:
    # Weights that overflow on some words alone leave a model that answers when it is tried.
    folder = Path(shutil.copytree(trained / "turned", tmp_path / "broken"))
    encoder = Path(shutil.copytree(trained / "changed", tmp_path / "encoder"))
    weights = safetensors.numpy.load_file(encoder / "model.safetensors")
    [words] = [name for name in weights if "word_embeddings" in name]
    weights[words][GOLD] = np.nan
    safetensors.numpy.save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder)
    tiny_model.write_checkpoint(folder, tiny_model.network(encoder, seed=5), encoder)
    info = checkpoint.read(folder).info
    checkpoint.write_info(folder, replace(info, version="alike"))
    settings = _settings(tmp_path, shadow_share=1.0)
    _at_shadow(settings, store, trained, "base")
    begun = store.retrainings.running()
    assert begun is not None
    _add(settings, store, folder)
    store.retrainings.advance(begun, NOW, challenger="alike")
    shadow = _shadow(settings, store)
    shadow.look()
    assert store.retrainings.running() is not None
    shadow.offer(_entries(store, open_scorer(replace(settings.model, path=str(trained / "base"))), 100))
    shadow.compare()
    ended = store.retrainings.get(1)
    assert ended.outcome == "failed"
    assert ended.reason.startswith("challenger alike fails: ValueError: it gives no probabilities for item 'n")  # type: ignore[union-attr]
    shadow.compare()  # nothing is left to do
    with pytest.raises(LostRetraining):
        store.retrainings.end(begun, "refused", "", NOW)


def test_a_shadow_that_gets_no_news_stays_and_says_so_once_a_day(
    trained: Path, tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(tmp_path)
    _at_shadow(settings, store, trained, "alike")
    clock = [NOW]
    metrics = Metrics()
    shadow = Shadow(settings, store, Succession(settings, store.models, metrics), metrics, lambda: clock[0])
    for hours in range(60):
        clock[0] = NOW + timedelta(hours=hours)
        if hours == 30:
            _compare(store, "shadow", 10)
        shadow.look()
    told = [message for message in caplog.messages if "waits at step" in message]
    words = "retraining 1 waits at step 'shadow' for news that two models can be compared on: {}, none for a day"
    assert told == [words.format("0 of 150 items"), words.format("10 of 150 items")]
    assert store.retrainings.running() is not None


RUN = """
import os, signal, sys
from monitor.stored_retrainings import StoredRetrainings

method, at = sys.argv[1], sys.argv[2]
done = getattr(StoredRetrainings, method)

def killed(self, *args, **changes):
    if at in (*args, *changes.values()):
        os.kill(os.getpid(), signal.SIGKILL)
    return done(self, *args, **changes)

setattr(StoredRetrainings, method, killed)
sys.argv = ["sentiment-monitor", "run", "--config", sys.argv[3]]
from monitor.cli import main
main()
"""


def _process(settings: Settings, tmp_path: Path, kill: tuple[str, str] = ("end", "never")) -> subprocess.Popen[bytes]:
    """A daemon as a process of its own, which is killed when it comes to note this."""
    config, retrain = tmp_path / "monitor.toml", settings.retrain
    config.write_text(
        f'[source]\nkind = "file"\nbatch_items = 16\n[file]\npath = "{tmp_path}/news.jsonl"\nfollow = true\n'
        f'[http]\nport = 0\n[store]\nurl = "{settings.store.url}"\n'
        f'[model]\npath = "champion"\nbackend = "onnx"\ncheck_s = 0.1\ncache_dir = "{settings.model.cache_dir}"\n'
        f"[retrain]\nshadow_share = {retrain.shadow_share}\nshadow_items = {retrain.shadow_items}\n"
        f"watch_items = {retrain.watch_items}\n"
    )
    with (tmp_path / "log").open("a") as log:
        return subprocess.Popen([sys.executable, "-c", RUN, *kill, str(config)], stdout=log, stderr=log)


@contextmanager
def _alive(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _all_once(tmp_path: Path, news: News) -> bool:
    return [name for name, _ in _stored(tmp_path)] == [f"n{n}" for n in range(news.written)]


def test_a_kill_during_the_shadow_and_one_between_promotion_and_note_are_healed(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings, news = _settings(tmp_path, trained / "cache", shadow_items=300), News(tmp_path / "news.jsonl")
    _at_shadow(settings, store, trained, "alike")
    begun = store.retrainings.get(1)
    with news.growing():
        with _alive(_process(settings, tmp_path)) as first:
            until(lambda: store.retrainings.count_comparisons(begun, "shadow") > 50, within_s=120)
            first.send_signal(signal.SIGKILL)
            first.wait()
        seen = store.retrainings.count_comparisons(begun, "shadow")
        with _alive(_process(settings, tmp_path, ("advance", "watch"))) as second:
            assert second.wait(120) == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert store.retrainings.count_comparisons(begun, "shadow") >= max(300, seen)
        assert _promotions(store) == [("base", "anna@desk"), ("alike", "retraining 1")]
        assert (store.retrainings.get(1).step, store.retrainings.get(1).promotion) == ("shadow", None)
        with _alive(_process(settings, tmp_path)) as third:
            ended = _ended(store)
            assert third.poll() is None
            until(lambda: _newest_by(tmp_path, "alike"))
    assert (ended.outcome, ended.promotion) == ("promoted", 2)
    assert _promotions(store) == [("base", "anna@desk"), ("alike", "retraining 1")]
    with _alive(_process(settings, tmp_path)):
        until(lambda: _all_once(tmp_path, news), within_s=120)


def test_a_stop_while_the_challenger_is_being_opened_does_not_wait_for_it(
    trained: Path, tmp_path: Path, store: Store
) -> None:
    settings = _settings(tmp_path, tmp_path / "cache")
    News(tmp_path / "news.jsonl")
    _at_shadow(settings, store, trained, "alike")
    for exported in (tmp_path / "cache").glob("alike-*"):
        exported.unlink()
    with _alive(_process(settings, tmp_path)) as process:
        until(lambda: "exporting model alike" in (tmp_path / "log").read_text(), within_s=120)
        started_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, (tmp_path / "log").read_text()
        assert time.monotonic() - started_s < 10
    assert "stopped, with nothing half-written" in (tmp_path / "log").read_text()
    assert store.retrainings.running() is not None


def test_a_kill_between_a_rollback_and_the_note_of_it_is_healed(trained: Path, tmp_path: Path, store: Store) -> None:
    settings = _settings(tmp_path, trained / "cache", watch_items=100_000)
    news = News(tmp_path / "news.jsonl")
    _at_shadow(settings, store, trained, "turned")
    with ExitStack() as growing:
        growing.enter_context(news.growing())
        with _alive(_process(settings, tmp_path, ("end", "rolled back"))) as first:
            until(lambda: store.retrainings.get(1).step == "watch", within_s=120)
            news.gold = True
            assert first.wait(120) == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert store.retrainings.running() is not None
        expected = [("base", "anna@desk"), ("turned", "retraining 1"), ("base", "retraining 1")]
        assert _promotions(store) == expected
        with _alive(_process(settings, tmp_path)):
            ended = _ended(store)
            until(lambda: _newest_by(tmp_path, "base"))
            growing.close()
            until(lambda: _all_once(tmp_path, news), within_s=120)
    assert (ended.outcome, ended.reason) == ("rolled back", store.models.promotions()[-1].reason)
    assert _promotions(store) == expected
