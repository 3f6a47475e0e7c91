"""Which labels may be wrong: those that a simple model, trained on the other labels, would not have expected.

Out-of-sample probabilities come from a logistic regression on the champion's features of each text, cross-validated
so that no text, nor a copy of it, is in what its own probabilities are learned from. Confident learning (Northcutt et
al., arXiv:1911.00068, as cleanlab has it) makes of them the share of wrong labels, and which they are. Nothing is
dropped: what is suspicious may be what the champion has to learn. A wrong label that the champion itself was trained
on is harder to see.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monitor.model.checkpoint import Checkpoint, load_network
from monitor.model.network import MISSING
from monitor.model.text import pad
from pipelines.snapshot import Snapshot

FOLDS: Final = 5
FEWEST: Final = 50
"""Fewest labels of a task that are audited; of fewer, no share of wrong ones can be told."""

_BATCH: Final = 64
_STRENGTH: Final = 0.01
"""Inverse of the regression's penalty. On 1,500 texts each of SEntFiN and of Twitter Financial News, which the model
was not trained on, 0.001 and 0.01 find about as many of labels that were flipped there, and 0.1 accuses more."""
_COLUMNS: Final = ("item", "text", "task", "label", "suggested", "p_label", "p_suggested", "who", "part")


@dataclass(frozen=True)
class TaskAudit:
    """What was found of one task's labels.

    Attributes:
        labels: how many were looked at.
        rare: how many were not, as too few texts have the same.
        listed: how many may be wrong.
        share: `listed` of `labels`.
    """

    labels: int
    rare: int
    listed: int
    share: float


@dataclass(frozen=True)
class Audit:
    """What was found, by task with labels enough, and the labels that may be wrong, the most suspicious first."""

    tasks: Mapping[str, TaskAudit]
    suspicious: pd.DataFrame

    @property
    def worst(self) -> str | None:
        """The task with the largest share of labels that may be wrong."""
        return max(self.tasks, key=lambda task: self.tasks[task].share, default=None)

    def csv(self) -> str:
        """The suspicious labels as CSV: where each stands, what was expected instead, and how sure that is."""
        return self.suspicious.to_csv(index=False, lineterminator="\n", float_format="%.3f")

    def plain(self) -> dict[str, Any]:
        """The figures as JSON takes them."""
        return {task: asdict(found) for task, found in self.tasks.items()}

    def lines(self) -> list[str]:
        """The figures in words, a line a task."""
        return [
            f"{found.listed:,} of {found.labels:,} labels of {task!r} may be wrong ({found.share:.1%}); "
            f"{found.rare:,} are too rare to say"
            for task, found in self.tasks.items()
        ] or [f"no task has {FEWEST} labels from people, too few to say how many are wrong"]


def audit(champion: Checkpoint, snapshot: Snapshot, *, seed: int) -> Audit:
    """Look at every label that people gave to the texts of a snapshot.

    Args:
        champion: whose features the texts are told apart by.
        seed: of the folds.

    Raises:
        CheckpointError: the champion cannot be used.
    """
    rows = snapshot.labelled()
    features = embedded(champion, rows["text"].tolist())
    found, tables = {}, []
    for task, labels in snapshot.tasks.items():
        counts = rows[task][rows[task].ne(MISSING)].value_counts()
        frequent = counts.index[counts >= 2 * FOLDS]
        looked_at = rows[task].isin(frequent).to_numpy()
        if looked_at.sum() < FEWEST or len(frequent) < 2:
            continue
        kept = rows[looked_at]
        classes = np.array(sorted(frequent))
        given = np.searchsorted(classes, kept[task].to_numpy())
        groups = pd.factorize(kept["story"])[0]
        probs = out_of_sample(features[looked_at], given, groups, seed)
        order = find_label_issues(given, probs, return_indices_ranked_by="self_confidence", n_jobs=1)
        expected = probs[order].argmax(1)
        tables.append(
            pd.DataFrame(
                {
                    "item": kept["item"].to_numpy()[order],
                    "text": kept["text"].to_numpy()[order],
                    "task": task,
                    "label": [labels[classes[index]] for index in given[order]],
                    "suggested": [labels[classes[index]] for index in expected],
                    "p_label": probs[order, given[order]],
                    "p_suggested": probs[order, expected],
                    "who": kept["who"].to_numpy()[order],
                    "part": kept["part"].to_numpy()[order],
                }
            )
        )
        found[task] = TaskAudit(
            labels=len(kept),
            rare=int(counts.sum()) - len(kept),
            listed=len(order),
            share=len(order) / len(kept),
        )
    suspicious = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_COLUMNS))
    return Audit(found, suspicious)


def out_of_sample(
    features: NDArray[np.float32], labels: NDArray[np.integer], groups: NDArray[np.integer], seed: int
) -> NDArray[np.float64]:
    """The probability of each label, (texts, labels), as a model has it that saw neither the text nor its group.

    Args:
        features: (texts, features).
        labels: (texts,), from 0 without a gap.
        groups: (texts,).
    """
    probs = np.zeros((len(labels), int(labels.max()) + 1))
    folds = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    for learned, asked in folds.split(features, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough
            model.fit(features[learned], labels[learned])
        probs[np.ix_(asked, model.classes_)] = model.predict_proba(features[asked])
    return probs


def embedded(champion: Checkpoint, texts: list[str]) -> NDArray[np.float32]:
    """The champion's pooled features of each text, (texts, features)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_network(champion).to(device)
    token_ids = [encoding.ids for encoding in champion.tokenizer().encode_batch_fast(texts)]
    order = sorted(range(len(texts)), key=lambda row: len(token_ids[row]))
    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            inputs = pad([token_ids[row] for row in batch], champion.pad_id)
            pooled = network.encode(*(torch.from_numpy(part).to(device) for part in inputs))
            for row, values in zip(batch, pooled.float().cpu().numpy(), strict=True):
                found[row] = values
    return np.stack(found)
