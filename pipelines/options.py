"""How a model is trained: the options, and the TOML file that they can be read from."""

import tomllib
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from monitor.model.network import Sharing
from pipelines.objective import Weighting

_STRICT = ConfigDict(extra="forbid")
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OptionsError(ValueError):
    """The file of options cannot be used; the message names it, the key, the value and what was expected."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TaskOptions:
    """What is told of a task beside the data.

    Attributes:
        labels: the labels that may occur, in the order of the logits; None: those that do, sorted.
        weight: factor of the task's loss.
    """

    labels: tuple[str, ...] | None = None
    weight: Positive = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Options:
    """How a model is trained. The defaults made the shipped one.

    Attributes:
        encoder: `minilm`, a folder, or a name on the Hugging Face hub.
        start: a checkpoint whose weights training begins with, of the same tasks, encoder, sharing, adapters and
            frozen parts. `default` is the shipped model; None begins with the bare encoder.
        tasks: the tasks that are told anything of; those of the data are learned in any case. Topics are the harder
            task, with 20 classes; without a weight the encoder serves sentiment at their expense.
        sharing: what the tasks share, see `MultiTaskNetwork`.
        weighting: how the tasks' losses are weighed, see `Objective`.
        conflicts: what becomes of gradients that conflict: `upgrad` (arXiv:2406.16232) and `pcgrad`
            (arXiv:2001.06782) need the package torchjd, one process, and a backward pass for each task; None adds
            them up.
        lora_rank: rank of the adapters; 0 trains the encoder's own weights.
        lora_targets: names of the encoder's layers that get an adapter.
        frozen: without adapters, the parts of the encoder that stay as they are.
        max_tokens: longer texts are cut to this.
        batch_size: texts a step and process.
        accumulate: steps whose gradients are added up before the weights change.
        head_learning_rate: of everything but the encoder.
        warmup_share: share of the steps over which the learning rate rises; it falls to 0 over the rest.
        label_smoothing: share of the probability that training wants spread over all labels.
        attention_dropout: within the encoder; 0 lets attention run as one fused operation.
        average_decay: of the running average of the weights that is evaluated and kept; 0: the last weights.
        teachers: checkpoints whose probabilities are part of what is learned; `default` is the shipped model.
        teacher_share: how much of a labelled row's target is the teachers'; rows without a task's label, whose
            target is all theirs, count by it.
        precision: of the arithmetic; `auto` is bf16 where the processor or GPU has instructions for it.
        patience: evaluations without a better development score after which training stops.
        plain_share: how often a text that begins with ticker symbols is shown without them, so that plain
            headlines are not strange to the model.
        varied_share: how often a text is shown with other ticker symbols, no hash signs, and other letter case.
        wired_share: how often a text is shown with an agency's or a site's mark before or behind it.
        body_share: how many texts have a body that says nothing of their labels.
    """

    encoder: str = "minilm"
    start: str | None = None
    tasks: Mapping[str, TaskOptions] = field(default_factory=lambda: {"topic": TaskOptions(weight=2.5)})
    sharing: Sharing = "shared"
    weighting: Weighting = "static"
    conflicts: Literal["upgrad", "pcgrad"] | None = None
    lora_rank: Annotated[int, Field(ge=0)] = 0
    lora_targets: tuple[str, ...] = ("query", "key", "value", "dense")
    frozen: tuple[str, ...] = ("embeddings",)
    max_tokens: Annotated[int, Field(ge=2)] = 128
    epochs: Positive = 5.0
    batch_size: Annotated[int, Field(ge=1)] = 32
    accumulate: Annotated[int, Field(ge=1)] = 1
    learning_rate: Positive = 2e-4
    head_learning_rate: Positive = 1e-3
    warmup_share: Share = 0.06
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Positive = 1.0
    dropout: Share = 0.1
    attention_dropout: Share = 0.0
    label_smoothing: Share = 0.05
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    teachers: tuple[str, ...] = ()
    teacher_share: Share = 0.5
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    evaluations_per_epoch: Annotated[int, Field(ge=1)] = 2
    patience: Annotated[int, Field(ge=1)] = 4
    plain_share: Share = 0.3
    varied_share: Share = 0.2
    wired_share: Share = 0.1
    body_share: Share = 0.08
    seed: int = 20

    def __post_init__(self) -> None:
        if (shares := self.plain_share + self.varied_share + self.wired_share) > 1 + 1e-9:
            raise ValueError(
                f"plain_share, varied_share and wired_share add up to {shares:g}, expected at most 1; lower one"
            )

    def weights(self) -> dict[str, float]:
        """Factors of the tasks' losses, for those tasks that have one."""
        return {name: task.weight for name, task in self.tasks.items()}

    def plain(self) -> dict[str, Any]:
        """The options as JSON takes them."""
        return TypeAdapter(Options).dump_python(self, mode="json")  # type: ignore[no-any-return]


def read(path: Path | None, given: Mapping[str, Any], unset: Mapping[str, Any] | None = None) -> Options:
    """The options in a TOML file, those in `given` in their place; without a file, the defaults.

    Args:
        unset: what takes the place of a default where the file says nothing.

    Raises:
        OptionsError: the file cannot be read, is not TOML, or holds a wrong key or value.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionsError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise OptionsError(f"{path}: not TOML: {error}") from error
    try:
        return TypeAdapter(Options).validate_python({**(unset or {}), **content, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if not key:  # what is wrong of the options together
            raise OptionsError(f"{path or 'options'}: {first['msg'].removeprefix('Value error, ')}") from error
        known = ", ".join(option.name for option in fields(Options))
        hint = f"; the options are {known}" if first["type"] == "unexpected_keyword_argument" else ""
        raise OptionsError(
            f"{path or 'options'}: {key}: {first['msg']}, found {first['input']!r:.80}{hint}"
        ) from error
