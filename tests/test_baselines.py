import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pipelines.baselines import ComparisonError, efficiency, read_comparison
from pipelines.comparison import document

ERRORS = {"before": 0.05, "after": 0.02}


def scores(accuracy: float, rows: int = 100) -> dict[str, Any]:
    return {
        name: {"value": value, "low": value - 0.02, "high": value + 0.02}
        for name, value in (("accuracy", accuracy), ("macro_f1", accuracy - 0.1))
    } | {"rows": rows}


def bins(accuracy: float) -> list[dict[str, Any]]:
    return [
        {"low": 0.0, "high": 0.5, "texts": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 1.0, "texts": 100, "confidence": 0.9, "accuracy": accuracy},
    ]


def run(name: str, seed: int, accuracy: dict[str, float], share: float = 1.0, **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "tasks": list(accuracy),
        "seed": seed,
        "share": share,
        "weighting": "static",
        "sharing": "shared",
        "metrics": {
            task: {
                **scores(value),
                "calibration": {when: {"error": error, "bins": bins(value)} for when, error in ERRORS.items()},
                "f1": {"good": value, "bad": value - 0.2},
                "confusion": [[50, 10], [5, 35]],
            }
            for task, value in accuracy.items()
        },
        "seconds": 60.0,
        **given,
    }


def runs() -> list[dict[str, Any]]:
    """Joint learning is better on sentiment, most of all with few labels, and worse on topics."""
    joint = zip((1, 2, 3), (0.86, 0.87, 0.88), (0.90, 0.91, 0.92), strict=True)
    single = zip((1, 2, 3), (0.90, 0.91, 0.92), (0.89, 0.90, 0.93), strict=True)
    return [
        *(run("joint", seed, {"topic": topic, "sentiment": sentiment}) for seed, topic, sentiment in joint),
        *(run("joint", seed, {"topic": 0.87, "sentiment": 0.8 + seed / 100}, share=0.1) for seed in (1, 2)),
        *(run("single", seed, {"sentiment": 0.6 + seed / 100}, share=0.1) for seed in (1, 2)),
        *(
            run("single", seed, {task: value})
            for seed, topic, sentiment in single
            for task, value in (("topic", topic), ("sentiment", sentiment))
        ),
    ]


def write(folder: Path, content: object) -> Path:
    path = folder / "runs.json"
    path.write_text(json.dumps(content))
    return path


def test_runs_are_brought_together_over_their_seeds(tmp_path):
    found = read_comparison(write(tmp_path, {"settings": {"epochs": 2}, "runs": runs()}))

    assert found["settings"] == {"epochs": 2}
    (joint,) = (
        group
        for group in found["groups"]
        if (group["task"], group["share"], group["way"]) == ("topic", 1.0, "joint, static, shared")
    )
    assert joint["accuracy"] == {
        "mean": pytest.approx(0.87),
        "deviation": pytest.approx(0.01),
        "seeds": 3,
    }
    assert joint["macro_f1"]["mean"] == pytest.approx(0.77)


def test_calibration_and_f1_by_label_are_shown_of_every_way(tmp_path):
    shown = "\n".join(document(read_comparison(write(tmp_path, {"settings": {}, "runs": runs()}))))

    assert "| topic | single | 3 | 0.9100 ± 0.0100 | 0.8100 ± 0.0100 | 0.0500 ± 0.0000 | 0.0200 ± 0.0000 |" in shown
    assert "| topic | single | joint, static, shared |" in shown
    assert "| bad | 0.7100 ± 0.0100 | 0.6700 ± 0.0100 |" in shown


def difference(found: dict[str, Any], task: str, share: float) -> dict[str, Any]:
    (row,) = (
        row for row in found["differences"] if (row["task"], row["share"], row["figure"]) == (task, share, "accuracy")
    )
    return row


