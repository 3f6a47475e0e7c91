"""`sentiment-monitor models`, as a user runs it."""

import getpass
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor.config import load
from monitor.gate_verdict import Row, Verdict
from monitor.model import checkpoint
from monitor.model.scorer import open_scorer
from monitor.records import EVERYTHING, Entry, NewsItem, PositionUpdate, Series
from monitor.retraining import Retraining
from monitor.store import Store
from tests import tiny_model
from tests.test_cli import _run

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
SHIPPED = checkpoint.read("default").info.version
HEAD = ("version", "parent", "trained on", "gate", "added", "champion", "files", "folder", "note")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
GATE = Verdict(
    passed=False,
    reason="negative recall fell from 0.91 to 0.85",
    rows=(
        Row(
            measure="negative recall",
            set="reference",
            labels=300,
            champion=0.91,
            challenger=0.85,
            difference=-0.06,
            low=-0.1,
            high=-0.02,
            bound=-0.02,
            found="fails",
        ),
    ),
).plain()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "monitor.toml"
    file.write_text(
        f'[model]\npath = "champion"\nbackend = "onnx"\n[store]\nurl = "sqlite:///{tmp_path}/news.db"\n'
        f'[source]\nkind = "file"\n[file]\npath = "{tmp_path}/news.jsonl"\n'
    )
    (tmp_path / "news.jsonl").write_text(
        '{"id": "a", "title": "Bank cuts rates", "published_at": "2023-03-10T16:42:07Z"}\n'
    )
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny_model.write_encoder(folder / "encoder")
    tiny_model.write_checkpoint(folder / "one", tiny_model.network(encoder), encoder)
    return folder / "one"


