"""What the words of a text are said to have done to a decision, against what they did."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from monitor.model.checkpoint import DEFAULT, Checkpoint, load_encoder, load_network, read
from monitor.model.explain import TOLERANCE, Explainer, Explanation
from monitor.model.network import MultiTaskNetwork
from monitor.model.text import clean
from tests import tiny_model

TEXTS = [
    "stock rises on strong earnings",
    "the bank cuts rates of a weak deal",
    "oil",
    "gold falls, collapse of talks!",
]
DECISIONS = {
    "topic": ["Earnings", "Financials", "Energy", "Energy"],
    "sentiment": ["positive", "negative", "negative", "neutral"],
}
CRASH = "Shares of Silicon Valley Bank plunge 60% after $1.8bn loss, sparking fears of collapse"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    encoder = tiny_model.write_encoder(folder / "encoder")
    tiny_model.write_checkpoint(folder / "model", tiny_model.network(encoder), encoder)
    return read(folder / "model")


@pytest.fixture(scope="module")
def default() -> Explainer:
    return Explainer(read(DEFAULT))


def _gained(checkpoint: Checkpoint, network: MultiTaskNetwork, text: str, task: str, label: str) -> float:
    """Log-odds given the text, less those given the padding token's embedding in place of all but special tokens."""
    layer: nn.Module = network.encoder.get_input_embeddings()  # type: ignore[operator]
    encoding = checkpoint.tokenizer().encode(clean(text))
    ids = torch.tensor([encoding.ids])
    special = torch.tensor([encoding.special_tokens_mask], dtype=torch.bool)

    def log_odds() -> Tensor:
        logits = network(ids, torch.ones_like(ids))[task][0] / checkpoint.info.temperatures[task]
        return torch.logit(logits.double().softmax(dim=0)[checkpoint.info.tasks[task].index(label)])

    given = log_odds()
    padding = layer(torch.tensor(checkpoint.pad_id))
    with layer.register_forward_hook(lambda _module, _ids, output: output.where(special.unsqueeze(2), padding)):
        return float(given - log_odds())


def _adds_up(checkpoint: Checkpoint, texts: Sequence[str], decisions: dict[str, list[str]], tolerance: float) -> None:
    network = load_network(checkpoint)
    explained = Explainer(checkpoint, tolerance=tolerance).explain(texts, decisions)
    assert len(explained) == len(texts)
    for item, (text, explanations) in enumerate(zip(texts, explained, strict=True)):
        assert list(explanations) == list(decisions)
        for task, explanation in explanations.items():
            assert explanation.label == decisions[task][item]
            total = sum(word.weight for word in explanation.words)
            gained = _gained(checkpoint, network, text, task, explanation.label)
            assert explanation.gained == pytest.approx(gained, abs=1e-3)
            assert total == pytest.approx(gained, abs=tolerance + 1e-3)
            assert explanation.gap == pytest.approx(total - gained, abs=1e-3)


def test_the_weights_add_up_to_what_the_text_did_to_the_log_odds(checkpoint: Checkpoint) -> None:
    _adds_up(checkpoint, TEXTS, DECISIONS, 1e-4)


def test_the_label_explained_is_the_one_decided_whatever_the_network_would_choose(checkpoint: Checkpoint) -> None:
    for label in tiny_model.TASKS["sentiment"]:
        _adds_up(checkpoint, TEXTS[:1], {"sentiment": [label]}, 1e-4)


def test_log_odds_are_those_of_calibrated_probabilities(checkpoint: Checkpoint) -> None:
    info = replace(checkpoint.info, temperatures={"topic": 0.5, "sentiment": 2.5})
    _adds_up(replace(checkpoint, info=info), TEXTS, DECISIONS, 1e-4)


def test_fused_tasks_are_explained_alike(checkpoint: Checkpoint, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = MultiTaskNetwork(load_encoder(checkpoint.encoder_folder), tiny_model.TASKS, sharing="fused").eval()
    tiny_model.write_checkpoint(tmp_path, network, checkpoint.encoder_folder, lora=None)
    _adds_up(read(tmp_path), TEXTS, DECISIONS, 1e-4)


def _write_roberta(folder: Path) -> Path:
    """An encoder that derives positions from token ids, and a tokenizer of bytes that counts spaces as tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_another_encoder_and_a_tokenizer_that_counts_spaces_do_as_well(tmp_path: Path) -> None:
    encoder = _write_roberta(tmp_path / "encoder")
    tiny_model.write_checkpoint(tmp_path / "model", tiny_model.network(encoder), encoder)
    roberta = read(tmp_path / "model")
    texts = ["oil up", "bank, falls 2% in Zürich"]
    decisions = {"sentiment": ["positive", "negative"]}
    _adds_up(roberta, texts, decisions, 1e-4)
    explained = Explainer(roberta).explain(texts, decisions)
    assert _words(explained[0]["sentiment"]) == {"oil", "up"}
    assert _words(explained[1]["sentiment"]) == {"bank", "falls", "2%", "in", "Zürich"}
    pieces = _by_piece(roberta, "oil up", "sentiment", "positive")
    assert _weights(explained[0]["sentiment"])["up"] == pytest.approx(sum(pieces[3:]), abs=1e-4)


def _words(explanation: Explanation) -> set[str]:
    return {word.text for word in explanation.words}


def _weights(explanation: Explanation) -> dict[str, float]:
    return {word.text: word.weight for word in explanation.words}


def _by_piece(checkpoint: Checkpoint, text: str, task: str, label: str) -> list[float]:
    """Attributions of the pieces of a text, without the tokenizer's own tokens, by captum's method for layers."""
    network = load_network(checkpoint)
    column = checkpoint.info.tasks[task].index(label)

    def log_odds(ids: Tensor) -> Tensor:
        logits = network(ids, torch.ones_like(ids))[task]
        return torch.logit(logits.softmax(dim=1)[:, column])

    ids = torch.tensor([checkpoint.tokenizer().encode(text).ids])
    blank = torch.full_like(ids, checkpoint.pad_id)
    blank[:, [0, -1]] = ids[:, [0, -1]]
    layer = network.encoder.get_input_embeddings()  # type: ignore[operator]
    attributions = LayerIntegratedGradients(log_odds, layer).attribute(ids, blank, n_steps=64)
    return attributions[0, 1:-1].sum(dim=1).tolist()


@pytest.mark.parametrize(("task", "label"), [("topic", "Energy"), ("sentiment", "negative")])
def test_a_word_weighs_what_its_pieces_weigh_each_task_by_itself(
    checkpoint: Checkpoint, task: str, label: str
) -> None:
    text = "oil prizes falls"
    encoding = checkpoint.tokenizer().encode(text)
    assert encoding.tokens == ["[CLS]", "oil", "p", "##r", "##i", "##z", "##e", "##s", "falls", "[SEP]"]
    [explained] = Explainer(checkpoint).explain([text], {"topic": ["Energy"], "sentiment": ["negative"]})
    oil, *prizes, falls = _by_piece(checkpoint, text, task, label)
    assert _weights(explained[task]) == pytest.approx({"oil": oil, "prizes": sum(prizes), "falls": falls}, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"Stock" (oil), $AAPL -2.5% ($1.8bn)', {"Stock", "oil", "$AAPL", "-2.5%", "$1.8bn"}),
        ("don't U.S. 'weak' S&P: +3%! #gold...", {"don't", "U.S.", "weak", "S&P", "+3%", "#gold"}),
        ("A-deal. ...5% — A.I.; Fed's -on- -$5", {"A-deal", ".5%", "—", "A.I.", "Fed's", "on", "-$5"}),
    ],
)
def test_words_are_shown_as_a_reader_would_write_them(checkpoint: Checkpoint, text: str, words: set[str]) -> None:
    [explained] = Explainer(checkpoint).explain([text], {"topic": ["Energy"]})
    assert _words(explained["topic"]) == words


def test_words_come_strongest_first_whichever_way_they_speak_and_as_often_as_they_stand(
    checkpoint: Checkpoint,
) -> None:
    [explained] = Explainer(checkpoint).explain(["oil falls oil rises weak oil"], {"sentiment": ["negative"]})
    words = explained["sentiment"].words
    assert [abs(word.weight) for word in words] == sorted((abs(word.weight) for word in words), reverse=True)
    assert {word.weight > 0 for word in words} == {True, False}
    assert sorted(word.text for word in words) == ["falls", "oil", "oil", "oil", "rises", "weak"]


def test_an_explanation_does_not_depend_on_what_is_explained_with_it(checkpoint: Checkpoint) -> None:
    explainer = Explainer(checkpoint)
    together = explainer.explain([*TEXTS, "oil " * 60], {"topic": [*DECISIONS["topic"], "Energy"]})
    for text, label, among in zip(TEXTS, DECISIONS["topic"], together, strict=False):
        [alone] = explainer.explain([text], {"topic": [label]})
        assert _weights(alone["topic"]) == pytest.approx(_weights(among["topic"]), abs=1e-5)


def test_more_rows_than_fit_into_one_pass_keep_their_order(checkpoint: Checkpoint) -> None:
    texts = [f"{'oil ' * (n % 40)}gold {chr(97 + n % 26)}" for n in range(100)]
    explainer = Explainer(checkpoint)
    explained = explainer.explain(texts, {"topic": ["Energy"] * 100})
    assert [len(each["topic"].words) for each in explained] == [n % 40 + 2 for n in range(100)]
    for n in (0, 39, 60, 99):
        [alone] = explainer.explain([texts[n]], {"topic": ["Energy"]})
        assert alone["topic"].gained == pytest.approx(explained[n]["topic"].gained, abs=1e-5)


def test_copies_of_a_text_get_one_explanation_and_other_decisions_another(checkpoint: Checkpoint) -> None:
    texts = ["oil falls", "oil   falls https://example.com/a", "oil falls"]
    first, copy, other = Explainer(checkpoint).explain(texts, {"topic": ["Energy", "Energy", "Earnings"]})
    assert first == copy
    assert first["topic"].gained != pytest.approx(other["topic"].gained, abs=1e-2)


@pytest.mark.parametrize("text", ["", "  ", "https://example.com/a", "\u200b"])
def test_of_a_text_without_words_nothing_speaks(checkpoint: Checkpoint, text: str) -> None:
    [empty, full] = Explainer(checkpoint).explain([text, "oil"], {"sentiment": ["neutral", "negative"]})
    assert empty == {"sentiment": Explanation("neutral", (), 0.0, 0.0)}
    assert _words(full["sentiment"]) == {"oil"}


def test_what_the_tokenizer_leaves_out_is_no_word(checkpoint: Checkpoint) -> None:
    [explained] = Explainer(checkpoint).explain(["\u200b oil \u200b"], {"sentiment": ["negative"]})
    assert _words(explained["sentiment"]) == {"oil"}


def test_a_tokenizer_that_adds_no_tokens_of_its_own_does_as_well(tmp_path: Path) -> None:
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    file = encoder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    tiny_model.write_checkpoint(tmp_path / "model", tiny_model.network(encoder), encoder)
    bare = read(tmp_path / "model")
    _adds_up(bare, ["oil falls", "gold"], {"sentiment": ["negative", "neutral"]}, 1e-4)
    [empty] = Explainer(bare).explain([""], {"sentiment": ["neutral"]})
    assert empty == {"sentiment": Explanation("neutral", (), 0.0, 0.0)}


def test_no_text_needs_no_explanation(checkpoint: Checkpoint) -> None:
    assert Explainer(checkpoint).explain([], {"sentiment": []}) == []


def test_of_a_long_text_the_words_are_listed_that_the_model_read(checkpoint: Checkpoint) -> None:
    text = "oil falls " * 2_000 + "gold"
    [explained] = Explainer(checkpoint).explain([text], {"topic": ["Energy"]})
    assert len(explained["topic"].words) == checkpoint.info.max_tokens - 2
    assert _words(explained["topic"]) == {"oil", "falls"}


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({"topic": ["Sports"]}, r"decisions of 'topic': \['Sports'\]; the model's tasks are .*'Earnings'"),
        ({"region": ["Asia"]}, r"decisions of 'region': \['Asia'\]; the model's tasks are .*'sentiment'"),
        ({"topic": []}, "shorter than argument 1"),
    ],
)
def test_decisions_that_the_model_cannot_have_made_are_refused(
    checkpoint: Checkpoint, decisions: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Explainer(checkpoint).explain(["oil"], decisions)


@pytest.mark.parametrize(
    ("text", "sentiment", "words"),
    [
        ("Bank stock plunges on fears of collapse", "negative", {"plunges", "fears"}),
        ("Lender faces collapse after run on deposits", "negative", {"collapse"}),
        ("$AAPL beats estimates, raises guidance", "positive", {"beats", "raises"}),
        ("Tesla shares soar on record deliveries", "positive", {"soar", "record"}),
    ],
)
def test_the_shipped_models_words_speak_as_a_reader_would_expect(
    default: Explainer, text: str, sentiment: str, words: set[str]
) -> None:
    [explained] = default.explain([text], {"sentiment": [sentiment]})
    weights = _weights(explained["sentiment"])
    assert {word: weights[word] for word in words if weights[word] < 0.2} == {}
    assert explained["sentiment"].words[0].text in words


def test_the_shipped_models_weights_add_up() -> None:
    texts = [CRASH, "Fed's Powell: inflation isn't over", "collapse"]
    topics = ["Financials", "Fed | Central Banks", "Macro"]
    _adds_up(read(DEFAULT), texts, {"topic": topics, "sentiment": ["negative", "neutral", "negative"]}, TOLERANCE)


def test_the_path_is_followed_more_closely_until_the_weights_add_up(tmp_path: Path) -> None:
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    network = tiny_model.network(encoder, lora=None)
    with torch.no_grad():  # great weights make a rough path
        for values in [*network.encoder.encoder.parameters(), *network.heads.parameters()]:
            values.mul_(3)
    tiny_model.write_checkpoint(tmp_path / "model", network, encoder, lora=None)
    rough = read(tmp_path / "model")
    gaps = []
    for tolerance in (1.0, 0.01):
        explainer = Explainer(rough, tolerance=tolerance)
        [explained] = explainer.explain(["oil falls on weak deal talks"], {"sentiment": ["negative"]})
        gaps.append(abs(explained["sentiment"].gap))
        _adds_up(rough, ["oil falls on weak deal talks"], {"sentiment": ["negative"]}, tolerance)
    assert gaps[1] <= 0.01 < gaps[0] <= 1.0
