"""Thresholds and windows tried on a user's own history: what each would raise for nothing, find, and how soon.

The items are read and scored once, by the backtest; from there on each combination is a detector and an alert book
run over the stored buckets again, as `monitor/evaluation.py` runs them. So the row of the current settings raises
what the backtest itself raised, the severity included. (After a silence longer than `spikes.baseline_days` the
engine forgets all that was before, and a row remembers the little that has not decayed.)

The grid, `choices`, is in terms of people: from one false alarm in four weeks, which a desk hardly notices, to five
a week, about one a working day, beyond which alerts are not read any more. Where the settings have `spikes.open_p`,
alerts open at that, so it is varied instead, by factors of about three, to a tenth and to ten times what it is.
Windows are those that are set and three ladders: for feeds of minutes (the default), of hours, and of a few items an
hour (deploy/slow-feed.toml). All other settings stay as they are. That makes 24 rows at most, which a screen holds.

Without labelled events, recall and delay are those of **planted spikes**. In the history's own buckets, at seeded
random places after a warm-up, the usual share of negatives of a series is tripled, to 0.95 at most, by turning items
that are not negative, each with the same probability; volumes stay as they were. A spike lasts one or three hours,
or as long as the longest window that is set, if that is more: who set windows of a day looks for what shows in a day,
and would be led astray by spikes of an hour alone. Each series has about six of them, in stretches of two to seven
days (twice their length, if that is more), so that they do not become what is usual. A place is drawn from those at
which the spike comes to `spikes.min_negatives` negatives, since fewer hardly open an alert at any threshold; a series
without such a place is told as not detectable, and not counted, and so is one that an override keeps from alarming.
A spike is found if an alert on its series opens
within it: one that is open already finds nothing, and neither does one on a burst of volume, for volumes do not
change.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from monitor import evidence
from monitor.alert_scores import AlertScores, Event, score
from monitor.alerting import AlertBook
from monitor.config import Settings
from monitor.evaluation import detector_of, items_behind, judge, left_without
from monitor.output import Misuse
from monitor.records import BUCKET, Alert, Counts, MonitorError, Remainder, Series, bucket_start, digest
from monitor.spikes import Detector
from monitor.store import Store

FALSE_ALARMS_PER_WEEK: Final = (0.25, 0.5, 1.0, 2.0, 5.0)
OPEN_P_FACTORS: Final = (0.1, 1 / 3, 1.0, 3.0, 10.0)
WINDOWS_MINUTES: Final = ((15, 60, 180), (60, 180, 360), (180, 360, 1440))
LEAST_HISTORY: Final = timedelta(days=2)
"""Less leaves no usual share to compare with: its half-life is a day, and spikes come after a warm-up."""
SPIKE_MINUTES: Final = (60, 180)
FACTOR: Final = 3.0
LARGEST_SHARE: Final = 0.95

_WARM_UP: Final = timedelta(days=7)
_STRETCHES: Final = 6
_LEAST_STRETCH: Final = timedelta(days=2)
_LONGEST_STRETCH: Final = timedelta(days=7)
_SEED: Final = 20230310
_ADVANCE_EVERY: Final = 288  # buckets between two steps of the progress bar

Buckets = Sequence[tuple[datetime, Mapping[Series, Counts]]]
"""Every bucket of a history, empty ones too, by its start."""


@dataclass(frozen=True, slots=True)
class Past:
    """A history as a backtest has stored it.

    Attributes:
        series: all that are followed; the first is that of everything.
        start, end: when its first and last item count.
    """

    store: Store
    series: Sequence[Series]
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and windows, as they stand in the settings.

    Attributes:
        threshold: the key that sets it, with its section, and its value.
        current: whether the settings have both already.
    """

    settings: Settings
    threshold: tuple[str, str, float]
    windows_minutes: tuple[int, ...]
    current: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What one choice does.

    Attributes:
        scores: of its alerts on the history as it was; without events, every alert counts as false.
        recall_scores: what recall and delay are taken from: `scores` where there are labelled events, else those of
            the history with planted spikes.
        front: whether it finds something, and no other row finds more for as few false alarms, or as much for fewer.
    """

    choice: Choice
    scores: AlertScores
    recall_scores: AlertScores
    front: bool = False


@dataclass(frozen=True, slots=True)
class Plants:
    """Planted spikes.

    Attributes:
        buckets: the history with them.
        spikes: each as an event on its series.
        undetectable: series with too few items for one.
        quiet: series that an override keeps from alarming.
    """

    buckets: Buckets
    spikes: tuple[Event, ...]
    undetectable: tuple[Series, ...]
    quiet: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every row, and what recall was measured on; `plants` is None where events were labelled."""

    rows: tuple[Row, ...]
    plants: Plants | None


