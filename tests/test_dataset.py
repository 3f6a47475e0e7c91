import hashlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from monitor.model.network import MISSING
from pipelines import dataset
from pipelines.dataset import DatasetError


def write(folder: Path, headlines: Sequence[tuple[str, str]] = (), **files: list[tuple[str, int]]) -> Path:
    """The public sets' files with these rows; `topic_train` and `sent_train` get filler, so that both have rows."""
    for name in ("tfn-topic", "tfn-sentiment", "sentfin"):
        (folder / name).mkdir()
    pd.DataFrame(headlines, columns=["Title", "Decisions"]).to_csv(folder / "sentfin" / "SEntFiN.csv", index=False)
    (folder / "tfn-topic" / "classes.txt").write_text("Energy | Oil\nFinancials\nMacro\n")
    for name in ("topic_train", "topic_valid", "sent_train", "sent_valid"):
        rows = list(files.get(name, []))
        if name.endswith("train"):
            rows += [(f"{name} filler {row}", row % 3) for row in range(60)]
        target = folder / ("tfn-topic" if name.startswith("topic") else "tfn-sentiment") / f"{name}.csv"
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(target, index=False)
    return folder


def rows(data: dataset.Dataset) -> dict[str, tuple[int, int]]:
    """Text -> (topic, sentiment) over train and development."""
    table = pd.concat([data.train, data.development])
    assert not table["text"].duplicated().any()
    return {text: (topic, sentiment) for text, topic, sentiment in table.itertuples(index=False)}


def test_labels_become_indices_into_the_tasks_own_order(tmp_path):
    data = dataset.load(
        write(
            tmp_path, sent_train=[("bear", 0), ("bull", 1), ("calm", 2)], topic_train=[("crude", 0), ("lender", 1)]
        ),
        seed=1,
    )

    assert data.tasks == {
        "topic": ("Energy | Oil", "Financials", "Macro"),
        "sentiment": ("negative", "neutral", "positive"),
    }
    named = rows(data)
    assert named["bear"] == (MISSING, 0)
    assert named["bull"] == (MISSING, 2)
    assert named["calm"] == (MISSING, 1)
    assert named["crude"] == (0, MISSING)
    assert named["lender"] == (1, MISSING)


def test_headlines_count_where_their_entities_agree_and_are_left_out_with_the_reason_elsewhere(tmp_path):
    data = dataset.load(
        write(
            tmp_path,
            headlines=[
                ("banks fall", "{'Alba': 'negative', 'Borea': 'negative'}"),
                ("one up one down", "{'Alba': 'positive', 'Borea': 'negative'}"),
                ("cut short", "{'Alba': 'pos"),
                ("no sentiment", "{'Alba': 'great'}"),
                ("nobody", "{}"),
                ("held out", "{'Alba': 'positive'}"),
            ],
            sent_valid=[("Held  out", 1)],
        ),
        seed=1,
    )

    named = rows(data)
    assert named["banks fall"] == (MISSING, 0)
    assert not {"one up one down", "cut short", "no sentiment", "nobody", "held out"} & named.keys()
    assert data.removed["headline: its entities differ in sentiment"] == 1
    assert data.removed["headline: its sentiments cannot be read"] == 3
    assert data.removed["sentiment: text stands in validation"] == 1


def test_headlines_can_be_left_out_and_then_each_agreed_one_is_had_once(tmp_path):
    folder = write(
        tmp_path,
        headlines=[
            ("banks fall", "{'Alba': 'negative'}"),
            ("Banks  fall", "{'Alba': 'negative'}"),
            ("torn", "{'Alba': 'negative'}"),
            ("torn", "{'Alba': 'positive'}"),
            ("oil up", "{'Alba': 'positive'}"),
        ],
    )

    data = dataset.load(folder, seed=1, with_headlines=False)
    found = dataset.headlines(folder, data.tasks)

    assert not {"banks fall", "oil up"} & rows(data).keys()
    assert "SEntFiN.csv" not in data.sha256
    assert found[["text", "sentiment"]].to_numpy().tolist() == [["banks fall", 0], ["oil up", 2]]


def test_texts_are_cleaned_as_the_scorer_cleans_them(tmp_path):
    data = dataset.load(write(tmp_path, topic_train=[("  Johnson &amp;  Johnson\nup https://t.co/aB1 ", 2)]), seed=1)

    assert "Johnson & Johnson up" in rows(data)


