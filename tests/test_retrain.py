"""The offline steps of a retraining, end to end: real labels in SQLite, a small real model, real processes."""

import csv
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor import config
from monitor.model import checkpoint
from monitor.models import Model
from monitor.retraining import Retraining
from monitor.store import Store
from monitor.stored_retrainings import LostRetraining, RetrainingRuns
from pipelines import running, snapshot
from pipelines.retrain import options_for, retrain
from tests import tiny_model
from tests.retraining_world import LEARNING, add, texts, told, write_champion, write_table

ROOT = Path(__file__).parents[1]
NOON = datetime(2026, 4, 10, 12, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("champion")
    return write_champion(folder / "model", tiny_model.write_encoder(folder / "encoder"))


class Desk:
    """A folder with a configuration, a database and a champion."""

    def __init__(self, folder: Path, champion: Path, *, epochs: float = 4, retrain_keys: str = "") -> None:
        self.folder = folder
        write_table(folder / "base.csv", texts(200, 5, "qrstuvw"))
        write_table(folder / "reference.csv", texts(120, 6, "klmnop"))
        (folder / "options.toml").write_text(LEARNING.format(epochs=epochs))
        self.file = folder / "monitor.toml"
        self.file.write_text(
            f'[model]\npath = "champion"\nbackend = "onnx"\ncache_dir = "{folder}/cache"\n'
            f'[store]\nurl = "sqlite:///{folder}/news.db"\n'
            f'[retrain]\nfolder = "{folder}/retraining"\nbase_data = "{folder}/base.csv"\nbase_ratio = 1.0\n'
            f'reference = "{folder}/reference.csv"\noptions = "{folder}/options.toml"\nmin_labels = 100\n'
            f"report_to = []\nmax_latency_ratio = 100.0\nniceness = 0\n{retrain_keys}"
        )
        self.settings = config.load(self.file)
        self.store = Store(self.settings.store.url)
        self.version = checkpoint.read(champion).info.version
        files = checkpoint.file_hashes(champion)
        self.store.models.add(Model(version=self.version, folder=champion, files=files, added_at=NOON))
        self.store.models.promote(self.version, seen=None, at=NOON, by="Ada")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipelines.retrain", "--config", str(self.file), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=600, cwd=ROOT, env=ENVIRONMENT
        )

    def change(self, **keys: object) -> config.Settings:
        return self.settings.model_copy(update={"retrain": replace(self.settings.retrain, **keys)})


ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def desk(tmp_path: Path, champion: Path) -> Desk:
    made = Desk(tmp_path, champion)
    add(made.store, told(240))
    return made


def is_whole(desk: Desk, row: Retraining) -> None:
    """What a retraining that is live has left behind."""
    assert (row.step, row.outcome, row.champion) == ("shadow", None, desk.version)
    model = desk.store.models.get(row.challenger or "")
    assert (model.parent, model.folder) == (desk.version, row.folder / "model")
    assert model.files == checkpoint.file_hashes(model.folder)
    saved = checkpoint.read(model.folder)
    assert saved.info.version == row.challenger
    assert checkpoint.has_ranges(saved)
    assert all(temperature != 1 for temperature in saved.info.temperatures.values())
    assert saved.info.training["data_sha256"] == {"set": row.snapshot}
    taken, sha256 = snapshot.read(row.folder / "snapshot", row.snapshot)
    assert sha256 == row.snapshot
    assert (len(taken.newest), row.found["snapshot"]["learned"]) == (48, 192)
    assert set(row.found) - {"resumed"} == {"snapshot", "audit", "train", "gate"}
    assert row.found["train"]["files"] == model.files
    assert row.found["gate"]["passed"] is True
    assert "accuracy" in (row.folder / "gate.txt").read_text()
    with (row.folder / "audit.csv").open() as file:
        assert csv.DictReader(file).fieldnames[0] == "item"  # type: ignore[index]
    assert not (row.folder / "model" / "run").exists()


def test_a_challenger_that_learned_from_labels_is_better_and_goes_into_the_shadow(desk: Desk) -> None:
    done = desk.run()

    assert done.returncode == 0, done.stderr
    row = desk.store.retrainings.running()
    assert row is not None
    is_whole(desk, row)
    assert (row.number, row.trigger) == (1, "hand")
    assert 180 <= row.found["snapshot"]["base"] <= 192
    metrics = checkpoint.read(row.folder / "model").info.metrics
    assert metrics["validation_topic"]["accuracy"] >= 0.9  # type: ignore[index, call-overload]
    assert "daemons score 25 % of the news with both models now, and promote it once 2000 items" in done.stderr
    assert desk.store.models.champion().version == desk.version  # type: ignore[union-attr]

    again = desk.run()
    assert again.returncode == 1
    assert "retraining 1 goes on since" in again.stderr
    assert "Traceback" not in again.stderr


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from monitor import config
from pipelines import audit, documents, gate, learning, retrain, selection, snapshot, train
from monitor.model import checkpoint

