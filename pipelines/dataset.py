"""Labelled texts, public sets or a table of one's own -> one de-duplicated, split and hashed training set."""

import ast
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from monitor.model.network import MISSING
from monitor.model.scorer import SENTIMENT, TOPIC
from monitor.model.text import clean
from monitor.records import SENTIMENTS

HEADLINES: Final = Path("sentfin") / "SEntFiN.csv"
"""Where SEntFiN lies under the folder of the sets."""
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


def load(folder: Path, *, seed: int, development_share: float = 0.1, with_headlines: bool = True) -> Dataset:
    """Twitter Financial News (topic and sentiment) and SEntFiN headlines under `folder`, de-duplicated and split.

    Texts are compared as the model reads them: cleaned, letter case ignored. Texts of the validation files are
    removed from train before anything else. A text that its rows label differently keeps no label of that task.

    Args:
        with_headlines: False leaves SEntFiN out, for a model that shall be measured on it.

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

    removed: dict[str, int] = {}
    if with_headlines:
        path = folder / HEADLINES
        rows, removed = _headlines(path, tasks)
        sha256[path.name] = _sha256(path)
        train_rows.append(rows)

    return _assembled(
        tasks,
        pd.concat(train_rows, ignore_index=True),
        validation,
        removed=removed,
        sha256=sha256,
        seed=seed,
        development_share=development_share,
    )


def headlines(folder: Path, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """SEntFiN's headlines whose entities all have one sentiment: each text once, as a row of a `Dataset`.

    Raises:
        DatasetError: the file is absent or not as expected.
    """
    rows, _ = _headlines(folder / HEADLINES, tasks)
    agreed = rows.groupby(keys(rows))[SENTIMENT].transform("nunique").eq(1)
    return rows[agreed & ~keys(rows).duplicated() & rows["text"].ne("")].reset_index(drop=True)


def load_table(
    path: Path,
    validation: Path | None = None,
    *,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    seed: int,
    development_share: float = 0.1,
) -> Dataset:
    """A table of one's own, de-duplicated and split: CSV or JSON Lines with a column `text` and a column a task.

    An empty cell, a missing key and null mean that the text lacks the task's label.

    Args:
        path: what to train on, and to cut the development set out of.
        validation: what to measure on; None cuts a tenth out of `path`.
        labels: by task, the labels that may occur, in order; tasks not named here take those that do, sorted, save
            `sentiment`, whose labels are fixed.

    Raises:
        DatasetError: a file is absent or not as expected, or a task has fewer than two labels.
    """
    table = _table(path)
    named = {SENTIMENT: SENTIMENTS, **(labels or {})}
    columns = [str(column) for column in table.columns if column != "text"]
    if missing := [task for task in labels or {} if task not in columns]:
        raise DatasetError(f"{path}: no column {missing[0]!r}, a task of the options; it has {', '.join(columns)}")
    tasks = {}
    for task in columns:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", task):
            raise DatasetError(
                f"{path}: column {task!r} cannot name a task; use small letters, digits and underscores"
            )
        tasks[task] = named.get(task) or tuple(sorted(set(table[task]) - {""}))
        if len(tasks[task]) < 2:
            raise DatasetError(f"{path}: column {task!r} holds {len(tasks[task])} labels, a task needs two or more")
    if not tasks:
        raise DatasetError(f"{path}: only the column text; a task needs a column of labels")
    rows = _numbered(path, table, tasks)
    sha256 = {path.name: _sha256(path)}
    if validation is not None:
        held_out = _numbered(validation, _table(validation).reindex(columns=["text", *tasks], fill_value=""), tasks)
        sha256[validation.name] = _sha256(validation)
    else:
        held_out = rows[~keys(rows).duplicated()].sample(frac=0.1, random_state=seed)
    by_task = {task: held_out[held_out[task].ne(MISSING)].reset_index(drop=True) for task in tasks}
    if empty := [task for task, kept in by_task.items() if kept.empty]:
        raise DatasetError(
            f"{validation or path}: no text with a label of {empty[0]!r} to measure on; give more rows"
        )
    return _assembled(tasks, rows, by_task, removed={}, sha256=sha256, seed=seed, development_share=development_share)


def read_table(path: Path, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """A table of one's own as rows of a `Dataset` of these tasks, as they stand there; other columns are not read.

    Raises:
        DatasetError: the file is absent or not as expected.
    """
    return _numbered(path, _table(path).reindex(columns=["text", *tasks], fill_value=""), tasks)


def _table(path: Path) -> pd.DataFrame:
    """A CSV or JSON Lines file as text: every cell a string, trimmed, empty where there is none."""
    try:
        if path.suffix.lower() == ".csv":
            raw = pd.read_csv(path, dtype="str", keep_default_na=False)
        else:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            records = [_object(path, number, line) for number, line in enumerate(lines, 1)]
            raw = pd.DataFrame(records, dtype="object").fillna("")
    except OSError as error:
        raise _absent(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not {path.suffix or 'text'} in UTF-8 ({error})") from error
    if "text" not in raw.columns:
        raise DatasetError(f"{path}: no column text; it has {', '.join(map(str, raw.columns)) or 'none'}")
    return raw.map(lambda cell: str(cell).strip())


def _object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{path}: line {number} is not JSON ({error}); expected an object a line") from error
    if not isinstance(found, dict):
        raise DatasetError(
            f"{path}: line {number} is {type(found).__name__}, expected an object with text and labels"
        )
    return found


def _numbered(path: Path, table: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """The table with cleaned texts and the labels as indices."""
    rows = pd.DataFrame({"text": table["text"].map(clean)})
    for task, labels in tasks.items():
        unknown = ~table[task].isin([*labels, ""])
        if unknown.any():
            row = int(unknown.to_numpy().argmax())
            raise DatasetError(
                f"{path}: row {row + 1}: {task} is {table[task].iloc[row]!r}, expected one of {', '.join(labels)}"
            )
        rows[task] = table[task].map({label: index for index, label in enumerate(labels)} | {"": MISSING})
    return rows


def _assembled(
    tasks: Mapping[str, tuple[str, ...]],
    joined: pd.DataFrame,
    validation: Mapping[str, pd.DataFrame],
    *,
    removed: dict[str, int],
    sha256: dict[str, str],
    seed: int,
    development_share: float,
) -> Dataset:
    """Rows to train on without those of the validation sets and without repeats, and the development set cut out."""
    held_out = set().union(*(keys(rows) for rows in validation.values()))
    for task in tasks:
        leaked = joined[task].ne(MISSING) & keys(joined).isin(held_out)
        removed[f"{task}: text stands in validation"] = int(leaked.sum())
    joined = joined[~keys(joined).isin(held_out)]
    removed["no text left after cleaning"] = int(joined["text"].eq("").sum())
    joined = joined[joined["text"].ne("")]
    merged = _merge_duplicates(joined, tasks)
    unlabelled = merged[list(tasks)].eq(MISSING).all(axis=1)
    removed["repeats an earlier row"] = len(joined) - len(merged)
    removed["without a label, or its rows contradict each other"] = int(unlabelled.sum())
    merged = merged[~unlabelled].reset_index(drop=True)

    development = stratified(merged, tasks, development_share, seed)
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


def keys(rows: pd.DataFrame) -> pd.Series:
    """What texts are compared by: letter case does not count."""
    return rows["text"].str.casefold()


def _merge_duplicates(rows: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """One row a text, in order of first appearance, with the labels of all its rows."""

    def agreed(labels: pd.Series) -> int:
        given = labels[labels.ne(MISSING)].unique()
        return int(given[0]) if len(given) == 1 else MISSING

    by = keys(rows)
    repeated = by.duplicated(keep=False)
    merged = rows[~by.duplicated()].set_index(by[~by.duplicated()])
    for task in tasks:
        merged.update(rows[repeated].groupby(by[repeated], sort=False)[task].agg(agreed))
    return merged.astype(dict.fromkeys(tasks, "int64"))


def stratified(rows: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]], share: float, seed: int) -> pd.DataFrame:
    """`share` of the rows of every combination of labels."""
    return rows.groupby(list(tasks), sort=True).sample(frac=share, random_state=seed).sort_index()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table_hash(*tables: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.to_csv(index=False, lineterminator="\n").encode())
    return digest.hexdigest()
