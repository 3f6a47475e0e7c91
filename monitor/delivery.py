"""Telling receivers of alerts, at least once, until every one of them has heard."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TextIO

import httpx2

from monitor.alerting import as_json, sentence
from monitor.config import AlertSettings
from monitor.records import Alert, Channel, MonitorError
from monitor.silences import Silences

log = logging.getLogger(__name__)

Outcome = Literal["delivered", "failed"]


class DeliveryError(MonitorError):
    """A receiver did not take an alert. `everything`: it would take no other one either, for now."""

    def __init__(self, message: str, *, everything: bool) -> None:
        super().__init__(message)
        self.everything = everything


class Receiver(Protocol):
    """Where alerts are delivered.

    Attributes:
        key: names it in the ledger.
        channel: names it in the metrics.
        repeats: whether an open alert must be sent again and again, or it would expire there.
        settles_s: how long an alert must have been open there before its end can be told, or it goes unnoticed.
        records: whether it is a record of every alert rather than someone to be told: silences do not hold it back.
    """

    key: str
    channel: Channel
    repeats: bool
    settles_s: int
    records: bool

    def send(self, alert: Alert, now: datetime) -> None:
        """Deliver one alert; delivering it again must do no harm.

        Raises:
            DeliveryError: it was not taken.
        """

    def close(self) -> None: ...


class LogReceiver:
    """Writes an alert that changed as one line of JSON; changes within a second are one line, the newest."""

    key = "log"
    channel: Channel = "log"
    repeats = False
    settles_s = 0
    records = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, alert: Alert, now: datetime) -> None:
        """Write one line; raises DeliveryError if the stream is closed or its disk is full."""
        state = "resolved" if alert.resolved_at else "firing"
        try:
            self._stream.write(json.dumps({"state": state} | as_json(alert), ensure_ascii=False) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise DeliveryError(f"the alert log cannot be written: {error}", everything=True) from error

    def close(self) -> None:
        """Nothing: the stream is its opener's."""


class AlertmanagerReceiver:
    """Prometheus Alertmanager, API v2: https://prometheus.io/docs/alerting/latest/clients/.

    An open alert expires there unless it is sent again, so its end is set some repeats ahead: long enough for a
    restart of the monitor, short enough that an alert of a monitor that is gone for good does not stay.
    """

    channel: Channel = "alertmanager"
    repeats = True
    records = False

    def __init__(self, url: str, settings: AlertSettings, external_url: str | None = None) -> None:
        self.key = f"alertmanager {url}"
        # It notifies of a group after `group_wait`; what ended before then, it says nothing of.
        self.settles_s = settings.repeat_s
        self._endpoint = f"{url.rstrip('/')}/api/v2/alerts"
        self._status = f"{url.rstrip('/')}/api/v2/status"
        self._keep = max(timedelta(minutes=5), timedelta(seconds=10 * settings.repeat_s))
        self._external_url = external_url
        self._client = httpx2.Client(timeout=settings.timeout_s)

    def send(self, alert: Alert, now: datetime) -> None:
        """Post one alert; raises DeliveryError if it was not accepted."""
        posted = [self._posted(alert, alert.resolved_at or now + self._keep)]
        posted += [self._posted(former, ended_at) for former, ended_at in _former(alert)]
        try:
            response = self._client.post(self._endpoint, json=posted)
        except httpx2.HTTPError as error:
            raise DeliveryError(f"{self._endpoint}: {error or type(error).__name__}", everything=True) from error
        if not response.is_success:
            raise DeliveryError(
                f"{self._endpoint}: HTTP {response.status_code}: {response.text[:200]}",
                everything=response.status_code != httpx2.codes.BAD_REQUEST,
            )

    def check(self) -> str:
        """Ask for its status; gives its version, raises DeliveryError if it does not answer as an Alertmanager."""
        try:
            response = self._client.get(self._status).raise_for_status()
            return f"version {response.json()['versionInfo']['version']}"
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            raise DeliveryError(f"{self._status}: {error or type(error).__name__}", everything=True) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _posted(self, alert: Alert, ends_at: datetime) -> dict[str, Any]:
        posted: dict[str, Any] = {
            "labels": {
                "alertname": "NewsVolumeBurst" if alert.kind == "volume_burst" else "NegativeNewsSpike",
                "dimension": alert.series.dimension,
                "name": alert.series.name,
                "kind": alert.kind,
                "severity": alert.severity,
                "group": alert.group,
                "role": alert.role,
            },
            "annotations": {
                "summary": sentence(alert),
                "window": alert.window,
                "observed": str(alert.observed),
                "items": str(alert.items),
                "expected": f"{alert.expected:.1f}",
                "band": f"{alert.band[0]:.1f} to {alert.band[1]:.1f}",
                "p_value": f"{alert.p_value:.2g}",
                "models": ", ".join(alert.models),
                "publishers": "unknown" if alert.publishers is None else str(alert.publishers),
                "words": ", ".join(alert.words),
                "entities": ", ".join(alert.entities),
                "notes": "\n".join(alert.notes),
                "silenced": alert.silenced or "",
                "part_of": alert.part_of.name if alert.part_of else "",
                "explained_by": alert.explained_by.name if alert.explained_by else "",
                "also": ", ".join(series.name for series in alert.also),
                "evidence": "\n".join(
                    f"{story.title} ({', '.join(story.publishers) or story.source or 'unknown source'})"
                    for story in alert.evidence
                ),
            },
            "startsAt": alert.opened_at.isoformat(),
            "endsAt": ends_at.isoformat(),
        }
        if self._external_url:
            posted["generatorURL"] = self._external_url
        return posted


