"""Measure a model and write what comes out, figures and pictures: `python -m pipelines.evaluate --output DIR`."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monitor.config import ModelSettings, SpikeSettings
from monitor.estimates import CONFIDENCE, share
from monitor.model import checkpoint
from monitor.model.checkpoint import ModelInfo
from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, Scorer, open_scorer
from monitor.output import Misuse, progress_bar
from monitor.records import SENTIMENTS, MonitorError
from pipelines import calibration, dataset, documents, pictures, report, robustness, scores
from pipelines.baselines import read_comparison
from pipelines.dataset import Dataset
from pipelines.markdown import interval
from pipelines.perturbations import without_hashes, without_leading_tickers
from pipelines.robustness import Predict, Probs

Backend = Literal["auto", "torch", "onnx"]

FORMAT: Final = 1
REPORT: Final = "report.json"
DOCUMENT: Final = "report.md"
_CHUNK: Final = 256
_DEFAULT_SEED: Final = 20


class EvaluationError(ValueError):
    """The model and the data do not go together; the message says how they differ."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured and how closely.

    Attributes:
        resamples: draws of the bootstrap.
        sample: how many texts of each task are changed in each way of `perturbations.KINDS`, at most.
        seed: of the bootstrap, the samples and the changes.
    """

    model: str = "default"
    backend: Backend = "auto"
    cache_dir: Path | None = None
    resamples: int = 2_000
    sample: int = 1_000
    seed: int = 20


def evaluate(
    folder: Path, options: Options, comparison: Mapping[str, Any] | None = None, bar: Progress | None = None
) -> dict[str, Any]:
    """The report on a model, on the public sets under `folder`; the same for the same model, data and options.

    Args:
        comparison: of joint with single-task learning, from `read_comparison`.
        bar: shows what is being scored.

    Raises:
        CheckpointError: the model cannot be used.
        ScorerError: the backend cannot be had.
        DatasetError: a file of the data is absent or not as expected.
        EvaluationError: the model's labels are not those of the data.
    """
    with ExitStack() as life:
        notify = bar.console.print if bar else lambda _: None
        bar = bar or life.enter_context(Progress(disable=True))
        info = checkpoint.read(options.model).info
        data = dataset.load(folder, seed=_split_seed(info))
        _check(info, data)
        settings = ModelSettings(
            path=options.model, backend=options.backend, cache_dir=options.cache_dir, cache_items=0
        )
        scorer = open_scorer(settings, notify)
        predict = _with_progress(scorer, bar)
        answers = _on_validation(predict, data, "validation")
        titles, seen = _titles(folder, data, info)
        found = {
            "format": FORMAT,
            "model": {
                "version": info.version,
                "encoder": info.encoder,
                "trained_on": info.trained_on.isoformat(),
                "max_tokens": info.max_tokens,
                "backend": scorer.backend,
            },
            "settings": {
                "confidence": CONFIDENCE,
                "resamples": options.resamples,
                "bins": calibration.BINS,
                "seed": options.seed,
            },
            "data": _data(info, data),
            "tasks": _tasks(predict, info.temperatures, data, answers, options),
            "precision": _precision(data, answers, scorer.backend, settings, bar),
            "comparison": comparison,
            "headlines": {
                "titles_in_training": seen,
                "titles": len(titles),
                "slices": _slices(predict, data, titles, answers, options),
            },
            "robustness": robustness.measure(
                predict, info.tasks, data.validation, answers, sample=options.sample, seed=options.seed
            ),
        }
    rounded: dict[str, Any] = documents.rounded(found)
    return rounded


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """The report, its document and its pictures into `folder`, each replaced whole, once all are made."""
    files = {
        **pictures.draw(found),
        DOCUMENT: report.render(found).encode(),
        REPORT: (json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    documents.replace(folder, files)


def _split_seed(info: ModelInfo) -> int:
    """The seed that the model's own development split was cut with."""
    options = info.training.get("options")
    seed = options.get("seed") if isinstance(options, dict) else None
    return seed if isinstance(seed, int) else _DEFAULT_SEED


