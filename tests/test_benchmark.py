"""The benchmark's arithmetic by hand, what it prints, and what it says where there is no Kafka."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from monitor.demo import SCENARIO
from monitor.history import read_history
from monitor.model.text import clean
from pipelines import benchmark
from pipelines.benchmark import BATCHED, BF16, DAEMON, INT8, ONE_BY_ONE, ONNX, TORCH, Figures
from pipelines.headlines import headlines, vary
from pipelines.processor import CudaPeaks, Peaks, Work, work
from pipelines.services import Process
from pipelines.stream import Latency, resident_bytes
from tests import tiny_model
from tests.support import until

FIGURES = Figures(
    rates={
        ONE_BY_ONE: [50, 60, 70],
        BATCHED: [90, 100, 500],
        TORCH: [240, 250, 260],
        ONNX: [700, 600, 500],
        INT8: [1000, 1100, 1200],
        DAEMON: [990, 880, 770],
    },
    texts="invented",
    items=4000,
    tokens=16.3,
    multiply_adds=200e6,
    peaks={"fp32": 100e9, "int8": 300e9},
    machine="a machine",
    daemon_peak_bytes=700_000_000,
    latency=Latency(items=300, p50_s=0.12, p99_s=0.6, max_s=0.7),
)


def _unstreamed() -> Figures:
    rates = {way: rounds for way, rounds in FIGURES.rates.items() if way != DAEMON}
    return replace(FIGURES, rates=rates, daemon_peak_bytes=None, latency=None, not_measured="no java")


def test_work_of_a_network_is_its_linear_layers_and_the_products_of_attention(tmp_path: Path) -> None:
    # Two layers of 32 features: four projections of 32 x 32, and 32 x 64 up and down; heads of 3 and 3 labels.
    counted = work(tiny_model.network(tiny_model.write_encoder(tmp_path), lora=None))
    assert counted == Work(a_token=2 * (4 * 32 * 32 + 2 * 32 * 64), a_pair=2 * 2 * 32, a_text=32 * (3 + 3))


def test_mean_work_squares_each_text_by_itself() -> None:
    assert Work(a_token=10, a_pair=2, a_text=5).mean([1, 3]) == ((10 + 2 + 5) + (30 + 18 + 5)) / 2


def test_a_peak_never_falls() -> None:
    peaks = Peaks()
    peaks.measure(1)
    fp32, int8 = peaks.fp32, peaks.int8
    assert min(fp32, int8) > 0
    peaks.measure(1)
    assert peaks.fp32 >= fp32
    assert peaks.int8 >= int8


def test_a_gpus_peaks_are_measured_by_torch_in_bf16_and_fp32() -> None:
    peaks = CudaPeaks("cpu", size=64, products=2)
    peaks.measure()
    found = peaks.found()
    assert list(found) == ["bf16", "fp32"]
    assert min(found.values()) > 0
    peaks.measure()
    assert all(peaks.found()[name] >= rate for name, rate in found.items())


def test_on_a_gpu_shares_are_of_its_bf16_peak_and_no_bar_is_set() -> None:
    rates = {BATCHED: [1000.0], ONE_BY_ONE: [10.0], BF16: [50_000.0]}
    figures = replace(FIGURES, rates=rates, peaks={"bf16": 400e12, "fp32": 50e12}, machine="a GPU")
    assert figures.share(BF16) == pytest.approx(50_000 * 200e6 / 400e12)
    assert benchmark.bars(figures) == []
    console = Console(width=80, record=True)
    console.print(benchmark.table(figures))
    assert "of bf16 peak" in console.export_text()


def test_a_device_that_is_not_there_is_named() -> None:
    app = Typer()
    app.command()(benchmark.main)
    done = CliRunner().invoke(app, ["--rounds", "1", "--items", "16", "--device", "cuda:7"])
    assert done.exit_code == 1
    assert "benchmark: model.device: 'cuda:7', but torch sees" in done.stderr


def test_shares_count_both_passes_of_the_two_pipelines() -> None:
    assert FIGURES.share(TORCH) == pytest.approx(250 * 200e6 / 100e9)
    assert FIGURES.share(BATCHED) == pytest.approx(2 * 100 * 200e6 / 100e9)


def test_a_bar_is_met_missed_or_not_measured() -> None:
    bars = {bar.name: bar for bar in benchmark.bars(FIGURES)}
    assert {name: bar.verdict for name, bar in bars.items()} == {
        "(c) to (a) at its better batch size": "met",
        "(d) to (c)": "missed",
        "(b), share of the fp32 peak": "missed",
        "(c), share of the fp32 peak": "met",
        "(d), memory at most, GB": "met",
        "(d), trickle, p99 in ms": "missed",
    }
    assert bars["(c) to (a) at its better batch size"].value == 11
    assert bars["(d) to (c)"].value == pytest.approx(0.8)
    without = {bar.name: bar.verdict for bar in benchmark.bars(_unstreamed())}
    assert {name for name, verdict in without.items() if verdict == "not measured"} == {
        name for name in without if name.startswith("(d)")
    }


def test_table_shows_medians_ratios_to_the_better_batch_size_and_shares() -> None:
    console = Console(width=80, record=True)
    console.print(benchmark.table(FIGURES))
    lines = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if "│" in line}
    cells = {name: [cell.strip() for cell in line.split("│")[2:5]] for name, line in lines.items()}
    assert cells[ONE_BY_ONE.strip()] == ["60", "0.60", "0.24"]
    assert cells[INT8] == ["1,100", "11.00", "2.20"]
    assert cells[DAEMON] == ["880", "8.80", "1.76"]
    assert cells["multiplying alone, int8"] == ["1,500", "15.00", "3.00"]


def test_headlines_are_different_clean_and_as_long_as_those_they_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITOR_DATA", str(tmp_path))
    origin, found = headlines(3000)
    assert origin == "the bundled news day, varied"
    assert len(set(found)) == len(found) == 3000
    assert [title for title in found if clean(title) != title] == []
    day = [dated.item.title for dated in read_history(SCENARIO, {}, _refuse)]
    assert sum(map(len, found)) / 3000 == pytest.approx(sum(map(len, day)) / len(day), rel=0.1)
    assert headlines(3000) == (origin, found), "the same seed gives the same headlines"


def test_real_headlines_are_taken_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sentfin").mkdir()
    (tmp_path / "sentfin" / "SEntFiN.csv").write_text("S No.,Title\n1,Oil slips\n2,Oil slips\n3,Gold  up 2%\n")
    monkeypatch.setenv("MONITOR_DATA", str(tmp_path))
    origin, found = headlines(2)
    assert (origin, sorted(found)) == ("SEntFiN", ["Gold up 2%", "Oil slips"])


def test_a_varied_headline_keeps_its_shape() -> None:
    varied = vary("Oil falls 12% as Norvale cuts 900 jobs", random.Random(3))
    words = varied.split()
    assert [word for word in words if word.islower() and word.isalpha()] == ["falls", "as", "cuts", "jobs"]
    assert varied != "Oil falls 12% as Norvale cuts 900 jobs"


def test_memory_counts_children_and_ends_with_the_process(tmp_path: Path) -> None:
    child = "import sys; held = bytearray(96 << 20); print('held', flush=True); sys.stdin.read()"
    # The child ends with its parent, whose end closes the pipe that it reads.
    parent = (
        "import subprocess, sys, time\n"
        f"held = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
        "time.sleep(600)"
    )
    log = tmp_path / "log"
    process = Process([sys.executable, "-c", parent], log)
    try:
        until(lambda: "held" in log.read_text())
        assert resident_bytes(process.pid) > 96 << 20
    finally:
        process.stop()
    assert resident_bytes(process.pid) == 0


def test_without_kafka_the_rest_is_measured_and_a_line_says_how_to_enable_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    app = Typer()
    app.command()(benchmark.main)
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["--rounds", "1", "--items", "16", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert (
        "(d) NOT MEASURED against a real Kafka: there is no java on PATH. To enable: `make services`" in done.stderr
    )
    assert "not measured  (d) to (c)" in done.stdout
    written = json.loads(file.read_text())
    assert list(written["ways"]) == [ONE_BY_ONE, BATCHED, TORCH, ONNX, INT8]
    assert min(way["items_a_second"] for way in written["ways"].values()) > 0
    assert written["not_measured"] == "there is no java on PATH"
    assert len(written["bars"]) == 6


def _refuse(record: object, error: Exception) -> None:
    raise error
