"""The values that parts hand to each other."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

SENTIMENTS: Final = ("negative", "neutral", "positive")
BUCKET: Final = timedelta(minutes=5)
"""The smallest step of event time: everything is counted by it."""

Reason = Literal[
    "too_large", "not_utf8", "not_json", "not_object", "missing", "wrong_type", "bad_value", "nul", "unknown_item"
]  # fmt: skip
"""Why a record was rejected; `unknown_item` befalls labels alone. A closed set: it is a metric label."""


class MonitorError(Exception):
    """Something that the user can mend. The message says in one line what was wrong, where, and what to do."""


class RecordError(MonitorError):
    """A record breaks the contract; the message names the key and the value.

    Attributes:
        reason: the rule that it broke, from a closed set.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Series(NamedTuple):
    """What is followed through time: a topic or a watched entity."""

    dimension: Literal["topic", "entity"]
    name: str


EVERYTHING: Final = Series("topic", "Everything")
"""The series that every item belongs to, whatever its topic."""


@dataclass(frozen=True, slots=True)
class NewsItem:
    """One news text as it was published. `published_at` is in UTC."""

    id: str
    title: str
    published_at: datetime
    body: str | None = None
    source: str | None = None
    url: str | None = None
    language: str | None = None

    @property
    def text(self) -> str:
        """What the model reads: the title, then the body where there is one."""
        return f"{self.title}\n{self.body}" if self.body else self.title


