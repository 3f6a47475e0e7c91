"""One cause, one alert: alerts of which one explains the other are a group, led by one of them.

An entity's alert may explain a topic's or that of everything, and a topic's that of everything, if both are of one
kind (see `Remainder`). Of two such alerts the one that opened first leads; of those that open at the same step, the
more specific. The others follow it, through all of their lives unless they turn out to have a cause of their own:

- one that is told anew, or whose leader is calm, and that would be a spike without what explained it, leaves its
  group, and follows who explains it now or leads a group of its own;
- while others still follow it, a leader that is calm stays open, so that the end is told once, and the tail of a
  spike is not told as a second one.

So each group has one leader, which is open as long as any of its alerts is, and as severe as the most severe of them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from monitor.records import EVERYTHING, Alert, Kind, Remainder, Series

Key = tuple[Series, Kind]
Without = Callable[[Alert, Collection[Series]], Mapping[Series, Remainder]]
"""What would be left of an alert's spike, as it is now, without the items that it shares with each of these series; a
series of which nothing is known is left out."""


def settle(
    alerts: Mapping[Key, Alert],
    *,
    told: Collection[Key],
    calm: Collection[Key],
    spiking: Collection[Key],
    at: datetime,
    without: Without,
) -> tuple[dict[Key, Alert], list[Key]]:
    """The open alerts with the groups that they are in after a step, and which of the calm ones are over.

    Args:
        alerts: what is open, with what this step has opened.
        told: those that opened at this step, which are of revision 1, or are told anew.
        calm: those whose series has left its spike.
        spiking: those that would open by themselves now.
        at: the end of the step, event time.
    """
    opened = {key for key in told if alerts[key].revision == 1}
    groups = _Groups(alerts, opened, at, without)
    groups.free_those_without_a_leader()
    for key in _the_more_specific_first(opened):
        groups.place(key)
    for key in _the_more_specific_first(set(told) - opened):
        groups.review(key)
    over = groups.release(set(calm), set(spiking))
    groups.make_leaders_as_severe_as_what_follows_them()
    return groups.alerts, over


def disband(alerts: Mapping[Key, Alert], at: datetime) -> dict[Key, Alert]:
    """The open alerts, each leading a group of its own, once grouping is switched off."""
    groups = _Groups(alerts, set(), at, lambda alert, others: {})
    groups.free_all()
    return groups.alerts


class _Groups:
    def __init__(self, alerts: Mapping[Key, Alert], opened: set[Key], at: datetime, without: Without) -> None:
        self.alerts = dict(alerts)
        self._at = at
        self._without = without
        self._placed = set(alerts) - opened
        self._keys = {alert.id: key for key, alert in alerts.items()}
        self._left: dict[Key, Mapping[Series, Remainder]] = {}

    def free_those_without_a_leader(self) -> None:
        """Grouping was switched off for a while, and their leaders are over."""
        for key, alert in list(self.alerts.items()):
            if alert.follows is not None and alert.follows not in self._keys:
                self._leave(key)

    def free_all(self) -> None:
        """Have every follower lead a group of its own."""
        for key, alert in list(self.alerts.items()):
            if alert.follows is not None:
                self._leave(key)

    def place(self, key: Key) -> None:
        """Have an alert that just opened follow another one, or lead."""
        if (by := self._explainer(key)) is not None:
            self._follow(key, self._leader(by), explained_by=by[0])
        elif told_before := self._explained_by(key):
            for other in told_before:
                if self.alerts[other].explained_by is None:
                    self._change(other, explained_by=key[0])
            self._follow(key, told_before[0])
        self._placed.add(key)

    def review(self, key: Key) -> None:
        """Say anew what explains an alert; one that follows and is no longer explained leaves its group."""
        alert = self.alerts[key]
        if (by := self._explainer(key)) is not None:
            self._change(key, explained_by=by[0])
        elif alert.explained_by is not None and self._stands_alone(key):
            self._leave(key, apart_from=alert.explained_by)

    def release(self, calm: set[Key], spiking: set[Key]) -> list[Key]:
        """Have the alerts that are spikes of their own leave calm leaders; gives the calm alerts that are over."""
        for leader in _the_more_specific_first(calm):
            for key in _the_more_specific_first((self._followers(leader) - calm) & spiking):
                if self._has_another_cause(key, leader):
                    self._leave(key, apart_from=self.alerts[key].explained_by)
                    if (by := self._explainer(key)) is not None:
                        self._follow(key, self._leader(by), explained_by=by[0])
        return [key for key in self.alerts if key in calm and not self._followers(key) - calm]

    def make_leaders_as_severe_as_what_follows_them(self) -> None:
        """A leader speaks for its group: were it less severe, those who must hear would be told by two alerts."""
        for key, alert in list(self.alerts.items()):
            if alert.severity == "critical" and alert.role == "follows":
                leader = self._leader(key)
                if self.alerts[leader].severity == "warning":
                    just_opened = self.alerts[leader].opened_at == self._at
                    self._change(leader, severity="critical", escalated_at=None if just_opened else self._at)

    def _has_another_cause(self, key: Key, leader: Key) -> bool:
        by = self._explainer(key)
        return self._stands_alone(key) if by is None else self._leader(by) != leader

    def _explainer(self, key: Key) -> Key | None:
        """The alert that explains this one; of several, the one that accounts for most."""
        series, kind = key
        others = [other for other, its in self._placed if its == kind and _breadth(other) < _breadth(series)]
        explaining = {
            other: rest.accounts_for for other, rest in self._left_without(key, others).items() if rest.explained
        }
        # Of a topic and the entity that explains it, the entity says more.
        last = [other for other in explaining if self.alerts[other, kind].explained_by not in explaining]
        return (min(last, key=lambda other: (-explaining[other], other)), kind) if last else None

    def _explained_by(self, key: Key) -> list[Key]:
        """The leading alerts that this one explains: topics before everything, then that of which it carries most."""
        series, kind = key
        explained = []
        for other in self._placed:
            if other[1] == kind and _breadth(other[0]) > _breadth(series) and self.alerts[other].role == "leads":
                rest = self._left_without(other, [series]).get(series)
                if rest is not None and rest.explained:
                    explained.append((_breadth(other[0]), -rest.accounts_for, other))
        return [other for _, _, other in sorted(explained)]

    def _stands_alone(self, key: Key) -> bool:
        """Whether a follower would be a spike without what explained it."""
        by = self.alerts[key].explained_by
        rest = self._left_without(key, [by]).get(by) if by is not None else None
        return rest is None or rest.spike

    def _left_without(self, key: Key, others: Collection[Series]) -> Mapping[Series, Remainder]:
        """What would be left without each of these, of which one question tells for all that may explain the alert:
        each takes a look at the database."""
        if key not in self._left:
            series, kind = key
            narrower = [other for other, its in self.alerts if its == kind and _breadth(other) < _breadth(series)]
            self._left[key] = self._without(self.alerts[key], narrower) if narrower else {}
        known = self._left[key]
        if over := [other for other in others if (other, key[1]) not in self.alerts]:
            known = {**known, **self._without(self.alerts[key], over)}
        return {other: known[other] for other in others if other in known}

    def _leader(self, key: Key) -> Key:
        return self._keys[self.alerts[key].group]

    def _followers(self, key: Key) -> set[Key]:
        leader = self.alerts[key].id
        return {other for other, alert in self.alerts.items() if alert.follows == leader}

    def _follow(self, key: Key, leader: Key, explained_by: Series | None = None) -> None:
        """Have an alert follow another one, which names it."""
        led = self.alerts[leader]
        self._change(key, follows=led.id, part_of=led.series, explained_by=explained_by)
        if key[0] not in led.also:
            self._change(leader, also=(*led.also, key[0]))

    def _leave(self, key: Key, apart_from: Series | None = None) -> None:
        """Have an alert lead a group of its own, as a spike without what explained it."""
        alert = self.alerts[key]
        self._change(key, explained_by=None, apart_from=apart_from)
        if alert.follows is not None:
            self._change(key, follows=None, part_of=None, left_group=alert.follows, left_at=self._at)

    def _change(self, key: Key, **changes: object) -> None:
        self.alerts[key] = replace(self.alerts[key], **changes)  # type: ignore[arg-type]


def _the_more_specific_first(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (_breadth(key[0]), key))


def _breadth(series: Series) -> int:
    if series.dimension == "entity":
        return 0
    return 2 if series == EVERYTHING else 1
