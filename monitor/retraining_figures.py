"""How the retrainings stand, by the database, for the metrics of the daemon and of a run outside it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from itertools import takewhile
from pathlib import Path
from typing import Any

from monitor.config import Settings
from monitor.labels import TASKS
from monitor.model import checkpoint
from monitor.model.encoder import CheckpointError
from monitor.retraining import Outcome, Retraining
from monitor.retraining_metrics import RetrainingFigures, RetrainingMetrics
from monitor.store import Store, StoreError

log = logging.getLogger(__name__)


def retraining_figures(settings: Settings, store: Store) -> RetrainingFigures:
    """How they stand; raises StoreError where the database cannot be read."""
    newest = store.retrainings.newest()
    at_work = next((one for one in newest if one.outcome is None), None)
    measured = next((_measured(one.found["shadow"]) for one in newest if "shadow" in one.found), {})
    since = newest[0].started_at if newest else datetime(1970, 1, 1, tzinfo=UTC)
    return RetrainingFigures(
        ended=Counter(one.outcome for one in newest if one.outcome),
        ended_at=_ended_at(newest),
        step=None if at_work is None else at_work.step,
        started_at=None if at_work is None else at_work.started_at,
        seen_at=None if at_work is None else at_work.seen_at,
        refused_in_a_row=_refused_in_a_row(newest),
        agreement={task: measured[name] for task in TASKS if (name := f"{task}_agreement") in measured},
        negative_ratio=measured.get("negative_ratio"),
        trained_at=_trained_at(_folder(settings, store)),
        new_labels=dict.fromkeys(TASKS, 0) | store.labels.count_since(since),
    )


def push_figures(settings: Settings, store: Store, grouping: Mapping[str, str]) -> None:
    """Tell the Pushgateway that the settings name, if they do; one that does not answer is warned of and no more.

    Args:
        grouping: labels that tell this process's metrics from others', such as `instance`.
    """
    gateway = settings.retrain.pushgateway
    if gateway is None:
        return
    metrics = RetrainingMetrics()
    try:
        metrics.show(retraining_figures(settings, store))
        metrics.push(gateway, grouping)
    except (OSError, ValueError, StoreError) as error:
        log.warning("retrain.pushgateway: %s is not told how the retraining stands: %s", gateway, error)


def _ended_at(newest: Sequence[Retraining]) -> dict[Outcome, datetime]:
    moments: dict[Outcome, datetime] = {}
    for one in newest:
        if one.outcome is not None and one.ended_at is not None:
            moments[one.outcome] = max(one.ended_at, moments.get(one.outcome, one.ended_at))
    return moments


def _refused_in_a_row(newest: Sequence[Retraining]) -> int:
    # One that failed says nothing of the gate, nor does one that goes on.
    judged = [one.outcome for one in newest if one.outcome not in (None, "failed")]
    return sum(1 for _ in takewhile(lambda outcome: outcome == "refused", judged))


def _measured(shadow: Mapping[str, Any]) -> dict[str, float]:
    """What a shadow measured, by name, as far as it is a number."""
    return {row["measure"]: row["value"] for row in shadow.get("rows", ()) if row["value"] is not None}


def _folder(settings: Settings, store: Store) -> Path:
    """Where the model that scores is."""
    if settings.model.path != "champion":
        return checkpoint.DEFAULT if settings.model.path == "default" else Path(settings.model.path)
    promotion = store.models.champion()
    return checkpoint.DEFAULT if promotion is None else store.models.get(promotion.version).folder


def _trained_at(folder: Path) -> dict[str, datetime]:
    try:
        info = checkpoint.read(folder).info
    except CheckpointError:
        return {}
    return {info.version: datetime.combine(info.trained_on, time(), UTC)}
