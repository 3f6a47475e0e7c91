"""Which texts a retraining learns from and is measured on: what people labelled, base data, and a frozen reference.

Nothing that a model is measured on is learned, neither as it stands nor as a copy: texts of the same words, and items
of one story, stay together. What is newest of the labels is held out, where the champion was not trained on it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from monitor.config import RetrainSettings
from monitor.labels import Label, LabelledItem, majority
from monitor.model.network import MISSING
from monitor.model.text import clean
from monitor.records import MonitorError
from pipelines import dataset, snapshot
from pipelines.snapshot import Snapshot

LEARNABLE: Final = 20
"""Fewest labelled texts of a task that teach it; with fewer, base data must."""
LEAST_OTHERS: Final = 10
"""Fewest texts of a task with another label than its most frequent one: with fewer, who always names that one is
hardly ever wrong, and no figure tells one model from another."""
DEVELOPMENT_SHARE: Final = 0.1

_WORD: Final = re.compile(r"\w+")
_LABELLED: Final = "labelled items: "


class Refused(MonitorError):
    """There is nothing to train or measure with; the message is the retraining's reason, and says what to do."""


@dataclass
class _Text:
    """A text that people labelled, and every vote on any of its items."""

    text: str
    votes: dict[tuple[str, str], Label] = field(default_factory=dict)  # by task and person
    items: list[LabelledItem] = field(default_factory=list)

    def add(self, item: LabelledItem) -> None:
        self.items.append(item)
        for label in item.labels:
            kept = self.votes.get((label.task, label.who))
            if kept is None or _at(label) >= _at(kept):
                self.votes[label.task, label.who] = label

    @property
    def when(self) -> tuple[datetime, datetime]:
        """When it was last labelled, and published."""
        return max(map(_at, self.votes.values())), max(item.scored.item.published_at for item in self.items)


def select(
    labelled: Sequence[LabelledItem],
    tasks: Mapping[str, tuple[str, ...]],
    settings: RetrainSettings,
    *,
    number: int,
    learned: pd.DataFrame | None = None,
) -> Snapshot:
    """What retraining `number` learns and is measured with.

    Args:
        tasks: the champion's.
        number: seeds what is drawn of the base data and for development.
        learned: what the champion was trained on, a table of a snapshot; None: that is not known.

    Raises:
        Refused: there are too few labels, or nothing to measure with.
        DatasetError: base data or the reference cannot be read.
    """
    left_out: Counter[str] = Counter()
    base, reference = _public(settings, tasks, left_out)
    if missing := [task for task in tasks if reference[task].empty]:
        raise Refused(
            f"there is no reference set with labels of {missing[0]!r} to measure a challenger on; set "
            "retrain.reference to a table with the columns text, "
            f"{', '.join(tasks)}, or to the folder of the public sets"
        )
    measured = {words for rows in reference.values() for words in rows["text"].map(_words)}
    rows, stories, found = _people(labelled, tasks, left_out)
    leaked = rows["text"].map(_words).isin(measured)
    left_out[f"{_LABELLED}their text stands in the reference set"] += int(leaked.sum())
    rows, stories = rows[~leaked], [names for names, leak in zip(stories, leaked, strict=True) if not leak]
    _check_labels(rows, len(labelled), tasks, settings)

    groups = _groups(rows, stories)
    newest = _newest(rows, groups, stories, base=base, learned=learned, settings=settings)
    most = round(settings.base_ratio * int((~newest).sum()))
    drawn = _drawn(base, rows, measured=measured, most=most, tasks=tasks, seed=number, left_out=left_out)
    kept = rows[~newest]
    for task in tasks:
        if len(set(pd.concat([kept[task], drawn[task]])) - {MISSING}) < 2:
            raise Refused(
                f"the labels and base data hold {int(kept[task].ne(MISSING).sum())} labels of {task!r} to learn "
                f"from, of fewer than two kinds, and a model trained without them would forget {task!r}; set "
                "retrain.base_data to texts with labels of it, and retrain.base_ratio above 0"
            )
    development, of_base = _development(kept, groups[~newest], drawn, tasks, number)
    return Snapshot(
        tasks=tasks,
        train=_table([kept[~development], drawn.drop(of_base)], tasks),
        development=_table([kept[development], drawn.loc[of_base]], tasks),
        newest=_table([rows[newest]], tasks),
        reference={task: _table([reference[task]], tasks) for task in tasks},
        found={
            "items": len(labelled),
            "labelled": len(rows),
            "learned": int((~newest).sum()),
            "newest": int(newest.sum()),
            "base": len(drawn),
            "reference": {task: len(reference[task]) for task in tasks},
            **found,
            "left_out": {reason: count for reason, count in left_out.items() if count},
        },
    )


