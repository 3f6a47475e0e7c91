"""What a desk tunes once alerts come: measures of a series' own."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from monitor.entities import first_repeated
from monitor.records import Kind, Series

_STRICT: Final = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)
_MEASURES: Final = ("open_p", "critical_p", "min_negatives", "min_ratio", "kinds")


def _plain(text: str) -> str:
    if not text:
        raise ValueError("empty; give a text")
    if not text.isprintable():
        raise ValueError("holds a line break or another control character; give one line of text")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_plain)]
Dimension = Literal["topic", "entity"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OverrideSettings:
    """One `[[overrides]]` entry: a series that is measured otherwise than `[spikes]` says."""

    dimension: Dimension = Field(default="topic", description="`topic` or `entity`")
    name: Line = Field(description="a topic, a watched entity, or `Everything`")
    open_p: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="in place of `spikes.open_p`; the series then takes no part in `alerts.false_alarms_per_week`",
    )
    critical_p: float | None = Field(default=None, gt=0, lt=1, description="in place of `spikes.critical_p`")
    min_negatives: int | None = Field(default=None, ge=1, description="in place of `spikes.min_negatives`")
    min_ratio: float | None = Field(default=None, ge=1, description="in place of `spikes.min_ratio`")
    kinds: tuple[Kind, ...] | None = Field(
        default=None,
        description="which of `spikes.kinds` may open alerts on it; `[]`: none, and it is followed as before",
    )

    @property
    def series(self) -> Series:
        """The series that it is about."""
        return Series(self.dimension, self.name)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if all(getattr(self, measure) is None for measure in _MEASURES):
            raise ValueError(f"sets nothing; give one of {', '.join(_MEASURES)}, or take it out")
        return self


def check_overrides(overrides: Sequence[OverrideSettings], kinds: Iterable[Kind]) -> None:
    """See that each series is overridden once, and that what it may alarm by is among `spikes.kinds`.

    Raises:
        ValueError: it is not; the message names the entry.
    """
    if pair := first_repeated(f"{override.dimension} {override.name}" for override in overrides):
        series = overrides[pair[1]].series
        raise ValueError(
            f"overrides[{pair[1]}]: {series.dimension} {series.name!r} is overridden by overrides[{pair[0]}] too; "
            "merge the two"
        )
    may = tuple(kinds)
    for place, override in enumerate(overrides):
        for kind in override.kinds or ():
            if kind not in may:
                raise ValueError(
                    f"overrides[{place}].kinds: {kind!r} is not among spikes.kinds ({', '.join(may)}), so nothing "
                    "could open it; add it there, or take it out here"
                )
