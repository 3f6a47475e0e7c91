"""One encoder shared by every task, and what stands between it and each task's decision."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MISSING: Final = -100
"""The label of a row that a task says nothing about."""

Sharing = Literal["shared", "fused"]
"""`shared`: every head reads the encoder's features. `fused`: each task makes features of its own of them, and its
head also sees those of the other tasks, through a gate."""


class MultiTaskNetwork(nn.Module):
    """A shared encoder, mean pooling over the tokens of a text, and one linear head for each task.

    Args:
        encoder: any Hugging Face `AutoModel`; it must give `last_hidden_state` and have `config.hidden_size`.
        tasks: the labels of each task in the order of its logits; the order of the tasks is the order of outputs.
        sharing: what the tasks share beside the encoder.
        dropout: share of the pooled features that is zeroed in training.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Mapping[str, Sequence[str]],
        sharing: Sharing = "shared",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            # Never used here, and its layer would else be trained, stored and exported.
            encoder.register_module("pooler", None)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        hidden_size: int = encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        self.fusion = GatedFusion(hidden_size, list(tasks)) if sharing == "fused" else None
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, len(labels)) for name, labels in tasks.items()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Logits by task, each (batch, labels), of token ids and their mask, both (batch, tokens)."""
        return self.decide(self.encode(input_ids, attention_mask))

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The features that all tasks share, (batch, hidden): the mean over the tokens of each text."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return pooled

    def decide(self, pooled: Tensor) -> dict[str, Tensor]:
        """Logits by task, each (batch, labels), of shared features, (batch, hidden)."""
        features = self.dropout(pooled)
        if self.fusion is None:
            return {name: head(features) for name, head in self.heads.items()}
        fused = self.fusion(features)
        return {name: head(fused[name]) for name, head in self.heads.items()}


class GatedFusion(nn.Module):
    """A feature layer for each task, and gates through which a task also sees the features of the others.

    A task's features are f = gelu(W x + b) of the shared ones; what its head reads is f plus, for each other task
    with features g, sigmoid(V [f, g]) * g, elementwise (after the gated multimodal units of arXiv:1702.01992). The
    gates begin nearly shut: the network starts as if each task were alone, and opens where that helps.

    Args:
        size: of the shared features, and of each task's.
        tasks: names of the tasks.
    """

    def __init__(self, size: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.features = nn.ModuleDict({task: nn.Linear(size, size) for task in tasks})
        self.gates = nn.ModuleDict({task: nn.Linear(2 * size, size) for task in tasks if len(tasks) > 1})
        for gate in self.gates.values():
            nn.init.constant_(gate.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        """What each task's head reads, (batch, size), of the shared features, (batch, size)."""
        own = {task: functional.gelu(layer(shared)) for task, layer in self.features.items()}
        fused = {}
        for task, features in own.items():
            fused[task] = features
            for other, seen in own.items():
                if other != task:
                    gate = torch.sigmoid(self.gates[task](torch.cat((features, seen), dim=1)))
                    fused[task] = fused[task] + gate * seen
        return fused