def _former(alert: Alert) -> Iterator[tuple[Alert, datetime]]:
    """The alert under the labels that it had, each with its end: another alert to Alertmanager, which ended then."""
    changes: list[tuple[datetime, dict[str, Any]]] = []
    if alert.escalated_at is not None:
        changes.append((alert.escalated_at, {"severity": "warning"}))
    if alert.left_at is not None:
        changes.append((alert.left_at, {"follows": alert.left_group}))
    for at, before in sorted(changes, key=lambda change: change[0], reverse=True):
        alert = replace(alert, **before)
        yield alert, at


def _turn(alert: Alert) -> int:
    """Who leads is told first and ends last, so that what it mutes is not heard in between."""
    return 1 if alert.role == "follows" else 0 if alert.resolved_at is None else 2


class Ledger(Protocol):
    """What each receiver was told so far, kept through restarts."""

    def undelivered(self, channel: str, now: datetime) -> list[Alert]: ...
    def enlist(self, channel: str, now: datetime) -> None: ...
    def acknowledged(self, channel: str, alert: Alert) -> int: ...
    def as_told(self, channel: str, alert: Alert) -> Alert: ...
    def delivered(self, channel: str, alert: Alert, now: datetime, resume_at: datetime | None = None) -> None: ...
    def delivery_failed(
        self, channel: str, alert: Alert, now: datetime, error: str, next_attempt_at: datetime
    ) -> None: ...
    def hold(self, channel: str, alert: Alert, now: datetime, until: datetime) -> None: ...
    def attempts(self, channel: str, alert: Alert) -> int: ...
    def pending_deliveries(self, channel: str) -> int: ...
    def open_alerts(self) -> list[Alert]: ...


