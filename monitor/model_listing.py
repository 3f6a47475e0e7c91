"""What `sentiment-monitor models list` shows: models, what each was trained on, and the retrainings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal

from monitor.champion import FileState, file_state
from monitor.gate_verdict import Verdict
from monitor.model import checkpoint
from monitor.model.encoder import CheckpointError
from monitor.models import Model, Promotion
from monitor.retraining import Retraining
from monitor.store import Store

MODEL_HEAD: Final = ("version", "parent", "trained on", "gate", "added", "champion", "files", "folder", "note")
RETRAINING_HEAD: Final = ("retraining", "trigger", "started", "stands", "champion", "challenger", "gate", "reason")
_HASH: Final = 12  # characters of a hash that people read
_FEW: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """From when until when a model was champion; `until` None: it is."""

    since: datetime
    until: datetime | None
    by: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model with what is known of it.

    Attributes:
        trained_on: `sha256` of the texts that it learned, `train` how many; empty where neither its files nor a
            retraining say so.
        retraining: number of the one that trained it.
        gate: of that one.
        terms: when it was champion, the first at the start.
    """

    model: Model
    files: FileState
    trained_on: Mapping[str, Any]
    retraining: int | None
    gate: Literal["passed", "refused"] | None
    terms: Sequence[Term]


def listed(store: Store, retrainings: Sequence[Retraining]) -> list[Listed]:
    """Every model, the one that was added first at the start."""
    promotions = store.models.promotions()
    by_challenger = {one.challenger: one for one in retrainings if one.challenger}
    models = []
    for model in store.models.all():
        made_by = by_challenger.get(model.version)
        models.append(
            Listed(
                model=model,
                files=file_state(model),
                trained_on=_trained_on(model.folder, made_by),
                retraining=None if made_by is None else made_by.number,
                gate=None if made_by is None else gate_of(made_by),
                terms=_terms(model.version, promotions),
            )
        )
    return models


def gate_of(retraining: Retraining) -> Literal["passed", "refused"] | None:
    """What the gate said; None: nothing yet."""
    found = retraining.found.get("gate")
    return None if found is None else ("passed" if found["passed"] else "refused")


def model_row(one: Listed) -> tuple[str, ...]:
    """A model under `MODEL_HEAD`."""
    model = one.model
    return (
        model.version,
        model.parent or "",
        _texts(one.trained_on),
        one.gate or "",
        at(model.added_at),
        _term(one.terms[-1]) if one.terms else "",
        one.files,
        str(model.folder),
        model.note or "",
    )


def retraining_row(one: Retraining) -> tuple[str, ...]:
    """A retraining under `RETRAINING_HEAD`."""
    return (
        str(one.number),
        one.trigger,
        at(one.started_at),
        one.outcome or f"at {one.step}",
        one.champion,
        one.challenger or "",
        gate_of(one) or "",
        one.reason or one.found.get("gate", {}).get("reason", ""),
    )


def shown(retrainings: Sequence[Retraining]) -> Sequence[Retraining]:
    """The newest of them, which a table has room for."""
    return retrainings[:_FEW]


def as_json(models: Sequence[Listed], retrainings: Sequence[Retraining]) -> dict[str, Any]:
    """All of it; the champion's version is None where no model was promoted."""
    champion = next((one.model.version for one in models if one.terms and one.terms[-1].until is None), None)
    plain = []
    for one in models:
        known = asdict(one.model) | {"folder": str(one.model.folder), "fingerprint": one.model.fingerprint}
        known |= {"files": one.files, "files_sha256": dict(one.model.files), "trained_on": dict(one.trained_on)}
        known |= {"champion": one.model.version == champion, "retraining": one.retraining, "gate": one.gate}
        plain.append(known | {"terms": [asdict(term) for term in one.terms]})
    return {"champion": champion, "models": plain, "retrainings": [retraining_json(one) for one in retrainings]}


def retraining_json(one: Retraining) -> dict[str, Any]:
    """All of a retraining."""
    return {name: getattr(one, name) for name in Retraining.__slots__} | {"folder": str(one.folder)}


def facts(one: Retraining) -> list[tuple[str, str]]:
    """A retraining in lines of a name and what is known."""
    learned = one.found.get("train", {}).get("rows", {})
    lines = [
        ("retraining", f"{one.number}, asked for by {one.trigger}, in {one.folder}"),
        ("started", at(one.started_at)),
        ("stands", f"{one.outcome}, {at(one.ended_at)}" if one.outcome and one.ended_at else f"at step {one.step}"),
        ("reason", one.reason or ""),
        ("worked on", f"by {one.by}, last heard of at {at(one.seen_at)}"),
        ("champion", one.champion),
        ("challenger", one.challenger or ""),
        ("trained on", _texts({"sha256": one.snapshot, "train": learned.get("train")})),
        ("gate", gate_of(one) or ""),
    ]
    return [(name, text) for name, text in lines if text]


def gate_text(one: Retraining) -> str | None:
    """What the gate measured, as its own table; None where it was not asked."""
    found = one.found.get("gate")
    return None if found is None else Verdict.read(found).text()


def at(moment: datetime) -> str:
    """A moment for people."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _trained_on(folder: Path, made_by: Retraining | None) -> dict[str, Any]:
    try:
        training: Mapping[str, Any] = checkpoint.read(folder).info.training
    except CheckpointError:
        training = {}
    sha256 = training.get("data_sha256", {}).get("set")
    train = training.get("rows", {}).get("train")
    if made_by is not None:
        sha256 = sha256 or made_by.snapshot
        train = train or made_by.found.get("train", {}).get("rows", {}).get("train")
    return {name: value for name, value in (("sha256", sha256), ("train", train)) if value is not None}


def _texts(trained_on: Mapping[str, Any]) -> str:
    parts = []
    if (train := trained_on.get("train")) is not None:
        parts.append(f"{train:,} texts")
    if (sha256 := trained_on.get("sha256")) is not None:
        parts.append(f"set {sha256[:_HASH]}")
    return ", ".join(parts)


def _terms(version: str, promotions: Sequence[Promotion]) -> list[Term]:
    ends = [promotion.promoted_at for promotion in promotions[1:]]
    return [
        Term(since=one.promoted_at, until=until, by=one.by, reason=one.reason)
        for one, until in zip_longest(promotions, ends)
        if one.version == version
    ]


def _term(term: Term) -> str:
    return f"since {at(term.since)}" if term.until is None else f"{at(term.since)} to {at(term.until)}"
