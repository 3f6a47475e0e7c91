"""The report as a document: every figure in it comes from the report's JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines import comparison, pictures, robustness
from pipelines.baselines import FIGURES
from pipelines.markdown import interval, points, table


def render(found: Mapping[str, Any]) -> str:
    """Markdown of a report."""
    sections = (
        _head(found),
        _scores(found),
        *(_task(task, section) for task, section in found["tasks"].items()),
        _calibration(found),
        _precision(found["precision"]),
        comparison.document(found["comparison"]),
        _headlines(found["headlines"]),
        robustness.document(found["robustness"]),
        _limits(found),
    )
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


def _head(found: Mapping[str, Any]) -> Iterable[str]:
    model, data, settings = found["model"], found["data"], found["settings"]
    yield f"# {model['version']}, measured"
    yield (
        f"Encoder {model['encoder']}, trained on {model['trained_on']}, texts cut at {model['max_tokens']} tokens, "
        f"run by {model['backend']}. Intervals are {settings['confidence']:.0%}: for scores, percentiles of "
        f"{settings['resamples']:,} bootstrap resamples of the texts (seed {settings['seed']}); for shares, "
        "Wilson's. They hold what chance in the choice of texts does, not what another seed of the training would do."
    )
    yield "## Data"
    yield (
        "Scores are on the validation files of Twitter Financial News. Texts are cleaned first: HTML unescaped, "
        "letters in their usual form, links removed. A text that stands in a validation file was "
        "removed from train and development (letter case ignored). A validation file keeps its own repeats; "
        '"each text once" below counts the first row of each text alone.'
    )
    yield table(
        ("validation set", "rows", "texts"),
        ((task, f"{count['rows']:,}", f"{count['texts']:,}") for task, count in data["validation"].items()),
    )
    yield table(
        ("left out of train and development", "rows"),
        ((why, f"{rows:,}") for why, rows in data["removed"].items()),
    )
    rows = data["rows"]
    yield (
        f"This leaves {rows['train']:,} texts to train on and {rows['development']:,} for development (choices, "
        f"early stopping, temperatures), split with seed {data['split_seed']}."
    )
    yield (
        "The hash of the three sets is the one that the model was trained with."
        if data["split_is_the_model's"]
        else "**The sets are not the ones that the model was trained with** (their hash differs): texts of this "
        "development split may have been in its training, so figures on development texts may flatter it."
    )
    yield table(("file", "SHA-256"), ((name, f"`{digest}`") for name, digest in data["sha256"].items()))


def _scores(found: Mapping[str, Any]) -> Iterable[str]:
    yield "## Scores"
    yield (
        "Accuracy is the share of rows whose most probable label is the right one. Macro-F1 is the mean over labels "
        "of F1, so that a rare label counts as much as a common one."
    )
    yield table(
        ("task", "rows", "accuracy", "macro-F1", "each text once: accuracy", "macro-F1"),
        (
            (
                task,
                f"{section['rows']:,}",
                interval(section["accuracy"]),
                interval(section["macro_f1"]),
                f"{section['each_text_once']['accuracy']:.3f}",
                f"{section['each_text_once']['macro_f1']:.3f}",
            )
            for task, section in found["tasks"].items()
        ),
    )


def _task(task: str, section: Mapping[str, Any]) -> Iterable[str]:
    yield f"### {task.capitalize()} by label"
    yield (
        "Precision: of the rows given the label, the share that bears it. Recall: of the rows that bear it, the "
        "share given it. A label with few rows has a wide margin."
    )
    yield table(
        ("label", "rows", "precision", "recall", "F1"),
        (
            (label, f"{row['rows']:,}", *(f"{row[name]:.3f}" for name in ("precision", "recall", "f1")))
            for label, row in section["by_label"].items()
        ),
    )
    labels, counts = section["labels"], section["confusion"]
    missed = [
        (counts[right][given], right, given)
        for right in range(len(labels))
        for given in range(len(labels))
        if right != given and counts[right][given]
    ]
    if missed:
        yield "The commonest mistakes:"
        yield table(
            ("right", "said", "rows", "of the right label's rows"),
            (
                (labels[right], labels[given], f"{rows:,}", f"{rows / sum(counts[right]):.1%}")
                for rows, right, given in sorted(missed, key=lambda cell: (-cell[0], cell[1:]))[:8]
            ),
        )
    yield f"![Confusion matrix of {task}]({pictures.confusion_picture(task)})"
    if "negative" in section:
        yield from _negative(section["negative"])


def _negative(found: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"The monitor counts a text as negative from P(negative) = {found['from']:g} on, the setting "
        "`spikes.negative_from`, chosen on the development rows. Precision: of what it counts, the share that is "
        "negative; recall: of what is negative, the share that it counts."
    )
    kinds = ("precision", "recall")
    yield table(
        ("rows", *kinds),
        (
            (name, *("" if found[name][kind] is None else interval(found[name][kind]) for kind in kinds))
            for name in ("development", "validation")
        ),
    )


def _calibration(found: Mapping[str, Any]) -> Iterable[str]:
    yield "## Calibration"
    yield (
        "Confidence is the probability of the label that is named. The expected calibration error (ECE, "
        f"arXiv:1706.04599) is the mean distance of confidence and accuracy in {found['settings']['bins']} bins of "
        "equal width; the second figure takes bins of equally many rows. With finitely many rows even a perfectly "
        'calibrated model shows some error: "by chance" is its mean and its 95th percentile for these confidences. '
        "Resampling adds such chance too, so the interval of the ECE lies high. NLL is the mean -log P(right label); "
        "Brier the mean squared distance to the right answer, summed over labels (0 to 2). Temperature scaling "
        "changes no decision."
    )
    rows = []
    for task, section in found["tasks"].items():
        for when in ("before", "after"):
            part = section[when]
            chance = part["calibration_error_by_chance"]
            rows.append(
                (
                    task,
                    when,
                    interval(part["calibration_error"]),
                    f"{part['calibration_error_equal_mass']:.3f}",
                    f"{chance['mean']:.3f}, {chance['percentile_95']:.3f}",
                    f"{part['mean_confidence']:.3f}",
                    f"{part['negative_log_likelihood']:.3f}",
                    f"{part['brier']:.3f}",
                )
            )
    yield table(("task", "temperature", "ECE", "equal mass", "by chance", "mean confidence", "NLL", "Brier"), rows)
    for task, section in found["tasks"].items():
        temperature = section["temperature"]
        fitted = f"{temperature['fitted_here']:.3f} on {temperature['development_rows']:,} development rows"
        yield (
            f"{task.capitalize()}: the model carries temperature {temperature['served']:.3f}, so what it serves is "
            f'"after"; fitted again here, {fitted}.'
            if temperature["served"] != 1
            else f"{task.capitalize()}: **the model carries no temperature (1), so what it serves is "
            f'"before"**; "after" uses the one fitted here, {fitted}.'
        )
        yield f"![Reliability of {task}]({pictures.reliability_picture(task)})"


def _precision(precision: Mapping[str, Any] | None) -> Iterable[str]:
    yield "## Served against fp32"
    if precision is None:
        yield "What was measured runs in fp32 itself."
        return
    yield (
        f"The figures above were measured on {precision['backend']}; here the same rows on {precision['reference']}. "
        "Differences are in points (hundredths), served less fp32."
    )
    rows = []
    for task, section in precision["tasks"].items():
        for figure, name in FIGURES.items():
            served, exact = section["served"][figure], section["fp32"][figure]
            rows.append((task, name, f"{served:.4f}", f"{exact:.4f}", points(served - exact)))
    yield table(("task", "figure", "served", "fp32", "difference"), rows)
    yield table(
        ("task", "equal decisions", "largest difference of a probability"),
        (
            (task, f"{section['equal_decisions']:.2%}", f"{section['largest_difference']:.5f}")
            for task, section in precision["tasks"].items()
        ),
    )


def _headlines(section: Mapping[str, Any]) -> Iterable[str]:
    yield "## Headlines"
    titles = f"{section['titles']:,} headlines of SEntFiN whose entities all have one sentiment"
    yield (
        f"Headlines are {titles}, of the development split: other headlines of that set were in training, so this is "
        "**not out of domain**, and the development split chose the model's training steps and temperatures."
        if section["titles_in_training"]
        else f"Headlines are {titles}: none of that set was in training, so this is **out of domain**."
    )
    yield (
        "Beside them tweets of the validation sets, with and without what headlines lack. Different rows are not "
        'equally hard; "the same" are the same rows, changed. Macro-F1 is over the labels that occur in the rows.'
    )
    yield table(
        ("task", "texts", "rows", "accuracy", "macro-F1"),
        (
            (
                row["task"],
                row["texts"],
                f"{row['rows']:,}",
                *(interval(row[figure]) if row["rows"] else "" for figure in FIGURES),
            )
            for row in section["slices"]
        ),
    )


def _limits(found: Mapping[str, Any]) -> Iterable[str]:
    yield "## Limits of these figures"
    yield (
        "The validation files are tweets of financial accounts and news services, labelled by others, whose mistakes "
        "count as the model's. They come from the same collection as the training files. Negations and other "
        "languages are measured on small hand-made sets."
    )