def _done(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def _rows(config: Path) -> list[list[str]]:
    """What `models list` shows, cell by cell."""
    models, _, _ = _done(_run("models", "list", "--config", config)).partition("\n\n")
    return _cells(models, HEAD)


def _cells(table: str, names: Sequence[str]) -> list[list[str]]:
    head, *lines = table.splitlines()
    starts = [head.index(name) for name in names]
    return [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in (line.ljust(starts[-1]) for line in lines)
    ]


def test_models_are_added_listed_promoted_and_rolled_back(config: Path, trained: Path) -> None:
    one = checkpoint.read(trained).info.version
    assert _done(_run("models", "list", "--config", config)).split() == " ".join(HEAD).split()
    _done(_run("models", "add", "default", "--config", config))
    added = _done(_run("models", "add", trained, "--parent", SHIPPED, "--note", "more rates", "--config", config))
    assert added == f"model {one} in {trained} is in the registry\n"
    first = _done(_run("models", "promote", SHIPPED, "--config", config))
    assert first == f"model {SHIPPED} is the champion, the first\n"
    second = _done(_run("models", "promote", one, "--reason", "better on rates", "--config", config))
    assert second == f"model {one} is the champion, in place of {SHIPPED}\n"

    again = _run("models", "promote", one, "--config", config)
    assert again.returncode == 2
    assert f"model '{one}' is the champion since " in again.stderr

    rows = _rows(config)
    assert [(row[0], row[1], *row[6:]) for row in rows] == [
        (SHIPPED, "", "complete", str(checkpoint.DEFAULT.resolve()), ""),
        (one, SHIPPED, "complete", str(trained), "more rates"),
    ]
    assert [row[5].partition(" ")[0] for row in rows] == [rows[0][5][:10], "since"], (
        "the first from one time to another"
    )
    assert " to " in rows[0][5]
    training = checkpoint.read("default").info.training
    assert rows[0][2] == f"{training['rows']['train']:,} texts, set {training['data_sha256']['set'][:12]}"
    listed = _run("models", "list", "--config", config)
    assert f"{one} was promoted by {getpass.getuser()}@" in listed.stderr
    assert listed.stderr.endswith(": better on rates\n")

    back = _done(_run("models", "rollback", "--reason", "too many alerts", "--config", config))
    assert back == f"model {SHIPPED} is the champion, in place of {one}\n"
    assert [row[5].startswith("since ") for row in _rows(config)] == [True, False]
    again = _run("models", "rollback", "--config", config)
    assert again.returncode == 1
    assert f"there is no champion to go back to in the registry of sqlite:///{config.parent}/news.db" in again.stderr


def test_a_promotion_by_hand_scores_stored_items_to_know_what_becomes_of_counts(config: Path, trained: Path) -> None:
    titles = [f"Bank {n} posts {'a record loss' if n % 3 else 'strong growth'} in year {n}" for n in range(60)]
    settings = load(config)
    shipped = open_scorer(replace(settings.model, path="default"))
    news = [NewsItem(f"{n}", title, START + timedelta(minutes=n)) for n, title in enumerate(titles)]
    with Store(settings.store.url) as store:
        entries = [
            Entry(scored, 0, n, scored.item.published_at, f"{n}", settings.spikes.negative_from, ("Bank",))
            for n, scored in enumerate(shipped.score(news))
        ]
        store.commit("news", entries, [PositionUpdate(0, None, len(entries))], START)
    _done(_run("models", "add", trained, "--config", config))
    one = checkpoint.read(trained).info.version
    promoted = _run("models", "promote", one, "--config", config, "--overlap", "50")
    assert "what is usual becomes what it is by 50 items that both models have scored" in promoted.stderr
    after = open_scorer(replace(settings.model, path=str(trained))).score(news[-50:])
    negative = [scored.sentiment_probs["negative"] >= settings.spikes.negative_from for scored in after]
    was = [entry.negative for entry in entries[-50:]]
    assert 0 < sum(was) < 50
    kept = sum(now and before for now, before in zip(negative, was, strict=True))
    with Store(settings.store.url) as store:
        shift = store.models.scale(1).shift(EVERYTHING, 0)
        bank = store.models.scale(1).shift(Series("entity", "Bank"), 0)
    assert shift.kept == pytest.approx((kept + 1) / (sum(was) + 1))
    assert shift.gained == pytest.approx((sum(negative) - kept) / (50 - sum(was) + 1))
    assert bank.ratio == 1
    _done(_run("models", "add", "default", "--config", config))
    unknown = _run("models", "promote", SHIPPED, "--config", config)
    assert "nothing is known of how it compares, so what is usual changes as items come in" in unknown.stderr


def _retrainings(config: Path) -> list[list[str]]:
    _, _, retrainings = _done(_run("models", "list", "--config", config)).partition("\n\n")
    return _cells(
        retrainings, ("retraining", "trigger", "started", "stands", "champion", "challenger", "gate", "reason")
    )


def test_retrainings_are_listed_with_their_gate_and_one_that_is_stuck_is_abandoned(
    config: Path, trained: Path
) -> None:
    version = checkpoint.read(trained).info.version
    for folder in ("default", trained):
        _done(_run("models", "add", folder, "--config", config))
    with Store(f"sqlite:///{config.parent}/news.db") as store:

        def begin() -> Retraining:
            return store.retrainings.begin("hand", by="box:1", champion=SHIPPED, folder=config.parent, now=NOON)

        first = store.retrainings.advance(begin(), NOON, step="gate", snapshot="ab" * 32, found={"gate": GATE})
        store.retrainings.end(first, "refused", "the challenger is not good enough", NOON)
        passed = {"gate": GATE | {"passed": True, "reason": "better on rates"}}
        store.retrainings.advance(begin(), NOON, step="shadow", challenger=version, found=passed)

        at = "2026-03-10 12:00 UTC"
        assert _retrainings(config) == [
            ["2", "hand", at, "at shadow", SHIPPED, version, "passed", "better on rates"],
            ["1", "hand", at, "refused", SHIPPED, "", "refused", "the challenger is not good enough"],
        ]
        assert [row[3] for row in _rows(config)] == ["", "passed"], "the gate that each model has passed"

        told = _done(_run("models", "list", "--retraining", "1", "--config", config))
        assert f"\nstands      refused, {at}\n" in told
        assert "\ntrained on  set abababababab\n" in told
        assert told.partition("\n\n")[2] == Verdict.read(GATE).text()
        assert "negative recall  reference  300" in told
        [one] = [json.loads(_done(_run("models", "list", "--retraining", "1", "--json", "--config", config)))]
        assert (one["snapshot"], one["found"], one["ended_at"]) == ("ab" * 32, {"gate": GATE}, NOON.isoformat())

        ended = _run("models", "abandon", "--reason", "no news at night", "--config", config)
        assert _done(ended) == "retraining 2 is abandoned at step shadow\n"
        stored = store.retrainings.get(2)
        assert stored.outcome == "failed"
        assert stored.reason is not None
        assert stored.reason.startswith(f"abandoned by {getpass.getuser()}@")
        assert stored.reason.endswith(": no news at night")

    listed = json.loads(_done(_run("models", "list", "--json", "--config", config)))
    assert [(model["version"], model["champion"], model["files"]) for model in listed["models"]] == [
        (SHIPPED, False, "complete"),
        (version, False, "complete"),
    ]
    assert [(one["number"], one["outcome"]) for one in listed["retrainings"]] == [(2, "failed"), (1, "refused")]
    assert listed["champion"] is None


def test_a_folder_that_was_changed_is_listed_as_such_and_not_promoted(
    config: Path, trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "mine"))
    version = checkpoint.read(folder).info.version
    _done(_run("models", "add", folder, "--config", config))
    (folder / "model.json").write_text((folder / "model.json").read_text() + "\n")
    assert [row[6] for row in _rows(config)] == ["changed"]
    refused = _run("models", "promote", version, "--config", config)
    assert refused.returncode == 1
    assert f"{folder}/model.json: changed since model {version} was added on " in refused.stderr
    (folder / "weights.safetensors").unlink()
    assert [row[6] for row in _rows(config)] == ["missing"]
    refused = _run("models", "promote", version, "--config", config)
    assert f"{folder}/weights.safetensors: cannot be read (No such file or directory)" in refused.stderr
    assert [row[5] for row in _rows(config)] == [""], "nothing is champion"


