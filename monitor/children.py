"""Commands in processes of their own, which the daemon starts, watches and stops."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

STOP_S: Final = 5.0
"""How long a process that is told to stop has, before it is killed."""
_LAST_WORDS: Final = 4096  # bytes at the end of the output that are looked through for its last line


class Child:
    """One command, in at most one process at a time; safe to use from several threads.

    Its process has a session of its own, so that Ctrl-C reaches the daemon alone, which stops it in order and
    with what it has started. If the daemon is killed, the process goes on.

    Args:
        name: what the log calls it.
        output: file that gets what it writes, appended.
        niceness: how far it yields to others, as `nice` has it.
        ended: is told its exit status, negative for a signal, where it was not stopped.
    """

    def __init__(
        self, name: str, command: Sequence[str], output: Path, *, niceness: int, ended: Callable[[int], None]
    ) -> None:
        self._name = name
        self._command = list(command)
        self._output = output
        self._niceness = niceness
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex = threading.Lock()

    def start(self) -> bool:
        """Start it; gives whether it was started: not, where it is at work.

        Raises:
            OSError: it cannot be, or its output cannot be written.
        """
        self.look()
        with self._mutex:
            if self._process is not None:
                return False
            self._output.parent.mkdir(parents=True, exist_ok=True)
            with self._output.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603
                    self._command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
                )
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + self._niceness
            os.setpriority(os.PRIO_PROCESS, self._process.pid, min(niceness, 19))
            log.info("%s: started as process %d, which writes to %s", self._name, self._process.pid, self._output)
        return True

    def look(self) -> bool:
        """Whether it is at work; if it ended since the last look, that is told."""
        with self._mutex:
            if self._process is None:
                return False
            if (status := self._process.poll()) is None:
                return True
            self._process = None
        if status == 0:
            log.info("%s: its process ended well", self._name)
        else:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            words = "%s: its process ended %s; its last words, from %s: %s"
            log.error(words, self._name, how, self._output, self._last_line())
        self._ended(status)
        return False

    def stop(self) -> None:
        """Tell it to stop, and kill it where it does not within `STOP_S`; returns once it has ended."""
        with self._mutex:
            process, self._process = self._process, None
            if process is None or process.poll() is not None:
                return
            log.info("%s: stopping its process, which can go on later", self._name)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                log.warning("%s: its process does not stop, and is killed", self._name)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _last_line(self) -> str:
        try:
            with self._output.open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - _LAST_WORDS))
                lines = output.read().decode("utf-8", "replace").split("\n")
        except OSError as error:
            return f"({error.strerror})"
        return next((line.strip() for line in reversed(lines) if line.strip()), "(none)")
