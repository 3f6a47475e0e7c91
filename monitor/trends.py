"""Event time: how far it has come for sure, and what the windows behind it hold.

::

    event time -->
    ...|  bucket  |  bucket  |  bucket  |  bucket  |
       closed      closed        ^watermark   ^newest item
                                 |<-lateness->|

A bucket closes when the watermark reaches its end. An item behind the watermark is late: it is added to its bucket
and counted as late, and what was evaluated stays as it is.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from monitor.config import TrendSettings
from monitor.records import BUCKET, Counts, Entry, PartitionClock, Series, bucket_start


class Watermark:
    """The moment that event time has passed for sure, over all partitions of a stream. It never goes back.

    While partitions are active, the slowest of them decides: newest event time - lateness. A partition that has
    nothing left to read and was silent for `idle_after_s` stops holding the others back. When all are silent, event
    time runs on with the wall clock until the newest item's bucket has closed, and further only if asked to: what a
    publisher sends after an outage of its own must still be on time to alert.
    """

    def __init__(self, settings: TrendSettings) -> None:
        self._lateness = timedelta(seconds=settings.lateness_s)
        self._idle_after = timedelta(seconds=settings.idle_after_s)
        self.at: datetime | None = None

    def advance(
        self, clocks: Mapping[int, PartitionClock], now: datetime, *, run_on: bool = False
    ) -> datetime | None:
        """Take in how far each partition has come by wall-clock time `now`; None while nothing is known.

        Args:
            run_on: let event time run on for as long as all are silent, say for an open alert to resolve.
        """
        active = [clock for clock in clocks.values() if now - clock.active_at < self._idle_after]
        if active:
            fronts = [clock.newest_event_at for clock in active if clock.newest_event_at is not None]
            # A partition with a backlog of which nothing was read yet may hold anything: wait for it.
            front = min(fronts) if len(fronts) == len(active) else None
        else:
            longest = timedelta.max if run_on else self._lateness + BUCKET
            run_ons = [
                clock.newest_event_at + min(now - clock.active_at, longest)
                for clock in clocks.values()
                if clock.newest_event_at is not None
            ]
            front = max(run_ons, default=None)
        if front is not None:
            self.reach(front - self._lateness)
        return self.at

    def reach(self, moment: datetime) -> None:
        """Advance to `moment`, unless the watermark has passed it already."""
        self.at = moment if self.at is None else max(self.at, moment)

    def is_late(self, event_at: datetime) -> bool:
        """Whether an item of this event time comes too late to be evaluated."""
        return self.at is not None and event_at < self.at


class Trends:
    """The closed buckets of the longest window, and the sums over each window that ends with the newest of them."""

    def __init__(self, windows_minutes: Sequence[int]) -> None:
        self.windows_minutes = tuple(windows_minutes)
        self.closed_through: datetime | None = None
        self._buckets: deque[dict[Series, Counts]] = deque(maxlen=_buckets(max(windows_minutes)))
        self._sums: dict[int, dict[Series, Counts]] = {minutes: {} for minutes in windows_minutes}

    def close(self, start: datetime, counts: Mapping[Series, Counts]) -> None:
        """Add the bucket that starts at `start`; buckets must come in order, empty ones too.

        Raises:
            ValueError: the bucket does not follow the last one.
        """
        if self.closed_through is not None and start != self.closed_through:
            raise ValueError(f"bucket {start.isoformat()} does not follow {self.closed_through.isoformat()}")
        for minutes, sums in self._sums.items():
            if (length := _buckets(minutes)) <= len(self._buckets):
                for series, left in self._buckets[-length].items():
                    rest = sums[series] - left
                    if rest.items:
                        sums[series] = rest
                    else:
                        del sums[series]  # with what subtracting left of its score
            _add(sums, counts)
        self._buckets.append(dict(counts))
        self.closed_through = start + BUCKET

    def amend(self, entry: Entry) -> None:
        """Count a late item in its closed bucket, if that is held still."""
        if self.closed_through is None:
            return
        age = (self.closed_through - bucket_start(entry.event_at)) // BUCKET
        if not 1 <= age <= len(self._buckets):
            return
        added = dict.fromkeys(entry.series, entry.counts)
        _add(self._buckets[-age], added)
        for minutes, sums in self._sums.items():
            if age <= _buckets(minutes):
                _add(sums, added)

    def window(self, series: Series, minutes: int) -> Counts:
        """The sums over the last `minutes` of closed buckets, as far as held; those of `windows_minutes` at once."""
        if minutes in self._sums:
            return self._sums[minutes].get(series, Counts())
        return sum(self.history(series, _buckets(minutes)), Counts())

    def history(self, series: Series, buckets: int) -> list[Counts]:
        """The last `buckets` closed buckets of a series, oldest first."""
        held = list(self._buckets)[-buckets:]
        return [bucket.get(series, Counts()) for bucket in held]


def _buckets(minutes: int) -> int:
    return timedelta(minutes=minutes) // BUCKET


def _add(sums: dict[Series, Counts], added: Mapping[Series, Counts]) -> None:
    for series, counts in added.items():
        sums[series] = sums[series] + counts if series in sums else counts