def test_check_score_and_backtest_take_the_champion(config: Path, trained: Path) -> None:
    version = checkpoint.read(trained).info.version
    _done(_run("models", "add", trained, "--config", config))
    _done(_run("models", "promote", version, "--config", config))
    checked = _done(_run("check", "--config", config))
    assert (
        f"ok      model: {version} on onnx cpu fp32, 3 topics, 0 watched entities; model {version} is the " in checked
    )
    scored = _run("score", config.parent / "news.jsonl", "--config", config)
    assert f'"model": "{version}"' in _done(scored)
    assert f"model {version} is the champion since " in scored.stderr
    tried = _run("backtest", config.parent / "news.jsonl", "--config", config)
    _done(tried)
    assert f"model {version} is the champion since " in tried.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["promote", "minilm"], 2, "model 'minilm' is not in the registry of sqlite:///"),
        (["add", "default", "--parent", "minilm"], 2, "model 'minilm' is not in the registry of sqlite:///"),
        (["add", "nowhere"], 1, "nowhere/model.json: cannot be read (No such file or directory)"),
        (["abandon"], 2, "no retraining goes on; see sentiment-monitor models list"),
        (["list", "--retraining", "7"], 1, "there is no retraining 7"),
        (["rollback"], 1, "no model was promoted yet; promote another with"),
        (["promot", "minilm"], 2, "No such command 'promot'"),
    ],
)
def test_a_mistake_ends_in_one_line(config: Path, arguments: list[str], code: int, message: str) -> None:
    done = _run("models", *arguments, *([] if arguments[0] == "promot" else ["--config", config]))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.startswith("sentiment-monitor: error: ")
    assert done.stderr.count("\n") == 1
