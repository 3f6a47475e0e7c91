"""Which texts a retraining learns from and is measured on, and how they are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from monitor.config import RetrainSettings
from monitor.model.network import MISSING
from monitor.store import Store
from pipelines import selection, snapshot
from pipelines.selection import Refused
from pipelines.snapshot import Snapshot, SnapshotError
from tests import tiny_model
from tests.retraining_world import Told, add, texts, told, write_table

TASKS = tiny_model.TASKS


@pytest.fixture
def settings(tmp_path: Path) -> RetrainSettings:
    return RetrainSettings(
        base_data=write_table(tmp_path / "base.csv", texts(300, 5, "qrstuvw")),
        reference=write_table(tmp_path / "reference.csv", texts(60, 6, "klmnop")),
        min_labels=20,
    )


def select(
    items: list[Told], settings: RetrainSettings, number: int = 1, learned: pd.DataFrame | None = None
) -> Snapshot:
    with Store("sqlite://") as store:
        add(store, items)
        return selection.select(store.labels.labelled(), TASKS, settings, number=number, learned=learned)


def ids(rows: pd.DataFrame) -> set[str]:
    return set(rows["item"]) - {""}


def test_the_newest_labelled_texts_are_held_out_and_all_others_are_learned(settings: RetrainSettings) -> None:
    taken = select(told(100), settings)

    assert ids(taken.newest) == {f"n{row}" for row in range(80, 100)}
    assert ids(taken.train) | ids(taken.development) == {f"n{row}" for row in range(80)}
    assert not ids(taken.train) & ids(taken.development)
    assert len(ids(taken.development)) >= 2
    assert (taken.newest["text"].isin(taken.train["text"])).sum() == 0
    first = taken.newest.iloc[0]
    assert (first["who"], first["at"]) == ("Ada", "2026-03-10T10:20:00.000000Z")
    wanted = {text: (topic, sentiment) for text, topic, sentiment in texts(100, 1)}
    for _, row in taken.labelled().iterrows():
        labels = tuple(TASKS[task][row[task]] for task in TASKS)
        assert labels == wanted[row["text"]]


def test_at_most_base_ratio_texts_of_base_data_go_with_each_labelled_one_and_others_each_time(
    settings: RetrainSettings,
) -> None:
    drawn = []
    for number in (1, 1, 2):
        taken = select(told(50), replace(settings, base_ratio=2), number)
        both = pd.concat([taken.train, taken.development])
        drawn.append(set(both[both["item"].eq("")]["text"]))
    assert 70 <= len(drawn[0]) <= 80  # of 40 that are learned
    assert drawn[0] == drawn[1] != drawn[2]


def test_copies_of_one_story_never_stand_on_both_sides_and_go_to_the_newer(settings: RetrainSettings) -> None:
    items = [replace(one, story="s" if one.id in ("n3", "n97") else None) for one in told(100)]
    words = items[98].title.split()
    items[5] = replace(items[5], title=" ".join(reversed(words)).upper() + "!")  # the words of n98

    taken = select(items, settings)

    assert {"n3", "n97", "n5", "n98"} <= ids(taken.newest)
    assert not ids(taken.newest) & (ids(taken.train) | ids(taken.development))


def test_what_stands_in_the_reference_set_is_neither_learned_nor_measured_on_as_new(
    settings: RetrainSettings,
) -> None:
    items, frozen = told(100), texts(60, 6, "klmnop")
    items[0] = replace(items[0], title=frozen[0][0].upper())
    items[99] = replace(items[99], title=" ".join(sorted(frozen[1][0].split())))
    base = pd.read_csv(settings.base_data)
    base.loc[0] = frozen[2]
    base.to_csv(settings.base_data, index=False)

    taken = select(items, replace(settings, base_ratio=99))

    kept = {" ".join(sorted(text.lower().split())) for text in [*taken.train["text"], *taken.newest["text"]]}
    assert not kept & {" ".join(sorted(text.split())) for text, _, _ in frozen}
    lines = selection.said(taken.found)
    assert "left out 2 of 100 labelled items: their text stands in the reference set" in lines
    assert "left out 1 texts of base data: they stand in the reference set" in lines


def test_a_text_that_people_labelled_is_not_also_learned_as_base_data(settings: RetrainSettings) -> None:
    items = told(100)
    write_table(
        settings.base_data,
        [*texts(50, 5, "qrstuvw"), (items[0].title, "Energy", "negative"), (items[1].title, "", "")],
    )

    taken = select(items, replace(settings, base_ratio=99))

    both = pd.concat([taken.train, taken.development])
    assert list(both[both["text"].eq(items[0].title)]["item"]) == ["n0"]


def test_most_people_decide_a_tie_says_nothing_and_copies_are_voted_on_together(settings: RetrainSettings) -> None:
    items = told(100)
    a, b, c = items[:3]
    items += [
        replace(a, who="Bob", sentiment="positive"), replace(a, who="Eve", sentiment="positive"),
        replace(b, who="Bob", sentiment="positive" if b.sentiment != "positive" else "negative"),
        replace(c, id="copy", who="Bob", sentiment="neutral"), replace(c, id="copy2", who="Eve", sentiment="neutral"),
    ]  # fmt: skip
    items[0] = replace(a, sentiment="negative")
    items[2] = replace(c, sentiment="negative")

    taken = select(items, settings)

    rows = taken.labelled().set_index("text")
    assert rows.loc[a.title, "sentiment"] == TASKS["sentiment"].index("positive")
    assert rows.loc[b.title, "sentiment"] == MISSING
    assert rows.loc[b.title, "topic"] != MISSING
    assert rows.loc[c.title, "sentiment"] == TASKS["sentiment"].index("neutral")
    assert rows.loc[c.title, "who"] == "Ada, Bob, Eve"
    assert (taken.found["disagreements"], taken.found["ties"]) == (3, 1)


def test_a_label_that_the_champion_does_not_have_is_left_out_and_counted(settings: RetrainSettings) -> None:
    items = told(100)
    items[4] = replace(items[4], topic="Crypto")

    taken = select(items, settings)

    assert taken.labelled().set_index("item").loc["n4", "topic"] == MISSING
    assert "left out 1 labels of topic: the champion does not know 'Crypto'" in selection.said(taken.found)


def test_what_the_champion_was_trained_on_is_never_held_out(settings: RetrainSettings) -> None:
    items = told(100)
    first = select(items[:90], settings)
    learned = pd.concat([first.train, first.development], ignore_index=True)

    taken = select(items, settings, learned=learned)

    assert not ids(taken.newest) & ids(learned)
    # Ten are new and eighteen were held out before: half of these are held out, so that there is something to learn.
    assert ids(taken.newest) == {f"n{row}" for row in range(86, 100)}

    items[99] = replace(items[99], story="n3")  # a late copy of what it was trained on
    assert "n99" not in ids(select(items, settings, learned=learned).newest)
    with pytest.raises(Refused, match="0 of 72 labelled texts are none that the champion was trained on, too few"):
        select(items[:72], settings, learned=learned)


def test_too_few_labels_are_refused_with_the_figures(settings: RetrainSettings) -> None:
    with pytest.raises(Refused, match=r"5 labelled texts are left of 5 labelled items, a retraining needs 20; label"):
        select(told(5), settings)


def test_without_a_reference_set_nothing_is_trained(settings: RetrainSettings) -> None:
    with pytest.raises(Refused, match=r"no reference set with labels of 'topic'.*set retrain.reference to a table"):
        select(told(100), replace(settings, reference=None))


def test_labels_of_one_kind_are_refused(settings: RetrainSettings) -> None:
    items = [replace(one, sentiment="negative" if row > 5 else one.sentiment) for row, one in enumerate(told(100))]
    with pytest.raises(Refused, match=r"of 100 labels of 'sentiment' are 'negative', and fewer than 10 are others, "):
        select(items, settings)


def test_labels_of_one_task_alone_need_base_data_with_the_other(settings: RetrainSettings) -> None:
    items = [replace(one, sentiment=None) for one in told(100)]
    with pytest.raises(
        Refused, match=r"hold 0 labels of 'sentiment' to learn.*would forget 'sentiment'; set retrain"
    ):
        select(items, replace(settings, base_data=None))

    taken = select(items, settings)

    assert taken.train["sentiment"].ne(MISSING).sum() > 100
    assert taken.development["sentiment"].ne(MISSING).any()
    assert taken.newest["sentiment"].eq(MISSING).all()


def test_a_snapshot_is_read_back_as_it_was_written_and_never_written_over(
    settings: RetrainSettings, tmp_path: Path
) -> None:
    taken = select(told(100), settings)
    sha256 = snapshot.write(tmp_path / "snapshot", taken)

    found, again = snapshot.read(tmp_path / "snapshot", sha256)

    assert again == sha256
    assert found.found == taken.found
    for name, rows in taken.tables().items():
        pd.testing.assert_frame_equal(found.tables()[name], rows, check_dtype=False)
    with pytest.raises(SnapshotError, match="snapshot: holds a snapshot, which is never written over"):
        snapshot.write(tmp_path / "snapshot", taken)
    assert snapshot.write(tmp_path / "other", taken) == sha256
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "snapshot").iterdir()} == {0o444}


def test_a_file_that_was_changed_is_named(settings: RetrainSettings, tmp_path: Path) -> None:
    sha256 = snapshot.write(tmp_path / "s", select(told(100), settings))
    file = tmp_path / "s" / "newest.jsonl"
    content = file.read_text()
    file.chmod(0o644)
    file.write_text(content.replace("negative", "positive", 1))
    with pytest.raises(
        SnapshotError, match=r"newest.jsonl: its SHA-256 is .*, the manifest says .*; put the file back"
    ):
        snapshot.read(tmp_path / "s", sha256)

    file.write_text(content)
    manifest = tmp_path / "s" / "manifest.json"
    manifest.chmod(0o644)
    described = json.loads(manifest.read_text())
    described["found"]["items"] = 1
    manifest.write_text(json.dumps(described))
    with pytest.raises(SnapshotError, match=r"manifest.json: says its SHA-256 is .*, but it is"):
        snapshot.read(tmp_path / "s")


def test_another_snapshot_than_the_retrainings_is_refused(settings: RetrainSettings, tmp_path: Path) -> None:
    snapshot.write(tmp_path / "s", select(told(100), settings))
    with pytest.raises(SnapshotError, match=r"the retraining began with 000; put the folder back as it was"):
        snapshot.read(tmp_path / "s", "000")


def test_what_a_kill_left_half_written_is_no_snapshot(settings: RetrainSettings, tmp_path: Path) -> None:
    taken = select(told(100), settings)
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "half')
    (folder / "train.jsonl").chmod(0o444)
    assert not snapshot.exists(folder)
    with pytest.raises(SnapshotError, match=r"manifest.json: cannot be read"):
        snapshot.read(folder)

    sha256 = snapshot.write(folder, taken)

    assert snapshot.read(folder)[1] == sha256
