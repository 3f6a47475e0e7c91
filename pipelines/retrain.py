"""Train a challenger from what people labelled, and measure it: `python -m pipelines.retrain --config FILE`.

The steps are those of `monitor.retraining`: snapshot, audit, train, calibrate, gate. Each leaves whole files in the
retraining's folder and says in the database that it is done, so that after a kill the same command goes on with the
first step that is not. What passes the gate is added to the registry of models, and the daemon takes over.
"""

import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import pandas as pd
import typer

from monitor import config
from monitor.champion import CHAMPION, describe, verify
from monitor.config import ConfigError, RetrainSettings, Settings
from monitor.database import StoreError
from monitor.model import checkpoint
from monitor.model.checkpoint import Checkpoint, file_hashes
from monitor.models import Model, PromotionConflict
from monitor.output import Misuse
from monitor.records import MonitorError
from monitor.retraining import LIVE, Retraining, Trigger
from monitor.retraining_figures import push_figures
from monitor.store import Store
from pipelines import audit, documents, options, running, selection, snapshot, train
from pipelines.options import Options
from pipelines.running import Run
from pipelines.selection import Refused
from pipelines.snapshot import Snapshot

log = logging.getLogger(__name__)

AUDIT_FILE: Final = "audit.csv"
GATE_FILE: Final = "gate.txt"
MODEL: Final = "model"
SNAPSHOT: Final = "snapshot"

_FROM_CHAMPION: Final = {"learning_rate": 5e-5, "head_learning_rate": 2e-4, "epochs": 3.0}
"""Options of training that begins with a trained model, where the file of options says nothing."""


def retrain(settings: Settings, trigger: Trigger, now: Callable[[], datetime]) -> Retraining:
    """Run a retraining, or go on with the one that was left, until it is live or has ended.

    A retraining that cannot be good ends as `refused`, one that breaks as `failed`, with a reason.

    Args:
        now: the wall clock.

    Raises:
        Misuse: the settings follow no champion, or name a reporter that is not installed.
        RetrainingRuns: another one goes on.
        LostRetraining: it was abandoned, or another process took it over.
        StoreError: the database cannot be used; the retraining waits for the next start.
    """
    if settings.model.path != CHAMPION:
        raise Misuse(
            f"model.path is {settings.model.path!r}, so no model that is trained anew would score; set model.path to "
            f'"{CHAMPION}"'
        )
    for name in settings.retrain.report_to:
        if (found := importlib.util.find_spec(name)) is None or found.origin is None:  # a folder of that name
            raise Misuse(
                f"retrain.report_to names {name!r}, which is not installed; pip install {name}, or take it out of "
                "the list"
            )
    with Store(settings.store.url) as store:
        champion = _champion(store, settings, now)
        run = running.take_up(
            store.retrainings, trigger, champion=champion, folder=settings.retrain.folder.resolve(), now=now
        )
        with run.heard():
            try:
                if run.row.outcome is None:
                    _Loop(run, store, settings, now).go_on()
            except Refused as refusal:
                run.end("refused", str(refusal))
            except StoreError:
                raise
            except Exception as error:  # whatever breaks it, the next one can be started
                log.debug("what stopped it", exc_info=error)
                known = isinstance(error, (MonitorError, ValueError))
                run.end("failed", " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}")
        push_figures(settings, store, {"instance": platform.node()})
        return run.row