def test_a_text_with_both_labels_becomes_one_row(tmp_path):
    data = dataset.load(
        write(tmp_path, topic_train=[("Bank falls https://t.co/1", 1)], sent_train=[("bank  falls", 0)]), seed=1
    )

    assert rows(data)["Bank falls"] == (1, 0)
    assert data.removed["repeats an earlier row"] == 1


def test_texts_of_either_validation_set_are_removed_from_train_and_counted(tmp_path):
    data = dataset.load(
        write(
            tmp_path,
            topic_train=[("leaked", 1), ("LEAKED https://t.co/1", 1), ("kept", 1), ("in the other", 0)],
            topic_valid=[("Leaked https://t.co/2", 1)],
            sent_train=[("twice", 0)],
            sent_valid=[("twice", 1), ("in the other", 0)],
        ),
        seed=1,
    )

    assert not {"leaked", "LEAKED", "twice", "in the other"} & rows(data).keys()
    assert "kept" in rows(data)
    assert data.removed["topic: text stands in validation"] == 3
    assert data.removed["sentiment: text stands in validation"] == 1


def test_validation_keeps_every_row_of_its_file(tmp_path):
    data = dataset.load(write(tmp_path, topic_valid=[("a", 0), ("a", 1), ("b", 2)], sent_valid=[("c", 1)]), seed=1)

    assert data.validation["topic"]["topic"].tolist() == [0, 1, 2]
    assert data.validation["sentiment"]["sentiment"].tolist() == [2]


def test_a_text_that_its_rows_label_differently_keeps_no_label_of_that_task(tmp_path):
    data = dataset.load(
        write(
            tmp_path,
            topic_train=[("torn", 0), ("torn", 1), ("torn", 1), ("half", 0), ("half", 2), ("sure", 1), ("sure", 1)],
            sent_train=[("half", 0)],
        ),
        seed=1,
    )

    named = rows(data)
    assert "torn" not in named
    assert named["half"] == (MISSING, 0)
    assert named["sure"] == (1, MISSING)
    assert data.removed["without a label, or its rows contradict each other"] == 1


def test_a_text_with_nothing_left_after_cleaning_is_removed(tmp_path):
    data = dataset.load(write(tmp_path, topic_train=[("https://t.co/1", 0), ("   ", 1)]), seed=1)

    assert "" not in rows(data)
    assert data.removed["no text left after cleaning"] == 2


def test_words_that_pandas_takes_for_missing_are_texts(tmp_path):
    assert "null" in rows(dataset.load(write(tmp_path, topic_train=[("null", 0)]), seed=1))


def test_the_development_set_has_a_tenth_of_every_label_and_follows_the_seed(tmp_path):
    folder = write(tmp_path)

    first, again, other = (dataset.load(folder, seed=seed) for seed in (1, 1, 2))

    assert len(first.development) == 12
    assert first.development["topic"].value_counts().to_dict() == {MISSING: 6, 0: 2, 1: 2, 2: 2}
    assert not set(first.train["text"]) & set(first.development["text"])
    assert len(first.train) + len(first.development) == 120
    pd.testing.assert_frame_equal(first.development, again.development)
    assert first.sha256["set"] == again.sha256["set"] != other.sha256["set"]


def test_hashes_tell_which_files_and_which_set_a_model_saw(tmp_path):
    folder = write(tmp_path)
    before = dataset.load(folder, seed=1).sha256
    file = folder / "tfn-topic" / "topic_train.csv"
    assert before["topic_train.csv"] == hashlib.sha256(file.read_bytes()).hexdigest()

    file.write_text(file.read_text() + "one more,1\n")
    after = dataset.load(folder, seed=1).sha256

    assert {name for name in before if before[name] != after[name]} == {"topic_train.csv", "set"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nbank,3\n", r"topic_train\.csv: label 3 is none of 0 to 2"),
        ("text,label\nbank,up\n", r"topic_train\.csv: label 'up' is none of 0 to 2"),
        ("headline,label\nbank,1\n", r"topic_train\.csv: columns headline, label, expected text,label"),
        ("", r"topic_train\.csv: not CSV"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, content, message):
    write(tmp_path)
    (tmp_path / "tfn-topic" / "topic_train.csv").write_text(content)

    with pytest.raises(DatasetError, match=message):
        dataset.load(tmp_path, seed=1)


def test_an_absent_set_is_named_with_how_to_give_it(tmp_path):
    with pytest.raises(DatasetError, match=r"classes\.txt: cannot be read .*; name the folder .* MONITOR_DATA"):
        dataset.load(tmp_path, seed=1)


def test_two_topics_of_one_name_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "tfn-topic" / "classes.txt").write_text("Macro\nMacro\nEnergy\n")

    with pytest.raises(DatasetError, match=r"classes\.txt: expected one topic a line, none empty, none twice"):
        dataset.load(tmp_path, seed=1)


