"""What training minimises: each task's loss over the rows that carry its label, and how the tasks are weighed."""

import math
from collections.abc import Mapping
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from monitor.model.network import MISSING, MultiTaskNetwork

Weighting = Literal["static", "uncertainty", "dwa"]
"""`static`: the given weights. `uncertainty`: learned, from homoscedastic uncertainty (arXiv:1705.07115). `dwa`:
dynamic weight average (arXiv:1803.10704), more for a task whose loss falls more slowly. Both multiply the given."""

_DWA_TEMPERATURE: Final = 2.0


class Objective(nn.Module):
    """A network and the joint loss of its tasks.

    A task's loss is its mean cross-entropy over the rows that carry its label, divided by log(number of labels),
    which is 1 for a uniform guess; it is exactly 0 for a batch in which no row does. So each task counts alike,
    however many labels it has and however few its rows.

    While it trains, an average of its weights over the last steps is kept; out of training, the answers are those of
    the averaged network, which errs less than the one of any single step (arXiv:1803.05407, arXiv:2306.07922).

    Attributes:
        network: the network that learns.
        averages: of the network's trained weights; empty where none are kept.
        weights: (tasks,), factors of the tasks' losses.
        log_variances: (tasks,), learned with weighting `uncertainty`, else None.
        epoch_losses: (3, tasks): the mean losses of the last two epochs, then the sums of this one.
        epoch_batches: (tasks,): batches of this epoch in which a row carried the task's label.
    """

    weights: Tensor
    epoch_losses: Tensor
    epoch_batches: Tensor

    def __init__(
        self,
        network: MultiTaskNetwork,
        weights: Mapping[str, float],
        *,
        weighting: Weighting = "static",
        label_smoothing: float = 0.0,
        teacher_share: float = 0.0,
        average_decay: float = 0.0,
    ) -> None:
        super().__init__()
        tasks = list(network.heads)
        self.network = network
        self._teacher_share = teacher_share
        self._average_decay = average_decay
        trained = {name: values for name, values in network.named_parameters() if values.requires_grad}
        self._averaged = list(trained) if average_decay else []
        self.averages = nn.ParameterList(
            [nn.Parameter(trained[name].detach().clone(), requires_grad=False) for name in self._averaged]
        )
        self._weighting = weighting
        self._label_smoothing = label_smoothing
        self.log_variances = nn.Parameter(torch.zeros(len(tasks))) if weighting == "uncertainty" else None
        self.register_buffer("weights", torch.tensor([float(weights.get(task, 1.0)) for task in tasks]))
        self.register_buffer("epoch_losses", torch.zeros(3, len(tasks)))
        self.register_buffer("epoch_batches", torch.zeros(len(tasks)))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, taught: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`loss`, and the logits of each task, (batch, labels).

        Args:
            input_ids, attention_mask: (batch, tokens).
            labels: (batch, tasks) in the order of the network's; `MISSING` where a row lacks the task's label.
            taught: (batch, labels of all tasks side by side), the probabilities that teachers give; None: no teacher.
        """
        if self.training or not self._averaged:
            logits: dict[str, Tensor] = self.network(input_ids, attention_mask)
        else:
            averages = dict(zip(self._averaged, self.averages, strict=True))
            logits = functional_call(self.network, averages, (input_ids, attention_mask))
        losses = self.losses(logits, labels, taught)
        return {"loss": self.weighed(losses, labels).sum(), **logits}

    def losses(self, logits: Mapping[str, Tensor], labels: Tensor, taught: Tensor | None = None) -> Tensor:
        """Each task's loss, (tasks,), not weighed.

        With teachers (arXiv:1503.02531), a labelled row's target is `teacher_share` theirs; a row without a label
        has only theirs, and counts by that share.
        """
        losses = []
        share = self._teacher_share if taught is not None and self.training else 0.0
        start = 0
        for column, task_logits in enumerate(logits.values()):
            wanted, classes = labels[:, column], task_logits.shape[1]
            known = (wanted != MISSING).float()
            smoothing = self._label_smoothing if self.training else 0.0
            target = functional.one_hot(wanted.clamp(min=0), classes).float() * (1 - smoothing) + smoothing / classes
            counts = known
            if taught is not None and share:
                labelled, theirs = known.unsqueeze(1), taught[:, start : start + classes].float()
                target = labelled * ((1 - share) * target + share * theirs) + (1 - labelled) * theirs
                counts = known + share * (1 - known)
            by_row = functional.cross_entropy(task_logits.float(), target, reduction="none")
            losses.append((by_row * counts).sum() / counts.sum().clamp(min=1e-6) / math.log(classes))
            start += classes
        together = torch.stack(losses)
        if self.training:
            self.epoch_losses[2] += together.detach()
            self.epoch_batches += _present(labels)
        return together

    def weighed(self, losses: Tensor, labels: Tensor) -> Tensor:
        """What each task adds to the joint loss, (tasks,): its loss times its weight of the moment."""
        if self.log_variances is not None and self.training:
            # exp(-s) loss + s/2 with s = log of the variance; the penalty only where there is something to weigh.
            losses = torch.exp(-self.log_variances) * losses + 0.5 * self.log_variances * _present(labels)
        return self.task_weights() * losses

    def task_weights(self) -> Tensor:
        """The factor of each task's loss, (tasks,), beside what `uncertainty` learns."""
        if self._weighting != "dwa" or not self.epoch_losses[:2].all():
            return self.weights
        slowness = self.epoch_losses[1] / self.epoch_losses[0]
        return self.weights * len(slowness) * torch.softmax(slowness / _DWA_TEMPERATURE, dim=0)

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Take the weights after step number `step` into the average; early ones are soon forgotten."""
        decay = min(self._average_decay, (step + 1) / (step + 10))
        state = dict(self.network.named_parameters())
        for name, mean in zip(self._averaged, self.averages, strict=True):
            mean.lerp_(state[name], 1 - decay)

    @torch.no_grad()
    def finish(self) -> MultiTaskNetwork:
        """The network, with the averaged weights where they are kept."""
        state = dict(self.network.named_parameters())
        for name, mean in zip(self._averaged, self.averages, strict=True):
            state[name].copy_(mean)
        return self.network

    def end_epoch(self) -> None:
        """Take the mean losses of the epoch that ended into account; over all processes, where there are several."""
        sums = torch.stack((self.epoch_losses[2], self.epoch_batches))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        self.epoch_losses[0] = self.epoch_losses[1]
        self.epoch_losses[1] = sums[0] / sums[1].clamp(min=1)
        self.epoch_losses[2] = 0
        self.epoch_batches.zero_()


def _present(labels: Tensor) -> Tensor:
    """(tasks,): 1 where a row carries the task's label, else 0."""
    return (labels != MISSING).any(0).float()