class _Loop:
    """The steps of one retraining."""

    def __init__(self, run: Run, store: Store, settings: Settings, now: Callable[[], datetime]) -> None:
        self._run = run
        self._store = store
        self._settings = settings
        self._now = now
        self._folder = run.row.folder
        self._champion = store.models.get(run.row.champion)
        self._trained_here = False

    def go_on(self) -> None:
        """The steps from the one that the retraining is at."""
        verify(self._champion)
        self._folder.mkdir(parents=True, exist_ok=True)
        steps = {
            "snapshot": self._take_snapshot,
            "audit": self._audit,
            "train": self._train,
            "calibrate": self._calibrate,
            "gate": self._judge,
        }
        while (step := self._run.row.step) not in LIVE:
            self._check_champion()
            log.info("retraining %d: %s", self._run.row.number, step)
            push_figures(self._settings, self._store, {"instance": platform.node()})
            steps[step]()

    def _check_champion(self) -> None:
        newest = self._store.models.champion()
        if newest is None or newest.version != self._champion.version:
            who = f"{newest.by} promoted {newest.version}" if newest else "there is none"
            raise Refused(
                f"it began with champion {self._champion.version}, and meanwhile {who}; start another, which begins "
                "with that one"
            )

    def _take_snapshot(self) -> None:
        folder = self._folder / SNAPSHOT
        if not snapshot.exists(folder):
            taken = selection.select(
                self._store.labels.labelled(),
                self._checkpoint().info.tasks,
                self._settings.retrain,
                number=self._run.row.number,
                learned=self._learned(),
            )
            snapshot.write(folder, taken)
        taken, sha256 = snapshot.read(folder)
        for line in selection.said(taken.found):
            log.info("%s", line)
        self._run.advance(step="audit", snapshot=sha256, found={"snapshot": dict(taken.found)})

    def _learned(self) -> pd.DataFrame | None:
        """What the champion was trained on, if a retraining made it and its snapshot is there."""
        for row in self._store.retrainings.newest():
            if row.challenger != self._champion.version:
                continue
            if snapshot.exists(row.folder / SNAPSHOT):
                theirs, _ = snapshot.read(row.folder / SNAPSHOT, row.snapshot)
                return pd.concat([theirs.train, theirs.development], ignore_index=True)
            log.warning(
                "%s is gone, so nobody knows which labels the champion was trained on; it may look better than it is",
                row.folder / SNAPSHOT,
            )
        return None

    def _audit(self) -> None:
        found = audit.audit(self._checkpoint(), self._snapshot(), seed=self._run.row.number)
        path = self._folder / AUDIT_FILE
        documents.replace(self._folder, {path.name: found.csv().encode()})
        for line in found.lines():
            log.info("%s", line)
        log.info("%s lists the labels that may be wrong; they are learned all the same", path)
        if (task := found.worst) is not None and found.tasks[task].share > self._settings.retrain.max_suspicious:
            raise Refused(
                f"{found.tasks[task].share:.0%} of the labels of {task!r} may be wrong, more than "
                f"retrain.max_suspicious ({self._settings.retrain.max_suspicious:.0%}) allows; {path} lists "
                f"{found.tasks[task].listed} of them: correct those (sentiment-monitor label), then start another"
            )
        self._run.advance(step="train", found={"audit": found.plain()})

    def _train(self) -> None:
        self._learn()
        self._run.advance(step="calibrate")

    def _learn(self) -> None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self._folder / "tensorboard")
        os.environ.setdefault("WANDB_DIR", str(self._folder))
        row = self._run.row
        data = self._snapshot().dataset(str(row.snapshot))
        chosen = options_for(self._settings.retrain, self._checkpoint())
        train.learn(data, self._model, chosen, row.started_at.date(), self._settings.retrain.report_to)
        self._trained_here = True

    def _calibrate(self) -> None:
        if not self._trained_here:  # what is there may be half calibrated; the weights are in training's last save
            self._learn()
        data = self._snapshot().dataset(str(self._run.row.snapshot))
        info = train.calibrate(data, self._model, options_for(self._settings.retrain, self._checkpoint()))
        found = {
            "version": info.version,
            "files": file_hashes(self._model),
            "rows": {"train": len(data.train), "development": len(data.development)},
            "metrics": info.metrics,
        }
        self._run.advance(step="gate", found={"train": found})

    def _judge(self) -> None:
        from pipelines.gate import judge

        trained = self._run.row.found["train"]
        if (files := file_hashes(self._model)) != trained["files"]:
            changed = sorted(name for name, sha256 in files.items() if sha256 != trained["files"].get(name))
            raise MonitorError(
                f"{self._model / changed[0]}: changed since it was calibrated; start another retraining"
            )
        if trained["version"] == self._champion.version:
            raise Refused(f"training changed nothing, the challenger is the champion {self._champion.version}")
        taken = self._snapshot()
        verdict = judge(
            self._champion.folder,
            self._model,
            taken.reference,
            taken.newest,
            self._settings.retrain,
            seed=self._run.row.number,
            cache_dir=self._settings.model.cache_dir,
        )
        table = verdict.text()
        documents.replace(self._folder, {GATE_FILE: f"{table.rstrip()}\n\n{verdict.reason}\n".encode()})
        for line in table.splitlines():
            log.info("%s", line)
        self._run.advance(found={"gate": verdict.plain()})
        shutil.rmtree(self._model / train.RUN, ignore_errors=True)
        if not verdict.passed:
            raise Refused(f"the challenger is not good enough: {verdict.reason}")
        self._check_champion()
        challenger = self._add()
        self._run.advance(step="shadow", challenger=challenger.version)

    def _add(self) -> Model:
        """Put the challenger into the registry, once it was seen to score."""
        model = self._settings.model
        if self._settings.retrain.device == "cpu" and model.device.startswith("cuda"):
            model = replace(model, device="cpu")
        described = describe(self._model, self._settings.model_copy(update={"model": model}), self._now(), log.info)
        learned = self._run.row.found["snapshot"]["learned"]
        note = f"retraining {self._run.row.number}, from {learned:,} labelled texts"
        return self._store.models.add(replace(described, parent=self._champion.version, note=note))

    @property
    def _model(self) -> Path:
        return self._folder / MODEL

    def _checkpoint(self) -> Checkpoint:
        return checkpoint.read(self._champion.folder)

    def _snapshot(self) -> Snapshot:
        taken, _ = snapshot.read(self._folder / SNAPSHOT, self._run.row.snapshot)
        return taken


