"""The registry of models: what is in it, and who is champion."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor.models import (
    Model,
    NoChampionBefore,
    OtherFiles,
    Promotion,
    PromotionConflict,
    UnknownModel,
    fingerprint,
)
from monitor.store import Store

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)

PROMOTE_AGAIN_AND_AGAIN = """
import sys
from datetime import UTC, datetime
from monitor.store import Store
with Store(sys.argv[1]) as store:
    while True:
        seen = store.models.champion()
        store.models.promote("b" if seen.version == "a" else "a", seen=seen, at=datetime.now(UTC), by="loop")
        print(seen.number, flush=True)
"""


def _model(version: str, **keys: object) -> Model:
    values = {"folder": Path("/models") / version, "files": {"model.json": version}, "added_at": NOON}
    return Model(version=version, **values | keys)  # type: ignore[arg-type]


def _promote(store: Store, version: str, minutes: float = 0, reason: str | None = None) -> Promotion:
    at = NOON + timedelta(minutes=minutes)
    return store.models.promote(version, seen=store.models.champion(), at=at, by="anna@desk", reason=reason)


def _roll_back(store: Store) -> str:
    return store.models.roll_back(seen=store.models.champion(), at=NOON, by="ben@desk").version


def _champion(store: Store) -> Promotion:
    champion = store.models.champion()
    assert champion is not None
    return champion


class RegistryContract:
    """What the registry promises on every database."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with Store(url) as opened:
            for version in "abc":
                opened.models.add(_model(version))
            yield opened

    def test_a_model_is_given_back_as_it_was_added(self, store: Store) -> None:
        child = _model("child", parent="a", note="more headlines", files={"model.json": "1", "weights": "2"})
        assert store.models.add(child) == child == store.models.get("child")
        assert [model.version for model in store.models.all()] == ["a", "b", "c", "child"]

    def test_a_fingerprint_is_equal_only_where_every_file_is(self) -> None:
        files = {"model.json": "1", "weights": "2"}
        others = [files | {"weights": "3"}, {"model.json": "1"}, {"model.json": "2", "weights": "1"}]
        assert fingerprint(dict(reversed(files.items()))) == fingerprint(files)
        assert fingerprint(files) not in map(fingerprint, others)

    def test_a_model_whose_folder_was_moved_is_added_again_and_keeps_its_note(self, store: Store) -> None:
        store.models.add(_model("a", note="first"))
        moved = store.models.add(_model("a", folder=Path("/elsewhere")))
        assert (moved.folder, moved.note) == (Path("/elsewhere"), "first")
        assert len(store.models.all()) == 3

    def test_a_version_is_not_added_twice_with_other_files(self, store: Store) -> None:
        other = _model("a", files={"model.json": "changed"})
        with pytest.raises(OtherFiles, match=r"'a' is in the registry since 2026-03-10 12:00 .* \(model\.json\)"):
            store.models.add(other)
        assert store.models.get("a") == _model("a")

    def test_an_unknown_version_is_named_with_those_that_there_are(self, store: Store) -> None:
        store.models.add(_model("minilm-2026"))
        for ask in (
            lambda: store.models.get("minilm-2025"),
            lambda: _promote(store, "minilm-2025"),
            lambda: store.models.add(_model("child", parent="minilm-2025")),
        ):
            with pytest.raises(UnknownModel, match=r"'minilm-2025' is not in .* a, b, c, .*mean 'minilm-2026'\?"):
                ask()
        assert store.models.champion() is None

    def test_the_newest_promotion_names_the_champion_and_says_who_why_and_in_place_of_what(
        self, store: Store
    ) -> None:
        assert store.models.champion() is None
        first, second = _promote(store, "a"), _promote(store, "b", 5, "better on headlines")
        assert store.models.champion() == second
        assert (first.number, first.previous) == (1, None)
        assert second == Promotion(
            number=2,
            version="b",
            promoted_at=NOON + timedelta(minutes=5),
            previous="a",
            back_to=1,
            reason="better on headlines",
            by="anna@desk",
        )

    def test_a_rollback_goes_one_champion_back_and_a_second_one_further(self, store: Store) -> None:
        for version in "abc":
            _promote(store, version)
        assert [_roll_back(store), _roll_back(store)] == ["b", "a"]
        newest = _champion(store)
        assert (newest.number, newest.previous, newest.by) == (5, "b", "ben@desk")
        _promote(store, "c")
        assert _roll_back(store) == "a"

    def test_a_rollback_with_nothing_to_go_back_to_says_so_and_changes_nothing(self, store: Store) -> None:
        with pytest.raises(NoChampionBefore, match=r"no champion to go back to .*: no model was promoted yet"):
            _roll_back(store)
        _promote(store, "a")
        with pytest.raises(NoChampionBefore, match=r"a was the first; promote another with"):
            _roll_back(store)
        assert (_champion(store).number, _champion(store).version) == (1, "a")

    def test_of_two_who_decide_at_once_the_second_hears_what_the_first_did(self, store: Store) -> None:
        _promote(store, "a")
        seen = store.models.champion()
        first = store.models.promote("b", seen=seen, at=NOON, by="anna@desk")
        for late in (
            lambda: store.models.promote("c", seen=seen, at=NOON, by="ben@desk"),
            lambda: store.models.promote("c", seen=None, at=NOON, by="ben@desk"),
        ):
            with pytest.raises(PromotionConflict, match=r"'c' was not promoted: anna@desk promoted b meanwhile, at"):
                late()
        assert store.models.champion() == first

    def test_of_many_that_promote_in_one_moment_one_does(self, store: Store, url: str) -> None:
        seen = _promote(store, "a")
        start = threading.Barrier(6)

        def work(worker: int) -> str:
            with Store(url) as own:
                start.wait(timeout=60)
                try:
                    own.models.promote("bc"[worker % 2], seen=seen, at=NOON, by=f"{worker}")
                except PromotionConflict as error:
                    return str(error)
                return "promoted"

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(work, range(6)))
        assert answers.count("promoted") == 1
        winner = _champion(store)
        assert (winner.number, winner.by) == (2, str(answers.index("promoted")))

    def test_a_kill_while_promoting_leaves_the_old_champion_or_the_new_one(self, store: Store, url: str) -> None:
        _promote(store, "a")
        numbers = [1]
        for seed in range(5):
            process = subprocess.Popen(
                [sys.executable, "-c", PROMOTE_AGAIN_AND_AGAIN, url], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.Random(seed).uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
            told = process.stdout.read().split()
            process.wait()
            process.stdout.close()
            champion = _champion(store)
            assert champion.version in ("a", "b")
            # What was told as done is there; the one in hand may be.
            assert champion.number >= max(map(int, told), default=numbers[-1]) + 1
            numbers.append(champion.number)
            back, steps = champion, 0
            while back.back_to is not None:
                back, steps = store.models.before(back), steps + 1
            assert steps == champion.number - 1
        assert numbers == sorted(set(numbers)), "each process was to promote something"


class TestRegistryOnSqlite(RegistryContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'news.db'}"

    def test_a_registry_outlives_the_process(self, store: Store, url: str) -> None:
        promoted = _promote(store, "b", reason="x")
        store.close()
        with Store(url) as again:
            assert again.models.champion() == promoted
            assert again.models.all() == [_model(version) for version in "abc"]
