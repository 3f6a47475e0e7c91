"""What a processor can do at most, and how much of that one text needs: both in multiply-adds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from monitor.model.network import MultiTaskNetwork

SIZES: Final = (1024, 2048)
"""Edges of the square matrices that are multiplied: enough to keep every core busy, and still in its caches."""


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of one pass of a network over one text of n tokens: `a_token` n + `a_pair` n^2 + `a_text`.

    The linear layers of the encoder run once a token; the two products of attention (queries with keys, weights with
    values) take a hidden size of multiply-adds a layer for each pair of tokens; what follows pooling runs once.
    Norms, activations and look-ups are not counted.
    """

    a_token: int
    a_pair: int
    a_text: int

    def mean(self, tokens: Sequence[int]) -> float:
        """A text, averaged over texts of these true lengths: what padding costs is no work done."""
        lengths = np.asarray(tokens, dtype=np.float64)
        return float(np.mean(self.a_token * lengths + self.a_pair * lengths**2 + self.a_text))


def work(network: MultiTaskNetwork) -> Work:
    """The work of a network, its linear layers counted as they run on texts of two lengths."""
    config: Any = network.encoder.config
    short, long = _linear(network, 4), _linear(network, 8)
    a_token, rest = divmod(long - short, 4)
    if rest:
        raise ValueError(f"{type(network.encoder).__name__}: its linear layers do not run once a token")
    return Work(a_token, 2 * config.num_hidden_layers * config.hidden_size, short - 4 * a_token)


def _linear(network: MultiTaskNetwork, tokens: int) -> int:
    """Multiply-adds of all linear layers on one text of so many tokens."""
    counted = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel() * inputs[0].shape[-1]

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Linear)]
    try:
        ids = torch.ones(1, tokens, dtype=torch.int64)
        with torch.inference_mode():
            network(ids, torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return counted


class Peaks:
    """The most multiply-adds a second that were seen so far in products of large matrices, on all cores.

    Measured again whenever asked, so that on a machine with neighbours the best moment counts.

    Attributes:
        fp32: of torch and NumPy, whichever is faster here.
        int8: of ONNX Runtime, unsigned by signed, as quantized networks multiply.
    """

    def __init__(self) -> None:
        self.fp32 = self.int8 = 0.0
        random = np.random.default_rng(0)
        self._fp32 = [product for size in SIZES for product in _fp32_products(random, size)]
        self._int8 = [_int8_product(random, size) for size in SIZES]

    def found(self) -> dict[str, float]:
        """By precision, in multiply-adds a second."""
        return {"fp32": self.fp32, "int8": self.int8}

    def measure(self, repeats: int = 4) -> None:
        for _ in range(repeats):
            self.fp32 = max(self.fp32, *(_rate(product, size) for product, size in self._fp32))
            self.int8 = max(self.int8, *(_rate(product, size) for product, size in self._int8))


class CudaPeaks:
    """The same of a torch device, a GPU as a rule, by torch itself in bf16 and fp32.

    Args:
        size: edge of the square matrices.
        products: so many are started before they are waited for.
    """

    def __init__(self, device: str, size: int = 8_192, products: int = 10) -> None:
        self._peaks = {"bf16": 0.0, "fp32": 0.0}
        self._products = products
        random = torch.Generator().manual_seed(0)
        square = torch.randn(size, size, generator=random).to(device)
        self._squares = {"bf16": square.bfloat16(), "fp32": square}

    def found(self) -> dict[str, float]:
        """By precision, in multiply-adds a second."""
        return dict(self._peaks)

    def measure(self) -> None:
        for name, square in self._squares.items():
            _wait(square @ square)
            started_s = time.perf_counter()
            for _ in range(self._products):
                product = square @ square
            _wait(product)
            rate = self._products * len(square) ** 3 / (time.perf_counter() - started_s)
            self._peaks[name] = max(self._peaks[name], rate)


def _wait(result: torch.Tensor) -> None:
    if result.is_cuda:
        torch.cuda.synchronize(result.device)


def _rate(product: Callable[[], object], size: int) -> float:
    started_s = time.perf_counter()
    product()
    return float(size**3 / (time.perf_counter() - started_s))


def _fp32_products(random: np.random.Generator, size: int) -> list[tuple[Callable[[], object], int]]:
    left, right = random.standard_normal((2, size, size), dtype=np.float32)
    torch_left, torch_right = torch.from_numpy(left), torch.from_numpy(right)
    return [(lambda: torch_left @ torch_right, size), (lambda: left @ right, size)]


def _int8_product(random: np.random.Generator, size: int) -> tuple[Callable[[], object], int]:
    import onnx
    import onnxruntime

    # Values that int8 products cannot overflow with on any processor: 7 bits.
    left = random.integers(0, 128, (size, size), dtype=np.uint8)
    right = onnx.numpy_helper.from_array(random.integers(-63, 64, (size, size), dtype=np.int8), "right")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [onnx.helper.make_tensor_value_info("left", onnx.TensorProto.UINT8, [size, size])],
        [onnx.helper.make_tensor_value_info("product", onnx.TensorProto.INT32, [size, size])],
        [right],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return (lambda: session.run(None, {"left": left})), size
