"""Every Prometheus metric, built on a registry that is passed in. Labels come from closed sets only."""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product
from math import isnan
from typing import get_args

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)
from prometheus_client.exposition import choose_encoder

from monitor.drift import ACCURACY, Drift
from monitor.labels import TASKS, Label, Labelled, Task, agreement
from monitor.records import Channel, Counts, Entry, Reason, Series, Severity
from monitor.retraining import Phase
from monitor.retraining_metrics import RetrainingMetrics

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELAY_SECONDS = (0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
BATCH_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def process_registry() -> CollectorRegistry:
    """A new registry that also tells of this process: memory, processor time, open files."""
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return registry


class Metrics:
    """The monitor's metrics. Methods say what happened; only this class knows how it is counted."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.registry = registry
        self.build_info = Gauge(
            "sentiment_build_info", "Always 1; the version of the monitor", ["version"], registry=registry
        )
        self.model_info = Gauge(
            "sentiment_model_info", "1 for the model that scores", ["model", "backend"], registry=registry
        )
        self.model_swaps = Counter(
            "sentiment_model_swaps",
            "New champions that the daemon took up, or refused because they cannot be used",
            ["outcome"],
            registry=registry,
        )
        self.shadow_items = Counter(
            "sentiment_shadow_items",
            "Items that a second model was to score beside the champion: compared, or dropped as it could not",
            ["phase", "outcome"],
            registry=registry,
        )
        self.items = Counter("sentiment_items", "Items stored and counted", ["topic", "sentiment"], registry=registry)
        self.repeats = Counter(
            "sentiment_repeated_items", "Items whose id was stored before; not counted again", registry=registry
        )
        self.rejected = Counter(
            "sentiment_rejected_records", "Records that break the contract", ["reason"], registry=registry
        )
        self.late = Counter(
            "sentiment_late_items", "Items behind the watermark: counted, never alerted on", registry=registry
        )
        self.future = Counter(
            "sentiment_future_items", "Items dated in the future, counted at their arrival", registry=registry
        )
        self.copies = Counter("sentiment_story_copies", "Items that repeat a story told before", registry=registry)
        self.entity_items = Counter(
            "sentiment_entity_items", "Items that name a watched entity", ["entity"], registry=registry
        )
        self.cache_hits = Counter(
            "sentiment_scorer_cache_hits", "Items not scored again: the model knew their text", registry=registry
        )
        self.cut_items = Counter(
            "sentiment_scorer_cut_items",
            "Items longer than the model reads: their title and the start of their body were scored",
            registry=registry,
        )
        self.batch_items = Histogram(
            "sentiment_batch_items", "Records read together", buckets=BATCH_ITEMS, registry=registry
        )
        self.score_seconds = Histogram(
            "sentiment_score_seconds", "Time to score a batch", buckets=SECONDS, registry=registry
        )
        self.commit_seconds = Histogram(
            "sentiment_commit_seconds", "Time to store a batch", buckets=SECONDS, registry=registry
        )
        self.item_delay_seconds = Histogram(
            "sentiment_item_delay_seconds", "From publication to storage", buckets=DELAY_SECONDS, registry=registry
        )
        self.failures = Counter(
            "sentiment_failures", "Attempts to use a part that failed", ["part"], registry=registry
        )
        self.batches_given_up = Counter(
            "sentiment_batches_given_up", "Batches whose position another worker had stored", registry=registry
        )
        self.lag = Gauge("sentiment_source_lag_records", "Records not read yet", ["partition"], registry=registry)
        self.expired = Counter(
            "sentiment_expired_records", "Records that retention deleted before they were read", registry=registry
        )
        self.last_batch = Gauge(
            "sentiment_last_batch_timestamp_seconds", "When records were last stored", registry=registry
        )
        self.watermark = Gauge(
            "sentiment_watermark_timestamp_seconds", "Event time that has passed for sure", registry=registry
        )
        window = ["dimension", "name", "window"]
        self.window_items = Gauge(
            "sentiment_window_items", "Items in the last closed window", window, registry=registry
        )
        self.window_negatives = Gauge(
            "sentiment_window_negative_items", "Negative items in the last closed window", window, registry=registry
        )
        self.window_stories = Gauge(
            "sentiment_window_stories",
            "Stories first told, and on time, in the last closed window",
            window,
            registry=registry,
        )
        self.window_negative_stories = Gauge(
            "sentiment_window_negative_stories", "Negative ones of these", window, registry=registry
        )
        self.window_score = Gauge(
            "sentiment_window_score",
            "Mean of P(positive) - P(negative) in the last closed window; 0 without items",
            window,
            registry=registry,
        )
        self.usual_share = Gauge(
            "sentiment_usual_negative_ratio",
            "Share of a series' items that is usually negative",
            ["dimension", "name"],
            registry=registry,
        )
        self.p_value = Gauge(
            "sentiment_spike_p_value",
            "Least p-value over the windows of a series at the last closed bucket",
            ["dimension", "name"],
            registry=registry,
        )
        self.alerts_opened = Counter(
            "sentiment_alerts_opened", "Alerts opened", ["dimension", "severity"], registry=registry
        )
        self.alerts_resolved = Counter(
            "sentiment_alerts_resolved", "Alerts resolved", ["dimension"], registry=registry
        )
        self.alerts_silenced = Counter(
            "sentiment_alerts_silenced",
            "Alerts that opened while a silence lasted; receivers hear of those that outlast it",
            ["dimension"],
            registry=registry,
        )
        self.alerts_open = Gauge("sentiment_alerts_open", "Alerts open now", ["severity"], registry=registry)
        self.deliveries = Counter(
            "sentiment_alert_deliveries", "Attempts to deliver an alert", ["channel", "outcome"], registry=registry
        )
        self.deliveries_pending = Gauge(
            "sentiment_alert_deliveries_pending",
            "Alerts that a receiver has not taken yet",
            ["channel"],
            registry=registry,
        )
        self.labels = Counter(
            "sentiment_labels",
            "Labels that people gave: stored, or repeated, which were stored before",
            ["task", "outcome"],
            registry=registry,
        )
        self.rejected_labels = Counter(
            "sentiment_rejected_labels", "Records of labels that were not stored", ["reason"], registry=registry
        )
        self.labelled_items = Gauge(
            "sentiment_labelled_items", "Items that were labelled", ["task"], registry=registry
        )
        self.label_agreement = Gauge(
            "sentiment_label_agreement",
            "Krippendorff's alpha over the items that several people labelled; absent while it is undefined",
            ["task"],
            registry=registry,
        )
        self.drift_alarm = Gauge(
            "sentiment_drift_alarm",
            "1 for a measure of drift that alarms on the newest day looked at of the model that scores",
            ["measure"],
            registry=registry,
        )
        self.drift_statistic = Gauge(
            "sentiment_drift_statistic",
            "How far that measure is from what is usual, in standard deviations; absent while it is not compared",
            ["measure"],
            registry=registry,
        )
        self.estimated_accuracy = Gauge(
            "sentiment_estimated_accuracy_ratio",
            "Share of a day's labels that are right, as the model's probabilities estimate it without labels",
            ["task"],
            registry=registry,
        )
        self.retraining = RetrainingMetrics(registry)

    def prepare(
        self, topics: Sequence[str], sentiments: Sequence[str], reasons: Sequence[Reason], entities: Sequence[str]
    ) -> None:
        """Start the counters of every known label at 0, so that a first event is seen as an increase."""
        for topic in topics:
            for sentiment in sentiments:
                self.items.labels(topic, sentiment)
        for reason in reasons:
            self.rejected_labels.labels(reason)
            self.rejected.labels(reason)
        for task, outcome in product(TASKS, ("stored", "repeated")):
            self.labels.labels(task, outcome)
        for entity in entities:
            self.entity_items.labels(entity)
        for counter, *known in (
            (self.model_swaps, ("swapped", "refused")),
            (self.failures, ("source", "store", "labels")),
            (self.shadow_items, get_args(Phase), ("compared", "dropped")),
        ):
            for labels in product(*known):
                counter.labels(*labels)
        for channel in get_args(Channel):
            self.deliveries_pending.labels(channel)
            for outcome in ("delivered", "failed"):
                self.deliveries.labels(channel, outcome)
        for dimension in ("topic", "entity"):
            self.alerts_silenced.labels(dimension)
        for severity in get_args(Severity):
            self.alerts_open.labels(severity)
            for dimension in ("topic", "entity"):
                self.alerts_opened.labels(dimension, severity)
                self.alerts_resolved.labels(dimension)
        self.retraining.prepare()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """What a scrape gets: the metrics in a format that its `Accept` header takes, and the content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def show_model(self, version: str, backend: str) -> None:
        """Show the model that scores now, and no other."""
        self.model_info.clear()
        self.model_info.labels(version, backend).set(1)

    def stored(self, entries: Sequence[Entry], now: datetime) -> None:
        """Count items that were stored at `now`."""
        for answer, items in Tally((entry.scored.topic, entry.scored.sentiment) for entry in entries).items():
            self.items.labels(*answer).inc(items)
        for entity, items in Tally(entity for entry in entries for entity in entry.entities).items():
            self.entity_items.labels(entity).inc(items)
        for entry in entries:
            self.item_delay_seconds.observe(max(0.0, (now - entry.scored.item.published_at).total_seconds()))
        self.late.inc(sum(entry.late for entry in entries))
        if entries:
            self.last_batch.set(now.timestamp())

    def labelled(self, stored: Sequence[Label], repeated: Sequence[Label], reasons: Sequence[Reason]) -> None:
        """Count labels that came, and why records of labels were rejected."""
        for outcome, labels in (("stored", stored), ("repeated", repeated)):
            for label in labels:
                self.labels.labels(label.task, outcome).inc()
        for reason in reasons:
            self.rejected_labels.labels(reason).inc()

    def show_labels(self, amounts: Mapping[Task, Labelled]) -> None:
        """Show how many items were labelled, and how far people agree where that is defined."""
        alphas = {task: agreement(labelled.by_several) for task, labelled in amounts.items()}
        self.label_agreement.clear()
        for task, labelled in amounts.items():
            self.labelled_items.labels(task).set(labelled.items)
            if not isnan(alphas[task]):
                self.label_agreement.labels(task).set(alphas[task])

    def show_drift(self, rows: Sequence[Drift]) -> None:
        """Show what was found on one day of the model that scores."""
        for gauge in (self.drift_alarm, self.drift_statistic, self.estimated_accuracy):
            gauge.clear()
        for row in rows:
            self.drift_alarm.labels(row.measure).set(row.alarm)
            if row.statistic is not None:
                self.drift_statistic.labels(row.measure).set(row.statistic)
            for task, measure in ACCURACY.items():
                if row.measure == measure and row.value is not None:
                    self.estimated_accuracy.labels(task).set(row.value)

    def show_window(self, series: Series, window: str, counts: Counts) -> None:
        """Show the sums of one window of one series."""
        labels = (series.dimension, series.name, window)
        self.window_items.labels(*labels).set(counts.items)
        self.window_negatives.labels(*labels).set(counts.negatives)
        self.window_stories.labels(*labels).set(counts.stories)
        self.window_negative_stories.labels(*labels).set(counts.negative_stories)
        self.window_score.labels(*labels).set(counts.score / counts.items if counts.items else 0.0)

    def hide_series(self) -> None:
        """Show no windows, baselines and alerts: another worker evaluates, and shows them."""
        for gauge in (
            self.window_items,
            self.window_negatives,
            self.window_stories,
            self.window_negative_stories,
            self.window_score,
            self.usual_share,
            self.p_value,
            self.alerts_open,
        ):
            gauge.clear()

    def show_lag(self, lag: Mapping[int, int]) -> None:
        """Show the records not read yet of the partitions that this worker holds, and of no others."""
        self.lag.clear()
        for partition, records in lag.items():
            self.lag.labels(str(partition)).set(records)

    def delivered(self, channel: Channel, outcome: str) -> None:
        """Count an attempt to deliver an alert."""
        self.deliveries.labels(channel, outcome).inc()

    def show_pending(self, pending: Mapping[Channel, int]) -> None:
        """Show how many alerts each channel has not taken yet."""
        for channel, alerts in pending.items():
            self.deliveries_pending.labels(channel).set(alerts)
