"""Which labels may be wrong."""

import csv
import io
import random
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.config import RetrainSettings
from monitor.model import checkpoint
from monitor.records import SENTIMENTS
from monitor.store import Store
from pipelines import audit, selection
from pipelines.snapshot import Snapshot
from tests import tiny_model
from tests.retraining_world import Told, add, texts, told, write_champion, write_table


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Checkpoint:
    folder = tmp_path_factory.mktemp("champion")
    return checkpoint.read(write_champion(folder / "model", tiny_model.write_encoder(folder / "encoder"), epochs=8))


def taken(items: list[Told], folder: Path) -> Snapshot:
    settings = RetrainSettings(
        base_data=write_table(folder / "base.csv", texts(100, 5, "qrstuvw")),
        reference=write_table(folder / "reference.csv", texts(60, 6, "klmnop")),
        min_labels=20,
    )
    with Store("sqlite://") as store:
        add(store, items)
        return selection.select(store.labels.labelled(), tiny_model.TASKS, settings, number=1)


def flipped(items: list[Told], share: float) -> tuple[list[Told], set[str]]:
    """Labels of which some name another sentiment than the text; and the items whose do."""
    rng = random.Random(4)
    wrong = set(rng.sample([one.id for one in items], round(share * len(items))))
    return [
        replace(one, sentiment=SENTIMENTS[(SENTIMENTS.index(one.sentiment or "") + 1) % 3])
        if one.id in wrong
        else one
        for one in items
    ], wrong


def test_labels_that_were_flipped_are_listed_with_what_was_meant(
    champion: checkpoint.Checkpoint, tmp_path: Path
) -> None:
    right = {one.id: one for one in told(300)}
    items, wrong = flipped(list(right.values()), 0.1)

    found = audit.audit(champion, taken(items, tmp_path), seed=1)

    rows = list(csv.DictReader(io.StringIO(found.csv())))
    listed = {row["item"] for row in rows if row["task"] == "sentiment"}
    assert len(listed & wrong) >= 0.9 * len(wrong)
    assert len(listed - wrong) <= 10
    assert found.tasks["sentiment"].share == pytest.approx(0.1, abs=0.03)
    assert found.tasks["topic"].share < 0.03
    assert found.worst == "sentiment"
    [row] = [row for row in rows if row["item"] == min(wrong & listed)][:1]
    meant = right[row["item"]]
    assert (row["suggested"], row["text"], row["who"]) == (meant.sentiment, meant.title, "Ada")
    assert row["label"] != meant.sentiment
    assert float(row["p_label"]) < float(row["p_suggested"])
    assert found.lines()[1].startswith(f"{len(listed)} of 300 labels of 'sentiment' may be wrong (")
    assert found.plain()["sentiment"]["listed"] == len(listed)


def test_copies_of_a_text_do_not_vouch_for_its_wrong_label(champion: checkpoint.Checkpoint, tmp_path: Path) -> None:
    items = told(200)
    wrong = replace(items[7], sentiment=SENTIMENTS[(SENTIMENTS.index(items[7].sentiment or "") + 1) % 3], story="s")
    items[7] = wrong
    items += [replace(wrong, id=f"copy{n}", title=f"{wrong.title} {n}") for n in range(12)]

    found = audit.audit(champion, taken(items, tmp_path), seed=1)

    listed = found.suspicious[found.suspicious["task"].eq("sentiment")]["item"]
    assert {"n7", *(f"copy{n}" for n in range(12))} <= set(listed)


def test_of_few_labels_no_share_is_told(champion: checkpoint.Checkpoint, tmp_path: Path) -> None:
    found = audit.audit(champion, taken(told(30), tmp_path), seed=1)

    assert (found.plain(), found.worst, len(found.suspicious)) == ({}, None, 0)
    assert found.csv() == "item,text,task,label,suggested,p_label,p_suggested,who,part\n"
    assert found.lines() == ["no task has 50 labels from people, too few to say how many are wrong"]
