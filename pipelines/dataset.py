"""Public sets of labelled texts -> one de-duplicated, split and hashed training set."""

import ast
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, TOPIC
from monitor.model.text import clean
from monitor.records import SENTIMENTS

_TFN_SENTIMENTS: Final = ("negative", "positive", "neutral")
"""The set's own order: 0 bearish, 1 bullish, 2 neutral."""


class DatasetError(ValueError):
    """Labelled data is absent or wrong; the message names the file, the value and what was expected."""


@dataclass(frozen=True)
class Dataset:
    """Texts with their labels: one row a text, one column a task, `MISSING` where the text lacks its label.

    The columns are `text` (cleaned) and then the tasks in order, each an index into the task's labels.
    No text of `validation` stands in the other two, and none stands in more than one of the three.

    Attributes:
        tasks: the labels of each task, in order.
        train: what a model learns from.
        development: cut out of train, for early stopping and for choices.
        validation: by task, for measuring alone; one row for each row of the task's file.
        removed: how many rows of the training files were left out, by reason.
        sha256: of each file read, and of the resulting three sets under `set`.
    """

    tasks: Mapping[str, tuple[str, ...]]
    train: pd.DataFrame
    development: pd.DataFrame
    validation: Mapping[str, pd.DataFrame]
    removed: Mapping[str, int]
    sha256: Mapping[str, str] = field(repr=False)


def default_folder() -> Path:
    """Where the public sets are looked for: the folder that MONITOR_DATA names, else ../shared/data."""
    return Path(os.environ.get("MONITOR_DATA", Path(__file__).parents[2] / "shared" / "data"))


def load(folder: Path, *, seed: int, development_share: float = 0.1) -> Dataset:
    """Twitter Financial News (topic and sentiment) and SEntFiN headlines under `folder`, de-duplicated and split.

    Texts are compared as the model reads them: cleaned, letter case ignored. Texts of the validation files are
    removed from train before anything else. A text that its rows label differently keeps no label of that task.

    Raises:
        DatasetError: a file is absent or not as expected.
    """
    names = folder / "tfn-topic" / "classes.txt"
    topics = _topics(names)
    tasks = {TOPIC: topics, SENTIMENT: SENTIMENTS}
    sources = {
        TOPIC: (folder / "tfn-topic" / "topic_{}.csv", topics),
        SENTIMENT: (folder / "tfn-sentiment" / "sent_{}.csv", _TFN_SENTIMENTS),
    }
    train_rows, validation, sha256 = [], {}, {names.name: _sha256(names)}
    for task, (pattern, labels) in sources.items():
        for part in ("train", "valid"):
            path = pattern.with_name(pattern.name.format(part))
            rows = _labelled(path, task, labels, tasks)
            sha256[path.name] = _sha256(path)
            if part == "train":
                train_rows.append(rows)
            else:
                validation[task] = rows

    headlines = folder / "sentfin" / "SEntFiN.csv"
    rows, removed = _headlines(headlines, tasks)
    sha256[headlines.name] = _sha256(headlines)
    train_rows.append(rows)

    held_out = set().union(*(_keys(rows) for rows in validation.values()))
    joined = pd.concat(train_rows, ignore_index=True)
    for task in tasks:
        leaked = joined[task].ne(MISSING) & _keys(joined).isin(held_out)
        removed[f"{task}: text stands in validation"] = int(leaked.sum())
    joined = joined[~_keys(joined).isin(held_out)]
    removed["no text left after cleaning"] = int(joined["text"].eq("").sum())
    joined = joined[joined["text"].ne("")]
    merged = _merge_duplicates(joined, tasks)
    unlabelled = merged[list(tasks)].eq(MISSING).all(axis=1)
    removed["repeats an earlier row"] = len(joined) - len(merged)
    removed["text whose rows contradict each other"] = int(unlabelled.sum())
    merged = merged[~unlabelled].reset_index(drop=True)

    development = _stratified(merged, tasks, development_share, seed)
    train = merged.drop(development.index).reset_index(drop=True)
    development = development.reset_index(drop=True)
    sha256["set"] = _table_hash(train, development, *validation.values())
    return Dataset(tasks, train, development, validation, removed, sha256)


