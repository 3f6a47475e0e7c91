import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from monitor.records import SENTIMENTS
from monitor.store import Store
from pipelines import dataset, trial
from pipelines.contention import Contention
from tests import tiny_model
from tests.retraining_world import LEARNING, SECOND, TOPICS, texts, write_champion

_TFN = ("negative", "positive", "neutral")
_LETTERS = ("klmnop", "qrstuv", "cdefgh", "wxyzij")


def write_sets(folder: Path) -> Path:
    """The public sets' files of texts whose first word tells the topic and whose second the sentiment: headlines by
    words for the sentiment that tweets do not have."""
    for name in ("tfn-topic", "tfn-sentiment", "sentfin"):
        (folder / name).mkdir(parents=True)
    (folder / "tfn-topic" / "classes.txt").write_text("\n".join(TOPICS) + "\n")
    for letters, part in zip(_LETTERS[:2], ("train", "valid"), strict=True):
        rows = texts(300, 5, letters)
        topic = [(text, TOPICS.index(one)) for text, one, _ in rows[:150]]
        sentiment = [(text, _TFN.index(one)) for text, _, one in rows[150:]]
        for found, file in ((topic, f"tfn-topic/topic_{part}.csv"), (sentiment, f"tfn-sentiment/sent_{part}.csv")):
            pd.DataFrame(found, columns=["text", "label"]).to_csv(folder / file, index=False)
    words = dict(zip(SECOND, ("collapse", "the", "strong"), strict=True))
    headlines = [
        {"Title": " ".join(words.get(word, word) for word in text.split()), "Decisions": str({"Alba": sentiment})}
        for text, _, sentiment in texts(900, 8, _LETTERS[2])
    ]
    pd.DataFrame(headlines).to_csv(folder / dataset.HEADLINES, index=False)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def champion(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("champion")
    return write_champion(folder / "model", tiny_model.write_encoder(folder / "encoder"), epochs=8)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch) -> None:
    """Settings by environment, which the trial's own processes read too."""
    options = tmp_path / "options.toml"
    options.write_text(LEARNING.format(epochs=8))
    for name, value in {
        "OPTIONS": options,
        "MIN_LABELS": 100,
        "NICENESS": 0,
        "MAX_LATENCY_RATIO": 1000,
        "MIN_AGREEMENT": 0.05,
        "MAX_NEGATIVE_RATIO": 50,
        "BASE_RATIO": 1,
    }.items():
        monkeypatch.setenv(f"SENTIMENT_RETRAIN__{name}", str(value))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(champion: Path, sets: Path, output: Path, *given: object):
    app = typer.Typer()
    app.command()(trial.main)
    arguments = ("--champion", champion, "--data", sets, "--output", output, *given)
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_challenger_that_learned_from_right_labels_is_promoted_and_is_better_on_other_headlines(
    champion, sets, tmp_path
):
    done = run(champion, sets, tmp_path / "out", "--case", "helps", "--live-items", "100")

    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "trial.json").read_text())["helps"]
    assert (found["outcome"], found["items"], found["labels"]) == ("promoted", 900, 300)
    assert found["champion_now"] == found["challenger"]
    measured = {(one["set"], one["task"]): one for one in found["measured"]}
    assert measured["unlabelled headlines", "sentiment"]["labels"] == 600
    assert measured["unlabelled headlines", "sentiment"]["low"] > 0
    assert {name for name, _ in measured} == {"unlabelled headlines", "reference"}
    assert "sentiment, unlabelled headlines" in done.output
    with Store(f"sqlite:///{tmp_path}/out/helps/monitor.db") as store:
        assert store.models.champion().version == found["challenger"]
        assert store.counts()["items"] > 900


@pytest.mark.parametrize(
    ("case", "labels", "reason"),
    [
        ("five", 5, "5 labelled texts are left of 5 labelled items, a retraining needs 100"),
        ("one-class", 200, "200 of 200 labels of 'sentiment' are 'negative'"),
        ("leak", 200, "0 labelled texts are left of 200 labelled items"),
    ],
)
def test_labels_that_cannot_teach_are_refused_with_the_reason(champion, tmp_path, *, sets, case, labels, reason):
    headlines = 200 if case == "leak" else 600

    done = run(champion, sets, tmp_path / "out", "--case", case, "--headlines", headlines)

    assert done.exit_code == 0, done.output
    assert f"{case}: refused at step snapshot" in done.output
    assert reason in done.output
    found = json.loads((tmp_path / "out" / "trial.json").read_text())[case]
    assert (found["labels"], found["challenger"], found["measured"]) == (labels, None, [])


def test_topics_that_the_champion_gave_itself_teach_nothing(champion, sets, tmp_path):
    done = run(champion, sets, tmp_path / "out", "--case", "one-task")

    assert "one-task: refused" in done.output, done.output


def test_the_speed_beside_a_retraining_is_measured_while_that_trains(champion, sets, tmp_path):
    done = run(
        champion, sets, tmp_path / "out", "--case", "throughput", "--headlines", 600, "--turns", 2, "--turn-s", 0.5
    )

    found = json.loads((tmp_path / "out" / "trial.json").read_text())["throughput"]
    assert len(found["alone"]) == len(found["beside"]) == 2
    assert min(found["trained"]) > 0
    assert "of a core meanwhile" in done.output


def test_the_ratio_is_of_medians():
    found = Contention(cores=2, alone=(100.0, 90.0, 400.0), beside=(80.0, 10.0, 75.0), trained=(0.5, 0.4, 0.9))

    assert found.ratio == 0.75
    assert "100 items a second alone, 75 beside" in trial.told_of_contention(found)
    assert "ratio 0.75, to be >= 0.60: met; the retraining had 50% of a core" in trial.told_of_contention(found)


def test_a_case_that_is_there_is_not_written_over(champion, sets, tmp_path):
    (tmp_path / "out" / "five").mkdir(parents=True)

    done = run(champion, sets, tmp_path / "out", "--case", "five")

    assert done.exit_code == 1
    assert "five: is there already; remove it, or give another folder with --output" in done.output


def test_a_model_of_other_topics_is_refused(champion, sets, tmp_path):
    others = Path(shutil.copytree(sets, tmp_path / "others"))
    (others / "tfn-topic" / "classes.txt").write_text("Earnings\nEnergy\nBanks\n")

    done = run(champion, others, tmp_path / "out", "--case", "five")

    assert done.exit_code == 1
    assert (
        "labels of topic are Earnings, Energy, Financials, those of the public sets are Earnings, Energy, Banks; "
        "give a model that was trained on them" in done.output
    )


def test_a_case_that_there_is_not_is_named(champion, sets, tmp_path):
    done = run(champion, sets, tmp_path / "out", "--case", "six")

    assert done.exit_code == 2
    assert "--case: 'six' is none of helps, flipped" in done.output


def test_flipped_labels_are_so_many_others_and_the_same_for_a_seed(champion, sets, tmp_path):
    options = trial.Options(champion=champion, output=tmp_path, data=sets, headlines=300)
    one = trial.Trial(options, datetime(2026, 3, 1, tzinfo=UTC))

    right = one.labels("helps", {})["sentiment"]
    flipped = one.labels("flipped", {})["sentiment"]

    assert sum(flipped[item] != right[item] for item in right) == 30
    assert set(flipped.values()) == set(SENTIMENTS)
    assert one.labels("flipped", {})["sentiment"] == flipped
