"""What a day of news is, in figures small enough to keep, and how it differs from the days it is compared with."""

import base64
import heapq
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from monitor.drift import MEASURES, Drift, LookedAt, Measure, Verdict, shown
from monitor.model.checkpoint import Checkpoint, load_network
from monitor.model.text import clean, pad
from monitor.stored_drift import DriftItem
from pipelines import drift_statistics as statistics

Floats = NDArray[np.float64]
Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Features of texts, (texts, features), each row of length 1."""

BOTH_SIDES: Final[frozenset[Measure]] = frozenset({"topics", "negatives", "topic_confidence", "sentiment_confidence"})
"""The measures whose fall is drift as much as their rise. Of topics, that is the share of each."""
_FEATURES: Final = 256
_BANDWIDTH: Final = 0.5
_BATCH: Final = 32
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_AROUND: Final = (-1, 0, 1)
_RARE: Final = 5  # items a day of a topic that is compared on its own
_OTHERS: Final = "the other topics"


class Compared(NamedTuple):
    """What a day's comparison gives.

    Attributes:
        statistics: by measure and by topic, for the comparison of the next day.
    """

    rows: list[Drift]
    statistics: dict[str, float]


class Embedder:
    """Texts as a model's own encoder has them, in features whose dot product is a Gaussian kernel.

    The distance of two means of these features is the maximum mean discrepancy of the texts (Gretton et al. 2012,
    jmlr.org/papers/v13/gretton12a.html) under the kernel exp(-|x - y|^2 / (2 b^2)) of embeddings x, y of length 1 and
    b = 0.5, to the precision of random Fourier features (Rahimi and Recht 2007). The kernel is the same for all time.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._network = load_network(checkpoint)
        self._tokenizer = checkpoint.tokenizer()
        self._pad_id = checkpoint.pad_id
        size = self._network.encoder.config.hidden_size  # type: ignore[union-attr]
        rng = np.random.default_rng(0)
        self._directions = (rng.standard_normal((size, _FEATURES)) / _BANDWIDTH).astype(np.float32)  # type: ignore[arg-type]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast([clean(text) for text in texts])]
        order = sorted(range(len(texts)), key=lambda row: len(token_ids[row]))
        rows = np.empty((len(texts), 2 * _FEATURES), np.float32)
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            inputs = pad([token_ids[row] for row in batch], self._pad_id)
            with torch.inference_mode():
                found = self._network.encode(*map(torch.from_numpy, inputs)).numpy()
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
            angles = found @ self._directions
            rows[batch] = np.concatenate((np.cos(angles), np.sin(angles)), axis=1) / np.sqrt(_FEATURES)
        return rows


def words_of(title: str) -> list[int]:
    """A title's words, letters alone and two at least, as hashes."""
    return [zlib.crc32(word.encode()) for word in _WORD.findall(clean(title).casefold())]


def measured(items: Iterable[DriftItem], embed: Embed | None, sample: int) -> dict[str, Any]:
    """What a day is, as `LookedAt.found` keeps it, of its items, read once.

    Args:
        embed: None: the model's encoder cannot be had, and embeddings are left out.
        sample: items at most that are embedded: those whose hashes are least, the same each time.
    """
    topics: Counter[str] = Counter()
    words: Counter[int] = Counter()
    negatives = 0
    confidences: list[tuple[float, float]] = []
    drawn: list[tuple[int, str, str]] = []
    for item in items:
        topics[item.topic] += 1
        negatives += item.negative
        confidences.append((max(item.topic_probs.values()), max(item.sentiment_probs.values())))
        words.update(words_of(item.title))
        turn = -int.from_bytes(blake2b(item.id.encode(), digest_size=8).digest())
        entry = (turn, item.id, f"{item.title}\n{item.body}" if item.body else item.title)
        (heapq.heappush if len(drawn) < sample else heapq.heappushpop)(drawn, entry)
    of_topic, of_sentiment = np.array(confidences).reshape(-1, 2).T
    return summary(
        topics=topics,
        negatives=negatives,
        of_topic=of_topic,
        of_sentiment=of_sentiment,
        words=words,
        features=embed([text for *_, text in drawn]) if embed else None,
    )


