import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from monitor.config import ModelSettings
from monitor.model import checkpoint
from monitor.model.scorer import open_scorer
from monitor.records import SENTIMENTS
from pipelines import calibration, dataset, evaluate, pictures, report, robustness
from pipelines.dataset import Dataset, DatasetError
from pipelines.evaluate import EvaluationError, Options
from pipelines.perturbations import KINDS
from pipelines.probes import TRANSLATIONS
from tests import tiny_model
from tests.test_baselines import runs

TOPICS = tiny_model.TASKS["topic"]
_TFN = ("negative", "positive", "neutral")


def write_data(folder: Path) -> Path:
    """The public sets' files with a few rows of the tiny model's words; some begin with a ticker, some repeat."""
    rng = np.random.default_rng(4)
    for name in ("tfn-topic", "tfn-sentiment", "sentfin"):
        (folder / name).mkdir(parents=True)
    (folder / "tfn-topic" / "classes.txt").write_text("\n".join(TOPICS) + "\n")

    def rows(count: int, mark: str) -> pd.DataFrame:
        texts = [
            f"{'$CO - ' if row % 3 == 0 else ''}{' '.join(rng.choice(tiny_model.WORDS, 4))} {mark} {row}"
            + (" #oil" if row % 5 == 0 else "")
            for row in range(count)
        ]
        return pd.DataFrame({"text": texts, "label": rng.integers(0, 3, count)})

    for part, count in (("train", 120), ("valid", 60)):
        topic, sentiment = rows(count, f"t{part}"), rows(count, f"s{part}")
        if part == "valid":
            topic.loc[len(topic)] = topic.loc[0]
        topic.to_csv(folder / "tfn-topic" / f"topic_{part}.csv", index=False)
        sentiment.to_csv(folder / "tfn-sentiment" / f"sent_{part}.csv", index=False)
    headlines = rows(90, "h")
    pd.DataFrame(
        {
            "Title": headlines["text"],
            "Decisions": [str({"Alba": _TFN[label], "Borea": _TFN[label]}) for label in headlines["label"]],
        }
    ).to_csv(folder / "sentfin" / "SEntFiN.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_model.write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(encoder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model.write_checkpoint(path, tiny_model.network(encoder), encoder)
    return path


@pytest.fixture(scope="module")
def options(model, tmp_path_factory) -> Options:
    return Options(
        model=str(model), backend="onnx", cache_dir=tmp_path_factory.mktemp("cache"), resamples=1_000, sample=20
    )


@pytest.fixture(scope="module")
def found(folder, options) -> dict[str, Any]:
    return evaluate.evaluate(folder, options)


@pytest.fixture(scope="module")
def written(found, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    evaluate.write(folder, found)
    return folder


@pytest.fixture(scope="module")
def served(folder, options) -> dict[str, tuple[pd.DataFrame, np.ndarray]]:
    """By task, the validation rows and the probabilities that the scorer gives for them."""
    scorer = open_scorer(ModelSettings(path=options.model, backend="onnx", cache_dir=options.cache_dir))
    data = dataset.load(folder, seed=20)
    return {task: (rows, scorer.predict(rows["text"].tolist())[task]) for task, rows in data.validation.items()}


def test_scores_are_those_of_the_scorer_on_every_validation_row(found, served):
    for task, (rows, probs) in served.items():
        wanted, given = rows[task].to_numpy(), probs.argmax(axis=1)
        section = found["tasks"][task]
        assert section["rows"] == len(rows) == np.sum(section["confusion"])
        assert section["accuracy"]["value"] == pytest.approx(accuracy_score(wanted, given), abs=1e-6)
        assert section["macro_f1"]["value"] == pytest.approx(f1_score(wanted, given, average="macro"), abs=1e-6)
        assert section["accuracy"]["low"] < section["accuracy"]["value"] < section["accuracy"]["high"]
        assert sum(row["rows"] for row in section["by_label"].values()) == len(rows)
    assert found["tasks"]["topic"]["each_text_once"]["rows"] == 60
    assert found["data"]["validation"]["topic"] == {"rows": 61, "texts": 60}


def test_what_the_monitor_counts_as_negative_is_told_with_its_precision_and_recall(found, served):
    counted = found["tasks"]["sentiment"]["negative"]
    rows, probs = served["sentiment"]
    wanted, given = rows["sentiment"].to_numpy() == 0, probs[:, 0] >= counted["from"]
    for kind, of in (("precision", given), ("recall", wanted)):
        expected = (wanted & given).sum() / of.sum() if of.any() else None
        told = counted["validation"][kind]
        assert (told and told["value"]) == (expected and pytest.approx(expected, abs=1e-6))
    assert "negative" not in found["tasks"]["topic"]


def test_a_model_without_temperatures_serves_what_is_measured_before_scaling(found, served):
    for task, (rows, probs) in served.items():
        section = found["tasks"][task]
        assert section["temperature"]["served"] == 1
        before, after = section["before"], section["after"]
        wanted = rows[task].to_numpy()
        assert before["calibration_error"]["value"] == pytest.approx(
            calibration.expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == wanted), abs=1e-5
        )
        scaled = calibration.with_temperature(probs, section["temperature"]["fitted_here"])
        assert after["negative_log_likelihood"] == pytest.approx(
            calibration.negative_log_likelihood(scaled, wanted), abs=1e-4
        )
        hotter = section["temperature"]["fitted_here"] > 1
        assert (after["mean_confidence"] < before["mean_confidence"]) == hotter
    assert "carries no temperature (1), so what it serves is" in report.render(found)


@pytest.fixture(scope="module")
def learned(folder, options) -> tuple[Dataset, Any]:
    """The data with development labels that the model gets right three times in four, and its scorer."""
    scorer = open_scorer(ModelSettings(path=options.model, backend="onnx", cache_dir=options.cache_dir))
    data = dataset.load(folder, seed=20)
    rows = data.development.copy()
    for task, probs in scorer.predict(rows["text"].tolist()).items():
        said = np.where(np.arange(len(rows)) % 4 > 0, probs.argmax(axis=1), 0)
        rows[task] = np.where(rows[task].ge(0), said, rows[task])
    return replace(data, development=rows), scorer


def test_a_stored_temperature_is_taken_away_for_what_is_measured_before_scaling(found, learned, options):
    data, scorer = learned
    stored = {"topic": 1.6, "sentiment": 1.0}

    def predict(texts, _):  # as a scorer does whose model carries these temperatures
        plain = scorer.predict(texts)
        return {task: calibration.with_temperature(plain[task], stored[task]) for task in plain}

    answers = {task: predict(rows["text"].tolist(), "")[task] for task, rows in data.validation.items()}
    scaled = evaluate._tasks(predict, stored, data, answers, options)["topic"]

    plain = found["tasks"]["topic"]
    assert scaled["temperature"]["served"] == 1.6
    assert scaled["before"]["mean_confidence"] == pytest.approx(plain["before"]["mean_confidence"], abs=1e-4)
    assert scaled["after"]["mean_confidence"] == pytest.approx(answers["topic"].max(axis=1).mean(), abs=1e-6)
    document = report.render({**found, "tasks": {**found["tasks"], "topic": scaled}})
    assert 'Topic: the model carries temperature 1.600, so what it serves is "after"' in document


@pytest.mark.parametrize("stored", [1.0, 1.6])
def test_the_temperature_is_fitted_on_the_development_rows_that_carry_the_label(learned, options, stored):
    data, scorer = learned
    rows = data.development[data.development["topic"].ge(0)]
    expected = calibration.fit_temperature(np.log(scorer.predict(rows["text"].tolist())["topic"]), rows["topic"])

    def predict(texts, _):
        return {task: calibration.with_temperature(probs, stored) for task, probs in scorer.predict(texts).items()}

    answers = {task: predict(table["text"].tolist(), "")[task] for task, table in data.validation.items()}
    found = evaluate._tasks(predict, dict.fromkeys(answers, stored), data, answers, options)["topic"]["temperature"]

    assert 0.06 < expected < 15, "at a bound every set of rows gives the same"
    assert found["development_rows"] == len(rows) < len(data.development)
    assert found["fitted_here"] == pytest.approx(expected, rel=1e-3)


def test_two_precisions_are_compared_row_by_row():
    served = np.array([[0.6, 0.4], [0.3, 0.7], [0.55, 0.45], [0.2, 0.8]])
    exact = np.array([[0.7, 0.3], [0.3, 0.7], [0.45, 0.55], [0.1, 0.9]])

    found = evaluate._beside(served, exact, np.array([0, 1, 1, 0]))

    assert found["served"]["accuracy"] == 0.5
    assert found["fp32"]["accuracy"] == 0.75
    assert found["served"]["macro_f1"] == pytest.approx(0.5)
    assert found["fp32"]["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert found["equal_decisions"] == 0.75
    assert found["largest_difference"] == pytest.approx(0.1)


def test_other_languages_are_counted_together_and_one_by_one():
    def predict(texts, _):
        """Right in English and German, neutral in every other language."""
        known = {text: line.sentiment for line in TRANSLATIONS for text in (line.english, line.others["de"])}
        said = [SENTIMENTS.index(known.get(text, "neutral")) for text in texts]
        return {"sentiment": np.eye(3)[said]}

    found = robustness._languages(predict, SENTIMENTS)

    neutral = sum(headline.sentiment == "neutral" for headline in TRANSLATIONS)
    every, others = len(TRANSLATIONS), len(TRANSLATIONS[0].others)
    assert found["de"]["as_english"]["value"] == found["en"]["right"]["value"] == 1
    assert found["fr"]["as_english"]["value"] == found["fr"]["right"]["value"] == neutral / every
    assert found["others"]["as_english"]["value"] == (every + (others - 1) * neutral) / (others * every)
    assert found["others"]["right"]["value"] == found["others"]["as_english"]["value"]


def test_what_is_served_stands_beside_fp32(found):
    precision = found["precision"]

    assert precision["backend"].startswith("onnx cpu")
    assert precision["reference"].startswith("torch cpu")
    for task, section in precision["tasks"].items():
        assert section["served"]["accuracy"] == found["tasks"][task]["accuracy"]["value"]
        assert 0 <= section["largest_difference"] < 0.5
        assert 0.5 < section["equal_decisions"] <= 1


def test_fp32_is_not_measured_against_itself(folder, options):
    found = evaluate.evaluate(folder, replace(options, backend="torch", sample=1))

    assert found["precision"] is None
    assert "What was measured runs in fp32 itself." in report.render(found)


def trained_on(model: Path, target: Path, data: dict[str, str]) -> str:
    """A copy of the model that says it was trained on this data."""
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    info = checkpoint.read(model).info
    checkpoint.write_info(target, replace(info, training={"options": {"seed": 20}, "data_sha256": data}))
    return str(target)


def test_headlines_are_out_of_domain_for_a_model_that_never_saw_their_set(found):
    assert not found["headlines"]["titles_in_training"]
    assert found["headlines"]["titles"] == 90
    assert "**out of domain**" in report.render(found)
    assert "The sets are not the ones that the model was trained with" in report.render(found)


def test_a_model_that_learned_from_headlines_is_measured_on_those_of_its_development_split(
    folder, options, model, tmp_path
):
    data = dataset.load(folder, seed=20)
    path = trained_on(model, tmp_path / "model", dict(data.sha256))

    found = evaluate.evaluate(folder, replace(options, model=path, sample=1))

    own = data.development["text"].str.contains(" h ")
    assert found["headlines"]["titles_in_training"]
    assert found["headlines"]["titles"] == own.sum() == 9
    assert found["headlines"]["slices"][0]["rows"] == 9
    assert found["data"]["split_is_the_model's"]
    assert "**not out of domain**" in report.render(found)


def test_tweets_are_measured_with_and_without_what_headlines_lack(found, served):
    slices = {(row["task"], row["texts"]): row for row in found["headlines"]["slices"]}

    for task, (rows, _) in served.items():
        tickers, hashtags = rows["text"].str.startswith("$CO"), rows["text"].str.contains("#oil")
        assert slices[task, "tweets, all"]["rows"] == len(rows)
        assert slices[task, "tweets with tickers in front, as they came"]["rows"] == tickers.sum()
        assert slices[task, "tweets with hashtags, as they came"]["rows"] == hashtags.sum()
        plain = slices[task, "tweets without ticker or hashtag, as they came"]
        assert plain["rows"] == (~tickers & ~hashtags).sum()
    assert len([name for _, name in slices if name == "the same, these removed"]) == 2


def test_robustness_has_each_change_and_task_with_the_accuracy_of_the_same_texts(found, served):
    kinds = {(row["kind"], row["task"]): row for row in found["robustness"]["kinds"]}

    assert set(kinds) == {(kind, task) for kind in KINDS for task in tiny_model.TASKS}
    assert kinds["BREAKING: ...", "topic"]["texts"] == 20
    swapped = kinds["tickers swapped for others", "topic"]
    assert swapped["texts"] == 20
    assert swapped["unchanged"]["low"] <= swapped["unchanged"]["value"] <= swapped["unchanged"]["high"]
    # The tiny tokenizer makes all letters small, so that this change cannot change an answer.
    assert kinds["UPPER CASE", "sentiment"]["unchanged"]["value"] == 1
    assert (
        kinds["UPPER CASE", "sentiment"]["accuracy_original"] == kinds["UPPER CASE", "sentiment"]["accuracy_changed"]
    )
    assert kinds["a body of 3,000 words", "sentiment"]["unchanged"]["value"] < 1


def test_unchanged_is_the_share_of_equal_decisions_on_the_changed_texts(folder, options, served):
    found = evaluate.evaluate(folder, replace(options, sample=1_000))
    scorer = open_scorer(ModelSettings(path=options.model, backend="onnx", cache_dir=options.cache_dir))

    (row,) = (
        row for row in found["robustness"]["kinds"] if (row["kind"], row["task"]) == ("... - CNBC", "sentiment")
    )
    rows, probs = served["sentiment"]
    after = scorer.predict([f"{text} - CNBC" for text in rows["text"]])["sentiment"].argmax(axis=1)
    assert row["texts"] == len(rows)
    assert row["unchanged"]["value"] == pytest.approx((after == probs.argmax(axis=1)).mean(), abs=1e-6)
    assert row["accuracy_changed"] == pytest.approx((after == rows["sentiment"]).mean(), abs=1e-6)
    assert row["unchanged"]["value"] < 1, "a change that never counts tests nothing"


def test_the_sample_is_drawn_from_all_of_a_file_and_is_the_same_for_every_change():
    # Such files are often sorted by label, so that their first rows stand for nothing.
    rows = pd.DataFrame({"text": [f"bank raises rates again {row}" for row in range(300)], "topic": 0})
    answers = {"topic": np.ones((300, 1))}
    seen: list[list[int]] = []

    def predict(texts, _):
        seen.append([int(re.findall(r"\d+", text)[-1]) for text in texts])
        return {"topic": np.ones((len(texts), 1))}

    for kind, seed in (("BREAKING: ...", 1), ("UPPER CASE", 1), ("BREAKING: ...", 2)):
        robustness._kind(predict, kind, {"topic": rows}, answers, sample=60, seed=seed)

    first, second, other = seen
    assert first == second != other
    assert len(set(first)) == 60
    assert 10 <= sum(row < 100 for row in first) <= 30
    assert 10 <= sum(row >= 200 for row in first) <= 30


def test_negations_languages_and_empty_texts_are_told(found):
    section = found["robustness"]

    cases = section["negations"]["cases"]
    right = [
        case for case in cases if (case["said_of_positive"], case["said_of_negative"]) == ("positive", "negative")
    ]
    assert section["negations"]["both_right"]["value"] == pytest.approx(len(right) / len(cases), abs=1e-6)
    assert section["languages"]["en"]["as_english"]["value"] == 1
    assert section["languages"]["others"]["texts"] == sum(
        section["languages"][language]["texts"] for language in ("de", "fr", "es", "it", "pt", "nl")
    )
    assert len({row["sentiment_probs"]["neutral"] for row in section["empty"]}) == 1


def test_the_same_model_and_data_give_the_same_report(found, folder, options):
    assert evaluate.evaluate(folder, options) == found


def test_each_figure_of_the_document_comes_from_the_json(found, written):
    read = json.loads((written / "report.json").read_text())
    document = (written / "report.md").read_text()

    assert read == found
    assert document == report.render(read)
    changed = json.loads(json.dumps(read).replace(str(read["tasks"]["topic"]["accuracy"]["value"]), "0.123456"))
    assert "0.123 (" in report.render(changed)


def test_pictures_are_drawings_that_the_document_shows(found, written):
    document = (written / "report.md").read_text()
    drawn = sorted(path.name for path in written.glob("*.svg"))

    assert drawn == [f"{kind}-{task}.svg" for kind in ("confusion", "reliability") for task in ("sentiment", "topic")]
    for name in drawn:
        assert f"]({name})" in document
        assert ET.parse(written / name).getroot().tag.endswith("svg")  # noqa: S314
    assert pictures.draw(found) == {name: (written / name).read_bytes() for name in drawn}


def test_a_bar_in_a_label_does_not_break_the_table(found):
    labels = ["Fed | Central Banks", "Energy | Oil", "Other"]
    section = found["tasks"]["topic"]
    named = dict(zip(labels, section["by_label"].values(), strict=True))
    text = report.render(
        {**found, "tasks": {**found["tasks"], "topic": {**section, "labels": labels, "by_label": named}}}
    )

    line = next(line for line in text.splitlines() if line.startswith("| Fed"))
    assert line.replace("\\|", "").count("|") == 6


def test_a_report_that_cannot_be_made_whole_leaves_the_old_one(found, written):
    before = {path.name: path.read_bytes() for path in written.iterdir()}

    with pytest.raises(KeyError):
        evaluate.write(written, {**found, "robustness": {}})

    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_labels_that_are_not_those_of_the_data_are_refused(options, tmp_path):
    folder = write_data(tmp_path / "data")
    (folder / "tfn-topic" / "classes.txt").write_text("Oil\nGas\nCoal\n")

    with pytest.raises(
        EvaluationError, match=r"labels of topic are Earnings, .*those of the data are Oil, Gas, Coal"
    ):
        evaluate.evaluate(folder, options)


def test_absent_data_is_named_with_how_to_give_it(options, tmp_path):
    with pytest.raises(DatasetError, match=r"classes\.txt: cannot be read .*; name the folder .* MONITOR_DATA"):
        evaluate.evaluate(tmp_path, options)


# -- the command

app = typer.Typer()
app.command()(evaluate.main)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_the_report_with_its_comparison_and_prints_a_table(folder, model, tmp_path):
    compared = tmp_path / "runs.json"
    compared.write_text(json.dumps({"settings": {}, "runs": runs()}))
    output = tmp_path / "new" / "report"

    result = command(
        "--model", model, "--data", folder, "--output", output, "--backend", "torch", "--comparison", compared,
        "--sample", 3, "--resamples", 1_000,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "macro-F1" in result.stdout
    assert {path.name for path in output.iterdir()} == {
        "report.json", "report.md", "data-efficiency.svg", "confusion-topic.svg", "confusion-sentiment.svg",
        "reliability-topic.svg", "reliability-sentiment.svg", "confusion-topic-alone.svg",
        "confusion-sentiment-alone.svg", "reliability-topic-alone.svg", "reliability-sentiment-alone.svg",
    }  # fmt: skip
    document = (output / "report.md").read_text()
    assert "**Joint learning loses** on topic accuracy" in document
    assert "](data-efficiency.svg)" in document


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()


@pytest.mark.parametrize(
    ("mistake", "code", "message"),
    [
        (("--data", "absent"), 1, "evaluate: absent/tfn-topic/classes.txt: cannot be read"),
        (("--model", "absent"), 1, "evaluate: absent/model.json: cannot be read"),
        (("--comparison", "absent.json"), 1, "evaluate: absent.json: cannot be read"),
        (("--output", "a file"), 2, "evaluate: --output: a file cannot be a folder"),
        (("--backend", "tpu"), 2, "'tpu' is not one of"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_a_mistake_ends_in_a_line_that_names_it(mistake, code, message, model, folder):
    given = {"--model": model, "--data": folder, "--output": "report", **dict([mistake])}

    result = command(*(word for pair in given.items() for word in pair))

    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(Path("report").glob("*"))
