"""What an engine follows: the series, and what the settings say of them by name."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from monitor.calendars import Calendar
from monitor.config import ConfigError, Settings
from monitor.desk_settings import ALL, Dimension, read_events
from monitor.entities import closest
from monitor.records import EVERYTHING, Series
from monitor.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class Followed:
    """The watched entities, every series beside that of everything, and what is known to bring them news."""

    watchlist: Watchlist
    series: tuple[Series, ...]
    calendar: Calendar


def follow(settings: Settings, topics: Sequence[str]) -> Followed:
    """What an engine with these settings follows, whose model names these topics.

    Raises:
        ConfigError: the settings name a topic, entity or exchange that there is not, or `calendar.file` is wrong.
    """
    watchlist = Watchlist(settings.watchlist, topics)
    series = (*(Series("topic", topic) for topic in topics), *(Series("entity", name) for name in watchlist.names))
    known = frozenset((EVERYTHING, *series))
    for place, override in enumerate(settings.overrides):
        _check_name(f"overrides[{place}].name", override.name, override.dimension, known)
    for place, silence in enumerate(settings.silences):
        if silence.name != ALL:
            _check_name(f"silences[{place}].name", silence.name, silence.dimension, known)
    events = []
    if (file := settings.calendar.file) is not None:
        try:
            rows = read_events(file)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for row, event in rows:
            if event.name:
                _check_name(f"{file}, row {row}, column name", event.name, None, known)
            events.append(event)
    return Followed(watchlist, series, Calendar(settings.calendar.exchanges, events))


def _check_name(where: str, name: str, dimension: Dimension | None, known: Collection[Series]) -> None:
    """See that a series of this name is followed, in this dimension (None: in either)."""
    if any(Series(each, name) in known for each in ("topic", "entity") if dimension in (None, each)):
        return
    what = {"topic": "topic", "entity": "watched entity", None: "topic or watched entity"}[dimension]
    names = [series.name for series in known if dimension in (None, series.dimension)]
    other: Dimension = "entity" if dimension == "topic" else "topic"
    hint = f'; it is in the dimension {other!r}, say dimension = "{other}"' if Series(other, name) in known else ""
    raise ConfigError(
        f"{where}: {name!r} is not followed, expected the name of a {what} as it is spelt there"
        f"{hint or closest(name, names)}"
    )
