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

from monitor.config import ModelSettings
from monitor.model import checkpoint
from monitor.model.backends import adds_in_32_bits
from monitor.model.encoder import load_encoder
from monitor.model.network import MISSING
from monitor.model.scorer import open_scorer
from monitor.model.text import pad
from monitor.records import SENTIMENTS
from pipelines import learning, train
from pipelines.dataset import Dataset
from pipelines.options import Options
from tests import tiny_model

ROOT = Path(__file__).parents[1]
TODAY = date(2026, 11, 23)
OPTIONS = Options(
    lora_rank=4,
    tasks={},
    max_tokens=16,
    epochs=5,
    batch_size=8,
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    average_decay=0.9,
    evaluations_per_epoch=1,
    wired_share=0.0,
    body_share=0.0,  # a body of other headlines is too much for a network of 32 features
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
def options(tmp_path_factory) -> Options:
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


def test_a_trained_model_runs_in_integers_and_is_measured_so(trained):
    saved = checkpoint.read(trained)

    assert checkpoint.has_ranges(saved)
    assert saved.info.metrics["backend"] == f"onnx cpu {'int8' if adds_in_32_bits() else 'int7'}"


def test_the_temperatures_are_fitted_to_the_development_labels(trained, data):
    saved = checkpoint.read(trained)
    network, tokenizer = checkpoint.load_network(saved), saved.tokenizer()
    labels = torch.tensor(data.development["sentiment"].tolist())
    inputs = [pad([tokenizer.encode(text).ids], saved.pad_id) for text in data.development["text"]]
    logits = torch.cat([network(*map(torch.from_numpy, one))["sentiment"] for one in inputs])

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / temperature, labels, ignore_index=MISSING).item()

    fitted = saved.info.temperatures["sentiment"]
    assert fitted != 1.0
    assert loss(fitted) <= min(loss(fitted * 1.1), loss(fitted / 1.1))


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
    assert info.frozen == ("embeddings",)
    stored = checkpoint.load_network(checkpoint.read(tmp_path)).state_dict()
    untrained = load_encoder(Path(options.encoder)).state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(stored[f"encoder.{name}"], untrained[name])
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(stored[f"encoder.{name}"], untrained[name])


@pytest.mark.parametrize(
    "change",
    [
        {"sharing": "fused", "learning_rate": 3e-3, "head_learning_rate": 3e-3},
        {"weighting": "uncertainty"},
        {"weighting": "dwa"},
        {"conflicts": "upgrad"},
        {"conflicts": "pcgrad"},
        {"precision": "fp32", "accumulate": 2, "average_decay": 0.0},
    ],
    ids=str,
)
def test_the_tasks_are_learned_in_every_way(data, options, tmp_path, change):
    before = tiny_model.network(Path(options.encoder), lora=None).state_dict()

    info = train.train(data, tmp_path, replace(options, lora_rank=0, epochs=9, **change), TODAY)

    for task in data.tasks:
        assert info.metrics[f"validation_{task}"]["accuracy"] >= 0.8, info.metrics
    loaded = checkpoint.load_network(checkpoint.read(tmp_path)).state_dict()
    assert any(not torch.equal(values, before[name]) for name, values in loaded.items() if name in before)


def test_any_number_of_tasks_is_learned_alone_too(data, options, tmp_path):
    from pipelines.compare import Plan, restricted

    info = train.train(restricted(data, Plan(("topic",), 1, 1.0)), tmp_path, options, TODAY)

    assert list(info.tasks) == ["topic"]
    assert info.metrics["validation_topic"]["accuracy"] >= 0.9
    with pytest.raises(checkpoint.CheckpointError, match="the monitor needs a task 'topic', and a task 'sentiment'"):
        open_scorer(ModelSettings(path=str(tmp_path)))


@pytest.mark.parametrize("change", [{}, {"lora_rank": 0}], ids=["adapters", "whole"])
def test_training_begins_with_the_weights_of_another_model(data, options, tmp_path, change):
    way = replace(options, **change)
    train.train(data, tmp_path / "first", replace(way, epochs=2), TODAY)
    still = replace(way, start=str(tmp_path / "first"), epochs=0.02, learning_rate=1e-12, head_learning_rate=1e-12)

    train.train(data, tmp_path / "second", still, TODAY)

    first, second = (
        checkpoint.load_network(checkpoint.read(tmp_path / name)).state_dict() for name in ("first", "second")
    )
    for name, values in first.items():
        np.testing.assert_allclose(second[name].numpy(), values.numpy(), atol=1e-3, err_msg=name)


@pytest.mark.parametrize("change", [{"lora_rank": 2}, {"lora_rank": 0}, {"sharing": "fused"}], ids=str)
def test_a_model_that_was_trained_in_another_way_is_nothing_to_begin_with(trained, data, options, tmp_path, change):
    what = "sharing shared" if "sharing" in change else "adapters Lora"
    with pytest.raises(ValueError, match=rf"start: .*trained\d* has {what}.*, the options and data have"):
        learning.fit(data, tmp_path, replace(options, start=str(trained), **change))