def check(settings: Settings, span: timedelta, file: str) -> None:
    """Whether a history is long enough, and the settings have what is varied.

    Raises:
        MonitorError: the history is too short.
        Misuse: the settings do not alert on negative share.
    """
    if span < LEAST_HISTORY:
        raise MonitorError(
            f"{file}: holds {span / timedelta(days=1):.1f} days of news, too few to know what is usual; "
            f"a sweep needs {LEAST_HISTORY.days} days at least, better some weeks"
        )
    if "negative_share" not in settings.spikes.kinds:
        raise Misuse(
            f"--sweep: varies when alerts on negative share open, and spikes.kinds is {list(settings.spikes.kinds)}; "
            "add negative_share to it"
        )


def choices(settings: Settings) -> list[Choice]:
    """The combinations that are tried, the settings' own among them."""
    spikes, wanted = settings.spikes, settings.alerts.false_alarms_per_week
    windows = list(dict.fromkeys((spikes.windows_minutes, *WINDOWS_MINUTES)))
    made = []
    for minutes in sorted(windows):
        if spikes.open_p is None:
            for value in sorted({*FALSE_ALARMS_PER_WEEK, wanted}):
                tried = settings.model_copy(
                    update={
                        "spikes": replace(spikes, windows_minutes=minutes),
                        "alerts": replace(settings.alerts, false_alarms_per_week=value),
                    }
                )
                current = (value, minutes) == (wanted, spikes.windows_minutes)
                made.append(Choice(tried, ("alerts", "false_alarms_per_week", value), minutes, current))
            continue
        around = {spikes.open_p, *(float(f"{spikes.open_p * factor:.1g}") for factor in OPEN_P_FACTORS)}
        for value in sorted(p for p in around if p < 1):
            tried = settings.model_copy(update={"spikes": replace(spikes, windows_minutes=minutes, open_p=value)})
            current = (value, minutes) == (spikes.open_p, spikes.windows_minutes)
            made.append(Choice(tried, ("spikes", "open_p", value), minutes, current))
    return made


def sweep(
    settings: Settings, past: Past, events: Sequence[Event] | None, grace: timedelta, progress: Progress
) -> Sweep:
    """Try every choice on what a backtest with these settings has stored.

    Args:
        events: labelled ones; None: spikes are planted.
        grace: how long after an event's end an alert may find it.
    """
    buckets = history_of(past)
    plants = None if events is not None else plant(buckets, settings, past.series)
    tried = choices(settings)
    passes = 1 if plants is None else 2
    task = progress.add_task("trying settings", total=len(tried) * passes * len(buckets))

    def advance(count: int) -> None:
        progress.advance(task, count)

    rows = []
    for choice in tried:
        raised = alerts_of(choice.settings, buckets, past.store, advance)
        scores = score(raised, events or (), past.start, past.end, grace)
        recall_scores = scores
        if plants is not None:
            raised = alerts_of(choice.settings, plants.buckets, None, advance)
            shares = [alert for alert in raised if alert.kind != "volume_burst"]
            recall_scores = score(shares, plants.spikes, past.start, past.end, timedelta(0))
        rows.append(Row(choice, scores, recall_scores))
    progress.remove_task(task)
    return Sweep(_with_front(rows), plants)