def test_a_difference_is_joint_less_single_with_the_interval_that_welch_gives(tmp_path):
    found = read_comparison(write(tmp_path, {"settings": {}, "runs": runs()}))

    row = difference(found, "sentiment", 1.0)
    expected = stats.ttest_ind((0.90, 0.91, 0.92), (0.89, 0.90, 0.93), equal_var=False).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(0.01 / 3)
    assert (row["low"], row["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_difference_is_beyond_the_spread_where_the_seeds_do_not_explain_it(tmp_path):
    found = read_comparison(write(tmp_path, {"settings": {}, "runs": runs()}))

    assert difference(found, "topic", 1.0)["beyond_spread"] is True
    assert difference(found, "topic", 1.0)["difference"] == pytest.approx(-0.04)
    assert difference(found, "sentiment", 1.0)["beyond_spread"] is False
    assert difference(found, "sentiment", 0.1)["beyond_spread"] is True


def test_one_seed_cannot_tell_a_difference_from_chance(tmp_path):
    few = [run("joint", 1, {"topic": 0.8, "sentiment": 0.8}), run("single", 1, {"topic": 0.9})]

    found = read_comparison(write(tmp_path, {"settings": {}, "runs": few}))

    assert difference(found, "topic", 1.0)["beyond_spread"] is None
    assert "one seed cannot tell" in "\n".join(document(found))


def test_seeds_that_agree_to_the_last_digit_make_no_spread(tmp_path):
    same = [
        made
        for seed in (1, 2)
        for made in (run("joint", seed, {"topic": 0.75, "sentiment": 0.5}), run("single", seed, {"topic": 0.5}))
    ]

    row = difference(read_comparison(write(tmp_path, {"settings": {}, "runs": same})), "topic", 1.0)

    assert (row["low"], row["high"], row["beyond_spread"]) == (0.25, 0.25, True)


def test_topics_are_compared_with_all_sentiment_labels_alone(tmp_path):
    found = read_comparison(write(tmp_path, {"settings": {}, "runs": runs()}))

    assert {group["share"] for group in found["groups"] if group["task"] == "topic"} == {1.0}
    assert {way: [group["share"] for group in groups] for way, groups in efficiency(found).items()} == {
        "single": [0.1, 1.0],
        "joint, static, shared": [0.1, 1.0],
    }


def test_ways_of_joint_learning_are_kept_apart(tmp_path):
    fused = [run("joint", seed, {"topic": 0.5, "sentiment": 0.5}, sharing="fused") for seed in (1, 2)]

    found = read_comparison(write(tmp_path, {"settings": {}, "runs": runs() + fused}))

    ways = {group["way"]: group["accuracy"]["mean"] for group in found["groups"] if group["task"] == "topic"}
    assert ways == {
        "single": pytest.approx(0.91),
        "joint, static, shared": pytest.approx(0.87),
        "joint, static, fused": pytest.approx(0.5),
    }


def test_each_single_task_model_is_shown_with_its_intervals_and_the_first_with_pictures(tmp_path):
    text = "\n".join(document(read_comparison(write(tmp_path, {"settings": {}, "runs": runs()}))))

    assert "| topic | 2 | 0.910 (0.890 to 0.930) | 0.810 (0.790 to 0.830) | 100 |" in text
    assert text.count("(confusion-topic-alone.svg)") == text.count("(reliability-sentiment-alone.svg)") == 1


def test_models_that_saw_no_headlines_are_shown_on_them_and_kept_out_of_the_comparison(tmp_path):
    outside = [
        run("joint", 1, {"topic": 0.4, "sentiment": 0.85}, headlines=scores(0.7, 9000)),
        run("single", 1, {"sentiment": 0.86}, headlines=scores(0.65, 9000)),
    ]
    without, found = (
        read_comparison(write(tmp_path, {"settings": {}, "runs": given})) for given in (runs(), runs() + outside)
    )

    assert found["groups"] == without["groups"]
    assert found["baselines"] == without["baselines"]
    text = "\n".join(document(found))
    assert (
        "| single | 1 | 0.650 (0.630 to 0.670) | 0.550 (0.530 to 0.570) | 9,000 | 0.860 (0.840 to 0.880) "
        "| 0.760 (0.740 to 0.780) |"
    ) in text
    assert "tweets alone" not in "\n".join(document(without))


def test_the_document_says_where_joint_learning_loses(tmp_path):
    text = "\n".join(document(read_comparison(write(tmp_path, {"settings": {"epochs": 2}, "runs": runs()}))))

    assert (
        "**Joint learning loses** on topic accuracy (joint, static, shared: -4.00 points, beyond the seeds' spread)"
        in text
    )
    assert "It gains on sentiment accuracy at 10% of the sentiment labels" in text
    assert "epochs 2" in text


def changed(**change: Any) -> dict[str, Any]:
    return {"settings": {}, "runs": [{**runs()[0], **change}, *runs()[3:]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"runs\.json: the file: .*found \[\]"),
        ({"settings": {}}, r"runs\.json: runs: Field required"),
        ({"settings": {}, "runs": []}, r"runs\.json: runs: List should have at least 1 item"),
        (changed(seed="x"), r"runs\.json: runs\.0\.seed: .*integer.*found 'x'"),
        (changed(name="both"), r"runs\.json: runs\.0\.name: Input should be 'joint' or 'single', found 'both'"),
        (changed(share=0), r"runs\.json: runs\.0\.share: Input should be greater than 0, found 0"),
        (
            changed(metrics={"topic": scores(87.0)}),
            r"runs\.json: runs\.0\.metrics\.topic\.accuracy\.value: .*less than or equal to 1, found 87\.0",
        ),
        (
            changed(metrics={"topic": {"accuracy": float("nan"), "macro_f1": 0.8, "rows": 9}}),
            r"runs\.json: runs\.0\.metrics\.topic\.accuracy: .*found nan",
        ),
        (
            changed(metrics={"topic": runs()[0]["metrics"]["topic"]}),
            r"runs\.json: runs\.0\.metrics: has topic, expected those of its tasks, topic, sentiment",
        ),
        (changed(name="single"), r"runs\.json: runs\.0\.tasks: topic, sentiment for a run named 'single'"),
        (
            {"settings": {}, "runs": [*runs(), runs()[1]]},
            r"runs\.json: runs\.13: the same way, tasks, share and seed as runs\.1; leave one out",
        ),
        ({"settings": {}, "runs": runs()[:3]}, r"runs\.json: runs: none is named 'single', so there is nothing"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_what_was_found(tmp_path, content, message):
    with pytest.raises(ComparisonError, match=message):
        read_comparison(write(tmp_path, content))


def test_a_file_that_is_absent_or_not_json_is_named(tmp_path):
    with pytest.raises(ComparisonError, match=r"absent\.json: cannot be read \(No such file or directory\)"):
        read_comparison(tmp_path / "absent.json")
    (tmp_path / "runs.json").write_text("{")
    with pytest.raises(ComparisonError, match=r"runs\.json: not JSON"):
        read_comparison(tmp_path / "runs.json")
