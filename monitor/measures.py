"""Whether two models say the same of the same items: what is measured, and within which bounds it must be."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, inf, isfinite, isnan, log, nan, sqrt
from statistics import NormalDist
from typing import Any, Final

from monitor.estimates import CONFIDENCE, Estimate, share
from monitor.labels import TASKS, Label, Task, majority, votes_by_item
from monitor.retrain_settings import RetrainSettings
from monitor.retraining import Comparison

MAX_DROP: Final = 0.05
"""How much less often two models may agree after a promotion than before it, of 1. Both answer as they did, so only
other news can change this: a little is to be expected, and between many items a little is significant."""
MIN_LABELLED: Final = 30
"""Fewest labelled items that two models are compared on."""

_Z: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_RATIO: Final = "negative_ratio"
_CHANGE: Final = "_change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that was measured, with the ends of its 95 % interval.

    `topic_agreement`, `sentiment_agreement`: share of the items of which both models say the same. `negative_ratio`:
    how many items are negative by the challenger to each that is by the champion before. The same with `_change`: the
    difference, or the ratio, to what it was before the promotion. `topic_labels`, `sentiment_labels`: of the labelled
    items on which one of the two is right, the share on which it is the challenger.

    Attributes:
        bound: the least agreement, change of agreement or share of labels; of a ratio, how far it may be from 1, as a
            factor either way.
        passed: whether it keeps within its bound: agreement by its value; the negative ratio by its value, unless its
            interval holds 1; change and labels unless their whole interval lies beyond.
        hopeless: whether its whole interval lies beyond its bound.
    """

    measure: str
    value: float
    low: float
    high: float
    bound: float
    passed: bool
    hopeless: bool

    @property
    def row(self) -> dict[str, Any]:
        """As JSON; None for what is infinite or undefined."""
        row = {name: value for name, value in asdict(self).items() if name != "hopeless"}
        return row | {name: row[name] if isfinite(row[name]) else None for name in ("value", "low", "high")}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured on so many items that both models scored."""

    items: int
    measures: tuple[Measure, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every measure has passed."""
        return all(one.passed for one in self.measures)

    @property
    def hopeless(self) -> bool:
        """Whether more items would hardly have every measure pass."""
        return any(one.hopeless for one in self.measures)

    @property
    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {"items": self.items, "rows": [one.row for one in self.measures]}

    def __str__(self) -> str:
        return f"of {self.items} items that both models scored: {', '.join(map(_words, self.measures))}"


