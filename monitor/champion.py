"""Which model scores: the one that the settings name, or the registry's champion, followed while the daemon runs."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np

from monitor.config import ModelSettings, Settings
from monitor.following import Followed, follow
from monitor.metrics import Metrics
from monitor.model.checkpoint import DEFAULT, WEIGHTS_FILE, file_hashes, read
from monitor.model.encoder import CheckpointError
from monitor.model.scorer import TOPIC, Scorer, open_scorer
from monitor.models import Model, Models, Promotion, fingerprint
from monitor.rebase import Rebase, rebases
from monitor.records import MonitorError
from monitor.retraining import Comparison
from monitor.store import Store, StoreError

log = logging.getLogger(__name__)

CHAMPION: Final = "champion"
"""What `model.path` is where the registry says which model scores."""

Notify = Callable[[str], None]
FileState = Literal["complete", "missing", "changed"]
_OPENING: Final = threading.Lock()  # one model at a time: what torch changes of itself to export, it does for all
_PROBE: Final = "Bank posts record loss"
_LEAVE_S: Final = 3.0
"""How long, at the end, a model that is being opened is waited for."""


@dataclass(frozen=True, slots=True)
class Successor:
    """A champion that was opened and found fit, and waits to take over."""

    scorer: Scorer
    followed: Followed
    fingerprint: str
    promotion: int


def describe(folder: Path, settings: Settings, added_at: datetime, notify: Notify) -> Model:
    """The model in a folder, or `default`, as the registry takes it, after it was opened and has scored a text.

    Raises:
        CheckpointError, ScorerError: the monitor cannot run it; a file that is missing or wrong is named.
    """
    folder = (DEFAULT if str(folder) == "default" else folder).resolve()
    files = file_hashes(folder)
    _check_weights(folder, files)
    scorer = opened(replace(settings.model, path=str(folder)), notify)
    return Model(version=scorer.version, folder=folder, files=files, added_at=added_at)


def verify(model: Model) -> None:
    """See that a model's files are what they were when it was added.

    Raises:
        CheckpointError: one is missing or was changed; the message names it.
    """
    found = file_hashes(model.folder)
    for name, expected in model.files.items():
        if found[name] != expected:
            raise CheckpointError(
                f"{model.folder / name}: changed since model {model.version} was added on "
                f"{model.added_at:%Y-%m-%d %H:%M} UTC: its SHA-256 is {found[name]}, was {expected}; "
                f"put the file back as it was"
            )


def file_state(model: Model) -> FileState:
    """Whether a model's files are there, and as they were when it was added."""
    try:
        found = file_hashes(model.folder)
    except CheckpointError:
        return "missing"
    return "complete" if found == model.files else "changed"


def check_fit(model: Model, settings: Settings) -> None:
    """See that a model can be promoted: its files, its encoder, and the names that the settings follow.

    Raises:
        CheckpointError: a file is missing or was changed, or the encoder is.
        ConfigError: the settings name a topic that this model does not have.
    """
    verify(model)
    follow(settings, read(model.folder).info.tasks[TOPIC])


def compare(
    store: Store, model: Model, seen: Promotion | None, settings: Settings, *, items: int, notify: Notify
) -> list[Rebase]:
    """What becomes of counts if a model takes over from the champion that was `seen`, None: from the shipped one.

    It scores the newest of the stored items that the champion has scored, at most so many; of none, nothing is known.

    Raises:
        CheckpointError, ScorerError: the model cannot be used.
    """
    before = read(DEFAULT).info.version if seen is None else seen.version
    said = store.newest_scored(before, items) if items and before != model.version else []
    if not said:
        return []
    scorer = opened(replace(settings.model, path=str(model.folder)), notify)
    compared = [
        Comparison(
            item=old.item.id,
            event_at=event_at,
            before_topic=old.topic,
            after_topic=new.topic,
            before_sentiment=old.sentiment,
            after_sentiment=new.sentiment,
            before_negative=negative,
            after_negative=new.sentiment_probs["negative"] >= settings.spikes.negative_from,
            before_confidence=max(old.sentiment_probs.values()),
            after_confidence=max(new.sentiment_probs.values()),
        )
        for (old, event_at, negative), new in zip(said, scorer.score([old.item for old, *_ in said]), strict=True)
    ]
    return rebases_of(store, compared)


