"""What a day of news says of drift, measure by measure, and how that is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, get_args

Measure = Literal["topics", "negatives", "topic_confidence", "sentiment_confidence", "embeddings", "words"]
"""What is compared: the mix of topics, the share of negative items, the mean probability of the labels given (which
estimates how many of them are right), what the model's encoder makes of texts, and the words of titles."""
Verdict = Literal["alarm", "quiet", "learning", "too few", "no like days"]
"""`learning`: the day is one of those that later ones are compared with. `too few`: items. `no like days`: a weekday
or a weekend of which too few are among the model's reference days."""

MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
ACCURACY: Final[Mapping[str, Measure]] = {"topic": "topic_confidence", "sentiment": "sentiment_confidence"}
"""By task, the measure that estimates its accuracy."""
MIN_ITEMS: Final = 50
"""Fewest items of a day that say anything of it."""

_TOLD: Final[Mapping[Measure, tuple[str, bool]]] = {
    "topics": ("the mix of topics is {0} away from the usual one (Jensen-Shannon distance), usually {1}", False),
    "negatives": ("{0} of the items are negative, usually {1}", True),
    "topic_confidence": ("the model is on average {0} sure of topics, usually {1}", True),
    "sentiment_confidence": ("the model is on average {0} sure of sentiments, usually {1}", True),
    "embeddings": ("texts are {0} away from the usual ones (maximum mean discrepancy), usually {1}", False),
    "words": ("{0} of the words in titles are new, usually {1}", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """A day of event time (UTC) of the items that one model scored, each story once.

    Attributes:
        reference: whether later days are compared with it.
        found: what was measured, as JSON; empty where it has too few items.
    """

    model: str
    day: date
    items: int
    reference: bool
    found: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What one measure says of a day.

    Attributes:
        value: as the measure's own unit has it: shares and probabilities of 1, distances; None with too few items.
        expected: what it usually is on such a day; None while that is not known.
        z: how far the day is from that, in standard deviations of the reference days.
        statistic: the running mean of z over the days, in its own standard deviations.
        threshold: beyond which it alarms: above it, or for topics, negatives and confidences on either side.
        note: what else is worth knowing.
    """

    model: str
    day: date
    measure: Measure
    items: int
    value: float | None = None
    expected: float | None = None
    z: float | None = None
    statistic: float | None = None
    threshold: float | None = None
    note: str | None = None
    verdict: Verdict

    @property
    def alarm(self) -> bool:
        return self.verdict == "alarm"


def shown(measure: Measure, value: float | None) -> str:
    """A value of a measure for people."""
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if _TOLD[measure][1] else f"{value:.3f}"


def sentence(row: Drift) -> str:
    """What changed on the day of an alarm, from what to what."""
    said = _TOLD[row.measure][0].format(shown(row.measure, row.value), shown(row.measure, row.expected))
    said += f", {row.note}" if row.note else ""
    return (
        f"{row.day}: {said}; over the last days that is {abs(row.statistic or 0):.1f} standard deviations off, "
        f"{row.threshold:.1f} are usual at most ({row.items:,} items of {row.model})"
    )
