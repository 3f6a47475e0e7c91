"""The commands, as a user runs them: a process, its output, its exit code."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from monitor.records import SENTIMENTS
from tests import tiny_model

COMMAND = [sys.executable, "-m", "monitor"]


def _run(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


def _on_a_terminal(arguments: Sequence[str | Path]) -> tuple[int, str]:
    """What a command writes to a terminal, and its exit code."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # the last writer has closed the terminal
            break
        if not block:
            break
        written += block
    os.close(leader)
    return process.wait(timeout=300), written.decode()


def _records(count: int) -> list[str]:
    return [
        json.dumps({"id": f"n{i}", "title": f"Bank {i} posts record loss", "published_at": "2023-03-10T16:42:07Z"})
        for i in range(count)
    ]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scroe"], "No such command 'scroe'"),
        (["score", "--colums", "a=b"], "No such option"),
        (["replay", "x.jsonl", "--to", "news"], "--to: 'news' is not BOOTSTRAP/TOPIC"),
        (
            ["replay", "x.jsonl", "--to", "h:1/t", "--speed", "-1"],
            "'--speed': Input should be greater than",
        ),
        (["score", "x.csv", "--columns", "title"], "--columns: 'title' is not KEY=COLUMN"),
        (["run", "--config", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["backtest"], "Missing argument"),
        (["backtest", "x.jsonl", "--picture", "sweep.svg"], "--picture: shows a sweep; add --sweep"),
        (["backtest", "x.jsonl", "--sweep", "--picture", "sweep.pdf"], "sweep.pdf ends in '.pdf', expected .svg or"),
        (["backtest", "x.jsonl", "--grace", "-1"], "'--grace': Input should be greater than"),
        (["backtest", "x.jsonl", "--events", "nowhere.csv"], "nowhere.csv: cannot be read (No such file"),
        (["backtest", "x.jsonl", "--report", "missing/report.json"], "--report: "),
    ],
)
def test_a_misuse_ends_in_one_line_and_code_2(arguments: list[str], message: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("sentiment-monitor: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere.jsonl"], "nowhere.jsonl"),
        (["backtest", "nowhere.csv"], "nowhere.csv"),
        (["score", "/"], "/"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_without_a_traceback(arguments: list[str], message: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_version_is_printed() -> None:
    assert _run("--version").stdout.startswith("sentiment-monitor 0.")


def test_help_needs_no_heavy_library() -> None:
    heavy = "{'torch', 'captum', 'transformers', 'onnxruntime', 'kafka', 'sqlalchemy'}"
    code = f"import sys; sys.argv = ['m']; import monitor.cli; sys.exit(str({heavy} & set(sys.modules) or 0))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "0\n"


def test_score_gives_a_line_for_each_record_with_the_keys_of_the_contract() -> None:
    [scored] = _lines(_run("score", "-", stdin=_records(1)[0] + "\n").stdout)
    assert list(scored) == [
        "id", "topic", "sentiment", "topic_probs", "sentiment_probs", "sentiment_score", "model",
    ]  # fmt: skip
    assert (scored["id"], scored["sentiment"]) == ("n0", "negative")
    assert tuple(scored["sentiment_probs"]) == SENTIMENTS
    assert len(scored["topic_probs"]) == 20
    for probs in (scored["topic_probs"], scored["sentiment_probs"]):
        assert sum(probs.values()) == pytest.approx(1, abs=1e-4)
    difference = scored["sentiment_probs"]["positive"] - scored["sentiment_probs"]["negative"]
    assert scored["sentiment_score"] == pytest.approx(difference, abs=1e-5)


def test_score_explains_each_decision_by_the_words_that_weigh_most_and_changes_nothing_else() -> None:
    title = "Bank shares plunge after a record loss on bonds, and regulators fear the collapse of others"
    record = {"id": "n1", "title": title, "published_at": "2023-03-10T16:42:07Z"}
    news = f"{_records(1)[0]}\nnot json\n{json.dumps(record)}\n"
    done = _run("score", "-", "--explain", stdin=news)
    assert "standard input, line 2: record is not JSON" in done.stderr
    lines = _lines(done.stdout)
    explanations = [line.pop("explanation") for line in lines]
    assert lines == _lines(_run("score", "-", stdin=news).stdout)
    assert [line["sentiment"] for line in lines] == ["negative", "negative"]
    for explanation in explanations:
        assert list(explanation) == ["topic", "sentiment"]
        for words in explanation.values():
            weights = [abs(word["weight"]) for word in words]
            assert weights == sorted(weights, reverse=True)
    short, long = explanations
    assert {word["word"] for word in short["sentiment"]} == {"Bank", "0", "posts", "record", "loss"}
    assert {word["word"]: word["weight"] for word in short["sentiment"]}["loss"] > 1
    assert {word["word"]: word["weight"] for word in long["sentiment"]}["plunge"] > 1
    assert [len(words) for words in long.values()] == [8, 8]


def test_score_tells_which_explanation_is_rough(tmp_path: Path) -> None:
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    network = tiny_model.network(encoder, lora=None)
    with torch.no_grad():  # weights so great that no number of steps follows the path
        for values in [*network.encoder.encoder.parameters(), *network.heads.parameters()]:
            values.mul_(9)
    tiny_model.write_checkpoint(tmp_path / "model", network, encoder, lora=None)
    news = '{"id": "a[b]", "title": "oil falls on weak deal talks", "published_at": "2023-03-10T16:42:07Z"}'
    settings = {"SENTIMENT_MODEL__PATH": str(tmp_path / "model"), "SENTIMENT_MODEL__BACKEND": "torch"}
    done = _run("score", "-", "--explain", stdin=news, **settings)
    assert json.loads(done.stdout)["explanation"].keys() == {"topic", "sentiment"}
    assert "a[b]: explained roughly, its words' weights are off by " in done.stderr


def test_without_explain_score_imports_nothing_that_explaining_needs() -> None:
    def imported(*arguments: str) -> set[str]:
        command = [sys.executable, "-X", "importtime", *COMMAND[1:], "score", "-", *arguments]
        environment = os.environ | {"SENTIMENT_MODEL__DEVICE": "cpu"}
        done = subprocess.run(command, input=_records(1)[0], capture_output=True, text=True, env=environment)
        assert len(_lines(done.stdout)) == 1
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} & {"torch", "captum"}

    _run("score", "-", stdin=_records(1)[0])  # exports the model where that was not done yet
    assert imported() == set()
    assert imported("--explain") == {"torch", "captum"}


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_score_reports_a_bad_line_with_its_number_and_scores_the_rest(
    tmp_path: Path, strict: bool, code: int
) -> None:
    lines = _records(1_000)
    lines[499] = '{"title": "no time"}'
    file = tmp_path / "news.jsonl"
    file.write_text("\n".join(lines) + "\n")
    done = _run("score", file, *(["--strict"] if strict else []))
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == 999
    assert f"{file}, line 500: published_at: missing" in done.stderr
    assert "1 of the 1,000 records was rejected" in done.stderr
    assert "━" not in done.stderr  # no progress bar in a pipe


@pytest.mark.parametrize(("options", "items", "shown"), [((), 300, "scoring"), (("--explain",), 40, "explaining")])
def test_score_shows_progress_on_a_terminal(tmp_path: Path, options: tuple[str, ...], items: int, shown: str) -> None:
    file = tmp_path / "news.jsonl"
    file.write_text("\n".join(_records(items)) + "\n")
    code, written = _on_a_terminal(["score", file, *options])
    assert code == 0
    assert shown in written
    assert f"{items}/{items}" in written
    assert "━" in written


def test_score_writes_its_output_whole_or_not_at_all(tmp_path: Path) -> None:
    output = tmp_path / "scored.jsonl"
    news = tmp_path / "news.jsonl"
    news.write_text("\n".join(_records(3)))
    assert _run("score", news, "--output", output).returncode == 0
    assert [line["id"] for line in _lines(output.read_text())] == ["n0", "n1", "n2"]
    done = _run("score", news, "--output", tmp_path / "missing" / "scored.jsonl")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["news.jsonl", "scored.jsonl"]


def test_score_never_writes_over_its_input_a_folder_or_a_device(tmp_path: Path) -> None:
    news = tmp_path / "news.jsonl"
    news.write_text("\n".join(_records(3)))
    for output, message in ((news, "is what is read"), (tmp_path, "is a folder")):
        done = _run("score", news, "--output", output)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    assert len(news.read_text().splitlines()) == 3
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [*COMMAND, "score", str(news), "--output", str(pipe)], stderr=subprocess.DEVNULL
    ) as scoring:
        assert len(_lines(pipe.read_text())) == 3
    assert scoring.returncode == 0
    assert pipe.is_fifo()