def test_the_folder_of_the_sets_can_be_given_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MONITOR_DATA", str(tmp_path))
    assert dataset.default_folder() == tmp_path


def test_the_public_sets_give_the_known_numbers():
    folder = dataset.default_folder()
    if not (folder / "tfn-topic").is_dir():
        pytest.skip(f"the public sets are not in {folder}; name their folder with MONITOR_DATA")
    data = dataset.load(folder, seed=1)

    assert len(data.tasks["topic"]) == 20
    assert {task: len(rows) for task, rows in data.validation.items()} == {"topic": 4117, "sentiment": 2388}
    assert 33_000 < len(data.train) + len(data.development) < 34_500
    texts = pd.concat([data.train, data.development])["text"].str.casefold()
    assert not texts.duplicated().any()
    for held_out in data.validation.values():
        assert not texts.isin(held_out["text"].str.casefold()).any()
    assert (data.development["topic"].value_counts().drop(MISSING) > 0).sum() == 20


# -- a table of one's own


def own(folder, rows: str, name: str = "own.csv"):
    (folder / name).write_text(rows, encoding="utf-8")
    return folder / name


MANY = "text,topic,urgency\n" + "".join(
    f"text number {number},{('Rain', 'Sun')[number % 2]},{('low', 'high', '')[number % 3]}\n" for number in range(60)
)


def test_a_table_of_ones_own_has_a_task_for_each_column_beside_the_text(tmp_path):
    data = dataset.load_table(own(tmp_path, MANY), seed=1)

    assert data.tasks == {"topic": ("Rain", "Sun"), "urgency": ("high", "low")}
    assert sum(map(len, (data.train, data.development))) == 54  # a tenth went to validation
    assert len(data.validation["topic"]) == 6  # every text has a topic, two of three an urgency
    assert 1 <= len(data.validation["urgency"]) <= 6
    texts = [set(part["text"]) for part in (data.train, data.development, data.validation["topic"])]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_json_lines_say_the_same_as_csv(tmp_path):
    import json

    lines = [
        json.dumps(
            {"text": f"text number {n}", "topic": ("Rain", "Sun")[n % 2], "urgency": ("low", "high", None)[n % 3]}
        )
        for n in range(60)
    ]
    csv, jsonl = own(tmp_path, MANY), own(tmp_path, "\n".join(lines), "own.jsonl")

    assert dataset.load_table(csv, seed=1).sha256["set"] == dataset.load_table(jsonl, seed=1).sha256["set"]


def test_a_file_of_its_own_can_be_measured_on(tmp_path):
    held_out = own(tmp_path, "text,topic,urgency\ntext number 3,Sun,low\nnew,Rain,\n", "held.csv")

    data = dataset.load_table(own(tmp_path, MANY), held_out, labels={"urgency": ("low", "high")}, seed=1)

    assert data.tasks["urgency"] == ("low", "high")
    assert data.validation["topic"]["text"].tolist() == ["text number 3", "new"]
    assert data.validation["urgency"]["urgency"].tolist() == [0]
    assert "text number 3" not in set(data.train["text"]) | set(data.development["text"])
    assert data.removed["topic: text stands in validation"] == 1


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("title,topic\na,b\n", "own.csv", r"own\.csv: no column text; it has title, topic"),
        ("text\na\n", "own.csv", "only the column text; a task needs a column of labels"),
        ("text,topic\na,x\nb,x\n", "own.csv", "column 'topic' holds 1 labels, a task needs two or more"),
        ("text,Top ic\na,x\nb,y\n", "own.csv", "column 'Top ic' cannot name a task; use small letters"),
        ("text,sentiment\na,good\nb,bad\n", "own.csv", "row 1: sentiment is 'good', expected one of negative"),
        ('{"text": "a"\n', "own.jsonl", r"own\.jsonl: line 1 is not JSON"),
        ("[1]\n", "own.jsonl", "line 1 is list, expected an object with text and labels"),
    ],
)
def test_a_wrong_table_is_told_where_and_how(tmp_path, content, name, message):
    with pytest.raises(DatasetError, match=message):
        dataset.load_table(own(tmp_path, content, name), seed=1)


def test_a_task_of_the_options_must_be_a_column(tmp_path):
    with pytest.raises(DatasetError, match="no column 'mood', a task of the options; it has topic, urgency"):
        dataset.load_table(own(tmp_path, MANY), labels={"mood": ("a", "b")}, seed=1)
