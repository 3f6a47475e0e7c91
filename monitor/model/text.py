"""What the model reads of a text: cleaned, cut to tokens, padded. Training and scoring both come through here."""

import html
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CLEANING: Final = 2
"""Version of `clean`. Raise it with every change: a model must be fed as it was trained."""

MAX_CHARS: Final = 10_000
"""Of a longer text only this much is looked at; no supported `max_tokens` reaches further."""

# All but superscripts, fractions, marks of trade and accents by themselves, whose letters and digits would be
# read as part of the word or number before them.
_FORMS: Final = re.compile(
    "[^\u00a8\u00aa\u00af\u00b2-\u00b4\u00b8-\u00ba\u00bc-\u00be\u02d8-\u02dd\u2070-\u209f\u2120\u2122]+"
)
_URL = re.compile(r"(?:https?://|\bwww\.)\S+", re.IGNORECASE)


def clean(text: str) -> str:
    """`text` with HTML entities unescaped, letters in their usual form (Unicode's NFKC: full-width, ligatures), URLs
    removed and white space runs reduced to one space; may be empty."""
    usual = _FORMS.sub(lambda run: unicodedata.normalize("NFKC", run.group()), html.unescape(text[:MAX_CHARS]))
    return " ".join(_URL.sub(" ", usual[:MAX_CHARS]).split())


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, set to cut texts at `max_tokens` and to leave padding to `pad`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a tokenizer.
    """
    content = path.read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: not a tokenizer ({error})") from error
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def pad(
    token_ids: Sequence[Sequence[int]], pad_id: int, at_least: int = 1, rows: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of token ids as (input_ids, attention_mask), each (batch, longest).

    Args:
        at_least: least number of columns.
        rows: least number of rows; those that are filled up repeat the first.
    """
    longest = max((len(row) for row in token_ids), default=1)
    filled = [*token_ids, *[token_ids[0]] * (rows - len(token_ids))] if token_ids else []
    input_ids = np.full((len(filled), max(longest, at_least, 1)), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(filled):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask
