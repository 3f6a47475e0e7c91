"""How fast the monitor is, beside what people do today and beside what the processor or GPU could do at most.

All ways take turns on the same headlines, so that a noisy machine is as noisy for each. What to quote is the ratios.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging

from monitor.config import ModelSettings
from monitor.model.checkpoint import load_network, read
from monitor.model.scorer import ScorerError, open_scorer
from monitor.records import NewsItem
from pipelines.headlines import headlines
from pipelines.processor import CudaPeaks, Peaks, work
from pipelines.services import UnavailableError
from pipelines.stream import Latency, Stream

ONE_BY_ONE: Final = "(a) two pipelines, batch of 1"
BATCHED: Final = "(a) two pipelines, batch of 32"
TORCH: Final = "(b) scorer, torch fp32"
ONNX: Final = "    scorer, onnx fp32"
INT8: Final = "(c) scorer, onnx int8"
BF16: Final = "    scorer, torch bf16, compiled"
DAEMON: Final = "(d) daemon, Kafka to SQLite"

CPU_ITEMS: Final = 4_000
CPU_CALL: Final = 1_024
CUDA_CALL: Final = 16_384
"""Items that are handed to the scorer together: enough for its largest batches."""
TRICKLE_ITEMS_A_SECOND: Final = 5.0
_SHARE_OF_ITEMS: Final = {ONE_BY_ONE: 1 / 16, BATCHED: 1 / 8, TORCH: 1 / 4, ONNX: 1 / 2}
_PASSES: Final = {ONE_BY_ONE: 2, BATCHED: 2}

Run = Callable[[Sequence[str]], object]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of the benchmark measured.

    Attributes:
        rates: items a second of each way in each round, in the order of the table.
        tokens: a text, on average.
        multiply_adds: of one pass of the network over a text, on average, padding excluded.
        peaks: by precision, multiply-adds a second in products of large matrices; shares are of the first.
        not_measured: why there is no daemon among the rates; None if there is.
    """

    rates: Mapping[str, Sequence[float]]
    texts: str
    items: int
    tokens: float
    multiply_adds: float
    peaks: Mapping[str, float]
    machine: str
    daemon_peak_bytes: int | None = None
    latency: Latency | None = None
    not_measured: str | None = None

    def rate(self, way: str) -> float:
        """Items a second: the median of the rounds."""
        return statistics.median(self.rates[way])

    @property
    def best_of_today(self) -> float:
        """Items a second of the pipelines at their better batch size."""
        return max(self.rate(ONE_BY_ONE), self.rate(BATCHED))

    @property
    def reference(self) -> str:
        """The precision whose peak shares are of."""
        return next(iter(self.peaks))

    def share(self, way: str) -> float:
        """Of the reference's peak: what the passes over a way's items need of it."""
        return self.rate(way) * _PASSES.get(way, 1) * self.multiply_adds / self.peaks[self.reference]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that is to be reached. `value` None: not measured."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> Literal["met", "missed", "not measured"]:
        if self.value is None:
            return "not measured"
        reached = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return "met" if reached else "missed"


def bars(figures: Figures) -> list[Bar]:
    """What the monitor is to reach on two cores; nothing is set for a GPU."""
    if INT8 not in figures.rates:
        return []
    streams = DAEMON in figures.rates
    memory, latency = figures.daemon_peak_bytes, figures.latency
    daemon = figures.rate(DAEMON) / figures.rate(INT8) if streams else None
    return [
        Bar("(c) to (a) at its better batch size", figures.rate(INT8) / figures.best_of_today, at_least=10),
        Bar("(d) to (c)", daemon, at_least=0.85),
        Bar("(b), share of the fp32 peak", figures.share(TORCH), at_least=0.55),
        Bar("(c), share of the fp32 peak", figures.share(INT8), at_least=1.0),
        Bar("(d), memory at most, GB", None if memory is None else memory / 1e9, at_most=1.2),
        Bar("(d), trickle, p99 in ms", None if latency is None else latency.p99_s * 1e3, at_most=500),
    ]


def table(figures: Figures) -> Table:
    """A row for each way, and for what the processor could do if it did nothing but multiply."""
    shown = Table(
        "way", "items a second", "to (a)", f"of {figures.reference} peak",
        title="topic and sentiment of each item",
        caption=f"{figures.items} headlines ({figures.texts}), {figures.tokens:.1f} tokens and "
        f"{figures.multiply_adds / 1e6:.0f} million multiply-adds each on average; {figures.machine}: at most, in "
        "billions of them a second, "
        + ", ".join(f"{peak / 1e9:.0f} in {name}" for name, peak in figures.peaks.items()),
    )  # fmt: skip
    for way in figures.rates:
        rate = figures.rate(way)
        shown.add_row(way, f"{rate:,.0f}", f"{rate / figures.best_of_today:.2f}", f"{figures.share(way):.2f}")
    for name, peak in figures.peaks.items():
        most = peak / figures.multiply_adds
        ratio = most / figures.best_of_today
        limit = f"    multiplying alone, {name}"
        share = peak / figures.peaks[figures.reference]
        shown.add_row(limit, f"{most:,.0f}", f"{ratio:.2f}", f"{share:.2f}", style="dim")
    return shown