def _hashes(info: ModelInfo) -> Mapping[str, Any]:
    found = info.training.get("data_sha256")
    return found if isinstance(found, dict) else {}


def _check(info: ModelInfo, data: Dataset) -> None:
    for task, labels in data.tasks.items():
        if info.tasks.get(task) != labels:
            raise EvaluationError(
                f"{info.version}: labels of {task} are {', '.join(info.tasks.get(task, ())) or 'none'}, those of the "
                f"data are {', '.join(labels)}; give the data that the model was trained on with --data"
            )
        if data.validation[task].empty:
            raise EvaluationError(f"{task}: no validation rows to measure on; give a file with rows")


def _with_progress(scorer: Scorer, bar: Progress) -> Predict:
    def predict(texts: Sequence[str], what: str) -> Probs:
        task = bar.add_task(what, total=len(texts))
        parts = []
        for start in range(0, max(1, len(texts)), _CHUNK):
            parts.append(scorer.predict(texts[start : start + _CHUNK]))
            bar.update(task, advance=len(texts[start : start + _CHUNK]))
        bar.remove_task(task)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return predict


def _on_validation(predict: Predict, data: Dataset, what: str) -> dict[str, NDArray[np.floating]]:
    return {task: predict(rows["text"].tolist(), f"{what}, {task}")[task] for task, rows in data.validation.items()}


def _data(info: ModelInfo, data: Dataset) -> dict[str, Any]:
    return {
        "sha256": dict(data.sha256),
        "rows": {"train": len(data.train), "development": len(data.development)},
        "validation": {
            task: {"rows": len(rows), "texts": int(rows["text"].str.casefold().nunique())}
            for task, rows in data.validation.items()
        },
        "removed": dict(data.removed),
        "split_seed": _split_seed(info),
        "split_is_the_model's": _hashes(info).get("set") == data.sha256["set"],
    }


def _tasks(
    predict: Predict, stored: Mapping[str, float], data: Dataset, answers: Probs, options: Options
) -> dict[str, Any]:
    """By task its scores, and its calibration before and after temperature scaling.

    Args:
        stored: by task, the temperature that is already in what `predict` gives; 1 is none.
        answers: by task, what it gives for the validation rows.
    """
    development = predict(data.development["text"].tolist(), "development")
    found = {}
    for task, labels in data.tasks.items():
        served = stored.get(task, 1.0)
        rows = data.validation[task]
        wanted, given = rows[task].to_numpy(), answers[task].argmax(axis=1)
        cut_out = data.development[task].ne(MISSING).to_numpy()
        plain = np.log(calibration.with_temperature(development[task][cut_out], 1 / served))
        fitted = calibration.fit_temperature(plain, data.development[task].to_numpy()[cut_out])
        before = calibration.with_temperature(answers[task], 1 / served)
        after = answers[task] if served != 1 else calibration.with_temperature(before, fitted)
        drawn = _bootstrap(rows, task, after, options)
        once = ~rows["text"].str.casefold().duplicated().to_numpy()
        found[task] = {
            "labels": list(labels),
            "rows": len(rows),
            "accuracy": asdict(drawn.accuracy),
            "macro_f1": asdict(drawn.macro_f1),
            "each_text_once": {
                "rows": int(once.sum()),
                "accuracy": float((wanted == given)[once].mean()),
                "macro_f1": float(scores.macro_f1(scores.confusion(wanted[once], given[once], len(labels)))),
            },
            "by_label": scores.by_label(wanted, given, labels),
            "confusion": scores.confusion(wanted, given, len(labels)).tolist(),
            "temperature": {
                "served": served,
                "fitted_here": fitted,
                "development_rows": int(cut_out.sum()),
            },
            "before": _calibration(before, rows, task, options),
            "after": _calibration(after, rows, task, options),
        }
    if SENTIMENT in found:
        known = data.development[SENTIMENT].to_numpy()
        cut_out = known != MISSING
        wanted = data.validation[SENTIMENT][SENTIMENT].to_numpy()
        found[SENTIMENT]["negative"] = _negative(
            {
                "development": (development[SENTIMENT][cut_out], known[cut_out]),
                "validation": (answers[SENTIMENT], wanted),
            }
        )
    return found


