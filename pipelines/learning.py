"""Fitting a network to a set of labelled texts with the Hugging Face Trainer."""

import json
import logging
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from monitor.config import ModelSettings
from monitor.model import checkpoint
from monitor.model.encoder import Lora, add_adapters, encoder_sha256, find_encoder, load_encoder, read_pad_id
from monitor.model.network import MISSING, MultiTaskNetwork
from monitor.model.scorer import open_scorer
from monitor.model.text import open_tokenizer, pad
from pipelines.augmentation import Dress, dresses
from pipelines.dataset import Dataset
from pipelines.objective import Objective
from pipelines.options import Options

log = logging.getLogger(__name__)


def fit(data: Dataset, folder: Path, options: Options, report_to: Sequence[str] = ()) -> MultiTaskNetwork:
    """The network of the best development score; a run that was killed goes on from its last save in `folder`.

    Under `torchrun`, every process trains on its share of each batch; all return the same network.

    Args:
        report_to: where the Trainer shall report to as well, e.g. `tensorboard` or `wandb`.

    Raises:
        CheckpointError: the encoder, or the checkpoint to start from, cannot be used.
        ValueError: `folder` holds a run with other options or data, or an option or reporter cannot be had here.
    """
    _claim(folder, data, options)
    set_seed(options.seed)
    encoder_folder = find_encoder(options.encoder)
    tokenizer = open_tokenizer(encoder_folder / "tokenizer.json", options.max_tokens)
    encoder = load_encoder(encoder_folder, options.attention_dropout)
    network = MultiTaskNetwork(encoder, data.tasks, options.sharing, options.dropout)
    if lora := adapters(options):
        add_adapters(network, lora, options.dropout)
    else:
        _freeze(encoder, options.frozen)
    if options.start:
        _begin_with(checkpoint.read(options.start), network, data, options)
    pad_id = read_pad_id(encoder_folder)
    objective = Objective(
        network,
        options.weights(),
        weighting=options.weighting,
        label_smoothing=options.label_smoothing,
        teacher_share=options.teacher_share if options.teachers else 0.0,
        average_decay=options.average_decay,
    )
    taught = _taught(data, options, folder) if options.teachers else None

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        input_ids, attention_mask = pad([row["input_ids"] for row in rows], pad_id)
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
        }
        if "taught" in rows[0]:
            batch["taught"] = torch.from_numpy(np.stack([row["taught"] for row in rows]))
        return batch

    def measure(predicted: EvalPrediction) -> dict[str, float]:
        logits = predicted.predictions if isinstance(predicted.predictions, tuple) else (predicted.predictions,)
        return _development_scores(list(data.tasks), logits, np.asarray(predicted.label_ids))

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and options.conflicts:
        raise ValueError(f"conflicts: {options.conflicts!r} works in one process, this is one of {processes}")
    steps_per_epoch = -(-len(data.train) // (options.batch_size * options.accumulate * processes))
    steps_between = max(1, steps_per_epoch // options.evaluations_per_epoch)
    on_cpu = not torch.cuda.is_available()
    try:
        trainer = _Trainer(
            model=objective,
            args=TrainingArguments(
                output_dir=str(folder),
                num_train_epochs=options.epochs,
                per_device_train_batch_size=options.batch_size,
                per_device_eval_batch_size=4 * options.batch_size,
                gradient_accumulation_steps=options.accumulate,
                learning_rate=options.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=options.warmup_share,
                weight_decay=options.weight_decay,
                max_grad_norm=options.max_grad_norm,
                bf16=options.precision == "bf16" or (options.precision == "auto" and _has_bf16()),
                use_cpu=on_cpu,
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
                dataloader_pin_memory=not on_cpu,
                ddp_backend="gloo" if on_cpu and processes > 1 else None,
                ddp_broadcast_buffers=False,  # each process adds up the losses of its own share
                report_to=list(report_to) or "none",
                disable_tqdm=not sys.stderr.isatty(),
            ),
            data_collator=collate,
            train_dataset=_Rows(data.train, tokenizer, options, taught),
            eval_dataset=_Rows(data.development, tokenizer),
            compute_metrics=measure,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=options.patience), _Steps()],
        )
    except (RuntimeError, ImportError) as error:
        raise ValueError(f"training cannot start: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)  # without a bar; standard output may be anything's
    trainer.options = options
    trainer.aggregator = _aggregator(options.conflicts)
    trainer.train(resume_from_checkpoint=last_save(folder))
    return objective.finish()


def _begin_with(start: checkpoint.Checkpoint, network: MultiTaskNetwork, data: Dataset, options: Options) -> None:
    """Give the network the weights of a checkpoint, if what is trained and stored of it is the same in both."""
    info, frozen = start.info, () if options.lora_rank else options.frozen
    same = {
        "tasks": (dict(info.tasks), dict(data.tasks)),
        "encoder": (info.encoder_sha256, encoder_sha256(find_encoder(options.encoder))),
        "sharing": (info.sharing, options.sharing),
        "adapters": (info.lora, adapters(options)),
        "frozen": (set(info.frozen), set(frozen)),
    }
    for what, (theirs, ours) in same.items():
        if theirs != ours:
            raise ValueError(
                f"start: {start.folder} has {what} {theirs!s:.200}, the options and data have {ours!s:.200}; begin "
                "with a checkpoint that was trained in the same way, or leave start out"
            )
    checkpoint.load_weights(start, network)


def _taught(data: Dataset, options: Options, folder: Path) -> NDArray[np.float16]:
    """What the teachers, on average, say of each text of train: (texts, labels of all tasks side by side)."""
    kept = folder / "taught.npy"
    if kept.exists():
        return np.load(kept)  # type: ignore[no-any-return]
    total = np.zeros((len(data.train), sum(map(len, data.tasks.values()))), np.float32)
    for teacher in options.teachers:
        settings = ModelSettings(path=teacher, device="cpu", precision="fp32", cache_dir=folder, cache_items=0)
        found = checkpoint.read(teacher).info.tasks
        if found != data.tasks:
            raise ValueError(f"teachers: {teacher} knows {dict(found)}, the data has {dict(data.tasks)}")
        probs = open_scorer(settings, any_tasks=True).predict(data.train["text"].tolist())
        total += np.concatenate([probs[task] for task in data.tasks], axis=1) / len(options.teachers)
    taught = total.astype(np.float16)
    part = kept.with_suffix(f".{os.getpid()}.npy")
    np.save(part, taught)
    part.replace(kept)
    return taught


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a set as token ids and labels; with `options`, some are shown in another dress each time."""

    def __init__(
        self,
        rows: pd.DataFrame,
        tokenizer: Tokenizer,
        options: Options | None = None,
        taught: NDArray[np.float16] | None = None,
    ) -> None:
        self._taught = taught
        self._labels = rows.drop(columns="text").to_numpy(dtype=np.int64)
        texts = rows["text"].tolist()
        shown = [Dress(1.0, texts)]
        if options:
            shown = list(
                dresses(
                    texts,
                    plain_share=options.plain_share,
                    varied_share=options.varied_share,
                    wired_share=options.wired_share,
                    body_share=options.body_share,
                    seed=options.seed,
                )
            )
        self._shares = [dress.share for dress in shown]
        self._token_ids = [_token_ids(tokenizer, dress.texts) for dress in shown]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # The module's own generator: the Trainer seeds it, and restores it when training resumes.
        dice, dress = random.random(), 0
        while dice >= self._shares[dress] and dress < len(self._shares) - 1:
            dice -= self._shares[dress]
            dress += 1
        row = {"input_ids": self._token_ids[dress][index], "labels": self._labels[index]}
        return row if self._taught is None else row | {"taught": self._taught[index]}


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


class _Trainer(Trainer):
    options: Options
    aggregator: Any

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with two learning rates, the encoder's and that of the rest; biases and scales do not decay."""
        if self.optimizer is None:
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, values in _objective(self.model).named_parameters():  # type: ignore[arg-type]
                if values.requires_grad:
                    groups.setdefault((".encoder." in f".{name}", values.ndim > 1), []).append(values)
            options = self.options
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": values,
                        "lr": options.learning_rate if of_encoder else options.head_learning_rate,
                        "weight_decay": options.weight_decay if decays else 0.0,
                    }
                    for (of_encoder, decays), values in groups.items()
                ],
                fused=True,
            )
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """With an aggregator, the encoder gets a gradient that harms no task, instead of the sum of the tasks'."""
        if self.aggregator is None:
            return super().training_step(model, inputs, num_items_in_batch)
        from torchjd.autojac import jac_to_grad, mtl_backward

        model.train()
        inputs = self._prepare_inputs(inputs)
        objective = _objective(model)
        with self.accelerator.autocast():
            pooled = objective.network.encode(inputs["input_ids"], inputs["attention_mask"])
            logits = objective.network.decide(pooled)
        losses = objective.losses(logits, inputs["labels"], inputs.get("taught"))
        losses = objective.weighed(losses, inputs["labels"])
        losses = losses / self.options.accumulate
        shared = [values for values in objective.network.encoder.parameters() if values.requires_grad]
        mtl_backward(list(losses), features=pooled, shared_params=shared, retain_graph=True, parallel_chunk_size=1)
        jac_to_grad(shared, self.aggregator)
        return losses.detach().sum()


