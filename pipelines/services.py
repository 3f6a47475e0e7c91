"""Servers to measure and test against: each on loopback, on a free port, gone when whoever started it is.

A server that cannot be had raises `UnavailableError`, whose text says what is missing.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from monitor.records import MonitorError

START_DEADLINE_S: Final = 90
STOP_DEADLINE_S: Final = 20
_NOTHING: Final[Mapping[str, str]] = {}


class UnavailableError(MonitorError):
    """A server that cannot be started here; the text says what is missing."""


class Process:
    """A server's process. It dies with the one that started it, even where that is killed: the kernel sees to it.

    Args:
        log: gets its output, appended.
        switch: options of setpriv, such as another user to run it as.
    """

    def __init__(self, command: Sequence[str], log: Path, switch: Sequence[str] = ()) -> None:
        prefix = ["setpriv", "--pdeathsig", "KILL", *switch] if shutil.which("setpriv") else []
        self._log = log
        with log.open("ab") as output:
            # A session of its own, so that Ctrl-C reaches us first, and we stop the servers in order.
            self._popen = subprocess.Popen(  # noqa: S603
                [*prefix, *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.pid = self._popen.pid

    def wait_until(
        self, ready: Callable[[], bool], what: str, within_s: float = START_DEADLINE_S, every_s: float = 0.05
    ) -> None:
        """Poll `ready` until it says yes.

        Raises:
            RuntimeError: the process ended or took too long; it is stopped, and its last words are in the message.
        """
        deadline = time.monotonic() + within_s
        while not ready():
            ended = self._popen.poll()
            if ended is not None or time.monotonic() > deadline:
                self.stop()
                state = f"ended with {ended}" if ended is not None else f"is not ready after {within_s:g} s"
                raise RuntimeError(f"{what} {state}; the end of {self._log}:\n{self._log.read_text()[-3000:]}")
            time.sleep(every_s)

    def stop(self, first: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and end it where it does not; its exit status."""
        if self._popen.poll() is None:
            self._popen.send_signal(first)
            try:
                self._popen.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()


class Kafka:
    """One broker that is its own controller (KRaft). Stopped and started, it keeps its port and its records.

    A topic that is written to is made, with `partitions` partitions.

    Args:
        folder: an empty folder for its data and log.
        listeners: more of them, by name: the security protocol and the `host:port` to listen on.
        settings: more of server.properties, or other values.

    Raises:
        UnavailableError: there is no Java, or no jars of Kafka.
        RuntimeError: it does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        partitions: int = 1,
        listeners: Mapping[str, tuple[str, str]] | None = None,
        settings: Mapping[str, str] = _NOTHING,
    ) -> None:
        java = shutil.which("java")
        if java is None:
            raise UnavailableError("there is no java on PATH")
        # One thread's compiler and collector: it shares its cores with what is measured or tested.
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_jars()}/*"]
        self._java = [java, *options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        self._folder = folder
        self._properties = folder / "server.properties"
        self.bootstrap, controller = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        open_to = {"PLAINTEXT": ("PLAINTEXT", self.bootstrap)} | dict(listeners or {})
        every = open_to | {"CONTROLLER": ("PLAINTEXT", controller)}
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": ",".join(f"{name}://{address}" for name, (_, address) in every.items()),
            "advertised.listeners": ",".join(f"{name}://{address}" for name, (_, address) in open_to.items()),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, (kind, _) in every.items()),
            "log.dirs": f"{folder}/data",
            "num.partitions": str(partitions),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "file.delete.delay.ms": "0",
            "log.initial.task.delay.ms": "0",
        } | dict(settings)
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        formatting = ["kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4()), "-c", str(self._properties)]
        run([*self._java, *formatting])
        self.start()

    def start(self) -> None:
        self._process = Process([*self._java, "kafka.Kafka", str(self._properties)], self._folder / "kafka.log")
        host, port = self.bootstrap.split(":")
        self._process.wait_until(lambda: _listens(host, int(port)), "Kafka")

    def stop(self) -> None:
        self._process.stop()


def kafka_jars() -> Path:
    """The newest folder that `make services` copied a broker's jars to.

    Raises:
        UnavailableError: there is none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sentiment-monitor"
    versions = {path: re.fullmatch(r"kafka-(\d+)\.(\d+)\.(\d+)", path.name) for path in cache.glob("kafka-*")}
    known = {path: tuple(map(int, version.groups())) for path, version in versions.items() if version}
    if not known:
        raise UnavailableError(f"there are no jars in {cache}/kafka-VERSION")
    return max(known, key=known.__getitem__)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def run(command: Sequence[str]) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message has its output.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_DEADLINE_S, cwd="/", check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
