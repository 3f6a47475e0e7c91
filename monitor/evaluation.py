"""What closed buckets amount to: windows, baselines and alerts, derived from the store and kept up to date.

The store is the only state: whatever is held here is rebuilt from it at the start, after a failure, when another
worker has evaluated meanwhile, and when another model takes over. Windows are of counts as they were made; what the
detector judges, and so what alerts say, are counts as the model that scores now would have made them, see
`monitor.rebase`.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, get_args

from monitor import evidence
from monitor.alerting import AlertBook
from monitor.calendars import Calendar
from monitor.config import Settings
from monitor.metrics import Metrics
from monitor.rebase import Row
from monitor.records import (
    BUCKET,
    EVERYTHING,
    Alert,
    Counts,
    Reading,
    Remainder,
    Series,
    Severity,
    StoredItem,
    bucket_start,
    window_minutes,
    window_name,
)
from monitor.silences import Silences
from monitor.spikes import Detector
from monitor.store import PositionConflict, Store
from monitor.trends import Trends

log = logging.getLogger(__name__)
_Buckets = dict[datetime, dict[Series, Counts]]

_EVIDENCE_STORIES: Final = 5
_EVIDENCE_ITEMS: Final = 500
_BEFORE: Final = timedelta(days=7)
_BEFORE_STORIES: Final = 2_000


def detector_of(settings: Settings) -> Detector:
    """The detector that these settings describe, before its first bucket."""
    return Detector(settings.spikes, settings.alerts.false_alarms_per_week, settings.overrides)


def judge(detector: Detector, at: datetime, counts: Mapping[Series, Counts]) -> list[Reading]:
    """What a detector makes of the closed bucket that starts at `at`: the readings that may open or close alerts."""
    settings = detector.settings
    judged = {series: one.judged(settings.counting) for series, one in counts.items()}
    volumes = set(settings.kinds) != {"negative_share"}
    return [reading for reading in detector.update(judged, at if volumes else None) if reading.kind in settings.kinds]


def items_behind(store: Store, alert: Alert, start: datetime) -> list[StoredItem]:
    """The items that an alert is about, from `start`, the start of its window; those that came late left out."""
    only_negative = alert.kind != "volume_burst"
    found = store.window_items(alert.series, start, alert.updated_at, _EVIDENCE_ITEMS, negative=only_negative)
    return [item for item in found if not item.late]


def left_without(
    store: Store, detector: Detector, alert: Alert, others: Collection[Series], end: datetime
) -> dict[Series, Remainder]:
    """What would be left of an alert's spike, at the step that ends at `end`, without what it shares with others."""
    starts = [end - timedelta(minutes=minutes) for minutes in detector.windows_minutes(alert.kind)]
    stories = detector.settings.counting == "stories"
    shared = store.shared_items(alert.series, others, starts, end, stories=stories)
    left = {other: detector.without(alert.series, alert.kind, other, both) for other, both in shared.items()}
    return {other: remainder for other, remainder in left.items() if remainder is not None}


