"""Files as sources: what is read, where reading goes on, and what becomes of what cannot be read."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.config import FileSettings
from monitor.records import Batch, PositionUpdate, RawRecord, RecordError
from monitor.sources import SourceError
from monitor.sources.files import FileSource, read_records
from monitor.wire import MAX_BODY_CHARS, MAX_RECORD_BYTES, parse

HEADER = b"title,published_at,body\n"
ROW = b"Bank fails,2023-03-10T16:42:07Z,Depositors ran.\n"


class Positions:
    """The database's position of one file."""

    def __init__(self, position: int | None = None) -> None:
        self.held = position

    def read(self, partitions: Sequence[int]) -> Mapping[int, int]:
        assert partitions == [0]
        return {} if self.held is None else {0: self.held}

    def store(self, batch: Batch) -> None:
        for update in batch.positions:
            assert update.expected == self.held
            self.held = update.next


def source_of(path: Path, positions: Positions | None = None, **options: Any) -> FileSource:
    return FileSource(FileSettings(path=path, **({"follow": False} | options)), (positions or Positions()).read)


def poll(source: FileSource, max_items: int = 64, wait_s: float = 0.0) -> Batch:
    return source.poll(max_items, linger_s=0.0, wait_s=wait_s)


def values(records: Sequence[RawRecord]) -> list[bytes]:
    return [record.value for record in records]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "news.jsonl"
    path.write_bytes(b"".join(b'{"n": %d}\n' % number for number in range(10)))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "news.csv"
    path.write_bytes(HEADER + ROW)
    return path


# JSON Lines


def test_each_line_is_a_record_and_its_number_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": \xff}\n{"c": 3}')
    assert list(read_records(path)) == [
        RawRecord(0, 0, b'{"a": 1}'),
        RawRecord(0, 3, b'{"b": \xff}'),
        RawRecord(0, 4, b'{"c": 3}'),
    ]


def test_stream_is_read_as_json_lines_and_left_open() -> None:
    stream = io.BytesIO(b'{"a": 1}\n{"b": 2}')
    assert values(list(read_records(stream))) == [b'{"a": 1}', b'{"b": 2}']
    assert not stream.closed


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_json_lines_are_known_by_their_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"news{suffix}"
    path.write_bytes(b"{}\n")
    assert values(list(read_records(path))) == [b"{}"]


def test_line_too_long_for_a_record_is_cut_so_that_parsing_rejects_it(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    fits = b'"' + b"x" * (MAX_RECORD_BYTES - 2) + b'"'
    path.write_bytes(b"x" * (3 * MAX_RECORD_BYTES) + b"\n" + fits + b"\n" + b"{}\n")
    long, longest, short = read_records(path)
    with pytest.raises(RecordError, match="at most 1,048,576 are accepted") as rejected:
        parse(long.value)
    assert rejected.value.reason == "too_large"
    assert len(long.value) == MAX_RECORD_BYTES + 1
    assert longest == RawRecord(0, 1, fits)
    assert short == RawRecord(0, 2, b"{}")


# Positions


def test_positions_chain_and_the_end_is_seen(lines: Path) -> None:
    positions = Positions()
    with closing(source_of(lines, positions)) as source:
        assert source.name == f"file:{lines}"
        first = poll(source, max_items=6)
        assert first.positions == (PositionUpdate(0, expected=None, next=6),)
        positions.store(first)
        source.committed(first)
        assert not source.exhausted()
        second = poll(source, max_items=6)
        assert second.positions == (PositionUpdate(0, expected=6, next=10),)
        assert not source.exhausted(), "what is in hand may have to be read again"
        source.committed(second)
        assert source.exhausted()
        assert poll(source) == Batch()


def test_restarted_run_goes_on_at_the_stored_line(lines: Path) -> None:
    with closing(source_of(lines, Positions(7))) as source:
        batch = poll(source)
    assert values(batch.records) == [b'{"n": 7}', b'{"n": 8}', b'{"n": 9}']
    assert batch.positions == (PositionUpdate(0, expected=7, next=10),)


def test_batch_that_was_not_stored_is_read_again(lines: Path) -> None:
    positions = Positions(2)
    with closing(source_of(lines, positions)) as source:
        assert values(poll(source, max_items=2).records) == [b'{"n": 2}', b'{"n": 3}']
        positions.held = 3
        assert poll(source, max_items=2).positions == (PositionUpdate(0, expected=3, next=5),)


def test_lag_counts_the_lines_that_were_not_read(lines: Path) -> None:
    with closing(source_of(lines, follow=True)) as source:
        assert source.lag() == {0: 10}
        poll(source, max_items=4)
        assert source.lag() == {0: 6}
        with lines.open("ab") as file:
            file.write(b"{}\n{}\n")
        assert source.lag() == {0: 8}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.lists(st.sampled_from([b'"', b"\n", b"\r\n", b",", b"a", b"\xff", b"\0", b"\xef\xbb\xbf"])).map(
        b"".join
    ),
    kind=st.sampled_from(["jsonl", "csv"]),
    batch_items=st.integers(1, 3),
)
def test_any_restart_gives_the_same_records_whatever_the_bytes(
    tmp_path: Path, content: bytes, kind: str, batch_items: int
) -> None:
    path = tmp_path / f"any.{kind}"
    path.write_bytes(HEADER + content)
    whole = list(read_records(path))
    restarted: list[RawRecord] = []
    positions = Positions()
    while True:
        with closing(source_of(path, positions)) as source:
            batch = poll(source, max_items=batch_items)
        if not batch.records:
            break
        restarted += batch.records
        positions.store(batch)
    assert restarted == whole


