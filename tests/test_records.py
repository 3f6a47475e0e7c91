"""The wire format: what is accepted, what is rejected and with which words."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.records import RecordError, bucket_start, window_name
from monitor.wire import parse


def _raw(**keys: Any) -> bytes:
    return json.dumps({"title": "Harrowgate shares fall", "published_at": "2023-03-10T16:42:07Z"} | keys).encode()


def test_a_record_with_every_key_is_read_as_it_stands() -> None:
    item = parse(_raw(id="a1", body="More.", source="Wire", url="https://example.com/1", language="en-GB"))
    assert (item.id, item.body, item.source, item.url, item.language) == (
        "a1", "More.", "Wire", "https://example.com/1", "en-GB",
    )  # fmt: skip
    assert item.published_at == datetime(2023, 3, 10, 16, 42, 7, tzinfo=UTC)


def test_text_is_trimmed_and_blank_optional_keys_count_as_absent() -> None:
    item = parse(_raw(title="  Up \n", body="  ", source="", url=None))
    assert (item.title, item.body, item.source, item.url) == ("Up", None, None, None)


def test_other_keys_are_ignored() -> None:
    assert parse(_raw(rating=[1, {"x": None}])).title == "Harrowgate shares fall"


def test_a_record_without_an_id_gets_the_same_one_every_time_and_another_one_for_other_news() -> None:
    same = {parse(_raw(source="Wire")).id, parse(_raw(source="Wire", body="later found")).id}
    assert len(same) == 1
    others = {parse(_raw(source="Else")).id, parse(_raw(title="Other", source="Wire")).id}
    assert same.isdisjoint(others)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-03-10T16:42:07+01:00", datetime(2023, 3, 10, 15, 42, 7, tzinfo=UTC)),
        ("2023-03-10t16:42:07.123456789z", datetime(2023, 3, 10, 16, 42, 7, 123456, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2023-03-10 16:42:07-00:00", datetime(2023, 3, 10, 16, 42, 7, tzinfo=UTC)),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, expected: datetime) -> None:
    assert parse(_raw(published_at=text)).published_at == expected


@pytest.mark.parametrize(
    ("raw", "reason", "message"),
    [
        (b"", "not_json", r"record is not JSON"),
        (b"\xff{}", "not_utf8", r"byte 0 of the record is not UTF-8"),
        (b"[1, 2]", "not_object", r"record is a list, expected a JSON object: '\[1, 2\]'"),
        (b"[" * 100_000, "not_json", r"record is not JSON"),
        (b'{"title": ' + b"9" * 5_000 + b"}", "not_json", r"record is not JSON"),
        (b" " * (1 << 20) + b"{}", "too_large", r"record is 1,048,578 bytes, at most 1,048,576"),
        (b'{"published_at": "2023-03-10T16:42:07Z"}', "missing", r"title: missing; .*published_at"),
        (_raw(title=None), "bad_value", r"title: None has no text"),
        (_raw(title=" \t"), "bad_value", r"title: ' \\t' has no text"),
        (_raw(title=7), "wrong_type", r"title: 7 is a number, expected text"),
        (_raw(title=True), "wrong_type", r"title: True is true or false, expected text"),
        (_raw(title="x" * 1_001), "bad_value", r"title: 1,001 characters, at most 1,000"),
        (_raw(body="x" * 100_001), "bad_value", r"body: 100,001 characters, at most 100,000"),
        (_raw(id="x" * 257), "bad_value", r"id: 257 characters, at most 256"),
        (_raw(body="a\0b"), "nul", r"body: 'a\\x00b' has a NUL character"),
        (_raw(body=["a"]), "wrong_type", r"body: \['a'\] is a list, expected text"),
        (b'{"title": "\\ud800", "published_at": "2023-03-10T16:42:07Z"}', "bad_value", r"half of a surrogate pair"),
        (_raw(url="javascript:alert(1)"), "bad_value", r"url: 'javascript:alert\(1\)' is not an http or https link"),
        (_raw(language="not a tag"), "bad_value", r"language: 'not a tag' is not a BCP 47 tag"),
        (_raw(published_at=1678466527), "wrong_type", r"published_at: 1678466527 is a number, expected text"),
        (_raw(published_at="2023-03-10T16:42:07"), "bad_value", r"'2023-03-10T16:42:07' has no offset, expected RFC"),
        (_raw(published_at="yesterday"), "bad_value", r"published_at: 'yesterday' is not a time"),
        (_raw(published_at="2023-02-30T16:42:07Z"), "bad_value", r"'2023-02-30T16:42:07Z' is no real time"),
        (_raw(published_at="0001-01-01T00:00:00+14:00"), "bad_value", r"is no real time"),
        (_raw(published_at="0001-01-01T00:00:00Z"), "bad_value", r"is not in the years 1900 to 2200"),
        (_raw(published_at="9999-12-31T23:59:59Z"), "bad_value", r"is not in the years 1900 to 2200"),
        (b'{"title": "x"}', "missing", r"published_at: missing; the record has the keys \['title'\]"),
    ],
)
def test_a_wrong_record_is_rejected_with_the_key_the_value_and_the_rule(
    raw: bytes, reason: str, message: str
) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        parse(raw)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from(["title", "published_at", "id", "body", "source", "url", "language", "other"])
_TIMES = st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.from_regex(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})?", fullmatch=True
)


def _parses_or_rejects(raw: bytes) -> None:
    try:
        item = parse(raw)
    except RecordError as error:
        assert str(error)
    else:
        assert 1 <= len(item.title) <= 1_000
        assert item.published_at.tzinfo is UTC
        for text in (item.id, item.title, item.body, item.source, item.url, item.language):
            if text is not None:
                assert "\0" not in text
                text.encode("utf-8")


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise_anything_else(raw: bytes) -> None:
    _parses_or_rejects(raw)


@given(st.dictionaries(_KEYS, _VALUES | _TIMES))
def test_no_json_object_makes_it_raise_anything_else(data: dict[str, Any]) -> None:
    _parses_or_rejects(json.dumps(data).encode())


@given(st.text(min_size=1, max_size=30), _TIMES)
def test_no_title_and_time_make_it_raise_anything_else(title: str, time: str) -> None:
    _parses_or_rejects(
        json.dumps({"title": title, "published_at": time}, ensure_ascii=False).encode("utf-8", "replace")
    )


def test_a_bucket_starts_at_every_fifth_minute() -> None:
    assert bucket_start(datetime(2023, 3, 10, 16, 44, 59, 999999, tzinfo=UTC)) == datetime(
        2023, 3, 10, 16, 40, tzinfo=UTC
    )
    assert bucket_start(datetime(1, 1, 1, 0, 7, tzinfo=UTC)) == datetime(1, 1, 1, 0, 5, tzinfo=UTC)


def test_windows_are_named_as_people_write_them() -> None:
    assert [window_name(minutes) for minutes in (15, 60, 90, 180, 1440)] == ["15m", "1h", "90m", "3h", "24h"]