class _Steps(TrainerCallback):
    """Tells the objective when the weights have changed, and when an epoch ends, and the log how it goes."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        _objective(given["model"]).average(state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        _objective(given["model"]).end_epoch()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **given: Any,
    ) -> None:
        if state.is_world_process_zero:
            figures = ", ".join(f"{name} {value}" for name, value in (logs or {}).items())
            log.info("step %d of %d: %s", state.global_step, state.max_steps, figures)


def _objective(model: nn.Module) -> Objective:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model  # type: ignore[return-value]


def _aggregator(name: str | None) -> Any:
    if name is None:
        return None
    try:
        from torchjd.aggregation import PCGrad, UPGrad
    except ImportError as error:
        raise ValueError(f"conflicts: {name!r} needs the package torchjd ({error}); pip install torchjd") from error
    return {"upgrad": UPGrad, "pcgrad": PCGrad}[name]()


def _has_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _freeze(encoder: nn.Module, parts: Sequence[str]) -> None:
    for part in parts:
        try:
            encoder.get_submodule(part).requires_grad_(False)
        except AttributeError as error:
            found = ", ".join(name for name, _ in encoder.named_children())
            raise ValueError(f"frozen: the encoder has no part {part!r}, it has {found}") from error


def _development_scores(
    tasks: Sequence[str], logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]
) -> dict[str, float]:
    """By task, accuracy and macro-F1 on the rows that carry its label; `score` is the mean of them all."""
    scores: dict[str, float] = {}
    for column, task in enumerate(tasks):
        labelled = labels[:, column] != MISSING
        wanted, given = labels[labelled, column], logits[column][labelled].argmax(1)
        scores[f"{task}_accuracy"] = float((wanted == given).mean())
        scores[f"{task}_macro_f1"] = float(f1_score(wanted, given, average="macro"))
    scores["score"] = float(np.mean(list(scores.values())))
    return scores


def adapters(options: Options) -> Lora | None:
    """The adapters that the options ask for; None where the encoder's own weights are trained."""
    if not options.lora_rank:
        return None
    return Lora(options.lora_rank, alpha=options.lora_rank, targets=options.lora_targets)


def last_save(folder: Path) -> str | None:
    """The newest save of a run; one that a kill cut short lacks the file that the Trainer writes last."""
    for save in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((save / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(save)
    return None


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints, where `torchrun` started several."""
    return os.environ.get("RANK", "0") == "0"


def _claim(folder: Path, data: Dataset, options: Options) -> None:
    """Note what is trained in `folder`, or check that it is the same as before."""
    wanted = json.dumps({"options": options.plain(), "data": data.sha256["set"]}, indent=2)
    note = folder / "options.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        if is_first_process():
            note.write_text(wanted, encoding="utf-8")
    elif note.read_text(encoding="utf-8") != wanted:
        raise ValueError(f"{folder}: holds a run with other options or data; remove it or give another --output")
