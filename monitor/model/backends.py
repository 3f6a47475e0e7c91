"""What runs the network: ONNX Runtime on the CPU, or torch on any device."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import joblib
import numpy as np
import platformdirs
from numpy.typing import NDArray

from monitor.config import ModelSettings
from monitor.model.checkpoint import Checkpoint, has_ranges, load_network
from monitor.model.export import Weights, cached_onnx
from monitor.records import MonitorError

if TYPE_CHECKING:
    from torch import Tensor

    from monitor.model.network import MultiTaskNetwork

Logits = Mapping[str, NDArray[np.float32]]
"""By task, (batch, labels)."""
Answer = Callable[[NDArray[np.int64], NDArray[np.int64]], Logits]
"""The logits of input_ids and attention_mask, both (batch, tokens)."""
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], Callable[[], Logits]]
"""Starts input_ids and attention_mask, both (batch, tokens); what it returns waits for the logits."""
Notify = Callable[[str], None]
"""Is told in words of work that takes seconds."""

CORE_BATCH_TOKENS: Final = 192
"""Tokens of a batch, padding included, for one core by itself: what it makes of them stays in its cache."""
CPU_BATCH_TOKENS: Final = 1_024
"""The same for all cores at work on one batch."""
CUDA_BATCH_TOKENS: Final = 65_536
CUDA_LENGTHS: Final = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CUDA_ROWS: Final = (8, 64, 512)
"""Shapes to fill batches up to on a GPU: few, as a CUDA graph is recorded for each, and a small batch stays small."""


class ScorerError(MonitorError):
    """The backend or device asked for is not to be had here; the message says what is, and what to set."""


@dataclass(frozen=True)
class Backend:
    """What runs the network.

    Attributes:
        name: of the runtime, the device and the precision.
        batch_tokens: tokens of a batch, padding included.
        lengths: what batches are padded to; empty: to their longest text.
        rows: with `lengths`, how many rows they are filled up to; beyond the last, to `batch_tokens`.
        ahead: how many more batches may be started before the first of them is waited for.
        calls: from how many threads at once `run` may be called.
    """

    name: str
    run: Run
    batch_tokens: int
    lengths: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    ahead: int = 0
    calls: int = 1


def open_backend(
    checkpoint: Checkpoint, settings: ModelSettings, notify: Notify, *, in_caller: bool = False
) -> Backend:
    """The backend that the settings ask for. Opening ONNX Runtime for the first time exports the model.

    Args:
        in_caller: on the CPU with ONNX Runtime, run in the thread that asks, at its priority, and on no other core.

    Raises:
        CheckpointError: the model cannot be used.
        ScorerError: the backend, device, precision or cache folder asked for cannot be.
    """
    device, wanted = _device(settings), settings.precision
    if device is None:
        if wanted == "bf16":
            raise ScorerError("model.precision: 'bf16' needs backend `torch`; ONNX Runtime runs `fp32` and `int8`")
        if wanted == "int8" and not has_ranges(checkpoint):
            raise ScorerError(
                f"model.precision: 'int8', but {checkpoint.folder} holds no ranges of activations; set `auto` or "
                "`fp32`, or train again"
            )
        weights = weights_of(checkpoint, wanted)
        name, answer = f"onnx cpu {weights}", _onnx(checkpoint, weights, settings.cache_dir, notify)
        if in_caller:
            return Backend(name, lambda *inputs: partial(answer, *inputs), CORE_BATCH_TOKENS)
        cores = joblib.cpu_count()  # those that this process, and its container, may use
        # A batch to a core: cores that share one batch wait for each other at every operation.
        workers = ThreadPoolExecutor(cores, thread_name_prefix="network")
        return Backend(
            name, lambda *inputs: workers.submit(answer, *inputs).result, CORE_BATCH_TOKENS, ahead=2 * cores, calls=2
        )
    if wanted == "int8":
        raise ScorerError("model.precision: 'int8' needs backend `onnx`; torch runs `fp32` and `bf16`")
    on_gpu = device.startswith("cuda")
    precision = ("bf16" if on_gpu else "fp32") if wanted == "auto" else wanted
    run = torch_run(load_network(checkpoint), device, bf16=precision == "bf16", compiled=on_gpu)
    name = f"torch {device} {precision}"
    if not on_gpu:
        return Backend(name, run, CPU_BATCH_TOKENS)
    longest = checkpoint.info.max_tokens
    lengths = tuple(length for length in CUDA_LENGTHS if length < longest)
    return Backend(name, run, CUDA_BATCH_TOKENS, (*lengths, longest), CUDA_ROWS, ahead=1)


def _device(settings: ModelSettings) -> str | None:
    """The torch device to run on; None: ONNX Runtime on the CPU."""
    wanted = settings.device
    if settings.backend == "onnx" and wanted not in ("auto", "cpu"):
        raise ScorerError(
            f"model.device: {wanted!r} with backend 'onnx', which runs on the CPU; "
            "set `auto` or `cpu`, or backend `torch`"
        )
    if wanted in ("auto", "cpu"):
        if settings.backend != "onnx" and wanted == "auto" and _cuda_available():
            return "cuda"
        return "cpu" if settings.backend == "torch" else None

    import torch

    index = wanted.removeprefix("cuda").removeprefix(":")
    if not wanted.startswith("cuda") or (index and not index.isdecimal()):
        raise ScorerError(f"model.device: {wanted!r} is none of `auto`, `cpu`, `cuda` and `cuda:N`")
    if int(index or 0) >= torch.cuda.device_count():
        raise ScorerError(
            f"model.device: {wanted!r}, but torch sees {torch.cuda.device_count()} CUDA devices; set `auto` or `cpu`"
        )
    return wanted


def _cuda_available() -> bool:
    """Whether torch can run on a GPU, without the seconds that importing torch takes where there is no driver."""
    for driver in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(driver)
        except OSError:
            continue
        import torch

        return torch.cuda.is_available()
    return False


def _onnx(checkpoint: Checkpoint, weights: Weights, cache_dir: Path | None, notify: Notify) -> Answer:
    """ONNX Runtime on one core."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    with ExitStack() as life:
        folder = cache_dir or platformdirs.user_cache_path("sentiment-monitor")
        try:
            path = cached_onnx(checkpoint, weights, folder, notify)
        except OSError as error:
            remedy = "set model.cache_dir (SENTIMENT_MODEL__CACHE_DIR) to a folder that can"
            if cache_dir is not None:
                raise ScorerError(
                    f"model.cache_dir: {folder} cannot be written ({error.strerror}); {remedy}"
                ) from error
            # An account without a home, as services have: it works, only slower to start.
            notify(f"{folder} cannot be written ({error.strerror}), so the model is prepared anew; {remedy}")
            path = cached_onnx(checkpoint, weights, Path(life.enter_context(TemporaryDirectory())), notify)
        session = onnxruntime.InferenceSession(
            path,
            _session_options(),
            providers=["CPUExecutionProvider"],
            # Its fused form is several times slower on a processor than the sum and the norm by themselves.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    tasks = list(checkpoint.info.tasks)

    def answer(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return dict(zip(tasks, session.run(tasks, inputs), strict=True))

    return answer


def weights_of(checkpoint: Checkpoint, precision: str) -> Weights:
    """Digits of the encoder's weights as ONNX Runtime runs it here, for `model.precision`."""
    if precision == "fp32" or not has_ranges(checkpoint):
        return "fp32"
    return "int8" if adds_in_32_bits() else "int7"


def _session_options() -> "object":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def adds_in_32_bits() -> bool:
    """Whether ONNX Runtime adds products of 8-bit integers exactly here. On x86 processors older than VNNI it adds
    two of them in 16 bits, which overflows, and weights must leave a bit free."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    inner = 64
    weights = numpy_helper.from_array(np.full((inner, 16), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [16, inner])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [16, 16])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), _session_options(), providers=["CPUExecutionProvider"]
    )
    (sums,) = session.run(None, {"rows": np.full((16, inner), 255, np.uint8)})
    return bool((sums == 255 * 127 * inner).all())


def torch_run(network: "MultiTaskNetwork", device: str, *, bf16: bool, compiled: bool) -> Run:
    """The network on a torch device. Batches are started without waiting where the device works by itself.

    Args:
        compiled: with `torch.compile`, once for all shapes, and on a GPU a CUDA graph for each.
    """
    import torch

    placed = network.to(device)
    kind = torch.device(device).type
    forward: Callable[[Tensor, Tensor], dict[str, Tensor]] = placed
    if compiled:
        # Compiled for each shape by itself, it would run uncompiled from the ninth on (torch's recompile_limit).
        forward = torch.compile(placed, mode="reduce-overhead" if kind == "cuda" else "default", dynamic=True)

    def moved(array: NDArray[np.int64]) -> "Tensor":
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if kind == "cuda" else tensor

    def run(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Callable[[], Logits]:
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=bf16):
            # Cloned, as the next run of a CUDA graph writes its answers over these.
            logits = {
                task: values.clone() for task, values in forward(moved(input_ids), moved(attention_mask)).items()
            }
        return lambda: {task: values.float().cpu().numpy() for task, values in logits.items()}

    return run


def bucket(length: int, lengths: Sequence[int]) -> int:
    """The least of `lengths`, in rising order, that holds `length`; without any, `length` itself."""
    return next((least for least in lengths if least >= length), length)
