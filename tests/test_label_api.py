"""`POST /api/labels` on the real server, with the real store behind it."""

import io
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from monitor import config
from monitor.config import ConfigError, FileSettings, HttpSettings, Settings, SourceSettings, StoreSettings
from monitor.daemon import Daemon
from monitor.labelling import parsed, take
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.web.app import WebServer, create_app
from monitor.web.labels import MAX_BYTES, MAX_RECORDS, labels_route
from tests.support import until
from tests.test_store_batches import NEWS, NOW, entry, moved
from tests.test_stored_labels import given, history

TOKEN = "correct horse battery"  # noqa: S105
Post = Callable[..., httpx2.Response]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as store:
        store.commit(NEWS, [entry("a", 1), entry("b", 2)], [moved(2)], NOW)
        yield store


def _serve(store: Store, token: str | None) -> WebServer:
    def well() -> dict[str, str | None]:
        return {}

    route = labels_route(token, lambda records: take(store, [parsed(raw, NOW) for raw in records], NOW))
    return WebServer(create_app(Metrics().exposition, well, well, route), "127.0.0.1", 0)


@pytest.fixture
def post(store: Store) -> Iterator[Post]:
    with _serve(store, TOKEN) as server:

        def send(data: Any, authorization: str | None = f"Bearer {TOKEN}") -> httpx2.Response:
            headers = {} if authorization is None else {"Authorization": authorization.encode()}
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            return httpx2.post(f"{server.url}/api/labels", content=content, headers=headers, timeout=30)

        yield send


def test_one_record_or_a_list_of_them_is_stored(post: Post, store: Store) -> None:
    one = {"id": "a", "task": "sentiment", "label": "neutral", "by": "Ada", "at": "2024-03-08T09:00:00Z"}
    answer = post(one)
    assert (answer.status_code, answer.json()) == (200, {"stored": 1, "repeated": 0, "blank": 0, "rejected": []})
    answer = post([one, {"id": "b", "topic": "Banks", "sentiment": "positive", "by": "Ada"}])
    assert (answer.status_code, answer.json()) == (200, {"stored": 2, "repeated": 1, "blank": 0, "rejected": []})
    assert {(label.item, label.label) for label in store.labels.standing()} == {
        ("a", "neutral"), ("b", "Banks"), ("b", "positive"),
    }  # fmt: skip


def test_an_unknown_item_is_404_and_the_rest_is_stored(post: Post, store: Store) -> None:
    answer = post(
        [{"id": "z", "sentiment": "neutral", "by": "Ada"}, {"id": "a", "sentiment": "neutral", "by": "Ada"}]
    )
    assert answer.status_code == 404
    assert answer.json() == {
        "stored": 1,
        "repeated": 0,
        "blank": 0,
        "rejected": [
            {
                "index": 0,
                "reason": "unknown_item",
                "error": "id: 'z' is no item of this database; give an id that `label --queue` or an alert shows",
            }
        ],
    }
    assert len(history(store)) == 1


def test_a_record_that_breaks_the_contract_is_422_with_its_place_and_the_rest_is_stored(
    post: Post, store: Store
) -> None:
    answer = post([{"id": "a", "sentiment": "neutral", "by": "Ada"}, 7, {"id": "a", "sentiment": "bad", "by": "Ada"}])
    assert (answer.status_code, answer.json()["stored"]) == (422, 1)
    assert [(one["index"], one["reason"]) for one in answer.json()["rejected"]] == [
        (1, "not_object"),
        (2, "bad_value"),
    ]
    assert "sentiment: 'bad' is no sentiment" in answer.json()["rejected"][1]["error"]
    assert len(history(store)) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", r"the body cannot be read: .*; send a JSON object, or a list of them"),
        (b"\xff\xff", r"the body cannot be read: "),
        ("[]".encode("utf-16"), r"the body cannot be read: 'utf-8' codec can't decode byte"),
        (b"[" * 200_000, r"the body cannot be read: "),
        (b"[" + b"0," * MAX_RECORDS + b"0]", r"a list of 10,001, at most 10,000 are taken at a time"),
    ],
)
def test_a_body_that_is_not_json_or_too_many_records_is_422(post: Post, body: bytes, message: str) -> None:
    answer = post(body)
    assert answer.status_code == 422
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer.json()["error"])