class Delivery:
    """Tells every receiver of every change, at least once, and keeps open alerts alive where they would expire.

    An alert is never told as resolved to a receiver that did not hear of it before: one that opened and resolved
    while the receiver was away, or the monitor was catching up, is told as open first.

    While a silence lasts by the wall clock, which people who ask for quiet go by, a receiver hears of no alert that
    it covers: one that is still open when the silence ends is told then, one that resolved within it, in event time,
    never is. What a receiver heard of before is kept open there as it was told, and its end is told at once.
    """

    def __init__(
        self,
        ledger: Ledger,
        receivers: Sequence[Receiver],
        settings: AlertSettings,
        count: Callable[[Channel, Outcome], None],
        now: datetime,
        *,
        silences: Silences | None = None,
    ) -> None:
        self._silences = silences or Silences()
        self._ledger = ledger
        self._receivers = receivers
        self._settings = settings
        self._count = count
        self._repeated_at = {receiver.key: now for receiver in receivers}
        for receiver in receivers:
            ledger.enlist(receiver.key, now)
        self._failing: set[str] = set()

    def run(self, now: datetime, enough: Callable[[], bool] = lambda: False) -> None:
        """Deliver what is due at wall-clock time `now`. A receiver that fails is tried again, ever more rarely.

        Args:
            enough: asked before each delivery; once it says yes, the rest waits for another run.
        """
        for receiver in self._receivers:
            due = sorted(self._ledger.undelivered(receiver.key, now), key=_turn)
            for position, alert in enumerate(due):
                if enough():
                    return
                heard = self._ledger.acknowledged(receiver.key, alert)
                if not receiver.records and self._silenced(receiver, alert, heard, now):
                    continue
                unheard = alert.resolved_at is not None and not heard
                told = replace(alert, resolved_at=None, revision=alert.revision - 1) if unheard else alert
                resume_at = now + timedelta(seconds=receiver.settles_s) if unheard else None
                try:
                    self._send(receiver, told, now)
                except DeliveryError as error:
                    waiting = due[position:] if error.everything else [alert]
                    for late in waiting:
                        self._postpone(receiver, late, now, str(error))
                    if error.everything:
                        break
                else:
                    self._ledger.delivered(receiver.key, told, now, resume_at)
            if receiver.repeats and not enough():
                self._repeat(receiver, {alert.id for alert in due}, now)

    def close(self) -> None:
        """Let go of the receivers."""
        for receiver in self._receivers:
            receiver.close()

    def pending(self) -> dict[Channel, int]:
        """How many alerts the receivers of each channel have not taken yet."""
        pending: dict[Channel, int] = {}
        for receiver in self._receivers:
            waiting = self._ledger.pending_deliveries(receiver.key)
            pending[receiver.channel] = pending.get(receiver.channel, 0) + waiting
        return pending

    def _silenced(self, receiver: Receiver, alert: Alert, heard: int, now: datetime) -> bool:
        """Whether a silence keeps the receiver from being told now; the ledger then knows for how long."""
        if alert.resolved_at is not None:
            if heard:
                return False
            if self._silences.until(alert, alert.resolved_at) is not None:
                self._ledger.delivered(receiver.key, alert, now)  # settled: there is nothing to tell
                return True
        until = self._silences.until(alert, now)
        if until is None:
            return False
        self._ledger.hold(receiver.key, alert, now, until)
        return True

    def _repeat(self, receiver: Receiver, just_tried: set[str], now: datetime) -> None:
        if now - self._repeated_at[receiver.key] < timedelta(seconds=self._settings.repeat_s):
            return
        self._repeated_at[receiver.key] = now
        for alert in self._ledger.open_alerts():
            if alert.id in just_tried:
                continue
            told = alert
            if not receiver.records and self._silences.until(alert, now) is not None:
                if not self._ledger.acknowledged(receiver.key, alert):
                    continue
                # Severity and group are labels: under others it would be a new alert there.
                told = self._ledger.as_told(receiver.key, alert)
            try:
                self._send(receiver, told, now)
            except DeliveryError as error:
                if error.everything:
                    break

    def _send(self, receiver: Receiver, alert: Alert, now: datetime) -> None:
        try:
            receiver.send(alert, now)
        except DeliveryError as error:
            self._count(receiver.channel, "failed")
            if receiver.key not in self._failing:
                self._failing.add(receiver.key)
                log.warning("alerts wait: %s; trying again until it takes them", error)
            raise
        self._count(receiver.channel, "delivered")
        if receiver.key in self._failing:
            self._failing.discard(receiver.key)
            log.info("alerts are delivered again to %s", receiver.key)

    def _postpone(self, receiver: Receiver, alert: Alert, now: datetime, error: str) -> None:
        attempts = self._ledger.attempts(receiver.key, alert)
        pause_s = min(self._settings.retry_max_s, 2 ** min(attempts, 10))
        self._ledger.delivery_failed(receiver.key, alert, now, error, now + timedelta(seconds=pause_s))
