"""Which items are listed for labelling: unsure ones, unlike one another, of each story one."""

import csv
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from monitor.config import ModelSettings
from monitor.label_queue import POOL_MIN, least_sure, spread, uncertainty
from monitor.labelling import queue
from monitor.labels import Label
from monitor.model.scorer import open_scorer
from monitor.records import Entry, NewsItem, PositionUpdate, Scored
from monitor.store import Store

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
WANTED = 50


def test_uncertainty_is_nothing_where_the_model_is_sure_and_one_where_two_labels_are_as_likely() -> None:
    assert uncertainty({"a": 1.0, "b": 0.0, "c": 0.0}) == 0
    assert uncertainty({"a": 0.4, "b": 0.4, "c": 0.2}) == 1
    assert uncertainty({"a": 0.7, "b": 0.2, "c": 0.1}) == pytest.approx(0.5)


def test_uncertainty_is_the_mean_over_tasks_however_many_labels_they_have() -> None:
    topic = {str(number): 0.05 for number in range(20)}
    assert uncertainty(topic, {"negative": 0.0, "neutral": 1.0, "positive": 0.0}) == pytest.approx(0.5)


def test_a_model_that_knows_one_label_is_sure_of_it() -> None:
    assert uncertainty({"Banks": 1.0}) == 0


def test_the_pool_is_what_the_model_is_least_sure_of() -> None:
    doubts = [(f"n{number}", number / 10_000) for number in range(2 * POOL_MIN)]
    pool = least_sure(iter(doubts), 3)
    assert pool == [item for item, _ in reversed(doubts)][:POOL_MIN]


def test_ten_of_one_kind_do_not_fill_the_queue() -> None:
    banks = [f"Silicon Valley Bank collapse shakes tech lenders, part {number}" for number in range(10)]
    others = ["Oil climbs on supply fears", "Retailer cuts its outlook", "Regulator fines a broker"]
    texts, doubts = banks + others, [0.9] * 10 + [0.5, 0.45, 0.4]
    chosen = spread(texts, doubts, 4)
    assert chosen[0] == 0
    assert set(chosen[1:]) == {10, 11, 12}


def test_of_texts_with_the_same_words_one_is_chosen_and_what_is_sure_never() -> None:
    assert spread(["Oil climbs on fears", "OIL climbs, on fears!", "Gold falls"], [0.5, 0.9, 0.0], 3) == [1]
    assert spread([], [], 3) == spread(["Gold falls"], [0.0], 1) == []


def test_texts_without_words_are_no_stumbling_block() -> None:
    assert spread(["???", "the", "Gold falls"], [0.2, 0.3, 0.9], 1) == [2]


def _stored(store: Store, scored: Sequence[Scored], stories: Sequence[str] | None = None) -> None:
    entries = [
        Entry(one, 0, place, one.item.published_at, (stories or [s.item.id for s in scored])[place], 0.55)
        for place, one in enumerate(scored)
    ]
    store.commit("news", entries, [PositionUpdate(0, None, len(entries))], scored[-1].item.published_at)


def _doubtful(name: str, title: str, days_ago: float = 0, gap: float = 0.2) -> Scored:
    item = NewsItem(name, title, NOON - timedelta(days=days_ago))
    first = (1 + gap) / 2
    probs = {"negative": first, "neutral": 1 - first, "positive": 0.0}
    return Scored(item, "Macro", "negative", {"Macro": first, "Fed": 1 - first}, probs, "m1")


def test_the_queue_holds_one_item_of_a_story_and_none_of_a_story_that_anybody_labelled() -> None:
    items = [
        _doubtful("a", "Oil climbs on supply fears"),
        _doubtful("b", "Gold falls as the dollar gains", gap=0.3),
        _doubtful("b2", "Bullion slips, greenback up", gap=0.1),
        _doubtful("c", "Retailer cuts its outlook"),
    ]
    with Store("sqlite://") as store:
        _stored(store, items, ["a", "b", "b", "c"])
        assert {one.scored.item.id for one in queue(store, 10, 14)} == {"a", "b2", "c"}
        store.labels.add([Label("b", "sentiment", "neutral", "Ada")], NOON)
        wanted = queue(store, 10, 14)
    assert sorted(one.scored.item.id for one in wanted) == ["a", "c"]
    assert [one.scored for one in wanted if one.scored.item.id == "a"] == [items[0]]
    assert wanted[0].uncertainty == pytest.approx(0.8)


def test_the_queue_looks_back_from_the_newest_item_so_many_days() -> None:
    with Store("sqlite://") as store:
        items = [
            _doubtful("old", "Oil climbs", 8),
            _doubtful("week", "Gold falls", 7),
            _doubtful("new", "Rates rise"),
        ]
        _stored(store, items)
        assert {one.scored.item.id for one in queue(store, 10, 7)} == {"week", "new"}
        assert len(queue(store, 10, 8)) == 3


def test_an_empty_database_has_nothing_to_label() -> None:
    with Store("sqlite://") as store:
        assert queue(store, 10, 14) == []


def _headlines() -> list[NewsItem]:
    folder = Path(os.environ.get("MONITOR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = folder / "svb-2023" / "headlines.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there; name the folder of the data sets in MONITOR_DATA")
    with path.open(encoding="utf-8") as file:
        titles = list(dict.fromkeys(row["title"].strip() for row in csv.DictReader(file)))[-1_000:]
    return [NewsItem(str(n), title, NOON + timedelta(minutes=n)) for n, title in enumerate(titles) if title]


def test_of_real_headlines_the_queue_holds_less_sure_and_less_alike_ones_than_any_draw() -> None:
    scored = open_scorer(ModelSettings(device="cpu")).score(_headlines())
    with Store("sqlite://") as store:
        _stored(store, scored)
        chosen = [one.scored for one in queue(store, WANTED, 14)]
        assert [one.scored for one in queue(store, WANTED, 14)] == chosen, "it must not change from call to call"

    features = TfidfVectorizer().fit([one.item.title for one in scored])

    def alike(items: Sequence[Scored]) -> float:
        """The mean cosine of a title to the one nearest to it."""
        vectors = features.transform([one.item.title for one in items])
        cosines = (vectors @ vectors.T).toarray()
        np.fill_diagonal(cosines, 0)
        return float(cosines.max(axis=1).mean())

    def doubt(items: Sequence[Scored]) -> float:
        return float(np.mean([uncertainty(one.topic_probs, one.sentiment_probs) for one in items]))

    draws = [random.Random(seed).sample(scored, WANTED) for seed in range(20)]
    assert doubt(chosen) > 2 * max(map(doubt, draws))
    assert alike(chosen) < min(map(alike, draws))
    least_sure_alone = sorted(scored, key=lambda one: -uncertainty(one.topic_probs, one.sentiment_probs))[:WANTED]
    assert alike(chosen) < 0.75 * alike(least_sure_alone), "the least sure alone would be of one kind"
