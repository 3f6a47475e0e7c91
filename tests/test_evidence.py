"""What lies behind an alert: how stories are ranked, who told them, and which words stand out."""

from datetime import UTC, datetime, timedelta

from monitor.evidence import publishers, standing_out, stories, words
from monitor.records import StoredItem

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)


def item(name: str, story: str, score: float, *, source: str | None = None, copy: bool = False) -> StoredItem:
    at = NOON + timedelta(minutes=len(name))
    url = f"https://{source}.test/{name}" if source else None
    return StoredItem(
        name, f"title {name}", at, None, source, url, None, at, story, "T", "negative", score, "m", False, copy
    )


def test_the_most_negative_story_comes_first() -> None:
    ranked = stories([item("a", "mild", -0.6), item("b", "grave", -0.9)], 5)
    assert [story.title for story in ranked] == ["title b", "title a"]


def test_copies_outweigh_a_slightly_worse_story_and_are_told_as_one() -> None:
    copied = [item(f"c{n}", "copied", -0.7 - n / 100, source=f"p{n % 2}", copy=n > 0) for n in range(4)]
    ranked = stories([item("a", "alone", -0.9), *copied], 5)
    assert [(story.title, story.copies) for story in ranked] == [("title c3", 4), ("title a", 1)]
    assert ranked[0].publishers == ("p0", "p1")


def test_a_story_told_before_the_window_weighs_half() -> None:
    old, new = item("old", "old", -0.9, copy=True), item("new", "new", -0.5)
    assert [story.id for story in stories([old, new], 5)] == ["new", "old"]


def test_no_more_stories_are_given_than_asked_for() -> None:
    assert len(stories([item(f"i{n}", f"s{n}", -0.8) for n in range(9)], 5)) == 5


def test_a_story_has_the_link_of_a_copy_where_its_worst_item_has_none() -> None:
    [story] = stories([item("a", "s", -0.9), item("b", "s", -0.7, source="wire", copy=True)], 5)
    assert (story.id, story.url) == ("a", "https://wire.test/b")


def test_publishers_are_unknown_where_no_item_names_one() -> None:
    assert publishers([item("a", "s", -0.9), item("b", "s", -0.9)]) is None
    assert publishers([item("a", "s", -0.9), item("b", "s", -0.9, source="x"), item("c", "t", -1, source="x")]) == 1


def test_words_are_lower_case_and_no_numbers() -> None:
    assert words("SVB's run: 42% are AT&T's, gone by 2023") == {"svb's", "run", "are", "at&t's", "gone"}


def test_words_of_two_letters_count_only_where_they_are_abbreviations() -> None:
    assert words("US tells EU to go on as a bank of AI") == {"us", "tells", "eu", "bank", "ai"}


def test_words_more_frequent_than_before_stand_out_and_those_always_there_do_not() -> None:
    before = [{"the", "market", f"word{n}"} for n in range(200)]
    now = [{"the", "bank", "run"}] * 10 + [{"the", "bank", "market"}] * 5
    assert standing_out(now, before) == ("bank", "run")


def test_what_two_texts_have_in_common_is_chance() -> None:
    assert standing_out([{"bank"}, {"bank"}], [{"market"}] * 100) == ()


def test_nothing_stands_out_of_nothing() -> None:
    assert standing_out([], []) == ()
    assert standing_out([{"a"}] * 5, []) == ()
