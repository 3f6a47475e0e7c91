"""Whether the retraining loop helps, and refuses what it must, on real headlines.

`python -m pipelines.trial --champion FOLDER --output DIR` takes a model that was trained without SEntFiN's headlines.
For each case a fresh monitor reads headlines as news of some weeks, a third of them is labelled, and a retraining
runs in a process of its own; what passes the gate is tried by a real daemon on live news:

- `helps`: the labels are right. The challenger is to be promoted.
- `flipped`: 30 % of the labels are replaced by another one at random.
- `one-class`: every label is "negative".
- `one-task`: the labels are topics alone, and those that the champion gives itself, so there is nothing to learn.
- `five`: five labels.
- `leak`: the labelled items are texts of the reference set.
- `throughput`: no retraining is judged; how fast a scorer is alone, and while a retraining trains on the same cores.

All but the first and the last are to be refused. Other settings than the defaults come in by the environment, as
everywhere: `SENTIMENT_RETRAIN__BASE_RATIO=10`.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import pandas as pd
import typer

from monitor.labels import Task
from monitor.model import checkpoint
from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, TOPIC
from monitor.output import Misuse
from monitor.records import SENTIMENTS, MonitorError
from pipelines import contention, dataset, documents, gate
from pipelines.contention import Contention
from pipelines.dataset import Dataset, DatasetError
from pipelines.trial_desk import WEEKS, Desk, TrialError

Judged = Literal["helps", "flipped", "one-class", "one-task", "five", "leak"]
Case = Literal["helps", "flipped", "one-class", "one-task", "five", "leak", "throughput", "all"]

LABELLED_SHARE: Final = 1 / 3
FLIPPED_SHARE: Final = 0.3
RESULT: Final = "trial.json"
_LIVE_ITEMS: Final = 500
_FEW: Final = 5
_HEADLINES, _REFERENCE = "unlabelled headlines", "reference"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a trial is held with.

    Attributes:
        headlines: that are read as news, at most; None: all.
        seed: of which headlines are labelled, and when they come.
        live_items: that both models score before and after a promotion.
    """

    champion: Path
    output: Path
    data: Path
    headlines: int | None = None
    seed: int = 20
    live_items: int = _LIVE_ITEMS
    turns: int = 5
    turn_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracy of the champion that a retraining began with and of its challenger; the difference's 95 % interval."""

    set: str
    task: str
    labels: int
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a case went.

    Attributes:
        outcome: of the retraining; `in shadow` where it passed the gate in a case that is not to.
        step: at which it ended.
        challenger: its version, or None where none was trained.
        seconds: by part, how long it took.
        measured: accuracy of both models, where a challenger was trained.
    """

    case: str
    outcome: str
    as_expected: bool
    step: str
    reason: str
    items: int
    labels: int
    challenger: str | None
    champion_now: str
    seconds: Mapping[str, float]
    measured: Sequence[Measured]


@dataclass(frozen=True)
class _News:
    """Headlines in the order they come, and which of them are labelled: rows with `text` and labels as indices."""

    rows: pd.DataFrame
    chosen: pd.Series

    @property
    def labelled(self) -> pd.DataFrame:
        return self.rows[self.chosen]

    @property
    def others(self) -> pd.DataFrame:
        return self.rows[~self.chosen]


class Trial:
    """The cases on one champion and the public sets.

    Raises:
        DatasetError: a file of the public sets is absent or not as expected.
        CheckpointError: the champion cannot be used.
        TrialError: the champion's labels are not those of the sets.
    """

    def __init__(self, options: Options, now: datetime) -> None:
        self._options = options
        self._now = now
        self._data = dataset.load(options.data, seed=options.seed, with_headlines=False)
        info = checkpoint.read(options.champion).info
        for task, labels in self._data.tasks.items():
            if info.tasks.get(task) != labels:
                raise TrialError(
                    f"{options.champion}: labels of {task} are {', '.join(info.tasks.get(task, ())) or 'none'}, "
                    f"those of the public sets are {', '.join(labels)}; give a model that was trained on them"
                )
        headlines = dataset.headlines(options.data, self._data.tasks)
        shuffled = headlines.sample(frac=1, random_state=options.seed)[: options.headlines].reset_index(drop=True)
        chosen = pd.Series(False, index=shuffled.index)
        chosen[shuffled.sample(frac=LABELLED_SHARE, random_state=options.seed).index] = True
        self._news = _News(shuffled, chosen)
        options.output.mkdir(parents=True, exist_ok=True)
        _named(self._data, self._data.train).to_csv(options.output / "base.csv", index=False)
        _named(self._data, pd.concat(self._data.validation.values())).to_csv(
            options.output / "reference.csv", index=False
        )

    def hold(self, case: Judged) -> Result:
        """One case, from an empty database to what the loop makes of it.

        Raises:
            TrialError: it could not be held.
        """
        live = (
            f"shadow_share = 1.0\nshadow_items = {self._options.live_items}\nwatch_items = {self._options.live_items}"
        )
        desk = self._desk(case, [live])
        news = self._news_of(case)
        seconds: dict[str, float] = {}
        started_s = time.monotonic()
        topics = desk.read_news(news.rows["text"].tolist(), self._now)
        labels = 0
        for task, given in self.labels(case, topics).items():
            desk.label(given, task, self._now)
            labels += len(given)
        seconds["news and labels"] = time.monotonic() - started_s
        started_s = time.monotonic()
        row = desk.retrain()
        seconds["retraining"] = time.monotonic() - started_s
        if row.outcome is None and case == "helps":
            started_s = time.monotonic()
            row = desk.go_live(news.others["text"].tolist())
            seconds["live"] = time.monotonic() - started_s
        with desk.store() as store:
            now_champion = store.models.champion()
        assert now_champion is not None  # noqa: S101  (the desk promoted one)
        outcome = row.outcome or "in shadow"
        model = row.folder / "model"
        trained = "train" in row.found
        return Result(
            case=case,
            outcome=outcome,
            as_expected=outcome == ("promoted" if case == "helps" else "refused"),
            step=row.step,
            reason=row.reason or "the challenger passed the gate",
            items=len(news.rows),
            labels=labels,
            challenger=checkpoint.read(model).info.version if trained else None,
            champion_now=now_champion.version,
            seconds={part: round(took_s, 1) for part, took_s in seconds.items()},
            measured=self._measured(model) if trained else (),
        )

    def throughput(self) -> Contention:
        """See `contention.measure`; the retraining is one that goes on for long."""
        options = self._options.output / "long.toml"
        options.write_text("epochs = 1000.0\n")
        desk = self._desk("throughput", ["max_threads = 1", "niceness = 19", f"options = {json.dumps(str(options))}"])
        topics = desk.read_news(self._news.rows["text"].tolist(), self._now)
        for task, given in self.labels("helps", topics).items():
            desk.label(given, task, self._now)
        titles = self._news.rows["text"].tolist()[:2_048]
        return contention.measure(desk, titles, turns=self._options.turns, turn_s=self._options.turn_s)

    def _desk(self, case: str, retrain: Sequence[str]) -> Desk:
        return Desk(self._options.output / case, self._options.champion, self._options.output, retrain, self._now)

    def _news_of(self, case: Judged) -> _News:
        """The headlines; for a leak the texts of the reference set, each once, all of them labelled."""
        if case != "leak":
            return self._news
        rows = pd.concat(self._data.validation.values(), ignore_index=True)
        rows = rows[~rows["text"].str.casefold().duplicated() & rows["text"].ne("")]
        rows = rows.sample(frac=1, random_state=self._options.seed)[: self._options.headlines].reset_index(drop=True)
        return _News(rows, pd.Series(True, index=rows.index))

    def labels(self, case: Judged, topics: Mapping[str, str]) -> dict[Task, dict[str, str]]:
        """By task and item, what is labelled in a case.

        Args:
            topics: by item, what the champion says.
        """
        rows = self._news_of(case).labelled
        if case == "one-task":
            return {"topic": {f"n{row}": topics[f"n{row}"] for row in rows.index}}
        if case == "leak":
            return {"topic": self._right(rows, TOPIC), "sentiment": self._right(rows, SENTIMENT)}
        right = self._right(rows, SENTIMENT)
        if case == "five":
            return {"sentiment": dict(list(right.items())[:_FEW])}
        if case == "one-class":
            return {"sentiment": dict.fromkeys(right, SENTIMENTS[0])}
        if case == "flipped":
            rng = np.random.default_rng(self._options.seed)
            for item in rng.permutation(list(right))[: round(FLIPPED_SHARE * len(right))]:
                right[item] = str(rng.choice([label for label in SENTIMENTS if label != right[item]]))
        return {"sentiment": right}

    def _right(self, rows: pd.DataFrame, task: str) -> dict[str, str]:
        labels = self._data.tasks[task]
        known = rows[rows[task].ne(MISSING)]
        return {f"n{row}": labels[label] for row, label in known[task].items()}

    def _measured(self, challenger: Path) -> tuple[Measured, ...]:
        """Accuracy of both models on the headlines that nobody labelled, and on the reference set."""
        sets = {_HEADLINES: {SENTIMENT: self._news.others}, _REFERENCE: dict(self._data.validation)}
        found = []
        for one in gate.answer(self._options.champion, challenger, sets, self._options.output / "cache"):
            change = gate.compared(one, self._options.seed).accuracy
            interval = change.interval()
            found.append(
                Measured(
                    set=one.set,
                    task=one.task,
                    labels=change.rows,
                    before=change.before,
                    after=change.after,
                    low=interval.low,
                    high=interval.high,
                )
            )
        return tuple(found)


def told(result: Result) -> str:
    """A case in words and a table of its figures."""
    took = ", ".join(f"{part} {took_s:,.0f} s" for part, took_s in result.seconds.items())
    lines = [
        f"{result.case}: {result.outcome}{'' if result.as_expected else ' (NOT AS EXPECTED)'} at step {result.step}",
        f"  {result.reason}",
        f"  {result.items:,} items over {WEEKS} weeks, {result.labels:,} labels; {took}",
        f"  challenger: {result.challenger or 'none was trained'}; champion now: {result.champion_now}",
    ]
    if result.measured:
        head = ("accuracy", "labels", "before", "after", "difference", "95 % interval")
        cells = [
            (
                f"{one.task}, {one.set}",
                f"{one.labels:,}",
                f"{one.before:.4f}",
                f"{one.after:.4f}",
                f"{one.after - one.before:+.4f}",
                f"{one.low:+.4f} to {one.high:+.4f}",
            )
            for one in result.measured
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *cells)
        ]
        if result.outcome != "promoted":
            lines.append("  (after: what the challenger would have given)")
    return "\n".join(lines)


def told_of_contention(found: Contention) -> str:
    """The scorer's speed alone and beside a retraining, in words."""
    verdict = "met" if found.ratio >= contention.LEAST_RATIO else "missed"
    trained = statistics.median(found.trained)
    return (
        f"throughput: {statistics.median(found.alone):,.0f} items a second alone, "
        f"{statistics.median(found.beside):,.0f} beside a retraining (one thread, niceness 19) on {found.cores} "
        f"cores, medians of {len(found.alone)} turns: ratio {found.ratio:.2f}, to be >= "
        f"{contention.LEAST_RATIO:.2f}: {verdict}; the retraining had {trained:.0%} of a core meanwhile"
    )


