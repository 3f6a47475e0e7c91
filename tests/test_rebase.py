"""What is usual through a change of model: a model that calls more negative is no spike, and a spike stays one."""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from monitor.config import EntitySettings, Settings, TrendSettings
from monitor.engine import Engine
from monitor.following import follow
from monitor.metrics import Metrics
from monitor.models import Model, PromotionConflict
from monitor.rebase import SAME, Rebase, Row, Scale, Shift, rebases, reversed_comparisons
from monitor.records import (
    BUCKET,
    EVERYTHING,
    Alert,
    Batch,
    Counts,
    NewsItem,
    PositionUpdate,
    RawRecord,
    Scored,
    Series,
    bucket_start,
)
from monitor.retraining import Comparison
from monitor.store import Store
from tests.support import forget_promotions

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
SWAP = START + timedelta(days=14, minutes=2)
TOPICS = tuple(f"Topic {letter}" for letter in "ABCDEFGHIJKL")
SETTINGS = Settings(
    trends=TrendSettings(lateness_s=60, idle_after_s=30), watchlist=(EntitySettings(name="Harrowgate"),)
)


@dataclass
class ToneScorer:
    """A model whose answers stand in the titles: `topic: tone ...`, negative where the tone is one of its `words`."""

    version: str
    words: frozenset[str]
    topics: tuple[str, ...] = TOPICS
    sentiments: tuple[str, ...] = ("negative", "neutral", "positive")
    at_once: int = 1
    cache_hits: int = 0
    cut_items: int = 0

    def score(self, items: Sequence[NewsItem]) -> list[Scored]:
        return [self._scored(item) for item in items]

    def negative(self, title: str) -> bool:
        return title.split(": ")[1].split(maxsplit=1)[0] in self.words

    def _scored(self, item: NewsItem) -> Scored:
        topic = item.title.partition(": ")[0]
        negative = 0.9 if self.negative(item.title) else 0.05
        probs = {"negative": negative, "neutral": 0.0, "positive": 1 - negative}
        sentiment = "negative" if negative > 0.5 else "positive"
        return Scored(item, topic, sentiment, {one: float(one == topic) for one in TOPICS}, probs, self.version)


CHAMPION = ToneScorer("one", frozenset({"bad", "mild"}))
CHALLENGER = ToneScorer("two", frozenset({"bad", "grim"}))
"""Says negative of 30 % of the news, of which the champion says so of 20 %."""


@dataclass(frozen=True)
class News:
    at: datetime
    title: str


def _news(start: datetime, end: datetime, seed: int) -> list[News]:
    """Eighty items an hour, of which topics have more and less; in some the models differ more than in others."""
    rng = np.random.default_rng(seed)
    hours = (end - start) / timedelta(hours=1)
    shares = np.arange(1, len(TOPICS) + 1) / sum(range(1, len(TOPICS) + 1))
    news = []
    for second in np.sort(rng.uniform(0, 3600 * hours, rng.poisson(80 * hours))).tolist():
        topic = int(rng.choice(len(TOPICS), p=shares))
        grim = 0.12 + 0.04 * (-1) ** topic
        tone = rng.choice(["bad", "mild", "grim", "fine"], p=[0.18, 0.02, grim, 0.8 - grim])
        about = "Harrowgate" if rng.random() < 0.1 else "firm"
        words = " ".join(f"w{n}" for n in rng.integers(0, 10**6, 6))
        news.append(News(start + timedelta(seconds=second), f"{TOPICS[topic]}: {tone} {about} {words}"))
    return news


class Feed:
    """A stream's partition 0, played into whichever engine reads it by now."""

    def __init__(self, store: Store) -> None:
        self._done = store.positions("news", [0]).get(0)

    def play(self, engine: Engine, news: Sequence[News], every: int = 20) -> list[Alert]:
        """Gives the alerts that changed."""
        alerts = []
        for start in range(0, len(news), every):
            part = news[start : start + every]
            first = self._done or 0
            records = tuple(
                RawRecord(0, first + n, json.dumps({"title": one.title, "published_at": one.at.isoformat()}).encode())
                for n, one in enumerate(part)
            )
            position = PositionUpdate(0, self._done, first + len(part))
            engine.process(Batch(records, (position,)), part[-1].at)
            self._done = position.next
            alerts += engine.tick(part[-1].at)
        return alerts


