"""Why the model decided so: how much each word of a text spoke for the decided labels."""

import logging
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor, nn

from monitor.config import ModelSettings
from monitor.model.checkpoint import Checkpoint, load_network, read
from monitor.model.text import clean, pad

TOLERANCE: Final = 0.1
"""How far the weights of a text may be from adding up, in nats. With the default model a text adds eight to the
log-odds of its topic and five to those of its sentiment in the median, and 32 points do for 19 texts of 20."""

_STEPS: Final = (32, 64, 128, 256)
_CPU_PASS_TOKENS: Final = 1_024
_CUDA_PASS_TOKENS: Final = 16_384

_NUMBER = re.compile(r"-?[$€£¥₹]?\.?\d")
_ABBREVIATION = re.compile(r"\.[^\W\d_]\Z")


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands in the text, and by how much it raised the log-odds of the decided label, in nats."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What spoke for one task's decision about a text, and what against it.

    The log-odds of a label are log(p / (1 - p)): a weight of 0.7 doubles its odds, one of -0.7 halves them.

    Attributes:
        label: the decided label.
        words: every word that the model read, as often as it stands in the text, strongest (of either sign) first.
        gained: log-odds of the label given the text, less those given the text blanked out.
        gap: sum of the weights, less `gained`: the error of taking an integral at finitely many points.
    """

    label: str
    words: tuple[Word, ...]
    gained: float
    gap: float


class _Row(NamedTuple):
    """A text, cleaned, and the label that each task decided on."""

    text: str
    labels: tuple[str, ...]


class Explainer:
    """Splits what a text added to the log-odds of a label among its words: integrated gradients (arXiv:1703.01365).

    The path leads from the text blanked out, that is with the padding token in place of each token, straight to the
    text as it is, in the space of the token embeddings. What the tokenizer adds (`[CLS]`, `[SEP]`) stays, so that all
    that is gained is the words'. Log-odds, because a logit can rise together with all others and decide nothing, and
    the probability of a sure decision hardly moves.

    Runs the network in fp32, whatever the decisions came from. An explanation does not depend on what else is
    explained with it, rounding aside.

    Args:
        device: a torch device.
        tolerance: gradients are taken at ever more points of the path, up to 256, until no gap is above it (nats).

    Raises:
        CheckpointError: the weights or the encoder are not those that the checkpoint describes.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "cpu", tolerance: float = TOLERANCE) -> None:
        self._tasks = checkpoint.info.tasks
        self._temperatures = checkpoint.info.temperatures
        self._tokenizer = checkpoint.tokenizer()
        self._pad_id = checkpoint.pad_id
        self._network = load_network(checkpoint).to(device)
        self._embedding: nn.Module = self._network.encoder.get_input_embeddings()  # type: ignore[operator]
        self._integrated = _integrated_gradients(self._log_odds)
        self._device = device
        self.tolerance = tolerance
        self._pass_tokens = _CUDA_PASS_TOKENS if device.startswith("cuda") else _CPU_PASS_TOKENS

    def explain(self, texts: Sequence[str], decisions: Mapping[str, Sequence[str]]) -> list[dict[str, Explanation]]:
        """The explanation of each task's decision about each text; texts as they came, not cleaned yet.

        Args:
            decisions: by task, the label decided for each text. Tasks of the model may be left out.

        Raises:
            ValueError: the model has no such task or label, or there are not as many decisions as texts.
        """
        for task, labels in decisions.items():
            if unknown := set(labels).difference(self._tasks.get(task, ())):
                raise ValueError(f"decisions of {task!r}: {sorted(unknown)}; the model's tasks are {self._tasks}")
        rows = [_Row(clean(text), tuple(labels)) for text, *labels in zip(texts, *decisions.values(), strict=True)]
        distinct = list(dict.fromkeys(rows))  # copies of a text are explained once
        encodings = dict(zip(distinct, self._tokenizer.encode_batch([row.text for row in distinct]), strict=True))
        explained: dict[_Row, list[Explanation]] = {}
        inexact = distinct
        for steps in _STEPS:
            for batch in self._batches(inexact, encodings):
                explained |= self._explain(batch, [encodings[row] for row in batch], tuple(decisions), steps)
            inexact = [row for row in inexact if any(abs(each.gap) > self.tolerance for each in explained[row])]
        return [dict(zip(decisions, explained[row], strict=True)) for row in rows]

    def _batches(self, rows: Sequence[_Row], encodings: Mapping[_Row, Encoding]) -> Iterator[list[_Row]]:
        """Rows of similar length, of which each batch fits into one pass (a longer row goes alone)."""
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: len(encodings[row])):
            if batch and len(encodings[row]) * (len(batch) + 1) > self._pass_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _explain(
        self, rows: Sequence[_Row], encodings: Sequence[Encoding], tasks: tuple[str, ...], steps: int
    ) -> dict[_Row, list[Explanation]]:
        blanked = [
            [
                token if special else self._pad_id
                for token, special in zip(each.ids, each.special_tokens_mask, strict=True)
            ]
            for each in encodings
        ]
        labels = [
            [self._tasks[task].index(label) for task, label in zip(tasks, row.labels, strict=True)] for row in rows
        ]
        input_ids, attention_mask = map(self._tensor, pad([each.ids for each in encodings], self._pad_id))
        given = (input_ids, attention_mask, self._tensor(np.array(labels)), tasks)
        with torch.no_grad():
            text = self._embedding(input_ids)  # (rows, tokens, hidden)
            blank = self._embedding(self._tensor(pad(blanked, self._pad_id)[0]))
            gained = self._log_odds(text, *given) - self._log_odds(blank, *given)  # (rows, tasks)
        attributions = self._integrated.attribute(
            (text,) * len(tasks),
            (blank,) * len(tasks),
            additional_forward_args=given,
            n_steps=steps,
            internal_batch_size=max(len(rows), self._pass_tokens // input_ids.shape[1]),
        )
        weights = torch.stack(attributions, dim=1).sum(dim=3)  # (rows, tasks, tokens)
        gaps = weights.sum(dim=2) - gained
        values = zip(weights.tolist(), gained.tolist(), gaps.tolist(), strict=True)
        return {
            row: [
                Explanation(label, _words(row.text, encoding, by_token), *sums)
                for label, by_token, *sums in zip(row.labels, *by_task, strict=True)
            ]
            for row, encoding, by_task in zip(rows, encodings, values, strict=True)
        }

    def _log_odds(
        self, embeddings: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, tasks: Sequence[str]
    ) -> Tensor:
        """Of each task's label, (rows, tasks) as `labels`, given `embeddings` in place of those of `input_ids`."""
        with self._embedding.register_forward_hook(lambda *_: embeddings):
            logits = self._network(input_ids, attention_mask)
        calibrated = [logits[task] / self._temperatures[task] for task in tasks]
        return torch.stack([_log_odds(*each) for each in zip(calibrated, labels.unbind(1), strict=True)], dim=1)

    def _tensor(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def open_explainer(settings: ModelSettings) -> Explainer:
    """The explainer of the model that the settings name, on a GPU where they allow one and there is one.

    Raises:
        CheckpointError: the model cannot be used.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Explainer(read(settings.path), device=device)


def _log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of one label a row, (rows,), from logits, (rows, labels)."""
    decided = labels.unsqueeze(1)
    others = logits.scatter(1, decided, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, decided).squeeze(1) - others


def _integrated_gradients(forward: Callable[..., Tensor]) -> Any:
    """captum's, of a function that gives several outputs, each of them (rows,)."""
    # Its import brings matplotlib in, which need not tell an account without a home that it has none.
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from captum.attr import IntegratedGradients
    finally:
        log.setLevel(level)
    integrated = IntegratedGradients(forward)
    integrated.gradient_func = _gradients
    return integrated


def _gradients(
    forward_fn: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target_ind: None,
    additional_forward_args: tuple[Any, ...],
) -> tuple[Tensor, ...]:
    """Gradient of the n-th output with respect to the n-th of `inputs`, which are all equal, from one pass."""
    with torch.enable_grad():
        outputs = forward_fn(inputs[0], *additional_forward_args)  # (rows, tasks)
    return tuple(torch.autograd.grad(each.sum(), inputs[0], retain_graph=True)[0] for each in outputs.unbind(dim=1))


def _words(text: str, encoding: Encoding, attributions: Sequence[float]) -> tuple[Word, ...]:
    """The words that the tokens of `encoding` lie in, each with the sum of its tokens' attributions."""
    chunks = list(re.finditer(r"\S+", text))
    ends = [chunk.end() for chunk in chunks]
    weights: dict[int, float] = {}
    tokens = zip(encoding.offsets, encoding.special_tokens_mask, attributions, strict=False)  # the rest is padding
    for (start, _), special, attribution in tokens:
        if not special:
            # Some tokenizers count the space before a word as part of it.
            word = min(bisect_right(ends, start), len(ends) - 1)
            weights[word] = weights.get(word, 0.0) + attribution
    words = [Word(_bare(chunks[word].group()), weight) for word, weight in weights.items()]
    return tuple(sorted(words, key=lambda word: -abs(word.weight)))


def _bare(chunk: str) -> str:
    """`chunk` without the punctuation around it, unless it is all punctuation; $AAPL, -2.5%, don't and U.S. stay."""
    marks = [unicodedata.category(char).startswith("P") and char not in "#@%‰&" for char in chunk]
    start = next((n for n, mark in enumerate(marks) if not mark or _NUMBER.match(chunk, n)), None)
    if start is None:
        return chunk
    end = len(chunk) - marks[::-1].index(False)
    if chunk[end : end + 1] == "." and _ABBREVIATION.search(chunk, start, end):
        end += 1
    return chunk[start:end]