def test_a_teacher_is_part_of_what_is_learned(trained, data, options, tmp_path):
    unlabelled = data.train.copy()
    unlabelled["sentiment"] = MISSING
    unlabelled.loc[0, "sentiment"] = 0
    taught = replace(data, train=unlabelled)

    info = train.train(taught, tmp_path, replace(options, teachers=(str(trained),)), TODAY)

    assert info.metrics["validation_sentiment"]["accuracy"] >= 0.9
    probs = np.load(tmp_path / "run" / "taught.npy")
    assert probs.shape == (400, 6)
    np.testing.assert_allclose(probs.astype(np.float32).sum(1), 2, atol=0.01)


def test_a_teacher_of_other_tasks_is_refused(trained, data, options, tmp_path):
    other = replace(data, tasks={"topic": ("x", "y", "z"), "sentiment": SENTIMENTS})

    with pytest.raises(ValueError, match=r"teachers: .* knows .*Earnings.*, the data has .*'x'"):
        train.train(other, tmp_path, replace(options, teachers=(str(trained),)), TODAY)


def test_a_part_that_the_encoder_has_not_cannot_be_frozen(data, options, tmp_path):
    with pytest.raises(ValueError, match="frozen: the encoder has no part 'tower', it has embeddings, encoder"):
        learning.fit(data, tmp_path, replace(options, lora_rank=0, frozen=("tower",)))


def test_a_reporter_that_is_not_installed_is_named(data, options, tmp_path):
    with pytest.raises(ValueError, match="no_such_reporter is not supported, only"):
        learning.fit(data, tmp_path, options, ["no_such_reporter"])


def test_losses_are_reported_to_tensorboard(data, options, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))

    learning.fit(data, tmp_path / "run", replace(options, epochs=1), ["tensorboard"])

    (events,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    assert b"eval/topic_accuracy" in events.read_bytes()


TORCHRUN = """
import pickle, sys
from pathlib import Path
from pipelines import train
data, options, today = pickle.loads(Path(sys.argv[1]).read_bytes())
train.train(data, Path(sys.argv[2]), options, today)
"""


def test_two_processes_train_one_model(data, options, tmp_path):
    import pickle

    script, given = tmp_path / "script.py", tmp_path / "given.pickle"
    script.write_text(TORCHRUN)
    chosen = replace(options, epochs=4, batch_size=4, weighting="dwa", precision="fp32")
    given.write_bytes(pickle.dumps((data, chosen, TODAY)))

    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
         str(script), str(given), str(tmp_path / "model")],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr[-3000:]
    info = checkpoint.read(tmp_path / "model").info
    assert info.metrics["validation_topic"]["accuracy"] >= 0.9
    save = Path(learning.last_save(tmp_path / "model" / "run"))
    assert json.loads((save / "trainer_state.json").read_text())["max_steps"] == 4 * 400 // (4 * 2)
    assert len(list(save.glob("rng_state_*.pth"))) == 2


def test_conflicting_gradients_are_for_one_process(data, options, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ValueError, match="conflicts: 'upgrad' works in one process, this is one of 2"):
        learning.fit(data, tmp_path, replace(options, conflicts="upgrad"))


def test_training_stops_early_once_the_development_score_no_longer_rises(data, options, tmp_path):
    hopeless = replace(options, learning_rate=1e-9, head_learning_rate=1e-9, epochs=50, patience=2)

    learning.fit(data, tmp_path, hopeless)

    state = json.loads((Path(learning.last_save(tmp_path)) / "trainer_state.json").read_text())
    assert state["epoch"] <= 5


# -- a killed run

CHILD = """
import pickle, sys
from pathlib import Path
from pipelines import learning
data, options = pickle.loads(Path(sys.argv[1]).read_bytes())
learning.fit(data, Path(sys.argv[2]), options)
"""


def test_a_killed_run_goes_on_from_its_last_save_to_the_same_end(data, options, tmp_path):
    import pickle

    longer = replace(options, epochs=2, batch_size=2, evaluations_per_epoch=1)
    (tmp_path / "given.pickle").write_bytes(pickle.dumps((data, longer)))
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "given.pickle"), str(run)], stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while learning.last_save(run) is None and child.poll() is None and time.monotonic() < deadline:
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

    resumed = learning.fit(data, run, longer)
    whole = learning.fit(data, tmp_path / "whole", longer)

    assert save.name == "checkpoint-200"
    history = json.loads((run / "checkpoint-400" / "trainer_state.json").read_text())["log_history"]
    assert {"step": 200, "killed": True} in history  # it went on from that save and did not begin again
    for name, values in whole.state_dict().items():
        np.testing.assert_allclose(values.numpy(), resumed.state_dict()[name].numpy(), atol=1e-6, err_msg=name)


def test_only_train_is_shown_in_other_dress():
    tokenizer = learning.open_tokenizer(checkpoint.read("default").encoder_folder / "tokenizer.json", 16)
    table = pd.DataFrame({"text": ["$AAPL - Apple rises"], "topic": [0], "sentiment": [0]})
    random.seed(0)

    shown = {
        dressed: {tuple(dataset[0]["input_ids"]) for _ in range(50)}
        for dressed, dataset in (
            (True, learning._Rows(table, tokenizer, Options())),
            (False, learning._Rows(table, tokenizer)),
        )
    }

    assert len(shown[True]) >= 2
    assert len(shown[False]) == 1
