"""Connections to Kafka's brokers, and a writer to one topic."""

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaProducer
from kafka.errors import (
    AuthorizationError,
    BrokerResponseError,
    KafkaConfigurationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient

from monitor.config import KafkaSettings
from monitor.sources import SourceError

CONNECT_TIMEOUT_MS: Final = 10_000
REQUEST_TIMEOUT_MS: Final = 3_000
_DELIVERY_TIMEOUT_MS = 10_000


class Publisher:
    """Writes records to one topic; what `flush` returned from is on the brokers.

    Raises:
        SourceError: from any method, where the brokers do not answer or do not take a record.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = replace(settings, topic=topic)
        self._failure: Exception | None = None
        self._producer = connected(
            KafkaProducer,
            self._settings,
            acks="all",
            linger_ms=5,
            max_block_ms=CONNECT_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
            # The topic's own limit decides what is too large.
            max_request_size=64 << 20,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def send(self, value: bytes, key: bytes | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Hand over a record; records with one key keep their order. Waits where too much is under way."""
        encoded = [(name, text.encode()) for name, text in (headers or {}).items()]
        try:
            sent = self._producer.send(self._settings.topic, value=value, key=key, headers=encoded)
        except (KafkaError, ValueError) as error:
            raise source_error(self._settings, error) from error
        sent.add_errback(self._failed)

    def flush(self) -> None:
        """Wait until the brokers have every record that was sent."""
        try:
            # Longer than a delivery may take, so that every record's fate is known by then.
            self._producer.flush(timeout=2 * _DELIVERY_TIMEOUT_MS / 1000)
        except KafkaError as error:
            raise source_error(self._settings, error) from error
        failure, self._failure = self._failure, None
        if failure is not None:
            raise source_error(self._settings, failure) from failure

    def close(self) -> None:
        """Let go of the brokers; what was not flushed may be lost."""
        self._producer.close(timeout=REQUEST_TIMEOUT_MS / 1000)

    def _failed(self, error: Exception) -> None:
        self._failure = error


def connected(kind: type[Any], settings: KafkaSettings, **options: Any) -> Any:
    """A consumer or producer that has reached a broker."""
    files = {
        "ssl_cafile": settings.ssl_cafile,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    for name, path in files.items():
        # The library would only fall silent.
        if path is not None and not path.is_file():
            raise SourceError(f"kafka.{name}: there is no file {path}; name a PEM file")
    password = settings.sasl_password
    clients: list[KafkaNetClient] = []

    def client(**configs: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**configs))
        return clients[0]

    try:
        return kind(
            bootstrap_servers=[server.strip() for server in settings.bootstrap_servers.split(",")],
            security_protocol=settings.security_protocol,
            sasl_mechanism=settings.sasl_mechanism,
            sasl_plain_username=settings.sasl_username,
            sasl_plain_password=password.get_secret_value() if password else None,
            **{name: str(path) for name, path in files.items() if path is not None},
            bootstrap_timeout_ms=CONNECT_TIMEOUT_MS,
            # Soon back after an outage, however long it was.
            reconnect_backoff_max_ms=3_000,
            metrics_enabled=False,
            kafka_client=client,
            **options,
        )
    except (KafkaError, OSError, ValueError) as error:
        # Its thread outlives a constructor that fails.
        for opened in clients:
            opened.close()
        raise source_error(settings, error) from error


def source_error(settings: KafkaSettings, error: Exception) -> SourceError:
    # A login that is refused, or asked for where none was given, shows as silence too.
    hint = "check kafka.bootstrap_servers, that a broker runs there, and kafka.security_protocol with its login"
    if isinstance(error, AuthorizationError):
        hint = "give this user the right to it, or log in as another one (kafka.sasl_username)"
    elif isinstance(error, (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, KafkaConfigurationError)):
        hint = "check the kafka.security_protocol, kafka.sasl_... and kafka.ssl_... settings"
    elif isinstance(error, BrokerResponseError | UnsupportedCodecError):
        hint = "see the broker's log"
    return SourceError(f"Kafka at {settings.bootstrap_servers}, topic {settings.topic!r}: {told(error)}; {hint}")


def told(error: Exception) -> str:
    """What an error of the library says, and its kind, which often says more."""
    kind, text = type(error).__name__, str(error)
    return text if kind in text else f"{kind}: {text}"
