"""Where news comes from. A source is read by polling; the store, not the source, remembers how far it was read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from monitor.records import Batch, MonitorError, RawRecord, RecordError

ReadPositions = Callable[[Sequence[int]], Mapping[int, int]]
"""Partitions -> the next offset to read of each, for those that the store knows."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of record, as a CSV holds it: its keys, which columns can be mapped to, those without which there is no
    record, and whether an empty cell says something (`blanks`) or is as good as none."""

    name: str
    keys: tuple[str, ...]
    required: tuple[str, ...]
    blanks: bool = False


NEWS: Final = Form(
    "news record", ("id", "title", "published_at", "body", "source", "url", "language"), ("title", "published_at")
)


class SourceError(MonitorError):
    """A source cannot be read; the message says which, why and what to do."""


class Source(Protocol):
    """A partitioned stream of raw records that can be read again from any position.

    Attributes:
        name: under which the store keeps this source's positions.
        expired: records that were deleted before they were read, so far.
    """

    name: str
    expired: int

    def poll(self, max_items: int, linger_s: float, wait_s: float) -> Batch:
        """Wait at most `wait_s` for a first record, then at most `linger_s` for more, up to `max_items`.

        Raises:
            SourceError: the source cannot be read.
        """

    def hold(self) -> None:
        """Stay alive without reading, while a batch in hand cannot be stored yet; the next poll reads on."""

    def reject(self, record: RawRecord, error: RecordError) -> None:
        """Keep a record that could not be parsed as a dead letter: its reason, place and original bytes."""

    def committed(self, batch: Batch) -> None:
        """Note that a batch was stored with its positions."""

    def lag(self) -> Mapping[int, int]:
        """Records not read yet, by assigned partition; empty while none is assigned.

        Raises:
            SourceError: what waits is not known now; to say 0 would let event time run on past it.
        """

    def exhausted(self) -> bool:
        """Whether there will never be more to read (the end of a file that is not followed)."""

    def close(self) -> None: ...
