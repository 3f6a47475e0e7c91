"""Copies and light edits of one story."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.config import Settings
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.records import Batch, PositionUpdate, RawRecord, RecordError
from monitor.store import Store
from monitor.stories import Stories, story_name
from pipelines.probes import NEGATIONS
from tests.support import WordScorer

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
SPAN = timedelta(hours=48)
HALTED = "Harrowgate Trust halts withdrawals after run on deposits"

COPIES = (
    (HALTED, HALTED.upper()),
    (HALTED, f"UPDATE 2-{HALTED}"),
    (HALTED, f"BREAKING: {HALTED}!"),
    (HALTED, f"Banks Latest: {HALTED}"),
    (HALTED, f"{HALTED} - Meridian Wire"),
    (HALTED, f"{HALTED} | The Calder Press"),
    (HALTED, f"{HALTED} https://example.com/a1b2"),
    (HALTED, f"{HALTED}, sources say"),
    (HALTED, "Harrowgate halts withdrawals after run on deposits"),
    (HALTED, "Harrowgate Trust halts withdrawals following run on deposits"),
    ("Harrowgate&#39;s deposits run off", "Harrowgate\u2019s deposits run off"),
    ("Harrowgate in talks to sell itself, sources say", "EXCLUSIVE-Harrowgate in talks to sell itself -sources"),
    ("Harrowgate to buy Calder for $2bn", "Harrowgate to buy Calder for $2 billion in cash"),
    ("Central bank raises rates by 25 bps", "Central bank raises rates by 25 basis points"),
    ("Harrowgate cuts 1,200 jobs", "Harrowgate cuts 1200 jobs"),
    ("U.S. regulators close Harrowgate Trust", "US regulators close Harrowgate Trust"),
    ("European Central Bank keeps rates at a record high", "ECB keeps rates at a record high"),
    ("Harrowgate Trust shares plunge as depositors flee", "Harrowgate Trust shares slump as depositors flee"),
    ("!!!", "!!!"),
)

OTHERS = (
    ("Central bank raises rates 25 bp", "Central bank raises rates 50 bp"),
    ("Central bank raises rates by a quarter point", "Central bank raises rates by half a point"),
    ("Harrowgate beats", "Harrowgate misses"),
    ("Harrowgate beats estimates on deposit growth", "Harrowgate misses estimates on deposit growth"),
    ("Harrowgate rises 2% on deposit growth", "Harrowgate rises 3% on deposit growth"),
    ("Harrowgate Q1 profit rises", "Harrowgate Q2 profit rises"),
    ("Harrowgate first quarter profit rises on fees", "Harrowgate second quarter profit rises on fees"),
    ("Oil settles higher on supply fears", "Oil settles lower on supply fears"),
    ("Harrowgate to report results on Monday", "Harrowgate to report results on Tuesday"),
    ("Stocks to watch: Harrowgate, Calder, Borea", "Stocks to watch: Cirrus, Delphi, Estrella"),
    ("Stocks to watch: Harrowgate, Calder, Borea", "Stocks to watch: Harrowgate, Calder, Delphi"),
    ("Why Harrowgate Stock Is Falling Today", "Why Calder Stock Is Falling Today"),
    ("Harrowgate declares quarterly dividend of $0.25", "Calder declares quarterly dividend of $0.25"),
    ("onepoint to announce full year results", "Calder to announce full year results"),
    ("Harrowgate Trust - deposits fall again", "Harrowgate Trust - board meets"),
    ("Harrowgate halts withdrawals", "Harrowgate halts plan for new headquarters"),
    ("Harrowgate under investigation for fraud", "Harrowgate not under investigation for fraud"),
    ("!!!", "???"),
)


def _folds(one: str, other: str) -> bool:
    stories = Stories(SPAN)
    stories.assign(one, NOON)
    return stories.assign(other, NOON)[1]


@pytest.mark.parametrize(("one", "other"), COPIES)
def test_a_copy_or_light_edit_is_the_same_story(one: str, other: str) -> None:
    assert (_folds(one, other), _folds(other, one)) == (True, True)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_number_name_or_direction_is_another_story(one: str, other: str) -> None:
    assert (_folds(one, other), _folds(other, one)) == (False, False)


@pytest.mark.parametrize(("one", "other"), NEGATIONS)
def test_the_opposite_is_another_story(one: str, other: str) -> None:
    assert not _folds(one, other)


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_which_of_two_comes_first_makes_no_difference(one: str, other: str) -> None:
    assert _folds(one, other) == _folds(other, one)


@settings(deadline=None)
@given(st.text(max_size=1000))
def test_any_text_is_a_copy_of_itself(title: str) -> None:
    assert _folds(title, title)


def test_a_copy_gets_the_name_of_the_story_it_repeats() -> None:
    stories = Stories(SPAN)
    story, copy = stories.assign(HALTED, NOON)
    assert not copy
    assert story == story_name(HALTED, NOON)
    assert stories.assign(f"UPDATE 1-{HALTED}", NOON + timedelta(hours=48)) == (story, True)


@pytest.mark.parametrize("hours", [49, -49])
def test_a_standing_headline_is_a_new_story_every_so_often(hours: int) -> None:
    stories = Stories(SPAN)
    first, _ = stories.assign("Stocks to watch today", NOON)
    second, copy = stories.assign("Stocks to watch today", NOON + timedelta(hours=hours))
    assert not copy
    assert second != first


def test_a_copy_prolongs_no_story() -> None:
    stories = Stories(SPAN)
    stories.assign(HALTED, NOON)
    assert stories.assign(HALTED, NOON + timedelta(hours=40))[1]
    assert not stories.assign(HALTED, NOON + timedelta(hours=80))[1]


def test_an_item_that_comes_late_joins_the_story_that_was_told_after_it() -> None:
    stories = Stories(SPAN)
    story, _ = stories.assign(HALTED, NOON)
    assert stories.assign(f"UPDATE 1-{HALTED}", NOON - timedelta(hours=47)) == (story, True)


@pytest.mark.parametrize("reverse", [False, True])
def test_of_several_tellings_the_most_alike_counts_then_the_nearest_in_time(reverse: bool) -> None:
    far, near = NOON - timedelta(hours=40), NOON + timedelta(hours=9)
    rows = [(HALTED, story_name(HALTED, at), at) for at in (far, near)]
    edit = f"{HALTED}, sources say"
    rows.append((edit, story_name(edit, far), far))
    stories = Stories(SPAN)
    stories.restore(reversed(rows) if reverse else rows)
    assert stories.assign(HALTED, NOON)[0] == story_name(HALTED, near)
    assert stories.assign(f"{edit}!", NOON)[0] == story_name(edit, far)


def test_edits_of_edits_do_not_drift_away_under_one_name() -> None:
    stories = Stories(SPAN)
    longer = HALTED
    for clause in (
        "regulators meet",
        "rival banks see inflows",
        "shares stop trading",
        "minister promises swift help",
    ):
        longer = f"{longer}, {clause}"
        _, copy = stories.assign(longer, NOON)
    assert copy
    longer = f"{longer}, savers queue for hours in five towns"
    assert not stories.assign(longer, NOON)[1]


def test_stories_that_no_item_will_be_compared_with_are_forgotten() -> None:
    stories = Stories(SPAN)
    stories.assign("Harrowgate opens a branch", NOON)
    stories.assign("Calder prices its bonds", NOON + timedelta(hours=3))
    assert stories.advance(NOON + timedelta(hours=97)) == NOON + timedelta(hours=1)
    assert len(stories) == 1
    assert stories.advance(NOON) == NOON + timedelta(hours=1)  # event time does not run backwards
    assert stories.assign("Calder prices its bonds", NOON + timedelta(hours=3))[1]
    assert not stories.assign("Harrowgate opens a branch", NOON)[1]


def test_what_is_told_in_forgotten_times_is_not_remembered() -> None:
    stories = Stories(SPAN)
    stories.advance(NOON + timedelta(hours=97))
    assert stories.assign(HALTED, NOON) == (story_name(HALTED, NOON), False)
    assert len(stories) == 0


def test_the_place_of_a_forgotten_story_is_taken_by_another() -> None:
    stories = Stories(SPAN)
    for day in range(40):
        for number in range(100):
            stories.assign(f"Company {number:04d} says {day:04d}{number:04d}", NOON + timedelta(days=day))
        stories.advance(NOON + timedelta(days=day))
    # What was told at the watermark's time less twice 48 hours is still held: five days.
    assert len(stories) == 500


def test_assigning_again_after_a_failed_commit_gives_the_same_story() -> None:
    stories = Stories(SPAN)
    assert stories.assign(HALTED, NOON)[0] == stories.assign(HALTED, NOON)[0]


def test_a_story_of_which_nothing_was_stored_is_not_remembered() -> None:
    stories = Stories(SPAN)
    kept, _ = stories.assign(HALTED, NOON)
    stories.assign("Calder prices its bonds", NOON)
    stories.settle([kept])
    assert len(stories) == 1
    stories.settle([])  # what was settled stays
    assert stories.assign(HALTED, NOON) == (kept, True)


Item = tuple[str, datetime]
Row = tuple[str, str, datetime]


def _rows(items: Sequence[Item], assigned: Sequence[tuple[str, bool]], since: datetime) -> list[Row]:
    """What the store gives of items: those since, by event time."""
    rows = [(title, story, at) for (title, at), (story, _) in zip(items, assigned, strict=True) if at >= since]
    return sorted(rows, key=lambda row: row[2])


_titles = st.sampled_from(
    [HALTED, f"UPDATE 1-{HALTED}", f"{HALTED}, sources say", f"{HALTED}, sources say, as regulators meet"]
    + [title for pair in OTHERS[:8] for title in pair]
)
_items = st.lists(
    st.tuples(_titles, st.integers(0, 300).map(lambda hours: NOON + timedelta(hours=hours))), min_size=2, max_size=30
)


@settings(deadline=None)
@given(_items, st.data())
def test_after_a_restart_items_get_the_stories_that_they_would_have_got_without(
    items: list[Item], data: st.DataObject
) -> None:
    halt = data.draw(st.integers(1, len(items) - 1))
    stories, restarted = Stories(SPAN), Stories(SPAN)
    before = [stories.assign(*item) for item in items[:halt]]
    since = stories.advance(max(at for _, at in items[:halt]))
    assert restarted.advance(max(at for _, at in items[:halt])) == since
    restarted.restore(_rows(items[:halt], before, since))
    assert len(restarted) == len(stories)
    assert [restarted.assign(*item) for item in items[halt:]] == [stories.assign(*item) for item in items[halt:]]


@settings(deadline=None)
@given(st.permutations(OTHERS[:8] + COPIES[:8]))
def test_the_order_of_what_is_remembered_makes_no_difference(pairs: list[tuple[str, str]]) -> None:
    rows = [(title, story_name(title, NOON), NOON) for pair in pairs for title in pair]
    stories, others = Stories(SPAN), Stories(SPAN)
    stories.restore(rows)
    others.restore(sorted(rows))
    asked = [(f"{title} again", NOON) for pair in COPIES for title in pair]
    assert [stories.assign(*item) for item in asked] == [others.assign(*item) for item in asked]


def test_a_story_that_an_earlier_version_named_goes_on_after_the_upgrade() -> None:
    stories = Stories(SPAN)
    stories.advance(NOON)
    stories.restore(
        [(HALTED, "00000000000000aa", NOON), (f"{HALTED}!", "00000000000000aa", NOON + timedelta(hours=1))]
    )
    assert stories.assign(HALTED, NOON + timedelta(hours=2)) == ("00000000000000aa", True)


def test_a_story_whose_first_item_is_too_old_to_be_restored_stays_forgotten() -> None:
    stories = Stories(SPAN)
    since = stories.advance(NOON)
    stories.restore([(HALTED, "00000000000000aa", since + timedelta(hours=47))])
    assert len(stories) == 0


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error


def _engine(store: Store) -> Engine:
    return Engine(Settings(), store, WordScorer(), Metrics(), source="test", reject=_refuse)


# hours after noon, id, title; the second item of id 3 is sent again under another title, and is not stored
TOLD = (
    (0, "1", f"Financials: {HALTED}"),
    (1, "2", "Macro: prices rise 2%"),
    (1, "3", "Financials: Calder prices its bonds"),
    (2, "3", "Financials: Borea names a new chief executive"),
    (3, "4", f"Financials: {HALTED}, sources say"),
    (30, "5", "Financials: Borea names a new chief executive"),
    (31, "6", "Macro: prices rise 3%"),
    (49, "7", f"Financials: {HALTED}"),
    (5, "8", f"Financials: {HALTED}!"),  # late
    (96, "9", f"Financials: {HALTED}"),
    (98, "10", f"Financials: {HALTED}"),
    (50, "11", f"Financials: {HALTED}"),  # later than that
    (200, "12", "Macro: prices rise 2%"),
)


def _stories_of(path: Path, restart_every: int) -> list[tuple[str, str]]:
    given_to = []
    with Store(f"sqlite:///{path}") as store:
        engine = _engine(store)
        for offset, (hours, item_id, title) in enumerate(TOLD):
            if restart_every and offset % restart_every == 0:
                engine = _engine(store)
            at = NOON + timedelta(hours=hours)
            value = json.dumps({"id": item_id, "title": title, "published_at": at.isoformat()}).encode()
            batch = Batch((RawRecord(0, offset, value),), (PositionUpdate(0, offset or None, offset + 1),))
            now = max(at, NOON + timedelta(hours=100))
            given_to += [(entry.scored.item.id, entry.story) for entry in engine.process(batch, now)]
            engine.tick(now)
    return given_to


@pytest.mark.parametrize("restart_every", [1, 2, 3])
def test_the_engine_gives_the_same_stories_with_restarts_as_without(tmp_path: Path, restart_every: int) -> None:
    without = _stories_of(tmp_path / "without.db", restart_every=0)
    story = dict(without)
    assert story["4"] == story["1"] == story["8"]
    assert len({story[item] for item in ("1", "2", "3", "5", "6", "7", "12")}) == 7
    assert _stories_of(tmp_path / "with.db", restart_every) == without
