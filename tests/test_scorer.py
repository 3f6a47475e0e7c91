import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from monitor.config import ModelSettings
from monitor.model import backends, checkpoint, quantize
from monitor.model.backends import Backend, adds_in_32_bits, bucket, torch_run
from monitor.model.checkpoint import CheckpointError
from monitor.model.scorer import Scorer, ScorerError, open_scorer
from monitor.records import SENTIMENTS, MonitorError, NewsItem
from tests import tiny_model
from tests.support import until

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
VARIED = [
    "Shares of Halden Bank plunge 31% as depositors pull $4.2bn in a day",
    "Fed holds rates",
    "",
    "https://example.com/only-a-link",
    "$ACME - Acme Robotics beats on EPS by $0.12, revenue in-line &amp; raises outlook https://t.co/abc",
    "OPEC+ agrees to cut output by 1.2 million barrels a day; Brent jumps past $90",
    "Löwenbräu: Gewinn steigt überraschend — Aktie +7 %",
    "中国央行下调存款准备金率 0.5 个百分点",
    "\u202eRTL \u200b zero width \t and \x01 control 🚀🚀🚀",
    "x" * 900,
    "a " * 900,
    "Verdant Foods names Maria Okoye chief executive. " * 40,
]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    """One for the session: exporting the shipped model takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shipped(cache_dir) -> dict[str, Scorer]:
    return {
        name: open_scorer(
            ModelSettings(backend=backend, precision=precision, device="cpu", cache_dir=cache_dir, cache_items=0)
        )
        for name, backend, precision in (
            ("torch", "torch", "auto"),
            ("onnx", "onnx", "fp32"),
            ("int8", "onnx", "auto"),
        )
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> checkpoint.Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    encoder = tiny_model.write_encoder(folder / "encoder")
    tiny_model.write_checkpoint(folder / "model", tiny_model.network(encoder), encoder)
    return checkpoint.read(folder / "model")


def item(title: str, body: str | None = None) -> NewsItem:
    return NewsItem(id="1", title=title, published_at=NOON, body=body)


class Recorded:
    """A network whose logits are sums over the tokens, and the shapes of the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def __call__(self, input_ids, attention_mask):
        self.batches.append(input_ids.shape)
        sums = (input_ids * attention_mask).sum(1, keepdims=True).astype(np.float32) / 100
        return lambda: {"topic": sums * [[1, 2, 3]], "sentiment": sums * [[3, 1, 2]]}

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.batches)


def recorded_scorer(tiny, batch_tokens: int = 512, cache_items: int = 100, **shapes) -> tuple[Scorer, Recorded]:
    network = Recorded()
    return Scorer(tiny, Backend("recorded", network, batch_tokens, **shapes), cache_items), network


@pytest.mark.parametrize("backend", ["torch", "onnx", "int8"])
def test_every_item_gets_its_probabilities_in_the_order_given(shipped, backend):
    scorer = shipped[backend]
    items = [item(title) for title in VARIED]

    scored = scorer.score(items)

    assert [answer.item for answer in scored] == items
    for answer in scored:
        assert tuple(answer.topic_probs) == scorer.topics
        assert tuple(answer.sentiment_probs) == scorer.sentiments == SENTIMENTS
        assert sum(answer.topic_probs.values()) == pytest.approx(1, abs=1e-5)
        assert sum(answer.sentiment_probs.values()) == pytest.approx(1, abs=1e-5)
        assert answer.topic == max(answer.topic_probs, key=answer.topic_probs.__getitem__)
        assert answer.sentiment == max(answer.sentiment_probs, key=answer.sentiment_probs.__getitem__)
        assert answer.model == scorer.version == checkpoint.read("default").info.version