class Evaluation:
    """One stream's windows, baselines and alerts.

    Args:
        source: name under which the store keeps how far this stream was evaluated.
        shown: the series whose windows and baselines the metrics show, beside everything.
        calendar: what is known to bring news; None: nothing.
        promotion: the one that the engine scores under; 0: under none.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        *,
        source: str,
        shown: Sequence[Series],
        calendar: Calendar | None = None,
        promotion: int = 0,
    ) -> None:
        self._promotion = promotion
        self._calendar = calendar or Calendar()
        self._silences = Silences(settings.silences)
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._source = source
        self._shown = (EVERYTHING, *shown)
        self._through: datetime | None = None
        self._reset()

    @property
    def open_alerts(self) -> tuple[Alert, ...]:
        """The alerts that are open now."""
        return self._alerts.open

    @property
    def trends(self) -> Trends:
        """The closed buckets."""
        return self._trends

    @property
    def detector(self) -> Detector:
        """The baselines."""
        return self._detector

    def advance(self, end: datetime) -> list[Alert]:
        """Evaluate every bucket that was not yet, up to `end`; gives the alerts that changed, which are stored then.

        Raises:
            StoreUnavailable: call again later; nothing is lost.
        """
        horizon = end - timedelta(days=self._settings.spikes.baseline_days)
        try:
            mark = self._store.evaluated_through(self._source)
            if mark is None or mark != self._through:
                # Just started, or an evaluation failed, or another worker evaluated meanwhile.
                self._reset()
            if mark is not None and mark != self._through:
                self._replay(mark - timedelta(days=self._settings.spikes.baseline_days), mark)
                self._show()
            if mark is None:
                stored = self._store.buckets(horizon, end)
                mark = stored[0][1] if stored else end
            if mark < horizon:
                # Nothing of what was before is left in any baseline.
                self._reset()
                mark = horizon
            return self._evaluate(mark, end)
        except PositionConflict as error:
            log.info("left to another worker: %s", error)
            self._through = None
            return []
        except Exception:
            self._through = None
            raise

    def follow(self, shown: Sequence[Series], calendar: Calendar, promotion: int) -> None:
        """Follow other series from now on, as another model names other topics; what is known of any stays.

        Under another promotion, what is usual is made out anew at the next step.
        """
        self._shown = (EVERYTHING, *shown)
        self._calendar = calendar
        self._metrics.hide_series()
        if promotion != self._promotion:
            self._promotion, self._through = promotion, None
        if self._through is not None:
            self._show()

    def stand_by(self) -> None:
        """Another worker evaluates now: show nothing, and start over from the store when it is this one's turn."""
        self._metrics.hide_series()
        self._through = None
        self._alerts = self._stored_alerts()

    def _reset(self) -> None:
        """Forget what was derived from closed buckets; the store still has it."""
        self._trends = Trends(
            sorted({*self._settings.trends.windows_minutes, *self._settings.spikes.windows_minutes})
        )
        self._detector = detector_of(self._settings)
        self._scale = self._store.models.scale(self._promotion)
        self._alerts = self._stored_alerts()
        self._through = None

    def _stored_alerts(self) -> AlertBook:
        return AlertBook(self._store.open_alerts(), self._settings.alerts)

    def _replay(self, start: datetime, end: datetime) -> None:
        said, judged = self._buckets(start, end)
        for at in _steps(min(said, default=end), end):
            self._trends.close(at, said.get(at, {}))
            judge(self._detector, at, judged.get(at, {}))
        if judged is not said:
            # What just opened an alert may just not do so in other counts. It goes on, and ends once it is calm.
            for alert in self._alerts.open:
                self._detector.resume(alert.series, alert.kind)
        self._through = end

    def _evaluate(self, start: datetime, end: datetime) -> list[Alert]:
        if end <= start:
            return []
        changed: list[Alert] = []
        said, judged = self._buckets(start, end)
        for at in _steps(start, end):
            self._trends.close(at, said.get(at, {}))
            readings = judge(self._detector, at, judged.get(at, {}))
            alerts = self._alerts.step(at + BUCKET, readings, self._explain, self._conclude, self._without)
            if alerts:
                self._store.save_evaluation(self._source, at + BUCKET, alerts)
                self._count(alerts)
                changed += alerts
        self._store.save_evaluation(self._source, end, [])
        self._through = end
        self._show()
        return changed

    def _buckets(self, start: datetime, end: datetime) -> tuple[_Buckets, _Buckets]:
        """What the buckets hold, as it was said, and as the model that scores now would have said it."""
        rows = self._store.bucket_rows(start, end)
        counts, brought = [row.counts for row in rows], self._scale.brought(rows)
        said = _summed(rows, counts)
        return said, said if brought == counts else _summed(rows, brought)

    def _explain(self, alert: Alert, start: datetime) -> Alert:
        """The alert with what lies behind it: stories, publishers, words and entities that stand out."""
        end = alert.updated_at
        behind = items_behind(self._store, alert, start)
        before = self._store.titles(alert.series, start - _BEFORE, start, _BEFORE_STORIES)
        now = {item.id: item.title for item in behind if not item.copy}
        window = self._trends.window(alert.series, window_minutes(alert.window))
        entities = evidence.standing_out(self._named(alert.series, now), self._named(alert.series, before))
        notes = self._calendar.notes(alert.series, entities, start, end)
        # The mark goes by event time, as all that an alert says, so that it is the same in a replay or a backtest.
        silenced = self._silences.comment(alert, alert.opened_at) if alert.revision == 1 else alert.silenced
        return replace(
            alert,
            silenced=silenced,
            notes=tuple(dict.fromkeys((*alert.notes, *notes))),
            counting=self._settings.spikes.counting,
            evidence=evidence.stories(behind, _EVIDENCE_STORIES),
            models=self._store.models_seen(alert.series, start, end),
            late=window.late,
            copies=window.items - window.late - window.stories,
            publishers=evidence.publishers(behind),
            words=evidence.standing_out(*(list(map(evidence.words, titles.values())) for titles in (now, before))),
            entities=entities,
        )

    def _named(self, series: Series, items: Collection[str]) -> list[set[str]]:
        """The watched entities that each of these items names, beside the series' own."""
        by_item: dict[str, set[str]] = {item: set() for item in items}
        for item, name in self._store.entities_of(items):
            if series != Series("entity", name):
                by_item[item].add(name)
        return list(by_item.values())

    def _without(self, alert: Alert, others: Collection[Series]) -> dict[Series, Remainder]:
        end = self._trends.closed_through
        return {} if end is None else left_without(self._store, self._detector, alert, others, end)

    def _conclude(self, alert: Alert) -> Alert:
        """The alert with how much it was in all, now that it is over."""
        start = alert.opened_at - timedelta(minutes=window_minutes(alert.window))
        rows = self._store.bucket_rows(bucket_start(start), alert.updated_at, alert.series)
        total = sum((counts.judged(alert.counting) for counts in self._scale.brought(rows)), Counts())
        return replace(alert, in_all=(total.negatives - total.late_negatives, total.items - total.late))

    def _count(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            if alert.revision == 1:
                self._metrics.alerts_opened.labels(alert.series.dimension, alert.severity).inc()
                if alert.silenced is not None:
                    self._metrics.alerts_silenced.labels(alert.series.dimension).inc()
            if alert.resolved_at is not None:
                self._metrics.alerts_resolved.labels(alert.series.dimension).inc()

    def _show(self) -> None:
        for series in self._shown:
            for minutes in self._settings.trends.windows_minutes:
                self._metrics.show_window(series, window_name(minutes), self._trends.window(series, minutes))
            self._metrics.p_value.labels(*series).set(self._detector.p_value(series))
            self._metrics.usual_share.labels(*series).set(self._detector.usual_share(series))
        for severity in get_args(Severity):
            self._metrics.alerts_open.labels(severity).set(
                sum(alert.severity == severity for alert in self._alerts.open)
            )


def _summed(rows: Sequence[Row], counts: Sequence[Counts]) -> _Buckets:
    """The counts of the rows by bucket and series, those of all promotions together."""
    buckets: _Buckets = defaultdict(dict)
    for row, one in zip(rows, counts, strict=True):
        bucket = buckets[row.start]
        bucket[row.series] = bucket[row.series] + one if row.series in bucket else one
    return buckets


def _steps(start: datetime, end: datetime) -> Iterator[datetime]:
    """The starts of the buckets in [start, end)."""
    while start < end:
        yield start
        start += BUCKET
