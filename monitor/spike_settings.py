"""The settings of the detector, and the kinds of value that they share with other settings."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from monitor.records import Counting, Kind

STRICT: Final = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _bucketed(minutes: int) -> int:
    if minutes % 5:
        raise ValueError("must be a multiple of the 5-minute bucket")
    return minutes


def _ascending(windows: tuple[int, ...]) -> tuple[int, ...]:
    if list(windows) != sorted(set(windows)):
        raise ValueError("must ascend, each window once")
    return windows


WindowMinutes = Annotated[int, Field(ge=5, le=7 * 24 * 60), AfterValidator(_bucketed)]
Windows = Annotated[tuple[WindowMinutes, ...], Field(min_length=1), AfterValidator(_ascending)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpikeSettings:
    """When negative news is more than a series' own history explains."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = Field(
        default=("negative_share",),
        description="what opens alerts: `negative_share`; `negative_volume`, for what is mostly negative anyway; "
        "`volume_burst`, attention of any kind",
    )
    counting: Counting = Field(
        default="stories", description="`stories`: a story counts once, however many copies tell it; or `items`"
    )
    negative_from: float = Field(
        default=0.55,
        gt=0,
        le=1,
        description="P(negative) from which an item counts as negative; 85 % of what passes 0.55 is",
    )
    windows_minutes: Windows = Field(
        default=(15, 60, 180), description="windows that are compared with their baseline"
    )
    half_life_hours: float = Field(default=24.0, gt=0, description="half-life of the usual negative share")
    prior_items: float = Field(
        default=30.0,
        gt=0,
        description="how many items the pooled share of all series weighs in each series' own",
    )
    prior_share: float = Field(default=0.2, gt=0, lt=1, description="negative share assumed before anything was seen")
    overdispersion: tuple[float, ...] = Field(
        default=(0.02, 0.01, 0.005),
        description="correlation between a window's items before any was learned, by window; the last also serves "
        "longer windows",
    )
    learning_days: float = Field(
        default=7.0, gt=0, description="half-life of what is learned of correlation and of volume, days"
    )
    min_negatives: int = Field(
        default=5, ge=1, description="fewest negative items in a window that can open an alert"
    )
    min_ratio: float = Field(
        default=1.3, ge=1, description="how many times the expected negatives there must be, at least"
    )
    open_p: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="p-value at or below which an alert opens; unset: the one that gives "
        "`alerts.false_alarms_per_week`",
    )
    critical_p: float = Field(
        default=1e-6,
        gt=0,
        lt=1,
        description="p-value at or below which it is critical; a hundredth of that at which alerts open, if less",
    )
    resolve_p: float = Field(
        default=0.05, gt=0, lt=1, description="p-value that the two shortest windows must exceed ..."
    )
    resolve_after_minutes: WindowMinutes = Field(
        default=30, description="... for this long before the alert resolves"
    )
    volume_z: float = Field(
        default=6.5,
        gt=0,
        description="standard deviations above the usual count of ten minutes at which an alert on volume opens",
    )
    volume_critical_z: float = Field(
        default=13.0, gt=0, description="standard deviations above the usual count at which it is critical"
    )
    mostly_negative_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="usual share of negatives from which on their number is watched as a volume of its own",
    )
    baseline_days: int = Field(
        default=28, ge=1, description="days of buckets that the baseline is rebuilt from at start"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.volume_critical_z < self.volume_z:
            raise ValueError(
                f"volume_critical_z is {self.volume_critical_z:g}, less than volume_z ({self.volume_z:g}); "
                "set it to as much at least"
            )
        return self
