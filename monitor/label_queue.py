"""Which items are most worth a person's time: those that the model is least sure of, each unlike the others.

Uncertainty is by margin (Scheffer et al., "Active Hidden Markov Models for Information Extraction", 2001; Settles,
"Active Learning Literature Survey", 2009, section 3.1): one less the gap between the two likeliest labels, from 0,
sure, to 1, torn. A gap means the same among three labels as among twenty, so that the tasks can be averaged.

Diversity is the greedy farthest-first choice (Gonzalez, 1985; for active learning the k-center of Sener and Savarese,
"Active Learning for Convolutional Neural Networks: A Core-Set Approach", 2018): each choice is the item with the most
of uncertainty times distance to the nearest one chosen before, as BADGE (Ash et al., 2020) weighs how unsure by how
different. Distance is one less the cosine of the titles' TF-IDF vectors, to the fourth power: headlines that tell of
the same seldom have half of their words in common, so their distance alone would hardly tell them from others.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from typing import Final

import numpy as np

POOL_PER_ITEM: Final = 20
POOL_MIN: Final = 500
POWER: Final = 4


def uncertainty(*tasks: Mapping[str, float]) -> float:
    """How unsure the model is, from 0 to 1: over tasks, the mean of one less the gap between the likeliest labels."""
    margins = []
    for probs in tasks:
        first, second = islice([*nlargest(2, probs.values()), 0.0], 2)
        margins.append(1 - (first - second))
    return sum(margins) / len(margins)


def least_sure(items: Iterable[tuple[str, float]], wanted: int) -> list[str]:
    """Of (id, uncertainty), the ids that a queue of `wanted` is chosen from: the most uncertain, the most first."""
    pool = max(POOL_MIN, POOL_PER_ITEM * wanted)
    return [item for item, _ in nlargest(pool, items, key=lambda pair: (pair[1], pair[0]))]


def spread(texts: Sequence[str], uncertainties: Sequence[float], wanted: int) -> list[int]:
    """The indices of up to `wanted` texts, unsure and unlike one another, in the order in which they are chosen.

    Of texts with the same words one is chosen, and of equally good ones the first. What is sure is never chosen.
    """
    from sklearn.feature_extraction.text import (  # the daemon, which takes labels, can do without
        HashingVectorizer,
        TfidfTransformer,
    )

    if not texts:
        return []
    every_word = r"(?u)\b\w+\b"  # those of one letter too, which tell Vitamin C from Vitamin D
    hashing = HashingVectorizer(stop_words="english", token_pattern=every_word, alternate_sign=False, norm=None)
    words = hashing.transform(texts)
    vectors = TfidfTransformer(sublinear_tf=True).fit_transform(words)
    weights = np.asarray(uncertainties)
    nearest = np.zeros(len(texts))  # the cosine of each to the nearest one chosen
    chosen: list[int] = []
    while len(chosen) < wanted:
        gains = weights * (1 - nearest) ** POWER
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        chosen.append(best)
        alike = (vectors @ vectors[best].T).toarray().ravel()
        nearest = np.maximum(nearest, np.where(alike > 1 - 1e-9, 1.0, alike))
        nearest[best] = 1.0
    return chosen
