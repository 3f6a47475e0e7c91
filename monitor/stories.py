"""Which items are copies of one story: the same wire text at another publisher, or sent again as an update."""

import hashlib
import html
import re
import unicodedata
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

# What agencies put before a headline that is otherwise the same, and publishers after it.
_PREFIX: Final = re.compile(r"^(?:(?:update|wrapup|refile|corrected|breaking|exclusive|alert)\s*(?:\d+)?\s*[-:]\s*)+")
_SUFFIX: Final = re.compile(r"\s[-|]\s[^-|]{2,40}$")
_NOT_WORD: Final = re.compile(r"[^\w%$.]+")


def story_key(title: str) -> str:
    """What is left of a headline when case, punctuation, an agency's prefix and a publisher's suffix are ignored."""
    text = unicodedata.normalize("NFKC", html.unescape(title)).casefold().strip()
    text = _PREFIX.sub("", text)
    words = _NOT_WORD.sub(" ", _SUFFIX.sub("", text)).strip()
    # A title of marks alone, or that is nothing but its suffix, is compared as it stands.
    return words or text


class Stories:
    """The stories of the last hours. A story is named by a hash of its first headline's key and its time.

    A copy prolongs nothing: what is remembered is when a story was first told, so that a standing headline
    ("Stocks to watch today") is a new story every so often.
    """

    def __init__(self, remember: timedelta) -> None:
        self._remember = remember
        self._first_told: OrderedDict[str, tuple[str, datetime]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._first_told)

    def assign(self, title: str, event_at: datetime) -> tuple[str, bool]:
        """The story that an item with this title tells, and whether it is a copy of one told before."""
        key = story_key(title)
        known = self._first_told.get(key)
        if known is not None and abs(event_at - known[1]) <= self._remember:
            return known[0], True
        story = hashlib.blake2b(f"{key}\x1f{event_at.isoformat()}".encode(), digest_size=8).hexdigest()
        self._first_told[key] = (story, event_at)
        return story, False

    def restore(self, title: str, story: str, event_at: datetime) -> None:
        """Remember an item whose story was assigned before a restart; oldest first."""
        key = story_key(title)
        if key not in self._first_told or self._first_told[key][0] != story:
            self._first_told[key] = (story, event_at)

    def forget(self, before: datetime) -> None:
        """Forget the stories that were first told before this event time."""
        old = [key for key, (_, told_at) in self._first_told.items() if told_at < before]
        for key in old:
            del self._first_told[key]
