"""The live half of a retraining: a second model scores news beside the champion, before a promotion and after it.

At step `shadow` the challenger scores a share of what the champion has scored, and is promoted if both agree. At step
`watch` the model that was champion until then does, and the promotion is taken back if they agree no longer: scored
side by side, news that turned bad makes both more negative, and a model that turned bad only itself.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from math import isfinite
from typing import Final

from monitor.champion import CHAMPION, Succession, check_fit, in_a_line, opened, verify
from monitor.config import Settings
from monitor.measures import sampled
from monitor.metrics import Metrics
from monitor.model.scorer import Scorer
from monitor.models import PromotionConflict
from monitor.records import Entry, Scored
from monitor.retraining import Comparison, Phase, Retraining
from monitor.store import Store, StoreUnavailable
from monitor.stored_retrainings import LostRetraining
from monitor.verdicts import Verdicts, name

log = logging.getLogger(__name__)

NICENESS: Final = 10
"""How far the thread yields to scoring. Not further: at times it holds what the others wait for."""

_QUEUE: Final = 1_024  # items that wait to be scored, with their texts
_AT_ONCE: Final = 32  # items between two looks at whether the daemon ends
_STORED_AT_ONCE: Final = 128
_PAUSE_S: Final = 0.5
_REOPEN_S: Final = 60.0
_LEAVE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Beside:
    """The model that scores beside the champion, and for which retraining."""

    retraining: Retraining
    scorer: Scorer

    @property
    def phase(self) -> Phase:
        return "shadow" if self.retraining.step == "shadow" else "watch"

    @property
    def champion(self) -> str | None:
        """Version of the model whose items are compared."""
        return self.retraining.champion if self.phase == "shadow" else self.retraining.challenger


class Shadow:
    """The second model of a daemon, where its settings have it follow the champion.

    Every worker compares the news that it stores, and any of them comes to the verdict, see `Verdicts`.

    Args:
        succession: knows whether this daemon could take up the champion.
        now: the wall clock.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        succession: Succession,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._store = store
        self._verdicts = Verdicts(settings, store, succession, now)
        self._metrics = metrics
        self._now = now
        self._beside: _Beside | None = None
        self._queue: deque[Entry] = deque()
        self._unstored: list[Comparison] = []
        self._broken: str | None = None  # what the new champion does wrong
        self._reopen_at = float("-inf")
        self._trouble = ""
        self._yields = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Compare in a thread of its own, and look every `model.check_s` seconds how the retraining stands."""
        if self._settings.model.path != CHAMPION:
            yield
            return
        # What the process need not wait for: opening a model for the first time on a machine may take a minute.
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._thread.join(_LEAVE_S)

    @property
    def opening(self) -> bool:
        """Whether, after the end of `watched`, a model is still being opened; nothing can stop that."""
        return self._thread is not None and self._thread.is_alive()

    def offer(self, entries: Sequence[Entry]) -> None:
        """Have a share of what was stored compared. Never waits: what comes too fast is dropped, and counted."""
        beside = self._beside
        if beside is None:
            return
        of_all = self._settings.retrain.shadow_share
        chosen = [
            entry
            for entry in entries
            if entry.scored.model == beside.champion and sampled(entry.scored.item.id, of_all)
        ]
        fit = chosen[: max(0, _QUEUE - len(self._queue))]
        self._queue.extend(fit)
        self._metrics.shadow_items.labels(beside.phase, "dropped").inc(len(chosen) - len(fit))

    def _work(self) -> None:
        check_s = self._settings.model.check_s
        look_at, pause_s = float("-inf"), 0.0
        while not self._ending.wait(pause_s):
            if time.monotonic() >= look_at:
                self._attempt(self.look)
                look_at = time.monotonic() + check_s
            more = self._attempt(self.compare) and bool(self._queue)
            pause_s = 0.0 if more else min(_PAUSE_S, check_s)

    def _attempt(self, do: Callable[[], None]) -> bool:
        """Whether it could be done; nothing that goes wrong here harms what scores."""
        try:
            do()
        except (LostRetraining, PromotionConflict, StoreUnavailable) as error:
            log.debug("the retraining is looked at again: %s", error)
        except Exception as error:
            self._complain(f"the retraining is looked at again: {in_a_line(error)}")
        else:
            return True
        return False

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error(trouble)
        self._trouble = trouble

    def look(self) -> None:
        """See how the retraining stands, and open the model that it needs; raises as `Verdicts.look`."""
        live = self._verdicts.look(self._broken)
        if live is None:
            self._rest()
        else:
            self._open(live)

    def _open(self, live: Retraining) -> None:
        """Open the model that scores beside the champion, unless it is open."""
        beside = self._beside
        if beside is not None and (beside.retraining.number, beside.phase) == (live.number, live.step):
            return
        if time.monotonic() < self._reopen_at:
            return
        self._rest()
        version = (live.challenger or "") if live.step == "shadow" else live.champion
        try:
            model = self._store.models.get(version)
            if live.step == "shadow":
                check_fit(model, self._settings)
            else:
                verify(model)
            scorer = opened(replace(self._settings.model, path=str(model.folder)), log.info, in_caller=True)
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever its files do to the libraries that read them
            self._reopen_at = time.monotonic() + _REOPEN_S
            self._failed(live, f"{version} cannot be used: {in_a_line(error)}")
            return
        if not self._ending.is_set():
            log.info("model %s scores beside the champion, for %s at step %r", version, name(live), live.step)
            self._beside = _Beside(live, scorer)

    def _rest(self) -> None:
        """Let the model go, and what was to be compared with it."""
        self._beside = None
        self._queue.clear()
        self._unstored.clear()
        self._broken = None

    def _failed(self, live: Retraining, why: str) -> None:
        """A challenger that fails is none; a champion that was cannot take the new one's place away by failing."""
        if live.step == "shadow":
            self._rest()
            self._verdicts.end(live, "failed", f"challenger {why}")
        else:
            self._complain(f"{name(live)} is watched again later: model {why}")

    def compare(self) -> None:
        """Score some of the items that wait, and store what both models say of them.

        Raises:
            StoreUnavailable: they are stored by the next call.
        """
        beside = self._beside
        if beside is None or not (self._queue or self._unstored):
            return
        self._yield_to_scoring()
        chosen = [self._queue.popleft() for _ in range(min(len(self._queue), _AT_ONCE))]
        batch = [entry for entry in chosen if entry.scored.model == beside.champion]
        try:
            answers = beside.scorer.score([entry.scored.item for entry in batch]) if batch else []
            if wrong := next((one for one in answers if not _finite(one)), None):
                raise ValueError(f"it gives no probabilities for item {wrong.item.id!r}")
        except Exception as error:
            self._metrics.shadow_items.labels(beside.phase, "dropped").inc(len(batch))
            self._failed(beside.retraining, f"{beside.scorer.version} fails: {in_a_line(error)}")
            return
        if wrong := next((entry.scored for entry in batch if not _finite(entry.scored)), None):
            self._broken = f"model {wrong.model} gives no probabilities for item {wrong.item.id!r}"
            return
        self._unstored += map(self._comparison, batch, answers)
        if self._unstored and (len(self._unstored) >= _STORED_AT_ONCE or not self._queue):
            self._store.retrainings.add_comparisons(beside.retraining, beside.phase, self._unstored, self._now())
            self._metrics.shadow_items.labels(beside.phase, "compared").inc(len(self._unstored))
            self._unstored.clear()
            self._trouble = ""

    def _comparison(self, entry: Entry, answer: Scored) -> Comparison:
        other = replace(entry, scored=answer)
        in_shadow = self._beside is not None and self._beside.phase == "shadow"
        before, after = (entry, other) if in_shadow else (other, entry)
        return Comparison(
            item=entry.scored.item.id,
            event_at=entry.event_at,
            before_topic=before.scored.topic,
            after_topic=after.scored.topic,
            before_sentiment=before.scored.sentiment,
            after_sentiment=after.scored.sentiment,
            before_negative=before.negative,
            after_negative=after.negative,
            before_confidence=_confidence(before.scored),
            after_confidence=_confidence(after.scored),
        )

    def _yield_to_scoring(self) -> None:
        # Not before there is something to compare: by then libraries have started their threads, which have the
        # priority of the thread that starts them, for all.
        if not self._yields and sys.platform == "linux" and threading.current_thread() is self._thread:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._yields = True


def _confidence(scored: Scored) -> float:
    return scored.sentiment_probs[scored.sentiment]


def _finite(scored: Scored) -> bool:
    return all(isfinite(value) for probs in (scored.topic_probs, scored.sentiment_probs) for value in probs.values())
