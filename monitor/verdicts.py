"""What becomes of a challenger: promoted or refused by what was compared, and then kept, or taken back."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from monitor.champion import Succession, check_fit, in_a_line, rebases_of
from monitor.config import Settings
from monitor.measures import Findings, agreement_measures, change_measures, label_measures
from monitor.models import Promotion
from monitor.rebase import reversed_comparisons
from monitor.retraining import LIVE, Outcome, Phase, Retraining
from monitor.store import Store, StoreUnavailable

log = logging.getLogger(__name__)

EARLY: Final = 200
"""After so many more items a watch is looked at before its end, and ended if it is hopeless."""
SILENT: Final = timedelta(days=1)


class Verdicts:
    """The verdicts on the retraining that is live.

    Of several workers that come to one, the database admits the first, and the others find it there. Whatever stops a
    process between a promotion or rollback and the note of it, the next look knows it by its author, and goes on.

    Args:
        succession: knows whether this daemon could take up the champion.
        now: the wall clock.
    """

    def __init__(self, settings: Settings, store: Store, succession: Succession, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._store = store
        self._succession = succession
        self._now = now
        self._judged = (0, 0)  # number of the retraining, and how many items its watch had at the last early look
        self._stands = (0, "", 0)  # number, step and items compared, at the last look, which have not moved
        self._moved_at = now()  # since then

    def look(self, broken: str | None) -> Retraining | None:
        """Judge what was compared, promote, roll back; gives the live retraining, if more is to be compared for it.

        Args:
            broken: what the new champion does wrong that no measure can say.

        Raises:
            LostRetraining, PromotionConflict: another process, or a person, was first; look again.
            StoreUnavailable: look again later.
        """
        live = self._store.retrainings.running()
        if live is None or live.step not in LIVE:
            return None
        if live.challenger is None:
            self.end(live, "failed", "it has left no challenger")
            return None
        goes_on = self._shadow(live, live.challenger) if live.step == "shadow" else self._watch(live, broken)
        return live if goes_on else None

    def end(self, live: Retraining, outcome: Outcome, reason: str) -> None:
        """End it; raises as `look`."""
        self._store.retrainings.end(live, outcome, reason, self._now())
        log.info("%s has ended, %s: %s", name(live), outcome, reason)

    def _shadow(self, live: Retraining, challenger: str) -> bool:
        """Whether more is to be compared."""
        promotions = self._store.models.promotions()
        newest = promotions[-1] if promotions else None
        made = next((one for one in promotions if one.by == name(live) and one.version == challenger), None)
        wanted = self._settings.retrain.shadow_items
        if made is not None:  # by a process that did not come to note it
            self._begin_watch(live, made, self._found(live))
        elif newest is not None and newest.version == challenger:
            noted = self._store.retrainings.advance(live, self._now(), promotion=newest.number)
            self.end(noted, "promoted", f"{newest.by} promoted it before it was compared to the end{_why(newest)}")
        elif newest is not None and newest.version != live.champion:
            self.end(
                live,
                "refused",
                f"{newest.by} promoted {newest.version} on {newest.promoted_at:%Y-%m-%d %H:%M} UTC, and it was to "
                f"replace {live.champion}; retrain again, from that model",
            )
        elif self._counted(live, wanted) < wanted:
            return True
        else:
            self._judge_shadow(live, challenger, newest)
        return False

    def _judge_shadow(self, live: Retraining, challenger: str, newest: Promotion | None) -> None:
        found = self._found(live)
        if not found.passed:
            noted = self._store.retrainings.advance(live, self._now(), found={"shadow": found.row})
            self.end(noted, "refused", str(found))
            return
        try:
            check_fit(self._store.models.get(challenger), self._settings)
        except StoreUnavailable:
            raise
        except Exception as error:
            self.end(live, "failed", f"challenger {challenger} cannot be used: {in_a_line(error)}")
            return
        if newest is None:  # so that there is a champion to go back to
            newest = self._store.models.promote(
                live.champion,
                seen=None,
                at=self._now(),
                by=name(live),
                reason="no model was promoted until then, and this one scored",
            )
        self._begin_watch(live, self._promote(live, challenger, newest, str(found)), found)

    def _begin_watch(self, live: Retraining, made: Promotion, found: Findings) -> None:
        self._store.retrainings.advance(
            live, self._now(), step="watch", promotion=made.number, found={"shadow": found.row}
        )
        log.info("%s has promoted model %s: %s", name(live), made.version, made.reason)

    def _watch(self, live: Retraining, broken: str | None) -> bool:
        """Whether more is to be compared."""
        promotions = self._store.models.promotions()
        made = next(one for one in promotions if one.number == live.promotion)
        later = next((one for one in promotions if one.number > made.number), None)
        wanted, refused = self._settings.retrain.watch_items, self._succession.refused
        count = self._counted(live, wanted)
        early = count - (self._judged[1] if self._judged[0] == live.number else 0) >= EARLY
        if later is not None:
            self._end_as_decided(live, later, count)
        elif refused is not None and refused[0] == made.number:
            self._take_back(live, made, f"a daemon could not take it up: {refused[1]}", Findings(count))
        elif broken is not None:
            self._take_back(live, made, broken, Findings(count))
        elif not wanted:
            self.end(live, "promoted", made.reason or "")
        elif count >= wanted or early:
            return self._judge_watch(live, made, last=count >= wanted)
        else:
            return True
        return False

    def _judge_watch(self, live: Retraining, made: Promotion, *, last: bool) -> bool:
        """Whether more is to be compared."""
        found = self._found(live)
        if found.hopeless or (last and not found.passed):
            self._take_back(live, made, str(found), found)
            return False
        self._judged = live.number, found.items
        if last:
            noted = self._store.retrainings.advance(live, self._now(), found={"watch": found.row})
            self.end(noted, "promoted", str(found))
        return not last

    def _take_back(self, live: Retraining, made: Promotion, reason: str, found: Findings) -> None:
        # Noted before it is done: who finds it done has only to end it.
        noted = self._store.retrainings.advance(live, self._now(), found={"watch": found.row})
        self._roll_back(live, made, reason)
        self.end(noted, "rolled back", reason)

    def _end_as_decided(self, live: Retraining, first: Promotion, count: int) -> None:
        """End a watch whose promotion was followed by another: this retraining's own rollback, or a person's."""
        outcome: Outcome = "rolled back" if first.version == live.champion else "promoted"
        if first.by == name(live):
            self.end(live, outcome, first.reason or "")
        else:
            did = (
                f"went back to {first.version}" if outcome == "rolled back" else f"promoted {first.version} after it"
            )
            self.end(live, outcome, f"{first.by} {did} when {count} items were watched{_why(first)}")

    def _promote(self, live: Retraining, challenger: str, seen: Promotion, reason: str) -> Promotion:
        compared = self._store.retrainings.comparisons(live, ["shadow"])
        return self._store.models.promote(
            challenger,
            seen=seen,
            at=self._now(),
            by=name(live),
            reason=reason,
            rebases=rebases_of(self._store, compared),
        )

    def _roll_back(self, live: Retraining, seen: Promotion, reason: str) -> Promotion:
        compared = reversed_comparisons(self._store.retrainings.comparisons(live, ["shadow", "watch"]))
        return self._store.models.roll_back(
            seen=seen, at=self._now(), by=name(live), reason=reason, rebases=rebases_of(self._store, compared)
        )

    def _found(self, live: Retraining) -> Findings:
        """What the items that were compared in this phase amount to."""
        retrain = self._settings.retrain
        compared = self._store.retrainings.comparisons(live, [_phase(live)])
        measures = agreement_measures(compared, retrain)
        if live.step == "shadow":
            return Findings(len(compared), tuple(measures))
        before = live.found.get("shadow", {}).get("rows", [])
        changes = change_measures(measures, before, retrain)
        labelled = label_measures(compared, self._store.labels.standing())
        return Findings(len(compared), (*measures, *changes, *labelled))

    def _counted(self, live: Retraining, wanted: int) -> int:
        """How many items were compared, by all workers. Says so where no more have come for long."""
        count = self._store.retrainings.count_comparisons(live, _phase(live))
        stands, now = (live.number, live.step, count), self._now()
        if stands != self._stands:
            self._stands, self._moved_at = stands, now
        elif now - self._moved_at >= SILENT and count < wanted:
            words = "%s waits at step %r for news that two models can be compared on: %d of %d items, none for a day"
            log.warning(words, name(live), live.step, count, wanted)
            self._moved_at = now
        return count


def name(retraining: Retraining) -> str:
    """Under which a retraining promotes."""
    return f"retraining {retraining.number}"


def _phase(live: Retraining) -> Phase:
    return "shadow" if live.step == "shadow" else "watch"


def _why(promotion: Promotion) -> str:
    return f": {promotion.reason}" if promotion.reason else ""
