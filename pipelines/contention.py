"""How fast a scorer is while a retraining trains on the same cores."""

import os
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monitor.config import ModelSettings
from monitor.model.scorer import Scorer, open_scorer
from pipelines.services import Process
from pipelines.trial_desk import Desk

LEAST_RATIO: Final = 0.60
"""What the scorer is to keep of its speed."""

_CALL: Final = 1_024


@dataclass(frozen=True, kw_only=True)
class Contention:
    """Items a second of each turn, alone and beside a retraining.

    Attributes:
        cores: that both may use.
        trained: share of one core that the retraining had in each turn beside it.
    """

    cores: int
    alone: tuple[float, ...]
    beside: tuple[float, ...]
    trained: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.beside) / statistics.median(self.alone)


def measure(desk: Desk, titles: Sequence[str], *, turns: int, turn_s: float) -> Contention:
    """Have this process score alone, the retraining's stopped, and beside it, in turns.

    Raises:
        RuntimeError: the retraining ended before it trained.
    """
    settings = ModelSettings(
        path=str(_champion(desk)),
        backend="onnx",
        device="cpu",
        cache_dir=desk.settings.model.cache_dir,
        cache_items=0,
    )
    scorer = open_scorer(settings)
    _rate(scorer, titles, 0)
    retraining = Process(desk.command(), desk.folder / "retrain.log")
    alone, beside, trained = [], [], []
    try:
        desk.wait_for_training(retraining)
        for _ in range(turns):
            os.kill(retraining.pid, signal.SIGSTOP)
            alone.append(_rate(scorer, titles, turn_s))
            os.kill(retraining.pid, signal.SIGCONT)
            before_s, started_s = _cpu_s(retraining.pid), time.perf_counter()
            beside.append(_rate(scorer, titles, turn_s))
            trained.append((_cpu_s(retraining.pid) - before_s) / (time.perf_counter() - started_s))
    finally:
        os.kill(retraining.pid, signal.SIGCONT)
        retraining.stop(signal.SIGKILL)
    return Contention(
        cores=len(os.sched_getaffinity(0)), alone=tuple(alone), beside=tuple(beside), trained=tuple(trained)
    )


def _champion(desk: Desk) -> Path:
    with desk.store() as store:
        [model] = store.models.all()
        return model.folder


def _rate(scorer: Scorer, titles: Sequence[str], least_s: float) -> float:
    """Items a second, over at least so many seconds and one pass over the titles."""
    scored, started_s = 0, time.perf_counter()
    while True:
        for start in range(0, len(titles), _CALL):
            scored += len(scorer.predict(titles[start : start + _CALL])["sentiment"])
        if (took_s := time.perf_counter() - started_s) >= least_s:
            return scored / took_s


def _cpu_s(pid: int) -> float:
    """Seconds of a core that a process has had, of all its threads (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
