"""One TOML file and the environment -> validated settings. Unknown keys are refused."""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from monitor.desk_settings import CalendarSettings, OverrideSettings, SilenceSettings, check_overrides
from monitor.entities import EntitiesSettings, EntitySettings, closest, first_repeated, read_entities
from monitor.label_settings import LabelSettings
from monitor.records import MonitorError
from monitor.retrain_settings import DriftSettings, RetrainSettings
from monitor.source_settings import FileSettings, KafkaSettings, SourceSettings
from monitor.spike_settings import STRICT, SpikeSettings, Windows

__all__ = [
    "AlertSettings",
    "CalendarSettings",
    "ConfigError",
    "DriftSettings",
    "EntitySettings",
    "FileSettings",
    "HttpSettings",
    "KafkaSettings",
    "LabelSettings",
    "LogSettings",
    "ModelSettings",
    "OverrideSettings",
    "RetrainSettings",
    "Settings",
    "SilenceSettings",
    "SourceSettings",
    "SpikeSettings",
    "StoreSettings",
    "TrendSettings",
    "defaults",
    "documented",
    "load",
]

ENV_PREFIX = "SENTIMENT_"


class ConfigError(MonitorError):
    """A setting is wrong; the message names the file or variable, the key, its value and what is expected."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings:
    """The model that scores."""

    path: str = Field(
        default="default",
        description="`default`, the model in the package; the folder of a trained one; or `champion`, the one that "
        "was promoted in the registry of `store.url`",
    )
    check_s: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="how often the daemon looks whether another model is the champion, seconds",
    )
    backend: Literal["auto", "torch", "onnx"] = Field(
        default="auto",
        description="`onnx` runs ONNX Runtime on the CPU; `auto` is `torch` on a GPU and `onnx` elsewhere",
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto", description="of the arithmetic; `auto` is `int8` with `onnx`, `bf16` on a GPU, else `fp32`"
    )
    cache_dir: Path | None = Field(
        default=None, description="where exported models are kept; unset: the user's cache folder"
    )
    cache_items: int = Field(
        default=50_000, ge=0, description="scored texts to remember, so that an exact repeat is free"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StoreSettings:
    """The database."""

    url: str = Field(
        default="sqlite:///sentiment.db",
        description="SQLAlchemy URL: `sqlite:///FILE`, or `postgresql+psycopg://...` for several workers",
    )
    keep_days: int = Field(default=400, ge=30, description="days that items, buckets and resolved alerts are kept")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrendSettings:
    """Event time: windows and lateness."""

    windows_minutes: Windows = Field(default=(15, 60, 180, 360, 1440), description="windows that are shown, minutes")
    lateness_s: int = Field(
        default=300, ge=0, description="how far behind the newest item an item may be and still alert"
    )
    idle_after_s: int = Field(
        default=30,
        ge=1,
        description="silence after which a partition with nothing left to read stops holding windows open",
    )
    story_hours: int = Field(default=48, ge=1, description="how long copies of one story are recognised")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlertSettings:
    """Where alerts go."""

    alertmanager_urls: tuple[str, ...] = Field(
        default=(),
        description="Alertmanagers to deliver to, e.g. `http://localhost:9093`; none: log and store only",
    )
    false_alarms_per_week: float = Field(
        default=1.0,
        gt=0,
        description="how many false alarms of negative share all series together may raise in a week, about",
    )
    min_publishers: int = Field(
        default=2,
        ge=1,
        description="fewest known publishers of what turns an alert critical",
    )
    group: bool = Field(
        default=True,
        description="whether an alert that another one explains, say a topic's by an entity's, follows that one",
    )
    repeat_s: int = Field(
        default=60,
        ge=5,
        description="how often an open alert is sent again, so that it does not expire, and told that it worsens",
    )
    retry_max_s: int = Field(default=60, ge=1, description="longest pause between attempts to deliver, seconds")
    timeout_s: float = Field(default=3.0, gt=0, description="longest that one delivery may take, seconds")


def _stripped(secret: object) -> object:
    """A secret without the blanks around it: one that was read from a file often ends with its line."""
    return secret.strip() if isinstance(secret, str) else secret


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HttpSettings:
    """Where `/metrics`, `/healthz`, `/readyz` and the API are served."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=9310, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    external_url: str | None = Field(default=None, description="how people reach it, for links in alerts")
    token: Annotated[SecretStr | None, BeforeValidator(_stripped)] = Field(
        default=None,
        min_length=16,
        description="what callers of the API send as `Authorization: Bearer TOKEN`, 16 characters or more; unset: it "
        "takes nothing; better given as `SENTIMENT_HTTP__TOKEN`",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogSettings:
    """What is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severity that is logged"
    )


class Settings(BaseSettings):
    """Everything that can be configured; see the README's table of settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    source: SourceSettings = SourceSettings()
    kafka: KafkaSettings = KafkaSettings()
    file: FileSettings = FileSettings()
    model: ModelSettings = ModelSettings()
    store: StoreSettings = StoreSettings()
    trends: TrendSettings = TrendSettings()
    spikes: SpikeSettings = SpikeSettings()
    alerts: AlertSettings = AlertSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    entities: EntitiesSettings = EntitiesSettings()
    watchlist: tuple[EntitySettings, ...] = ()
    overrides: tuple[OverrideSettings, ...] = ()
    silences: tuple[SilenceSettings, ...] = ()
    calendar: CalendarSettings = CalendarSettings()
    labels: LabelSettings = LabelSettings()
    retrain: RetrainSettings = RetrainSettings()
    drift: DriftSettings = DriftSettings()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source.kind == "file" and self.file.path is None:
            raise ValueError('source.kind is "file" but file.path is not set; set file.path to a .jsonl or .csv file')
        kafka = self.kafka
        if kafka.security_protocol.startswith("SASL") and not (
            kafka.sasl_mechanism and kafka.sasl_username and kafka.sasl_password
        ):
            raise ValueError(
                f"kafka.security_protocol is {kafka.security_protocol!r}, which also needs "
                f"kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password"
            )
        self._check_topics()
        spikes = self.spikes
        history_hours = 24 * spikes.baseline_days
        if history_hours < max(
            6 * spikes.half_life_hours, 4 * 24 * spikes.learning_days, spikes.windows_minutes[-1] / 60
        ):
            raise ValueError(
                f"spikes.baseline_days is {spikes.baseline_days}, too few to rebuild a baseline after a "
                f"restart; set at least six times spikes.half_life_hours ({spikes.half_life_hours:g}), four times "
                f"spikes.learning_days ({spikes.learning_days:g}), and the longest window"
            )
        if self.store.keep_days < self.spikes.baseline_days:
            raise ValueError(
                f"store.keep_days is {self.store.keep_days}, less than spikes.baseline_days "
                f"({self.spikes.baseline_days}), for which buckets are needed"
            )
        if pair := first_repeated(entity.name for entity in self.watchlist):
            raise ValueError(f"watchlist names {self.watchlist[pair[1]].name!r} twice; merge the two entries")
        check_overrides(self.overrides, spikes.kinds)
        if self.retrain.schedule is not None and self.model.path != "champion":
            raise ValueError(
                f"retrain.schedule is set, but model.path is {self.model.path!r}, so no model that it promotes would "
                'score; set model.path to "champion", or leave retrain.schedule out'
            )
        if self.drift.then == "retrain" and self.model.path != "champion":
            raise ValueError(
                f'drift.then is "retrain", but model.path is {self.model.path!r}, so no model that a retraining '
                'promotes would score; set model.path to "champion", or drift.then to "nothing"'
            )
        return self

    def _check_topics(self) -> None:
        """See that what is read as news, what is read as labels and what is rejected are topics of their own."""
        used = {
            "kafka.topic": self.kafka.topic if self.source.kind == "kafka" else None,
            "labels.topic": self.labels.topic,
            "kafka.dead_letter_topic": self.kafka.dead_letter_topic,
        }
        keys: dict[str, str] = {}
        for key, topic in used.items():
            if topic is not None and (other := keys.setdefault(topic, key)) != key:
                raise ValueError(
                    f"{key} is {topic!r}, as {other} is; name a topic of its own, or each would read what is meant "
                    f"for the other"
                )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file; nothing else is read."""
        return env_settings, init_settings


def defaults() -> Settings:
    """The settings of someone who has set nothing; the environment is not looked at."""
    return Settings.model_construct()


def load(path: Path | None = None) -> Settings:
    """Settings from the TOML file at `path` (none: defaults), overridden by the environment.

    A variable is named SENTIMENT_SECTION__KEY, for example SENTIMENT_KAFKA__TOPIC. `watchlist` also holds what
    `entities.file` lists.

    Raises:
        ConfigError: the file cannot be read, or a key or value in it or in the environment is wrong.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a TOML file with --config") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not TOML: {error}") from error
    for variable in os.environ:
        section = variable.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if variable.startswith(ENV_PREFIX) and section not in Settings.model_fields:
            known = list(Settings.model_fields)
            raise ConfigError(
                f"environment variable {variable}: there is no section {section!r}, "
                f"expected one of {', '.join(known)}{closest(section, known)}"
            )
    try:
        settings = Settings(**data)
    except SettingsError as error:
        raise ConfigError(
            f"environment: {error}; lists and tables are given as JSON, "
            f"e.g. SENTIMENT_SPIKES__WINDOWS_MINUTES=[15,60]"
        ) from error
    except ValidationError as error:
        raise ConfigError(_explained(error, path)) from error
    return _with_entities(settings, settings.entities.file) if settings.entities.file else settings