def _negative(sets: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer]]]) -> dict[str, Any]:
    """What the monitor counts as negative: how much of it is, and how much of what is negative it counts."""
    label, least = SENTIMENTS.index("negative"), SpikeSettings().negative_from
    shares = {}
    for name, (probs, wanted) in sets.items():
        given, right = probs[:, label] >= least, wanted == label
        hits = int((given & right).sum())
        shares[name] = {
            what: asdict(share(hits, int(of.sum()))) if of.any() else None
            for what, of in (("precision", given), ("recall", right))
        }
    return {"from": least, **shares}


def _bootstrap(rows: pd.DataFrame, task: str, probs: NDArray[np.floating], options: Options) -> scores.Bootstrap:
    return scores.bootstrap(
        rows[task].to_numpy(),
        probs,
        rows["text"].str.casefold().tolist(),
        resamples=options.resamples,
        rng=np.random.default_rng(options.seed),
    )


def _calibration(probs: NDArray[np.floating], rows: pd.DataFrame, task: str, options: Options) -> dict[str, Any]:
    wanted = rows[task].to_numpy()
    confidence, correct = probs.max(axis=1).astype(np.float64), probs.argmax(axis=1) == wanted
    mean, high = calibration.error_of_the_calibrated(confidence, np.random.default_rng(options.seed))
    return {
        "calibration_error": asdict(_bootstrap(rows, task, probs, options).calibration_error),
        "calibration_error_equal_mass": calibration.equal_mass_calibration_error(confidence, correct),
        "calibration_error_by_chance": {"mean": mean, "percentile_95": high},
        "mean_confidence": float(confidence.mean()),
        "negative_log_likelihood": calibration.negative_log_likelihood(probs, wanted),
        "brier": calibration.brier(probs, wanted),
        "bins": [asdict(part) for part in calibration.reliability(confidence, correct)],
    }


def _precision(
    data: Dataset, answers: Probs, backend: str, settings: ModelSettings, bar: Progress
) -> dict[str, Any] | None:
    """What is served beside the same model in fp32; None where that is what is served."""
    reference = open_scorer(
        ModelSettings(path=settings.path, backend="torch", device="cpu", precision="fp32", cache_items=0)
    )
    if reference.backend == backend:
        return None
    exact = _on_validation(_with_progress(reference, bar), data, "fp32")
    tasks = {task: _beside(answers[task], exact[task], data.validation[task][task].to_numpy()) for task in data.tasks}
    return {"backend": backend, "reference": reference.backend, "tasks": tasks}


def _beside(served: NDArray[np.floating], exact: NDArray[np.floating], wanted: NDArray[np.integer]) -> dict[str, Any]:
    """How two sets of (texts, labels) probabilities differ, and what each makes of the right labels."""
    given, expected = served.argmax(axis=1), exact.argmax(axis=1)
    return {
        "served": _plain_scores(wanted, given, served.shape[1]),
        "fp32": _plain_scores(wanted, expected, served.shape[1]),
        "equal_decisions": float((given == expected).mean()),
        "largest_difference": float(np.abs(served - exact).max()),
    }


def _plain_scores(wanted: NDArray[np.integer], given: NDArray[np.integer], labels: int) -> dict[str, float]:
    return {
        "accuracy": float((wanted == given).mean()),
        "macro_f1": float(scores.macro_f1(scores.confusion(wanted, given, labels))),
    }