def _named(data: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the names of their labels, empty where there is none."""
    named = {task: rows[task].map(dict(enumerate(labels)) | {MISSING: ""}) for task, labels in data.tasks.items()}
    return rows[["text"]].assign(**named)


def main(
    *,
    champion: Annotated[Path, typer.Option(help="folder of a model that was trained without SEntFiN's headlines")],
    output: Annotated[Path, typer.Option(help="folder for a monitor a case, and for trial.json")],
    data: Annotated[Path | None, typer.Option(help="folder of the public sets; unset: MONITOR_DATA")] = None,
    case: Annotated[str, typer.Option(help=f"one of {', '.join(get_args(Case))}")] = "all",
    headlines: Annotated[int | None, typer.Option(min=15, help="read so many headlines, not all")] = None,
    seed: Annotated[int, typer.Option(help="of which headlines are labelled, and their order")] = 20,
    live_items: Annotated[
        int, typer.Option(min=1, help="items that both models score before a promotion, and after it")
    ] = _LIVE_ITEMS,
    turns: Annotated[int, typer.Option(min=1, help="of throughput")] = 5,
    turn_s: Annotated[float, typer.Option(min=0, help="seconds of a turn")] = 10.0,
) -> None:
    """Hold the cases, print how each went, and exit 1 if one did not go as it is to."""
    try:
        if case not in get_args(Case):
            raise Misuse(f"--case: {case!r} is none of {', '.join(get_args(Case))}")
        options = Options(
            champion=champion.resolve(),
            output=output.resolve(),
            data=data or dataset.default_folder(),
            headlines=headlines,
            seed=seed,
            live_items=live_items,
            turns=turns,
            turn_s=turn_s,
        )
        trial = Trial(options, datetime.now(UTC))
        found: dict[str, Any] = {"champion": str(champion), "seed": seed, "headlines": headlines}
        wrong = 0
        cases: Sequence[Any] = [*get_args(Judged), "throughput"] if case == "all" else [case]
        for one in cases:
            if one == "throughput":
                measured = trial.throughput()
                wrong += measured.ratio < contention.LEAST_RATIO
                found[one] = asdict(measured) | {"ratio": measured.ratio}
                typer.echo(told_of_contention(measured))
            else:
                result = trial.hold(one)
                wrong += not result.as_expected
                found[one] = asdict(result)
                typer.echo(told(result))
            documents.replace(output, {RESULT: (json.dumps(found, indent=2) + "\n").encode()})
    except Misuse as error:
        typer.echo(f"trial: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, DatasetError, RuntimeError) as error:
        typer.echo(f"trial: {error}", err=True)
        raise typer.Exit(1) from error
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
