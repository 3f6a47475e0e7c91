"""The bundled news day keeps to the record's contract and tells a whole day."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

import monitor
from monitor.records import NewsItem
from monitor.wire import parse

SCENARIO = Path(monitor.__file__).parent / "scenario" / "newsday.jsonl"
DAY_START = datetime(2026, 3, 12, tzinfo=UTC)
DAY_END = DAY_START + timedelta(hours=24)
RUN_START = DAY_START + timedelta(hours=14, minutes=20)
BANK = "Harrowgate"


@pytest.fixture(scope="module")
def items() -> list[NewsItem]:
    """The scenario in its order of arrival; a line that breaks the record's contract fails every test."""
    return [parse(line) for line in SCENARIO.read_bytes().splitlines()]


def test_every_line_parses_into_at_least_300_items(items: list[NewsItem]) -> None:
    assert len(items) >= 300


def test_ids_are_unique(items: list[NewsItem]) -> None:
    assert [id_ for id_, count in Counter(item.id for item in items).items() if count > 1] == []


def test_the_day_is_filled_from_its_first_hour_to_its_last(items: list[NewsItem]) -> None:
    times = [item.published_at for item in items]
    assert min(times) >= DAY_START
    assert max(times) < DAY_END
    assert {time.hour for time in times} == set(range(24))


def test_at_least_five_publishers_tell_it(items: list[NewsItem]) -> None:
    sources = {item.source for item in items}
    assert None not in sources
    assert len(sources) >= 5


def test_links_lead_only_to_the_reserved_example_domain(items: list[NewsItem]) -> None:
    assert [item.url for item in items if not (item.url or "").startswith("https://example.com/")] == []


def test_a_few_items_arrive_late_and_never_by_more_than_five_minutes(items: list[NewsItem]) -> None:
    times = [item.published_at for item in items]
    newest = accumulate(times, max)
    behind = [seen - time for seen, time in zip(newest, times, strict=True) if time < seen]
    assert behind, "the scenario shows no item out of order"
    assert max(behind) <= timedelta(minutes=5)
    assert sum(later < earlier for earlier, later in pairwise(times)) == 3


def test_some_stories_come_again_word_for_word_from_another_publisher(items: list[NewsItem]) -> None:
    sources_by_title: dict[str, set[str | None]] = {}
    for item in items:
        sources_by_title.setdefault(item.title, set()).add(item.source)
    assert sum(len(sources) > 1 for sources in sources_by_title.values()) >= 2


def test_the_bank_is_not_in_the_news_before_its_run(items: list[NewsItem]) -> None:
    named = [item.published_at for item in items if BANK in item.text]
    assert min(named) >= RUN_START
    first_50_minutes = [time for time in named if time < RUN_START + timedelta(minutes=50)]
    assert len(first_50_minutes) >= 18


def test_no_title_carries_a_cashtag(items: list[NewsItem]) -> None:
    words = (word for item in items for word in item.text.split())
    assert [word for word in words if word.startswith("$") and word[1:2].isalpha()] == []