@pytest.mark.parametrize("size", [1, 2, 7, 200])
def test_both_backends_agree_whatever_the_batch(shipped, size):
    texts = [VARIED[row % len(VARIED)] + f" {row}" * (row % 5) for row in range(size)]

    torch_probs, onnx_probs = (shipped[backend].predict(texts) for backend in ("torch", "onnx"))

    for task in ("topic", "sentiment"):
        np.testing.assert_allclose(torch_probs[task], onnx_probs[task], atol=1e-3)


@pytest.mark.parametrize("backend", ["torch", "onnx", "int8"])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(shipped, backend):
    together = shipped[backend].predict(VARIED * 3)

    for row, text in enumerate(VARIED):
        alone = shipped[backend].predict([text])
        for task in ("topic", "sentiment"):
            np.testing.assert_allclose(together[task][row], alone[task][0], atol=1e-5)


def test_plain_headlines_are_named_as_a_reader_would(shipped):
    expected = {
        "Fed raises interest rates by a quarter point": ("Fed | Central Banks", None),
        "Oil prices jump as OPEC cuts output": ("Energy | Oil", None),
        "Marlowe Industries declares quarterly dividend of $0.34 a share": ("Dividend", "neutral"),
        "Halden Bank shares plunge after bank warns of heavy losses": (None, "negative"),
        "Orion Software stock soars to record high on strong results": (None, "positive"),
    }
    for answer in shipped["int8"].score([item(title) for title in expected]):
        topic, sentiment = expected[answer.item.title]
        assert answer.topic == (topic or answer.topic), answer.item.title
        assert answer.sentiment == (sentiment or answer.sentiment), answer.item.title


def test_a_scorer_says_what_runs_it(shipped):
    assert {name: scorer.backend for name, scorer in shipped.items()} == {
        "torch": "torch cpu fp32",
        "onnx": "onnx cpu fp32",
        "int8": f"onnx cpu {'int8' if adds_in_32_bits() else 'int7'}",
    }


def test_integers_decide_as_the_full_digits_do(shipped):
    texts = [text for text in VARIED if text]

    for task in ("topic", "sentiment"):
        full, integers = (shipped[name].predict(texts)[task] for name in ("onnx", "int8"))
        assert np.abs(full - integers).max() < 0.15
        assert (full.argmax(1) == integers.argmax(1)).mean() >= 0.8
        assert np.abs(full - integers).max() > 1e-5  # they are not the same arithmetic


def test_probabilities_are_those_of_logits_divided_by_the_tasks_temperature(tiny):
    hot = dataclasses.replace(tiny, info=dataclasses.replace(tiny.info, temperatures={"topic": 4.0}))
    cold_probs, hot_probs = (
        Scorer(each, Backend("recorded", Recorded(), 64), 0).predict(["bank cuts"]) for each in (tiny, hot)
    )

    logits = np.log(cold_probs["topic"]) / 4
    np.testing.assert_allclose(hot_probs["topic"], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    np.testing.assert_array_equal(hot_probs["sentiment"], cold_probs["sentiment"])


def test_texts_that_the_model_does_not_read_to_their_end_are_counted(tiny):
    scorer, _ = recorded_scorer(tiny)

    scorer.predict(["bank " * 46, "bank " * 47, "oil", "bank " * 47])  # with its two ends, 48 tokens are read

    assert scorer.cut_items == 1  # the repeat was not run


# -- what suits a GPU, run on the CPU


def test_on_a_gpu_batches_come_in_few_shapes(tiny):
    scorer, network = recorded_scorer(tiny, batch_tokens=64, lengths=(8, 16, 32, 48))
    texts = [f"{'bank ' * words} {'abc' * (row % 3)}" for row, words in enumerate([1, 2, 9, 12, 20, 28, 3, 5] * 9)]

    probs = scorer.predict(texts)

    assert set(network.batches) <= {(8, 8), (4, 16), (2, 32), (1, 48)}
    plain, _ = recorded_scorer(tiny)
    np.testing.assert_array_equal(probs["topic"], plain.predict(texts)["topic"])


@pytest.mark.parametrize(("length", "padded"), [(1, 8), (8, 8), (9, 16), (33, 33)])
def test_a_length_is_padded_to_the_next_of_the_lengths(length, padded):
    assert bucket(length, (8, 16, 32)) == padded
    assert bucket(length, ()) == length


def test_on_a_gpu_a_few_texts_do_not_fill_a_whole_batch(tiny):
    scorer, network = recorded_scorer(tiny, batch_tokens=256, lengths=(8, 16), rows=(2, 8))
    for texts in (["bank"], ["bank", "oil"], ["bank", "oil", "gold"], [f"bank {letter}" for letter in "abcdefghi"]):
        network.batches.clear()
        scorer.predict([f"{text} {len(texts)}" for text in texts])
        assert network.batches == [({1: 2, 2: 2, 3: 8, 9: 32}[len(texts)], 8)]


def test_texts_tokenised_ahead_are_answered_in_their_order(tiny, monkeypatch):
    monkeypatch.setattr("monitor.model.scorer._CHUNK", 3)
    texts = [f"{'bank ' * (row % 4)} {'abcdefghij'[row % 10]}{'klm'[row % 3]}" for row in range(20)]
    ahead, _ = recorded_scorer(tiny, ahead=1)
    plain, _ = recorded_scorer(tiny)

    np.testing.assert_array_equal(ahead.predict(texts)["topic"], plain.predict(texts)["topic"])


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_batches_are_under_way_than_the_backend_can_have(tiny, ahead):
    network = Recorded()
    under_way, most = 0, 0

    def run(*inputs):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        answer = network(*inputs)

        def wait():
            nonlocal under_way
            under_way -= 1
            return answer()

        return wait

    texts = [f"{'bank ' * (row % 7)} {'abcdefghij'[row % 10]}{'klm'[row % 3]}" for row in range(40)]
    probs = Scorer(tiny, Backend("recorded", run, 16, ahead=ahead), 0).predict(texts)

    assert (under_way, most) == (0, ahead + 1)
    np.testing.assert_array_equal(probs["topic"], recorded_scorer(tiny)[0].predict(texts)["topic"])


def test_the_gpu_path_in_bf16_with_filled_batches_decides_as_fp32_does(tiny):
    run = torch_run(checkpoint.load_network(tiny), "cpu", bf16=True, compiled=False)
    scorer = Scorer(tiny, Backend("bf16", run, 64, (8, 16, 32, 48), ahead=1), 0)
    exact = open_scorer(ModelSettings(path=str(tiny.folder), backend="torch", device="cpu", cache_items=0))
    texts = ["bank cuts rates", "oil", "", "gold deal talks " * 9, "stock rises on strong earnings"]

    for task, probs in scorer.predict(texts).items():
        np.testing.assert_allclose(probs, exact.predict(texts)[task], atol=0.02)


def test_a_compiled_network_answers_like_the_plain_one(tiny):
    import torch

    network = checkpoint.load_network(tiny)
    compiled = torch.compile(network, backend="eager", dynamic=False)
    ids, mask = np.array([[2, 5, 9, 3]]), np.ones((1, 4), np.int64)

    plain = torch_run(network, "cpu", bf16=False, compiled=False)(ids, mask)()
    again = torch_run(compiled, "cpu", bf16=False, compiled=False)(ids, mask)()

    for task, logits in plain.items():
        np.testing.assert_allclose(again[task], logits, atol=1e-5)


def test_a_network_is_compiled_for_all_shapes_and_not_for_each(tiny, monkeypatch):
    import torch
    from torch._dynamo.testing import CompileCounter

    counter, compile_of = CompileCounter(), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(
        torch, "compile", lambda network, **options: compile_of(network, backend=counter, dynamic=options["dynamic"])
    )
    run = torch_run(checkpoint.load_network(tiny), "cpu", bf16=False, compiled=True)
    for length in (8, 16, 24, 32, 40):
        for rows in (2, 8, 64):
            ids = np.full((rows, length), 5)
            run(ids, np.ones_like(ids))()

    assert 1 <= counter.frame_count <= 2


def test_a_batch_that_fails_raises_and_the_next_call_is_answered(tiny):
    answers = Recorded()
    broken = True

    def run(*inputs):
        def wait():
            if broken:
                raise RuntimeError("out of memory")
            return answer()

        answer = answers(*inputs)
        return wait

    scorer = Scorer(tiny, Backend("recorded", run, 8, ahead=2), 10)
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer.predict(["bank", "oil", "gold"])
    broken = False
    expected = recorded_scorer(tiny)[0].predict(["bank", "oil"])
    np.testing.assert_array_equal(scorer.predict(["bank", "oil"])["topic"], expected["topic"])


def test_a_processor_that_adds_in_16_bits_is_found_out(monkeypatch):
    class Overflowing:
        def __init__(self, *_, **__) -> None:
            pass

        def run(self, _, inputs):
            return [np.full((16, 16), 32767 * inputs["rows"].shape[1] // 2, np.int32)]

    monkeypatch.setattr("onnxruntime.InferenceSession", Overflowing)

    assert backends.adds_in_32_bits() is False


@pytest.mark.parametrize("error", [CheckpointError, ScorerError])
def test_its_errors_are_shown_to_users_as_the_monitors_own(error):
    assert issubclass(error, MonitorError)


def test_no_items_give_no_answers(tiny):
    scorer, network = recorded_scorer(tiny)

    assert scorer.score([]) == []
    assert network.batches == []


def test_an_exact_repeat_within_a_call_is_run_once_and_counted(tiny):
    scorer, network = recorded_scorer(tiny)

    probs = scorer.predict(["bank cuts", "oil", "bank cuts", "bank   cuts https://t.co/1", "bank cuts"])

    assert network.rows == 2
    assert scorer.cache_hits == 3
    assert {tuple(probs["topic"][row]) for row in (0, 2, 3, 4)} == {tuple(probs["topic"][0])}
    assert tuple(probs["topic"][1]) != tuple(probs["topic"][0])


def test_a_repeat_in_a_later_call_gets_the_very_same_answer_without_a_run(tiny):
    scorer, network = recorded_scorer(tiny)
    first = scorer.predict(["bank cuts", "oil"])

    again = scorer.predict(["oil", "bank cuts"])

    assert network.rows == 2
    assert scorer.cache_hits == 2
    for task in ("topic", "sentiment"):
        assert np.array_equal(first[task], again[task][::-1])


def test_the_text_that_was_not_seen_for_longest_is_forgotten_first(tiny):
    scorer, network = recorded_scorer(tiny, cache_items=2)
    for text in ("bank", "oil", "bank", "gold"):  # gold pushes oil out
        scorer.predict([text])
    assert network.rows == 3

    scorer.predict(["bank", "gold"])
    assert network.rows == 3
    scorer.predict(["oil"])
    assert network.rows == 4


def test_without_a_cache_repeats_within_a_call_are_still_run_once(tiny):
    scorer, network = recorded_scorer(tiny, cache_items=0)

    for _ in range(2):
        scorer.predict(["bank", "bank"])

    assert network.rows == 2
    assert scorer.cache_hits == 2


class Held(Recorded):
    """Answers once it is let go; `waiting` is set when the first batch was handed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.let_go = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def __call__(self, input_ids, attention_mask):
        answer = super().__call__(input_ids, attention_mask)
        self.waiting.set()

        def held():
            assert self.let_go.wait(60)
            if self.error is not None:
                raise self.error
            return answer()

        return held


def held_calls(tiny, pool, first: list[str], second: list[str]) -> tuple[Scorer, Held, list]:
    """Two calls: the second begins while the first one's texts are being run."""
    network = Held()
    scorer = Scorer(tiny, Backend("held", network, 512, calls=2), 100)
    calls = [pool.submit(scorer.predict, first)]
    assert network.waiting.wait(60)
    before = len(network.batches)
    calls.append(pool.submit(scorer.predict, second))
    until(lambda: len(network.batches) > before)
    return scorer, network, calls


def test_a_text_that_another_call_is_running_is_waited_for_and_not_run_again(tiny):
    with ThreadPoolExecutor(2) as pool:
        scorer, network, calls = held_calls(tiny, pool, ["bank cuts", "oil"], ["gold", "oil", "bank cuts"])
        network.let_go.set()
        first, second = (call.result(60) for call in calls)

    assert network.rows == 3
    assert scorer.cache_hits == 2
    assert np.array_equal(first["topic"], second["topic"][[2, 1]])


def test_a_call_fails_with_the_one_that_runs_its_texts_and_the_next_runs_them_anew(tiny):
    with ThreadPoolExecutor(2) as pool:
        scorer, network, calls = held_calls(tiny, pool, ["bank cuts"], ["gold", "bank cuts"])
        network.error = RuntimeError("out of memory")
        network.let_go.set()
        for call in calls:
            with pytest.raises(RuntimeError, match="out of memory"):
                call.result(60)
    network.error = None

    assert scorer.predict(["bank cuts"])["topic"].shape == (1, 3)


def test_calls_side_by_side_answer_as_one_after_the_other(shipped):
    texts = [f"{title} {number}" for number in range(20) for title in VARIED]
    alone = shipped["int8"].predict(texts)
    with ThreadPoolExecutor(shipped["int8"].at_once) as pool:
        parts = list(pool.map(shipped["int8"].predict, [texts[:120], texts[60:180], texts[120:]]))

    assert shipped["int8"].at_once == 2
    together = np.concatenate([parts[0]["topic"], parts[1]["topic"][60:], parts[2]["topic"][60:]])
    np.testing.assert_allclose(together, alone["topic"], atol=1e-5)


def test_batches_keep_to_the_token_budget_and_pad_little(tiny):
    scorer, network = recorded_scorer(tiny, batch_tokens=64)
    texts = ["bank " * words + f"b {'c' * row}" for row, words in enumerate([1, 30, 2, 40, 1, 3, 28, 2] * 4)]

    scorer.predict(texts)

    assert network.rows == len(texts)
    assert all(rows * tokens <= 64 for rows, tokens in network.batches)
    assert len(network.batches) < len(texts)
    assert [tokens for _, tokens in network.batches] == sorted(tokens for _, tokens in network.batches)


def test_a_text_longer_than_the_budget_is_run_alone(tiny):
    scorer, network = recorded_scorer(tiny, batch_tokens=4)

    scorer.predict(["bank " * 30, "oil", "bank " * 20])

    assert [rows for rows, _ in network.batches] == [1, 1, 1]


def test_of_a_long_item_the_title_and_the_start_of_the_body_are_read(shipped):
    body = "The regulator closed the lender on Friday after customers withdrew their deposits. " * 20
    short, long, untitled = shipped["onnx"].score(
        [
            item("Halden Bank fails", body),
            item("Halden Bank fails", body + "Sunny weather. " * 2000),
            item("Oil", body),
        ]
    )

    assert long.sentiment_probs == short.sentiment_probs
    assert untitled.topic_probs != short.topic_probs


def test_a_model_with_other_tasks_is_refused(tiny, tmp_path):
    for tasks in (
        {"topic": ("a", "b")},
        {"topic": ("a", "b"), "sentiment": ("bad", "good")},
        {"sentiment": SENTIMENTS},
    ):
        other = dataclasses.replace(tiny, info=dataclasses.replace(tiny.info, tasks=tasks))
        folder = tmp_path / "-".join(tasks)
        shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
        checkpoint.write_info(folder, other.info)
        with pytest.raises(CheckpointError, match="the monitor needs a task 'topic', and a task 'sentiment' with"):
            open_scorer(ModelSettings(path=str(folder)))


# -- the exported file


def settings(tiny, cache_dir: Path, **changes) -> ModelSettings:
    return ModelSettings(path=str(tiny.folder), backend="onnx", cache_dir=cache_dir, **changes)


def test_a_model_that_runs_in_its_caller_starts_no_thread_and_answers_as_one_on_every_core_does(tiny, tmp_path):
    every_core = open_scorer(settings(tiny, tmp_path))
    expected, before = every_core.predict(VARIED), threading.active_count()
    in_caller = open_scorer(settings(tiny, tmp_path), in_caller=True)
    answers = in_caller.predict(VARIED)
    assert (threading.active_count(), in_caller.at_once) == (before, 1)
    for task, probs in expected.items():
        np.testing.assert_allclose(answers[task], probs, atol=1e-6)


def test_a_model_is_exported_once_and_then_found_again(tiny, tmp_path):
    told: list[str] = []
    first = open_scorer(settings(tiny, tmp_path), told.append)
    assert told == [f"exporting model {tiny.info.version} in fp32 to {tmp_path}, once"]
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns

    again = open_scorer(settings(tiny, tmp_path), told.append)

    assert len(told) == 1
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [written]
    assert tiny.fingerprint in file.name
    np.testing.assert_array_equal(first.predict(["bank cuts"])["topic"], again.predict(["bank cuts"])["topic"])


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_broken_exported_file_is_replaced(tiny, tmp_path, damage):
    right = open_scorer(settings(tiny, tmp_path)).predict(["bank cuts rates"])
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"truncated": content[:100], "one bit": content, "empty": b""}[damage])
    told: list[str] = []

    repaired = open_scorer(settings(tiny, tmp_path), told.append).predict(["bank cuts rates"])

    assert told[0] == f"{file} is broken and will be replaced"
    np.testing.assert_allclose(repaired["topic"], right["topic"], atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_changed_model_is_exported_anew_and_not_mixed_up_with_the_old_one(tiny, tmp_path):
    changed = tmp_path / "changed"
    tiny_model.write_checkpoint(changed, tiny_model.network(tiny.encoder_folder, seed=9), tiny.encoder_folder)
    cache = tmp_path / "cache"
    old = open_scorer(settings(tiny, cache))

    new = open_scorer(dataclasses.replace(settings(tiny, cache), path=str(changed)))

    assert len(list(cache.iterdir())) == 2
    assert old.version != new.version
    torch_scorer = open_scorer(ModelSettings(path=str(changed), backend="torch", device="cpu"))
    np.testing.assert_allclose(new.predict(["oil"])["topic"], torch_scorer.predict(["oil"])["topic"], atol=1e-3)
    assert np.abs(new.predict(["oil"])["topic"] - old.predict(["oil"])["topic"]).max() > 1e-3


PROCESS = """
import json, sys
from pathlib import Path
from monitor.config import ModelSettings
from monitor.model.scorer import open_scorer
scorer = open_scorer(ModelSettings(path=sys.argv[1], backend="auto", device="cpu", cache_dir=Path(sys.argv[2])))
probs = scorer.predict(["bank cuts rates"])["topic"].tolist()
loaded = [name for name in ("torch", "transformers", "peft", "pandas", "sklearn", "pipelines") if name in sys.modules]
print(json.dumps([probs, loaded]))
"""


def process(tiny, cache_dir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(tiny.folder), str(cache_dir)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1], env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def test_processes_that_export_at_the_same_time_do_not_disturb_each_other(tiny, tmp_path):
    running = [process(tiny, tmp_path) for _ in range(2)]
    outputs = [each.communicate(timeout=300)[0] for each in running]

    assert [each.returncode for each in running] == [0, 0]
    first, second = (json.loads(output)[0] for output in outputs)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert all(path.suffix == ".onnx" for path in tmp_path.iterdir())


def test_an_exported_model_starts_without_importing_what_trains_models(tiny, tmp_path):
    open_scorer(settings(tiny, tmp_path))

    output, _ = process(tiny, tmp_path).communicate(timeout=300)

    assert json.loads(output)[1] == []


def test_a_models_precisions_are_exported_side_by_side(tmp_path):
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    tiny_model.write_checkpoint(tmp_path / "model", tiny_model.network(encoder), encoder)
    saved = checkpoint.read(tmp_path / "model")
    ranges = quantize.observe(checkpoint.load_network(saved), saved, ["bank cuts rates", "oil"])
    checkpoint.add_ranges(saved, ranges)
    cache = tmp_path / "cache"

    for precision in ("fp32", "int8", "auto"):
        open_scorer(settings(saved, cache, precision=precision))

    kinds = sorted(path.name.split("-v")[0].rpartition("-")[2] for path in cache.iterdir())
    assert kinds == ["fp32", "int8" if adds_in_32_bits() else "int7"]


# -- what the settings ask for


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("onnx", "bf16", r"model\.precision: 'bf16' needs backend `torch`; ONNX Runtime runs `fp32` and `int8`"),
        ("torch", "int8", r"model\.precision: 'int8' needs backend `onnx`; torch runs `fp32` and `bf16`"),
        ("onnx", "int8", r"model\.precision: 'int8', but .* holds no ranges of activations; set `auto` or `fp32`"),
    ],
)
def test_a_precision_that_is_not_to_be_had_is_named_with_what_is(tiny, tmp_path, backend, precision, message):
    chosen = ModelSettings(
        path=str(tiny.folder), backend=backend, precision=precision, device="cpu", cache_dir=tmp_path
    )
    with pytest.raises(ScorerError, match=message):
        open_scorer(chosen)


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("onnx", "cuda", r"model\.device: 'cuda' with backend 'onnx', which runs on the CPU"),
        ("torch", "tpu", r"model\.device: 'tpu' is none of `auto`, `cpu`, `cuda` and `cuda:N`"),
        ("torch", "cuda:x", r"'cuda:x' is none of"),
        ("auto", "cuda:99", r"'cuda:99', but torch sees \d+ CUDA devices; set `auto` or `cpu`"),
    ],
)
def test_a_device_that_is_not_to_be_had_is_named_with_what_is(tiny, tmp_path, backend, device, message):
    with pytest.raises(ScorerError, match=message):
        open_scorer(ModelSettings(path=str(tiny.folder), backend=backend, device=device, cache_dir=tmp_path))


def test_a_cache_folder_that_cannot_be_written_is_named_with_its_setting(tiny, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ScorerError, match=r"model\.cache_dir: .*file cannot be written .*; set model\.cache_dir"):
        open_scorer(settings(tiny, tmp_path / "file"))


def test_the_shipped_model_keeps_its_bars_on_the_validation_sets(cache_dir):
    from pipelines import dataset

    folder = dataset.default_folder()
    if not (folder / "tfn-topic").is_dir():
        pytest.skip(f"the public sets are not in {folder}; name their folder with MONITOR_DATA")
    data = dataset.load(folder, seed=0)
    scorer = open_scorer(ModelSettings(backend="onnx", cache_dir=cache_dir))  # in integers, as it is shipped

    for task, bar in (("topic", 0.88), ("sentiment", 0.88)):
        rows = data.validation[task]
        accuracy = (scorer.predict(rows["text"].tolist())[task].argmax(1) == rows[task]).mean()
        assert accuracy >= bar, task
        stated = checkpoint.read("default").info.metrics[f"validation_{task}"]["accuracy"]
        assert accuracy == pytest.approx(stated, abs=1e-3)
