"""What closed buckets amount to: windows, baselines and alerts, derived from the store and kept up to date.

The store is the only state: whatever is held here is rebuilt from it at the start, after a failure, and when another
worker has evaluated meanwhile.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, get_args

from monitor.alerting import AlertBook
from monitor.config import Settings
from monitor.metrics import Metrics
from monitor.records import BUCKET, EVERYTHING, Alert, Counts, Evidence, Reading, Series, Severity, window_name
from monitor.spikes import Detector
from monitor.store import PositionConflict, Store
from monitor.trends import Trends

log = logging.getLogger(__name__)

_EVIDENCE_STORIES: Final = 5
_EVIDENCE_ITEMS: Final = 500


class Evaluation:
    """One stream's windows, baselines and alerts.

    Args:
        source: name under which the store keeps how far this stream was evaluated.
        shown: the series whose windows and baselines the metrics show, beside everything.
    """

    def __init__(
        self, settings: Settings, store: Store, metrics: Metrics, *, source: str, shown: Sequence[Series]
    ) -> None:
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

    def stand_by(self) -> None:
        """Another worker evaluates now: show nothing, and start over from the store when it is this one's turn."""
        self._metrics.hide_series()
        self._through = None

    def _reset(self) -> None:
        """Forget what was derived from closed buckets; the store still has it."""
        self._trends = Trends(
            sorted({*self._settings.trends.windows_minutes, *self._settings.spikes.windows_minutes})
        )
        self._detector = Detector(self._settings.spikes, self._settings.alerts.false_alarms_per_week)
        self._alerts = AlertBook(self._store.open_alerts())
        self._through = None

    def _replay(self, start: datetime, end: datetime) -> None:
        buckets = self._buckets(start, end)
        for at in _steps(min(buckets, default=end), end):
            counts = buckets.get(at, {})
            self._trends.close(at, counts)
            self._judge(counts)
        self._through = end

    def _evaluate(self, start: datetime, end: datetime) -> list[Alert]:
        if end <= start:
            return []
        changed: list[Alert] = []
        buckets = self._buckets(start, end)
        for at in _steps(start, end):
            counts = buckets.get(at, {})
            self._trends.close(at, counts)
            readings = self._judge(counts)
            alerts = self._alerts.step(at + BUCKET, readings, self._explain)
            if alerts:
                self._store.save_evaluation(self._source, at + BUCKET, alerts)
                self._count(alerts)
                changed += alerts
        self._store.save_evaluation(self._source, end, [])
        self._through = end
        self._show()
        return changed

    def _judge(self, counts: Mapping[Series, Counts]) -> list[Reading]:
        counting = self._settings.spikes.counting
        return self._detector.update({series: one.judged(counting) for series, one in counts.items()})

    def _buckets(self, start: datetime, end: datetime) -> dict[datetime, dict[Series, Counts]]:
        buckets: dict[datetime, dict[Series, Counts]] = defaultdict(dict)
        for series, at, counts in self._store.buckets(start, end):
            buckets[at][series] = counts
        return buckets

    def _explain(self, alert: Alert, start: datetime) -> Alert:
        """The alert with the stories behind it: the most negative ones of its window, copies folded."""
        stories: dict[str, Evidence] = {}
        for item in self._store.window_items(alert.series, start, alert.updated_at, _EVIDENCE_ITEMS):
            if item.late:
                continue
            if (known := stories.get(item.story)) is not None:
                stories[item.story] = replace(known, copies=known.copies + 1)
            else:
                stories[item.story] = Evidence(
                    id=item.id,
                    title=item.title,
                    published_at=item.published_at,
                    sentiment_score=item.sentiment_score,
                    source=item.source,
                    url=item.url,
                )
        minutes = (alert.updated_at - start) // timedelta(minutes=1)
        return replace(
            alert,
            evidence=tuple(stories.values())[:_EVIDENCE_STORIES],
            models=self._store.models_seen(alert.series, start, alert.updated_at),
            late=self._trends.window(alert.series, minutes).late,
        )

    def _count(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            if alert.revision == 1:
                self._metrics.alerts_opened.labels(alert.series.dimension, alert.severity).inc()
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


def _steps(start: datetime, end: datetime) -> Iterator[datetime]:
    """The starts of the buckets in [start, end)."""
    while start < end:
        yield start
        start += BUCKET
