"""Fixtures of real servers. A server that cannot be had skips its tests, and the end of the run says so, loudly."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.integration.servers import Alertmanager, Kafka, PostgreSQL, Prometheus, Pushgateway, UnavailableError

ENABLE = "make services"
Server = TypeVar("Server")

_not_tested: dict[str, str] = {}
"""Server -> why it cannot be had."""


def _started(name: str, start: Callable[[Path], Server], stack: ExitStack) -> Server:
    """A server in a folder of its own, which goes when the stack closes; skips the test where it cannot be had."""
    if name not in _not_tested:
        # Not one of pytest's folders: PostgreSQL may run as another user, who may not enter these.
        folder = Path(tempfile.mkdtemp(prefix=f"sentiment-{name.lower()}-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            return start(folder)
        except UnavailableError as error:
            _not_tested[name] = str(error)
    pytest.skip(f"{name} NOT TESTED: {_not_tested[name]}; `{ENABLE}` installs it")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, why in _not_tested.items():
        terminalreporter.write_line(
            f"NOT TESTED against a real {name}: {why}. To enable: `{ENABLE}`, then run the tests again.",
            yellow=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A broker that tests may stop and start; its topics live as long as the session."""
    with ExitStack() as stack:
        broker = _started("Kafka", Kafka, stack)
        stack.callback(broker.stop)
        yield broker


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: Kafka) -> str:
    """`host:port` of the broker."""
    return kafka.bootstrap


@pytest.fixture(scope="session")
def make_topic(kafka: Kafka) -> Callable[..., str]:
    """Creates an empty topic with the given number of partitions; its name."""
    return kafka.make_topic


@pytest.fixture
def alertmanager() -> Iterator[Alertmanager]:
    """An Alertmanager with our deployed configuration and an empty state; `.webhook` is what its receivers got."""
    with ExitStack() as stack:
        server = _started("Alertmanager", Alertmanager, stack)
        stack.callback(server.close)
        yield server


@pytest.fixture
def prometheus() -> Iterator[Callable[..., Prometheus]]:
    """Starts a Prometheus with our deployed configuration that scrapes `host:port`."""
    with ExitStack() as stack:

        def start(target: str, alertmanager_url: str | None = None) -> Prometheus:
            server = _started("Prometheus", lambda folder: Prometheus(folder, target, alertmanager_url), stack)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def pushgateway() -> Iterator[Pushgateway]:
    """A Pushgateway with nothing in it."""
    with ExitStack() as stack:
        server = _started("Pushgateway", Pushgateway, stack)
        stack.callback(server.stop)
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with ExitStack() as stack:
        server = _started("PostgreSQL", PostgreSQL, stack)
        stack.callback(server.stop)
        yield server


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database, dropped after the test."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)
