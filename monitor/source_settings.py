"""The settings of what news is read from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic.dataclasses import dataclass

from monitor.spike_settings import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KafkaSettings:
    """Where news comes from when `source.kind` is `kafka`."""

    bootstrap_servers: str = Field(
        default="localhost:9092", description="brokers to start from, `host:port,host:port`"
    )
    topic: str = Field(default="news", description="topic that carries the news records")
    group: str = Field(default="sentiment-monitor", description="consumer group that the workers share")
    dead_letter_topic: str = Field(
        default="news.rejected", description="topic for records that could not be parsed, with their reason"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="how to talk to the brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="how to log in, where `security_protocol` begins with SASL"
    )
    sasl_username: str | None = Field(default=None, description="user to log in as")
    sasl_password: SecretStr | None = Field(
        default=None, description="password to log in with; better given as `SENTIMENT_KAFKA__SASL_PASSWORD`"
    )
    ssl_cafile: Path | None = Field(
        default=None, description="certificate authority file (PEM) that signed the brokers"
    )
    ssl_certfile: Path | None = Field(default=None, description="this client's certificate (PEM)")
    ssl_keyfile: Path | None = Field(default=None, description="this client's private key (PEM)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FileSettings:
    """Where news comes from when `source.kind` is `file`."""

    path: Path | None = Field(
        default=None, description="JSON Lines (`.jsonl`, `.ndjson`, `.json`) or CSV (`.csv`) to read"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="for CSV: record key -> column, where their names differ"
    )
    follow: bool = Field(default=True, description="wait for lines to be appended instead of ending at the last one")
    dead_letter_path: Path | None = Field(
        default=None,
        description="file for records that could not be parsed; unset: PATH with `.rejected.jsonl` appended",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceSettings:
    """What is read, and in what batches."""

    kind: Literal["kafka", "file"] = Field(default="kafka", description="which of `[kafka]` and `[file]` to read")
    batch_items: int = Field(
        default=512, ge=1, le=4096, description="most items that are scored and committed together"
    )
    linger_ms: int = Field(
        default=50, ge=0, le=5000, description="longest that a first item waits for others, milliseconds"
    )
