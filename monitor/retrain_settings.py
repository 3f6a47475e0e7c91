"""The settings of retraining, and of what is looked for in the news that the model was not trained on."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from monitor.spike_settings import STRICT


def _cron(text: str) -> str:
    from monitor.cron import check_cron  # here, as it takes long to import and few settings name a time

    return check_cron(text)


def _zone(name: str) -> str:
    from monitor.cron import check_zone

    return check_zone(name)


Share = Annotated[float, Field(gt=0, lt=1)]
Cron = Annotated[str, AfterValidator(_cron)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RetrainSettings:
    """When a model is trained anew, from what, and what it must show before it scores."""

    schedule: Cron | None = Field(
        default=None,
        description="when the daemon starts a retraining, as five fields of cron, e.g. `0 3 * * sat`; where "
        "both a day of the month and a weekday are given, both must hold; unset: never, for those who run "
        "`python -m pipelines.retrain` from a scheduler of their own",
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="time zone of `schedule`, e.g. `Europe/London`"
    )
    misfire_hours: float = Field(
        default=12.0, gt=0, description="how late a retraining may still start that was due while the daemon was down"
    )
    folder: Path = Field(
        default=Path("retraining"),
        description="where each retraining keeps its snapshot, its model and its reports, in a folder of its number",
    )
    base_data: Path | None = Field(
        default=None,
        description="what is learned beside the labels, so that nothing is forgotten: CSV or JSON Lines with columns "
        "`text`, `topic`, `sentiment`, or the folder of the public sets",
    )
    base_headlines: bool = Field(
        default=True, description="whether SEntFiN is learned too, where `base_data` is the folder of the public sets"
    )
    base_ratio: float = Field(
        default=3.0, ge=0, description="most texts of `base_data` to each labelled one, drawn anew each time"
    )
    reference: Path | None = Field(
        default=None,
        description="frozen set that every challenger is measured on, as `base_data`; unset: the validation sets of "
        "the public sets, where `base_data` is their folder",
    )
    start_from: Literal["champion", "base"] = Field(
        default="champion", description="weights that training starts from: the champion's, or the bare encoder's"
    )
    options: Path | None = Field(
        default=None, description="TOML file of training options, as `python -m pipelines.train --options` takes"
    )
    device: str = Field(default="auto", description="what to train on: `auto`, `cpu`, `cuda` or `cuda:N`")
    max_threads: int = Field(default=1, ge=1, description="most threads that training takes on the CPU")
    niceness: int = Field(
        default=19, ge=0, le=19, description="how far retraining yields to others, as `nice` has it; 19 is the most"
    )
    min_labels: int = Field(default=200, ge=20, description="fewest labelled items that a retraining needs")
    newest_share: Share = Field(
        default=0.2, description="share of the labelled items, the newest, that is measured on and not learned"
    )
    max_suspicious: Share = Field(
        default=0.25, description="largest share of labels that may be wrong, as the audit estimates it"
    )
    margin: float = Field(
        default=0.01, ge=0, lt=1, description="how much accuracy a challenger may lose in a task, of 1"
    )
    recall_margin: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="share of the negative items that a challenger may miss more",
    )
    max_size_ratio: float = Field(
        default=1.1, gt=0, description="largest size of a challenger's files, to the champion's"
    )
    max_latency_ratio: float = Field(
        default=1.25, gt=0, description="longest time a challenger may take for a text, to the champion's"
    )
    max_int8_loss: float = Field(
        default=0.01, ge=0, lt=1, description="how much accuracy a challenger may lose by running in int8, of 1"
    )
    shadow_share: float = Field(
        default=0.25, gt=0, le=1, description="share of the news that both models score, before and after a promotion"
    )
    shadow_items: int = Field(default=2000, ge=1, description="items that both score before a challenger is promoted")
    min_agreement: Share = Field(
        default=0.75, description="least share of items that both models must say the same of, in each task"
    )
    max_negative_ratio: float = Field(
        default=2.0, gt=1, description="how many times as many, or as few, items a challenger may call negative"
    )
    watch_items: int = Field(
        default=2000, ge=0, description="items that both score after a promotion, which is taken back if they differ"
    )
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=("tensorboard",), description="where training reports its progress"
    )
    pushgateway: str | None = Field(
        default=None,
        description="Pushgateway that a retraining outside the daemon reports to, e.g. `http://localhost:9091`",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DriftSettings:
    """How news is compared with what the model was trained on, once a day."""

    at: Cron = Field(
        default="30 1 * * *", description="when the day before is looked at, as five fields of cron, UTC"
    )
    enabled: bool = Field(default=False, description="whether drift is looked for")
    reference_days: int = Field(
        default=28, ge=7, description="days after a model's first that later ones are compared with"
    )
    false_alarm_days: float = Field(
        default=365.0, gt=1, description="days between false alarms, of all measures together"
    )
    sample: int = Field(default=500, ge=100, description="items of a day whose embeddings are compared")
    then: Literal["nothing", "retrain"] = Field(
        default="nothing", description="what drift asks for, beside saying so: `retrain` starts a retraining"
    )
