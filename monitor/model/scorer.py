"""News items -> topic and sentiment: batching, a memory of texts already scored, and what runs the network."""

import ctypes
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import platformdirs
from numpy.typing import NDArray

from monitor.config import ModelSettings
from monitor.model.checkpoint import Checkpoint, CheckpointError, load_network, read
from monitor.model.export import cached_onnx
from monitor.model.text import clean, pad
from monitor.records import SENTIMENTS, MonitorError, NewsItem, Scored

TOPIC: Final = "topic"
SENTIMENT: Final = "sentiment"

Logits = Mapping[str, NDArray[np.float32]]
"""By task, (batch, labels)."""
Network = Callable[[NDArray[np.int64], NDArray[np.int64]], Logits]
"""Runs input_ids and attention_mask, both (batch, tokens)."""
Notify = Callable[[str], None]
"""Is told in words of work that takes seconds."""

_CPU_BATCH_TOKENS: Final = 2_048
_CUDA_BATCH_TOKENS: Final = 65_536


class ScorerError(MonitorError):
    """The backend or device asked for is not to be had here; the message says what is, and what to set."""


class Scorer:
    """Names each item's topic and sentiment in one pass of the network. For one thread at a time.

    An item's answer does not depend on what else is in its batch (within 1e-5 in fp32). A text that was scored
    before, in the same call or among the last `cache_items`, is not run again and gets the very same answer.

    Attributes:
        version: name of the model.
        backend: what runs it, and on which device.
        topics: labels of the topic task, in order.
        sentiments: labels of the sentiment task, in order.
        cache_hits: how many items so far were answered without running the network.
    """

    def __init__(
        self, checkpoint: Checkpoint, network: Network, *, backend: str, batch_tokens: int, cache_items: int
    ) -> None:
        tasks = checkpoint.info.tasks
        if TOPIC not in tasks or tasks.get(SENTIMENT) != SENTIMENTS:
            found = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in tasks.items())
            raise CheckpointError(
                f"{checkpoint.folder}: tasks are {found}; the monitor needs a task {TOPIC!r}, "
                f"and a task {SENTIMENT!r} with the labels {', '.join(SENTIMENTS)}"
            )
        self.version: str = checkpoint.info.version
        self.backend = backend
        self.topics: tuple[str, ...] = tasks[TOPIC]
        self.sentiments: tuple[str, ...] = tasks[SENTIMENT]
        self.cache_hits = 0
        self._network = network
        self._tokenizer = checkpoint.tokenizer()
        self._pad_id = checkpoint.pad_id
        self._batch_tokens = batch_tokens
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
        known: dict[bytes, NDArray[np.float32]] = {}
        new: dict[bytes, str] = {}
        for key, text in zip(keys, cleaned, strict=True):
            if key in self._cache:
                self._cache.move_to_end(key)
                known[key] = self._cache[key]
            elif key not in new:
                new[key] = text
        self.cache_hits += len(texts) - len(new)

        for key, row in zip(new, self._run(list(new.values())), strict=True):
            known[key] = self._cache[key] = row
        while len(self._cache) > self._cache_items:
            self._cache.popitem(last=False)

        width = sum(map(len, self._tasks.values()))
        rows = np.stack([known[key] for key in keys]) if keys else np.empty((0, width), np.float32)
        ends = list(accumulate(map(len, self._tasks.values())))[:-1]
        return dict(zip(self._tasks, np.split(rows, ends, axis=1), strict=True))

    def _run(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities of all tasks side by side, (texts, labels of all tasks)."""
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        rows = np.empty((len(texts), sum(map(len, self._tasks.values()))), np.float32)
        for batch in _batches([len(ids) for ids in token_ids], self._batch_tokens):
            logits = self._network(*pad([token_ids[row] for row in batch], self._pad_id))
            rows[batch] = np.concatenate([_softmax(logits[task]) for task in self._tasks], axis=1)
        return rows


def open_scorer(settings: ModelSettings, notify: Notify = lambda _: None) -> Scorer:
    """The scorer that the settings ask for. Opening one with ONNX Runtime for the first time exports the model.

    Raises:
        CheckpointError: the model cannot be used.
        ScorerError: the backend, device or cache folder asked for cannot be.
    """
    checkpoint = read(settings.path)
    device = _device(settings)
    if device is None:
        network, batch_tokens = _onnx_network(checkpoint, settings.cache_dir, notify), _CPU_BATCH_TOKENS
        backend = "onnx cpu"
    else:
        network = _torch_network(checkpoint, device)
        backend = f"torch {device}"
        batch_tokens = _CUDA_BATCH_TOKENS if device.startswith("cuda") else _CPU_BATCH_TOKENS
    return Scorer(checkpoint, network, backend=backend, batch_tokens=batch_tokens, cache_items=settings.cache_items)


def _device(settings: ModelSettings) -> str | None:
    """The torch device to run on; None: ONNX Runtime on the CPU."""
    wanted = settings.device
    if settings.backend == "onnx" and wanted not in ("auto", "cpu"):
        raise ScorerError(
            f"model.device: {wanted!r} with backend 'onnx', which runs on the CPU; "
            "set `auto` or `cpu`, or backend `torch`"
        )
    if wanted in ("auto", "cpu"):
        if settings.backend != "onnx" and wanted == "auto" and _cuda_available():
            return "cuda"
        return "cpu" if settings.backend == "torch" else None

    import torch

    index = wanted.removeprefix("cuda").removeprefix(":")
    if not wanted.startswith("cuda") or (index and not index.isdecimal()):
        raise ScorerError(f"model.device: {wanted!r} is none of `auto`, `cpu`, `cuda` and `cuda:N`")
    if int(index or 0) >= torch.cuda.device_count():
        raise ScorerError(
            f"model.device: {wanted!r}, but torch sees {torch.cuda.device_count()} CUDA devices; set `auto` or `cpu`"
        )
    return wanted


def _cuda_available() -> bool:
    """Whether torch can run on a GPU, without the seconds that importing torch takes where there is no driver."""
    for driver in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(driver)
        except OSError:
            continue
        import torch

        return torch.cuda.is_available()
    return False


def _onnx_network(checkpoint: Checkpoint, cache_dir: Path | None, notify: Notify) -> Network:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with ExitStack() as life:
        folder = cache_dir or platformdirs.user_cache_path("sentiment-monitor")
        try:
            path = cached_onnx(checkpoint, folder, notify)
        except OSError as error:
            remedy = "set model.cache_dir (SENTIMENT_MODEL__CACHE_DIR) to a folder that can"
            if cache_dir is not None:
                raise ScorerError(
                    f"model.cache_dir: {folder} cannot be written ({error.strerror}); {remedy}"
                ) from error
            # An account without a home, as services have: it works, only slower to start.
            notify(f"{folder} cannot be written ({error.strerror}), so the model is prepared anew; {remedy}")
            path = cached_onnx(checkpoint, Path(life.enter_context(TemporaryDirectory())), notify)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tasks = list(checkpoint.info.tasks)

    def run(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        outputs = session.run(tasks, {"input_ids": input_ids, "attention_mask": attention_mask})
        return dict(zip(tasks, outputs, strict=True))

    return run


def _torch_network(checkpoint: Checkpoint, device: str) -> Network:
    import torch

    network = load_network(checkpoint).to(device)
    bf16 = device.startswith("cuda")

    def run(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            logits = network(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))
        return {task: values.float().cpu().numpy() for task, values in logits.items()}

    return run


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