def rebases_of(store: Store, compared: Sequence[Comparison]) -> list[Rebase]:
    """What becomes of counts if `after` takes over from `before`, by what both said of these items."""
    entities: dict[str, list[str]] = {}
    for item, name in store.entities_of([one.item for one in compared]):
        entities.setdefault(item, []).append(name)
    return rebases(compared, entities)


def named_model(settings: Settings, notify: Notify) -> ModelSettings:
    """The settings of the model, with the folder of the champion in place of `champion`; `notify` is told which.

    Raises:
        CheckpointError: the champion's files are missing or were changed.
        StoreError: the registry cannot be read.
    """
    if settings.model.path != CHAMPION:
        return settings.model
    with Store(settings.store.url) as store:
        current = _current(store.models)
    notify(_said(current))
    return replace(settings.model, path=str(current[1].folder if current else DEFAULT))


def _current(models: Models) -> tuple[Promotion, Model] | None:
    """The champion, its files verified; None where no model was promoted yet."""
    promotion = models.champion()
    if promotion is None:
        return None
    model = models.get(promotion.version)
    verify(model)
    return promotion, model


def _said(current: tuple[Promotion, Model] | None) -> str:
    if current is None:
        return "no model was promoted in the registry yet, so the shipped one scores"
    promotion, model = current
    return f"model {model.version} is the champion since {promotion.promoted_at:%Y-%m-%d %H:%M} UTC"