# A file that grows


def test_unfinished_last_line_waits_for_its_end_while_the_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n"')
    with closing(source_of(path, follow=True)) as source, path.open("ab", buffering=0) as file:
        batch = poll(source)
        assert values(batch.records) == [b'{"n": 0}']
        source.committed(batch)
        assert poll(source, wait_s=0.01) == Batch()
        file.write(b": 1}\n")
        assert poll(source, wait_s=10).records == (RawRecord(0, 1, b'{"n": 1}'),)
        assert not source.exhausted()


def test_unfinished_row_waits_for_its_closing_quote_while_the_file_is_followed(table: Path) -> None:
    with closing(source_of(table, follow=True)) as source, table.open("ab", buffering=0) as file:
        source.committed(poll(source))
        file.write(b'"Two\n')
        assert poll(source) == Batch()
        file.write(b'lines",2023-03-10T16:42:07Z,\n')
        (record,) = poll(source, wait_s=10).records
    assert record.offset == 2
    assert json.loads(record.value)["title"] == "Two\nlines"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: os.truncate(path, 9), "was cut short after 10 of its lines were read"),
        (
            lambda path: (path.with_name("new").write_bytes(b"{}\n"), path.with_name("new").replace(path)),
            "was replaced by another",
        ),
        (lambda path: path.unlink(), r"cannot be read \(No such file or directory\)"),
    ],
)
def test_followed_file_that_is_not_the_same_any_more_is_an_error(lines: Path, change: Any, message: str) -> None:
    with closing(source_of(lines, follow=True)) as source:
        source.committed(poll(source))
        change(lines)
        with pytest.raises(SourceError, match=f"news.jsonl: {message}"):
            poll(source)


def test_file_with_fewer_lines_than_were_read_is_an_error(lines: Path) -> None:
    with (
        closing(source_of(lines, Positions(11))) as source,
        pytest.raises(SourceError, match=r"news\.jsonl: has only 10 lines, but 11 of them were read before"),
    ):
        poll(source)


# CSV


def test_row_becomes_a_record_with_its_own_bytes_beside_it(table: Path) -> None:
    (record,) = read_records(table)
    item = parse(record.value)
    assert (item.title, item.body) == ("Bank fails", "Depositors ran.")
    assert record.offset == 1
    assert record.original == ROW.rstrip()


