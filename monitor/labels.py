"""Labels, what people say of items: the only parser of their wire format, the majority, and how far people agree."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import nan
from typing import Final, Literal, cast, get_args

from monitor.records import SENTIMENTS, RecordError, Scored
from monitor.tables import closest
from monitor.wire import MAX_FIELD_CHARS, MAX_ID_CHARS, json_object, moment, shown, text_of

Task = Literal["topic", "sentiment"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
KEYS: Final = ("id", "task", "label", "topic", "sentiment", "by", "at")
"""The keys of a record of labels, which CSV columns can be mapped to."""
REQUIRED_KEYS: Final = ("id", "by")
AHEAD: Final = timedelta(minutes=5)
"""How far a label may be dated after its arrival: clocks differ. One dated further would outlast every later one."""

_MAX_CHARS: Final = 256  # of a label, and of who gives it


@dataclass(frozen=True, slots=True)
class Label:
    """What `who` says of one item: its label in one task.

    `at` is when it was said, in UTC; None: nobody knows, so it counts as said when it is stored.
    """

    item: str
    task: Task
    label: str
    who: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """An item as it stood when it was first labelled, with what the model had said of it then, and the newest label
    of each person in each task."""

    scored: Scored
    story: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What most people say of one item in one task: `votes` of `of` people give `label`."""

    label: str
    votes: int
    of: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """How much was labelled in one task: how many items, and of each that several people labelled, what each says."""

    items: int
    by_several: tuple[tuple[str, ...], ...]


def parse(raw: bytes, arrived_at: datetime) -> tuple[Label, ...]:
    """Read one record of labels: a JSON object in UTF-8, as the README's table of labels describes it.

    Gives none where `topic` and `sentiment` are there and blank: a form that nobody has filled in yet.

    Raises:
        RecordError: the record breaks the contract. Nothing else is raised, whatever the bytes.
    """
    data = json_object(raw)
    answers = _answers(data)
    if not answers and any(task in data for task in TASKS):
        return ()
    if not answers:
        raise RecordError(
            "missing", f"label: missing; give task and label, or topic, sentiment or both; {_keys_of(data)}"
        )
    item, who = _required(data, "id", MAX_ID_CHARS), _required(data, "by", _MAX_CHARS)
    at = _time(data, arrived_at)
    return tuple(Label(item, task, label, who, at) for task, label in answers.items())


def unknown_label(task: Task, label: str, known: Collection[str]) -> RecordError:
    """The error of a label that is none of its task."""
    return RecordError(
        "bad_value",
        f"{task}: {shown(label)} is no {task}, expected one of {', '.join(known)}{closest(label, known)}",
    )


def majority(votes: Collection[Label]) -> Verdict:
    """What most people say, of the newest label of each person for one item and task.

    Where several labels have as many votes, that of them counts which was given last: who looks at an item after
    others had labelled it often does so to settle it. If these were given at one time, the first by the alphabet.
    """
    counts = Counter(vote.label for vote in votes)
    newest: dict[str, datetime] = {}
    for vote in votes:
        at = cast(datetime, vote.at)  # what is stored has its time
        newest[vote.label] = max(at, newest.get(vote.label, at))
    label = max(sorted(counts), key=lambda label: (counts[label], newest[label]))
    return Verdict(label, counts[label], len(votes))


def agreement(items: Iterable[Sequence[str]]) -> float:
    """Krippendorff's alpha for nominal data: 1 where people always agree, 0 where they agree as chance would have it.

    `items` holds, of each item, its labels in one task, one of each person. Only items with two labels or more count;
    nan where there is none, or where everybody always says the same, which says nothing about chance.

    Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: one less the disagreement
    within items over the disagreement among all labels taken together. (The package krippendorff is under the GPL.)
    """
    pairable = [Counter(labels) for labels in items if len(labels) > 1]
    totals = sum(pairable, Counter[str]())
    n = totals.total()
    observed = sum(_unlike_pairs(labels) / (labels.total() - 1) for labels in pairable)
    expected = _unlike_pairs(totals) / (n - 1) if n else 0.0
    return 1 - observed / expected if expected else nan


def votes_by_item(labels: Iterable[Label]) -> dict[tuple[str, Task], list[Label]]:
    """Labels by item and task."""
    votes: dict[tuple[str, Task], list[Label]] = {}
    for label in labels:
        votes.setdefault((label.item, label.task), []).append(label)
    return votes


def _unlike_pairs(labels: Counter[str]) -> int:
    """How many ordered pairs of different labels can be made of these."""
    return labels.total() ** 2 - sum(count**2 for count in labels.values())


def _answers(data: dict[str, object]) -> dict[Task, str]:
    """What the record says in each task; a blank says nothing."""
    given = {task: label for task in TASKS if (label := text_of(data, task, _MAX_CHARS)) is not None}
    task, label = text_of(data, "task", _MAX_CHARS), text_of(data, "label", _MAX_CHARS)
    if task is not None or label is not None:
        if given:
            raise RecordError(
                "bad_value",
                f"label: given twice, give either task and label, or {', '.join(given)}; {_keys_of(data)}",
            )
        if task is None or label is None:
            absent = "task" if task is None else "label"
            raise RecordError("missing", f"{absent}: missing; task and label go together; {_keys_of(data)}")
        if task not in TASKS:
            expected = ", ".join(TASKS)
            raise RecordError(
                "bad_value", f"task: {shown(task)} is no task, expected one of {expected}{closest(task, TASKS)}"
            )
        given = {task: label}
    if (sentiment := given.get("sentiment", SENTIMENTS[0])) not in SENTIMENTS:
        raise unknown_label("sentiment", sentiment, SENTIMENTS)
    return given


def _required(data: dict[str, object], key: str, max_chars: int) -> str:
    value = text_of(data, key, max_chars)
    if value is None:
        what = "blank" if key in data else "missing"
        raise RecordError("missing", f"{key}: {what}; {_keys_of(data)}")
    return value


def _time(data: dict[str, object], arrived_at: datetime) -> datetime | None:
    value = text_of(data, "at", MAX_FIELD_CHARS)
    if value is None:
        return None
    try:
        at = moment(value)
    except ValueError as error:
        raise RecordError("bad_value", f"at: {shown(value)} {error}") from error
    if at > arrived_at + AHEAD:
        raise RecordError(
            "bad_value",
            f"at: {shown(value)} lies after its arrival at {arrived_at:%Y-%m-%dT%H:%M:%SZ}; set the clock right, or "
            f"leave it out",
        )
    return at


def _keys_of(data: dict[str, object]) -> str:
    return f"the record has the keys {shown(sorted(data))}"
