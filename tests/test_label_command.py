"""`label`, as a user runs it: labels from a file, and the list of what is worth labelling."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.store import Store
from tests.test_cli import _lines, _on_a_terminal, _run
from tests.test_store_batches import DAY, NEWS, NOW, entry, moved
from tests.test_stored_labels import given, history


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    url = f"sqlite:///{tmp_path / 'monitor.db'}"
    monkeypatch.setenv("SENTIMENT_STORE__URL", url)
    store = Store(url)
    # Sentiments from torn, the first, to sure, the last.
    scores = {"a": -0.5, "b": -0.6, "c": -0.8, "d": -1.0}
    store.commit(NEWS, [entry(name, 1, score=score) for name, score in scores.items()], [moved(4)], NOW)
    return store


def test_labels_of_a_file_are_stored_and_summed_up_and_a_second_time_change_nothing(
    tmp_path: Path, store: Store
) -> None:
    file = tmp_path / "labels.jsonl"
    records = [
        {"id": "a", "task": "sentiment", "label": "negative", "by": "Ada", "at": "2024-03-08T09:00:00Z"},
        {"id": "a", "sentiment": "neutral", "topic": "Banks", "by": "Bob"},
        {"id": "b", "sentiment": "", "by": ""},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = _run("label", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "3 labels stored, 0 stored before, 1 of the 3 records blank, 0 of the 3 records rejected",
        "topic: 1 items labelled, of 1 the model had said the same; 0 labelled by several people",
        # A tie, so Bob's counts, which came last.
        "sentiment: 1 items labelled, of 0 the model had said the same; 1 labelled by several people, "
        "who agree with Krippendorff's alpha 0.00",
    ]
    done = _run("label", file)
    assert done.stderr.startswith("0 labels stored, 3 stored before, ")
    assert [(who, label) for who, label, _ in history(store)] == [
        ("Ada", "negative"), ("Bob", "Banks"), ("Bob", "neutral"),
    ]  # fmt: skip


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_what_is_wrong_is_told_with_its_line_and_the_rest_is_stored(
    tmp_path: Path, store: Store, strict: bool, code: int
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "id,topic,sentiment,by\na,Banks,negative,Ada\nz,,neutral,Ada\nb,,Bad,Ada\nc,Bank,neutral,Ada\nd,,,\n"
    )
    done = _run("label", file, *(["--strict"] if strict else []))
    assert done.returncode == code
    assert done.stderr.splitlines()[:4] == [
        f"{file}, line 3: id: 'z' is no item of this database; give an id that `label --queue` or an alert shows",
        f"{file}, line 4: sentiment: 'Bad' is no sentiment, expected one of negative, neutral, positive",
        f"{file}, line 5: topic: 'Bank' is no topic, expected one of Banks; did you mean 'Banks'?",
        "2 labels stored, 0 stored before, 1 of the 5 records blank, 3 of the 5 records rejected "
        "(2 bad_value, 1 unknown_item)",
    ]
    assert {label.item for label in store.labels.standing()} == {"a"}, "a record is stored whole or not at all"


def test_csv_columns_can_be_mapped(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("item,analyst,task,label,when\na,Ada,sentiment,neutral,2024-03-08T09:00:00Z\n")
    done = _run("label", file, "--columns", "id=item,by=analyst,at=when")
    assert done.returncode == 0, done.stderr
    assert store.labels.standing() == [given("neutral", hour=9)]
    done = _run("label", file, "--columns", "id=item,by=analyst,title=when")
    assert done.returncode == 2
    assert "columns: title is no key of the record of labels, expected id, task, label, topic" in done.stderr
    done = _run("label", file)
    assert "has no column 'id' (for id), 'by' (for by); its columns are 'item', 'analyst'" in done.stderr


def test_labels_are_read_from_standard_input(store: Store) -> None:
    done = _run("label", "-", stdin='{"id": "a", "sentiment": "neutral", "by": "Ada"}\n{"id": "z"}\n')
    assert "standard input, line 2: label: missing; give task and label" in done.stderr
    assert [label.label for label in store.labels.standing()] == ["neutral"]


def test_the_queue_lists_what_is_most_worth_labelling_as_forms_to_fill_in(tmp_path: Path, store: Store) -> None:
    output = tmp_path / "queue.jsonl"
    assert _run("label", "--queue", "2", "--output", output).returncode == 0
    first, second = _lines(output.read_text())
    assert [first["id"], second["id"]] == ["a", "b"]
    assert first == {
        "id": "a", "title": "Title of a", "body": "Body of a", "published_at": "2024-03-08T00:01:00Z",
        "source": "Wire", "url": "https://wire.test/1", "model": "m1",
        "model_topic": "Banks", "model_topic_prob": 1.0, "model_sentiment": "negative",
        "model_sentiment_prob": 0.5, "uncertainty": 0.5, "topic": "", "sentiment": "",
        "by": "",
    }  # fmt: skip

    first |= {"sentiment": "neutral", "by": "Ada"}
    output.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    done = _run("label", output)
    assert done.stderr.startswith(
        "1 labels stored, 0 stored before, 1 of the 2 records blank, 0 of the 2 records rej"
    )
    done = _run("label", "--queue", "9")
    assert [line["id"] for line in _lines(done.stdout)] == ["b", "c"]
    assert done.stderr == "2 items: there are no more stories that nobody labelled in the newest 14 days of news\n"


def test_the_queue_looks_back_as_far_as_it_is_told(store: Store) -> None:
    later = entry("new", event_at=DAY + timedelta(days=3))
    store.commit(NEWS, [later], [moved(5, by=1)], NOW)
    assert [line["id"] for line in _lines(_run("label", "--queue", "9", "--days", "2").stdout)] == ["new"]
    done = _run("label", "--queue", "9", SENTIMENT_LABELS__QUEUE_DAYS="2")
    assert [line["id"] for line in _lines(done.stdout)] == ["new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: give a FILE of labels to store, or --queue N"),
        (["labels.csv", "--queue", "3"], "--queue: lists items, and labels.csv holds labels; give one of the two"),
        (["labels.csv", "--output", "x"], "--output: is for --queue N, and labels.csv is read, not written"),
        (["labels.csv", "--days", "3"], "--days: is for --queue N"),
        (["nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--queue", "0"], "'--queue': Input should be greater than"),
    ],
)
def test_a_misuse_ends_in_one_line_and_code_2(store: Store, arguments: list[str], message: str) -> None:
    done = _run("label", *arguments)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert message in done.stderr


def test_progress_is_shown_on_a_terminal(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "labels.jsonl"
    record = json.dumps({"id": "a", "sentiment": "neutral", "by": "Ada"})
    file.write_text(f"{record}\n" * 500)
    code, written = _on_a_terminal(["label", file])
    assert code == 0
    assert "━" in written
    assert "1 labels stored, 499 stored before" in written.replace("\r\n", " ")