def dies(module, name, after=0, before=True):
    real, calls = getattr(module, name), []
    def wrapped(*given, **keys):
        calls.append(1)
        if len(calls) > after and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*given, **keys)
        if len(calls) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, wrapped)

def half(path, *given):
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

exec(sys.argv[2])
retrain.retrain(config.load(Path(sys.argv[1])), "schedule", lambda: datetime.now(UTC))
"""
MOMENTS = (
    ("snapshot", "Path.write_bytes = half"),
    ("snapshot", "dies(documents, 'replace')"),  # all but the manifest is there
    ("snapshot", "dies(snapshot, 'write', before=False)"),  # it is whole, and not noted
    ("audit", "dies(audit, 'audit', before=False)"),
    ("train", "dies(learning, '_claim', before=False)"),  # before the first save
    ("train", "dies(train, 'learn', before=False)"),  # the weights are written, and not noted
    ("calibrate", "dies(checkpoint, 'write_info', after=1)"),  # the weights are newer than their description
    ("calibrate", "dies(train, 'measure')"),  # there are temperatures, and no figures
    ("calibrate", "dies(train, 'calibrate', before=False)"),  # all is there, and not noted
    ("gate", "dies(gate, 'judge', before=False)"),
    ("gate", "dies(retrain._Loop, '_add', before=False)"),  # it is in the registry, and not noted
)


def test_killed_again_and_again_it_goes_on_and_takes_nothing_half_for_whole(desk: Desk) -> None:
    sha256: set[str] = set()
    for step, script in MOMENTS:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(desk.file), script], capture_output=True, text=True, timeout=600,
            cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, f"{script}: {killed.stderr}"
        left = desk.store.retrainings.running()
        assert left is not None, script
        assert (left.number, left.step, left.trigger) == (1, step, "schedule"), script
        sha256 |= {left.snapshot} if left.snapshot else set()

    row = retrain(desk.settings, "hand", now)

    assert sha256 == {row.snapshot}
    # The first of the eleven began it, and each later one and this one took it over where the one before had died.
    assert row.found["resumed"] == {"snapshot": 3, "audit": 1, "train": 2, "calibrate": 3, "gate": 2}
    is_whole(desk, row)
    assert [model.version for model in desk.store.models.all()] == [desk.version, row.challenger]


def test_training_that_is_killed_goes_on_from_its_last_save(tmp_path: Path, champion: Path) -> None:
    desk = Desk(tmp_path, champion, epochs=12)
    add(desk.store, told(240))
    child = subprocess.Popen(desk.command(), stderr=subprocess.DEVNULL, cwd=ROOT, env=ENVIRONMENT)
    run = tmp_path / "retraining" / "1" / "model" / "run"
    deadline = time.monotonic() + 300
    while not list(run.glob("checkpoint-*/trainer_state.json")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    saves = {path.name for path in run.glob("checkpoint-*")}
    assert saves and "checkpoint-480" not in saves

    done = desk.run("--trigger", "schedule")

    assert done.returncode == 0, done.stderr
    row = desk.store.retrainings.running()
    assert row is not None
    assert (row.trigger, row.found["resumed"]) == ("hand", {"train": 1})
    is_whole(desk, row)


def test_with_five_labels_it_is_refused_and_says_what_to_do(tmp_path: Path, champion: Path) -> None:
    desk = Desk(tmp_path, champion)
    add(desk.store, told(5))

    done = desk.run("--trigger", "drift")

    assert done.returncode == 0
    [row] = desk.store.retrainings.newest()
    assert (row.outcome, row.trigger, row.challenger) == ("refused", "drift", None)
    assert row.reason == (
        "5 labelled texts are left of 5 labelled items, a retraining needs 100; label more (sentiment-monitor label "
        "--queue lists what is worth it), or lower retrain.min_labels"
    )
    assert f"retraining 1 refused: {row.reason}" in done.stderr


def test_labels_of_one_kind_are_refused(tmp_path: Path, champion: Path) -> None:
    desk = Desk(tmp_path, champion)
    add(desk.store, [replace(one, topic=None, sentiment="negative") for one in told(150)])

    row = retrain(desk.settings, "hand", now)

    assert (row.outcome, row.step) == ("refused", "snapshot")
    assert "150 of 150 labels of 'sentiment' are 'negative'" in (row.reason or "")


def test_labels_of_one_task_are_learned_beside_base_data_that_holds_the_other(tmp_path: Path, champion: Path) -> None:
    desk = Desk(tmp_path, champion)
    add(desk.store, [replace(one, topic=None) for one in told(240)])

    row = retrain(desk.settings, "hand", now)

    is_whole(desk, row)
    assert row.found["audit"].keys() == {"sentiment"}


def test_labels_of_which_many_are_wrong_are_refused_with_the_figure_and_the_file(
    tmp_path: Path, champion: Path
) -> None:
    desk = Desk(tmp_path, champion, retrain_keys="max_suspicious = 0.02\n")
    items = told(240)
    for place in range(0, 240, 6):
        items[place] = replace(items[place], topic="Energy" if items[place].topic != "Energy" else "Earnings")
    add(desk.store, items)

    row = retrain(desk.settings, "hand", now)

    assert (row.outcome, row.step) == ("refused", "audit")
    assert "% of the labels of 'topic' may be wrong, more than retrain.max_suspicious (2%)" in (row.reason or "")
    assert f"{row.folder}/audit.csv lists" in (row.reason or "")
    assert len((row.folder / "audit.csv").read_text().splitlines()) > 20


def test_a_challenger_that_learned_nothing_is_refused_by_the_gate(desk: Desk) -> None:
    (desk.folder / "options.toml").write_text(LEARNING.format(epochs=0.05).replace("1e-2", "1e-9"))

    row = retrain(desk.settings, "hand", now)

    assert (row.outcome, row.step, row.challenger) == ("refused", "gate", None)
    assert (row.reason or "").startswith("the challenger is not good enough: not better")
    assert row.found["gate"]["passed"] is False
    assert [model.version for model in desk.store.models.all()] == [desk.version]
    assert not (row.folder / "model" / "run").exists()


def test_a_champion_that_changed_meanwhile_ends_it(desk: Desk, champion: Path, tmp_path: Path) -> None:
    begun = running.take_up(
        desk.store.retrainings, "hand", champion=desk.version, folder=tmp_path / "retraining", now=now
    )
    other = tmp_path / "other"
    shutil.copytree(champion, other, ignore=shutil.ignore_patterns("run"))
    saved = checkpoint.read(other)
    checkpoint.add_ranges(saved, {})
    info = replace(saved.info, version="other-1")
    checkpoint.write_info(other, info)
    desk.store.models.add(Model(version="other-1", folder=other, files=checkpoint.file_hashes(other), added_at=NOON))
    desk.store.models.promote("other-1", seen=desk.store.models.champion(), at=NOON, by="Bob")

    row = retrain(desk.settings, "hand", now)

    assert (row.number, row.outcome) == (begun.row.number, "refused")
    assert row.reason == (
        f"it began with champion {desk.version}, and meanwhile Bob promoted other-1; start another, which begins "
        "with that one"
    )


def test_a_failure_ends_it_with_its_reason_and_the_next_can_start(desk: Desk) -> None:
    (desk.folder / "base.csv").write_text("text,topic,sentiment\noil falls,Crypto,negative\n")

    done = desk.run()

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [row] = desk.store.retrainings.newest()
    assert row.outcome == "failed"
    assert row.reason == (
        f"{desk.folder}/base.csv: row 1: topic is 'Crypto', expected one of Earnings, Energy, Financials"
    )
    assert running.take_up(
        desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=now
    ).row.number == 2  # fmt: skip


def test_what_was_changed_in_the_folder_meanwhile_is_not_trained_on(desk: Desk) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(desk.file), "dies(audit, 'audit')"], capture_output=True, timeout=600,
        cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    file = desk.folder / "retraining" / "1" / "snapshot" / "train.jsonl"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("negative", "positive"))

    row = retrain(desk.settings, "hand", now)

    assert row.outcome == "failed"
    assert f"{file}: its SHA-256 is " in (row.reason or "")


def test_where_no_model_was_promoted_the_shipped_one_is_the_champion(tmp_path: Path) -> None:
    file = tmp_path / "monitor.toml"
    file.write_text(
        f'[model]\npath = "champion"\ncache_dir = "{tmp_path}/cache"\n[store]\nurl = "sqlite:///{tmp_path}/news.db"\n'
        f'[retrain]\nfolder = "{tmp_path}/retraining"\nreport_to = []\n'
    )
    settings = config.load(file)

    row = retrain(settings, "hand", now)

    with Store(settings.store.url) as store:
        champion = store.models.champion()
    assert champion is not None
    assert champion.version == row.champion == checkpoint.read("default").info.version
    assert champion.reason == "no model was promoted yet, and a retraining needs one to beat"
    assert (row.outcome, "there is no reference set" in (row.reason or "")) == ("refused", True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"model": {"path": "default"}},
            "model.path is 'default', so no model that is trained anew would score; set",
        ),
        (
            {"retrain": {"report_to": ["wandb"]}},
            "retrain.report_to names 'wandb', which is not installed; pip install",
        ),
        ({"retrain": {"device": "gpu"}}, "retrain.device: 'gpu' is none of `auto`, `cpu`, `cuda` and `cuda:N`"),
    ],
    ids=str,
)
def test_a_misuse_is_told_before_anything_runs(
    tmp_path: Path, keys: dict[str, dict[str, object]], message: str
) -> None:
    sections = {"model": {"path": "champion"}, "retrain": {"report_to": []}}
    lines = [f'[store]\nurl = "sqlite:///{tmp_path}/news.db"']
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value!r}" for key, value in (values | keys.get(section, {})).items()]
    file = tmp_path / "monitor.toml"
    file.write_text("\n".join(lines))

    done = subprocess.run(
        [sys.executable, "-m", "pipelines.retrain", "--config", file], capture_output=True, text=True, cwd=ROOT,
        env=ENVIRONMENT,
    )  # fmt: skip

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"retrain: {message}" in done.stderr
    assert not (tmp_path / "news.db").exists()


def test_a_challenger_is_trained_as_the_champion_was_unless_the_file_of_options_says_otherwise(
    desk: Desk, champion: Path
) -> None:
    saved = checkpoint.read(champion)

    given = options_for(desk.settings.retrain, saved)
    unset = options_for(replace(desk.settings.retrain, options=None), saved)
    bare = options_for(replace(desk.settings.retrain, options=None, start_from="base"), saved)

    assert (given.epochs, given.start, given.max_tokens) == (4, str(champion), 16)
    assert (unset.learning_rate, unset.lora_rank, unset.frozen) == (5e-5, 0, ("embeddings",))
    assert (bare.start, bare.learning_rate, bare.encoder) == (None, 2e-4, saved.info.encoder)


# -- one process at a time


def test_a_process_of_this_host_that_is_gone_is_taken_over_at_once(desk: Desk) -> None:
    child = subprocess.Popen(["sleep", "60"])
    theirs = f"{platform.node()}:{child.pid}"
    desk.store.retrainings.begin("hand", by=theirs, champion=desk.version, folder=desk.folder, now=now())

    with pytest.raises(RetrainingRuns, match=f"by {theirs}"):
        running.take_up(desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=now)
    child.kill()
    child.wait()

    taken = running.take_up(desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=now)
    assert (taken.row.number, taken.row.by) == (1, f"{platform.node()}:{os.getpid()}")


def test_a_process_of_another_host_is_waited_for(desk: Desk) -> None:
    desk.store.retrainings.begin("hand", by="elsewhere:1", champion=desk.version, folder=desk.folder, now=NOON)

    with pytest.raises(RetrainingRuns, match="wait for it"):
        running.take_up(desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=lambda: NOON)
    later = NOON + timedelta(minutes=3)
    assert (
        running.take_up(
            desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=lambda: later
        ).row.number
        == 1
    )


def test_a_step_that_ends_its_process_each_time_is_given_up(desk: Desk) -> None:
    desk.store.retrainings.begin("hand", by="elsewhere:1", champion=desk.version, folder=desk.folder, now=NOON)
    clock = NOON
    for _ in range(running.MOST_RESUMES + 1):
        clock += timedelta(minutes=5)
        run = running.take_up(
            desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=lambda at=clock: at
        )
        assert run.row.outcome is None or run.row.found["resumed"] == {"snapshot": 6}
    assert run.row.outcome == "failed"
    assert "its process ended 6 times at step 'snapshot' without a word" in (run.row.reason or "")


def test_a_retraining_that_was_taken_away_is_interrupted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BEAT_S", 0.05)
    run = running.take_up(desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=now)
    with pytest.raises(LostRetraining, match="it ended, failed"), run.heard():
        desk.store.retrainings.end(desk.store.retrainings.get(1), "failed", "abandoned", now())
        for _ in range(600):
            time.sleep(0.1)
        raise AssertionError("nothing interrupted it")


def test_it_is_heard_of_while_it_works(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BEAT_S", 0.02)
    run = running.take_up(desk.store.retrainings, "hand", champion=desk.version, folder=desk.folder, now=now)
    began = run.row.seen_at
    deadline = time.monotonic() + 60
    with run.heard():
        run.advance(step="audit")
        while desk.store.retrainings.get(1).seen_at <= run.row.seen_at:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert desk.store.retrainings.get(1).seen_at > began
