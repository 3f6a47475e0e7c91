"""Processes that the daemon starts: real ones."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from monitor import children
from monitor.children import Child
from tests.support import until

SLEEPS = "import sys, time; print('at work', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
STARTS_ANOTHER = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(p.pid, flush=True); p.wait()"
)


class _World:
    def __init__(self, folder: Path) -> None:
        self.output = folder / "retraining" / "retrain.log"
        self.ended: list[int] = []
        self.life = ExitStack()

    def child(self, script: str, niceness: int = 0) -> Child:
        command = [sys.executable, "-c", script]
        child = Child("retrain", command, self.output, niceness=niceness, ended=self.ended.append)
        self.life.callback(child.stop)
        return child

    def written(self) -> str:
        return until(lambda: self.output.exists() and self.output.read_text())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[_World]:
    world = _World(tmp_path)
    with world.life:
        yield world


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_it_runs_in_a_session_of_its_own_as_nice_as_told_and_writes_to_its_file(world: _World) -> None:
    # The niceness is set right after the start, so it waits for that.
    script = (
        "import os, time\nwhile os.getpriority(os.PRIO_PROCESS, 0) < 19: time.sleep(0.01)\n"
        "print('own session:', os.getsid(0) == os.getpid())"
    )
    child = world.child(script, niceness=19)
    assert child.start()
    until(lambda: not child.look())
    assert world.written() == "own session: True\n"
    assert world.ended == [0]


def test_there_is_one_at_a_time(world: _World) -> None:
    child = world.child(SLEEPS)
    assert [child.start(), child.start()] == [True, False]
    assert world.written().count("at work") == 1


def test_an_end_with_an_error_is_told_once_with_the_last_words(
    world: _World, caplog: pytest.LogCaptureFixture
) -> None:
    child = world.child("import sys; print('first'); sys.exit('no labels\\n')")
    with caplog.at_level(logging.INFO):
        child.start()
        until(lambda: not child.look())
        child.look()
    assert world.ended == [1]
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert message == f"retrain: its process ended with status 1; its last words, from {world.output}: no labels"
    assert child.start(), "it can be started again"


def test_a_kill_from_outside_is_told_by_its_signal(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    child = world.child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    child.start()
    until(lambda: not child.look())
    assert world.ended == [-signal.SIGKILL]
    assert "its process ended by SIGKILL" in caplog.text


def test_a_stop_ends_it_and_what_it_has_started_and_is_no_failure(world: _World) -> None:
    child = world.child(STARTS_ANOTHER)
    child.start()
    grandchild = int(world.written())
    assert _is_alive(grandchild)
    child.stop()
    until(lambda: not _is_alive(grandchild))
    assert not child.look()
    assert world.ended == []


def test_what_does_not_stop_is_killed(
    world: _World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.2)
    child = world.child(STUBBORN)
    child.start()
    world.written()
    child.stop()
    assert "does not stop, and is killed" in caplog.text
    assert not child.look()


def test_a_command_that_is_not_there_is_an_os_error(world: _World) -> None:
    child = Child("retrain", ["/nowhere/python"], world.output, niceness=0, ended=world.ended.append)
    with pytest.raises(FileNotFoundError):
        child.start()
    assert not child.look()
