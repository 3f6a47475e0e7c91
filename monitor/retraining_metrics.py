"""The metrics of retraining, on a registry that is passed in; most show what the database says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from math import nan
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, push_to_gateway

from monitor.labels import Task
from monitor.retraining import STEPS, Outcome, Step

Pipeline = Literal["retrain", "drift"]
Start = Literal["started", "resumed", "skipped", "missed", "failed"]
PUSH_TIMEOUT_S: Final = 5.0
_JOB: Final = "sentiment-retraining"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingFigures:
    """How the retrainings stand.

    Attributes:
        ended: by outcome, how many retrainings have ended so.
        ended_at: by outcome, when the newest of these ended.
        step: of the one that goes on; None: none does.
        started_at, seen_at: of the one that goes on, when it began, and when it was last heard of.
        refused_in_a_row: how many were refused since one was last promoted, failed ones aside.
        agreement: by task, the share of items of which champion and challenger said the same, in the newest shadow.
        negative_ratio: negative items by the challenger to each by the champion, in the newest shadow.
        trained_at: by version, when the model that scores was trained, to the day; empty where its files are away.
        new_labels: by task, items that were labelled since the newest retraining began.
    """

    ended: Mapping[Outcome, int]
    ended_at: Mapping[Outcome, datetime]
    step: Step | None
    started_at: datetime | None
    seen_at: datetime | None
    refused_in_a_row: int
    agreement: Mapping[Task, float]
    negative_ratio: float | None
    trained_at: Mapping[str, datetime]
    new_labels: Mapping[Task, int]


class RetrainingMetrics:
    """Methods say what happened; only this class knows how it is counted."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._registry = registry
        self.pipelines = Counter(
            "sentiment_pipelines",
            "Processes of the daemon: started, resumed, skipped while one was at work, missed while no daemon ran, "
            "failed to start or ended with an error",
            ["pipeline", "outcome"],
            registry=registry,
        )
        self.retrainings = Gauge(
            "sentiment_retrainings", "Retrainings that have ended", ["outcome"], registry=registry
        )
        self.ended = Gauge(
            "sentiment_retraining_ended_timestamp_seconds",
            "When a retraining last ended so",
            ["outcome"],
            registry=registry,
        )
        self.step = Gauge(
            "sentiment_retraining_step", "1 for the step that a retraining is at", ["step"], registry=registry
        )
        # With a label, so that there is no sample while no retraining goes on.
        self.at_work = Gauge(
            "sentiment_retraining_at_work_timestamp_seconds",
            "Of the retraining that goes on: when it was started, and when it was last seen",
            ["event"],
            registry=registry,
        )
        self.refused_in_a_row = Gauge(
            "sentiment_retrainings_refused_in_a_row",
            "Retrainings refused since one was last promoted",
            registry=registry,
        )
        self.trained = Gauge(
            "sentiment_model_trained_timestamp_seconds",
            "When the model that scores was trained, to the day",
            ["model"],
            registry=registry,
        )
        self.agreement = Gauge(
            "sentiment_shadow_agreement_ratio",
            "Share of items of which champion and challenger said the same, in the newest shadow",
            ["task"],
            registry=registry,
        )
        self.negative_ratio = Gauge(
            "sentiment_shadow_negative_ratio",
            "Negative items by the challenger to each by the champion, in the newest shadow; NaN without one",
            registry=registry,
        )
        self.negative_ratio.set(nan)
        self.new_labels = Gauge(
            "sentiment_new_labelled_items",
            "Items that were labelled since the newest retraining began",
            ["task"],
            registry=registry,
        )

    def prepare(self) -> None:
        """Start the counters at 0, so that a first event is seen as an increase."""
        for pipeline, outcome in product(get_args(Pipeline), get_args(Start)):
            self.pipelines.labels(pipeline, outcome)

    def show(self, figures: RetrainingFigures) -> None:
        """Show how the retrainings stand."""
        for outcome, count in figures.ended.items():
            self.retrainings.labels(outcome).set(count)
        _show(self.ended, figures.ended_at.items())
        for step in STEPS:
            self.step.labels(step).set(step == figures.step)
        _show(self.at_work, (("started", figures.started_at), ("seen", figures.seen_at)))
        self.refused_in_a_row.set(figures.refused_in_a_row)
        _show(self.trained, figures.trained_at.items())
        for task, share in figures.agreement.items():
            self.agreement.labels(task).set(share)
        if figures.negative_ratio is not None:
            self.negative_ratio.set(figures.negative_ratio)
        for task, items in figures.new_labels.items():
            self.new_labels.labels(task).set(items)

    def push(self, gateway: str, grouping: Mapping[str, str]) -> None:
        """Replace what a Pushgateway holds of this grouping; raises OSError where it does not take it."""
        push_to_gateway(gateway, _JOB, self._registry, grouping_key=dict(grouping) or None, timeout=PUSH_TIMEOUT_S)


def _show(gauge: Gauge, moments: Iterable[tuple[str, datetime | None]]) -> None:
    """Show these moments by the gauge's one label, and no others."""
    known = {label: moment for label, moment in moments if moment is not None}
    for family in gauge.collect():
        for sample in family.samples:
            [label] = sample.labels.values()
            if label not in known:
                gauge.remove(label)
    for label, moment in known.items():
        gauge.labels(label).set(moment.timestamp())
