"""The record of labels, the majority, and how far people agree."""

import json
from datetime import UTC, datetime, timedelta
from math import isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.labels import Label, agreement, majority, parse
from monitor.records import RecordError

NOW = datetime(2024, 3, 8, 12, tzinfo=UTC)


def _raw(**keys: object) -> bytes:
    return json.dumps({"id": "n1", "task": "sentiment", "label": "negative", "by": "Ada"} | keys).encode()


def _wide(**keys: object) -> bytes:
    return json.dumps({"id": "n1", "by": "Ada"} | keys).encode()


def _vote(label: str, hour: int, who: str) -> Label:
    return Label("n1", "topic", label, who, datetime(2024, 3, 8, hour, tzinfo=UTC))


def test_a_record_says_what_one_person_says_of_one_item() -> None:
    assert parse(_raw(), NOW) == (Label("n1", "sentiment", "negative", "Ada", None),)
    [timed] = parse(_raw(at="2024-03-08T10:30:00+01:00"), NOW)
    assert timed.at == datetime(2024, 3, 8, 9, 30, tzinfo=UTC)


def test_both_tasks_can_stand_in_one_record() -> None:
    assert parse(_wide(topic=" Macro ", sentiment="neutral"), NOW) == (
        Label("n1", "topic", "Macro", "Ada"),
        Label("n1", "sentiment", "neutral", "Ada"),
    )
    assert parse(_wide(topic="", sentiment="neutral"), NOW) == (Label("n1", "sentiment", "neutral", "Ada"),)


def test_a_form_that_nobody_filled_in_says_nothing() -> None:
    assert parse(json.dumps({"id": "n1", "topic": "", "sentiment": None, "by": ""}).encode(), NOW) == ()


def test_a_label_may_be_dated_as_far_ahead_as_clocks_differ() -> None:
    assert parse(_raw(at="2024-03-08T12:05:00Z"), NOW)[0].at == NOW + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("raw", "reason", "message"),
    [
        (b"{", "not_json", r"record is not JSON"),
        (b"[]", "not_object", r"record is a list, expected a JSON object"),
        (_raw(id=None), "missing", r"id: blank; the record has the keys"),
        (_wide(topic="Macro", by=" "), "missing", r"by: blank; the record has the keys"),
        (b'{"by": "Ada", "topic": "Macro"}', "missing", r"id: missing; the record has the keys \['by', 'topic'\]"),
        (_raw(id=7), "wrong_type", r"id: 7 is a number, expected text"),
        (_raw(by="x" * 257), "bad_value", r"by: 257 characters, at most 256"),
        (
            _raw(task="sentimant"),
            "bad_value",
            r"task: 'sentimant' is no task, .* topic, sentiment; did you mean",
        ),
        (_raw(label=None), "missing", r"label: missing; task and label go together"),
        (_raw(task=""), "missing", r"task: missing; task and label go together"),
        (_wide(), "missing", r"label: missing; give task and label, or topic, sentiment or both; .*\['by', 'id'\]"),
        (_raw(topic="Macro"), "bad_value", r"label: given twice, give either task and label, or topic"),
        (
            _raw(label="Negative"),
            "bad_value",
            r"sentiment: 'Negative' is no sentiment, expected one of negative",
        ),
        (_wide(sentiment="bad"), "bad_value", r"sentiment: 'bad' is no sentiment, expected one of negative, neutral"),
        (_raw(at="noon"), "bad_value", r"at: 'noon' is not a time, expected RFC 3339 with an offset"),
        (_raw(at="2024-03-08T10:30:00"), "bad_value", r"at: '2024-03-08T10:30:00' has no offset"),
        (
            _raw(at="2024-03-08T12:05:01Z"),
            "bad_value",
            r"at: .* lies after its arrival at 2024-03-08T12:00:00Z; s",
        ),
    ],
)
def test_what_breaks_the_contract_is_named_with_its_value(raw: bytes, reason: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        parse(raw, NOW)
    assert caught.value.reason == reason


_JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=3)
_KEYS = st.sampled_from(["id", "task", "label", "topic", "sentiment", "by", "at", "other"])


@settings(deadline=None)
@given(st.binary() | st.dictionaries(_KEYS, _JSON).map(lambda data: json.dumps(data).encode()))
def test_nothing_but_a_record_error_is_raised_whatever_the_bytes(raw: bytes) -> None:
    try:
        labels = parse(raw, NOW)
    except RecordError:
        return
    assert all(label.item and label.who and label.label for label in labels)


def test_the_majority_is_what_most_people_say() -> None:
    verdict = majority([_vote("Macro", 9, "Ada"), _vote("Fed", 11, "Bob"), _vote("Macro", 8, "Cleo")])
    assert (verdict.label, verdict.votes, verdict.of) == ("Macro", 2, 3)


def test_in_a_tie_the_label_that_was_given_last_counts_and_at_one_time_the_first_by_the_alphabet() -> None:
    split = [_vote("Macro", 9, "Ada"), _vote("Fed", 10, "Bob"), _vote("Macro", 11, "Cleo"), _vote("Fed", 8, "Dan")]
    assert majority(split).label == "Macro"
    assert majority([_vote("Macro", 9, "Ada"), _vote("Fed", 9, "Bob")]).label == "Fed"


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
_FOUR = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
# His example of three coders and fifteen units, as it stands in the article "Krippendorff's alpha" of Wikipedia.
_THREE = """
. . . . . 3 4 1 2 1 1 3 3 . 3
1 . 2 1 3 3 4 3 . . . . . . .
. . 2 1 3 4 4 . 2 1 1 3 3 . 4
"""


@pytest.mark.parametrize(("table", "alpha"), [(_FOUR, 0.743), (_THREE, 0.691)], ids=["four", "three"])
def test_agreement_is_what_its_author_computes(table: str, alpha: float) -> None:
    units = zip(*(line.split() for line in table.strip().splitlines()), strict=True)
    assert agreement([[value for value in unit if value != "."] for unit in units]) == pytest.approx(alpha, abs=5e-4)


def test_agreement_is_one_where_all_agree_and_below_zero_where_none_does() -> None:
    assert agreement([["a", "a"], ["b", "b", "b"]]) == 1
    assert agreement([["a", "b"], ["b", "a"]]) < 0


@pytest.mark.parametrize("items", [[], [["a"], ["b"]], [["a", "a"], ["a", "a"]]], ids=["none", "alone", "one label"])
def test_agreement_that_nothing_can_be_said_of_is_nan(items: list[list[str]]) -> None:
    assert isnan(agreement(items))