def _engine(store: Store, scorer: ToneScorer, promotion: int) -> Engine:
    return Engine(SETTINGS, store, scorer, Metrics(), source="news", reject=lambda *_: None, promotion=promotion)


def _adopt(engine: Engine, scorer: ToneScorer, promotion: int) -> None:
    engine.adopt(scorer, follow(SETTINGS, scorer.topics), promotion)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database after two weeks under the champion."""
    path = tmp_path_factory.mktemp("history") / "monitor.db"
    with Store(f"sqlite:///{path}") as store:
        for scorer in (CHAMPION, CHALLENGER):
            files = {"model.json": scorer.version}
            store.models.add(Model(version=scorer.version, folder=Path("/m"), files=files, added_at=START))
        store.models.promote("one", seen=None, at=START, by="test")
        assert Feed(store).play(_engine(store, CHAMPION, 1), _news(START, SWAP, 1), every=200) == []
    return path


@pytest.fixture
def store(history: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(history, tmp_path / "monitor.db")
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as opened:
        yield opened


def _compared(news: Sequence[News]) -> tuple[list[Comparison], dict[str, tuple[str, ...]]]:
    """What both models say of news, and the entities that it names."""
    compared = []
    for n, one in enumerate(news):
        [before], [after] = (scorer.score([NewsItem(f"{n}", one.title, one.at)]) for scorer in (CHAMPION, CHALLENGER))
        compared.append(
            Comparison(
                item=f"{n}",
                event_at=one.at,
                before_topic=before.topic,
                after_topic=after.topic,
                before_sentiment=before.sentiment,
                after_sentiment=after.sentiment,
                before_negative=CHAMPION.negative(one.title),
                after_negative=CHALLENGER.negative(one.title),
                before_confidence=max(before.sentiment_probs.values()),
                after_confidence=max(after.sentiment_probs.values()),
            )
        )
    return compared, {f"{n}": ("Harrowgate",) for n, one in enumerate(news) if "Harrowgate" in one.title}


COMPARED = _compared(_news(START, SWAP, 1)[-2_000:])
OVERLAP = rebases(*COMPARED)
"""From two thousand items that both models have scored, the newest before the swap."""
BACK = rebases(reversed_comparisons(COMPARED[0]), COMPARED[1])


def _promote(store: Store, version: str, known: Sequence[Rebase]) -> int:
    seen = store.models.champion()
    return store.models.promote(version, seen=seen, at=SWAP, by="test", rebases=known).number


AFTER = _news(SWAP, SWAP + timedelta(days=2), 2)
SPIKE = SWAP + timedelta(minutes=30)
SPIKED = Series("topic", TOPICS[9])


def _spiked() -> list[News]:
    """The news after the swap, half a day of it, with a true spike of an hour that begins half an hour after it."""
    rng = np.random.default_rng(5)
    spike = [
        News(SPIKE + timedelta(minutes=minute), f"{SPIKED.name}: bad run {rng.integers(10**9)} {rng.integers(10**9)}")
        for minute in np.sort(rng.uniform(0, 60, 30)).tolist()
    ]
    news = [one for one in AFTER if one.at < SWAP + timedelta(hours=12)]
    return sorted(news + spike, key=lambda one: one.at)


def _opened(alerts: Sequence[Alert]) -> dict[Series, datetime]:
    return {alert.series: alert.opened_at for alert in alerts if alert.revision == 1}


def test_a_challenger_that_calls_half_as_much_again_negative_raises_no_alert(store: Store) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    engine.tick(SWAP)
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    assert feed.play(engine, AFTER) == []
    shares = [sum(scorer.negative(one.title) for one in AFTER) / len(AFTER) for scorer in (CHAMPION, CHALLENGER)]
    assert shares[1] / shares[0] == pytest.approx(1.5, abs=0.1)


def test_without_rebases_the_same_challenger_raises_alerts(store: Store) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    engine.tick(SWAP)
    _adopt(engine, CHALLENGER, _promote(store, "two", ()))
    assert EVERYTHING in _opened(feed.play(engine, AFTER))


def test_a_restart_right_after_the_swap_raises_no_alert_either(store: Store) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    promotion = _promote(store, "two", OVERLAP)
    _adopt(engine, CHALLENGER, promotion)
    first = feed.play(engine, AFTER[:40])
    assert first + feed.play(_engine(store, CHALLENGER, promotion), AFTER[40:]) == []


@pytest.fixture
def unchanged(history: Path, tmp_path: Path) -> dict[Series, datetime]:
    """When alerts open on the spike if the champion goes on."""
    shutil.copy(history, tmp_path / "unchanged.db")
    with Store(f"sqlite:///{tmp_path / 'unchanged.db'}") as opened:
        return _opened(Feed(opened).play(_engine(opened, CHAMPION, 1), _spiked()))


def test_a_true_spike_right_after_the_swap_alerts_as_soon_as_without_one(
    store: Store, unchanged: dict[Series, datetime]
) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    engine.tick(SWAP)
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    found = _opened(feed.play(engine, _spiked()))
    assert SPIKED in found
    assert found.keys() <= unchanged.keys()
    assert SPIKE < found[SPIKED] <= unchanged[SPIKED] + timedelta(minutes=15)


def test_a_rollback_raises_no_alert_and_a_true_spike_after_it_does(
    store: Store, unchanged: dict[Series, datetime]
) -> None:
    #  two weeks    | a day       | half a day
    #  champion     | challenger  | champion, with a spike
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    assert feed.play(engine, [one for one in AFTER if one.at < SWAP + DAY]) == []
    back = store.models.roll_back(seen=store.models.champion(), at=SWAP + DAY, by="test", rebases=BACK)
    _adopt(engine, CHAMPION, back.number)
    found = _opened(feed.play(engine, [replace(one, at=one.at + DAY) for one in _spiked()]))
    assert SPIKED in found
    assert found.keys() <= unchanged.keys()
    assert SPIKE + DAY < found[SPIKED] <= unchanged[SPIKED] + DAY + timedelta(minutes=15)


def test_a_rollback_without_rebases_of_its_own_raises_no_alert_for_what_was_before_the_promotion(
    store: Store,
) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    assert feed.play(engine, AFTER[:40]) == []
    back = store.models.roll_back(seen=store.models.champion(), at=SWAP, by="test")
    _adopt(engine, CHAMPION, back.number)
    assert feed.play(engine, AFTER[40:2_000]) == []


def test_an_open_alert_goes_on_through_the_swap_and_is_not_told_anew(store: Store) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    news = _spiked()
    during = sum(one.at < SPIKE + timedelta(minutes=55) for one in news)
    opened = feed.play(engine, news[:during])
    [alert] = [one for one in engine.open_alerts if one.series == SPIKED]
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    changed = feed.play(engine, news[during:])
    assert {one.id for one in changed} <= {one.id for one in opened}
    [end] = [one for one in changed if one.id == alert.id and one.resolved_at is not None]
    assert end.resolved_at is not None
    assert end.resolved_at >= SPIKE + timedelta(hours=1)
    # What it says at its end is on the scale that it is judged by then.
    assert end.in_all is not None
    assert end.in_all[0] >= end.observed


def test_windows_and_stored_counts_stay_as_they_were_said(store: Store) -> None:
    engine, feed = _engine(store, CHAMPION, 1), Feed(store)
    feed.play(engine, AFTER[:40])
    said = store.buckets(SWAP - DAY, SWAP + DAY)
    shown = engine.trends.window(EVERYTHING, 180)
    _adopt(engine, CHALLENGER, _promote(store, "two", OVERLAP))
    usual = engine.detector.usual_share(EVERYTHING)
    engine.tick(AFTER[39].at)
    assert store.buckets(SWAP - DAY, SWAP + DAY) == said
    assert engine.trends.window(EVERYTHING, 180) == shown
    assert engine.detector.usual_share(EVERYTHING) == pytest.approx(1.5 * usual, rel=0.15)


def test_a_bucket_in_which_two_workers_change_models_holds_the_counts_of_each(store: Store) -> None:
    #  00:00        00:05
    #  |  worker 0: one | two ...        both in one bucket, a minute apart
    #  |  worker 1: one ...  | two ...
    workers = [_engine(store, CHAMPION, 1) for _ in range(2)]
    engine, other = workers
    offsets = [store.positions("news", [0])[0], 0]
    promotion = _promote(store, "two", OVERLAP)
    news = [one for one in AFTER if one.at < SWAP + timedelta(hours=3)]
    swaps = [sum(one.at < SWAP + timedelta(seconds=second) for one in news) for second in (60, 120)]
    scored: list[tuple[News, int]] = []
    alerts: list[Alert] = []
    for n, one in enumerate(news):
        for worker, swap in zip(workers, swaps, strict=True):
            if n == swap:
                _adopt(worker, CHALLENGER, promotion)
        partition = n % 2
        raw = json.dumps({"title": one.title, "published_at": one.at.isoformat()}).encode()
        position = PositionUpdate(partition, offsets[partition] or None, offsets[partition] + 1)
        workers[partition].process(Batch((RawRecord(partition, offsets[partition], raw),), (position,)), one.at)
        offsets[partition] += 1
        scored.append((one, promotion if n >= swaps[partition] else 1))
        # They take turns; each evaluates by the model that it has itself.
        alerts += (engine if n % 160 < 80 else other).tick(one.at)
    assert alerts == []
    first = bucket_start(SWAP)
    rows = {row.promotion: row.counts for row in store.bucket_rows(first, first + BUCKET, EVERYTHING)}
    within = [(one, under) for one, under in scored if one.at < first + BUCKET]
    assert {under for _, under in within} == {1, promotion}
    for under, scorer in ((1, CHAMPION), (promotion, CHALLENGER)):
        titles = [one.title for one, number in within if number == under]
        before = [one.title for one in _news(START, SWAP, 1) if one.at >= first] if under == 1 else []
        assert rows[under].items == len(titles + before)
        assert rows[under].negatives == sum(map(scorer.negative, titles + before))


def test_what_an_older_release_stored_stays_as_it_was_until_a_promotion_with_rebases(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with Store(url) as store:
        for version in ("one", "two", "three"):
            files = {"model.json": version}
            store.models.add(Model(version=version, folder=Path("/m"), files=files, added_at=START))
        _promote(store, "one", ())
        _promote(store, "two", ())
        Feed(store).play(_engine(store, CHAMPION, 1), AFTER[:50])
        said = store.buckets(START, SWAP + DAY)
    with sqlite3.connect(tmp_path / "old.db") as old:
        forget_promotions(old)
        old.execute("UPDATE alembic_version SET version_num = '0008'")
    old.close()
    with Store(url) as store:
        rows = store.bucket_rows(START, SWAP + DAY)
        assert {row.promotion for row in rows} == {0}
        assert store.buckets(START, SWAP + DAY) == said
        assert store.models.scale(2).brought(rows) == [row.counts for row in rows]
        number = _promote(store, "three", [Rebase(EVERYTHING, Shift(kept=1.0, gained=1.0), 9)])
        assert all(counts.negatives == counts.items for counts in store.models.scale(number).brought(rows))


def test_a_promotion_that_another_came_before_leaves_no_rebases(store: Store) -> None:
    seen = store.models.champion()
    _promote(store, "two", ())
    with pytest.raises(PromotionConflict):
        store.models.promote("two", seen=seen, at=SWAP, by="late", rebases=OVERLAP)
    assert store.models.scale(2).shift(EVERYTHING, 1) == SAME


# What a promotion does to counts


def _both(topics: tuple[str, str], negative: tuple[bool, bool], times: int) -> list[Comparison]:
    """Items that two models call so, before and after."""
    return [
        Comparison(
            item=f"{topics} {negative} {n}",
            event_at=START,
            before_topic=topics[0],
            after_topic=topics[1],
            before_sentiment="negative" if negative[0] else "positive",
            after_sentiment="negative" if negative[1] else "positive",
            before_negative=negative[0],
            after_negative=negative[1],
            before_confidence=0.9,
            after_confidence=0.8,
        )
        for n in range(times)
    ]


def _table(topic: str, kept: tuple[int, int], gained: tuple[int, int]) -> list[Comparison]:
    """Items of a topic: of those negative before, so many are after, and of the others."""
    (stay, were), (turn, others) = kept, gained
    one = (topic, topic)
    return [
        *_both(one, (True, True), stay),
        *_both(one, (True, False), were - stay),
        *_both(one, (False, True), turn),
        *_both(one, (False, False), others - turn),
    ]


def _shifts(compared: list[Comparison]) -> dict[Series, Shift]:
    return {one.series: one.shift for one in rebases(compared, {})}


OIL, TECH = Series("topic", "Oil"), Series("topic", "Tech")


def test_models_that_agree_throughout_change_no_count() -> None:
    compared = _table("Oil", (20, 20), (0, 80)) + _table("Tech", (3, 3), (0, 2))
    assert set(_shifts(compared).values()) == {SAME}


def test_of_no_item_nothing_is_known() -> None:
    assert rebases([], {}) == []


def test_the_whole_stream_has_the_shares_that_were_counted() -> None:
    [first, *_] = rebases(_table("Oil", (180, 200), (80, 800)), {})
    assert first == Rebase(EVERYTHING, Shift(1.0, 181 / 201, 80 / 801), 1_000)


def test_topics_that_differ_by_chance_alone_have_the_shares_of_the_whole_stream() -> None:
    compared = [one for n in range(10) for one in _table(f"Topic {n}", (18 + n % 2, 20), (8 + n % 3, 80))]
    shifts = _shifts(compared)
    assert {shift for series, shift in shifts.items() if series != EVERYTHING} == {shifts[EVERYTHING]}


def test_topics_that_differ_keep_their_own_shares_the_more_the_more_items_they_have() -> None:
    compared = _table("Oil", (200, 200), (400, 800)) + _table("Tech", (200, 200), (0, 800))
    compared += _table("Few", (1, 1), (2, 2))
    shifts = _shifts(compared)
    stream = shifts[EVERYTHING].gained
    assert shifts[OIL].gained == pytest.approx(0.5, abs=0.01)
    assert shifts[TECH].gained == pytest.approx(0.0, abs=0.01)
    assert stream < shifts[Series("topic", "Few")].gained < 1


def test_an_entity_has_the_shares_of_the_items_that_name_it_and_keeps_them_all() -> None:
    compared = _table("Oil", (200, 200), (400, 800)) + _table("Tech", (200, 200), (0, 800))
    named = {one.item: ("Shell",) for one in compared if one.before_topic == "Oil"}
    shifts = {one.series: one.shift for one in rebases(compared, named)}
    assert shifts[Series("entity", "Shell")] == shifts[OIL]
    assert shifts[OIL].ratio == 1


def test_a_topic_that_loses_its_harmless_items_is_smaller_and_more_negative() -> None:
    compared = [*_both(("Oil", "Oil"), (True, True), 400), *_both(("Oil", "Oil"), (False, False), 600)]
    compared += _both(("Oil", "Tech"), (False, False), 1_000)
    shifts = _shifts(compared)
    assert shifts[OIL].ratio == pytest.approx(0.5, abs=0.01)
    assert shifts[TECH].ratio > 50
    # Of the items before, 20 % were negative; of those after, 40 % are.
    share = 0.2 * shifts[OIL].kept + 0.8 * shifts[OIL].gained
    assert share == pytest.approx(0.4, abs=0.05)


def test_a_rollback_exchanges_the_roles() -> None:
    compared = _table("Oil", (180, 200), (80, 800))
    there, back = rebases(compared, {})[0].shift, rebases(reversed_comparisons(compared), {})[0].shift
    assert reversed_comparisons(reversed_comparisons(compared)) == compared
    share = 0.2 * there.kept + 0.8 * there.gained
    assert share == pytest.approx(0.26, abs=0.001)
    assert share * back.kept + (1 - share) * back.gained == pytest.approx(0.2, abs=0.001)


def _matrix(shift: Shift) -> np.ndarray:
    """What a shift does to (items, negatives)."""
    return shift.ratio * np.array([[1, 0], [shift.gained, shift.kept - shift.gained]])


def test_shifts_one_after_the_other_are_one() -> None:
    first, second = Shift(0.8, 0.9, 0.1), Shift(1.5, 0.7, 0.2)
    assert np.allclose(_matrix(first.then(second)), _matrix(second) @ _matrix(first))
    assert first.then(SAME) == pytest.approx(first)
    assert SAME.then(first) == pytest.approx(first)


def test_counts_pass_through_every_promotion_since_they_were_made() -> None:
    first, second = {EVERYTHING: Shift(0.8, 0.9, 0.1)}, {EVERYTHING: Shift(1.5, 0.7, 0.2), OIL: Shift(1.5, 1.0, 0.3)}
    scale = Scale(3, {1: "a", 2: "b", 3: "c"}, {2: first, 3: second})
    assert scale.shift(EVERYTHING, 1) == first[EVERYTHING].then(second[EVERYTHING])
    assert scale.shift(OIL, 1) == first[EVERYTHING].then(second[OIL])
    assert scale.shift(TECH, 2) == second[EVERYTHING]
    assert scale.shift(EVERYTHING, 0) == scale.shift(EVERYTHING, 1)
    assert scale.shift(EVERYTHING, 3) == SAME
    assert Scale(2, {1: "a", 2: "b", 3: "c"}, {2: first, 3: second}).shift(EVERYTHING, 3) == SAME


def test_counts_of_a_model_that_is_champion_again_are_its_own() -> None:
    there, back = {EVERYTHING: Shift(1.0, 0.9, 0.1)}, {EVERYTHING: Shift(1.0, 0.8, 0.0)}
    later = {EVERYTHING: Shift(1.0, 1.0, 0.5)}
    versions, shifts = {1: "a", 2: "b", 3: "a", 4: "c"}, {2: there, 3: back, 4: later}
    assert Scale(3, versions, shifts).shift(EVERYTHING, 1) == SAME
    assert Scale(3, versions, shifts).shift(EVERYTHING, 2) == back[EVERYTHING]
    assert Scale(4, versions, shifts).shift(EVERYTHING, 1) == later[EVERYTHING]
    # A worker that never took the promotion up which was rolled back counts as the champion of now does.
    assert Scale(1, versions, shifts).shift(EVERYTHING, 2) == back[EVERYTHING]


def _drawn(shift: Shift, counts: Counts, buckets: int) -> list[Counts]:
    rows = [Row(OIL, START + n * BUCKET, 1, counts) for n in range(buckets)]
    return Scale(2, {1: "a", 2: "b"}, {2: {OIL: shift}}).brought(rows)


def test_counts_vary_after_a_shift_as_counts_of_a_model_do() -> None:
    drawn = _drawn(Shift(1.0, 0.9, 0.15), Counts(items=100, negatives=20, stories=100, negative_stories=20), 4_000)
    negatives = np.array([one.negatives for one in drawn])
    assert {one.items for one in drawn} == {100}
    assert negatives.mean() == pytest.approx(20 * 0.9 + 80 * 0.15, abs=0.2)
    assert negatives.var() == pytest.approx(20 * 0.9 * 0.1 + 80 * 0.15 * 0.85, rel=0.1)
    stories = np.array([one.negative_stories for one in drawn])
    assert stories.mean() == pytest.approx(negatives.mean(), abs=0.3)
    assert abs(np.corrcoef(stories, negatives)[0, 1]) < 0.1


def test_a_ratio_makes_fewer_items_or_more_and_never_more_negatives_than_items() -> None:
    for ratio in (0.3, 1.7):
        drawn = _drawn(Shift(ratio, 0.9, 0.5), Counts(items=7, negatives=3, stories=7, negative_stories=3), 4_000)
        assert np.mean([one.items for one in drawn]) == pytest.approx(7 * ratio, rel=0.02)
        assert np.mean([one.negatives for one in drawn]) == pytest.approx(ratio * (2.7 + 2.0), rel=0.05)
        assert all(0 <= one.negatives <= one.items and one.negative_stories <= one.stories for one in drawn)


def test_what_comes_late_changes_nothing_of_what_was_on_time() -> None:
    shift = Shift(1.2, 0.9, 0.15)
    on_time = _drawn(shift, Counts(items=10, negatives=2), 500)
    late = _drawn(shift, Counts(items=16, negatives=5, late=6, late_negatives=3), 500)
    assert [(one.items - one.late, one.negatives - one.late_negatives) for one in late] == [
        (one.items, one.negatives) for one in on_time
    ]
    assert sum(one.late for one in late) == pytest.approx(500 * 6 * 1.2, rel=0.05)