def said(found: Mapping[str, object]) -> list[str]:
    """What a snapshot's `found` says, a line each, for a log."""
    left_out: Mapping[str, int] = found["left_out"]  # type: ignore[assignment]
    lines = [
        f"left out {count:,} of {found['items']:,} {reason}"
        if reason.startswith(_LABELLED)
        else f"left out {count:,} {reason}"
        for reason, count in left_out.items()
    ]
    return [
        *lines,
        f"{found['learned']:,} labelled texts and {found['base']:,} of base data to learn from; "
        f"{found['newest']:,} newest labelled texts to measure on; people disagree on {found['disagreements']:,} "
        "labels",
    ]


def _people(
    labelled: Sequence[LabelledItem], tasks: Mapping[str, tuple[str, ...]], left_out: Counter[str]
) -> tuple[pd.DataFrame, list[set[str]], dict[str, int]]:
    """A row for each text that people labelled, by time, the stories of each, and how far people agree."""
    texts: dict[str, _Text] = {}
    for item in labelled:
        text = clean(item.scored.item.text)
        texts.setdefault(text.casefold(), _Text(text)).add(item)
    empty = texts.pop("", None)
    left_out[f"{_LABELLED}no text left after cleaning"] += len(empty.items) if empty else 0
    left_out[f"{_LABELLED}same text as another one, whose labels count with its own"] += sum(
        len(text.items) - 1 for text in texts.values()
    )
    rows, stories, found = [], [], Counter(disagreements=0, ties=0)
    for one in sorted(texts.values(), key=lambda one: one.when):
        row: dict[str, object] = {"text": one.text}
        for task, labels in tasks.items():
            votes = [label for (of, _), label in one.votes.items() if of == task]
            row[task] = _label(task, votes, labels, left_out, found)
        if all(row[task] == MISSING for task in tasks):
            left_out[f"{_LABELLED}no label that most people give and the model knows"] += 1
            continue
        newest = max(one.items, key=lambda item: max(map(_at, item.labels)))
        at, published_at = one.when
        who = sorted({who for _, who in one.votes})
        row |= {"item": newest.scored.item.id, "story": newest.story, "who": ", ".join(who), "at": f"{at:%FT%T.%fZ}"}
        rows.append(row | {"published": published_at})
        stories.append({item.story for item in one.items})
    columns = [*snapshot.empty_table(tasks).columns, "published"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(tasks, "int64"))
    return table, stories, dict(found)


def _label(
    task: str, votes: Sequence[Label], labels: Sequence[str], left_out: Counter[str], found: Counter[str]
) -> int:
    """The index of the label that most people give; `MISSING` where there is none that the model knows."""
    if not votes:
        return MISSING
    verdict = majority(votes)
    counts = Counter(vote.label for vote in votes)
    found["disagreements"] += len(counts) > 1
    if list(counts.values()).count(verdict.votes) > 1:
        found["ties"] += 1
        return MISSING
    if verdict.label not in labels:
        left_out[f"labels of {task}: the champion does not know {verdict.label!r}"] += 1
        return MISSING
    return labels.index(verdict.label)


def _check_labels(
    rows: pd.DataFrame, items: int, tasks: Mapping[str, tuple[str, ...]], settings: RetrainSettings
) -> None:
    if len(rows) < settings.min_labels:
        raise Refused(
            f"{len(rows)} labelled texts are left of {items} labelled items, a retraining needs "
            f"{settings.min_labels}; label more (sentiment-monitor label --queue lists what is worth it), or lower "
            "retrain.min_labels"
        )
    for task, labels in tasks.items():
        counts = rows[task][rows[task].ne(MISSING)].value_counts()
        all_, most = int(counts.sum()), int(counts.max()) if len(counts) else 0
        if all_ >= LEARNABLE and all_ - most < LEAST_OTHERS:
            raise Refused(
                f"{most} of {all_} labels of {task!r} are {labels[counts.index[0]]!r}, and fewer than {LEAST_OTHERS} "
                "are others, so nothing can be learned or measured of it; label texts of other kinds too"
            )


