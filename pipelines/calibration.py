"""How far a model's probabilities can be believed, and the temperature that mends them.

The confidence of an answer is the probability of the label it names. A model is calibrated where, of the answers
given with confidence c, the share c is right.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS: Final = 15
"""As many as Guo et al. (arXiv:1706.04599)."""

_TEMPERATURES: Final = (0.05, 20.0)
_TINY: Final = np.finfo(np.float32).tiny  # of a probability that fp32 rounded to 0


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence is above `low` and at most `high`.

    Attributes:
        confidence: their mean confidence; None where there are none.
        accuracy: the share of them that is right; None where there are none.
    """

    low: float
    high: float
    texts: int
    confidence: float | None
    accuracy: float | None


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature, from 0.05 to 20, that makes the labels likeliest (Guo et al., arXiv:1706.04599, 4.2).

    Args:
        logits: (texts, labels), or log-probabilities, which give the same.
        labels: (texts,), the index of the right label of each.

    Raises:
        ValueError: there is no text, or a label is none of the indices.
    """
    scores, wanted = np.asarray(logits, np.float64), np.asarray(labels)
    if not len(scores) or len(scores) != len(wanted):
        raise ValueError(f"temperature: {len(scores)} rows of logits and {len(wanted)} labels; give a label a row")
    if wanted.min() < 0 or wanted.max() >= scores.shape[1]:
        raise ValueError(
            f"temperature: labels from {wanted.min()} to {wanted.max()}, expected 0 to {scores.shape[1] - 1}; "
            "leave out texts without a label"
        )

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(wanted)), wanted].mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))


def with_temperature(probs: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities as they are at `temperature`, of (texts, labels) at temperature 1; its inverse undoes it."""
    logits = np.log(np.maximum(np.asarray(probs, np.float64), _TINY))
    scaled: NDArray[np.float64] = softmax(logits / temperature, axis=1)
    return scaled


def negative_log_likelihood(probs: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean of -log P(right label), in nats."""
    right = np.asarray(probs, np.float64)[np.arange(len(labels)), labels]
    return -float(np.log(np.maximum(right, _TINY)).mean())


def brier(probs: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean over texts of the squared distance to the right answer, summed over labels: 0 is perfect, 2 the worst."""
    right = np.eye(probs.shape[1])[labels]
    return float(((np.asarray(probs, np.float64) - right) ** 2).sum(axis=1).mean())


def bin_of(confidence: NDArray[np.floating], bins: int = BINS) -> NDArray[np.intp]:
    """The number of the equal-width bin, from 0, of each confidence; an edge belongs to the bin below it."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """What each bin of confidence holds, from (texts,) confidences and whether each answer is right."""
    edges = np.linspace(0, 1, bins + 1)
    number = bin_of(confidence, bins)
    texts = np.bincount(number, minlength=bins)
    confidences = np.bincount(number, confidence, minlength=bins)
    right = np.bincount(number, correct, minlength=bins)
    return [
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            texts=int(texts[i]),
            confidence=float(confidences[i] / texts[i]) if texts[i] else None,
            accuracy=float(right[i] / texts[i]) if texts[i] else None,
        )
        for i in range(bins)
    ]


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Mean distance of accuracy and confidence, in bins of equal width (Guo et al., arXiv:1706.04599, 2)."""
    gaps = np.bincount(bin_of(confidence, bins), np.asarray(correct, np.float64) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def equal_mass_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """The same in bins of equally many texts (Nguyen and O'Connor, arXiv:1508.05154), which no bin can hide in."""
    order = np.argsort(confidence, kind="stable")
    gaps = (np.asarray(correct, np.float64) - confidence)[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, bins)) / len(confidence))


def error_of_the_calibrated(
    confidence: NDArray[np.floating], rng: np.random.Generator, *, draws: int = 1_000, bins: int = BINS
) -> tuple[float, float]:
    """Mean and 95th percentile of the expected calibration error that a perfectly calibrated model would show.

    Chance alone sets accuracy and confidence apart, the more so the fewer the texts. Right and wrong are drawn from
    the confidences themselves (consistency resampling: Broecker and Smith 2007, doi:10.1175/WAF993.1).
    """
    number = bin_of(confidence, bins)
    errors = []
    for _ in range(draws):
        gaps = np.bincount(number, (rng.random(len(confidence)) < confidence) - confidence, minlength=bins)
        errors.append(np.abs(gaps).sum() / len(confidence))
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))
