"""Labelled pairs of headlines, what folding them scores, and what an item costs."""

import csv
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines import story_quality
from pipelines.dataset import default_folder
from pipelines.story_quality import (
    PAIRS,
    SPAN,
    Pair,
    PairsError,
    Quality,
    folds,
    folds_exact,
    labelled_pairs,
    quality,
)

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
HALTED = "Harrowgate Trust halts withdrawals"


def _pair(other: str, same: bool) -> Pair:
    return Pair((HALTED, NOON), (other, NOON), same, "reporting")


def _rows() -> list[dict[str, str]]:
    with PAIRS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_precision_is_of_what_is_folded_and_recall_of_what_is_the_same() -> None:
    pairs = [_pair(HALTED, True), _pair(f"{HALTED}, sources say", True), _pair("Calder rises", False)]
    assert quality(pairs, folds) == Quality(folded=2, same=2, right=2)
    assert quality(pairs, folds_exact) == Quality(folded=1, same=2, right=1)
    scored = quality(pairs, folds_exact)
    assert scored.precision is not None
    assert (scored.precision.value, scored.recall.value) == (1.0, 0.5)
    assert quality([*pairs, _pair(HALTED.lower(), False)], folds).folded == 3


def test_where_nothing_is_folded_there_is_no_precision() -> None:
    assert quality([_pair("Calder rises", True)], folds).precision is None


def test_the_later_of_a_pair_is_the_copy_and_only_within_the_span() -> None:
    assert folds(Pair((HALTED, NOON), (HALTED, NOON - SPAN), True, "reporting"))
    assert not folds(Pair((HALTED, NOON), (HALTED, NOON - SPAN * 1.01), False, "reporting"))


def test_each_pair_is_labelled_once_and_no_item_stands_in_both_halves() -> None:
    rows = _rows()
    pairs = {(row["file_a"], row["row_a"], row["file_b"], row["row_b"]) for row in rows}
    assert len(pairs) == len(rows)
    assert {row["same"] for row in rows} == {"0", "1"}
    halves = defaultdict(set)
    for row in rows:
        halves[row["title_a"]].add(row["half"])
        halves[row["title_b"]].add(row["half"])
    assert set().union(*halves.values()) == {"choosing", "reporting"}
    assert [title for title, found in halves.items() if len(found) > 1] == []


def test_another_edition_of_a_set_is_refused_by_row(tmp_path: Path) -> None:
    for name in {row["file_a"] for row in _rows()} | {row["file_b"] for row in _rows()}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("published_utc,title,Title,text\n2023-03-10T12:00:00Z,a,a,a\n", encoding="utf-8")
    with pytest.raises(PairsError, match=r"record \d+ is '', expected the one whose title has a SHA-256 that starts"):
        labelled_pairs(tmp_path)


def test_an_absent_set_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        PairsError, match=r"cannot be read .*; name the folder of the sets with --data or MONITOR_DATA"
    ):
        labelled_pairs(tmp_path)


def test_the_labelled_rows_are_those_of_the_public_sets_and_edits_are_found_that_exact_keys_miss() -> None:
    folder = default_folder()
    missing = sorted(
        {row[key] for row in _rows() for key in ("file_a", "file_b") if not (folder / row[key]).exists()}
    )
    if missing:
        pytest.skip(f"{', '.join(missing)} not in {folder}; name the folder of the data sets in MONITOR_DATA")
    pairs = labelled_pairs(folder)
    assert len(pairs) == len(_rows())
    assert all(abs(pair.one[1] - pair.other[1]) <= SPAN for pair in pairs)
    reporting = [pair for pair in pairs if pair.half == "reporting"]
    found = quality(reporting, folds)
    assert found.right > quality(reporting, folds_exact).right
    assert found.precision is not None
    assert found.precision.value >= 0.8


def test_measured_headlines_are_different_and_the_same_for_a_seed() -> None:
    origin, titles = story_quality.different_headlines(500)
    assert origin
    assert len(set(titles)) == 500
    assert story_quality.different_headlines(500) == (origin, titles)
    assert story_quality.different_headlines(500, seed=1)[1] != titles


def test_the_cost_is_measured_with_all_stories_remembered() -> None:
    spent = story_quality.cost(remembered=2_000, measured=100)
    assert spent.remembered == 2_000
    assert min(spent.new, spent.copy, spent.exact, spent.restore) > 0
