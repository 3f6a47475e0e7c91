"""What a retraining learns from and is measured on, as files that are written once and never changed.

A snapshot is a folder of JSON Lines, one text a line with the names of its labels, and a manifest with the SHA-256 of
each file, which is written last: without it, there is no snapshot.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from monitor.model.network import MISSING
from monitor.records import MonitorError
from pipelines import documents
from pipelines.dataset import Dataset

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
NOTES: Final = ("item", "story", "at", "who")
"""Columns beside the text and the tasks, which only what people labelled has: its item, the story, the time of the
newest label (RFC 3339), and who labelled it, by commas."""


class SnapshotError(MonitorError):
    """A snapshot is not there, or not as it was written; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The texts of a retraining, in tables of one row a text: columns are `text` (cleaned), the tasks in order, each
    an index into the task's labels or `MISSING`, and `NOTES`, empty where the text is base data.

    Attributes:
        tasks: the labels of each task, in order: the champion's.
        train: what the challenger learns from.
        development: for early stopping and calibration; it is learned from in that sense.
        newest: the newest labelled texts, on which nothing is trained.
        reference: by task, the frozen set that every challenger is measured on.
        found: what went in and what was left out, in figures, as JSON.
    """

    tasks: Mapping[str, tuple[str, ...]]
    train: pd.DataFrame
    development: pd.DataFrame
    newest: pd.DataFrame
    reference: Mapping[str, pd.DataFrame]
    found: Mapping[str, Any]

    def labelled(self) -> pd.DataFrame:
        """Every text that people labelled, with a column `part`: `train`, `development` or `newest`."""
        parts = {"train": self.train, "development": self.development, "newest": self.newest}
        rows = pd.concat([table.assign(part=name) for name, table in parts.items()], ignore_index=True)
        return rows[rows["item"].ne("")].reset_index(drop=True)

    def dataset(self, sha256: str) -> Dataset:
        """What is trained on, as training takes it.

        Args:
            sha256: of the snapshot.
        """
        columns = ["text", *self.tasks]
        return Dataset(
            tasks=self.tasks,
            train=self.train[columns],
            development=self.development[columns],
            validation={task: rows[columns] for task, rows in self.reference.items()},
            removed=self.found["left_out"],
            sha256={"set": sha256},
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Its tables by the name of their file."""
        parts = {"train": self.train, "development": self.development, "newest": self.newest}
        parts |= {f"reference-{task}": rows for task, rows in self.reference.items()}
        return {f"{name}.jsonl": rows for name, rows in parts.items()}


def write(folder: Path, snapshot: Snapshot) -> str:
    """Write a snapshot, and give the SHA-256 over all of it; what a kill left half written is removed first.

    Raises:
        SnapshotError: there is a whole one; it is never written over.
    """
    if (folder / MANIFEST).exists():
        raise SnapshotError(f"{folder}: holds a snapshot, which is never written over; give another folder")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    files = {}
    for name, rows in snapshot.tables().items():
        content = _lines(rows, snapshot.tasks)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "rows": len(rows)}
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o444)
    described = {
        "format": FORMAT,
        "tasks": [[task, list(labels)] for task, labels in snapshot.tasks.items()],
        "files": files,
        "found": dict(snapshot.found),
    }
    sha256 = _hash_of(described)
    manifest = json.dumps({**described, "sha256": sha256}, indent=2, ensure_ascii=False) + "\n"
    documents.replace(folder, {MANIFEST: manifest.encode()})
    (folder / MANIFEST).chmod(0o444)
    return sha256


def read(folder: Path, expected: str | None = None) -> tuple[Snapshot, str]:
    """The snapshot in a folder and its SHA-256, every file verified.

    Args:
        expected: the SHA-256 that it must have; None takes what its manifest says.

    Raises:
        SnapshotError: there is none, or a file differs from what was written.
    """
    described, sha256 = _manifest(folder)
    if expected is not None and sha256 != expected:
        raise SnapshotError(
            f"{folder / MANIFEST}: the snapshot's SHA-256 is {sha256}, the retraining began with {expected}; put the "
            "folder back as it was, or end the retraining with sentiment-monitor models abandon"
        )
    tasks = {task: tuple(labels) for task, labels in described["tasks"]}
    tables = {}
    for name, file in described["files"].items():
        content = _content(folder / name)
        if (found := hashlib.sha256(content).hexdigest()) != file["sha256"]:
            raise SnapshotError(
                f"{folder / name}: its SHA-256 is {found}, the manifest says {file['sha256']}; put the file back as "
                "it was, or end the retraining with sentiment-monitor models abandon"
            )
        tables[name.removesuffix(".jsonl")] = _table(content, tasks)
    snapshot = Snapshot(
        tasks=tasks,
        train=tables["train"],
        development=tables["development"],
        newest=tables["newest"],
        reference={task: tables[f"reference-{task}"] for task in tasks},
        found=described["found"],
    )
    return snapshot, sha256


def exists(folder: Path) -> bool:
    """Whether a folder holds a whole snapshot."""
    return (folder / MANIFEST).exists()


def empty_table(tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """A table of a snapshot without rows."""
    types = {"text": "str"} | dict.fromkeys(tasks, "int64") | dict.fromkeys(NOTES, "str")
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in types.items()})


def _lines(rows: pd.DataFrame, tasks: Mapping[str, tuple[str, ...]]) -> bytes:
    """A table as JSON Lines: what a row lacks is left out."""
    lines = []
    for row in rows.to_dict("records"):
        line = {"text": row["text"]}
        line |= {task: labels[row[task]] for task, labels in tasks.items() if row[task] != MISSING}
        line |= {name: row[name] for name in NOTES if row.get(name)}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _table(content: bytes, tasks: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    numbers = {task: {label: index for index, label in enumerate(labels)} for task, labels in tasks.items()}
    made = [
        {"text": row["text"]}
        | {task: numbers[task].get(row.get(task), MISSING) for task in tasks}
        | {name: row.get(name, "") for name in NOTES}
        for row in rows
    ]
    return pd.DataFrame(made).astype(dict.fromkeys(tasks, "int64")) if made else empty_table(tasks)


def _manifest(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / MANIFEST
    try:
        described = json.loads(_content(path))
        sha256, format_ = described.pop("sha256"), described["format"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SnapshotError(f"{path}: not a snapshot's manifest ({error}); put the file back as it was") from error
    if format_ != FORMAT:
        raise SnapshotError(f"{path}: format {format_!r}, expected {FORMAT}; use the release that wrote it")
    if (found := _hash_of(described)) != sha256:
        raise SnapshotError(f"{path}: says its SHA-256 is {sha256}, but it is {found}; put the file back as it was")
    return described, sha256


def _hash_of(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SnapshotError(
            f"{path}: cannot be read ({error.strerror}); expected the folder of a retraining's snapshot"
        ) from error
