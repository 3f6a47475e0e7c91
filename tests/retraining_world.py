"""A desk whose labels a small real model is trained from: a champion, items with labels, base data, a reference."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd

from monitor.labels import Label
from monitor.model.network import MISSING
from monitor.records import SENTIMENTS, Entry, NewsItem, PositionUpdate, Scored
from monitor.store import Store
from pipelines import train
from pipelines.dataset import Dataset
from pipelines.options import Options
from tests import tiny_model

DAY = datetime(2026, 3, 10, 9, tzinfo=UTC)
TOPICS = tiny_model.TASKS["topic"]
FIRST = ("earnings", "oil", "bank")
SECOND = ("falls", "talks", "rises")
LEARNING = """
epochs = {epochs}
batch_size = 8
learning_rate = 1e-2
head_learning_rate = 1e-2
average_decay = 0.9
evaluations_per_epoch = 2
wired_share = 0.0
body_share = 0.0
"""


@dataclass(frozen=True)
class Told:
    """A labelled item as a test writes it."""

    id: str
    title: str
    topic: str | None
    sentiment: str | None
    story: str | None = None
    who: str = "Ada"
    minute: float | None = None


def texts(count: int, seed: int, letters: str = "cdefghij") -> list[tuple[str, str, str]]:
    """(text, topic, sentiment): the first word tells the topic, the second the sentiment; no text twice."""
    rng = random.Random(seed)
    made: dict[str, tuple[str, str, str]] = {}
    while len(made) < count:
        topic, sentiment = rng.randrange(3), rng.randrange(3)
        text = " ".join((FIRST[topic], SECOND[sentiment], *rng.choices(letters, k=5)))
        made.setdefault(" ".join(sorted(text.split())), (text, TOPICS[topic], SENTIMENTS[sentiment]))
    return list(made.values())


def told(count: int, seed: int = 1) -> list[Told]:
    """So many items that one person labelled, one a minute."""
    return [Told(f"n{row}", *text) for row, text in enumerate(texts(count, seed))]


def add(store: Store, items: Sequence[Told], at: datetime = DAY, start: int = 0) -> None:
    """Store items as a model said nothing sensible of them, and what people say of them.

    An item that is there twice is one, which several people labelled.
    """
    entries: dict[str, Entry] = {}
    labels = []
    for row, one in enumerate(items):
        when = at + timedelta(minutes=row if one.minute is None else one.minute)
        item = NewsItem(id=one.id, title=one.title, published_at=when)
        probs = dict.fromkeys((*TOPICS, *filter(None, [one.topic])), 1 / 3)
        scored = Scored(item, TOPICS[0], SENTIMENTS[1], probs, dict.fromkeys(SENTIMENTS, 1 / 3), "words-1")
        entries.setdefault(one.id, Entry(scored, 0, start + len(entries), when, one.story or one.id, 0.5))
        for task, label in (("topic", one.topic), ("sentiment", one.sentiment)):
            if label is not None:
                labels.append(Label(one.id, task, label, one.who, when))  # type: ignore[arg-type]
    store.commit("news", list(entries.values()), [PositionUpdate(0, start or None, start + len(entries))], at)
    store.labels.add(labels, at + timedelta(days=30))


def write_table(path: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    pd.DataFrame(rows, columns=["text", "topic", "sentiment"]).to_csv(path, index=False)
    return path


def write_champion(folder: Path, encoder: Path, epochs: float = 0.4) -> Path:
    """A checkpoint that has seen little of these texts."""
    rows = pd.DataFrame(
        [(text, TOPICS.index(topic), SENTIMENTS.index(sentiment)) for text, topic, sentiment in texts(300, 77)],
        columns=["text", "topic", "sentiment"],
    )
    data = Dataset(
        tasks=tiny_model.TASKS,
        train=rows[:240],
        development=rows[240:270].reset_index(drop=True),
        validation=dict.fromkeys(tiny_model.TASKS, rows[270:].reset_index(drop=True)),
        removed={},
        sha256={"set": "1" * 64},
    )
    options = Options(
        encoder=str(encoder), lora_rank=0, tasks={}, max_tokens=16, epochs=epochs, batch_size=8, learning_rate=1e-3,
        head_learning_rate=1e-3, average_decay=0.9, wired_share=0.0, body_share=0.0, seed=3,
    )  # fmt: skip
    train.train(data, folder, options, date(2026, 3, 1))
    return folder


def frame(rows: Sequence[tuple[str, str | None, str | None]]) -> pd.DataFrame:
    """Rows of a dataset of the tiny model's tasks."""
    return pd.DataFrame(
        [
            (
                text,
                TOPICS.index(topic) if topic else MISSING,
                SENTIMENTS.index(sentiment) if sentiment else MISSING,
            )
            for text, topic, sentiment in rows
        ],
        columns=["text", "topic", "sentiment"],
    )
