"""The only parser of the news record's wire format, and the reading of JSON that other formats share with it."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from monitor.records import NewsItem, RecordError, digest

MAX_RECORD_BYTES: Final = 1 << 20
MAX_TITLE_CHARS: Final = 1_000
MAX_BODY_CHARS: Final = 100_000
MAX_ID_CHARS: Final = 256
MAX_FIELD_CHARS: Final = 2_048
YEARS: Final = range(1900, 2201)
"""Of `published_at`. Dates outside stand for "no date" somewhere, such as the year 1."""


def parse(raw: bytes) -> NewsItem:
    """Read one news record: a JSON object in UTF-8, as the README's table of the record describes it.

    Raises:
        RecordError: the record breaks the contract. Nothing else is raised, whatever the bytes.
    """
    data = json_object(raw)
    title = _title(data)
    published_at = _time(data)
    source = text_of(data, "source", MAX_FIELD_CHARS)
    url = text_of(data, "url", MAX_FIELD_CHARS)
    if url is not None and not url.lower().startswith(("http://", "https://")):
        raise RecordError("bad_value", f"url: {shown(url)} is not an http or https link")
    language = text_of(data, "language", MAX_FIELD_CHARS)
    if language is not None and not _BCP47.fullmatch(language):
        raise RecordError("bad_value", f"language: {shown(language)} is not a BCP 47 tag such as en or pt-BR")
    body = text_of(data, "body", MAX_BODY_CHARS)
    item_id = text_of(data, "id", MAX_ID_CHARS)
    if item_id is None:
        item_id = digest(source or "", url or title, published_at.isoformat())
    return NewsItem(item_id, title, published_at, body, source, url, language)


def json_object(raw: bytes) -> dict[str, object]:
    """The JSON object that a record in UTF-8 holds.

    Raises:
        RecordError: it holds none, or is too large.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordError("too_large", f"record is {len(raw):,} bytes, at most {MAX_RECORD_BYTES:,} are accepted")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("not_utf8", f"byte {error.start} of the record is not UTF-8") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("not_json", f"record is not JSON: {error} in {shown(text)}") from error
    if not isinstance(data, dict):
        raise RecordError("not_object", f"record is {kind_of(data)}, expected a JSON object: {shown(text)}")
    return data


_BCP47 = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")
_RFC3339 = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[Tt ](?P<minute>\d{2}:\d{2}):(?P<second>\d{2})(?P<fraction>\.\d+)?"
    r"(?P<offset>[Zz]|[+-]\d{2}:\d{2})?",
    re.ASCII,
)


def _title(data: dict[str, object]) -> str:
    title = text_of(data, "title", MAX_TITLE_CHARS)
    if title is None:
        if "title" in data:
            raise RecordError("bad_value", f"title: {shown(data['title'])} has no text")
        raise RecordError("missing", f"title: missing; the record has the keys {shown(sorted(data))}")
    return title


def text_of(data: dict[str, object], key: str, max_chars: int) -> str | None:
    """The trimmed text under `key`; None where it is absent, null or blank."""
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{key}: {shown(value)} is {kind_of(value)}, expected text")
    if "\0" in value:
        raise RecordError("nul", f"{key}: {shown(value)} has a NUL character")
    value = value.strip()
    if len(value) > max_chars:
        raise RecordError(
            "bad_value",
            f"{key}: {len(value):,} characters, at most {max_chars:,} are accepted: {shown(value)}",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("bad_value", f"{key}: {shown(value)} has half of a surrogate pair") from error
    return value or None


def _time(data: dict[str, object]) -> datetime:
    value = text_of(data, "published_at", MAX_FIELD_CHARS)
    if value is None:
        raise RecordError("missing", f"published_at: missing; the record has the keys {shown(sorted(data))}")
    try:
        return moment(value)
    except ValueError as error:
        raise RecordError("bad_value", f"published_at: {shown(value)} {error}") from error


def moment(text: str) -> datetime:
    """The time that an RFC 3339 text with an offset gives, in UTC.

    Raises:
        ValueError: it is none; the message goes on from the text: "is not a time, expected ...".
    """
    match = _RFC3339.fullmatch(text)
    expected = "expected RFC 3339 with an offset, e.g. 2023-03-10T16:42:07Z"
    if match is None:
        raise ValueError(f"is not a time, {expected}")
    if match["offset"] is None:
        raise ValueError(f"has no offset, {expected}")
    # datetime knows no 60th second: a leap second becomes the start of the next minute.
    leap = match["second"] == "60"
    second = "59" if leap else match["second"]
    fraction = "" if leap else (match["fraction"] or "")[:7]
    try:
        local = datetime.fromisoformat(
            f"{match['date']}T{match['minute']}:{second}{fraction}{match['offset'].upper()}"
        )
        found = (local + timedelta(seconds=leap)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is no real time ({error}), {expected}") from error
    if found.year not in YEARS:
        raise ValueError(f"is not in the years {YEARS[0]} to {YEARS[-1]}")
    return found


def shown(value: object, max_chars: int = 120) -> str:
    """A value as an error message shows it: one line, escaped, cut."""
    text = ascii(value) if not isinstance(value, str) else ascii(value[: max_chars + 1])
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def kind_of(value: object) -> str:
    """What a value of JSON is, in words: text, a number."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
