"""Baselines across a change of model: what earlier counts would have been, had the new model made them.

Two models that disagree on how much news is negative differ in every series at once, which is no spike. From the
items that both have scored (see `Comparison`) each series gets a `Shift`, three numbers that lead from counts under
the model before to counts under the model after:

- kept, the share of the items negative before that are negative after, and gained, the share of the others that are.
  To count through such a table of what one says where the other says something is the adjusted count of
  quantification (Forman, Quantifying counts and costs via classification, 2008), forwards.
- ratio, the series' items after to those before: topics may change. Items that change topic may be more negative than
  those that stay: the difference they make to the topic's share is added to kept and to gained.

A series' own kept and gained lean on those of the whole stream, the more the less those of its topics differ:
empirical Bayes, beta-binomial by moments (Kleinman, Proportions with extraneous variance, 1973). A series that the
models have not both scored has the stream's.

Counts are not multiplied but drawn (stochastic imputation: Little and Rubin, Statistical Analysis with Missing Data,
4.3): of n negatives a binomial number with kept stays. Expected numbers would vary less than any model's counts do,
and the detector, which learns how much they vary, would then find what the new model says unusual too often. The
draws are pseudo-random by series, bucket and promotion, so that the same counts give the same every time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.records import EVERYTHING, Counts, Series, digest
from monitor.retraining import Comparison

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_TOPIC_ITEMS: Final = 10.0
"""Items that a topic's ratio leans on, which do not change topic."""

_WAS: Final = (True, False)


class Shift(NamedTuple):
    """From a series' counts under one model to those under another: n items, k of them negative, become ratio n
    items, of which ratio (kept k + gained (n - k)) are negative."""

    ratio: float = 1.0
    kept: float = 1.0
    gained: float = 0.0

    def then(self, later: "Shift") -> "Shift":
        """This one and after it a later one, as one."""
        return Shift(
            self.ratio * later.ratio,
            later.gained + (later.kept - later.gained) * self.kept,
            later.gained + (later.kept - later.gained) * self.gained,
        )


SAME: Final = Shift()


@dataclass(frozen=True, slots=True)
class Rebase:
    """What a promotion does to a series' counts. The one of everything serves each series that has none.

    Attributes:
        items: how many items of the series both models had scored, as the model before counts it.
    """

    series: Series
    shift: Shift
    items: int


class Row(NamedTuple):
    """What a bucket holds of a series under one promotion."""

    series: Series
    start: datetime
    promotion: int
    counts: Counts


class Scale:
    """Brings counts under earlier promotions to those under one of them.

    A model that was champion before counts as it did then: what lies between two promotions of one version is passed
    over, so that a rollback gives back the very counts that the promotion had changed.

    Args:
        promotion: the one that the engine scores under; 0: under none.
        versions: by promotion, of its model.
        shifts: by promotion, of each series; where there are none, counts stay as they are.
    """

    def __init__(
        self,
        promotion: int = 0,
        versions: Mapping[int, str] | None = None,
        shifts: Mapping[int, Mapping[Series, Shift]] | None = None,
    ) -> None:
        self._versions = versions or {}
        self._shifts = shifts or {}
        self._promotion = self._newest(promotion, max(self._versions, default=0))
        self.shift = cache(self._shift)

    def brought(self, rows: Sequence[Row]) -> list[Counts]:
        """The counts of each row under the scale's promotion; those of a newer one stay as they are."""
        brought = [row.counts for row in rows]
        changed = [n for n, row in enumerate(rows) if self.shift(row.series, row.promotion) != SAME]
        if changed:
            moved = [rows[n] for n in changed]
            shifts = [self.shift(row.series, row.promotion) for row in moved]
            for n, counts in zip(changed, _drawn(moved, shifts, self._promotion), strict=True):
                brought[n] = counts
        return brought

    def _shift(self, series: Series, promotion: int) -> Shift:
        shift = SAME
        for number in self._path(promotion):
            shifts = self._shifts.get(number, {})
            shift = shift.then(shifts.get(series, shifts.get(EVERYTHING, SAME)))
        return shift

    def _path(self, promotion: int) -> list[int]:
        """The promotions that lead from one to the scale's, in their order."""
        path: list[int] = []
        if promotion >= self._promotion:
            return path
        while (promotion := self._newest(promotion, self._promotion)) < self._promotion:
            promotion += 1
            path.append(promotion)
        return path

    def _newest(self, promotion: int, last: int) -> int:
        """The newest promotion up to `last` that made the same model champion as this one."""
        version = self._versions.get(promotion)
        same = (number for number, one in self._versions.items() if version == one and number <= last)
        return max(same, default=promotion)


def rebases(comparisons: Iterable[Comparison], entities_by_item: Mapping[str, Collection[str]]) -> list[Rebase]:
    """What becomes of each series' counts when `after` takes over from `before`; the whole stream's comes first.

    Args:
        comparisons: of items that both models have scored; of none, nothing is known and the list is empty.
        entities_by_item: the watched entities that these items name; items without any may be missing.
    """
    tables: defaultdict[Series, _Table] = defaultdict(_Table)
    for one in comparisons:
        stays = one.before_topic == one.after_topic
        everywhere = (EVERYTHING, *(Series("entity", name) for name in entities_by_item.get(one.item, ())))
        for series in dict.fromkeys(everywhere):
            tables[series].add(one, before=True, after=True)
        tables[Series("topic", one.before_topic)].add(one, before=True, after=stays)
        if not stays:
            tables[Series("topic", one.after_topic)].add(one, before=False, after=True)
    if not tables:
        return []
    stream = tables.pop(EVERYTHING)
    # As if of one item more of each kind both had said the same: models that agree throughout change nothing at all.
    pooled = _share(stream, True, SAME.kept, 1.0), _share(stream, False, SAME.gained, 1.0)
    topics = [table for series, table in tables.items() if series.dimension == "topic"]
    priors = [(share, _weight(topics, was, share)) for was, share in zip(_WAS, pooled, strict=True)]
    found = [Rebase(EVERYTHING, Shift(1.0, *pooled), stream.before)]
    for series, table in sorted(tables.items()):
        kept, gained = (_share(table, was, *prior) for was, prior in zip(_WAS, priors, strict=True))
        moved = table.moved_share * table.before / (table.before + _TOPIC_ITEMS)
        ratio = (table.after + _TOPIC_ITEMS) / (table.before + _TOPIC_ITEMS)
        shift = Shift(ratio, min(max(kept + moved, 0.0), 1.0), min(max(gained + moved, 0.0), 1.0))
        found.append(Rebase(series, shift, table.before))
    return found


