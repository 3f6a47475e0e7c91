"""One encoder shared by every task, a linear head for each, and their joint loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

MISSING: Final = -100
"""The label of a row that a task says nothing about."""
_EVEN: Final[Mapping[str, float]] = {}


class MultiTaskNetwork(nn.Module):
    """A shared encoder, mean pooling over the tokens of a text, and one linear head for each task.

    Args:
        encoder: any Hugging Face `AutoModel`; it must give `last_hidden_state` and have `config.hidden_size`.
        tasks: the labels of each task in the order of its logits; the order of the tasks is the order of outputs.
        dropout: share of the pooled features that is zeroed in training.
    """

    def __init__(self, encoder: nn.Module, tasks: Mapping[str, Sequence[str]], dropout: float = 0.1) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            # Never used here, and its layer would else be trained, stored and exported.
            encoder.register_module("pooler", None)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        hidden_size: int = encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, len(labels)) for name, labels in tasks.items()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Logits by task, each (batch, labels), of token ids and their mask, both (batch, tokens)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        features = self.dropout(pooled)  # (batch, hidden)
        return {name: head(features) for name, head in self.heads.items()}


def joint_loss(logits: Mapping[str, Tensor], labels: Tensor, weights: Mapping[str, float] = _EVEN) -> Tensor:
    """The tasks' losses added up, so that each counts alike however many labels it has and however few its rows.

    A task's loss is its mean cross-entropy over the rows that carry its label, divided by log(number of labels),
    which is 1 for a uniform guess; it is exactly 0 for a batch in which no row does.

    Args:
        logits: by task, each (batch, labels).
        labels: (batch, tasks) in the order of `logits`; `MISSING` where a row lacks the task's label.
        weights: factors of the tasks that shall not count alike.
    """
    losses = []
    for column, (task, task_logits) in enumerate(logits.items()):
        wanted = labels[:, column]
        total = functional.cross_entropy(task_logits, wanted, ignore_index=MISSING, reduction="sum")
        rows = (wanted != MISSING).sum().clamp(min=1)
        losses.append(weights.get(task, 1.0) * total / rows / math.log(task_logits.shape[1]))
    return torch.stack(losses).sum()