def measure(items: int, rounds: int, trickle_s: float, device: str, console: Console) -> Figures:
    """Measure every way in turns, each round on the same texts; the slow ones on fewer of them.

    Raises:
        ScorerError: the device cannot be had.
    """
    checkpoint = read("default")
    trickled = round(trickle_s * TRICKLE_ITEMS_A_SECOND)
    origin, titles = headlines(items + trickled + 1)
    texts, trickle = titles[:items], titles[items:]
    tokens = [len(encoding.ids) for encoding in checkpoint.tokenizer().encode_batch_fast(texts)]
    runs = _runs(device)
    for run in runs.values():
        run(texts if device != "cpu" else texts[:64])
    peaks = Peaks() if device == "cpu" else CudaPeaks(device)
    rates: dict[str, list[float]] = {way: [] for way in runs}
    latency, not_measured = None, None
    with ExitStack() as life:
        try:
            stream = life.enter_context(Stream(f'[model]\ndevice = "{device}"\n'))
            topics = [stream.fill(texts) for _ in range(rounds)]
        except UnavailableError as error:
            stream, topics, not_measured = None, [], str(error)
        for number in track(range(rounds), description="measuring", console=console, transient=True):
            peaks.measure()
            for way, run in runs.items():
                sample = texts[: max(1, round(items * _SHARE_OF_ITEMS.get(way, 1.0)))]
                started_s = time.perf_counter()
                run(sample)
                rates[way].append(len(sample) / (time.perf_counter() - started_s))
            if stream is not None:
                rates.setdefault(DAEMON, []).append(stream.drain(topics[number], items))
        if stream is not None and trickled:
            latency = stream.trickle(trickle, TRICKLE_ITEMS_A_SECOND)
    return Figures(
        rates=rates,
        texts=origin,
        items=items,
        tokens=statistics.mean(tokens),
        multiply_adds=work(load_network(checkpoint)).mean(tokens),
        peaks=peaks.found(),
        machine=_machine(device),
        daemon_peak_bytes=stream.peak_bytes if stream is not None else None,
        latency=latency,
        not_measured=not_measured,
    )


def described(figures: Figures) -> dict[str, object]:
    """The figures and what follows from them, as JSON has them."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("torch", "onnxruntime", "transformers", "tokenizers")},
        **asdict(figures),
        "ways": {
            way: {
                "items_a_second": figures.rate(way),
                "to_a": figures.rate(way) / figures.best_of_today,
                f"of_the_{figures.reference}_peak": figures.share(way),
            }
            for way in figures.rates
        },
        "bars": [asdict(bar) | {"verdict": bar.verdict} for bar in bars(figures)],
    }


def _runs(device: str) -> dict[str, Run]:
    # The scorers first: they say what is wrong with a device.
    if device == "cpu":
        ours = {
            TORCH: _scorer("torch", "fp32", device),
            ONNX: _scorer("onnx", "fp32", device),
            INT8: _scorer("onnx", "int8", device),
        }
    else:
        ours = {BF16: _scorer("torch", "bf16", device)}
    return {ONE_BY_ONE: _two_pipelines(1, device), BATCHED: _two_pipelines(32, device), **ours}


def _scorer(backend: Literal["torch", "onnx"], precision: Literal["fp32", "bf16", "int8"], device: str) -> Run:
    # Without its memory of texts, which would answer every round but the first for free.
    settings = ModelSettings(backend=backend, precision=precision, device=device, cache_items=0)
    scorer = open_scorer(settings)
    published_at = datetime.now(UTC)
    at_once = CPU_CALL if device == "cpu" else CUDA_CALL

    def run(texts: Sequence[str]) -> None:
        for start in range(0, len(texts), at_once):
            scorer.score([NewsItem(text, text, published_at) for text in texts[start : start + at_once]])

    return run


def _two_pipelines(batch_size: int, device: str) -> Run:
    checkpoint = read("default")
    encoder = str(checkpoint.encoder_folder)
    # It would tell at length of heads that are not trained, and draw bars.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    classifiers = [
        pipeline(
            "text-classification",
            model=AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels)),
            tokenizer=tokenizer,
            device=torch.device(device),
        )
        for labels in checkpoint.info.tasks.values()
    ]

    def run(texts: Sequence[str]) -> None:
        for classify in classifiers:
            classify(list(texts), batch_size=batch_size, truncation=True, max_length=128)

    return run


def _machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores, torch on {torch.get_num_threads()} threads"


def _processor() -> str:
    """The processor's own name, where the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")


def _shown(bar: Bar) -> str:
    limit = f">= {bar.at_least:g}" if bar.at_least is not None else f"<= {bar.at_most:g}"
    value = "" if bar.value is None else f"{bar.value:.2f}, "
    return f"{bar.verdict:12}  {bar.name}: {value}to be {limit}"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="times each way is measured")] = 5,
    items: Annotated[int | None, typer.Option(min=16, help="headlines in a round; 4,000, on a GPU 32,768")] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `cuda:N`")] = "cpu",
    trickle_s: Annotated[float, typer.Option(min=0, help="seconds of single items, five a second; 0: none")] = 60.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file too")] = None,
) -> None:
    """Print items a second of every way, their ratios, and which bars are met."""
    console = Console(stderr=True)
    try:
        items = items or (CPU_ITEMS if device == "cpu" else 2 * CUDA_CALL)
        figures = measure(items, rounds, trickle_s, device, console)
    except ScorerError as error:
        console.print(f"benchmark: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json_file is not None:
        json_file.write_text(json.dumps(described(figures), indent=2) + "\n", encoding="utf-8")
    out = Console()
    out.print(table(figures))
    if (latency := figures.latency) is not None:
        out.print(
            f"trickle of {TRICKLE_ITEMS_A_SECOND:g} items a second, from Kafka to committed: p50 "
            f"{latency.p50_s * 1e3:.0f} ms, p99 {latency.p99_s * 1e3:.0f} ms, longest of {latency.items} "
            f"{latency.max_s * 1e3:.0f} ms",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for bar in bars(figures):
        out.print(_shown(bar), highlight=False, soft_wrap=True)
    if figures.not_measured is not None:
        console.print(
            f"(d) NOT MEASURED against a real Kafka: {figures.not_measured}. To enable: `make services`, then run "
            "this again.",
            style="bold yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
