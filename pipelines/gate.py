"""Whether a challenger may take the champion's place.

By hand: `python -m pipelines.gate CHAMPION CHALLENGER --reference FILE [--newest FILE]`.

Both models answer the same texts as they would in production, on the CPU in int8. A difference in accuracy, macro-F1
or negative recall comes with a 95 % interval from a paired bootstrap (`scores.paired`), and is judged so:

- **worse**: the whole interval lies below 0, and its lower end below the margin. So a loss must be there beyond
  chance, and one larger than the margin must not be ruled out. A model that is as good as the champion is refused
  by at most 2.5 % of such rows, however few the labels. What a set can tell depends on how many it holds: where the
  models differ on a tenth of the texts and the margin is 0.01, of models that are worse by 0.02 it refuses 8 % on 100
  labels, 52 % on 1,000 and 86 % on 2,400; of models that are worse by 0.05, 34 % on 100 and all on 1,000. Neither of
  the usual rules does for small and large sets: "the lower end above the margin" refuses 64 % of models that are just
  as good on 2,400 labels, "the difference above the margin" 32 % of them on 100 labels. (Simulated: 1,000 sets each.)
- **better**: the lower end of an interval lies above 0 whose confidence is raised to 1 - 0.05/k, for k accuracies and
  macro-F1s that are looked at (Bonferroni), so that a model that is as good passes in fewer than one of twenty
  retrainings. Negative recall does not count here: a model that says "negative" more often has more of it.

A measure of fewer than `LEAST_LABELS` labels is shown and not judged by.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from monitor import config
from monitor.config import ModelSettings
from monitor.gate_verdict import Found, Row, Unit, Verdict
from monitor.model import checkpoint
from monitor.model.backends import weights_of
from monitor.model.checkpoint import INFO_FILE, WEIGHTS_FILE, Checkpoint, has_ranges
from monitor.model.export import cached_onnx
from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, Scorer, open_scorer
from monitor.output import Misuse
from monitor.records import MonitorError
from monitor.retrain_settings import RetrainSettings
from pipelines import dataset
from pipelines.dataset import DatasetError
from pipelines.scores import Change, Changes, paired

LEAST_LABELS: Final = 30
"""Fewer than this say too little to judge by."""
RESAMPLES: Final = 10_000
TURNS: Final = 9
_TIMED_TEXTS: Final = 256
_BETTER_BY_CHANCE: Final = 0.05
"""How often a model that is as good may pass for a better one, over all measures of a retraining."""
_NEGATIVE: Final = "negative"
_ACCURACY, _MACRO_F1, _RECALL, _INT8 = "accuracy", "macro-F1", "negative recall", "accuracy in int8, of fp32"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What both models say of the texts of one set in one task; labels and answers are indices, (texts,)."""

    set: str
    task: str
    labels: tuple[str, ...]
    texts: Sequence[str]
    wanted: NDArray[np.integer]
    champion: NDArray[np.integer]
    challenger: NDArray[np.integer]


