"""Train the tasks together and each alone, with the same budget and several seeds: `python -m pipelines.compare`.

What comes out, DIR/comparison.json, is for `python -m pipelines.evaluate --comparison`. A killed run goes on.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from pydantic import JsonValue

from monitor.config import ModelSettings
from monitor.estimates import Estimate
from monitor.model import checkpoint
from monitor.model.encoder import CheckpointError
from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, Scorer, open_scorer
from pipelines import dataset, options
from pipelines.calibration import expected_calibration_error, fit_temperature, reliability, with_temperature
from pipelines.dataset import Dataset
from pipelines.learning import adapters, fit
from pipelines.options import Options
from pipelines.scores import bootstrap, by_label, confusion

_RESAMPLES: Final = 1_000


@dataclass(frozen=True)
class Plan:
    """One model to train.

    Attributes:
        tasks: what it learns.
        share: of the sentiment labels that it learns from.
        with_headlines: whether SEntFiN's headlines are among its texts; if not, it is also measured on them, which
            are then of a domain that it never saw.
    """

    tasks: tuple[str, ...]
    seed: int
    share: float = 1.0
    with_headlines: bool = True

    @property
    def name(self) -> str:
        """Of its folder."""
        without = "" if self.with_headlines else "-without-headlines"
        return f"{'+'.join(self.tasks)}-{self.share:g}-{self.seed}{without}"


def plans(tasks: Sequence[str], seeds: Sequence[int], shares: Sequence[float]) -> Iterator[Plan]:
    """Every model that the comparison needs, those of the first seed first, so that all ways can soon be seen."""
    for seed in seeds:
        for share in sorted(shares, reverse=True):
            yield Plan(tuple(tasks), seed, share)
            for task in tasks:
                if share == 1 or task == SENTIMENT:
                    yield Plan((task,), seed, share)
        for learned in (tuple(tasks), (SENTIMENT,)):
            yield Plan(learned, seed, with_headlines=False)


def restricted(data: Dataset, plan: Plan) -> Dataset:
    """The rows of `data` with a label of the plan's tasks; of train, only a share keeps its sentiment label."""

    def rows_of(rows: pd.DataFrame) -> pd.DataFrame:
        kept = rows[["text", *plan.tasks]]
        return kept[kept[list(plan.tasks)].ne(MISSING).any(axis=1)].reset_index(drop=True)

    train = data.train
    if plan.share < 1 and SENTIMENT in plan.tasks:
        train = train.copy()
        labelled = train.index[train[SENTIMENT].ne(MISSING)]
        lost = np.random.default_rng(plan.seed).permutation(labelled)[round(plan.share * len(labelled)) :]
        train.loc[lost, SENTIMENT] = MISSING
    return replace(
        data,
        tasks={task: data.tasks[task] for task in plan.tasks},
        train=rows_of(train),
        development=rows_of(data.development),
        validation={task: data.validation[task] for task in plan.tasks},
        sha256={**data.sha256, "set": f"{data.sha256['set']}-{plan.name}"},
    )


def run(
    plan: Plan, data: Dataset, folder: Path, options: Options, headlines: pd.DataFrame | None = None
) -> dict[str, JsonValue]:
    """Train the plan's model in `folder` and measure it in fp32 on its tasks' validation rows; done once, kept.

    Args:
        headlines: other texts with a sentiment, to measure it on as well.
    """
    result = folder / "result.json"
    if result.exists():
        kept: dict[str, JsonValue] = json.loads(result.read_text(encoding="utf-8"))
        return kept
    chosen = replace(options, seed=plan.seed, teachers=())
    part = restricted(data, plan)
    started = time.monotonic()
    network = fit(part, folder / "run", chosen)
    seconds = round(time.monotonic() - started, 1)
    checkpoint.save(
        folder,
        network,
        part.tasks,
        encoder=chosen.encoder,
        lora=adapters(chosen),
        frozen=() if chosen.lora_rank else chosen.frozen,
        max_tokens=chosen.max_tokens,
        trained_on=datetime.now(UTC).date(),
        training={},
    )
    outcome: dict[str, JsonValue] = {
        "name": "joint" if len(plan.tasks) > 1 else "single",
        "tasks": list(plan.tasks),
        "seed": plan.seed,
        "share": plan.share,
        "weighting": chosen.weighting,
        "sharing": chosen.sharing,
        "metrics": measured(folder, part),
        "headlines": None if headlines is None else measured_on(folder, headlines),
        "seconds": seconds,
    }
    _write(result, outcome)
    return outcome


