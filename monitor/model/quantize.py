"""The network in 8-bit integers: weights by output, activations by ranges that were observed when it was trained.

Ranges that are fixed beforehand, instead of taken from each batch, keep an item's answer independent of what else is
in its batch, and save a pass over the data. Products are summed in 32-bit integers and never lose a digit.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.ao.quantization.fx._decomposed import quantized_decomposed_lib  # noqa: F401  (registers the operations)
from transformers.activations import GELUActivation

from monitor.model.checkpoint import Checkpoint
from monitor.model.network import MultiTaskNetwork
from monitor.model.text import clean, pad

Ranges = Mapping[str, tuple[Tensor, Tensor]]
"""By layer of the encoder, the least and the greatest value of each of its inputs, both (inputs,)."""

_BATCH: Final = 64
_SMOOTHING: Final = 0.5
_UNEVEN: Final = 3.0
"""Inputs are smoothed where the widest of them ranges over so many times the mean range."""


def observe(
    network: MultiTaskNetwork, checkpoint: Checkpoint, texts: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What the inputs of the encoder's linear layers are, on texts like those that the network will read.

    Texts are batched with others of exactly their length, so that padding widens no range.
    """
    tokenizer = checkpoint.tokenizer()
    by_length: dict[int, list[list[int]]] = {}
    for encoding in tokenizer.encode_batch_fast([clean(text) for text in texts]):
        by_length.setdefault(len(encoding.ids), []).append(encoding.ids)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(layer: str, inputs: Tensor) -> None:
        values = inputs.detach().float().flatten(0, -2)
        low, high = values.amin(0), values.amax(0)
        if layer in seen:
            low, high = torch.minimum(low, seen[layer][0]), torch.maximum(high, seen[layer][1])
        seen[layer] = low, high

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0]))
        for name, module in network.encoder.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            for rows in by_length.values():
                for start in range(0, len(rows), _BATCH):
                    input_ids, attention_mask = pad(rows[start : start + _BATCH], checkpoint.pad_id)
                    network(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def quantized(network: MultiTaskNetwork, ranges: Ranges, *, weight_bits: int = 8) -> MultiTaskNetwork:
    """A copy of the network whose encoder multiplies 8-bit integers in each linear layer that `ranges` knows.

    GELU becomes its approximation by tanh: it differs by less than rounding to 8 bits does, and takes less time.

    Args:
        weight_bits: 7 for processors that add two products of 8-bit integers in 16 bits, which may overflow.
    """
    changed = copy.deepcopy(network)
    for layer, (low, high) in ranges.items():
        linear = changed.encoder.get_submodule(layer)
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{layer} is a {type(linear).__name__}, only linear layers have ranges")
        changed.encoder.set_submodule(layer, Int8Linear(linear, low, high, weight_bits))
    for name, module in list(changed.encoder.named_modules()):
        if isinstance(module, (GELUActivation, nn.GELU)):
            changed.encoder.set_submodule(name, nn.GELU(approximate="tanh"))
    return changed


class Int8Linear(nn.Module):
    """A linear layer of unsigned 8-bit inputs and signed 8-bit weights. In torch it is written out: quantise,
    dequantise, multiply. In an ONNX file the three, and the bias, are ONNX Runtime's one product of integers.

    Where the inputs' ranges are uneven, each is divided by the root of its range, and its weights multiplied by it,
    so that no few of them take up the digits of all (SmoothQuant, arXiv:2211.10438, with the weights' part left out,
    so that layers with the same inputs also share the division).
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    smoothing: Tensor | None

    def __init__(self, linear: nn.Linear, low: Tensor, high: Tensor, weight_bits: int) -> None:
        super().__init__()
        reach = torch.maximum(low.abs(), high.abs()).clamp(min=1e-6)
        uneven = reach.max() > _UNEVEN * reach.mean()
        smoothing = (reach / reach.mean()).pow(_SMOOTHING) if uneven else torch.ones_like(reach)
        weight = linear.weight.detach().T * smoothing.unsqueeze(1)  # (inputs, outputs)
        most = 2 ** (weight_bits - 1) - 1
        scales = (weight.abs().amax(0) / most).clamp(min=1e-12)
        least, greatest = min(0.0, float((low / smoothing).min())), max(0.0, float((high / smoothing).max()))
        self.scale = (greatest - least) / 255 or 1.0
        self.zero = round(-least / self.scale)
        self.register_buffer("smoothing", 1 / smoothing if uneven else None)
        self.register_buffer("weight", torch.round(weight / scales).to(torch.int8).contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int8))
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        operations = torch.ops.quantized_decomposed
        scaling = (self.scale, self.zero, 0, 255, torch.uint8)
        smooth = inputs if self.smoothing is None else inputs * self.smoothing
        rounded = operations.quantize_per_tensor(smooth, *scaling)
        if torch.onnx.is_in_onnx_export():
            return self._in_onnx(rounded)
        weight = operations.dequantize_per_channel(self.weight, self.scales, self.zeros, 1, -128, 127, torch.int8)
        product: Tensor = operations.dequantize_per_tensor(rounded, *scaling) @ weight
        return product if self.bias is None else product + self.bias

    def _in_onnx(self, rounded: Tensor) -> Tensor:
        scale, zero = torch.tensor(self.scale), torch.tensor(self.zero, dtype=torch.uint8)
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (rounded, self.weight, scale, self.scales, zero, self.zeros, self.bias),
            dtype=torch.float32,
            shape=(*rounded.shape[:-1], self.weight.shape[1]),
            version=1,
        )
