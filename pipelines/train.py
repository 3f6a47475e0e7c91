"""Train a model on every task at once and write it as a checkpoint: `python -m pipelines.train --output DIR`."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.metrics import f1_score
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from monitor.config import ModelSettings
from monitor.model import checkpoint
from monitor.model.checkpoint import Lora, ModelInfo
from monitor.model.network import MISSING, MultiTaskNetwork, joint_loss
from monitor.model.scorer import open_scorer
from monitor.model.text import open_tokenizer, pad
from pipelines import dataset
from pipelines.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is trained. The defaults made the shipped one.

    Attributes:
        encoder: `minilm`, a folder, or a name on the Hugging Face hub.
        lora_rank: rank of the adapters; 0 trains the whole encoder.
        lora_targets: names of the encoder's layers that get an adapter.
        warmup_share: share of the steps over which the learning rate rises; it falls to 0 over the rest.
        patience: evaluations without a better development score after which training stops.
        task_weights: factors of the tasks' losses. Topics are the harder task, with 20 classes; without a weight the
            encoder serves sentiment at their expense.
        plain_share: how often a text that begins with ticker symbols is shown without them, so that plain
            headlines are not strange to the model.
    """

    encoder: str = "minilm"
    lora_rank: int = 32
    lora_targets: tuple[str, ...] = ("query", "key", "value", "dense")
    max_tokens: int = 128
    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 8e-4
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float = 0.1
    evaluations_per_epoch: int = 2
    patience: int = 4
    task_weights: Mapping[str, float] = field(default_factory=lambda: {"topic": 2.5})
    plain_share: float = 0.3
    seed: int = 20


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a set as token ids and labels; with `plain_share`, ticker symbols in front are sometimes dropped."""

    def __init__(self, rows: pd.DataFrame, tokenizer: Tokenizer, plain_share: float = 0.0) -> None:
        texts = rows["text"].tolist()
        self._token_ids = _token_ids(tokenizer, texts)
        self._plain_ids = _token_ids(tokenizer, [_plain(text) for text in texts])
        self._labels = rows.drop(columns="text").to_numpy(dtype=np.int64)
        self._plain_share = plain_share

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # The module's own generator: the Trainer seeds it, and restores it when training resumes.
        plain = random.random() < self._plain_share
        token_ids = self._plain_ids if plain else self._token_ids
        return {"input_ids": token_ids[index], "labels": self._labels[index]}


_TICKERS = re.compile(r"^(?:\$[A-Za-z.]{1,6}\b[\s,]*)+(?:[-:\u2013\u2014]\s*)?")


def _plain(text: str) -> str:
    return _TICKERS.sub("", text) or text


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


class _JointTrainer(Trainer):
    task_weights: Mapping[str, float]

    def compute_loss(  # type: ignore[override]
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        labels = inputs.pop("labels")
        logits: dict[str, Tensor] = model(**inputs)
        loss = joint_loss(logits, labels, self.task_weights)
        return (loss, {"loss": loss, **logits}) if return_outputs else loss


def fit(data: Dataset, folder: Path, options: Options) -> MultiTaskNetwork:
    """The network of the best development score; a run that was killed goes on from its last save in `folder`.

    Raises:
        CheckpointError: the encoder cannot be used.
        ValueError: `folder` holds a run with other options or data.
    """
    _claim(folder, data, options)
    set_seed(options.seed)
    encoder_folder = checkpoint.find_encoder(options.encoder)
    tokenizer = open_tokenizer(encoder_folder / "tokenizer.json", options.max_tokens)
    encoder = checkpoint.load_encoder(encoder_folder)
    network = MultiTaskNetwork(encoder, data.tasks, options.dropout)
    if lora := _lora(options):
        checkpoint.add_adapters(network, lora, options.dropout)
    pad_id = checkpoint.read_pad_id(encoder_folder)

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        input_ids, attention_mask = pad([row["input_ids"] for row in rows], pad_id)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
        }

    def measure(predicted: EvalPrediction) -> dict[str, float]:
        logits = predicted.predictions if isinstance(predicted.predictions, tuple) else (predicted.predictions,)
        return _development_scores(list(data.tasks), logits, np.asarray(predicted.label_ids))

    steps_per_epoch = -(-len(data.train) // options.batch_size)
    steps_between = max(1, steps_per_epoch // options.evaluations_per_epoch)
    trainer = _JointTrainer(
        model=network,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=4 * options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=options.warmup_share,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=steps_between,
            save_strategy="steps",
            save_steps=steps_between,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
            restore_callback_states_from_checkpoint=True,  # else a resumed run forgets its patience
            logging_steps=min(50, steps_between),
            seed=options.seed,
            label_names=["labels"],
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        ),
        data_collator=collate,
        train_dataset=_Rows(data.train, tokenizer, options.plain_share),
        eval_dataset=_Rows(data.development, tokenizer),
        compute_metrics=measure,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=options.patience)],
    )
    trainer.task_weights = options.task_weights
    trainer.train(resume_from_checkpoint=_last_save(folder))
    return network


def train(data: Dataset, output: Path, options: Options, trained_on: date) -> ModelInfo:
    """Fit a model, write it to `output` as a checkpoint, and measure it on the validation sets as it is read back.

    What the run needs to go on after a kill stays in `output`/run.

    Raises:
        CheckpointError: the encoder cannot be used.
        ValueError: `output` holds a run with other options or data.
    """
    network = fit(data, output / "run", options)
    info = checkpoint.save(
        output,
        network,
        data.tasks,
        encoder=options.encoder,
        lora=_lora(options),
        max_tokens=options.max_tokens,
        trained_on=trained_on,
        training={
            "options": {**asdict(options), "lora_targets": list(options.lora_targets)},
            "data_sha256": dict(data.sha256),
            "rows": {"train": len(data.train), "development": len(data.development)},
            "removed_from_train": dict(data.removed),
        },
    )
    info = replace(info, metrics=measure(output, data))
    checkpoint.write_info(output, info)
    return info


def measure(folder: Path, data: Dataset) -> dict[str, JsonValue]:
    """The checkpoint in `folder`, run in fp32, on the development set and on each task's validation set."""
    scorer = open_scorer(ModelSettings(path=str(folder), backend="torch", device="cpu"))
    metrics: dict[str, JsonValue] = {}
    for task, labels in data.tasks.items():
        labelled = data.development[data.development[task].ne(MISSING)]
        for name, rows in (("development", labelled), ("validation", data.validation[task])):
            given = scorer.predict(rows["text"].tolist())[task].argmax(1)
            metrics[f"{name}_{task}"] = _scores(rows[task].to_numpy(), given, labels)
    metrics["note"] = "texts of the validation sets were removed from train; URLs are stripped everywhere"
    return metrics


