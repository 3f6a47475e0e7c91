"""Real servers for the tests: each on loopback, on a free port, in a folder of its own, gone when the tests are.

A server that cannot be had raises `UnavailableError`, whose text says what is missing and how to get it.
"""

import json
import os
import pwd
import shutil
import signal
import threading
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import yaml
from kafka.admin import KafkaAdminClient, NewTopic

from pipelines import services
from pipelines.services import Process, UnavailableError, free_port, run

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS_CONFIG = REPOSITORY / "deploy" / "prometheus" / "prometheus.yml"
RULES = REPOSITORY / "deploy" / "prometheus" / "retraining.rules.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "retraining.json"
ALERTMANAGER_CONFIG = REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml"


class Kafka(services.Kafka):
    """A broker whose `bootstrap` takes anyone, and whose `sasl_bootstrap` takes only `SASL_USER` (SASL_PLAINTEXT,
    PLAIN)."""

    SASL_USER = ("risk-desk", "correct horse")

    def __init__(self, folder: Path) -> None:
        self.sasl_bootstrap = f"127.0.0.1:{free_port()}"
        user, password = self.SASL_USER
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        super().__init__(
            folder,
            listeners={"SASL": ("SASL_PLAINTEXT", self.sasl_bootstrap)},
            settings={
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl.plain.sasl.jaas.config": f'{login} user_{user}="{password}";',
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "true",
            },
        )

    def make_topic(self, partitions: int = 1, **configs: str) -> str:
        """A new, empty topic; its name. Configurations are given with `_` for `.`: `retention_ms="1000"`."""
        topic = f"news-{uuid.uuid4().hex[:12]}"
        self.create_topic(topic, partitions, **configs)
        return topic

    def create_topic(self, topic: str, partitions: int = 1, **configs: str) -> None:
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])
        finally:
            admin.close()


class Webhook:
    """Receives what Alertmanager posts; `received` holds the JSON bodies in order."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        received = self.received

        class Recorder(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet: the tests read `received`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Alertmanager:
    """Alertmanager with our deployed configuration, its waits cut to 1 s and its webhooks pointed at `webhook`.

    `webhook` is the list of posts received. Stopped and started, it keeps its port and its state.
    """

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("prometheus-alertmanager")
        if binary is None:
            raise UnavailableError("there is no prometheus-alertmanager on PATH")
        self._receiver = Webhook()
        self.webhook = self._receiver.received
        config = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())
        for receiver in config["receivers"]:
            for hook in receiver.get("webhook_configs", []):
                hook["url"] = self._receiver.url
        for route in [config["route"], *config["route"].get("routes", [])]:
            route.update({key: "1s" for key in ("group_wait", "group_interval") if key in route})
        path = folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(config))
        self._log = folder / "alertmanager.log"
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._command = [
            binary,
            f"--config.file={path}",
            f"--storage.path={folder}/data",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ]
        self.start()

    def start(self) -> None:
        self._process = Process(self._command, self._log)
        self._process.wait_until(lambda: _answers(f"{self.url}/-/ready"), "Alertmanager")

    def stop(self) -> None:
        self._process.stop()

    def close(self) -> None:
        self.stop()
        self._receiver.stop()


class Prometheus:
    """Prometheus with our deployed configuration, scraping `target` (`host:port`) every second."""

    def __init__(self, folder: Path, target: str, alertmanager_url: str | None = None) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            raise UnavailableError("there is no prometheus on PATH")
        config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "sentiment-monitor")
        job["static_configs"] = [{"targets": [target]}]
        config["scrape_configs"] = [job]
        if alertmanager_url is None:
            del config["alerting"]
        else:
            address = urllib.parse.urlsplit(alertmanager_url).netloc
            config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [address]}]}]
        config["rule_files"] = [str(PROMETHEUS_CONFIG.parent / rules) for rules in config.get("rule_files", [])]
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        command = [
            binary,
            f"--config.file={path}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ]
        self._process = Process(command, folder / "prometheus.log")
        self._process.wait_until(lambda: _answers(f"{self.url}/-/ready"), "Prometheus")

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The instant vector of an expression: `{"metric": {label: value}, "value": [time, "number"]}` a series."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        with urllib.request.urlopen(url, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def stop(self) -> None:
        self._process.stop()


class Pushgateway:
    """A Pushgateway with nothing in it, which keeps nothing."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("prometheus-pushgateway")
        if binary is None:
            raise UnavailableError("there is no prometheus-pushgateway on PATH")
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._process = Process([binary, f"--web.listen-address={address}"], folder / "pushgateway.log")
        self._process.wait_until(lambda: _answers(f"{self.url}/-/ready"), "Pushgateway")

    def metrics(self) -> str:
        """What a scrape gets."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def stop(self) -> None:
        self._process.stop()


class PostgreSQL:
    """A PostgreSQL cluster that trusts everyone on loopback and keeps nothing safe from a crash."""

    def __init__(self, folder: Path) -> None:
        binaries = _postgres_binaries()
        # PostgreSQL refuses to run as root, and whoever it runs as must own its folder.
        user = _unprivileged_user() if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "monitor", "-A", "trust", "--no-sync"]
        run([*(["setpriv", *_switch(user)] if user else []), *initdb, "--encoding=UTF8", "--locale=C.UTF-8"])
        self._port = free_port()
        options = [f"port={self._port}", "listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=32MB"]
        self._command = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder)]
        for option in options:
            self._command += ["-c", option]
        self._log, self._user = folder / "postgres.log", user
        self.start()

    def start(self) -> None:
        self._process = Process(self._command, self._log, _switch(self._user))
        self._process.wait_until(self._accepts, "PostgreSQL")

    def create_database(self) -> str:
        """A new, empty database; its SQLAlchemy URL."""
        name = f"monitor_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://monitor@127.0.0.1:{self._port}/{name}"

    def drop_database(self, url: str) -> None:
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def stop(self) -> None:
        self._process.stop(signal.SIGINT)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self._dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self._port} user=monitor dbname=postgres"


def _switch(user: str | None) -> list[str]:
    """Options of setpriv that turn root into `user`."""
    if user is None:
        return []
    account = pwd.getpwnam(user)
    return [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def _postgres_binaries() -> Path:
    """The folder of initdb and postgres: Debian keeps them off PATH, by version."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise UnavailableError("there is no initdb on PATH or in /usr/lib/postgresql/*/bin")


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise UnavailableError("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
