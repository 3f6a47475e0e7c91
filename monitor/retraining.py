"""A retraining: its steps, how it ended, and what was found on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

Step = Literal["snapshot", "audit", "train", "calibrate", "gate", "shadow", "watch"]
"""What a retraining is at. The first five are one process's own; the last two are live, and any daemon's."""
Outcome = Literal["promoted", "refused", "failed", "rolled back"]
Trigger = Literal["schedule", "hand", "drift"]
Phase = Literal["shadow", "watch"]
"""When two models score the same items: before the challenger is promoted, and after it."""

STEPS: Final[tuple[Step, ...]] = ("snapshot", "audit", "train", "calibrate", "gate", "shadow", "watch")
LIVE: Final[tuple[Step, ...]] = ("shadow", "watch")
SILENT_AFTER: Final = timedelta(minutes=3)
"""A retraining's process that has not been heard of for this long is dead; another may go on with what it left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One run of the loop.

    Attributes:
        number: 1 for the first, and so on.
        by: which process on which machine is at work, or was last.
        seen_at: when that was last heard of.
        champion: version of the model that was to be beaten, when it began.
        challenger: version of the model that it trained; None: none yet.
        folder: absolute path of its files.
        snapshot: SHA-256 of what it is trained and measured on.
        promotion: number of the promotion that it made.
        found: by step, what it found, as JSON: `snapshot`, `audit`, `train`, `gate`, `shadow`, `watch`.
        outcome: None while it goes on.
        reason: of the outcome, in a sentence.
    """

    number: int
    trigger: Trigger
    by: str
    started_at: datetime
    seen_at: datetime
    step: Step
    champion: str
    challenger: str | None = None
    folder: Path
    snapshot: str | None = None
    promotion: int | None = None
    found: Mapping[str, Any]
    outcome: Outcome | None = None
    reason: str | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two models say of one item: `before` is the champion that a retraining began with, `after` its challenger.

    Attributes:
        before_negative, after_negative: whether it counts as negative, see `spikes.negative_from`.
        before_confidence, after_confidence: the probability of the sentiment.
    """

    item: str
    event_at: datetime
    before_topic: str
    after_topic: str
    before_sentiment: str
    after_sentiment: str
    before_negative: bool
    after_negative: bool
    before_confidence: float
    after_confidence: float