class Succession:
    """The models of a daemon: the first, and each that becomes champion while it runs.

    Where the settings name a model by its folder, there is only the first. A new champion is opened, verified and
    tried beside the one that scores, and then waits for the daemon to `take` it. One that cannot be used is refused:
    that is said and counted once, and what scores goes on until the registry changes again.

    Attributes:
        promotion: number of the one that made what scores champion; 0: none did.
        refused: number of the newest promotion that was refused, and why.
    """

    def __init__(self, settings: Settings, models: Models, metrics: Metrics) -> None:
        self.promotion = 0
        self._settings = settings
        self._models = models
        self._metrics = metrics
        self._follows = settings.model.path == CHAMPION
        self.refused: tuple[int, str] | None = None
        self._seen: int | None = None  # number of the newest promotion that was looked into
        self._running = ("", "")  # version and fingerprint of what scores
        self._waiting: Successor | None = None
        self._mutex = threading.Lock()  # of the two above
        self._watcher: threading.Thread | None = None

    def first(self) -> Scorer:
        """The model to start with.

        Raises:
            CheckpointError, ScorerError: it cannot be used.
            StoreError: the registry cannot be read.
        """
        if not self._follows:
            scorer = open_scorer(self._settings.model, log.info)
        else:
            current = _current(self._models)
            log.info(_said(current))
            folder = current[1].folder if current else DEFAULT
            scorer = open_scorer(replace(self._settings.model, path=str(folder)), log.info)
            self._seen = current[0].number if current else None
            self.promotion = current[0].number if current else 0
            self._running = scorer.version, fingerprint(file_hashes(folder))
        self._metrics.show_model(scorer.version, scorer.backend)
        log.info("model %s on %s", scorer.version, scorer.backend)
        return scorer

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every `model.check_s` seconds, in a thread of its own."""
        if not self._follows:
            yield
            return
        ending = threading.Event()

        def watch() -> None:
            while not ending.wait(self._settings.model.check_s):
                self.look()

        # What the process need not wait for: opening a model for the first time on a machine may take a minute.
        self._watcher = threading.Thread(target=watch, name="champion", daemon=True)
        self._watcher.start()
        try:
            yield
        finally:
            ending.set()
            self._watcher.join(_LEAVE_S)

    @property
    def opening(self) -> bool:
        """Whether, after the end of `watched`, a model is still being opened; nothing can stop that."""
        return self._watcher is not None and self._watcher.is_alive()

    def look(self) -> None:
        """Open the champion if another was promoted since the last look, and have it wait to be taken."""
        try:
            promotion = self._models.champion()
            if promotion is not None and promotion.number != self._seen:
                self._consider(promotion)
        except StoreError as error:
            log.debug("the champion is looked up again: %s", error)

    def _consider(self, promotion: Promotion) -> None:
        model = self._models.get(promotion.version)
        successor: Successor | None = None
        with self._mutex:
            self._waiting = None  # what still waits is champion no more, and from here on is not taken
            version, print_ = self._running
        try:
            verify(model)
            if model.fingerprint == print_:
                log.info("model %s, which scores, is the champion", version)
            else:
                scorer = opened(replace(self._settings.model, path=str(model.folder)), log.info)
                successor = Successor(
                    scorer, follow(self._settings, scorer.topics), model.fingerprint, promotion.number
                )
        except Exception as error:  # whatever its files do to the libraries that read them, what scores goes on
            self._metrics.model_swaps.labels("refused").inc()
            why = in_a_line(error)
            self.refused = promotion.number, why
            log.error("champion %s is refused, model %s goes on: %s", promotion.version, version, why)
            log.debug("what stopped it", exc_info=error)
        if successor is not None and self._models.champion() != promotion:
            log.info("model %s is no longer the champion, now that it is open", promotion.version)
            successor = None
        with self._mutex:
            self._waiting = successor
        self._seen = promotion.number

    @property
    def waits(self) -> bool:
        """Whether a new champion waits to be taken."""
        return self._waiting is not None

    def take(self) -> Successor | None:
        """The new champion, which scores from now on; None where there is none."""
        with self._mutex:
            successor, self._waiting = self._waiting, None
            if successor is None:
                return None
            before, _ = self._running
            self._running = successor.scorer.version, successor.fingerprint
            self.promotion = successor.promotion
        scorer = successor.scorer
        self._metrics.show_model(scorer.version, scorer.backend)
        self._metrics.model_swaps.labels("swapped").inc()
        log.info("model %s on %s takes over from %s", scorer.version, scorer.backend, before)
        return successor


def in_a_line(error: Exception) -> str:
    """In one line, what stopped a model; of errors that are not the monitor's own, their kind too."""
    why = str(error) if isinstance(error, MonitorError) else f"{type(error).__name__}: {error}"
    return " ".join(why.split())


def _check_weights(folder: Path, files: dict[str, str]) -> None:
    """See that the weights are those of the description, which an exported model does not need to be opened."""
    expected = read(folder).info.weights_sha256
    if files[WEIGHTS_FILE] != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE}: SHA-256 is {files[WEIGHTS_FILE]}, the model was saved with {expected}; "
            "copy the folder anew, or train again"
        )


def opened(settings: ModelSettings, notify: Notify, *, in_caller: bool = False) -> Scorer:
    """A scorer that has scored a text.

    Args:
        in_caller: on the CPU, keep it to the thread that calls it, see `open_backend`.

    Raises:
        CheckpointError: the model cannot be used, or gives no probabilities.
        ScorerError: the backend, device, precision or cache folder asked for cannot be.
    """
    with _OPENING:
        scorer = open_scorer(settings, notify, in_caller=in_caller)
    for task, probs in scorer.predict([_PROBE]).items():
        if not np.isfinite(probs).all():
            raise CheckpointError(
                f"{settings.path}: task {task!r} gives no probabilities, its weights are not finite; train again"
            )
    return scorer
