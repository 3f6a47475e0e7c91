"""Whether answers hold when a text is changed in ways that should not matter, and turn when they should."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitor.estimates import share
from monitor.model.scorer import SENTIMENT, TOPIC
from monitor.records import SENTIMENTS
from pipelines.markdown import interval, points, table
from pipelines.perturbations import KINDS, perturbed
from pipelines.probes import EMPTY, NEGATIONS, TRANSLATIONS

Probs = Mapping[str, NDArray[np.floating]]
"""By task, (texts, labels)."""
Predict = Callable[[Sequence[str], str], Probs]
"""The probabilities of texts, and what these are called while they are being scored."""

EXAMPLE: Final = "$ALBA $BOR - Alba Motors says it's cutting its outlook on weak demand"
_EXAMPLE_CHARS: Final = 90


def measure(
    predict: Predict,
    tasks: Mapping[str, Sequence[str]],
    validation: Mapping[str, pd.DataFrame],
    answers: Probs,
    *,
    sample: int,
    seed: int,
) -> dict[str, Any]:
    """The robustness section of the report.

    Args:
        tasks: the labels of each task.
        validation: by task, its labelled rows.
        answers: by task, the probabilities of those rows as they are.
        sample: how many texts of each task are changed in each way, at most.
    """
    sentiments = tasks[SENTIMENT]
    return {
        "sample": sample,
        "example": EXAMPLE,
        "kinds": [
            row for kind in KINDS for row in _kind(predict, kind, validation, answers, sample=sample, seed=seed)
        ],
        "negations": _negations(predict, sentiments),
        "languages": _languages(predict, sentiments),
        "empty": _empty(predict, tasks),
    }


def _kind(
    predict: Predict,
    kind: str,
    validation: Mapping[str, pd.DataFrame],
    answers: Probs,
    *,
    sample: int,
    seed: int,
) -> list[dict[str, Any]]:
    """By task, the share of answers that one change leaves as they were, and the accuracy before and after."""
    texts: dict[str, list[str]] = {}
    rows: dict[str, list[int]] = {}
    for task, labelled in validation.items():
        order = list(range(len(labelled)))
        Random(f"{seed} {task}").shuffle(order)  # the same texts for every kind that applies to them
        texts[task], rows[task] = [], []
        for row in order:
            if len(rows[task]) == sample:
                break
            changed = perturbed(kind, labelled["text"].iloc[row], seed)
            if changed is not None:
                texts[task].append(changed)
                rows[task].append(row)
    probs = predict([text for changed in texts.values() for text in changed], kind)

    found, start = [], 0
    example = (perturbed(kind, EXAMPLE, seed) or "").replace("\n", " ⏎ ")
    for task, labelled in validation.items():
        count = len(rows[task])
        entry: dict[str, Any] = {"kind": kind, "task": task, "texts": count, "example": example[:_EXAMPLE_CHARS]}
        if count:
            wanted = labelled[task].to_numpy()[rows[task]]
            before = answers[task][rows[task]].argmax(axis=1)
            after = probs[task][start : start + count].argmax(axis=1)
            entry |= {
                "unchanged": asdict(share(int((before == after).sum()), count)),
                "accuracy_original": float((before == wanted).mean()),
                "accuracy_changed": float((after == wanted).mean()),
            }
        found.append(entry)
        start += count
    return found


def _negations(predict: Predict, sentiments: Sequence[str]) -> dict[str, Any]:
    said = _said(predict, [text for pair in NEGATIONS for text in pair], "negations", sentiments)
    cases = [
        {
            "positive": positive,
            "negative": negative,
            "said_of_positive": said[positive],
            "said_of_negative": said[negative],
        }
        for positive, negative in NEGATIONS
    ]
    right = sum(case["said_of_positive"] == "positive" and case["said_of_negative"] == "negative" for case in cases)
    turned = sum(case["said_of_positive"] != case["said_of_negative"] for case in cases)
    opposite = sum(
        case["said_of_positive"] == "negative" and case["said_of_negative"] == "positive" for case in cases
    )
    return {
        "pairs": len(cases),
        "both_right": asdict(share(right, len(cases))),
        "differ": asdict(share(turned, len(cases))),
        "reversed": opposite,
        "cases": cases,
    }


def _languages(predict: Predict, sentiments: Sequence[str]) -> dict[str, Any]:
    texts = [text for headline in TRANSLATIONS for text in (headline.english, *headline.others.values())]
    said = _said(predict, texts, "languages", sentiments)
    equal: dict[str, list[bool]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for headline in TRANSLATIONS:
        for language, text in {"en": headline.english, **headline.others}.items():
            equal[language].append(said[text] == said[headline.english])
            right[language].append(said[text] == headline.sentiment)
    others = [language for language in equal if language != "en"]
    equal["others"] = [same for language in others for same in equal[language]]
    right["others"] = [same for language in others for same in right[language]]
    return {
        language: {
            "texts": len(equal[language]),
            "as_english": asdict(share(sum(equal[language]), len(equal[language]))),
            "right": asdict(share(sum(right[language]), len(right[language]))),
        }
        for language in equal
    }


def _empty(predict: Predict, tasks: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """What is said of texts of which nothing is left after cleaning."""
    probs = predict(EMPTY, "empty texts")
    return [
        {
            "text": text,
            "topic": tasks[TOPIC][int(topic.argmax())],
            "topic_probability": float(topic.max()),
            "sentiment": tasks[SENTIMENT][int(sentiment.argmax())],
            "sentiment_probs": dict(zip(tasks[SENTIMENT], map(float, sentiment), strict=True)),
        }
        for text, topic, sentiment in zip(EMPTY, probs[TOPIC], probs[SENTIMENT], strict=True)
    ]


def _said(predict: Predict, texts: Sequence[str], what: str, sentiments: Sequence[str]) -> dict[str, str]:
    """The sentiment named for each text."""
    answers = predict(texts, what)[SENTIMENT].argmax(axis=1)
    return {text: sentiments[int(answer)] for text, answer in zip(texts, answers, strict=True)}


def document(section: Mapping[str, Any]) -> Iterable[str]:
    """The section as the report shows it."""
    yield "## Robustness"
    yield (
        f"Validation texts, at most {section['sample']:,} of each task to which a change applies, changed in ways "
        "that should not change the answer. Unchanged: the share whose decision stays the same, right or wrong. "
        "Accuracy is on the same texts, as they are and changed. `pipelines.train` shows texts in other letter case, "
        "with other tickers, beside the marks of other agencies and with other bodies (`pipelines/augmentation.py`); "
        "none of the marks and bodies here are among them."
    )
    yield table(
        ("change", "task", "texts", "unchanged", "accuracy as they are", "changed", "points"),
        (
            (
                row["kind"],
                row["task"],
                f"{row['texts']:,}",
                *(
                    (
                        interval(row["unchanged"]),
                        f"{row['accuracy_original']:.3f}",
                        f"{row['accuracy_changed']:.3f}",
                        points(row["accuracy_changed"] - row["accuracy_original"]),
                    )
                    if row["texts"]
                    else ("", "", "", "")
                ),
            )
            for row in section["kinds"]
        ),
    )
    yield f"What each does to `{section['example']}`:"
    examples = {row["kind"]: row["example"] for row in section["kinds"]}
    yield table(("change", "example"), ((kind, example or "does not apply") for kind, example in examples.items()))
    yield from _negations_shown(section["negations"])
    yield from _languages_shown(section["languages"])
    yield from _empty_shown(section["empty"])


def _negations_shown(section: Mapping[str, Any]) -> Iterable[str]:
    yield "### Negation"
    yield (
        f"{section['pairs']} invented pairs of headlines that differ by little more than a negation, one expected "
        "positive and one negative."
    )
    yield table(
        ("of the pairs", "share"),
        (
            ("both sides right", interval(section["both_right"])),
            ("the decision differs between the sides", interval(section["differ"])),
            ("the wrong way round", f"{section['reversed'] / section['pairs']:.3f}"),
        ),
    )
    wrong = [
        case for case in section["cases"]
        if (case["said_of_positive"], case["said_of_negative"]) != ("positive", "negative")
    ]  # fmt: skip
    if wrong:
        yield "Pairs that it got wrong on a side:"
        yield table(
            ("expected positive", "said", "expected negative", "said"),
            (
                (case["positive"], case["said_of_positive"], case["negative"], case["said_of_negative"])
                for case in wrong
            ),
        )


def _languages_shown(section: Mapping[str, Any]) -> Iterable[str]:
    yield "### Other languages"
    yield (
        "Invented headlines in English and translated by hand; few, so read the intervals. The public sets are "
        "in English."
    )
    yield table(
        ("language", "texts", "decision as in English", "right"),
        (
            (language, f"{row['texts']}", interval(row["as_english"]), interval(row["right"]))
            for language, row in section.items()
        ),
    )


def _empty_shown(section: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "### Nothing left after cleaning"
    yield "Texts of links or white space alone, which say nothing: what comes out is the model's leaning."
    yield table(
        ("text", "sentiment", *(f"P({label})" for label in SENTIMENTS), "topic", "its probability"),
        (
            (
                f"`{row['text']}`" if row["text"].strip() else "white space" if row["text"] else "empty",
                row["sentiment"],
                *(f"{row['sentiment_probs'][label]:.3f}" for label in SENTIMENTS),
                row["topic"],
                f"{row['topic_probability']:.3f}",
            )
            for row in section
        ),
    )