def options_for(settings: RetrainSettings, champion: Checkpoint) -> Options:
    """How a challenger is trained: as the champion was where it begins with that one, but in smaller and fewer steps.

    Raises:
        OptionsError: the file of options cannot be used.
    """
    info = champion.info
    unset: dict[str, Any] = {"encoder": info.encoder, "max_tokens": info.max_tokens}
    if settings.start_from == "champion":
        unset |= _FROM_CHAMPION | {"start": str(champion.folder), "sharing": info.sharing, "lora_rank": 0}
        if info.lora:
            unset |= {"lora_rank": info.lora.rank, "lora_targets": info.lora.targets}
        else:
            unset |= {"frozen": info.frozen}
    return options.read(settings.options, {}, unset)


def _champion(store: Store, settings: Settings, now: Callable[[], datetime]) -> str:
    """The champion's version; where no model was promoted yet, the shipped one is."""
    newest = store.models.champion()
    if newest is None:
        shipped = store.models.add(describe(Path("default"), settings, now(), log.info))
        reason = "no model was promoted yet, and a retraining needs one to beat"
        try:
            newest = store.models.promote(shipped.version, seen=None, at=now(), by="pipelines.retrain", reason=reason)
        except PromotionConflict:  # a person was quicker
            newest = store.models.champion()
    assert newest is not None  # noqa: S101  (promotions are never taken away)
    return newest.version


def limit(settings: RetrainSettings) -> None:
    """Have this process yield to others, and use no more threads and no other device than the settings say.

    Raises:
        ConfigError: there is no such device.
    """
    os.nice(max(0, settings.niceness - os.nice(0)))
    os.environ["LOKY_MAX_CPU_COUNT"] = str(settings.max_threads)  # of ONNX Runtime's sessions, see model.backends
    os.environ["RAYON_NUM_THREADS"] = str(settings.max_threads)  # of the tokenizer
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
        raise ConfigError(f"retrain.device: {settings.device!r} is none of `auto`, `cpu`, `cuda` and `cuda:N`")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if settings.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif ":" in settings.device:  # of those that this process may see
        number = settings.device.partition(":")[2]
        named = visible.split(",") if visible else []
        os.environ["CUDA_VISIBLE_DEVICES"] = named[int(number)] if int(number) < len(named) else number
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(settings.max_threads)
    threadpool_limits(settings.max_threads)
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"retrain.device: {settings.device!r}, but torch sees no such device; set `auto` or `cpu`")


def main(
    *,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="settings (TOML); see deploy/monitor.toml")
    ] = None,
    trigger: Annotated[str, typer.Option(help="what asks for it: `hand`, `schedule` or `drift`")] = "hand",
) -> None:
    """Train a challenger from what people labelled, and measure it against the champion."""
    try:
        settings = config.load(config_file)
        if trigger not in ("hand", "schedule", "drift"):
            raise Misuse(f"--trigger: {trigger!r} is none of hand, schedule and drift")
        logging.basicConfig(
            stream=sys.stderr, level=settings.log.level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        for chatty in ("alembic", "httpx2", "onnx_ir", "onnxscript"):
            logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
        limit(settings.retrain)
        ended = retrain(settings, trigger, lambda: datetime.now(UTC))  # type: ignore[arg-type]
    except (ConfigError, Misuse) as error:
        typer.echo(f"retrain: {error}", err=True)
        raise typer.Exit(2) from error
    except MonitorError as error:
        typer.echo(f"retrain: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo("retrain: stopped; the same command goes on where it was", err=True)
        raise typer.Exit(130) from error
    _tell(ended, settings.retrain)
    if ended.outcome == "failed":
        raise typer.Exit(1)


def _tell(ended: Retraining, settings: RetrainSettings) -> None:
    """Say how a retraining stands when its process ends."""
    if ended.outcome is None:
        words = (
            "retraining %d: challenger %s is in the registry; daemons score %.0f %% of the news with both models "
            "now, and promote it once %d items are compared and the two agree enough"
        )
        log.info(words, ended.number, ended.challenger, 100 * settings.shadow_share, settings.shadow_items)
    else:
        level = logging.ERROR if ended.outcome == "failed" else logging.WARNING
        log.log(level, "retraining %d %s: %s", ended.number, ended.outcome, ended.reason)


if __name__ == "__main__":
    typer.run(main)