def test_a_body_that_is_too_long_is_413_and_no_more_of_it_is_read(post: Post, store: Store) -> None:
    answer = post(b" " * (MAX_BYTES + 1))
    assert (answer.status_code, answer.json()) == (
        413, {"error": "the body is longer than 1,048,576 bytes: send fewer labels at a time"},
    )  # fmt: skip


def test_a_body_of_undeclared_length_that_never_ends_is_413(store: Store) -> None:
    with (
        _serve(store, TOKEN) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection,
    ):
        head = (
            f"POST /api/labels HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n"
        )
        connection.sendall(head.encode() + b"\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            connection.sendall(chunk)
        connection.settimeout(30)
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_before_its_body_ends_is_no_fault_of_the_monitor(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        _serve(store, TOKEN) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection,
    ):
        head = f"POST /api/labels HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 99\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        connection.settimeout(30)
        assert connection.recv(64).startswith(b"HTTP/1.1 100 ")  # from here on the body is waited for
        connection.sendall(b'{"id"')
    assert "Traceback" not in capsys.readouterr().err
    assert history(store) == []


def test_a_token_may_have_letters_of_any_alphabet(store: Store) -> None:
    token = "un café là-bas, voilà"  # noqa: S105
    with _serve(store, token) as server:
        headers = {"Authorization": f"Bearer {token}".encode()}
        label = {"id": "a", "sentiment": "neutral", "by": "Ada"}
        assert httpx2.post(f"{server.url}/api/labels", json=label, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "what"),
    [
        (None, "missing"),
        ("Bearer", "wrong"),
        (f"Bearer {TOKEN}!", "wrong"),
        (f"Bearer {TOKEN[:-1]}", "wrong"),
        (f"Basic {TOKEN}", "wrong"),
        ("Bearer passwört", "wrong"),
    ],
)
def test_without_the_token_nothing_is_taken(post: Post, store: Store, authorization: str | None, what: str) -> None:
    answer = post({"id": "a", "sentiment": "neutral", "by": "Ada"}, authorization)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json() == {
        "error": f"the token is {what}: send what http.token is set to as 'Authorization: Bearer TOKEN'"
    }
    assert history(store) == []


def test_where_no_token_is_set_the_answer_says_which_setting_to_set(store: Store) -> None:
    with _serve(store, None) as server:
        answer = httpx2.post(f"{server.url}/api/labels", json={}, headers={"Authorization": "Bearer None"})
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("labels are not taken: set http.token, or SENTIMENT_HTTP__TOKEN, to a")
    assert history(store) == []


def test_labels_can_only_be_posted(store: Store) -> None:
    with _serve(store, TOKEN) as server:
        assert httpx2.get(f"{server.url}/api/labels").status_code == 405


