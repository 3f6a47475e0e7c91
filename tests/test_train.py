import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from monitor.model import checkpoint
from monitor.model.network import MISSING
from monitor.records import SENTIMENTS
from pipelines import train
from pipelines.dataset import Dataset
from tests import tiny_model

TODAY = date(2026, 11, 23)
OPTIONS = train.Options(
    lora_rank=4,
    max_tokens=16,
    epochs=3,
    batch_size=8,
    learning_rate=1e-2,
    evaluations_per_epoch=1,
    task_weights={},
    seed=3,
)


def rows(count: int, seed: int) -> pd.DataFrame:
    """Headlines of which the first word tells the topic and the second the sentiment; half carry each label."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        topic, sentiment = rng.randrange(3), rng.randrange(3)
        words = [
            ("earnings", "oil", "bank")[topic],
            ("falls", "talks", "rises")[sentiment],
            *rng.choices("abcdef", k=3),
        ]
        ticker = "$CO - " if rng.random() < 0.5 else ""
        known = rng.randrange(2)
        made.append((ticker + " ".join(words), topic if known else MISSING, MISSING if known else sentiment))
    return pd.DataFrame(made, columns=["text", "topic", "sentiment"])


@pytest.fixture(scope="module")
def data() -> Dataset:
    validation = rows(60, 3)
    return Dataset(
        tasks=tiny_model.TASKS,
        train=rows(400, 1),
        development=rows(60, 2),
        validation={
            task: validation.loc[validation[task].ne(MISSING)].reset_index(drop=True) for task in tiny_model.TASKS
        },
        removed={"for a test": 2},
        sha256={"set": "0" * 64},
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> train.Options:
    return replace(OPTIONS, encoder=str(tiny_model.write_encoder(tmp_path_factory.mktemp("encoder"))))


@pytest.fixture(scope="module")
def trained(data, options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train.train(data, folder, options, TODAY)
    return folder


def test_both_tasks_are_learned_at_once_from_rows_that_carry_one_label_each(trained):
    metrics = checkpoint.read(trained).info.metrics

    assert metrics["validation_topic"]["accuracy"] >= 0.9
    assert metrics["validation_sentiment"]["accuracy"] >= 0.9


def test_the_checkpoint_says_how_it_was_made_and_how_good_it_is(trained, options, data):
    info = checkpoint.read(trained).info

    assert info.trained_on == TODAY
    assert info.tasks == {"topic": ("Earnings", "Energy", "Financials"), "sentiment": SENTIMENTS}
    assert info.training["options"]["learning_rate"] == options.learning_rate
    assert info.training["data_sha256"] == {"set": "0" * 64}
    assert info.training["removed_from_train"] == {"for a test": 2}
    assert info.training["rows"] == {"train": 400, "development": 60}
    topic = info.metrics["validation_topic"]
    assert (
        topic["rows"] == len(data.validation["topic"]) == sum(label["rows"] for label in topic["by_label"].values())
    )
    assert list(topic["by_label"]) == ["Earnings", "Energy", "Financials"]
    assert "removed from train" in info.metrics["note"]


def test_the_stated_figures_are_those_of_the_checkpoint_as_it_is_read_back(trained, data):
    assert train.measure(trained, data) == checkpoint.read(trained).info.metrics


def test_a_finished_run_is_not_trained_again(trained, data, options):
    saves = {save.name: save.stat().st_mtime_ns for save in (trained / "run").glob("checkpoint-*")}
    before = checkpoint.read(trained).info

    again = train.train(data, trained, options, TODAY)

    assert again == before
    assert {save.name: save.stat().st_mtime_ns for save in (trained / "run").glob("checkpoint-*")} == saves


@pytest.mark.parametrize("change", [{"learning_rate": 1.0}, {"seed": 9}])
def test_a_run_with_other_options_does_not_go_on_from_this_one(trained, data, options, change):
    with pytest.raises(ValueError, match=r"run: holds a run with other options or data; remove it or give another"):
        train.train(data, trained, replace(options, **change), TODAY)


def test_a_run_on_other_data_does_not_go_on_from_this_one(trained, data, options):
    with pytest.raises(ValueError, match="holds a run with other options or data"):
        train.train(replace(data, sha256={"set": "1" * 64}), trained, options, TODAY)


def test_the_whole_encoder_can_be_trained_instead_of_adapters(data, options, tmp_path):
    info = train.train(data, tmp_path, replace(options, lora_rank=0, epochs=1, learning_rate=1e-3), TODAY)

    assert info.lora is None
    stored = checkpoint.load_network(checkpoint.read(tmp_path)).state_dict()
    untrained = checkpoint.load_encoder(Path(options.encoder)).state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(stored[f"encoder.{name}"], untrained[name])


def test_training_stops_early_once_the_development_score_no_longer_rises(data, options, tmp_path):
    hopeless = replace(options, learning_rate=1e-9, epochs=50, patience=2)

    train.fit(data, tmp_path, hopeless)

    state = json.loads((Path(train._last_save(tmp_path)) / "trainer_state.json").read_text())
    assert state["epoch"] <= 5


# -- a killed run

CHILD = """
import pickle, sys
from pathlib import Path
from pipelines import train
data, options = pickle.loads(Path(sys.argv[1]).read_bytes())
train.fit(data, Path(sys.argv[2]), options)
"""


def test_a_killed_run_goes_on_from_its_last_save_to_the_same_end(data, options, tmp_path):
    import pickle

    longer = replace(options, epochs=2, batch_size=2, evaluations_per_epoch=1)
    (tmp_path / "given.pickle").write_bytes(pickle.dumps((data, longer)))
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "given.pickle"), str(run)], stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1], env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while train._last_save(run) is None and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    (save,) = run.glob("checkpoint-*")
    state = json.loads((save / "trainer_state.json").read_text())
    state["log_history"].append({"step": state["global_step"], "killed": True})
    (save / "trainer_state.json").write_text(json.dumps(state))
    cut_short = run / "checkpoint-390"  # as a kill in the middle of a save leaves it
    cut_short.mkdir()
    (cut_short / "model.safetensors").write_bytes(b"half")

    resumed = train.fit(data, run, longer)
    whole = train.fit(data, tmp_path / "whole", longer)

    assert save.name == "checkpoint-200"
    history = json.loads((run / "checkpoint-400" / "trainer_state.json").read_text())["log_history"]
    assert {"step": 200, "killed": True} in history  # it went on from that save and did not begin again
    for name, values in whole.state_dict().items():
        np.testing.assert_allclose(values.numpy(), resumed.state_dict()[name].numpy(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$AAPL - Apple rises", "Apple rises"),
        ("$CCL $RCL - Cruises fall", "Cruises fall"),
        ("$BRK.B, $T: Two rise", "Two rise"),
        ("$5 billion deal", "$5 billion deal"),
        ("Apple $AAPL rises", "Apple $AAPL rises"),
        ("$CSX", "$CSX"),
    ],
)
def test_ticker_symbols_in_front_are_dropped_to_show_a_plain_headline(text, plain):
    assert train._plain(text) == plain
