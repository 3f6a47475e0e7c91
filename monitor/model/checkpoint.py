"""A model on disk: weights without pickle, and a JSON that says all it takes to rebuild the model from them.

A checkpoint is a folder of two files. `weights.safetensors` holds what was trained, in half precision: the heads,
and the LoRA adapters or the trained parts of the encoder; and the ranges of the encoder's activations, which int8
arithmetic needs. `model.json` is a `ModelInfo`. The encoder itself comes from its own package, folder or hub
repository, and must be, byte for byte, the one that the model was trained on.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from tokenizers import Tokenizer

from monitor.model import text
from monitor.model.encoder import (
    TOKENIZER_FILE,
    CheckpointError,
    Lora,
    add_adapters,
    encoder_sha256,
    find_encoder,
    load_encoder,
    merge_adapters,
    read_pad_id,
    sha256_of,
)

if TYPE_CHECKING:  # torch takes seconds to import, and a scorer with an exported model never needs it
    from torch import Tensor

    from monitor.model.network import MultiTaskNetwork

FORMAT: Final = 2
DEFAULT: Final = Path(__file__).parent / "default"
INFO_FILE: Final = "model.json"
WEIGHTS_FILE: Final = "weights.safetensors"

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What `model.json` says of a model.

    Attributes:
        version: the model's name wherever it is shown or stored: encoder, day and the start of the weights' hash.
        tasks: the labels of each task, tasks and labels in the order of the network's outputs.
        encoder: `minilm`, a folder, or a name on the Hugging Face hub.
        lora: None where the encoder's own weights were trained.
        frozen: parts of the encoder that stayed as they were, by name; none with adapters, which freeze all of it.
        sharing: what the tasks share, see `network.MultiTaskNetwork`.
        temperatures: by task, what its logits are divided by so that probabilities tell how often they are right.
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
    frozen: tuple[str, ...]
    sharing: Literal["shared", "fused"]
    temperatures: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
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
        lora = _INFO.dump_python(info, mode="json")["lora"]
        parts = (info.weights_sha256, info.encoder_sha256, info.tasks, lora, info.sharing, info.frozen)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, set to cut texts at the model's `max_tokens`."""
        return text.open_tokenizer(self.encoder_folder / TOKENIZER_FILE, self.info.max_tokens)


_RANGES = "inputs."
_INFO = TypeAdapter(ModelInfo)


def read(path: str | Path) -> Checkpoint:
    """The checkpoint in the folder `path`; `default` is the one in this package.

    Raises:
        CheckpointError: there is none, its description is wrong, or its encoder is missing or has other tokens.
    """
    folder = DEFAULT if str(path) == "default" else Path(path)
    info = _read_info(folder)
    encoder_folder = find_encoder(info.encoder)
    _check_hash(encoder_folder / TOKENIZER_FILE, sha256_of(encoder_folder / TOKENIZER_FILE), info.tokenizer_sha256)
    return Checkpoint(folder, encoder_folder, info, read_pad_id(encoder_folder))


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each of a checkpoint's files, by name.

    Raises:
        CheckpointError: one cannot be read; the message names it.
    """
    hashes = {}
    for name in (INFO_FILE, WEIGHTS_FILE):
        try:
            hashes[name] = sha256_of(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    return hashes


def load_network(checkpoint: Checkpoint) -> "MultiTaskNetwork":
    """The checkpoint's network in fp32 on the CPU, ready to score: adapters merged, dropout off.

    Raises:
        CheckpointError: the weights or the encoder are not those that the checkpoint describes.
    """
    from monitor.model.network import MultiTaskNetwork

    info = checkpoint.info
    network = MultiTaskNetwork(load_encoder(checkpoint.encoder_folder), info.tasks, info.sharing)
    if info.lora:
        add_adapters(network, info.lora)
    load_weights(checkpoint, network)
    merge_adapters(network)
    return network.requires_grad_(False).eval()


def load_weights(checkpoint: Checkpoint, network: "MultiTaskNetwork") -> None:
    """Give a network the checkpoint's weights: one on the same encoder, with the same tasks, sharing and adapters.

    Raises:
        CheckpointError: the weights or the encoder are not those that the checkpoint describes.
    """
    info, file = checkpoint.info, checkpoint.folder / WEIGHTS_FILE
    _check_hash(checkpoint.encoder_folder, encoder_sha256(checkpoint.encoder_folder), info.encoder_sha256)
    weights, _ = _read_weights(checkpoint)
    wanted = _stored(network, info.lora, info.frozen)
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


def has_ranges(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint says what its activations range over; reads no more than the head of the weights file.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    import safetensors

    file = checkpoint.folder / WEIGHTS_FILE
    try:
        with safetensors.safe_open(file, framework="np") as stored:
            return any(name.startswith(_RANGES) for name in stored.keys())  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error}); {_EXPECTED}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})") from error


def read_ranges(checkpoint: Checkpoint) -> dict[str, tuple["Tensor", "Tensor"]]:
    """What `quantize.observe` saw when the model was trained: by layer of the encoder, the least and the greatest
    value of each of its inputs, both (inputs,) in fp32. Empty where nothing was observed.

    Raises:
        CheckpointError: the weights are not those that the checkpoint describes.
    """
    _, ranges = _read_weights(checkpoint)
    layers = sorted({name.rpartition(".")[0] for name in ranges})
    return {layer: (ranges[f"{layer}.low"].float(), ranges[f"{layer}.high"].float()) for layer in layers}


def save(
    folder: Path,
    network: "MultiTaskNetwork",
    tasks: Mapping[str, tuple[str, ...]],
    *,
    encoder: str,
    lora: Lora | None,
    frozen: tuple[str, ...] = (),
    max_tokens: int,
    trained_on: date,
    training: Mapping[str, JsonValue],
) -> ModelInfo:
    """Write a trained network (its adapters not merged) as a checkpoint, as yet without ranges, temperatures and
    metrics. Half precision takes digits that training never settled, and none of the accuracy."""
    import torch

    state = network.state_dict()
    weights = {
        name: state[key].detach().cpu().to(torch.float16).contiguous()
        for name, key in _stored(network, lora, frozen).items()
    }
    encoder_folder = find_encoder(encoder)
    info = ModelInfo(
        version="",
        tasks=dict(tasks),
        encoder=encoder,
        encoder_sha256=encoder_sha256(encoder_folder),
        tokenizer_sha256=sha256_of(encoder_folder / TOKENIZER_FILE),
        weights_sha256="",
        lora=lora,
        frozen=frozen,
        sharing="shared" if network.fusion is None else "fused",
        temperatures=dict.fromkeys(tasks, 1.0),
        max_tokens=max_tokens,
        cleaning=text.CLEANING,
        trained_on=trained_on,
        libraries={name: metadata.version(name) for name in _LIBRARIES},
        training=dict(training),
        metrics={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, info, weights)


def add_ranges(checkpoint: Checkpoint, ranges: Mapping[str, tuple["Tensor", "Tensor"]]) -> ModelInfo:
    """Write what `quantize.observe` saw into the checkpoint; its version changes, as its weights file does."""
    import torch

    weights, _ = _read_weights(checkpoint)
    for layer, (low, high) in ranges.items():
        weights[f"{_RANGES}{layer}.low"] = low.to(torch.float16)
        weights[f"{_RANGES}{layer}.high"] = high.to(torch.float16)
    return _write(checkpoint.folder, checkpoint.info, weights)


def _read_weights(checkpoint: Checkpoint) -> tuple[dict[str, "Tensor"], dict[str, "Tensor"]]:
    """The trained weights, and the ranges of activations, of a weights file whose hash is right."""
    import safetensors
    import safetensors.torch

    file = checkpoint.folder / WEIGHTS_FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    _check_hash(file, hashlib.sha256(content).hexdigest(), checkpoint.info.weights_sha256)
    try:
        stored = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})") from error
    ranges = {name.removeprefix(_RANGES): stored.pop(name) for name in list(stored) if name.startswith(_RANGES)}
    return stored, ranges


def _write(folder: Path, info: ModelInfo, weights: Mapping[str, "Tensor"]) -> ModelInfo:
    """Write a checkpoint's two files; returns the info with the version and hash of these weights."""
    import safetensors.torch

    content = safetensors.torch.save(dict(weights))
    digest = hashlib.sha256(content).hexdigest()
    version = f"{_short_name(info.encoder)}-{info.trained_on:%Y-%m-%d}-{digest[:8]}"
    info = replace(info, version=version, weights_sha256=digest)
    _replace(folder / WEIGHTS_FILE, content)
    write_info(folder, info)
    return info


def write_info(folder: Path, info: ModelInfo) -> None:
    """Write `model.json`, replacing the one that is there."""
    described = {"format": FORMAT, **_INFO.dump_python(info, mode="json")}
    _replace(folder / INFO_FILE, (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())


def _stored(network: "MultiTaskNetwork", lora: Lora | None, frozen: tuple[str, ...]) -> dict[str, str]:
    """Name in the weights file -> key of the network's state, for all that was trained."""
    kept = ("encoder.",) if lora else tuple(f"encoder.{part}." for part in frozen)
    return {
        key.replace(".default.", "."): key
        for key in network.state_dict()
        if ".lora_" in key or not key.startswith(kept)
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


def _short_name(encoder: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(encoder).name.lower()).strip("-")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
