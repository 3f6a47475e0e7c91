"""A retraining in the hands of this process: begun or taken over, and heard of while it works."""

import _thread
import contextlib
import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from monitor.database import StoreError
from monitor.retraining import LIVE, Outcome, Retraining, Trigger
from monitor.stored_retrainings import LostRetraining, StoredRetrainings

log = logging.getLogger(__name__)

BEAT_S: Final = 30.0
"""How often it is said that this process is at work; `SILENT_AFTER` is six times that."""
MOST_RESUMES: Final = 5
"""How often one step is begun again after a kill: what kills it each time, as a lack of memory does, goes on to."""


class Run:
    """A retraining that this process works on.

    Args:
        now: the wall clock.

    Attributes:
        row: how it stands.
    """

    def __init__(self, stored: StoredRetrainings, row: Retraining, now: Callable[[], datetime]) -> None:
        self.row = row
        self._stored = stored
        self._now = now
        self._mutex = threading.Lock()  # of the row: a beat must not tell of a step that was just left
        self._lost: LostRetraining | None = None

    def advance(self, **changes: Any) -> None:
        """Store what changed; see `StoredRetrainings.advance`."""
        with self._mutex:
            self.row = self._stored.advance(self.row, self._now(), **changes)

    def end(self, outcome: Outcome, reason: str) -> None:
        """End it."""
        with self._mutex:
            self.row = self._stored.end(self.row, outcome, reason, self._now())

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Say every `BEAT_S` that this process is at work; if another took over, the block is interrupted.

        Raises:
            LostRetraining: another process took the retraining over, or it was abandoned.
        """
        ending = threading.Event()

        def beat() -> None:
            while not ending.wait(BEAT_S):
                try:
                    with self._mutex:
                        if self.row.outcome is None and self.row.step not in LIVE:
                            self._stored.beat(self.row, self._now())
                except LostRetraining as error:
                    self._lost = error
                    _thread.interrupt_main()
                    return
                except StoreError as error:
                    log.warning("cannot say that this retraining goes on: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._lost is not None:
                raise self._lost from None
            raise
        finally:
            ending.set()
            thread.join()


def take_up(
    stored: StoredRetrainings, trigger: Trigger, *, champion: str, folder: Path, now: Callable[[], datetime]
) -> Run:
    """Begin a retraining, or go on with the one that a process left behind, which keeps its trigger and champion.

    Raises:
        RetrainingRuns: another goes on.
    """
    by = f"{platform.node()}:{os.getpid()}"
    left = stored.running()
    if left is None or left.step in LIVE:  # a live one is refused there
        return Run(stored, stored.begin(trigger, by=by, champion=champion, folder=folder, now=now()), now)
    run = Run(stored, stored.claim(left, by=by, now=now(), gone=is_gone(left.by)), now)
    resumed = {**run.row.found.get("resumed", {})}
    resumed[left.step] = resumed.get(left.step, 0) + 1
    run.advance(found={"resumed": resumed})
    words = "goes on with retraining %d at step %r, which %s left"
    log.info(words, left.number, left.step, left.by)
    if resumed[left.step] > MOST_RESUMES:
        run.end("failed", f"its process ended {resumed[left.step]} times at step {left.step!r} without a word; see "
                "whether the machine has memory and disk enough, then start another")  # fmt: skip
    return run


def is_gone(by: str) -> bool:
    """Whether a process named `host:pid` was of this host, and is there no more."""
    host, _, pid = by.rpartition(":")
    if host != platform.node() or not pid.isdecimal():
        return False
    with contextlib.suppress(PermissionError):  # another user's
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return True
    return False
