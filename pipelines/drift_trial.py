"""What the search for drift keeps of its promise, measured: `python -m pipelines.drift --trial`.

Years of days are drawn, and each goes through the same comparison as a real day. Two kinds of news:

- **simulated**: items a day are negative binomial (r = 10) with a mean of their own for each stream, 150 to 1,200,
  and 0.35 of it at weekends. The mix of 20 topics is drawn each day from a Dirichlet distribution (concentration 300)
  about that of weekdays or of weekends; negatives are beta-binomial (any two items of a day correlate by 0.003), with
  another share at weekends; the model's confidence varies by 0.006 from day to day; embeddings shift with the mix of
  topics and, a little, each day; words are Zipf-distributed, and a day has a few subjects whose words come up more.
- **texts**: real ones, the Twitter Financial News validation sets, which the model did not learn, scored and embedded
  by it, drawn into days of about 250 (100 at weekends) with a mix of topics of the day's own.

From a planted day on, something is different: the negative share is 1.3 times what it was, one topic of about 8 % has
twice its share, the model's confidence is 0.05 lower, or half of the texts are SEntFiN's headlines. It counts as
found when an alarm begins within `WITHIN` days; the delay counts days from the first that is different, which is 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.config import ModelSettings, Settings, SpikeSettings
from monitor.drift import MEASURES, LookedAt, Measure
from monitor.model import checkpoint
from monitor.model.scorer import SENTIMENT, TOPIC, open_scorer
from monitor.records import SENTIMENTS
from pipelines import dataset
from pipelines.drift_measures import Embedder, Reference, summary, words_of

Floats = NDArray[np.float64]
Planted = Literal["negatives", "topic", "confidence", "texts"]
Figures = dict[str, Any]

WITHIN: Final = 14
ASKED: Final = (30.0, 90.0, 365.0)
_FIRST: Final = date(2024, 1, 1)  # a Monday
_TOPICS: Final = 20
_SIZE: Final = 32
_VOCABULARY: Final = 20_000


class Day(NamedTuple):
    """What is drawn of a day, as `summary` takes it."""

    items: int
    figures: Figures


Draw = Callable[[int, Planted | None], Day]
"""A day of a stream by its number, which knows its day of the week, with what is planted in it."""


@dataclass(frozen=True)
class Onset:
    """The first day of an alarm."""

    day: int
    measure: Measure


def onsets(
    draw: Draw, days: int, settings: tuple[int, float], planted: tuple[Planted, int] | None = None
) -> list[Onset]:
    """When alarms begin in a stream, by number of the day after its reference days.

    Args:
        settings: reference days, and days between false alarms.
        planted: what, and from which day after the reference on.
    """
    reference_days, false_alarm_days = settings

    def seen(number: int, what: Planted | None = None) -> LookedAt:
        day = draw(number, what)
        at = _FIRST + timedelta(days=number)
        return LookedAt(model="", day=at, items=day.items, reference=False, found=summary(**day.figures))

    reference = Reference([seen(number) for number in range(reference_days)], false_alarm_days)
    before: dict[str, float] = {}
    alarmed: set[Measure] = set()
    found = []
    for number in range(days):
        what = planted[0] if planted and number >= planted[1] else None
        rows, before = reference.compared(seen(reference_days + number, what), before)
        found += [Onset(number, row.measure) for row in rows if row.alarm and row.measure not in alarmed]
        alarmed = {row.measure for row in rows if row.alarm}
    return found


def simulated(seed: int) -> Draw:
    """A stream of simulated news."""
    rng = np.random.default_rng(seed)
    usual_items = np.exp(rng.uniform(np.log(150), np.log(1_200)))
    weekday = rng.dirichlet(np.full(_TOPICS, 2.0))
    weekend = weekday * np.exp(rng.normal(0, 0.4, _TOPICS))
    mix = weekday, weekend / weekend.sum()
    share = rng.uniform(0.12, 0.35) * np.array([1.0, rng.uniform(0.7, 1.3)])
    sure = rng.uniform(0.78, 0.9, 2)
    centres = rng.normal(0, 0.5, (_TOPICS, _SIZE)) / np.sqrt(_SIZE)
    ranks = 1 / np.arange(1, _VOCABULARY + 1) ** 1.05
    cumulated = np.cumsum(ranks / ranks.sum())
    doubled = int(np.abs(weekday - 0.08).argmin())

    def draw(number: int, planted: Planted | None) -> Day:
        kind = int(number % 7 >= 5)
        mean = usual_items * (0.35 if kind else 1.0)
        items = max(50, int(rng.poisson(rng.gamma(10, mean / 10))))
        wanted = mix[kind].copy()
        if planted == "topic":
            wanted[doubled] *= 2
            wanted /= wanted.sum()
        of_day = rng.dirichlet(300 * wanted + 1e-3)
        topics = rng.multinomial(items, of_day)
        p, together = min(0.95, share[kind] * (1.3 if planted == "negatives" else 1)), 1 / 0.003 - 1
        negatives = rng.binomial(items, rng.beta(p * together, (1 - p) * together))
        less = 0.05 if planted == "confidence" else 0.0
        of_topic, of_sentiment = (
            rng.beta(8 * m, 8 * (1 - m), items) for m in np.clip(sure - less + rng.normal(0, 0.006, 2), 0.05, 0.97)
        )
        sample = min(items, 500)
        features = centres[rng.choice(_TOPICS, sample, p=of_day)] + rng.normal(0, 0.01, _SIZE)
        features += rng.normal(0, np.sqrt(0.7 / _SIZE), (sample, _SIZE))
        drawn = np.searchsorted(cumulated, rng.random(6 * items))
        hot = rng.choice(_VOCABULARY, 8)
        drawn = np.where(rng.random(len(drawn)) < 0.02, rng.choice(hot, len(drawn)), drawn)
        words, counts = np.unique(drawn, return_counts=True)
        return Day(
            items,
            {
                "topics": {str(topic): int(n) for topic, n in enumerate(topics) if n},
                "negatives": int(negatives),
                "of_topic": of_topic,
                "of_sentiment": of_sentiment,
                "words": dict(zip(words.tolist(), counts.tolist(), strict=True)),
                "features": features,
            },
        )

    return draw


@dataclass(frozen=True)
class Texts:
    """Texts with what a model makes of them: for each its topic, whether it is negative, its confidences (texts, 2),
    the hashes of its words, and its features."""

    topic: NDArray[np.intp]
    negative: NDArray[np.bool_]
    confidence: Floats
    words: Sequence[NDArray[np.uint32]]
    features: NDArray[np.floating]


def of_texts(texts: Texts, others: Texts, seed: int) -> Draw:
    """A stream of days drawn from real texts, and of others that come in where that is planted."""
    rng = np.random.default_rng(seed)
    present, counts = np.unique(texts.topic, return_counts=True)
    weekday = counts / counts.sum()
    weekend = weekday * np.exp(rng.normal(0, 0.3, len(present)))
    mix = weekday, weekend / weekend.sum()
    members = [np.flatnonzero(texts.topic == topic) for topic in present]
    doubled = int(np.abs(weekday - 0.08).argmin())

    def chosen(number: int, planted: Planted | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        kind = int(number % 7 >= 5)
        items = max(50, int(rng.poisson(rng.gamma(20, (100 if kind else 250) / 20))))
        foreign = items // 2 if planted == "texts" else 0
        wanted = mix[kind].copy()
        if planted == "topic":
            wanted[doubled] *= 2
            wanted /= wanted.sum()
        by_topic = rng.multinomial(items - foreign, rng.dirichlet(200 * wanted + 1e-3))
        parts = []
        for among, n in zip(members, by_topic, strict=True):
            weights = np.ones(len(among))
            if planted == "negatives":  # the same topics, and 1.3 times the share of negative ones
                bad = texts.negative[among]
                if 0 < bad.mean() < 0.7:
                    weights[bad] = 1.3 * (1 - bad.mean()) / (1 - 1.3 * bad.mean())
            parts.append(rng.choice(among, n, p=weights / weights.sum()))
        return np.concatenate(parts), rng.choice(len(others.topic), foreign)

    def draw(number: int, planted: Planted | None) -> Day:
        rows, foreign = chosen(number, planted)
        both = [(texts, rows), (others, foreign)]
        topics, n = np.unique(np.concatenate([of.topic[at] for of, at in both]), return_counts=True)
        confidence = np.concatenate([of.confidence[at] for of, at in both])
        if planted == "confidence":
            confidence = confidence - 0.05
        words = np.concatenate([of.words[row] for of, at in both for row in at])
        hashes, times = np.unique(words, return_counts=True)
        features = np.concatenate([of.features[at] for of, at in both])
        return Day(
            len(confidence),
            {
                "topics": {str(topic): int(times) for topic, times in zip(topics, n, strict=True)},
                "negatives": int(sum(of.negative[at].sum() for of, at in both)),
                "of_topic": confidence[:, 0],
                "of_sentiment": confidence[:, 1],
                "words": dict(zip(hashes.tolist(), times.tolist(), strict=True)),
                "features": features[rng.permutation(len(features))[:500]],
            },
        )

    return draw


def false_alarms(
    streams: Iterator[Draw], years: int, reference_days: int, asked: float, days: int = 364
) -> tuple[float, dict[Measure, int]]:
    """Days between false alarms over `years` streams of `days` days each (infinite: none), and alarms by measure."""
    counts = dict.fromkeys(MEASURES, 0)
    for _ in range(years):
        for one in onsets(next(streams), days, (reference_days, asked)):
            counts[one.measure] += 1
    total = sum(counts.values())
    return (years * days / total if total else float("inf")), counts


def found(
    streams: Iterator[Draw], planted: Planted, times: int, reference_days: int, asked: float
) -> tuple[float, float, dict[Measure, int]]:
    """Of drifts planted after two quiet weeks, the share found, the median delay in days, and by which measures."""
    delays = []
    by = dict.fromkeys(MEASURES, 0)
    for index in range(times):
        start = 14 + index % 7
        begun = onsets(next(streams), start + WITHIN, (reference_days, asked), (planted, start))
        seen = [one for one in begun if one.day >= start]
        for measure in {one.measure for one in seen}:
            by[measure] += 1
        if seen:
            delays.append(min(one.day for one in seen) - start + 1)
    return len(delays) / times, float(np.median(delays)) if delays else float("nan"), by


def known_texts(model: str, texts: Sequence[str]) -> tuple[Texts, Mapping[str, NDArray[np.floating]]]:
    """What a model makes of texts, and its probabilities by task."""
    scorer = open_scorer(ModelSettings(path=model, cache_items=0))
    probs = scorer.predict(texts)
    negative = probs[SENTIMENT][:, SENTIMENTS.index("negative")] >= SpikeSettings().negative_from
    confidence = np.stack([probs[task].max(axis=1) for task in (TOPIC, SENTIMENT)], axis=1).astype(float)
    features = Embedder(checkpoint.read(model))(texts)
    hashes = [np.array(words_of(text), np.uint32) for text in texts]
    return Texts(probs[TOPIC].argmax(axis=1), negative, confidence, hashes, features), probs


def estimates(probs: NDArray[np.floating], wanted: NDArray[np.integer], least: float) -> tuple[float, float, float]:
    """(accuracy, as the mean confidence estimates it, as the share of confidences from `least` on estimates it).

    The first estimate is that of calibrated probabilities (confidence-based performance estimation: Bialek et al.
    2024, arXiv:2407.08649, as in NannyML); the second is average thresholded confidence (Garg et al. 2022,
    arXiv:2201.04234), whose threshold takes labelled texts of a known domain.
    """
    confidence = probs.max(axis=1)
    return (
        float((probs.argmax(axis=1) == wanted).mean()),
        float(confidence.mean()),
        float((confidence >= least).mean()),
    )


def run(settings: Settings, tell: Callable[[str], None], *, years: int = 40, times: int = 40) -> None:
    """Measure and tell all of it."""
    days = settings.drift.reference_days
    draws: dict[str, Callable[[int], Draw]] = {"simulated": simulated}
    folder = dataset.default_folder()
    if folder.is_dir():
        model = settings.model.path if settings.model.path != "champion" else "default"
        draws["texts"] = _real(model, folder, tell)
    else:
        tell(f"real texts are left out: no {folder}; name the folder of the public sets by MONITOR_DATA")
    for name, draw in draws.items():
        for asked in ASKED:
            streams = map(draw, range(10_000))
            between, by = false_alarms(streams, years, days, asked)
            shown = ", ".join(f"{measure} {n}" for measure, n in by.items())
            tell(f"{name}: {asked:g} days between false alarms asked, {between:.0f} seen in {years} years ({shown})")
        planted: tuple[Planted, ...] = ("negatives", "topic", "confidence", "texts")
        for what in planted if name == "texts" else planted[:3]:
            streams = map(draw, range(50_000, 60_000))
            recall, delay, by = found(streams, what, times, days, settings.drift.false_alarm_days)
            tell(
                f"{name}: {what} changed in {times} streams: found within {WITHIN} days {recall:.2f}, median delay "
                f"{delay:.0f} days, by {', '.join(f'{measure} {n}' for measure, n in by.items() if n)}"
            )


def _real(model: str, folder: Path, tell: Callable[[str], None]) -> Callable[[int], Draw]:
    """Streams of the public sets' texts, once how well their accuracy is estimated was told."""
    data = dataset.load(folder, seed=0, with_headlines=False)
    titles = dataset.headlines(folder, data.tasks)
    titles = titles.sample(min(3_000, len(titles)), random_state=0)
    sets = {TOPIC: data.validation[TOPIC], SENTIMENT: data.validation[SENTIMENT], "headlines": titles}
    texts, probs = known_texts(model, [text for rows in sets.values() for text in rows["text"]])
    least: dict[str, float] = {}
    first = 0
    for name, rows in sets.items():
        task = SENTIMENT if name == "headlines" else name
        part, wanted = probs[task][first : first + len(rows)], rows[task].to_numpy()
        if task not in least:  # set on half of the texts, measured on the other
            half = len(rows) // 2
            right = float((part[:half].argmax(axis=1) == wanted[:half]).mean())
            least[task] = float(np.quantile(part[:half].max(axis=1), 1 - right))
            part, wanted = part[half:], wanted[half:]
        accuracy, sure, thresholded = estimates(part, wanted, least[task])
        tell(
            f"{name if name != task else 'Twitter Financial News'}, {task}: {accuracy:.4f} of {len(wanted):,} right; "
            f"estimated without labels {sure:.4f} by mean confidence, {thresholded:.4f} by thresholded confidence"
        )
        first += len(rows)
    ours = np.arange(len(texts.topic)) < len(texts.topic) - len(titles)
    tweets, headlines = _part(texts, ours), _part(texts, ~ours)
    return lambda seed: of_texts(tweets, headlines, seed)


def _part(texts: Texts, kept: NDArray[np.bool_]) -> Texts:
    return Texts(
        texts.topic[kept],
        texts.negative[kept],
        texts.confidence[kept],
        [words for words, keep in zip(texts.words, kept, strict=True) if keep],
        texts.features[kept],
    )