def summary(
    *,
    topics: Mapping[str, int],
    negatives: int,
    of_topic: Floats,
    of_sentiment: Floats,
    words: Mapping[int, int],
    features: NDArray[np.floating] | None,
) -> dict[str, Any]:
    """What a day is, as JSON.

    Args:
        topics: items by topic.
        of_topic, of_sentiment: the probability of the label given, (items,) each.
        words: how often each word of its titles stands in them, by hash.
        features: of embedded items, (sample, features).
    """
    hashes = np.array(sorted(words), np.uint32)
    counts = np.array([words[word] for word in hashes.tolist()], np.uint32)
    return {
        "topics": dict(topics),
        "negatives": int(negatives),
        "topic_confidence": [float(of_topic.mean()), float(of_topic.var())],
        "sentiment_confidence": [float(of_sentiment.mean()), float(of_sentiment.var())],
        "words": {"hashes": _packed(hashes), "counts": _packed(counts)},
        "embeddings": None
        if features is None
        else {"sample": len(features), "mean": [round(float(one), 6) for one in features.mean(axis=0)]},
    }


class Reference:
    """A model's reference days: what later ones are compared with.

    Args:
        days: at least `drift.reference_days` of them, in order, all with enough items.
        false_alarm_days: days between false alarms of all measures together.

    Raises:
        ValueError: too few of them are alike.
    """

    def __init__(self, days: Sequence[LookedAt], false_alarm_days: float) -> None:
        self._days = days
        self._weekend = np.array([statistics.is_weekend(one.day) for one in days])
        self._topics = sorted(set().union(*(one.found["topics"] for one in days)))
        self._measures = [
            measure for measure in MEASURES if measure != "embeddings" or all(one.found[measure] for one in days)
        ]
        self._vocabularies = [_words(one.found) for one in days]
        self._known: dict[int, NDArray[np.uint32]] = {}
        self._vectors: dict[Measure, list[Floats]] = {
            measure: [
                np.array(part, float) for part in zip(*(self._vector(measure, one) for one in days), strict=True)
            ]
            for measure in self._measures
            if measure in ("topics", "embeddings")
        }
        self._means: dict[tuple[Measure, bool, int | None], tuple[Floats, float, int]] = {}
        usual_topics = {
            topic: sum(one.found["topics"].get(topic, 0) for one in days) / len(days) for topic in self._topics
        }
        self._compared_topics = [topic for topic, items in usual_topics.items() if items >= _RARE]
        self._of_topics = {
            topic: statistics.usual(
                [_stable("topics", self._topic_share(one, topic)) for one in days],
                [1 / (4 * one.items) for one in days],
                self._weekend.tolist(),
            )
            for topic in (*self._compared_topics, _OTHERS)
        }
        self._thresholds = {
            measure: statistics.threshold(
                int((~self._weekend).sum()),
                int(self._weekend.sum()),
                false_alarm_days * len(self._measures) * (len(self._of_topics) if measure == "topics" else 1),
                both_sides=measure in BOTH_SIDES,
                apart=measure in ("embeddings", "words"),
            )
            for measure in self._measures
        }
        self._apart: dict[Measure, float] = {}
        self._usual: dict[Measure, statistics.Usual] = {}
        for measure in self._measures:
            if measure in ("topics", "embeddings"):
                rows = [self._distance(measure, one, without=index) for index, one in enumerate(days)]
                alike = [index for index, row in enumerate(rows) if row is not None]
                kept = [row for row in rows if row is not None]
                squares, sampling, left = zip(*kept, strict=True)
                self._apart[measure], self._usual[measure] = statistics.usual_distance(
                    squares, sampling, left, self._weekend[alike].tolist()
                )
            else:
                values = [self._share(measure, one, index) for index, one in enumerate(days)]
                self._usual[measure] = statistics.usual(
                    [_stable(measure, value) for value, _ in values],
                    [variance for _, variance in values],
                    self._weekend.tolist(),
                )

    def compared(self, day: LookedAt, before: Mapping[str, float]) -> Compared:
        """What each measure says of a day; `before` are the statistics of the last day before it that was compared.

        The mix of topics alarms by its topic that is furthest off, each topic being a share as negatives are: a
        distance of mixes shows how far the day is, but cannot add up over days what one topic gains.
        """
        weekend = statistics.is_weekend(day.day)
        rows, after = [], dict(before)
        for measure in self._measures:
            if measure == "embeddings" and not day.found[measure]:
                continue
            if weekend not in self._usual[measure].levels:
                rows.append(_row(day, measure, "no like days", value=self._value(measure, day)))
                continue
            value, expected, z = self._figures(measure, day, weekend)
            note = None
            if measure == "topics":
                z, after[measure], note = self._furthest(day, weekend, after)
            else:
                after[measure] = statistics.statistic(before.get(measure), z)
            limit = self._thresholds[measure]
            over = statistics.beyond(after[measure], limit, both_sides=measure in BOTH_SIDES)
            rows.append(
                replace(
                    _row(day, measure, "alarm" if over else "quiet", value=value),
                    expected=expected,
                    z=z,
                    statistic=after[measure],
                    threshold=limit,
                    note=note,
                )
            )
        return Compared(rows, after)

    def _figures(self, measure: Measure, day: LookedAt, weekend: bool) -> tuple[float, float, float]:
        """A day's value, what it usually is, and z."""
        usual = self._usual[measure]
        if measure in self._apart:
            square, sampling, left = self._distance(measure, day) or (0.0, 0.0, 1.0)
            z = usual.z(statistics.root(square, sampling, left, self._apart[measure]), 0.0, weekend)
            mean = (sampling + left * self._apart[measure]) * usual.levels[weekend] ** 3
            return float(np.sqrt(square)), float(np.sqrt(max(mean, 0.0))), z
        value, variance = self._share(measure, day, self._place(day))
        return value, _back(measure, usual.levels[weekend]), usual.z(_stable(measure, value), variance, weekend)

    def _furthest(self, day: LookedAt, weekend: bool, after: dict[str, float]) -> tuple[float, float, str]:
        """Of the topic whose share is furthest off over the days: z, its statistic, and what it is of the items.
        Each topic's statistic is moved on in `after`."""
        zs = {}
        for topic, usual in self._of_topics.items():
            share = _stable("topics", self._topic_share(day, topic))
            zs[topic] = usual.z(share, 1 / (4 * day.items), weekend)
            after[f"topic {topic}"] = statistics.statistic(after.get(f"topic {topic}"), zs[topic])
        topic = max(zs, key=lambda one: abs(after[f"topic {one}"]))
        share, often = self._topic_share(day, topic), _back("topics", self._of_topics[topic].levels[weekend])
        note = f"most of all {topic}, {shown('negatives', share)} of the items, usually {shown('negatives', often)}"
        return zs[topic], after[f"topic {topic}"], note

    def _topic_share(self, day: LookedAt, topic: str) -> float:
        counts = day.found["topics"]
        of = day.items - sum(counts.get(one, 0) for one in self._compared_topics)
        return float((of if topic == _OTHERS else counts.get(topic, 0)) / day.items)

    def compact(self, day: LookedAt, after: Mapping[str, float]) -> dict[str, Any]:
        """What is kept of a day that nothing will be compared with: its words as the share that is new, and the
        statistics after it."""
        share, _ = self._share("words", day, self._place(day))
        return {**day.found, "words": {"new": share}, "statistics": dict(after)}

    def _value(self, measure: Measure, day: LookedAt) -> float | None:
        return None if measure in self._apart else self._share(measure, day, self._place(day))[0]

    def _place(self, day: LookedAt) -> int:
        """A reference day in whose place a later day is compared: one of its day of the week, where there is."""
        return (day.day - self._days[0].day).days % len(self._days)

    def _share(self, measure: Measure, day: LookedAt, place: int) -> tuple[float, float]:
        """A day's value, and its sampling variance on the scale of `_stable`."""
        if measure == "negatives":
            return day.found["negatives"] / day.items, 1 / (4 * day.items)
        if measure != "words":
            mean, variance = day.found[measure]
            return mean, variance / day.items
        hashes, counts = _words(day.found)
        known = self._vocabulary(place)
        new = counts[~np.isin(hashes, known, assume_unique=True)].sum()
        total = max(1, int(counts.sum()))
        return float(new / total), 1 / (4 * total)

    def _vocabulary(self, place: int) -> NDArray[np.uint32]:
        """The words of all reference days but the one in this place and its neighbours, so that a reference day is
        not compared with itself, nor with what it shares with the days around it; and a later day with as many."""
        if place not in self._known:
            left_out = {(place + step) % len(self._days) for step in _AROUND}
            kept = [words for index, (words, _) in enumerate(self._vocabularies) if index not in left_out]
            self._known[place] = np.unique(np.concatenate(kept))
        return self._known[place]

    def _distance(
        self, measure: Measure, day: LookedAt, without: int | None = None
    ) -> tuple[float, float, float] | None:
        """A day's squared distance from the reference days of its kind, what it is by sampling alone, and 1 + 1/d for
        the d days that it is compared with; None where there are none."""
        found = self._mean(measure, statistics.is_weekend(day.day), without)
        if found is None:
            return None
        mean, total, days = found
        vector, items = self._vector(measure, day)
        if measure == "topics":
            square, of_one = float(jensenshannon(vector, mean)) ** 2, (int((mean > 0).sum()) - 1) / 8
        else:
            square, of_one = float(((vector - mean) ** 2).sum()), 1 - float((mean**2).sum())
        return square, of_one * (1 / items + 1 / total), 1 + 1 / days

    def _mean(self, measure: Measure, weekend: bool, without: int | None) -> tuple[Floats, float, int] | None:
        """The mean over the items of the reference days of a kind, how many items and days that are."""
        key = measure, weekend, without
        if key not in self._means:
            alike = self._weekend == weekend
            if without is not None:
                alike[without] = False
            if not alike.any():
                return None
            vectors, items = self._vectors[measure]
            mean = np.average(vectors[alike], axis=0, weights=items[alike])
            self._means[key] = mean, float(items[alike].sum()), int(alike.sum())
        return self._means[key]

    def _vector(self, measure: Measure, day: LookedAt) -> tuple[Floats, int]:
        """What a distance is of, and the number of items behind it."""
        if measure == "embeddings":
            return np.asarray(day.found[measure]["mean"], float), day.found[measure]["sample"]
        counts = day.found["topics"]
        more = sum(n for name, n in counts.items() if name not in self._topics)  # topics that the reference lacks
        vector = np.array([*(counts.get(name, 0) for name in self._topics), more], float)
        return vector / vector.sum(), day.items