def sampled(item: str, of_all: float) -> bool:
    """Whether an item is among the share of all that is compared: by its id, so that every process chooses alike."""
    digest = hashlib.blake2b(item.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < of_all * 2**64


def agreement_measures(compared: Sequence[Comparison], settings: RetrainSettings) -> list[Measure]:
    """How far both models agree, before a promotion and after it.

    Raises:
        ValueError: nothing was compared.
    """
    measures = []
    for task in TASKS:
        same = share(sum(_said(one, "before", task) == _said(one, "after", task) for one in compared), len(compared))
        bound = settings.min_agreement
        measures.append(_measure(f"{task}_agreement", same, bound, same.value >= bound, same.high < bound))
    ratio, bound = _negative_ratio(compared), settings.max_negative_ratio
    # Where neither calls anything negative they agree on that, and one item to none is no more than chance.
    passed = isnan(ratio.value) or 1 / bound <= ratio.value <= bound or ratio.low <= 1 <= ratio.high
    return [*measures, _measure(_RATIO, ratio, bound, passed, _beyond(ratio, bound))]


def change_measures(
    measures: Iterable[Measure], before: Iterable[Mapping[str, Any]], settings: RetrainSettings
) -> list[Measure]:
    """How far the agreement after a promotion has changed from what it was before.

    The interval of the difference is made of the intervals of both, as by R. Newcombe, "Interval estimation for the
    difference between independent proportions" (Statistics in Medicine 17, 1998), method 10; of ratios, by their
    logarithms (G. Zou and A. Donner, Statistics in Medicine 27, 2008).

    Args:
        measures: of after the promotion.
        before: rows of the measures of before.
    """
    rows = {row["measure"]: row for row in before}
    changes = []
    for now in measures:
        row = rows.get(now.measure)
        if row is None or None in row.values() or not isfinite(now.high):
            continue
        then = Estimate(row["value"], row["low"], row["high"])
        name = now.measure + _CHANGE
        if now.measure != _RATIO:
            change = _difference(now, then)
            beyond = change.high < -MAX_DROP
            changes.append(_measure(name, change, -MAX_DROP, not beyond, beyond))
        elif min(now.low, then.low) > 0:
            change = _mapped(exp, _difference(_mapped(log, now), _mapped(log, then)))
            beyond = _beyond(change, bound := sqrt(settings.max_negative_ratio))
            changes.append(_measure(name, change, bound, not beyond, beyond))
    return changes


def label_measures(compared: Sequence[Comparison], labels: Iterable[Label]) -> list[Measure]:
    """Which of both models people bear out, in each task with `MIN_LABELLED` labelled items (a sign test)."""
    votes, measures = votes_by_item(labels), []
    for task in TASKS:
        right = []
        for one in compared:
            if (given := votes.get((one.item, task))) is not None:
                label = majority(given).label
                right.append((_said(one, "before", task) == label, _said(one, "after", task) == label))
        better = sum(after and not before for before, after in right)
        worse = sum(before and not after for before, after in right)
        if len(right) >= MIN_LABELLED and better + worse:
            wins = share(better, better + worse)
            # Not hopeless however it looks: of many looks at few labels, one would be by chance.
            measures.append(_measure(f"{task}_labels", wins, 0.5, wins.high >= 0.5, False))
    return measures


def _words(one: Measure) -> str:
    interval = f" ({_shown(one.measure, one.low)} to {_shown(one.measure, one.high)})"
    wanted = "" if one.passed else f", beyond the bound of {_shown(one.measure, one.bound)}"
    name = one.measure.replace("_", " ")
    return f"{name} {_shown(one.measure, one.value)}{interval}{wanted}"


def _shown(measure: str, value: float) -> str:
    if not isfinite(value):
        return "undefined" if isnan(value) else "unbounded"
    return f"{value:.2f}" if measure.startswith(_RATIO) else f"{value:.1%}"


def _measure(name: str, found: Estimate, bound: float, passed: bool, hopeless: bool) -> Measure:
    return Measure(
        measure=name,
        value=found.value,
        low=found.low,
        high=found.high,
        bound=bound,
        passed=passed,
        hopeless=hopeless,
    )


def _said(one: Comparison, when: str, task: Task) -> str:
    said: str = getattr(one, f"{when}_{task}")
    return said


def _beyond(ratio: Estimate, bound: float) -> bool:
    return ratio.low > bound or ratio.high < 1 / bound


def _negative_ratio(compared: Sequence[Comparison]) -> Estimate:
    """How many items are negative after to each that is before; nan where none is, infinite where none was before.

    Source of the interval: D. Bonett and R. Price, "Confidence intervals for a ratio of binomial proportions based on
    paired data" (Statistics in Medicine 25, 2006): Wilson's intervals of both shares, of the items that one of the
    models calls negative, narrowed by how far they go together.
    """
    after = sum(one.after_negative for one in compared)
    before = sum(one.before_negative for one in compared)
    either = sum(one.after_negative or one.before_negative for one in compared)
    if not either:
        return Estimate(nan, nan, nan)
    apart = 2 * either - after - before

    def doubt(negative: int) -> float:
        return sqrt((1 - (negative + 1) / (either + 2)) / (negative + 1))

    z = _Z * sqrt((apart + 2) / ((after + 1) * (before + 1))) / (doubt(after) + doubt(before))
    (after_low, after_high), (before_low, before_high) = (_wilson(each, either, z) for each in (after, before))
    return Estimate(after / before if before else inf, after_low / before_high, _over(after_high, before_low))


def _wilson(hits: int, of: int, z: float) -> tuple[float, float]:
    middle, half = 2 * hits + z**2, z * sqrt(z**2 + 4 * hits * (1 - hits / of))
    low = (middle - half) / (2 * (of + z**2)) if hits else 0.0
    return low, (middle + half) / (2 * (of + z**2))


def _over(value: float, by: float) -> float:
    return value / by if by else inf


def _difference(now: Estimate | Measure, then: Estimate) -> Estimate:
    value = now.value - then.value
    return Estimate(
        value,
        value - sqrt((now.value - now.low) ** 2 + (then.high - then.value) ** 2),
        value + sqrt((now.high - now.value) ** 2 + (then.value - then.low) ** 2),
    )


def _mapped(by: Callable[[float], float], found: Estimate | Measure) -> Estimate:
    return Estimate(by(found.value), by(found.low), by(found.high))