def history_of(past: Past) -> Buckets:
    """Every bucket of a stored history."""
    first, last = bucket_start(past.start), bucket_start(past.end)
    held: dict[datetime, dict[Series, Counts]] = defaultdict(dict)
    for series, at, counts in past.store.buckets(first, last + BUCKET):
        held[at][series] = counts
    return [(at, held.get(at, {})) for at in (first + step * BUCKET for step in range((last - first) // BUCKET + 1))]


def alerts_of(
    settings: Settings,
    buckets: Buckets,
    store: Store | None,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Alert]:
    """The alerts that these settings raise on a history, in their order, each as it was at last.

    Args:
        store: holds the items: who published those behind an alert, without which it may not be critical, and which
            of them series share, by which alerts are grouped. None: neither is asked.
        advance: is told of so many buckets more.
    """
    detector, book = detector_of(settings), AlertBook(settings=settings.alerts)
    alerts: dict[str, Alert] = {}
    for step, (at, counts) in enumerate(buckets, 1):
        end = at + BUCKET
        readings = judge(detector, at, counts)
        if store is None:
            changed = book.step(end, readings, lambda alert, since: alert)
        else:
            without = partial(_left_without, store, detector, end)
            changed = book.step(end, readings, partial(_told, store), without=without)
        alerts |= {alert.id: alert for alert in changed}
        if step % _ADVANCE_EVERY == 0 or step == len(buckets):
            advance((step - 1) % _ADVANCE_EVERY + 1)
    return list(alerts.values())


def _told(store: Store, alert: Alert, since: datetime) -> Alert:
    return replace(alert, publishers=evidence.publishers(items_behind(store, alert, since)))


def _left_without(
    store: Store, detector: Detector, end: datetime, alert: Alert, others: Collection[Series]
) -> Mapping[Series, Remainder]:
    return left_without(store, detector, alert, others, end)


def plant(buckets: Buckets, settings: Settings, series: Sequence[Series], seed: int = _SEED) -> Plants:
    """The history with spikes of every series that has enough items; the same for the same arguments.

    Args:
        series: all that are followed; the first is that of everything.
    """
    counting, spikes = settings.spikes.counting, settings.spikes
    counts = {one: np.zeros((2, len(buckets)), dtype=np.int64) for one in series}
    for step, (_, held) in enumerate(buckets):
        for one in held.keys() & counts.keys():
            judged = held[one].judged(counting)
            counts[one][:, step] = judged.items - judged.late, judged.negatives - judged.late_negatives
    (items, negatives), weight = counts[series[0]].sum(axis=1), spikes.prior_items
    lasting = sorted({*SPIKE_MINUTES, max(*SPIKE_MINUTES, spikes.windows_minutes[-1])})
    pooled = (negatives + weight * spikes.prior_share) / (items + weight)
    planted = [dict(held) for _, held in buckets]
    events: list[Event] = []
    undetectable: list[Series] = []
    overrides = {override.series: override for override in settings.overrides}
    kinds = {one: override.kinds for one, override in overrides.items() if override.kinds is not None}
    quiet = tuple(one for one in series if "negative_share" not in kinds.get(one, ("negative_share",)))
    for one in series:
        if one in quiet:
            continue
        rng = np.random.default_rng([seed, int(digest(*one)[:8], 16)])
        own_items, own_negatives = counts[one]
        usual = (own_negatives.sum() + weight * pooled) / (own_items.sum() + weight)
        turned_share = max(min(FACTOR * usual, LARGEST_SHARE) - usual, 0.0) / (1 - usual)
        expected = own_negatives + (own_items - own_negatives) * turned_share
        least = overrides[one].min_negatives if one in overrides else None
        places = _places(expected, least or spikes.min_negatives, lasting, rng)
        if not places:
            undetectable.append(one)
        for begin, close in places:
            for step in range(begin, close):
                if turned := int(rng.binomial(own_items[step] - own_negatives[step], turned_share)):
                    planted[step][one] = _turned(planted[step][one], turned)
            events.append(Event(buckets[begin][0], buckets[close - 1][0] + BUCKET, one.name, one.dimension))
    return Plants(
        tuple((at, held) for (at, _), held in zip(buckets, planted, strict=True)),
        tuple(events),
        tuple(undetectable),
        quiet,
    )


def _places(
    expected: NDArray[np.float64], least: float, minutes: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Where spikes of a series begin and end: one in each stretch after the warm-up, where there is a place for it.

    A spike begins in the first half of its stretch, so that windows and the alert have settled before the next.

    Args:
        expected: (buckets,), the negatives of each if it lay in a spike.
        least: negatives that a spike must come to.
        minutes: how long spikes last.
    """
    lengths = [timedelta(minutes=lasts) // BUCKET for lasts in minutes]
    warm_up = min(_WARM_UP // BUCKET, len(expected) // 3)
    stretch = min(max((len(expected) - warm_up) // _STRETCHES, _LEAST_STRETCH // BUCKET), _LONGEST_STRETCH // BUCKET)
    stretch = max(stretch, 2 * max(lengths))
    sums = np.concatenate([[0.0], np.cumsum(expected)])
    places = []
    for begin in range(warm_up, len(expected), stretch):
        for lasts in map(int, rng.permutation(lengths)):
            starts = np.arange(begin, max(begin, min(begin + stretch // 2, len(expected) - lasts + 1)))
            fit = starts[sums[starts + lasts] - sums[starts] >= least]
            if len(fit):
                at = int(rng.choice(fit))
                places.append((at, at + lasts))
                break
    return places


def _turned(counts: Counts, items: int) -> Counts:
    """With so many items, or stories, negative that were not."""
    stories = min(counts.negative_stories + items, counts.stories)
    return replace(counts, negatives=counts.negatives + items, negative_stories=stories)


def _with_front(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, those on the Pareto front of false alarms and recall marked.

    The delay decides only between rows that are equal in both: the median delay of a row that also finds what is hard
    to find is longer for that, and no worse.
    """

    def cost(row: Row) -> tuple[int, int, float]:
        delay = row.recall_scores.median_delay_minutes
        return len(row.scores.false_alarms), -row.recall_scores.found, float("inf") if delay is None else delay

    def beaten(row: Row) -> bool:
        mine = cost(row)
        costs = (cost(other) for other in rows)
        return any(other[:2] != mine[:2] and other[0] <= mine[0] and other[1] <= mine[1] for other in costs) or any(
            cost(other)[:2] == mine[:2] and cost(other)[2] < mine[2] for other in rows
        )

    # A row that finds nothing may raise nothing either, but is nothing to recommend.
    return tuple(replace(row, front=row.recall_scores.found > 0 and not beaten(row)) for row in rows)