def _newest(
    rows: pd.DataFrame,
    groups: np.ndarray,
    stories: Sequence[set[str]],
    *,
    base: pd.DataFrame,
    learned: pd.DataFrame | None,
    settings: RetrainSettings,
) -> np.ndarray:
    """Which rows are held out, (rows,): the newest groups, of those that the champion was not trained on.

    Where most of them were, half of the others are left to learn from, so that there is something new.
    """
    known = set(base["text"].map(_words))
    known_stories: set[str] = set()
    if learned is not None:
        known |= set(learned["text"].map(_words))
        known_stories = set(learned["story"]) - {""}
    told_before = [bool(names & known_stories) for names in stories]
    seen = rows["text"].map(_words).isin(known).to_numpy() | np.array(told_before, bool)
    old = set(groups[seen])
    unseen = int((~np.isin(groups, list(old))).sum())
    share = settings.newest_share
    wanted = min(round(share * len(rows)), round(max(share, 0.5) * unseen))
    least = max(1, math.ceil(settings.min_labels * share / 2))
    if wanted < least:
        raise Refused(
            f"{unseen} of {len(rows)} labelled texts are none that the champion was trained on, too few to hold "
            f"{least} of them out to measure on; label more of the newest items (sentiment-monitor label --queue)"
        )
    when = list(zip(rows["at"], rows["published"], strict=True))
    newest_of: dict[int, tuple[str, datetime]] = {}
    for group, at in zip(groups, when, strict=True):
        newest_of[group] = max(at, newest_of.get(group, at))
    held: set[int] = set()
    sizes, count = Counter(groups.tolist()), 0
    for group in sorted(newest_of.keys() - old, key=newest_of.__getitem__, reverse=True):
        if count >= wanted:
            break
        held.add(group)
        count += sizes[group]
    return np.isin(groups, list(held))


def _groups(rows: pd.DataFrame, stories: Sequence[set[str]]) -> np.ndarray:
    """The number of each row's group, (rows,): rows of one story or of the same words are of one."""
    keys: dict[tuple[str, str], int] = {}
    edges = []
    for row, (words, names) in enumerate(zip(rows["text"].map(_words), stories, strict=True)):
        of_row = [("words", words), *(("story", name) for name in names)]
        edges += [(row, len(rows) + keys.setdefault(key, len(keys))) for key in of_row]
    nodes = len(rows) + len(keys)
    ends = np.array(edges, int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers[: len(rows)])


def _drawn(
    base: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    measured: set[str],
    most: int,
    tasks: Mapping[str, tuple[str, ...]],
    seed: int,
    left_out: Counter[str],
) -> pd.DataFrame:
    """At most so many rows of base data, as their labels are mixed there."""
    words = base["text"].map(_words)
    leaks, labelled = words.isin(measured), words.isin(set(rows["text"].map(_words)))
    left_out["texts of base data: they stand in the reference set"] += int(leaks.sum())
    left_out["texts of base data: people labelled them"] += int((labelled & ~leaks).sum())
    base = base[~leaks & ~labelled]
    if len(base) > most:
        parts = base.groupby(list(tasks), sort=True)
        base = parts.sample(frac=most / len(base), random_state=seed) if most else base[:0]
        base = base.sample(n=min(most, len(base)), random_state=seed).sort_index()
    return base.reset_index(drop=True)