@dataclass(frozen=True, slots=True)
class Scored:
    """An item with what the model named by `model` says of it: a probability for each label of each task."""

    item: NewsItem
    topic: str
    sentiment: str
    topic_probs: Mapping[str, float]
    sentiment_probs: Mapping[str, float]
    model: str

    @property
    def sentiment_score(self) -> float:
        """P(positive) - P(negative), from -1 to 1."""
        return self.sentiment_probs["positive"] - self.sentiment_probs["negative"]


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record as a source read it. `value` is JSON of the contract; `original` the bytes it was made from,
    where these differ (a CSV row); `key` what it is partitioned by, if anything."""

    partition: int
    offset: int
    value: bytes
    original: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class PositionUpdate:
    """Where a partition stands after a batch: `next` replaces `expected` (None: nothing was stored)."""

    partition: int
    expected: int | None
    next: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Records read together, and the positions that stand once they are all stored."""

    records: tuple[RawRecord, ...] = ()
    positions: tuple[PositionUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionClock:
    """How far a partition was read: the offset to read `next`, the newest event time seen, and when it was last
    `active_at`, that is, gave a record or was known to hold unread ones. None: nothing was read yet."""

    next: int | None
    newest_event_at: datetime | None
    active_at: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the items of one bucket or window, late ones included, of which there are `late`.

    `score` is the sum of sentiment scores. `stories` counts the items that were on time and the first to tell their
    story, `negative_stories` those of them that are negative.
    """

    items: int = 0
    negatives: int = 0
    score: float = 0.0
    late: int = 0
    late_negatives: int = 0
    stories: int = 0
    negative_stories: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.items + other.items,
            self.negatives + other.negatives,
            self.score + other.score,
            self.late + other.late,
            self.late_negatives + other.late_negatives,
            self.stories + other.stories,
            self.negative_stories + other.negative_stories,
        )

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.items - other.items,
            self.negatives - other.negatives,
            self.score - other.score,
            self.late - other.late,
            self.late_negatives - other.late_negatives,
            self.stories - other.stories,
            self.negative_stories - other.negative_stories,
        )

    def judged(self, counting: "Counting") -> "Counts":
        """What the detector judges: each story as one item, or the items themselves."""
        return Counts(self.stories, self.negative_stories) if counting == "stories" else self


Counting = Literal["stories", "items"]
"""What an alert counts: each story once, or each item."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it is counted and stored.

    `event_at` is the time it counts at: when it was published, or when it arrived if dated in the future. `copy`: it
    repeats a story told before. Negative is what has a P(negative) of `negative_from` or more.
    """

    scored: Scored
    partition: int
    offset: int
    event_at: datetime
    story: str
    negative_from: float
    entities: tuple[str, ...] = ()
    late: bool = False
    copy: bool = False

    @property
    def negative(self) -> bool:
        """Whether it counts as negative."""
        return self.scored.sentiment_probs["negative"] >= self.negative_from

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series that this item counts in."""
        return (
            EVERYTHING,
            Series("topic", self.scored.topic),
            *(Series("entity", name) for name in self.entities),
        )

    @property
    def counts(self) -> Counts:
        """What this item adds to a bucket."""
        negative, story = int(self.negative), int(not (self.late or self.copy))
        return Counts(
            items=1,
            negatives=negative,
            score=self.scored.sentiment_score,
            late=int(self.late),
            late_negatives=negative * self.late,
            stories=story,
            negative_stories=negative * story,
        )


Severity = Literal["warning", "critical"]
Kind = Literal["negative_share", "negative_volume", "volume_burst"]
"""What an alert says: a larger share is negative than usual, or more news is negative, or more news came at all."""
Channel = Literal["alertmanager", "log"]
"""How alerts leave the monitor. A closed set: it is a metric label."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One series against its baseline, in the window that speaks most clearly.

    `observed` of `items` items were negative, `expected` were usual, with the central 95 % `band` of what is usual.
    `firing`: this series is in a spike; `severity` is what this step alone amounts to, None if it would not open one.
    """

    series: Series
    window_minutes: int
    observed: int
    items: int
    expected: float
    band: tuple[float, float]
    p_value: float
    firing: bool
    severity: Severity | None
    kind: Kind = "negative_share"


@dataclass(frozen=True, slots=True)
class Remainder:
    """What would be left of a series' spike without the items that it shares with another series.

    Attributes:
        spike: whether it would be one still, by itself enough to open an alert.
        p_value: of what is left.
        accounts_for: of what is beyond the usual, the share that the left-out items carry.
    """

    spike: bool
    p_value: float
    accounts_for: float

    @property
    def explained(self) -> bool:
        """Whether the other series explains the spike: without it there is none, and it carries at least half."""
        return not self.spike and self.accounts_for >= 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """One story behind an alert, as its most negative item told it.

    `copies` is how many negative items told it within the alert's window, `publishers` those of them that are known.
    """

    id: str
    title: str
    published_at: datetime
    sentiment_score: float
    source: str | None = None
    url: str | None = None
    copies: int = 1
    publishers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """A spike of negative news in one series, from its opening to its end.

    `observed` of `items` stories or items, as `counting` says, were negative in `window`; `expected` would have been
    usual, within the 95 % `band`. `revision` grows with every change that receivers should hear of; `resolved_at` is
    None while the alert is open.

    Attributes:
        late: items of the window that came too late to count.
        copies: items of the window that only repeat a story.
        publishers: how many told what is behind it, the window's negative items, or all of them where it is a burst
            of volume; None where no item names one.
        words, entities: more frequent in that than in the series' news before, the clearest first.
        in_all: when resolved, how many were negative, and of how many, from its first window to its end.
        silenced: the comment of the silence that lasted when it opened, in event time; None where none did.
        notes: what was known to bring news while it was told as open, each once.
        follows: id of the alert that leads the group it is in; None: it leads one itself.
        part_of: the series of the alert that it follows.
        explained_by: a series without whose items there would be no spike.
        also: the series of the alerts that have followed this one, in the order in which they came.
        left_group, left_at: the group that it was in before, and when it turned out to be a spike of its own.
        apart_from: a series that explained it before, and does so no longer.
    """

    series: Series
    window: str
    severity: Severity
    opened_at: datetime
    updated_at: datetime
    observed: int
    items: int
    expected: float
    band: tuple[float, float]
    p_value: float
    late: int = 0
    evidence: tuple[Evidence, ...] = ()
    models: tuple[str, ...] = ()
    resolved_at: datetime | None = None
    escalated_at: datetime | None = None
    revision: int = 1
    kind: Kind = "negative_share"
    counting: Counting = "stories"
    copies: int = 0
    publishers: int | None = None
    words: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    in_all: tuple[int, int] | None = None
    silenced: str | None = None
    notes: tuple[str, ...] = ()
    follows: str | None = None
    part_of: Series | None = None
    explained_by: Series | None = None
    also: tuple[Series, ...] = ()
    left_group: str | None = None
    left_at: datetime | None = None
    apart_from: Series | None = None

    @property
    def fingerprint(self) -> str:
        """The same for every alert of this kind on this series, so that receivers can de-duplicate."""
        return digest(self.kind, self.series.dimension, self.series.name)

    @property
    def id(self) -> str:
        """One opening of this alert."""
        return digest(self.fingerprint, self.opened_at.isoformat())

    @property
    def group(self) -> str:
        """The id of the alert that leads the group it is in, which may be its own."""
        return self.follows or self.id

    @property
    def role(self) -> Literal["leads", "follows"]:
        """Its place in its group."""
        return "follows" if self.follows else "leads"


def bucket_start(moment: datetime) -> datetime:
    """The start of the bucket that a moment falls into."""
    return moment - (moment - _EPOCH) % BUCKET


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item as it is stored, with what the model named by `model` said of it when it came in."""

    id: str
    title: str
    published_at: datetime
    body: str | None
    source: str | None
    url: str | None
    language: str | None
    event_at: datetime
    story: str
    topic: str
    sentiment: str
    sentiment_score: float
    model: str
    late: bool
    copy: bool


def window_minutes(name: str) -> int:
    """The minutes of a window's name: 15m, 1h."""
    return int(name[:-1]) * (60 if name.endswith("h") else 1)


def window_name(minutes: int) -> str:
    """A window's length as people write it: 15m, 1h, 24h."""
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def digest(*parts: str) -> str:
    """A short, stable name for some text: 16 bytes of BLAKE2b in hex."""
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8"), digest_size=16).hexdigest()