def _titles(folder: Path, data: Dataset, info: ModelInfo) -> tuple[pd.DataFrame, bool]:
    """SEntFiN's titles that the model did not learn from, and whether it learned from others of them."""
    titles = dataset.headlines(folder, data.tasks)
    if dataset.HEADLINES.name not in _hashes(info):
        return titles, False
    rows = data.development
    among = rows["text"].str.casefold().isin(set(titles["text"].str.casefold()))
    return rows[among & rows[SENTIMENT].ne(MISSING)], True


def _slices(
    predict: Predict, data: Dataset, titles: pd.DataFrame, answers: Probs, options: Options
) -> list[dict[str, Any]]:
    """Scores on headlines, and on tweets with and without what headlines lack: tickers in front, hashtags."""
    slices: list[dict[str, Any]] = []

    def add(name: str, task: str, rows: pd.DataFrame, probs: NDArray[np.floating]) -> None:
        entry: dict[str, Any] = {"task": task, "texts": name, "rows": len(rows)}
        if len(rows):
            drawn = _bootstrap(rows, task, probs, options)
            entry |= {"accuracy": asdict(drawn.accuracy), "macro_f1": asdict(drawn.macro_f1)}
        slices.append(entry)

    if len(titles):
        add("headlines", SENTIMENT, titles, predict(titles["text"].tolist(), "headlines")[SENTIMENT])
    for task, rows in data.validation.items():
        add("tweets, all", task, rows, answers[task])
        marked = rows["text"].str.contains(r"\$[A-Za-z]|#\w", regex=True).to_numpy()
        add("tweets without ticker or hashtag, as they came", task, rows[~marked], answers[task][~marked])
        for what, change in (("tickers in front", without_leading_tickers), ("hashtags", without_hashes)):
            changed = rows["text"].map(change)
            applies = changed.notna().to_numpy()
            add(f"tweets with {what}, as they came", task, rows[applies], answers[task][applies])
            if applies.any():
                probs = predict(changed[applies].tolist(), f"{task} without {what}")[task]
                removed = "the signs removed" if change is without_hashes else "these removed"
                add(f"the same, {removed}", task, rows[applies], probs)
    return slices


def main(
    *,
    model: Annotated[str, typer.Option(help="`default`, or the folder of a trained model")] = Options.model,
    data: Annotated[Path | None, typer.Option(help="folder of the public sets; unset: MONITOR_DATA")] = None,
    output: Annotated[Path, typer.Option(help="folder for the report and its pictures")] = Path("evaluation"),
    backend: Annotated[Backend, typer.Option(help="what runs the model")] = "auto",
    comparison: Annotated[Path | None, typer.Option(help="JSON of joint and single-task runs")] = None,
    sample: Annotated[int, typer.Option(min=1, help="texts changed in each way, at most")] = Options.sample,
    resamples: Annotated[int, typer.Option(min=1_000, help="draws of the bootstrap")] = Options.resamples,
) -> None:
    """Measure a model on the public sets and write report.json, report.md and pictures."""
    options = Options(model=model, backend=backend, sample=sample, resamples=resamples)
    try:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misuse(f"--output: {output} cannot be a folder ({error.strerror}); give another") from error
        compared = read_comparison(comparison) if comparison else None
        with progress_bar("texts") as bar:
            found = evaluate(data or dataset.default_folder(), options, compared, bar)
        write(output, found)
    except Misuse as error:
        typer.echo(f"evaluate: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, ValueError, OSError) as error:
        typer.echo(f"evaluate: {error}", err=True)
        raise typer.Exit(1) from error
    Console().print(_table(found))
    typer.echo(f"{DOCUMENT}, {REPORT} and pictures are in {output}")


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("task", "rows", "accuracy", "macro-F1", "calibration error", title=found["model"]["version"])
    for task, section in found["tasks"].items():
        figures = (section["accuracy"], section["macro_f1"], section["after"]["calibration_error"])
        table.add_row(task, f"{section['rows']:,}", *map(interval, figures))
    return table


if __name__ == "__main__":
    typer.run(main)
