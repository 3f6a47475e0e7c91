"""Copies of one story."""

from datetime import UTC, datetime, timedelta

import pytest

from monitor.stories import Stories, story_key

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Harrowgate Trust halts withdrawals", "HARROWGATE TRUST HALTS WITHDRAWALS"),
        ("Harrowgate Trust halts withdrawals", "UPDATE 2-Harrowgate Trust halts withdrawals"),
        ("Harrowgate Trust halts withdrawals", "BREAKING: Harrowgate Trust halts withdrawals!"),
        ("Harrowgate Trust halts withdrawals", "Harrowgate Trust halts withdrawals - Meridian Wire"),
        ("Harrowgate&#39;s run", "Harrowgate\u2019s run"),
    ],
)
def test_the_same_words_are_one_story(one: str, other: str) -> None:
    assert story_key(one) == story_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Harrowgate rises 2%", "Harrowgate rises 3%"),
        ("Harrowgate beats estimates", "Harrowgate misses estimates"),
        ("!!!", "???"),
    ],
)
def test_other_words_and_numbers_are_another_story(one: str, other: str) -> None:
    assert story_key(one) != story_key(other)


def test_a_copy_gets_the_name_of_the_story_it_repeats() -> None:
    stories = Stories(timedelta(hours=48))
    story, copy = stories.assign("Harrowgate Trust halts withdrawals", NOON)
    assert not copy
    assert stories.assign("UPDATE 1-Harrowgate Trust halts withdrawals", NOON + timedelta(hours=47)) == (story, True)


def test_a_standing_headline_is_a_new_story_when_the_old_one_is_forgotten() -> None:
    stories = Stories(timedelta(hours=48))
    first, _ = stories.assign("Stocks to watch today", NOON)
    second, copy = stories.assign("Stocks to watch today", NOON + timedelta(hours=49))
    assert not copy
    assert second != first


def test_assigning_again_after_a_failed_commit_gives_the_same_story() -> None:
    stories = Stories(timedelta(hours=48))
    assert stories.assign("Harrowgate falls", NOON)[0] == stories.assign("Harrowgate falls", NOON)[0]


def test_a_restart_remembers_what_the_store_kept() -> None:
    before, after = Stories(timedelta(hours=48)), Stories(timedelta(hours=48))
    story, _ = before.assign("Harrowgate falls", NOON)
    after.restore("Harrowgate falls", story, NOON)
    assert after.assign("Harrowgate falls!", NOON + timedelta(minutes=5)) == (story, True)


def test_a_copy_prolongs_no_story_after_a_restart_either() -> None:
    after = Stories(timedelta(hours=48))
    after.restore("Harrowgate falls", "s", NOON)
    after.restore("Harrowgate falls", "s", NOON + timedelta(hours=47))
    assert after.assign("Harrowgate falls", NOON + timedelta(hours=49))[0] != "s"


def test_stories_told_before_the_horizon_are_forgotten() -> None:
    stories = Stories(timedelta(hours=48))
    stories.assign("old", NOON)
    stories.assign("new", NOON + timedelta(hours=3))
    stories.forget(before=NOON + timedelta(hours=1))
    assert len(stories) == 1