def _with_entities(settings: Settings, file: Path) -> Settings:
    """The settings with the watched entities of a file after those of `[[watchlist]]`."""
    try:
        both = (*settings.watchlist, *read_entities(file))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if pair := first_repeated(entity.name for entity in both):
        raise ConfigError(f"{file}: {both[pair[1]].name!r} is named by [[watchlist]] too; merge the two")
    return settings.model_copy(update={"watchlist": both})


def documented() -> Iterator[tuple[str, str, str]]:
    """Every setting as (key, default, description), in the order of the sections."""
    for section in Settings.model_fields:
        prefix = f"{section}[]." if section in _LISTED else f"{section}."
        for name, described in _kind_of(section).__pydantic_fields__.items():
            default = (
                "required" if described.is_required() else _toml(described.get_default(call_default_factory=True))
            )
            yield f"{prefix}{name}", default, described.description or ""


def _toml(value: object) -> str:
    """A default as it would stand in the TOML file."""
    if value is None:
        return "unset"
    return json.dumps(value, default=str).replace("{}", "{ }")


def _explained(error: ValidationError, path: Path | None) -> str:
    """The first thing wrong, in one line: where, which value, what was expected."""
    first, *others = error.errors(include_url=False)
    # Where a value stands: its keys, without the validator's own marks such as the name of a union's member.
    location = [str(part) for part in first["loc"]]
    key = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(location)) or "settings"
    variable = ENV_PREFIX + "__".join(location).upper()
    where = f"environment variable {variable}" if variable in os.environ else f"{path or 'settings'}: {key}"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        siblings = [*(_kind_of(location[0]).__pydantic_fields__ if len(location) > 1 else Settings.model_fields)]
        what = f"unknown key, expected one of {', '.join(siblings)}{closest(location[-1], siblings)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        what = message[0].lower() + message[1:]
        if len(location) > 1 and not key.endswith(("password", "token")):
            what = f"{first['input']!r}: {what}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {what}{more}"


_LISTED: Final = {"watchlist": EntitySettings, "overrides": OverrideSettings, "silences": SilenceSettings}
"""The sections that hold any number of entries, and what one of them is."""


def _kind_of(section: str) -> Any:
    """The dataclass that a section, or an entry of it, is read into."""
    return _LISTED.get(section, Settings.model_fields[section].annotation)
