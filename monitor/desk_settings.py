"""What a desk tunes once alerts come: measures of a series' own, silences, and what is known to bring news."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from monitor.entities import first_repeated
from monitor.records import Kind, Series
from monitor.tables import read_table
from monitor.wire import moment

ALL: Final = "*"
"""The name of a silence over every series."""

_STRICT: Final = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)
_MEASURES: Final = ("open_p", "critical_p", "min_negatives", "min_ratio", "kinds")


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        return moment(value.strip())
    if not isinstance(value, datetime):
        raise ValueError("is not a time, expected RFC 3339 with an offset, e.g. 2023-03-10T16:42:07Z")
    if value.utcoffset() is None:
        raise ValueError("has no offset, expected one, e.g. 2023-03-10T16:42:07Z")
    return value.astimezone(UTC)


def _plain(text: str) -> str:
    if not text:
        raise ValueError("empty; give a text")
    if not text.isprintable():
        raise ValueError("holds a line break or another control character; give one line of text")
    return text


Moment = Annotated[datetime, BeforeValidator(_moment)]
Line = Annotated[str, Field(max_length=200), AfterValidator(_plain)]
Dimension = Literal["topic", "entity"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OverrideSettings:
    """One `[[overrides]]` entry: a series that is measured otherwise than `[spikes]` says."""

    dimension: Dimension = Field(default="topic", description="`topic` or `entity`")
    name: Line = Field(description="a topic, a watched entity, or `Everything`")
    open_p: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="in place of `spikes.open_p`; the series then takes no part in `alerts.false_alarms_per_week`",
    )
    critical_p: float | None = Field(default=None, gt=0, lt=1, description="in place of `spikes.critical_p`")
    min_negatives: int | None = Field(default=None, ge=1, description="in place of `spikes.min_negatives`")
    min_ratio: float | None = Field(default=None, ge=1, description="in place of `spikes.min_ratio`")
    kinds: tuple[Kind, ...] | None = Field(
        default=None,
        description="which of `spikes.kinds` may open alerts on it; `[]`: none, and it is followed as before",
    )

    @property
    def series(self) -> Series:
        """The series that it is about."""
        return Series(self.dimension, self.name)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if all(getattr(self, measure) is None for measure in _MEASURES):
            raise ValueError(f"sets nothing; give one of {', '.join(_MEASURES)}, or take it out")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SilenceSettings:
    """One `[[silences]]` entry: receivers are not told of these alerts while it lasts."""

    name: Line = Field(description="a topic, a watched entity, `Everything`, or `*` for all series")
    dimension: Dimension | None = Field(default=None, description="`topic` or `entity`; unset: either")
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = Field(
        default=None, description="alerts of these kinds alone; unset: of every kind"
    )
    starts_at: Moment = Field(description="RFC 3339 with an offset")
    ends_at: Moment = Field(description="RFC 3339 with an offset")
    comment: Line = Field(description="why; alerts that open meanwhile carry it")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.starts_at, self.ends_at)
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CalendarSettings:
    """What is known to bring news, for the notes of alerts; it moves no threshold."""

    exchanges: tuple[Line, ...] = Field(
        default=(), description="exchanges whose hours and holidays are noted, by their ISO 10383 code: `XNYS`"
    )
    file: Path | None = Field(
        default=None,
        description="CSV file of known events: columns `name` (a series; empty: all), `starts_at`, `ends_at`, `note`",
    )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Event:
    """One row of `calendar.file`. `name`: the series that it is about; empty: all."""

    name: Annotated[str, Field(max_length=200)] = ""
    starts_at: Moment
    ends_at: Moment
    note: Line

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.starts_at, self.ends_at)
        return self


def read_events(path: Path) -> list[tuple[int, Event]]:
    """The events of a CSV file, each with its row; see `read_table`.

    Raises:
        ValueError: the file cannot be read, or something in it is wrong.
    """
    return read_table(path, Event, setting="calendar.file")


def check_overrides(overrides: Sequence[OverrideSettings], kinds: Iterable[Kind]) -> None:
    """See that each series is overridden once, and that what it may alarm by is among `spikes.kinds`.

    Raises:
        ValueError: it is not; the message names the entry.
    """
    if pair := first_repeated(f"{override.dimension} {override.name}" for override in overrides):
        series = overrides[pair[1]].series
        raise ValueError(
            f"overrides[{pair[1]}]: {series.dimension} {series.name!r} is overridden by overrides[{pair[0]}] too; "
            "merge the two"
        )
    may = tuple(kinds)
    for place, override in enumerate(overrides):
        for kind in override.kinds or ():
            if kind not in may:
                raise ValueError(
                    f"overrides[{place}].kinds: {kind!r} is not among spikes.kinds ({', '.join(may)}), so nothing "
                    "could open it; add it there, or take it out here"
                )


def check_order(starts_at: datetime, ends_at: datetime) -> None:
    """See that something ends after it starts; raises ValueError if not."""
    if ends_at <= starts_at:
        raise ValueError(
            f"ends_at is {ends_at.isoformat()}, not after starts_at ({starts_at.isoformat()}); give a later one"
        )