def _scores(wanted: NDArray[np.int64], given: NDArray[np.int64], labels: Sequence[str]) -> dict[str, JsonValue]:
    f1 = f1_score(wanted, given, labels=range(len(labels)), average=None, zero_division=0.0)
    support = np.bincount(wanted, minlength=len(labels))
    return {
        "rows": len(wanted),
        "accuracy": round(float((wanted == given).mean()), 4),
        "macro_f1": round(float(f1[support > 0].mean()), 4),
        "by_label": {
            label: {"f1": round(float(label_f1), 4), "rows": int(rows)}
            for label, label_f1, rows in zip(labels, f1, support, strict=True)
        },
    }


def _development_scores(
    tasks: Sequence[str], logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]
) -> dict[str, float]:
    """By task, accuracy and macro-F1 on the rows that carry its label; `score` is the mean of the accuracies."""
    scores: dict[str, float] = {}
    for column, task in enumerate(tasks):
        labelled = labels[:, column] != MISSING
        wanted, given = labels[labelled, column], logits[column][labelled].argmax(1)
        scores[f"{task}_accuracy"] = float((wanted == given).mean())
        scores[f"{task}_macro_f1"] = float(f1_score(wanted, given, average="macro"))
    scores["score"] = float(np.mean([scores[f"{task}_accuracy"] for task in tasks]))
    return scores


def _lora(options: Options) -> Lora | None:
    if not options.lora_rank:
        return None
    return Lora(options.lora_rank, alpha=options.lora_rank, targets=options.lora_targets)


def _last_save(folder: Path) -> str | None:
    """The newest save of a run; one that a kill cut short lacks the file that the Trainer writes last."""
    for save in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((save / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(save)
    return None


def _claim(folder: Path, data: Dataset, options: Options) -> None:
    """Note what is trained in `folder`, or check that it is the same as before."""
    wanted = json.dumps({"options": asdict(options), "data": data.sha256["set"]}, indent=2)
    note = folder / "options.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        note.write_text(wanted, encoding="utf-8")
    elif note.read_text(encoding="utf-8") != wanted:
        raise ValueError(f"{folder}: holds a run with other options or data; remove it or give another --output")


def main(
    *,
    output: Annotated[Path, typer.Option(help="folder to write the checkpoint to; a killed run goes on from it")],
    data: Annotated[Path | None, typer.Option(help="folder of the public sets; unset: MONITOR_DATA")] = None,
    encoder: Annotated[str, typer.Option(help="`minilm`, a folder, or a Hugging Face hub name")] = Options.encoder,
    lora_rank: Annotated[int, typer.Option(min=0, help="rank of the adapters; 0 trains all")] = Options.lora_rank,
    max_tokens: Annotated[int, typer.Option(min=2, help="longest text, in tokens")] = Options.max_tokens,
    epochs: Annotated[float, typer.Option(help="passes over the training set, at most")] = Options.epochs,
    batch_size: Annotated[int, typer.Option(min=1, help="texts a step")] = Options.batch_size,
    learning_rate: Annotated[float, typer.Option(help="highest learning rate")] = Options.learning_rate,
    seed: Annotated[int, typer.Option(help="of the split, the initial heads and the order")] = Options.seed,
) -> None:
    """Train a model on the public sets and write it as a checkpoint."""
    options = Options(
        encoder=encoder,
        lora_rank=lora_rank,
        max_tokens=max_tokens,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    try:
        labelled = dataset.load(data or dataset.default_folder(), seed=seed)
        for reason, rows in labelled.removed.items():
            typer.echo(f"left out {rows:,} rows, {reason}")
        typer.echo(f"{len(labelled.train):,} texts to train on, {len(labelled.development):,} for development")
        info = train(labelled, output, options, datetime.now(UTC).date())
    except (checkpoint.CheckpointError, ValueError) as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{info.version} is in {output}; on the validation sets:")
    for task in labelled.tasks:
        scores: Any = info.metrics[f"validation_{task}"]
        typer.echo(f"{task}: accuracy {scores['accuracy']}, macro-F1 {scores['macro_f1']}, {scores['rows']:,} rows")


if __name__ == "__main__":
    typer.run(main)
