"""Which watched entities a text names."""

import pytest

from monitor.config import EntitySettings
from monitor.watchlist import Watchlist

WATCHLIST = Watchlist(
    [
        EntitySettings(name="Harrowgate Trust", aliases=("Harrowgate",), tickers=("HGT",)),
        EntitySettings(name="Allied Lines", tickers=("ALL",)),
        EntitySettings(name="Érable", aliases=("Erable Foods",)),
    ]
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Harrowgate Trust halts withdrawals", ("Harrowgate Trust",)),
        ("harrowgate's shares fall", ("Harrowgate Trust",)),
        ("Depositors leave HARROWGATE.", ("Harrowgate Trust",)),
        ("$HGT - outlook cut", ("Harrowgate Trust",)),
        ("(HGT) and ALL move", ("Harrowgate Trust", "Allied Lines")),
        ("All banks, hgt too", ()),
        ("Harrowgates of the north; New-Harrowgatean", ()),
        ("érable hausse ses prix", ("Érable",)),
        ("", ()),
    ],
)
def test_names_match_as_whole_words_and_tickers_in_capitals(text: str, names: tuple[str, ...]) -> None:
    assert WATCHLIST.find(text) == names


def test_one_alias_may_mean_two_entities() -> None:
    both = Watchlist([EntitySettings(name="A", aliases=("Twin",)), EntitySettings(name="B", aliases=("twin",))])
    assert both.find("Twin falls") == ("A", "B")


def test_an_empty_watchlist_finds_nothing() -> None:
    assert Watchlist([]).find("Harrowgate") == ()