def measured(folder: Path, part: Dataset) -> dict[str, JsonValue]:
    """By task, how right the checkpoint in `folder` is on the validation rows, and how far it can be believed: as it
    is, and with a temperature fitted to the development rows."""
    scorer = _scorer(folder)
    development = scorer.predict(part.development["text"].tolist())
    metrics: dict[str, JsonValue] = {}
    for task, labels in part.tasks.items():
        rows = part.validation[task]
        wanted, probs = rows[task].to_numpy(), scorer.predict(rows["text"].tolist())[task]
        known = part.development[task].to_numpy()
        labelled = known != MISSING
        temperature = fit_temperature(np.log(development[task][labelled] + 1e-30), known[labelled])
        given = probs.argmax(1)
        metrics[task] = {
            **_scores(rows, task, probs),
            "calibration": {
                "before": _calibration(probs, wanted),
                "after": _calibration(with_temperature(probs, temperature), wanted),
            },
            "f1": {label: round(row["f1"], 4) for label, row in by_label(wanted, given, labels).items()},
            "confusion": confusion(wanted, given, len(labels)).tolist(),
        }
    return metrics


def measured_on(folder: Path, headlines: pd.DataFrame) -> dict[str, JsonValue]:
    """How right the checkpoint in `folder` is of the sentiment of these texts."""
    probs = _scorer(folder).predict(headlines["text"].tolist())[SENTIMENT]
    return _scores(headlines, SENTIMENT, probs)


def _scorer(folder: Path) -> Scorer:
    settings = ModelSettings(path=str(folder), backend="torch", device="cpu", precision="fp32", cache_items=0)
    return open_scorer(settings, any_tasks=True)


def _scores(rows: pd.DataFrame, task: str, probs: NDArray[np.floating]) -> dict[str, JsonValue]:
    drawn = bootstrap(
        rows[task].to_numpy(),
        probs,
        rows["text"].str.casefold().tolist(),
        resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return {"rows": len(rows), "accuracy": _estimate(drawn.accuracy), "macro_f1": _estimate(drawn.macro_f1)}


def _estimate(found: Estimate) -> dict[str, JsonValue]:
    return {name: round(value, 4) for name, value in asdict(found).items()}


def _calibration(probs: NDArray[np.floating], wanted: NDArray[np.integer]) -> dict[str, JsonValue]:
    confidence, correct = probs.max(1).astype(np.float64), probs.argmax(1) == wanted
    bins: list[JsonValue] = [asdict(part) for part in reliability(confidence, correct)]
    return {"error": round(expected_calibration_error(confidence, correct), 4), "bins": bins}


def _write(path: Path, content: Mapping[str, JsonValue]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def main(
    *,
    output: Annotated[Path, typer.Option(help="folder for the models and comparison.json; a killed run goes on")],
    data: Annotated[Path | None, typer.Option(help="folder of the public sets; unset: MONITOR_DATA")] = None,
    options_file: Annotated[Path | None, typer.Option("--options", help="TOML file of options of every run")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over each model's own training rows")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="models of each kind")] = 3,
    shares: Annotated[str, typer.Option(help="shares of the sentiment labels, separated by commas")] = "0.1,0.3,1",
) -> None:
    """Train the tasks together and each alone, and write what each reaches on the validation sets."""
    try:
        chosen = options.read(options_file, {} if epochs is None else {"epochs": epochs})
        try:
            wanted_shares = [float(share) for share in shares.split(",")]
        except ValueError as error:
            raise ValueError(f"--shares: {shares!r} is no list of numbers like 0.1,0.3,1") from error
        if any(not 0 < share <= 1 for share in wanted_shares):
            raise ValueError(f"--shares: {shares!r}, expected numbers above 0 and at most 1")
        sets = data or dataset.default_folder()
        labelled = dataset.load(sets, seed=chosen.seed)
        plain = dataset.load(sets, seed=chosen.seed, with_headlines=False)
        titles = dataset.headlines(sets, labelled.tasks)
        todo = list(plans(list(labelled.tasks), range(1, seeds + 1), wanted_shares))
        runs: list[JsonValue] = []
        for number, plan in enumerate(todo, 1):
            folder = output / plan.name
            if plan.with_headlines:
                outcome: Any = run(plan, labelled, folder, chosen)
            else:
                outcome = run(plan, plain, folder, chosen, titles)
            runs.append(outcome)
            settings = {**chosen.plain(), "data_sha256": labelled.sha256["set"]}
            _write(output / "comparison.json", {"settings": settings, "runs": runs})
            said = ", ".join(f"{task} {scores['accuracy']['value']}" for task, scores in outcome["metrics"].items())
            typer.echo(f"{number} of {len(todo)}: {plan.name}: {said}, {outcome['seconds']} s")
    except (CheckpointError, ValueError) as error:
        typer.echo(f"compare: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