def test_columns_are_mapped_to_keys_and_others_left_out(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text(
        "\ufefffeed, headline ,published_utc,link,description,mood\n"
        'Wire,"Profit ""up"", says X",2023-03-10T16:42:07Z,https://example.com/1,,sad\n'
    )
    (record,) = read_records(
        path,
        {
            "title": "headline",
            "published_at": "published_utc",
            "source": "feed",
            "body": "description",
            "url": "link",
        },
    )
    assert json.loads(record.value) == {
        "title": 'Profit "up", says X',
        "published_at": "2023-03-10T16:42:07Z",
        "source": "Wire",
        "url": "https://example.com/1",
    }


def test_quoted_line_breaks_belong_to_the_cell_and_count_as_lines(table: Path) -> None:
    with table.open("ab") as file:
        file.write(b'\n"One\r\ntwo\nthree",2023-03-10T16:42:07Z,\r\n' + ROW)
    records = list(read_records(table))
    assert [record.offset for record in records] == [1, 3, 6]
    assert json.loads(records[1].value)["title"] == "One\r\ntwo\nthree"


def test_html_in_a_body_is_reduced_to_its_text(table: Path) -> None:
    with table.open("ab") as file:
        file.write(
            b'T,2023-03-10T16:42:07Z,"<p>Shares of <a href=""x"">Acme</a> &amp; Co fell.</p>'
            b'<script>x()</script><p>More.</p>"\n'
            b'T,2023-03-10T16:42:07Z,"Plain: a < b, R&D"\n'
        )
    _, marked_up, plain = (parse(record.value).body for record in read_records(table))
    assert marked_up == "Shares of Acme & Co fell. More."
    assert plain == "Plain: a < b, R&D"


def test_body_longer_than_a_record_takes_is_cut(table: Path) -> None:
    with table.open("ab") as file:
        file.write(b"T,2023-03-10T16:42:07Z,<p>" + b"long " * 40_000 + b"</p>\n")
    *_, long = read_records(table)
    body = parse(long.value).body
    assert body is not None
    assert MAX_BODY_CHARS - 5 <= len(body) <= MAX_BODY_CHARS


def test_time_without_offset_stays_an_error_of_the_record(table: Path) -> None:
    with table.open("ab") as file:
        file.write(b"T,2023-03-10 16:42:07,\n")
    *_, record = read_records(table)
    with pytest.raises(RecordError, match=r"published_at: '2023-03-10 16:42:07' has no offset"):
        parse(record.value)


def test_row_that_is_not_utf8_is_rejected_alone(table: Path) -> None:
    with table.open("ab") as file:
        file.write(b"Caf\xe9,2023-03-10T16:42:07Z,\n" + ROW)
    _, broken, fine = read_records(table)
    with pytest.raises(RecordError, match="byte 3 of the record is not UTF-8"):
        parse(broken.value)
    assert parse(fine.value).title == "Bank fails"


def test_quote_that_is_never_closed_costs_one_rejected_record_and_no_more_memory(table: Path) -> None:
    with table.open("ab") as file:
        file.write(b'"Never closed,2023-03-10T16:42:07Z,\n' + ROW * 60_000)
    first, swallowed, *rest = read_records(table)
    assert len(swallowed.value) == MAX_RECORD_BYTES + 1
    with pytest.raises(RecordError, match="at most 1,048,576"):
        parse(swallowed.value)
    assert len(rest) > 30_000
    assert {record.value for record in rest} == {first.value}


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            b"headline,when\n",
            {},
            r"no column 'title' \(for title\), 'published_at' \(for published_at\); its columns are 'headline', ",
        ),
        (
            b"title,published_at\n",
            {"body": "text"},
            r"no column 'text' \(for body\); its columns are 'title', 'published_at'",
        ),
        (
            b"title,published_at\n",
            {"headline": "title"},
            "headline is no key of the news record, expected id, title,",
        ),
        (b"", {}, "has no first line that names its columns"),
    ],
)
def test_column_that_is_not_there_is_named_beside_those_that_are(
    tmp_path: Path, header: bytes, columns: dict[str, str], message: str
) -> None:
    path = tmp_path / "news.csv"
    path.write_bytes(header)
    with pytest.raises(SourceError, match=message):
        read_records(path, columns)
    with pytest.raises(SourceError, match=message):
        source_of(path, columns=columns)


def test_columns_make_no_sense_for_json_lines(lines: Path) -> None:
    with pytest.raises(SourceError, match=r"news\.jsonl: columns were given, but only \.csv files have columns"):
        read_records(lines, {"title": "headline"})


# Files that cannot be read


def test_file_that_cannot_be_read_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name, why in (
        ("missing.jsonl", "No such file or directory"),
        ("folder.jsonl", "Is a directory"),
        ("news.txt", r"the ending '\.txt' is not known, expected \.jsonl"),
    ):
        with pytest.raises(SourceError, match=f"{name}: .*{why}"):
            source_of(tmp_path / name)
        with pytest.raises(SourceError, match=f"{name}: .*{why}"):
            read_records(tmp_path / name)


def test_file_source_needs_a_path() -> None:
    with pytest.raises(SourceError, match=r"file\.path is not set"):
        FileSource(FileSettings(), Positions().read)


# Dead letters


def rejected(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_dead_letter_keeps_reason_line_and_original_bytes(table: Path) -> None:
    with closing(source_of(table)) as source:
        (record,) = poll(source).records
        source.reject(record, RecordError("missing", "title: missing"))
        source.reject(RawRecord(0, 7, b"\xff\x00"), RecordError("not_utf8", "byte 0 of the record is not UTF-8"))
        source.reject(RawRecord(0, 8, b"x" * (MAX_RECORD_BYTES + 1)), RecordError("too_large", "too large"))
    text, binary, cut = rejected(table.with_name("news.csv.rejected.jsonl"))
    assert text == {
        "reason": "missing",
        "message": "title: missing",
        "path": str(table),
        "line": 2,
        "record": ROW.decode().rstrip(),
    }
    assert (binary["line"], binary["record_base64"], "record" in binary) == (8, "/wA=", False)
    assert (cut["cut"], len(cut["record"])) == (True, MAX_RECORD_BYTES + 1)


def test_dead_letters_go_where_the_settings_say_or_stop_the_batch(lines: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "elsewhere.jsonl"
    error = RecordError("not_json", "record is not JSON")
    with closing(source_of(lines, dead_letter_path=chosen)) as source:
        source.reject(RawRecord(0, 0, b"?"), error)
        assert rejected(chosen)[0]["record"] == "?"
    with (
        closing(source_of(lines, dead_letter_path=tmp_path)) as source,
        pytest.raises(
            SourceError, match=r"rejected records cannot be written \(Is a directory\).*file\.dead_letter_path"
        ),
    ):
        source.reject(RawRecord(0, 0, b"?"), error)