def reversed_comparisons(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The same with the roles exchanged: as for a rollback, which promotes `before` in place of `after`."""
    return [
        replace(
            one,
            before_topic=one.after_topic,
            after_topic=one.before_topic,
            before_sentiment=one.after_sentiment,
            after_sentiment=one.before_sentiment,
            before_negative=one.after_negative,
            after_negative=one.before_negative,
            before_confidence=one.after_confidence,
            after_confidence=one.before_confidence,
        )
        for one in comparisons
    ]


class _Table:
    """What two models say of the items of a series. `of` and `hits` are keyed by whether an item of the series before
    was negative then: how many were, and how many of them are negative after, in whatever topic."""

    def __init__(self) -> None:
        self.of: Counter[bool] = Counter()
        self.hits: Counter[bool] = Counter()
        self.after = self._after_negatives = 0

    def add(self, one: Comparison, *, before: bool, after: bool) -> None:
        """Count an item that is in the series before, after, or both."""
        if before:
            self.of[one.before_negative] += 1
            self.hits[one.before_negative] += one.after_negative
        if after:
            self.after += 1
            self._after_negatives += one.after_negative

    @property
    def before(self) -> int:
        """Items that the model before has in the series."""
        return self.of.total()

    @property
    def moved_share(self) -> float:
        """How much larger the negative share of the model after is for the items that it has in the series than for
        those that were in it before."""
        if not self.before or not self.after:
            return 0.0
        return self._after_negatives / self.after - self.hits.total() / self.before


def _share(table: _Table, was: bool, prior: float, weight: float) -> float:
    """kept (`was`) or gained of a series, with a prior that weighs so many items."""
    return prior if weight == inf else (table.hits[was] + weight * prior) / (table.of[was] + weight)


def _weight(topics: Sequence[_Table], was: bool, pooled: float) -> float:
    """Items that the whole stream's kept or gained weighs in each series' own, at least 1; infinite where the topics
    differ by no more than chance."""
    groups = [(table.hits[was], table.of[was]) for table in topics if table.of[was]]
    total = sum(of for _, of in groups)
    if len(groups) < 2 or not 0 < pooled < 1:
        return inf
    chance = pooled * (1 - pooled)
    spread = sum(of * (hits / of - pooled) ** 2 for hits, of in groups)
    beyond = spread - chance * (len(groups) - 1)
    room = chance * (total - sum(of**2 for _, of in groups) / total - (len(groups) - 1))
    return max(room / beyond - 1, 1.0) if beyond > 0 and room > 0 else inf


def _drawn(rows: Sequence[Row], shifts: Sequence[Shift], promotion: int) -> list[Counts]:
    """The counts of rows after their shifts, drawn. On time, late and the first of their stories are drawn apart, as
    what comes late must not change what was on time."""
    ratio, kept, gained = np.array(shifts).T
    seeds = np.array([_seed(row, promotion) for row in rows], dtype=np.uint64)
    counts = [row.counts for row in rows]
    on_time = [(one.items - one.late, one.negatives - one.late_negatives) for one in counts]
    late = [(one.late, one.late_negatives) for one in counts]
    stories = [(one.stories, one.negative_stories) for one in counts]
    drawn = [
        _draw(seeds + np.uint64(3 * n), np.array(pairs), ratio, kept, gained)
        for n, pairs in enumerate((on_time, late, stories))
    ]
    return [
        replace(
            one,
            items=n + n_late,
            negatives=k + k_late,
            score=one.score * factor,
            late=n_late,
            late_negatives=k_late,
            stories=n_stories,
            negative_stories=k_stories,
        )
        for one, factor, (n, k), (n_late, k_late), (n_stories, k_stories) in zip(
            counts, ratio.tolist(), *drawn, strict=True
        )
    ]


def _draw(seeds: Hashes, pairs: Ints, ratio: Floats, kept: Floats, gained: Floats) -> list[tuple[int, int]]:
    """Items and negatives of each row; `pairs`: (rows, 2). Where the ratio makes a fraction of a count, chance rounds
    items and negatives alike, so that no more are negative than there are."""
    from scipy.stats import binom  # takes longer to import than everything else here

    items, negatives = pairs.T
    stay, turn, rounding = (_uniform(seeds + np.uint64(n)) for n in range(3))
    after = binom.ppf(stay, negatives, kept) + binom.ppf(turn, items - negatives, gained)
    scaled = (np.where(ratio == 1, counts, np.floor(counts * ratio + rounding)) for counts in (items, after))
    return [(int(n), int(k)) for n, k in zip(*scaled, strict=True)]


def _seed(row: Row, promotion: int) -> int:
    return int(digest(*row.series, row.start.isoformat(), str(row.promotion), str(promotion))[:15], 16)


def _uniform(seeds: Hashes) -> Floats:
    """Between 0 and 1, exclusive: splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators,
    2014)."""
    mixed = seeds * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform: Floats = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform
