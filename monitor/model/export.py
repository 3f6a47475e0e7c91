"""A checkpoint's network as an ONNX file, exported once and then kept in a cache folder."""

import copy
import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from monitor.model.checkpoint import Checkpoint, load_network, read_ranges

if TYPE_CHECKING:
    from torch import Tensor, nn

    from monitor.model.network import MultiTaskNetwork

EXPORT: Final = 3
"""Version of the exported graph. Raise it with every change of `write_onnx`, so that no older file is used."""

Weights = Literal["fp32", "int8", "int7"]
"""Digits of the encoder's weights; `int7` stands for 8-bit integers of which one bit stays free."""

_ATTENTION: Final = "onnx_multi_head"


def cached_onnx(checkpoint: Checkpoint, weights: Weights, cache_dir: Path, notify: Callable[[str], None]) -> Path:
    """The ONNX file of the checkpoint in `cache_dir`; exported, and `notify` told so, if there is no sound one.

    A file's name carries what it was made from and the hash of its own content. So a changed model has another
    file, a broken one is recognised, and processes that export at the same time do not disturb each other.

    Raises:
        CheckpointError: the network cannot be loaded.
        OSError: the folder cannot be written.
    """
    stem = f"{checkpoint.info.version}-{checkpoint.fingerprint}-{weights}-v{EXPORT}"
    for path in sorted(cache_dir.glob(f"{stem}-*.onnx")):
        if path.stem.removeprefix(f"{stem}-") == _content_hash(path):
            return path
        notify(f"{path} is broken and will be replaced")
        path.unlink(missing_ok=True)

    notify(f"exporting model {checkpoint.info.version} in {weights} to {cache_dir}, once")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=cache_dir) as scratch:
        part = Path(scratch) / "model.onnx"
        network = load_network(checkpoint)
        if weights != "fp32":
            from monitor.model.quantize import quantized

            network = quantized(network, read_ranges(checkpoint), weight_bits=8 if weights == "int8" else 7)
        write_onnx(network, part)
        return part.replace(cache_dir / f"{stem}-{_content_hash(part)}.onnx")


def write_onnx(network: "MultiTaskNetwork", path: Path) -> None:
    """Write the network as one ONNX file: `input_ids` and `attention_mask`, both int64 (batch, tokens), to the
    logits of each task, float32 (batch, labels) under the task's name. Batch and tokens are free.

    Attention becomes ONNX Runtime's own operation where the encoder lets its attention be replaced.
    """
    import torch
    from torch import Tensor, nn

    class Ordered(nn.Module):
        """ONNX outputs are a sequence, not a dictionary."""

        def __init__(self) -> None:
            super().__init__()
            self.network = _with_onnx_attention(network)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.network(input_ids, attention_mask).values())

    input_ids = torch.ones(2, 8, dtype=torch.int64)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # The exporter tells its own authors about libraries that it misses and of its deprecations.
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():
            torch.onnx.export(
                Ordered().eval(),
                (input_ids, attention_mask),
                path,
                input_names=["input_ids", "attention_mask"],
                output_names=list(network.heads),
                dynamic_shapes={"input_ids": free, "attention_mask": free},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        log.setLevel(level)


def _with_onnx_attention(network: "MultiTaskNetwork") -> "MultiTaskNetwork":
    """A copy of the network whose attention is exported as one operation; the network itself where that cannot be."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    encoder: Any = network.encoder
    if not getattr(encoder, "_supports_attention_backend", False):
        return network
    AttentionInterface.register(_ATTENTION, _onnx_attention)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)
    changed = copy.deepcopy(network)
    changed.encoder.config._attn_implementation = _ATTENTION  # type: ignore[union-attr]
    return changed


def _onnx_attention(
    module: "nn.Module",
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    *,
    scaling: float | None = None,
    **_: object,
) -> "tuple[Tensor, None]":
    """com.microsoft.MultiHeadAttention of (batch, heads, tokens, size); gives (batch, tokens, heads, size)."""
    import torch

    batch, heads, tokens, size = query.shape
    flat = [part.transpose(1, 2).reshape(batch, tokens, heads * size) for part in (query, key, value)]
    attended = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*flat, None, None, attention_mask),
        {"num_heads": heads, "scale": float(scaling or size**-0.5)},
        dtype=query.dtype,
        shape=(batch, tokens, heads * size),
        version=1,
    )
    return attended.reshape(batch, tokens, heads, size), None


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