def judge(
    champion: Path,
    challenger: Path,
    reference: Mapping[str, pd.DataFrame],
    newest: pd.DataFrame,
    settings: RetrainSettings,
    *,
    seed: int,
    cache_dir: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Verdict:
    """Measure two checkpoints side by side and say whether the challenger may go on.

    It passes if all of this holds, see above for what "worse" and "better" are:

    (a) on the reference set it is worse in no task's accuracy, by `settings.margin`, nor in negative recall, by
        `settings.recall_margin`;
    (b) nor is it on the newest labelled texts;
    (c) it is better on one of them at least;
    (d) its files and its exported network are at most `max_size_ratio` times the champion's, a text takes it at most
        `max_latency_ratio` times as long, and on the reference set int8 makes it worse, by `max_int8_loss`, in no
        task.

    Args:
        reference: by task, rows of a `Dataset`: the frozen set.
        newest: rows of a `Dataset`: texts that the challenger has not learned from.
        seed: of the bootstrap.
        cache_dir: where networks are exported to; None: to a folder that is removed at the end.
        clock: seconds, to time both models with.

    Raises:
        CheckpointError: one of them cannot be used.
        ScorerError: `cache_dir` cannot be written.
    """
    models = [checkpoint.read(path) for path in (champion, challenger)]
    if unlike := _unlike(*models):
        return Verdict(passed=False, reason=unlike, rows=())
    sets = {"reference": dict(reference), "newest": dict.fromkeys(models[0].info.tasks, newest)}
    texts = _texts(sets)
    with ExitStack() as life:
        cache = cache_dir or Path(life.enter_context(TemporaryDirectory()))
        scorers = [_scorer(model, cache) for model in models]
        said = [_said(scorer, texts) for scorer in scorers]
        rows = rows_of(_answers(models[0], sets, texts, said), settings, seed)
        if has_ranges(models[1]):
            exact = _said(_scorer(models[1], cache, fp32=True), texts)
            for one in _answers(models[0], {"reference": reference}, texts, [exact, said[1]]):
                if len(one.wanted):
                    change = compared(one, seed).accuracy
                    rows.append(_judged(f"{one.task} {_INT8}", one.set, change, settings.max_int8_loss))
        for measure, (before, after) in (
            ("size of the checkpoint", [_files_bytes(model) for model in models]),
            ("size of the network", [_network_bytes(model, cache) for model in models]),
        ):
            rows.append(_limited(measure, "bytes", before, after, settings.max_size_ratio))
        if texts:
            rows.append(_speed(scorers, list(texts)[:_TIMED_TEXTS], settings, clock))
    return decide(rows)


def answer(
    champion: Path, challenger: Path, sets: Mapping[str, Mapping[str, pd.DataFrame]], cache_dir: Path
) -> list[Answers]:
    """What two models of the same tasks say, as in production, of the labelled rows of each set and task."""
    models = [checkpoint.read(path) for path in (champion, challenger)]
    texts = _texts(sets)
    return _answers(models[0], sets, texts, [_said(_scorer(model, cache_dir), texts) for model in models])


def rows_of(answers: Iterable[Answers], settings: RetrainSettings, seed: int) -> list[Row]:
    """Accuracy, macro-F1 and negative recall of both models on each set that has labels, each judged."""
    measured: list[tuple[str, str, Change, float | None]] = []  # measure, set, change, margin
    for one in answers:
        if not len(one.wanted):
            continue
        found = compared(one, seed)
        measured.append((f"{one.task} {_ACCURACY}", one.set, found.accuracy, settings.margin))
        measured.append((f"{one.task} {_MACRO_F1}", one.set, found.macro_f1, None))
        if one.task == SENTIMENT and found.recall.rows:
            measured.append((_RECALL, one.set, found.recall, settings.recall_margin))
    tries = sum(found.rows >= LEAST_LABELS and measure != _RECALL for measure, _, found, _ in measured)
    return [
        _judged(measure, name, found, margin, tries=0 if measure == _RECALL else tries)
        for measure, name, found, margin in measured
    ]


def decide(rows: Sequence[Row]) -> Verdict:
    """The verdict on these rows: refused if one fails, or if none is better."""
    failed = [row for row in rows if row.found == "fails"]
    better = [row for row in rows if row.found == "better"]
    tried = [row for row in rows if row.measure.endswith((_ACCURACY, _MACRO_F1)) and row.found != "shown"]
    if failed:
        others = ", ".join(f"{row.measure}{row.on}" for row in failed[1:])
        reason = failed[0].told() + (f"; and {len(failed) - 1} more: {others}" if others else "")
    elif better:
        best = max(better, key=lambda row: (row.measure.endswith(_ACCURACY), row.difference))
        reason = "better: " + best.told()
    elif tried:
        nearest = max(tried, key=lambda row: row.difference)
        reason = f"not better beyond chance in any of {len(tried)} measures; the largest gain: {nearest.told()}"
    else:
        reason = f"not better: no set holds {LEAST_LABELS} labels of a task, so nothing could be shown"
    return Verdict(passed=bool(better) and not failed, reason=reason, rows=tuple(rows))


def compared(one: Answers, seed: int) -> Changes:
    """What the challenger makes of a set in one task, beside the champion; there must be a row."""
    return paired(
        one.wanted,
        one.champion,
        one.challenger,
        [text.casefold() for text in one.texts],
        labels=len(one.labels),
        recalled=one.labels.index(_NEGATIVE) if one.task == SENTIMENT else 0,
        resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )


def _judged(measure: str, name: str, change: Change, margin: float | None, *, tries: int = 0) -> Row:
    """The row of a change.

    Args:
        margin: None where it cannot fail.
        tries: how many measures are looked at for one that is better; 0 where this is none of them.
    """
    interval = change.interval()
    found: Found = "holds"
    if change.rows < LEAST_LABELS:
        found = "shown"
    elif margin is not None and interval.high < 0 and interval.low < -margin:
        found = "fails"
    elif tries and change.interval(1 - _BETTER_BY_CHANCE / tries).low > 0:
        found = "better"
    return Row(
        measure=measure,
        set=name,
        labels=change.rows,
        champion=change.before,
        challenger=change.after,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        bound=None if margin is None else -margin,
        found=found,
    )


def _limited(measure: str, unit: Unit, champion: float, challenger: float, most: float) -> Row:
    """The row of something that may be `most` times the champion's."""
    ratio = challenger / champion
    return Row(
        measure=measure,
        labels=0,
        unit=unit,
        champion=champion,
        challenger=challenger,
        difference=ratio,
        bound=most,
        found="fails" if ratio > most else "holds",
    )


def _unlike(champion: Checkpoint, challenger: Checkpoint) -> str | None:
    """How the tasks or labels of the two differ."""
    ours, theirs = champion.info.tasks, challenger.info.tasks
    if ours.keys() != theirs.keys():
        return f"the tasks differ: the champion's are {', '.join(ours)}, the challenger's {', '.join(theirs)}"
    for task, labels in ours.items():
        if labels == theirs[task]:
            continue
        if set(labels) == set(theirs[task]):
            return f"the labels of {task} stand in another order in the challenger than in the champion"
        lost = ", ".join(label for label in labels if label not in theirs[task]) or "none"
        new = ", ".join(label for label in theirs[task] if label not in labels) or "none"
        return f"the labels of {task} differ: only the champion has {lost}; only the challenger has {new}"
    return None


def _scorer(model: Checkpoint, cache_dir: Path, *, fp32: bool = False) -> Scorer:
    """As in production, where a model without ranges runs in fp32; or in fp32 in any case."""
    settings = ModelSettings(
        path=str(model.folder),
        backend="onnx",
        device="cpu",
        precision="fp32" if fp32 else "auto",
        cache_dir=cache_dir,
        cache_items=0,
    )
    return open_scorer(settings, any_tasks=True)


def _texts(sets: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, int]:
    """Every text once, with its place."""
    tables = [rows["text"] for by_task in sets.values() for rows in by_task.values()]
    return {text: place for place, text in enumerate(dict.fromkeys(text for table in tables for text in table))}


def _said(scorer: Scorer, texts: Mapping[str, int]) -> dict[str, NDArray[np.intp]]:
    """By task, the index of the label that the model gives each text, by the text's place."""
    return {task: probs.argmax(axis=1) for task, probs in scorer.predict(list(texts)).items()}


def _answers(
    model: Checkpoint,
    sets: Mapping[str, Mapping[str, pd.DataFrame]],
    texts: Mapping[str, int],
    said: Sequence[Mapping[str, NDArray[np.intp]]],
) -> list[Answers]:
    """What two models said of the rows that have a label of a set's task."""
    answers = []
    for name, by_task in sets.items():
        for task, rows in by_task.items():
            labelled = rows[rows[task].ne(MISSING)]
            places = labelled["text"].map(texts).to_numpy(dtype=np.intp)
            answers.append(
                Answers(
                    set=name,
                    task=task,
                    labels=model.info.tasks[task],
                    texts=labelled["text"].tolist(),
                    wanted=labelled[task].to_numpy(dtype=np.intp),
                    champion=said[0][task][places],
                    challenger=said[1][task][places],
                )
            )
    return answers


def _files_bytes(model: Checkpoint) -> int:
    return sum((model.folder / name).stat().st_size for name in (INFO_FILE, WEIGHTS_FILE))


def _network_bytes(model: Checkpoint, cache_dir: Path) -> int:
    """Size of the network as ONNX Runtime loads it; the scorer has exported it before."""
    return cached_onnx(model, weights_of(model, "auto"), cache_dir, lambda _: None).stat().st_size


def _speed(
    scorers: Sequence[Scorer], texts: Sequence[str], settings: RetrainSettings, clock: Callable[[], float]
) -> Row:
    """Seconds a text of both models, who take turns, and turns in going first, so that a busy machine is as busy for
    both; the ratio is of the medians."""
    seconds: list[list[float]] = [[] for _ in scorers]
    for scorer in scorers:  # once unmeasured, as the first run sets aside its memory
        scorer.predict(texts)
    for turn in range(TURNS):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            started = clock()
            scorers[which].predict(texts)
            seconds[which].append((clock() - started) / len(texts))
    champion, challenger = map(statistics.median, seconds)
    return _limited("time a text", "seconds", champion, challenger, settings.max_latency_ratio)


def main(
    *,
    champion: Annotated[Path, typer.Argument(help="folder of the model that scores, or `default`")],
    challenger: Annotated[Path, typer.Argument(help="folder of the model that might")],
    reference: Annotated[Path, typer.Option(help="labelled texts, CSV or JSON Lines, or the public sets' folder")],
    newest: Annotated[Path | None, typer.Option(help="more labelled texts, which neither has learned from")] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config", help="its `retrain` settings are the bounds")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 20,
) -> None:
    """Say whether the challenger may take the champion's place, and why; exits 1 where it may not."""
    try:
        settings = config.load(config_path)
        tasks = checkpoint.read(champion).info.tasks
        empty = pd.DataFrame(columns=["text", *tasks])
        found = judge(
            champion,
            challenger,
            _reference(reference, tasks),
            empty if newest is None else dataset.read_table(newest, tasks),
            settings.retrain,
            seed=seed,
            cache_dir=settings.model.cache_dir,
        )
    except Misuse as error:
        typer.echo(f"gate: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, DatasetError) as error:
        typer.echo(f"gate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{found.text()}{'passed' if found.passed else 'refused'}: {found.reason}")
    raise typer.Exit(0 if found.passed else 1)


def _reference(path: Path, tasks: Mapping[str, tuple[str, ...]]) -> dict[str, pd.DataFrame]:
    """By task, the labelled rows of a table, or the validation sets of the public sets."""
    if not path.is_dir():
        return dict.fromkeys(tasks, dataset.read_table(path, tasks))
    data = dataset.load(path, seed=0)
    for task, labels in data.tasks.items():
        if tasks.get(task) != labels:
            raise DatasetError(
                f"{path}: labels of {task} are {', '.join(labels)}, the champion's are "
                f"{', '.join(tasks.get(task, ())) or 'none'}; give labelled texts of the champion's tasks"
            )
    return dict(data.validation)


if __name__ == "__main__":
    typer.run(main)
