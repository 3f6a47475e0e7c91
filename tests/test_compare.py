import json
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.model.network import MISSING
from pipelines import compare
from pipelines.baselines import read_comparison
from pipelines.compare import Plan, plans, restricted
from pipelines.dataset import Dataset
from tests import tiny_model
from tests.test_train import OPTIONS, rows


@pytest.fixture(scope="module")
def data() -> Dataset:
    validation = rows(60, 3)
    return Dataset(
        tasks=tiny_model.TASKS,
        train=rows(200, 1),
        development=rows(60, 2),
        validation={
            task: validation.loc[validation[task].ne(MISSING)].reset_index(drop=True) for task in tiny_model.TASKS
        },
        removed={},
        sha256={"set": "0" * 64},
    )


def test_every_way_seed_and_share_is_planned_once_and_topics_alone_only_with_all_labels():
    found = list(plans(["topic", "sentiment"], [1, 2], [0.1, 1]))

    both, topic, sentiment = ("topic", "sentiment"), ("topic",), ("sentiment",)
    assert [(plan.tasks, plan.share, plan.with_headlines) for plan in found if plan.seed == 1] == [
        (both, 1, True),
        (topic, 1, True),
        (sentiment, 1, True),
        (both, 0.1, True),
        (sentiment, 0.1, True),
        (both, 1, False),
        (sentiment, 1, False),
    ]
    assert len(found) == len({plan.name for plan in found}) == 14


def test_a_single_tasks_set_has_its_labelled_rows_alone(data):
    part = restricted(data, Plan(("sentiment",), 1, 1.0))

    assert list(part.train.columns) == ["text", "sentiment"]
    assert part.train["sentiment"].ne(MISSING).all()
    assert len(part.train) == data.train["sentiment"].ne(MISSING).sum()
    assert list(part.tasks) == ["sentiment"] == list(part.validation)


def test_a_share_takes_sentiment_labels_from_train_alone_and_no_topic(data):
    part = restricted(data, Plan(("topic", "sentiment"), 1, 0.3))

    labelled = data.train["sentiment"].ne(MISSING).sum()
    assert part.train["sentiment"].ne(MISSING).sum() == round(0.3 * labelled)
    assert part.train["topic"].ne(MISSING).sum() == data.train["topic"].ne(MISSING).sum()
    assert part.development["sentiment"].ne(MISSING).sum() == data.development["sentiment"].ne(MISSING).sum()
    other = restricted(data, Plan(("topic", "sentiment"), 2, 0.3))
    assert set(other.train["text"]) != set(part.train["text"])


def test_a_model_is_trained_measured_and_kept_and_its_results_are_read_by_the_report(data, tmp_path: Path):
    options = replace(OPTIONS, epochs=1, encoder=str(tiny_model.write_encoder(tmp_path / "encoder")))
    wanted = [Plan(("topic", "sentiment"), 1, 1.0), Plan(("topic",), 1, 1.0), Plan(("sentiment",), 1, 1.0)]

    runs = [compare.run(plan, data, tmp_path / plan.name, options) for plan in wanted]
    again = compare.run(wanted[0], data, tmp_path / wanted[0].name, replace(options, learning_rate=1.0))

    assert again == runs[0]  # it was not trained anew
    assert [run["name"] for run in runs] == ["joint", "single", "single"]
    assert runs[0]["metrics"].keys() == {"topic", "sentiment"}
    for run in runs:
        assert run["headlines"] is None
        for scores in run["metrics"].values():
            assert 0 <= scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"] <= 1
            correct = sum(row[label] for label, row in enumerate(scores["confusion"]))
            assert correct / scores["rows"] == pytest.approx(scores["accuracy"]["value"], abs=1e-4)
            assert sum(part["texts"] for part in scores["calibration"]["after"]["bins"]) == scores["rows"]
    assert all(
        scores["f1"].keys() == set(tiny_model.TASKS[task]) for run in runs for task, scores in run["metrics"].items()
    )
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps({"settings": options.plain(), "runs": runs}))
    assert read_comparison(file)["settings"]["learning_rate"] == options.learning_rate


def test_a_model_that_saw_no_headlines_is_measured_on_them_too(data, tmp_path: Path):
    options = replace(OPTIONS, epochs=1, encoder=str(tiny_model.write_encoder(tmp_path / "encoder")))
    titles = data.validation["sentiment"].head(20)

    outcome = compare.run(
        Plan(("sentiment",), 1, with_headlines=False), data, tmp_path / "model", options, headlines=titles
    )

    assert outcome["headlines"]["rows"] == 20
    assert outcome["headlines"]["accuracy"]["value"] * 20 == pytest.approx(
        round(outcome["headlines"]["accuracy"]["value"] * 20)
    )
