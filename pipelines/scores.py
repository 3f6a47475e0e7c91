"""How right a model's answers are: scores by label, and how far chance in the choice of texts could move them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from monitor.estimates import CONFIDENCE, Estimate
from pipelines.calibration import BINS, bin_of

_BATCH: Final = 100


@dataclass(frozen=True)
class Bootstrap:
    """Figures of a set of texts with percentile bootstrap intervals (Efron 1979, doi:10.1214/aos/1176344552).

    Attributes:
        calibration_error: in equal-width bins. Resampling adds to it, as any chance does, so its interval lies high.
    """

    accuracy: Estimate
    macro_f1: Estimate
    calibration_error: Estimate


def macro_f1(confusion: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean F1 over the labels that occur among the right ones: (..., right, given) counts to (...)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    wanted, given = confusion.sum(axis=-1), confusion.sum(axis=-2)
    f1 = 2 * hits / np.maximum(wanted + given, 1)
    occurs = wanted > 0
    scores: NDArray[np.float64] = (f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
    return scores


def bootstrap(
    wanted: NDArray[np.integer],
    probs: NDArray[np.floating],
    texts: Sequence[str],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Bootstrap:
    """Accuracy, macro-F1 and expected calibration error, with intervals from `resamples` draws of as many texts.

    Texts are drawn and not rows, so that the rows of one text come and go together.

    Args:
        wanted: (rows,), the index of the right label.
        probs: (rows, labels).
        texts: what each row was about; equal texts are one.
    """
    labels = probs.shape[1]
    given, confidence = probs.argmax(axis=1), probs.max(axis=1).astype(np.float64)
    _, text_of_row = np.unique(np.asarray(texts, dtype=np.str_), return_inverse=True)
    rows = np.arange(len(wanted))
    # By row: where it stands in the confusion matrix, and what it adds to the gap of its bin of confidence.
    cells = csr_array((np.ones(len(rows)), (rows, wanted * labels + given)), shape=(len(rows), labels**2))
    gaps = csr_array(((given == wanted) - confidence, (rows, bin_of(confidence))), shape=(len(rows), BINS))
    count = int(text_of_row.max()) + 1
    text_rows = csr_array((np.ones(len(rows)), (text_of_row, rows)), shape=(count, len(rows)))
    cells, gaps = text_rows @ cells, text_rows @ gaps

    def figures(times: NDArray[np.integer]) -> NDArray[np.float64]:
        """(draws, texts) how often each text was drawn -> (3, draws) the three figures."""
        confusion = (times @ cells).reshape(-1, labels, labels)
        size = confusion.sum(axis=(1, 2))
        accuracy = np.trace(confusion, axis1=1, axis2=2) / size
        return np.stack([accuracy, macro_f1(confusion), np.abs(times @ gaps).sum(axis=1) / size])

    point = figures(np.ones((1, count), dtype=np.int64))[:, 0]
    drawn = np.concatenate(
        [
            figures(rng.multinomial(count, np.full(count, 1 / count), size=min(_BATCH, resamples - done)))
            for done in range(0, resamples, _BATCH)
        ],
        axis=1,
    )
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return Bootstrap(*(Estimate(*map(float, ends)) for ends in zip(point, low, high, strict=True)))


@dataclass(frozen=True)
class Change:
    """A figure of two models on the same texts.

    Attributes:
        rows: how many it rests on.
        drawn: (draws,) after less before, of the same resampled texts for both.
    """

    rows: int
    before: float
    after: float
    drawn: NDArray[np.float64]

    def interval(self, confidence: float = CONFIDENCE) -> Estimate:
        """The difference, with a percentile interval."""
        low, high = np.quantile(self.drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(self.after - self.before, float(low), float(high))


@dataclass(frozen=True)
class Changes:
    """What two models make of the same texts."""

    accuracy: Change
    macro_f1: Change
    recall: Change


def paired(
    wanted: NDArray[np.integer],
    before: NDArray[np.integer],
    after: NDArray[np.integer],
    texts: Sequence[str],
    *,
    labels: int,
    recalled: int,
    resamples: int,
    rng: np.random.Generator,
) -> Changes:
    """Paired bootstrap: each draw takes the same texts for both models, so that what is hard for both cancels out.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 (data in pairs) and 13
    (percentile intervals). Texts are drawn and not rows, as in `bootstrap`; those that add the same to every count
    are drawn as one kind, which changes nothing but the time it takes.

    Args:
        wanted, before, after: (rows,), index of the right label, and of what each model says.
        recalled: the label whose recall is wanted.

    Raises:
        ValueError: there is no row.
    """
    if not len(wanted):
        raise ValueError("paired bootstrap: no rows; give at least one")
    _, text_of_row = np.unique(np.asarray(texts, dtype=np.str_), return_inverse=True)
    cells, cell_of_row = np.unique(np.stack([wanted, before, after], axis=1), axis=0, return_inverse=True)
    in_order = cell_of_row.ravel()[np.lexsort((cell_of_row.ravel(), text_of_row))]
    of_text = np.split(in_order, np.cumsum(np.bincount(text_of_row))[:-1])
    alike = Counter(part.tobytes() for part in of_text)
    kinds = np.stack([np.bincount(np.frombuffer(key, np.intp), minlength=len(cells)) for key in alike])
    texts_of_kind = np.fromiter(alike.values(), np.int64)
    count = len(of_text)

    def confusion_of(counts: NDArray[np.number], given: NDArray[np.integer]) -> NDArray[np.float64]:
        """(draws, cells) counts to (draws, right, given)."""
        place = csr_array(
            (np.ones(len(cells)), (np.arange(len(cells)), cells[:, 0] * labels + given)),
            shape=(len(cells), labels**2),
        )
        return np.asarray(counts @ place).reshape(-1, labels, labels)

    def figures(times: NDArray[np.integer]) -> NDArray[np.float64]:
        """(draws, kinds) how often each kind was drawn -> (2 models, 3 figures, draws)."""
        counts = times @ kinds
        found = []
        for model in (1, 2):
            confusion = confusion_of(counts, cells[:, model])
            hits = np.diagonal(confusion, axis1=1, axis2=2)
            found.append(
                [
                    hits.sum(axis=1) / confusion.sum(axis=(1, 2)),
                    macro_f1(confusion),
                    hits[:, recalled] / np.maximum(confusion[:, recalled].sum(axis=1), 1),
                ]
            )
        return np.asarray(found)

    point = figures(texts_of_kind[None])[:, :, 0]
    drawn = np.concatenate(
        [
            np.diff(
                figures(rng.multinomial(count, texts_of_kind / count, size=min(_BATCH, resamples - done))), axis=0
            )[0]
            for done in range(0, resamples, _BATCH)
        ],
        axis=1,
    )
    rows = (len(wanted), len(wanted), int((wanted == recalled).sum()))
    return Changes(
        *(
            Change(number, float(first), float(second), differences)
            for number, first, second, differences in zip(rows, *point, drawn, strict=True)
        )
    )


def by_label(wanted: NDArray[np.integer], given: NDArray[np.integer], labels: Sequence[str]) -> dict[str, Any]:
    """Precision, recall, F1 and support of each label."""
    figures = precision_recall_fscore_support(wanted, given, labels=range(len(labels)), zero_division=0.0)
    return {
        label: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "rows": int(rows)}
        for label, precision, recall, f1, rows in zip(labels, *figures, strict=True)
    }


def confusion(wanted: NDArray[np.integer], given: NDArray[np.integer], labels: int) -> NDArray[np.int64]:
    """(right, given) counts of rows."""
    counts: NDArray[np.int64] = confusion_matrix(wanted, given, labels=range(labels))
    return counts
