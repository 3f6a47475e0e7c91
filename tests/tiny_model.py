"""A random encoder small enough to train, export and score in a moment, and a checkpoint around it."""

from datetime import date
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from monitor.model import checkpoint
from monitor.model.checkpoint import ModelInfo
from monitor.model.encoder import Lora, add_adapters, load_encoder
from monitor.model.network import MultiTaskNetwork

WORDS = [
    "stock",
    "rises",
    "falls",
    "on",
    "strong",
    "weak",
    "earnings",
    "bank",
    "cuts",
    "raises",
    "rates",
    "oil",
    "gold",
    "deal",
    "talks",
    "collapse",
    "the",
    "a",
    "of",
]
TASKS = {"topic": ("Earnings", "Energy", "Financials"), "sentiment": ("negative", "neutral", "positive")}
LORA = Lora(rank=4, alpha=4, targets=("query", "key", "value", "dense"))


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """A BERT of two narrow layers with random weights, and a tokenizer that knows `WORDS` and single letters."""
    letters = [prefix + chr(code) for code in range(ord("a"), ord("z") + 1) for prefix in ("", "##")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(letter for letter in letters if letter != "a")]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def network(encoder: Path, lora: Lora | None = LORA, seed: int = 1) -> MultiTaskNetwork:
    """An untrained network on the encoder, its adapters set to random values as if they had been trained."""
    torch.manual_seed(seed)
    built = MultiTaskNetwork(load_encoder(encoder), TASKS)
    if lora:
        add_adapters(built, lora)
        for name, values in built.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(values, std=0.2)
    return built.eval()


def write_checkpoint(
    folder: Path,
    built: MultiTaskNetwork,
    encoder: Path,
    lora: Lora | None = LORA,
    frozen: tuple[str, ...] = (),
) -> ModelInfo:
    return checkpoint.save(
        folder,
        built,
        TASKS,
        encoder=str(encoder),
        lora=lora,
        frozen=frozen,
        max_tokens=48,
        trained_on=date(2026, 11, 23),
        training={"seed": 1},
    )