def _development(
    kept: pd.DataFrame, groups: np.ndarray, drawn: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]], seed: int
) -> tuple[np.ndarray, pd.Index]:
    """Which labelled rows, (rows,), and which of base data are for development; each task has some."""
    of_base = dataset.stratified(drawn, tasks, DEVELOPMENT_SHARE, seed).index
    firsts = kept[~pd.Series(groups, kept.index).duplicated()]
    chosen = set(groups[kept.index.isin(dataset.stratified(firsts, tasks, DEVELOPMENT_SHARE, seed).index)])
    for task in tasks:
        has_base = drawn.loc[of_base, task].ne(MISSING).any()
        labelled = kept[task].ne(MISSING).to_numpy()
        if has_base or np.isin(groups[labelled], list(chosen)).any():
            continue
        if labelled.any():
            chosen |= set(groups[labelled][:: round(1 / DEVELOPMENT_SHARE)])
        else:
            of_base = of_base.union(drawn.index[drawn[task].ne(MISSING)][:: round(1 / DEVELOPMENT_SHARE)])
    return np.isin(groups, list(chosen)), of_base


def _public(
    settings: RetrainSettings, tasks: Mapping[str, tuple[str, ...]], left_out: Counter[str]
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Base data, and by task the reference set; both without what the champion's tasks do not have."""
    base, reference = snapshot.empty_table(tasks), dict.fromkeys(tasks, snapshot.empty_table(tasks))
    source, frozen = settings.base_data, settings.reference
    if source is not None and source.is_dir():
        data = dataset.load(source, seed=0, with_headlines=settings.base_headlines)
        both = pd.concat([data.train, data.development], ignore_index=True)
        base = _renumbered(both, data.tasks, tasks, _count(left_out, "base data"))
        if frozen is None:
            frozen = source
    elif source is not None:
        base = dataset.read_table(source, tasks)
        base = base[~dataset.keys(base).duplicated() & base["text"].ne("")]
        base = base[base[list(tasks)].ne(MISSING).any(axis=1)].reset_index(drop=True)
    if frozen is not None and frozen.is_dir():
        sets = dataset.load(frozen, seed=0, with_headlines=False)
        count = _count(left_out, "the reference set")
        reference |= {
            task: _renumbered(rows, sets.tasks, {task: tasks[task]}, count).reindex(
                columns=["text", *tasks], fill_value=MISSING
            )
            for task, rows in sets.validation.items()
            if task in tasks
        }
    elif frozen is not None:
        rows = dataset.read_table(frozen, tasks)
        rows = rows[rows["text"].ne("") & ~dataset.keys(rows).duplicated()]
        reference = {task: rows[rows[task].ne(MISSING)].reset_index(drop=True) for task in tasks}
    return base, reference


def _count(left_out: Counter[str], where: str) -> Callable[[str, int], None]:
    def note(task: str, count: int) -> None:
        left_out[f"labels of {task} in {where}: the champion does not know them"] += count

    return note


def _renumbered(
    rows: pd.DataFrame,
    given: Mapping[str, tuple[str, ...]],
    tasks: Mapping[str, tuple[str, ...]],
    note: Callable[[str, int], None],
) -> pd.DataFrame:
    """Rows of the tasks `given` as rows of `tasks`, without those that then have no label."""
    made = rows[["text"]].copy()
    for task, labels in tasks.items():
        made[task] = MISSING
        if task in given:
            places = {labels_at: labels.index(name) for labels_at, name in enumerate(given[task]) if name in labels}
            made[task] = rows[task].map(lambda label, places=places: places.get(label, MISSING)).astype("int64")
            note(task, int((rows[task].ne(MISSING) & made[task].eq(MISSING)).sum()))
    return made[made[list(tasks)].ne(MISSING).any(axis=1)].reset_index(drop=True)


def _table(parts: Sequence[pd.DataFrame], tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """Rows as a snapshot has them."""
    columns = snapshot.empty_table(tasks).columns
    rows = [part.reindex(columns=columns, fill_value="") for part in parts if len(part)]
    if not rows:
        return snapshot.empty_table(tasks)
    return pd.concat(rows, ignore_index=True).astype(dict.fromkeys(tasks, "int64"))


def _words(text: str) -> str:
    """Equal for texts of the same words, whatever their order, letter case and punctuation."""
    return " ".join(sorted(_WORD.findall(text.casefold()))) or text.casefold()


def _at(label: Label) -> datetime:
    assert label.at is not None  # noqa: S101  (what is stored has its time)
    return label.at.astimezone(UTC)
