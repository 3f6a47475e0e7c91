"""Train a model on every task at once and write it as a checkpoint: `python -m pipelines.train --output DIR`."""

import logging
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from pydantic import JsonValue
from sklearn.metrics import f1_score

from monitor.config import ModelSettings
from monitor.model import checkpoint, quantize
from monitor.model.checkpoint import ModelInfo
from monitor.model.encoder import CheckpointError
from monitor.model.network import MISSING
from monitor.model.scorer import open_scorer
from pipelines import dataset, options
from pipelines.calibration import fit_temperature
from pipelines.dataset import Dataset
from pipelines.learning import adapters, fit, is_first_process
from pipelines.options import Options

RUN: Final = "run"
"""The folder in a checkpoint's that holds what training needs to go on after a kill."""

_OBSERVED_TEXTS: Final = 2_000


def train(
    data: Dataset, output: Path, options: Options, trained_on: date, report_to: tuple[str, ...] = ()
) -> ModelInfo | None:
    """Fit a model, write it to `output` as a checkpoint, calibrate it, and measure it as it is read back.

    What the run needs to go on after a kill stays in `output`/run. Under `torchrun`, the first process writes, and
    for the others there is nothing to return.

    Raises:
        CheckpointError: the encoder, or the checkpoint to start from, cannot be used.
        ValueError: `output` holds a run with other options or data, or an option cannot be had here.
    """
    if learn(data, output, options, trained_on, report_to) is None:
        return None
    return calibrate(data, output, options)


def learn(
    data: Dataset, output: Path, options: Options, trained_on: date, report_to: tuple[str, ...] = ()
) -> ModelInfo | None:
    """Fit a model and write it to `output` as a checkpoint that is not calibrated yet; else as `train`."""
    network = fit(data, output / RUN, options, report_to)
    if not is_first_process():
        return None
    return checkpoint.save(
        output,
        network,
        data.tasks,
        encoder=options.encoder,
        lora=adapters(options),
        frozen=() if options.lora_rank else options.frozen,
        max_tokens=options.max_tokens,
        trained_on=trained_on,
        training={
            "options": options.plain(),
            "data_sha256": dict(data.sha256),
            "rows": {"train": len(data.train), "development": len(data.development)},
            "removed_from_train": dict(data.removed),
        },
    )


def calibrate(data: Dataset, output: Path, options: Options) -> ModelInfo:
    """Calibrate what `learn` wrote to `output`, and measure it.

    Calibrated means two things here, both on the development set: a temperature for each task, so that a probability
    tells how often the answer is right, and the ranges of the encoder's activations, so that it can run in int8.
    """
    saved = checkpoint.read(output)
    texts = data.development["text"].sample(frac=1, random_state=options.seed)[:_OBSERVED_TEXTS].tolist()
    info = checkpoint.add_ranges(saved, quantize.observe(checkpoint.load_network(saved), saved, texts))
    info = replace(info, temperatures=_temperatures(output, data))
    checkpoint.write_info(output, info)
    info = replace(info, metrics=measure(output, data))
    checkpoint.write_info(output, info)
    return info


def _temperatures(folder: Path, data: Dataset) -> dict[str, float]:
    """By task, fitted on the development set to the checkpoint in `folder`, which has none yet."""
    scorer = open_scorer(_settings(folder, "fp32"), any_tasks=True)
    probs = scorer.predict(data.development["text"].tolist())
    temperatures = {}
    for task in data.tasks:
        labels = data.development[task].to_numpy()
        labelled = labels != MISSING
        temperatures[task] = round(fit_temperature(np.log(probs[task][labelled] + 1e-30), labels[labelled]), 4)
    return temperatures


def measure(folder: Path, data: Dataset) -> dict[str, JsonValue]:
    """The checkpoint in `folder`, run as it runs without a GPU, on the development set and on each task's validation
    set: accuracy, macro-F1 and F1 by label. `pipelines.evaluate` says more."""
    scorer = open_scorer(_settings(folder, "auto"), any_tasks=True)
    metrics: dict[str, JsonValue] = {"backend": scorer.backend}
    for task, labels in data.tasks.items():
        labelled = data.development[data.development[task].ne(MISSING)]
        for name, rows in (("development", labelled), ("validation", data.validation[task])):
            given = scorer.predict(rows["text"].tolist())[task].argmax(1)
            wanted = rows[task].to_numpy()
            f1 = f1_score(wanted, given, labels=range(len(labels)), average=None, zero_division=0.0)
            support = np.bincount(wanted, minlength=len(labels))
            metrics[f"{name}_{task}"] = {
                "rows": len(wanted),
                "accuracy": round(float((wanted == given).mean()), 4),
                "macro_f1": round(float(f1[support > 0].mean()), 4),
                "by_label": {
                    label: {"f1": round(float(label_f1), 4), "rows": int(texts)}
                    for label, label_f1, texts in zip(labels, f1, support, strict=True)
                },
            }
    metrics["note"] = "texts of the validation sets were removed from train; URLs are stripped everywhere"
    return metrics


def _settings(folder: Path, precision: str) -> ModelSettings:
    backend = "torch" if precision == "fp32" else "onnx"
    return ModelSettings(path=str(folder), backend=backend, device="cpu", precision=precision)  # type: ignore[arg-type]


def main(
    *,
    output: Annotated[Path, typer.Option(help="folder to write the checkpoint to; a killed run goes on from it")],
    data: Annotated[
        Path | None,
        typer.Option(help="your own CSV or JSON Lines, or the folder of the public sets; unset: MONITOR_DATA"),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="labelled file to measure on; unset: cut out of --data")
    ] = None,
    options_file: Annotated[Path | None, typer.Option("--options", help="TOML file of options")] = None,
    encoder: Annotated[str | None, typer.Option(help="`minilm`, a folder, or a Hugging Face hub name")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over the training set, at most")] = None,
    batch_size: Annotated[int | None, typer.Option(help="texts a step")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="highest learning rate of the encoder")] = None,
    seed: Annotated[int | None, typer.Option(help="of the split, the initial heads and the order")] = None,
    report_to: Annotated[list[str] | None, typer.Option(help="`tensorboard` or `wandb`; may be given twice")] = None,
) -> None:
    """Train a model on labelled texts and write it as a checkpoint."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)
    flags = {
        "encoder": encoder,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    try:
        chosen = options.read(options_file, {key: value for key, value in flags.items() if value is not None})
        source = data or dataset.default_folder()
        if source.is_dir():
            labelled = dataset.load(source, seed=chosen.seed)
        else:
            wanted = {name: task.labels for name, task in chosen.tasks.items() if task.labels}
            labelled = dataset.load_table(source, validation, labels=wanted, seed=chosen.seed)
        if is_first_process():
            for reason, rows in labelled.removed.items():
                typer.echo(f"left out {rows:,} rows, {reason}")
            typer.echo(f"{len(labelled.train):,} texts to train on, {len(labelled.development):,} for development")
        info = train(labelled, output, chosen, datetime.now(UTC).date(), tuple(report_to or ()))
    except (CheckpointError, ValueError) as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(1) from error
    if info is None:
        return
    typer.echo(f"{info.version} is in {output}; on the validation sets:")
    for task in labelled.tasks:
        scores: Any = info.metrics[f"validation_{task}"]
        typer.echo(f"{task}: accuracy {scores['accuracy']}, macro-F1 {scores['macro_f1']}, {scores['rows']:,} rows")


if __name__ == "__main__":
    typer.run(main)
