"""News from a file: JSON Lines, or CSV whose rows become news records. The position is the number of lines read."""

import base64
import csv
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from selectolax.lexbor import LexborHTMLParser

from monitor.config import FileSettings
from monitor.records import Batch, PositionUpdate, RawRecord, RecordError
from monitor.sources import NEWS, Form, ReadPositions, SourceError
from monitor.wire import MAX_BODY_CHARS, MAX_RECORD_BYTES

_JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".json")
_CSV_SUFFIX = ".csv"
_BOM = b"\xef\xbb\xbf"
# One byte more than a record may have: parsing rejects what is cut to this as too large.
_CUT_BYTES = MAX_RECORD_BYTES + 1
_CHUNK_BYTES = 1 << 20
_LOOK_AGAIN_S = 0.05

# The module's own limit of 128 KiB is for a cell; here the whole record is limited, as it is read.
csv.field_size_limit(max(csv.field_size_limit(), _CUT_BYTES))


class FileSource:
    """A file as a stream of one partition, 0. An offset is a record's first line, counted from 0.

    As from Kafka, a batch counts as stored once `committed` was called with it; a poll before that gives the batch
    up, and reads on from where the database says.

    Attributes:
        name: `file:` and the absolute path, under which the store keeps the position.
        expired: always 0.

    Raises:
        SourceError: the file cannot be read as what its name says it is.
    """

    def __init__(self, settings: FileSettings, read_positions: ReadPositions) -> None:
        if settings.path is None:
            raise SourceError("file.path is not set; name the JSON Lines or CSV file to read")
        self._path = settings.path.absolute()
        self.name = f"file:{self._path}"
        self._columns = settings.columns
        self._follow = settings.follow
        self._dead_letters = settings.dead_letter_path or self._path.with_name(f"{self._path.name}.rejected.jsonl")
        self._read_positions = read_positions
        self._reader: _Reader | None = None
        self._stored: int | None = None
        self._in_hand = False
        self._ended = False
        self.expired = 0
        self._counted_bytes = 0
        self._counted_lines = 0
        # A file that cannot be read is said at once, before anything is loaded or stored.
        self._open().close()

    def poll(self, max_items: int, linger_s: float, wait_s: float) -> Batch:
        """As `Source.poll`. A last line without an end is left alone while the file is followed.

        Raises:
            SourceError: the file was cut, replaced or removed, or cannot be read.
        """
        if self._in_hand and self._reader is not None:
            self._reader.close()
            self._reader, self._in_hand, self._ended = None, False, False
        if self._reader is None:
            self._stored = self._read_positions([0]).get(0)
            self._reader = self._open(self._stored or 0)
        records: list[RawRecord] = []
        deadline = time.monotonic() + wait_s
        while len(records) < max_items:
            record = self._reader.read()
            if record is not None:
                if not records:
                    deadline = time.monotonic() + linger_s
                records.append(record)
                continue
            if not self._follow:
                self._ended = True
                break
            self._require_same_file(self._reader)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(left_s, _LOOK_AGAIN_S))
        if not records:
            return Batch()
        self._in_hand = True
        return Batch(tuple(records), (PositionUpdate(0, self._stored, self._reader.line),))

    def hold(self) -> None:
        """Nothing is needed to stay: a file waits."""

    def reject(self, record: RawRecord, error: RecordError) -> None:
        """Append a record to the dead letter file as one JSON line, on disk when this returns.

        Its keys are `reason`, `message`, `path`, `line` (counted from 1) and `record`, or `record_base64` where the
        bytes are not UTF-8; and `cut`, true, where only the first MiB was kept. After a crash a record can be
        rejected, and so found, twice.

        Raises:
            SourceError: it could not be written; the batch must not be stored, or the record would be lost.
        """
        original = record.value if record.original is None else record.original
        letter: dict[str, object] = {
            "reason": error.reason,
            "message": str(error),
            "path": str(self._path),
            "line": record.offset + 1,
        }
        try:
            letter["record"] = original.decode("utf-8")
        except UnicodeDecodeError:
            letter["record_base64"] = base64.b64encode(original).decode("ascii")
        if len(original) >= _CUT_BYTES:
            letter["cut"] = True
        try:
            with self._dead_letters.open("ab") as file:
                file.write(json.dumps(letter).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as failure:
            raise SourceError(
                f"{self._dead_letters}: rejected records cannot be written ({failure.strerror}); "
                "make it writable, or name another file in file.dead_letter_path"
            ) from failure

    def committed(self, batch: Batch) -> None:
        """Note that a batch was stored."""
        for position in batch.positions:
            self._stored, self._in_hand = position.next, False

    def lag(self) -> Mapping[int, int]:
        """Lines not read yet; rows of a CSV that span lines count as several."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._counted_bytes)
                while chunk := file.read(_CHUNK_BYTES):
                    self._counted_lines += chunk.count(b"\n")
                    self._counted_bytes += len(chunk)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        read = 0 if self._reader is None else self._reader.line
        return {0: max(0, self._counted_lines - read)}

    def exhausted(self) -> bool:
        """Whether the end of a file that is not followed was reached, and all of it is stored."""
        return self._ended and not self._in_hand

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()

    def _open(self, line: int = 0) -> "_Reader":
        reader = _open(self._path, self._columns, follow=self._follow)
        try:
            reader.skip_to(line)
        except SourceError:
            reader.close()
            raise
        return reader

    def _require_same_file(self, reader: "_Reader") -> None:
        try:
            there = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from error
        opened = os.fstat(reader.stream.fileno())
        if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
            changed = "was replaced by another file"
        elif there.st_size < reader.stream.tell():
            changed = "was cut short"
        else:
            return
        raise SourceError(
            f"{self._path}: {changed} after {reader.line} of its lines were read, so its line numbers no longer say "
            "what was read; write to a new file name, or only append"
        )


def read_records(
    source: Path | BinaryIO, columns: Mapping[str, str] | None = None, form: Form = NEWS
) -> Iterator[RawRecord]:
    """Every record of a whole file, or of a stream of JSON Lines. An offset is its first line, counted from 0.

    Args:
        columns: for CSV, record key -> column, where their names differ.
        form: for CSV, what its rows are.

    Raises:
        SourceError: the file cannot be read as what its name says it is; before the first record is asked for.
    """
    reader = _open(source, columns or {}, form) if isinstance(source, Path) else _Reader(source, "the input")
    return _every(reader, close=isinstance(source, Path))


def _every(reader: "_Reader", close: bool) -> Iterator[RawRecord]:
    try:
        while (record := reader.read()) is not None:
            yield record
    finally:
        if close:
            reader.close()


def _open(path: Path, columns: Mapping[str, str], form: Form = NEWS, *, follow: bool = False) -> "_Reader":
    """A reader of a file from its first record on."""
    suffix = path.suffix.lower()
    if suffix not in (*_JSON_LINES_SUFFIXES, _CSV_SUFFIX):
        raise SourceError(
            f"{path}: the ending {suffix!r} is not known, expected {', '.join(_JSON_LINES_SUFFIXES)} (JSON Lines) "
            f"or {_CSV_SUFFIX}"
        )
    if columns and suffix != _CSV_SUFFIX:
        raise SourceError(f"{path}: columns were given, but only {_CSV_SUFFIX} files have columns")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if suffix == _CSV_SUFFIX:
            return _CsvReader(stream, str(path), columns, form, follow)
        return _Reader(stream, str(path), follow)
    except SourceError:
        stream.close()
        raise


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path}: cannot be read ({error.strerror}); name a JSON Lines or CSV file")


class _Reader:
    """The records of JSON Lines. `line` is how many lines were read."""

    def __init__(self, stream: BinaryIO, name: str, follow: bool = False) -> None:
        self.stream = stream
        self.line = 0
        self._name = name
        self._follow = follow

    def read(self) -> RawRecord | None:
        """The next record; None: there is none, or, in a file that is followed, none yet."""
        while True:
            first_line = self.line
            line = self._read_line()
            if line is None:
                return None
            if line.strip():
                return RawRecord(0, first_line, line.rstrip(b"\r\n"))

    def skip_to(self, line: int) -> None:
        while self.line < line:
            if self._read_line() is None:
                raise SourceError(
                    f"{self._name}: has only {self.line} lines, but {line} of them were read before: it was cut or "
                    "replaced; give what it holds now a new file name"
                )

    def close(self) -> None:
        self.stream.close()

    def _read_line(self) -> bytes | None:
        """The next line with its end, cut where it is too long for a record; None as in `read`."""
        start = self.stream.tell() if self._follow else 0
        line = rest = self.stream.readline(_CUT_BYTES)
        while rest and not rest.endswith(b"\n"):
            rest = self.stream.readline(_CHUNK_BYTES)
        if not rest and self._follow:
            self.stream.seek(start)
            return None
        if not line:
            return None
        self.line += 1
        return line.removeprefix(_BOM) if self.line == 1 else line


class _CsvReader(_Reader):
    """The rows of a CSV as JSON records; a row that has no such form is given as it is, for parsing to reject."""

    def __init__(self, stream: BinaryIO, name: str, columns: Mapping[str, str], form: Form, follow: bool) -> None:
        super().__init__(stream, name, follow)
        self._blanks = form.blanks
        self._taken: list[bytes] = []
        self._taken_bytes = 0
        self._is_utf8 = True
        self._rows = csv.reader(iter(self._next_line, None))
        unknown = sorted(columns.keys() - set(form.keys))
        if unknown:
            raise SourceError(
                f"columns: {', '.join(unknown)} is no key of the {form.name}, expected {', '.join(form.keys)}; "
                "write KEY=COLUMN, e.g. title=headline"
            )
        try:
            header = [cell.strip() for cell in next(self._rows)]
        except (StopIteration, csv.Error, _UnfinishedError, _TooLongError) as error:
            raise SourceError(f"{name}: has no first line that names its columns") from error
        wanted = {key: columns.get(key, key) for key in form.keys}
        missing = [
            f"{column!r} (for {key})"
            for key, column in wanted.items()
            if column not in header and (key in columns or key in form.required)
        ]
        if missing:
            raise SourceError(
                f"{name}: has no column {', '.join(missing)}; its columns are {', '.join(map(repr, header))}; "
                "map them as KEY=COLUMN, e.g. title=headline"
            )
        self._cells = [(key, header.index(column)) for key, column in wanted.items() if column in header]

    def read(self) -> RawRecord | None:
        """As the base's; a row may span lines."""
        while True:
            first_line, start = self.line, self.stream.tell() if self._follow else 0
            self._taken, self._taken_bytes, self._is_utf8 = [], 0, True
            try:
                row = next(self._rows, None)
            except _UnfinishedError:
                self.stream.seek(start)
                self.line = first_line
                return None
            except (_TooLongError, csv.Error):
                return RawRecord(0, first_line, self._original())
            if row is None:
                return None
            if row and not self._is_utf8:
                return RawRecord(0, first_line, self._original())
            if row:
                return RawRecord(0, first_line, self._as_json(row), self._original())

    def _next_line(self) -> str | None:
        line = self._read_line()
        if line is None:
            if self._follow:
                raise _UnfinishedError
            return None
        self._taken.append(line)
        self._taken_bytes += len(line)
        if self._taken_bytes > MAX_RECORD_BYTES:
            # Most likely a quote that was never closed. Reading goes on with the next line.
            raise _TooLongError
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._is_utf8 = False
            return line.decode("utf-8", "replace")

    def _original(self) -> bytes:
        return b"".join(self._taken).rstrip(b"\r\n")[:_CUT_BYTES]

    def _as_json(self, row: list[str]) -> bytes:
        record = {key: row[index] for key, index in self._cells if index < len(row)}
        record = {key: cell for key, cell in record.items() if cell or self._blanks}
        if "body" in record:
            record["body"] = _plain(record["body"])[:MAX_BODY_CHARS]
        return json.dumps(record, ensure_ascii=False).encode()


class _UnfinishedError(Exception):
    """The file ends, for now, within a row."""


class _TooLongError(Exception):
    """A row has more bytes than a record may have."""


def _plain(text: str) -> str:
    """The text of HTML; text without markup as it is."""
    if "<" not in text and "&" not in text:
        return text
    page = LexborHTMLParser(text)
    page.strip_tags(["script", "style"])
    return " ".join(page.text(separator=" ").split())
