"""News items -> topic and sentiment: batching, and a memory of texts already scored."""

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from monitor.config import ModelSettings
from monitor.model.backends import Backend, Logits, Notify, ScorerError, bucket, open_backend
from monitor.model.checkpoint import Checkpoint, read
from monitor.model.encoder import CheckpointError
from monitor.model.text import clean, pad
from monitor.records import SENTIMENTS, NewsItem, Scored

__all__ = ["SENTIMENT", "TOPIC", "Scorer", "ScorerError", "open_scorer"]

TOPIC: Final = "topic"
SENTIMENT: Final = "sentiment"

_Rows = dict[bytes, NDArray[np.float32]]
"""Probabilities of all tasks side by side, by hash of the text."""

_CHUNK: Final = 4_096
"""Texts that are tokenised together, where that is done while the network runs on the ones before."""


class Scorer:
    """Names each item's topic and sentiment in one pass of the network. For up to `at_once` threads at a time.

    An item's answer does not depend on what else is in its batch (within 1e-5). A text that was scored
    before, in the same call, in one that runs beside it, or among the last `cache_items`, is not run again and gets
    the very same answer.

    Attributes:
        version: name of the model.
        backend: what runs it, and on which device.
        topics: labels of the topic task, in order.
        sentiments: labels of the sentiment task, in order.
        at_once: how many calls may run side by side: one is tokenised while others keep the cores busy.
        cache_hits: how many items so far were answered without running the network.
        cut_items: how many texts that were run were longer than the model reads, and so cut: the title comes first.
    """

    def __init__(self, checkpoint: Checkpoint, backend: Backend, cache_items: int) -> None:
        tasks = checkpoint.info.tasks
        self.version: str = checkpoint.info.version
        self.backend = backend.name
        self.topics: tuple[str, ...] = tasks.get(TOPIC, ())
        self.sentiments: tuple[str, ...] = tasks.get(SENTIMENT, ())
        self.at_once = backend.calls
        self.cache_hits = 0
        self.cut_items = 0
        self._mutex = threading.Lock()  # of the counts and of what is below, which calls share
        self._running: dict[bytes, Future[_Rows]] = {}  # by text, the call that runs it
        self._backend = backend
        self._temperatures = checkpoint.info.temperatures
        self._tokenizer = checkpoint.tokenizer()
        self._pad_id = checkpoint.pad_id
        self._tasks = tasks
        self._cache_items = cache_items
        self._cache: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def score(self, items: Sequence[NewsItem]) -> list[Scored]:
        """What the model says of each item, in the order of the items."""
        probs = self.predict([item.text for item in items])
        return [
            Scored(
                item=item,
                topic=self.topics[int(np.argmax(topic_probs))],
                sentiment=self.sentiments[int(np.argmax(sentiment_probs))],
                topic_probs=dict(zip(self.topics, topic_probs.tolist(), strict=True)),
                sentiment_probs=dict(zip(self.sentiments, sentiment_probs.tolist(), strict=True)),
                model=self.version,
            )
            for item, topic_probs, sentiment_probs in zip(items, probs[TOPIC], probs[SENTIMENT], strict=True)
        ]

    def predict(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Probabilities by task, each (texts, labels), of texts as they came, not cleaned yet."""
        cleaned = [clean(text) for text in texts]
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in cleaned]
        known: _Rows = {}
        new: dict[bytes, str] = {}
        others: dict[bytes, Future[_Rows]] = {}
        mine: Future[_Rows] = Future()
        with self._mutex:
            for key, text in zip(keys, cleaned, strict=True):
                if key in self._cache:
                    self._cache.move_to_end(key)
                    known[key] = self._cache[key]
                elif key in self._running:
                    others[key] = self._running[key]
                elif key not in new:
                    new[key] = text
            self.cache_hits += len(texts) - len(new)
            self._running |= dict.fromkeys(new, mine)
        try:
            found = dict(zip(new, self._run(list(new.values())), strict=True))
        except BaseException as error:
            self._ended(new)
            mine.set_exception(error)
            raise
        self._ended(new, found)
        mine.set_result(found)
        known |= found
        # Waited for after this call's own texts, so that no two calls wait for each other.
        for key, call in others.items():
            known[key] = call.result()[key]

        width = sum(map(len, self._tasks.values()))
        rows = np.stack([known[key] for key in keys]) if keys else np.empty((0, width), np.float32)
        ends = list(accumulate(map(len, self._tasks.values())))[:-1]
        return dict(zip(self._tasks, np.split(rows, ends, axis=1), strict=True))

    def _ended(self, texts: Iterable[bytes], found: _Rows | None = None) -> None:
        """A call that ran these texts is over: remember what it found, if it found anything."""
        with self._mutex:
            for key in texts:
                del self._running[key]
            self._cache |= found or {}
            while len(self._cache) > self._cache_items:
                self._cache.popitem(last=False)

    def _run(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities of all tasks side by side, (texts, labels of all tasks)."""
        rows = np.empty((len(texts), sum(map(len, self._tasks.values()))), np.float32)
        waiting: deque[tuple[list[int], Callable[[], Logits]]] = deque()
        for first, encodings in self._tokenised(texts):
            with self._mutex:
                self.cut_items += sum(bool(encoding.overflowing) for encoding in encodings)
            token_ids = [encoding.ids for encoding in encodings]
            lengths = [bucket(len(ids), self._backend.lengths) for ids in token_ids]
            for batch in _batches(lengths, self._backend.batch_tokens):
                at_least = lengths[batch[-1]] if self._backend.lengths else 0
                rows_to_fill = self._rows_of(at_least, len(batch))
                inputs = pad([token_ids[row] for row in batch], self._pad_id, at_least, rows_to_fill)
                waiting.append(([first + row for row in batch], self._backend.run(*inputs)))
                if len(waiting) > self._backend.ahead:
                    self._finish(rows, *waiting.popleft())
        while waiting:
            self._finish(rows, *waiting.popleft())
        return rows

    def _rows_of(self, length: int, texts: int) -> int:
        """How many rows a batch of `texts` padded to `length` is filled up to, so that few shapes occur; 0: none."""
        if not length:
            return 0
        most = max(1, self._backend.batch_tokens // length)
        return min(most, bucket(texts, (*self._backend.rows, most)))

    def _tokenised(self, texts: Sequence[str]) -> Iterator[tuple[int, list[Encoding]]]:
        """The index of the first text of each chunk, and the chunk's encodings."""
        if not self._backend.ahead or len(texts) <= _CHUNK:
            yield 0, self._tokenizer.encode_batch_fast(texts)
            return
        starts = range(0, len(texts), _CHUNK)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokens") as ahead:
            pending = ahead.submit(self._tokenizer.encode_batch_fast, texts[:_CHUNK])
            for start in starts:
                encodings = pending.result()
                if start + _CHUNK < len(texts):
                    following = texts[start + _CHUNK : start + 2 * _CHUNK]
                    pending = ahead.submit(self._tokenizer.encode_batch_fast, following)
                yield start, encodings

    def _finish(self, rows: NDArray[np.float32], batch: list[int], logits_of: Callable[[], Logits]) -> None:
        logits = logits_of()
        parts = [_softmax(logits[task][: len(batch)] / self._temperatures.get(task, 1.0)) for task in self._tasks]
        rows[batch] = np.concatenate(parts, axis=1)


def open_scorer(
    settings: ModelSettings,
    notify: Notify = lambda _: None,
    *,
    any_tasks: bool = False,
    in_caller: bool = False,
) -> Scorer:
    """The scorer that the settings ask for. Opening one with ONNX Runtime for the first time exports the model.

    Args:
        any_tasks: whether to take a model without the monitor's two tasks, which can `predict` but not `score`.
        in_caller: see `open_backend`.

    Raises:
        CheckpointError: the model cannot be used.
        ScorerError: the backend, device, precision or cache folder asked for cannot be.
    """
    checkpoint = read(settings.path)
    tasks = checkpoint.info.tasks
    if not any_tasks and (TOPIC not in tasks or tasks.get(SENTIMENT) != SENTIMENTS):
        found = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in tasks.items())
        raise CheckpointError(
            f"{checkpoint.folder}: tasks are {found}; the monitor needs a task {TOPIC!r}, "
            f"and a task {SENTIMENT!r} with the labels {', '.join(SENTIMENTS)}"
        )
    backend = open_backend(checkpoint, settings, notify, in_caller=in_caller)
    return Scorer(checkpoint, backend, settings.cache_items)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, each at most `batch_tokens` when padded (a longer row goes alone)."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    probs: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    return probs
