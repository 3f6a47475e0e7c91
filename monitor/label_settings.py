"""The settings of labels that people give."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from monitor.spike_settings import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelSettings:
    """How labels come back, and which items are worth labelling."""

    topic: str | None = Field(
        default=None,
        min_length=1,
        description="Kafka topic, at `kafka.bootstrap_servers`, that labels are read from; unset: none",
    )
    queue_days: int = Field(
        default=14, ge=1, description="days of event time whose items `label --queue` picks from, up to the newest"
    )