@pytest.mark.parametrize("token", ["short", "", "short            \n"])
def test_a_token_that_could_be_guessed_is_refused_and_not_shown(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_HTTP__TOKEN", token)
    with pytest.raises(ConfigError, match=r"environment variable SENTIMENT_HTTP__TOKEN: .* at least 16") as caught:
        config.load()
    assert "short" not in str(caught.value)
    monkeypatch.setenv("SENTIMENT_HTTP__TOKEN", TOKEN)
    settings = config.load()
    assert settings.http.token == SecretStr(TOKEN)
    assert TOKEN not in repr(settings)
    monkeypatch.setenv("SENTIMENT_HTTP__TOKEN", f"{TOKEN}\n")  # as `cat` gives a file's line
    assert config.load().http.token == SecretStr(TOKEN)


def _counter(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_daemon_takes_labels_counts_them_and_shows_how_far_people_agree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    news = tmp_path / "news.jsonl"
    news.write_text(
        '{"id": "a", "title": "Oil climbs", "published_at": "2023-03-10T16:42:07Z"}\n'
        '{"id": "b", "title": "Gold falls", "published_at": "2023-03-10T16:43:07Z"}\n'
    )
    url = f"sqlite:///{tmp_path / 'daemon.db'}"
    settings = Settings(
        source=SourceSettings(kind="file"),
        file=FileSettings(path=news),
        store=StoreSettings(url=url),
        http=HttpSettings(port=0, token=SecretStr(TOKEN)),
    )
    metrics = Metrics()
    daemon = Daemon(settings, metrics, io.StringIO())
    thread = threading.Thread(target=daemon.run)
    with caplog.at_level("INFO"), Store(url) as store:
        thread.start()
        try:
            until(lambda: store.counts()["items"] == 2)
            [server] = [m.rsplit(" ", 1)[1] for m in caplog.messages if "metrics and health at" in m]
            records = [
                {"id": item, "sentiment": sentiment, "by": who}
                for who in ("Ada", "Bob")
                for item, sentiment in (("a", "positive"), ("b", "negative"), ("z", "neutral"))
            ]
            headers = {"Authorization": f"Bearer {TOKEN}"}
            for _ in range(2):
                assert httpx2.post(f"{server}/api/labels", json=records, headers=headers).status_code == 404
        finally:
            daemon.stop()
            thread.join(timeout=20)
        metrics.show_labels(store.labels.amounts())
    assert _counter(metrics, "sentiment_labels_total", task="sentiment", outcome="stored") == 4
    assert _counter(metrics, "sentiment_labels_total", task="sentiment", outcome="repeated") == 4
    assert _counter(metrics, "sentiment_labels_total", task="topic", outcome="stored") == 0
    assert _counter(metrics, "sentiment_rejected_labels_total", reason="unknown_item") == 4
    assert _counter(metrics, "sentiment_labelled_items", task="sentiment") == 2
    assert _counter(metrics, "sentiment_label_agreement", task="sentiment") == 1
    assert _counter(metrics, "sentiment_label_agreement", task="topic") is None


def test_agreement_is_no_longer_shown_once_people_have_come_to_say_the_same_of_all(store: Store) -> None:
    metrics = Metrics()
    store.labels.add([given("neutral", hour=9), given("positive", who="Bob", hour=9)], NOW)
    metrics.show_labels(store.labels.amounts())
    assert _counter(metrics, "sentiment_label_agreement", task="sentiment") == 0
    store.labels.add([given("neutral", who="Bob", hour=10)], NOW)
    metrics.show_labels(store.labels.amounts())
    assert _counter(metrics, "sentiment_label_agreement", task="sentiment") is None
    assert _counter(metrics, "sentiment_labelled_items", task="sentiment") == 1
    assert _counter(metrics, "sentiment_labelled_items", task="topic") == 0


def test_while_the_database_is_away_labels_are_asked_for_again_later(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "monitor.db"
    with (
        Store(f"sqlite:///{file}?timeout=0.05") as impatient,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
        _serve(impatient, TOKEN) as server,
    ):

        def answer() -> httpx2.Response:
            label = {"id": "a", "sentiment": "neutral", "by": "Ada"}
            headers = {"Authorization": f"Bearer {TOKEN}"}
            return httpx2.post(f"{server.url}/api/labels", json=label, headers=headers, timeout=30)

        other.execute("BEGIN IMMEDIATE")
        refused = answer()
        other.execute("ROLLBACK")
        assert refused.status_code == 503
        assert refused.json() == {"error": "the database cannot be used just now: send the labels again later"}
        assert answer().json()["stored"] == 1
