"""How fast the scorer is, beside what people do today: one text-classification pipeline for each task.

All run in one process, in turns, on the headlines of the bundled news day, so that a noisy machine is as noisy for
each. What to quote is the ratio.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from monitor.config import ModelSettings
from monitor.demo import SCENARIO
from monitor.history import read_history
from monitor.model.checkpoint import read
from monitor.model.scorer import open_scorer
from monitor.records import NewsItem, RawRecord, RecordError

BASELINE: Final = "two pipelines, batch size"


def items_a_second(runs: dict[str, Callable[[Sequence[NewsItem]], object]], rounds: int) -> dict[str, float]:
    """The median rate of each run over the rounds; in each round they take turns, each on the whole news day."""
    items = [dated.item for dated in read_history(SCENARIO, {}, _refuse)]
    for run in runs.values():
        run(items[:64])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(rounds), description="measuring", console=Console(stderr=True), transient=True):
        for name, run in runs.items():
            started = time.perf_counter()
            run(items)
            seconds[name].append(time.perf_counter() - started)
    return {name: len(items) / statistics.median(times) for name, times in seconds.items()}


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error


def _scorer(backend: str) -> Callable[[Sequence[NewsItem]], object]:
    # Without its memory of texts, which would answer every round but the first for free.
    return open_scorer(ModelSettings(backend=backend, device="cpu", cache_items=0)).score  # type: ignore[arg-type]


def _two_pipelines(batch_size: int) -> Callable[[Sequence[NewsItem]], object]:
    checkpoint = read("default")
    encoder = str(checkpoint.encoder_folder)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    classifiers = [
        pipeline(
            "text-classification",
            model=AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels)),
            tokenizer=tokenizer,
            device=torch.device("cpu"),
        )
        for labels in checkpoint.info.tasks.values()
    ]

    def run(items: Sequence[NewsItem]) -> object:
        texts = [item.text for item in items]
        return [classify(texts, batch_size=batch_size, truncation=True, max_length=128) for classify in classifiers]

    return run


def main(rounds: Annotated[int, typer.Option(min=1, help="times each is measured")] = 5) -> None:
    """Print items a second, and the ratio to the faster of the ordinary ways."""
    runs = {f"{BASELINE} {size}": _two_pipelines(size) for size in (1, 32)}
    runs |= {f"scorer, {backend}": _scorer(backend) for backend in ("torch", "onnx")}
    rates = items_a_second(runs, rounds)
    best = max(rate for name, rate in rates.items() if name.startswith(BASELINE))
    table = Table("on the CPU, fp32, topic and sentiment of each item", "items a second", "ratio")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / best:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
