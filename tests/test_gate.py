import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from monitor.config import ModelSettings
from monitor.gate_verdict import Row, Verdict
from monitor.model import checkpoint, quantize
from monitor.model.network import MISSING
from monitor.model.scorer import open_scorer
from monitor.records import SENTIMENTS
from monitor.retrain_settings import RetrainSettings
from pipelines import gate
from pipelines.gate import Answers
from tests import tiny_model

TASKS = tiny_model.TASKS
SETTINGS = RetrainSettings()
UNTIMED = RetrainSettings(max_latency_ratio=1e6)
NEGATIVE, NEUTRAL, POSITIVE = range(3)


def answers(
    rows: int, champion: float, challenger: float, *, task: str = "sentiment", name: str = "reference", seed: int = 0
) -> Answers:
    """Of `rows` texts each model has this share right: what the weaker has right, the other has too."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, 3, rows)
    own = rng.random(rows)

    def said(right: float) -> np.ndarray:
        return np.where(own < right, wanted, (wanted + 1) % 3)

    return Answers(
        set=name,
        task=task,
        labels=TASKS[task],
        texts=[f"text {row}" for row in range(rows)],
        wanted=wanted,
        champion=said(champion),
        challenger=said(challenger),
    )


def verdict(*sets: Answers, settings: RetrainSettings = SETTINGS) -> Verdict:
    return gate.decide(gate.rows_of(sets, settings, seed=1))


def found(given: Verdict) -> dict[tuple[str, str], str]:
    return {(row.measure, row.set): row.found for row in given.rows}


def test_a_challenger_that_is_better_in_one_task_and_as_good_in_the_other_passes():
    given = verdict(answers(2_000, 0.80, 0.85), answers(2_000, 0.85, 0.85, task="topic"))

    assert given.passed
    assert given.reason.startswith("better: sentiment accuracy on the reference set 0.7995 to 0.8535 (+0.0540")
    assert found(given)["sentiment accuracy", "reference"] == "better"
    assert found(given)["topic accuracy", "reference"] == "holds"


def test_a_challenger_that_says_the_same_is_refused_as_not_better():
    given = verdict(answers(2_000, 0.85, 0.85), answers(2_000, 0.85, 0.85, task="topic"))

    assert not given.passed
    assert given.reason.startswith("not better beyond chance in any of 4 measures; the largest gain: ")
    assert set(found(given).values()) == {"holds"}


def test_a_challenger_that_is_worse_in_one_task_is_refused_however_much_better_it_is_in_the_other():
    given = verdict(answers(2_000, 0.75, 0.90), answers(2_000, 0.85, 0.80, task="topic"))

    assert not given.passed
    assert given.reason.startswith("topic accuracy on the reference set 0.8")
    assert "at least -0.0100 is borne" in given.reason


def test_a_loss_within_the_margin_is_borne_where_the_set_is_large_enough_to_see_it():
    lost = answers(40_000, 0.850, 0.846)

    assert found(verdict(lost))["sentiment accuracy", "reference"] == "holds"
    strict = verdict(lost, settings=RetrainSettings(margin=0.001))
    assert found(strict)["sentiment accuracy", "reference"] == "fails"


def test_the_newest_texts_are_judged_by_like_the_reference_set():
    given = verdict(answers(2_000, 0.80, 0.85), answers(400, 0.85, 0.75, name="newest"))

    assert not given.passed
    assert given.reason.startswith("sentiment accuracy on the newest set")


def test_negative_recall_alone_can_refuse():
    one = answers(3_000, 0.85, 0.85)
    missed = np.flatnonzero((one.wanted == NEGATIVE) & (one.champion == NEGATIVE))[:60]
    gained = np.flatnonzero((one.wanted != NEGATIVE) & (one.champion != one.wanted))[:150]
    challenger = one.champion.copy()
    challenger[missed] = NEUTRAL
    challenger[gained] = one.wanted[gained]

    given = verdict(replace(one, challenger=challenger))

    assert found(given)["sentiment accuracy", "reference"] == "better"
    assert found(given)["negative recall", "reference"] == "fails"
    assert not given.passed
    assert given.reason.startswith("negative recall on the reference set 0.8")


def test_more_negative_recall_alone_is_no_reason_to_pass():
    """Who says "negative" more often has it for nothing."""
    one = answers(3_000, 0.85, 0.85)
    found_more = np.flatnonzero((one.wanted == NEGATIVE) & (one.champion != NEGATIVE))[:60]
    cried = np.flatnonzero((one.wanted == NEUTRAL) & (one.champion == NEUTRAL))[:60]
    challenger = one.champion.copy()
    challenger[found_more] = challenger[cried] = NEGATIVE

    given = verdict(replace(one, challenger=challenger))

    recall = next(row for row in given.rows if row.measure == "negative recall")
    assert recall.low > 0
    assert not given.passed
    assert given.reason.startswith("not better")


def test_a_set_of_fewer_than_30_labels_is_shown_and_not_judged_by():
    given = verdict(answers(29, 0.9, 0.2), answers(29, 0.2, 0.9, task="topic"))

    assert set(found(given).values()) == {"shown"}
    assert given.reason == "not better: no set holds 30 labels of a task, so nothing could be shown"


def test_a_task_without_labels_has_no_row():
    assert gate.rows_of([answers(0, 0.5, 0.5)], SETTINGS, seed=1) == []


def test_the_same_seed_gives_the_same_verdict_and_another_hardly_another():
    sets = answers(500, 0.80, 0.83), answers(300, 0.85, 0.84, task="topic", name="newest")

    first, again = verdict(*sets), verdict(*sets)
    other = gate.decide(gate.rows_of(sets, SETTINGS, seed=2))

    assert first == again
    assert first != other
    for row, beside in zip(first.rows, other.rows, strict=True):
        assert beside.low == pytest.approx(row.low, abs=0.005)


@pytest.mark.parametrize(
    ("rows", "loss", "least", "most"),
    [
        (40, 0.0, 0, 0.08),
        (2_400, 0.0, 0, 0.08),
        (100, 0.05, 0.2, 0.45),
        (2_400, 0.02, 0.75, 1),
        (1_000, 0.05, 0.97, 1),
    ],
)
def test_the_error_rates_of_the_gate_are_those_it_states(rows, loss, least, most):
    """The models differ on a tenth of the texts. As good: at most 2.5 % refused; the bounds leave room for chance."""
    rng = np.random.default_rng(3)
    refused = better = 0
    trials = 80
    for trial in range(trials):
        wanted = rng.integers(0, 3, rows)
        kind = rng.choice(3, rows, p=[(0.1 + loss) / 2, (0.1 - loss) / 2, 0.9])  # lost, won, the same of both
        wrong = (wanted + 1) % 3
        one = Answers(
            set="newest",
            task="topic",
            labels=TASKS["topic"],
            texts=[str(row) for row in range(rows)],
            wanted=wanted,
            champion=np.where(kind == 1, wrong, wanted),
            challenger=np.where(kind == 0, wrong, wanted),
        )
        judged = found(gate.decide(gate.rows_of([one], SETTINGS, seed=trial)))
        refused += judged["topic accuracy", "newest"] == "fails"
        better += "better" in judged.values()
    assert least <= refused / trials <= most
    assert better / trials <= 0.05


def test_a_verdict_comes_back_from_json_as_it_was():
    given = verdict(answers(500, 0.80, 0.83), answers(20, 0.85, 0.85, task="topic"))

    assert Verdict.read(json.loads(json.dumps(given.plain(), allow_nan=False))) == given


def test_the_text_of_a_verdict_has_a_line_a_row_under_a_head():
    given = verdict(answers(2_000, 0.80, 0.85))

    head, *lines = given.text().splitlines()
    assert head.split("  ")[0] == "measure"
    assert head.endswith("found")
    assert [line.split("  ")[0] for line in lines] == [row.measure for row in given.rows]
    assert "at least -0.0100" in lines[0]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_model.write_encoder(tmp_path_factory.mktemp("encoder"))


def ranged(folder: Path, encoder: Path, seed: int) -> Path:
    """A checkpoint that runs in int8."""
    tiny_model.write_checkpoint(folder, tiny_model.network(encoder, seed=seed), encoder)
    saved = checkpoint.read(folder)
    checkpoint.add_ranges(saved, quantize.observe(checkpoint.load_network(saved), saved, texts()))
    return folder


@pytest.fixture(scope="module")
def champion(tmp_path_factory, encoder) -> Path:
    return ranged(tmp_path_factory.mktemp("models") / "champion", encoder, 18)


@pytest.fixture(scope="module")
def challenger(tmp_path_factory, encoder) -> Path:
    return ranged(tmp_path_factory.mktemp("models") / "challenger", encoder, 5)


def texts(rows: int = 150) -> list[str]:
    rng = np.random.default_rng(6)
    return [f"{' '.join(rng.choice(tiny_model.WORDS, 5))} {row}" for row in range(rows)]


def labelled_by(model: Path, cache_dir: Path) -> pd.DataFrame:
    """Texts of which this model is always right."""
    settings = ModelSettings(path=str(model), backend="onnx", device="cpu", cache_dir=cache_dir)
    probs = open_scorer(settings).predict(texts())
    return pd.DataFrame({"text": texts(), **{task: probs[task].argmax(axis=1) for task in TASKS}})


def judged(champion: Path, challenger: Path, rows: pd.DataFrame, cache_dir: Path, **options) -> Verdict:
    options = {"settings": UNTIMED, "newest": rows[:0]} | options
    reference = dict.fromkeys(TASKS, rows)
    return gate.judge(champion, challenger, reference, seed=1, cache_dir=cache_dir, **options)


def test_real_models_are_run_and_the_one_that_is_right_passes(champion, challenger, cache_dir):
    rows = labelled_by(challenger, cache_dir)

    given = judged(champion, challenger, rows, cache_dir, newest=rows[:40])

    assert given.passed, given.text()
    accuracy = next(row for row in given.rows if row.measure == "topic accuracy" and row.set == "newest")
    assert (accuracy.challenger, accuracy.labels) == (1.0, 40)
    assert {row.measure for row in given.rows} == {
        *("topic accuracy", "topic macro-F1", "sentiment accuracy", "sentiment macro-F1", "negative recall"),
        *("topic accuracy in int8, of fp32", "sentiment accuracy in int8, of fp32"),
        *("size of the checkpoint", "size of the network", "time a text"),
    }


def test_a_real_model_that_is_worse_is_refused(champion, challenger, cache_dir):
    given = judged(champion, challenger, labelled_by(champion, cache_dir), cache_dir)

    assert not given.passed
    assert given.reason.startswith("topic accuracy on the reference set 1.0000 to ")
    assert "; and " in given.reason
    assert "sentiment accuracy on the reference set" in given.reason


def test_a_model_is_not_better_than_itself(champion, cache_dir):
    given = judged(champion, champion, labelled_by(champion, cache_dir), cache_dir)

    assert given.reason.startswith("not better beyond chance in any of 4 measures")
    assert next(row.difference for row in given.rows if row.measure == "size of the network") == 1


def test_a_text_without_a_label_of_a_task_is_left_out_of_that_task(champion, challenger, cache_dir):
    rows = labelled_by(challenger, cache_dir)
    rows.loc[rows.index[:50], "topic"] = MISSING

    given = judged(champion, challenger, rows, cache_dir)

    assert {row.measure: row.labels for row in given.rows if row.measure.endswith("accuracy")} == {
        "topic accuracy": 100,
        "sentiment accuracy": 150,
    }


@pytest.mark.parametrize(
    ("bound", "measure"),
    [("max_size_ratio", "size of the checkpoint"), ("max_latency_ratio", "time a text")],
)
def test_a_challenger_over_a_bound_on_its_cost_is_refused_however_good_it_is(
    champion, challenger, cache_dir, bound, measure
):
    settings = replace(UNTIMED, **{bound: 1e-9})

    given = judged(champion, challenger, labelled_by(challenger, cache_dir), cache_dir, settings=settings)

    assert not given.passed
    assert given.reason.startswith(measure)
    assert "at most 0.00 times is borne" in given.reason


def test_a_larger_network_is_refused_though_its_checkpoint_is_small(champion, encoder, tmp_path, cache_dir):
    """Weights of the encoder that were not trained are not in the checkpoint, but run all the same."""
    whole = tmp_path / "whole"
    tiny_model.write_checkpoint(whole, tiny_model.network(encoder), encoder)  # without ranges: fp32

    given = judged(champion, whole, labelled_by(champion, cache_dir), cache_dir)

    assert found(given)["size of the network", ""] == "fails"
    assert found(given)["size of the checkpoint", ""] == "holds"


def test_the_time_of_a_text_is_the_ratio_of_medians_of_turns(champion, challenger, cache_dir):
    """Time goes on by itself: the nth measurement takes n seconds, so the median turn is the fifth."""
    clock = _growing()

    given = judged(champion, challenger, labelled_by(challenger, cache_dir), cache_dir, clock=lambda: next(clock))

    row = next(row for row in given.rows if row.measure == "time a text")
    # Champion first in the odd turns: 1 4 5 8 9 12 13 16 17; challenger: 2 3 6 7 10 11 14 15 18.
    assert row.champion == pytest.approx(9 / 150)
    assert row.challenger == pytest.approx(10 / 150)
    assert row.difference == pytest.approx(10 / 9)


def _growing():
    for n in count(1):
        yield 0.0
        yield float(n)


def test_what_int8_loses_is_bounded(champion, challenger, encoder, tmp_path, cache_dir):
    """Ranges far too narrow cut most of what the layers are given."""
    narrow = tmp_path / "narrow"
    tiny_model.write_checkpoint(narrow, tiny_model.network(encoder, seed=13), encoder)
    saved = checkpoint.read(narrow)
    seen = quantize.observe(checkpoint.load_network(saved), saved, texts())
    checkpoint.add_ranges(saved, {layer: (low / 50, high / 50) for layer, (low, high) in seen.items()})
    plain = tmp_path / "plain"
    tiny_model.write_checkpoint(plain, tiny_model.network(encoder, seed=13), encoder)

    given = judged(champion, narrow, labelled_by(plain, cache_dir), cache_dir)

    lost = next(row for row in given.rows if row.measure == "topic accuracy in int8, of fp32")
    assert lost.found == "fails"
    assert lost.champion == 1.0
    assert lost.challenger < 0.9
    assert not given.passed


def other_tasks(champion: Path, folder: Path, tasks: dict[str, tuple[str, ...]]) -> Path:
    folder.mkdir()
    for file in champion.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    checkpoint.write_info(folder, replace(checkpoint.read(champion).info, tasks=tasks))
    return folder


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        (
            {"sentiment": SENTIMENTS},
            "the tasks differ: the champion's are topic, sentiment, the challenger's sentiment",
        ),
        (
            {"topic": ("Earnings", "Energy", "Banks"), "sentiment": SENTIMENTS},
            "the labels of topic differ: only the champion has Financials; only the challenger has Banks",
        ),
        (
            {"topic": ("Energy", "Earnings", "Financials"), "sentiment": SENTIMENTS},
            "the labels of topic stand in another order in the challenger than in the champion",
        ),
    ],
)
def test_models_of_different_tasks_are_not_compared(champion, tmp_path, cache_dir, tasks, reason):
    other = other_tasks(champion, tmp_path / "other", tasks)

    given = judged(champion, other, labelled_by(champion, cache_dir), cache_dir)

    assert given == Verdict(passed=False, reason=reason, rows=())
    assert given.text() == ""


def cli(*given: object):
    app = typer.Typer()
    app.command()(gate.main)
    return CliRunner().invoke(app, [str(one) for one in given])


def write_table(path: Path, rows: pd.DataFrame) -> Path:
    named = {task: rows[task].map(dict(enumerate(labels))) for task, labels in TASKS.items()}
    rows.assign(**named).to_csv(path, index=False)
    return path


def test_the_gate_can_be_asked_by_hand(champion, challenger, tmp_path, cache_dir, monkeypatch):
    monkeypatch.setenv("SENTIMENT_MODEL__CACHE_DIR", str(cache_dir))
    monkeypatch.setenv("SENTIMENT_RETRAIN__MAX_LATENCY_RATIO", "1000000")
    table = write_table(tmp_path / "reference.csv", labelled_by(challenger, cache_dir))

    passed = cli(champion, challenger, "--reference", table, "--newest", table)
    refused = cli(challenger, champion, "--reference", table)

    assert passed.exit_code == 0, passed.output
    assert "passed: better: " in passed.output
    assert refused.exit_code == 1
    assert "refused: topic accuracy on the reference set" in refused.output


def test_what_is_wrong_with_the_labelled_texts_is_said_in_a_line(champion, tmp_path):
    table = tmp_path / "reference.csv"
    table.write_text("text,topic\nbank cuts rates,Banks\n")

    found = cli(champion, champion, "--reference", table)

    assert found.exit_code == 1
    assert f"gate: {table}: row 1: topic is 'Banks', expected one of Earnings, Energy, Financials" in found.output


def test_a_row_says_its_figures_in_the_unit_it_has():
    row = Row(
        measure="time a text", labels=0, unit="seconds", champion=0.002, challenger=0.003, difference=1.5,
        bound=1.25, found="fails",
    )  # fmt: skip
    assert row.told() == "time a text 2.00 ms to 3.00 ms (1.50 times, at most 1.25 times is borne)"