def test_columns_of_standard_input_are_refused() -> None:
    done = _run("score", "-", "--columns", "title=headline", stdin="headline\n")
    assert done.returncode == 2
    assert "standard input is read as JSON Lines" in done.stderr


def test_score_works_for_an_account_without_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made in a file")
    home = {name: str(tmp_path / "file") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    done = _run("score", "-", "--explain", stdin=_records(1)[0], **home)
    assert done.returncode == 0
    assert json.loads(done.stdout)["id"] == "n0"
    assert "SENTIMENT_MODEL__CACHE_DIR" in done.stderr
    assert "atplotlib" not in done.stderr


def test_score_reads_csv_with_mapped_columns_and_html(tmp_path: Path) -> None:
    file = tmp_path / "news.csv"
    file.write_text(
        "headline,when,text\n"
        '"Oil climbs, again",2023-03-10T16:42:07Z,"<p>Crude &amp; gas rose</p>"\n'
        "No time at all,,\n"
    )
    done = _run("score", file, "--columns", "title=headline,published_at=when,body=text")
    assert [line["topic"] for line in _lines(done.stdout)] == ["Energy | Oil"]
    assert f"{file}, line 3: published_at: missing" in done.stderr


def test_a_reader_that_has_seen_enough_ends_score_quietly(tmp_path: Path) -> None:
    file = tmp_path / "news.jsonl"
    file.write_text("\n".join(_records(2_000)))
    done = subprocess.run(
        f"{' '.join(COMMAND)} score {file} | head -n 1", shell=True, capture_output=True, text=True, timeout=300
    )
    assert json.loads(done.stdout)["id"] == "n0"
    assert "Traceback" not in done.stderr


def test_backtest_writes_the_alerts_of_a_history(tmp_path: Path) -> None:
    usual = [
        {
            "title": f"Company {i} opens plant number {i}",
            "published_at": f"2023-03-10T{i // 30:02}:{i % 30 * 2:02}:00Z",
        }
        for i in range(360)
    ]
    bad = [
        {"title": f"Bank {i} posts a record loss of ${i} billion", "published_at": f"2023-03-10T12:{i:02}:00Z"}
        for i in range(40)
    ]
    file = tmp_path / "history.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in bad + usual) + "\nnot json\n")
    output = tmp_path / "alerts.jsonl"
    done = _run("backtest", file, "--output", output)
    assert done.returncode == 0, done.stderr
    alerts = _lines(output.read_text())
    assert "Everything" in [alert["name"] for alert in alerts]
    for alert in alerts:
        assert "2023-03-10T12" <= alert["opened_at"] < "2023-03-10T13"
        assert all(story["title"].startswith("Bank") for story in alert["evidence"])
    assert f"{file}, line 401: record is not JSON" in done.stderr
    assert f"{len(alerts)} alerts in 400 items" in done.stderr


def _file_config(folder: Path, rest: str) -> Path:
    """Settings that read three records of a file, and more."""
    news = folder / "news.jsonl"
    news.write_text("\n".join(_records(3)) + "\n")
    config = folder / "monitor.toml"
    config.write_text(
        f"""
        [source]
        kind = "file"
        [file]
        path = "{news}"
        [store]
        url = "sqlite:///{folder}/monitor.db"
        """
        + rest
    )
    return config


def test_check_names_what_works_and_what_does_not(tmp_path: Path) -> None:
    config = _file_config(tmp_path, '[alerts]\nalertmanager_urls = ["http://127.0.0.1:1"]')
    done = _run("check", "--config", config)
    states = {line[8:].partition(":")[0]: line[:6].strip() for line in done.stdout.splitlines()}
    assert states == {
        "settings": "ok",
        "model": "ok",
        "store": "ok",
        "source": "ok",
        "alertmanager http": "failed",
    }
    assert "http://127.0.0.1:1/api/v2/status" in done.stdout
    assert done.returncode == 1


def test_check_refuses_a_watched_entity_on_a_topic_that_the_model_does_not_know(tmp_path: Path) -> None:
    config = _file_config(tmp_path, '[[watchlist]]\nname = "Harrowgate"\ntopics = ["Financial"]')
    done = _run("check", "--config", config)
    assert done.returncode == 1
    assert "failed  model: watchlist, 'Harrowgate': topics: 'Financial' is not a topic of the model" in done.stdout
    config.write_text(config.read_text().replace("Financial", "Financials"))
    done = _run("check", "--config", config)
    assert (done.returncode, "20 topics, 1 watched entities" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[[overrides]]\nname = "Financial"\nkinds = []', "overrides[0].name: 'Financial' is not followed, "),
        ('[calendar]\nexchanges = ["XNYX"]', "calendar.exchanges: 'XNYX' is not an exchange, "),
    ],
)
def test_check_refuses_what_names_no_series_or_exchange(tmp_path: Path, more: str, message: str) -> None:
    done = _run("check", "--config", _file_config(tmp_path, more))
    assert done.returncode == 1
    assert f"failed  model: {message}" in done.stdout
    assert "; did you mean '" in done.stdout


def test_the_demo_alerts_on_what_was_planted_and_on_nothing_else() -> None:
    done = _run("demo", "--exit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The bank run planted at 14:20 was found after" in done.stdout
    openings = [line for line in done.stdout.splitlines() if "opened" in line and "stories on Financials" in line]
    assert len(openings) == 1
    assert "Also: Everything" in openings[0]
    assert "14:20" < openings[0][:5] <= "15:20"
    assert "resolved  Financials" in done.stdout