def _topics(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise _absent(path, error) from error
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise DatasetError(f"{path}: expected one topic a line, none empty, none twice")
    return names


def _labelled(path: Path, task: str, labels: tuple[str, ...], tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """A file of `text,label`, its labels numbered in the order of `labels`, as rows of the joined table."""
    try:
        raw = pd.read_csv(path, dtype={"text": "str"}, keep_default_na=False)
    except OSError as error:
        raise _absent(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not CSV in UTF-8 ({error})") from error
    if list(raw.columns) != ["text", "label"]:
        raise DatasetError(f"{path}: columns {', '.join(map(str, raw.columns))}, expected text,label")
    known = raw["label"].isin(range(len(labels)))
    if not known.all():
        wrong = raw["label"][~known].tolist()[0]
        raise DatasetError(f"{path}: label {wrong!r} is none of 0 to {len(labels) - 1}")
    rows = pd.DataFrame({"text": raw["text"].map(clean)})
    for name in tasks:
        rows[name] = MISSING
    rows[task] = raw["label"].map([tasks[task].index(label) for label in labels].__getitem__)
    return rows


def _headlines(path: Path, tasks: Mapping[str, tuple[str, ...]]) -> tuple[pd.DataFrame, dict[str, int]]:
    """SEntFiN's headlines whose entities all have one sentiment, and how many rows were left out, by reason."""
    try:
        raw = pd.read_csv(path, dtype="str", keep_default_na=False)
    except OSError as error:
        raise _absent(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not CSV in UTF-8 ({error})") from error
    if not {"Title", "Decisions"} <= set(raw.columns):
        raise DatasetError(f"{path}: columns {', '.join(raw.columns)}, expected Title and Decisions among them")
    sentiments = raw["Decisions"].map(_sentiments_of)
    unanimous = sentiments.map(len).eq(1)
    left_out = {
        "headline: its sentiments cannot be read": int(sentiments.map(len).eq(0).sum()),
        "headline: its entities differ in sentiment": int(sentiments.map(len).gt(1).sum()),
    }
    rows = pd.DataFrame({"text": raw["Title"][unanimous].map(clean)}).assign(**dict.fromkeys(tasks, MISSING))
    rows[SENTIMENT] = sentiments[unanimous].map(lambda found: tasks[SENTIMENT].index(next(iter(found))))
    return rows, left_out


def _sentiments_of(decisions: str) -> set[str]:
    """The sentiments in a Python literal of entity -> sentiment; none where it is no such literal."""
    try:
        found = set(ast.literal_eval(decisions).values())
    except (ValueError, SyntaxError, AttributeError, TypeError):
        return set()
    return found if found <= set(SENTIMENTS) else set()


def _absent(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path}: cannot be read ({error.strerror}); name the folder of the sets with --data or MONITOR_DATA"
    )


def _keys(rows: pd.DataFrame) -> pd.Series:
    return rows["text"].str.casefold()


def _merge_duplicates(rows: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """One row a text, in order of first appearance, with the labels of all its rows."""

    def agreed(labels: pd.Series) -> int:
        given = labels[labels.ne(MISSING)].unique()
        return int(given[0]) if len(given) == 1 else MISSING

    keys = _keys(rows)
    repeated = keys.duplicated(keep=False)
    merged = rows[~keys.duplicated()].set_index(keys[~keys.duplicated()])
    for task in tasks:
        merged.update(rows[repeated].groupby(keys[repeated], sort=False)[task].agg(agreed))
    return merged.astype(dict.fromkeys(tasks, "int64"))


def _stratified(rows: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]], share: float, seed: int) -> pd.DataFrame:
    """`share` of the rows of every combination of labels."""
    return rows.groupby(list(tasks), sort=True).sample(frac=share, random_state=seed).sort_index()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table_hash(*tables: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.to_csv(index=False, lineterminator="\n").encode())
    return digest.hexdigest()
