"""Silences: which alerts receivers are not told of, and until when."""

from collections.abc import Iterable
from datetime import datetime

from monitor.config import SilenceSettings
from monitor.desk_settings import ALL
from monitor.records import Alert


class Silences:
    """The silences of the settings, whichever clock they are asked by."""

    def __init__(self, silences: Iterable[SilenceSettings] = ()) -> None:
        self._silences = sorted(silences, key=lambda silence: silence.starts_at)

    def comment(self, alert: Alert, at: datetime) -> str | None:
        """Why the alert is silenced at a moment; None where it is not."""
        return next(
            (silence.comment for silence in self._over(alert) if silence.starts_at <= at < silence.ends_at), None
        )

    def until(self, alert: Alert, at: datetime) -> datetime | None:
        """When the silence that lasts at a moment ends, those that overlap or follow at once counting as one."""
        end = None
        for silence in self._over(alert):
            if silence.starts_at <= (at if end is None else end) < silence.ends_at:
                end = silence.ends_at
        return end

    def _over(self, alert: Alert) -> list[SilenceSettings]:
        """Those over this alert's series and kind, by their start."""
        return [
            silence
            for silence in self._silences
            if silence.name in (ALL, alert.series.name)
            and silence.dimension in (None, alert.series.dimension)
            and (silence.kinds is None or alert.kind in silence.kinds)
        ]