def without_verdict(day: LookedAt, verdict: Verdict) -> list[Drift]:
    """The rows of a day that is compared with none."""
    if verdict == "too few":
        return [_row(day, measure, verdict) for measure in MEASURES]
    values: dict[Measure, float | None] = {"negatives": day.found["negatives"] / day.items}
    values |= {measure: day.found[measure][0] for measure in ("topic_confidence", "sentiment_confidence")}
    return [_row(day, measure, verdict, value=values.get(measure)) for measure in MEASURES]


def _row(day: LookedAt, measure: Measure, verdict: Verdict, value: float | None = None) -> Drift:
    return Drift(model=day.model, day=day.day, measure=measure, items=day.items, verdict=verdict, value=value)


def _stable(measure: Measure, value: float) -> float:
    """Shares on the scale of the arcsine, on which their sampling variance is 1/(4 n) whatever they are."""
    return value if measure.endswith("confidence") else float(np.arcsin(np.sqrt(value)))


def _back(measure: Measure, value: float) -> float:
    return value if measure.endswith("confidence") else float(np.sin(value) ** 2)


def _packed(numbers: NDArray[np.uint32]) -> str:
    return base64.b64encode(zlib.compress(numbers.astype("<u4").tobytes(), 6)).decode()


def _words(found: Mapping[str, Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """A day's words by hash, and how often each stands in its titles."""
    hashes, counts = (
        np.frombuffer(zlib.decompress(base64.b64decode(found["words"][part])), "<u4") for part in ("hashes", "counts")
    )
    return hashes, counts
