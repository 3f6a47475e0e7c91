"""The measurement of the watchlist: what it reads is what it says, and both ways find the same."""

import pytest

from monitor.watchlist import Watchlist
from pipelines import watchlist_cost
from pipelines.headlines import headlines


def test_both_ways_find_the_invented_companies() -> None:
    companies = watchlist_cost.invented(200)
    assert len({company.name for company in companies}) == 200
    watchlist = Watchlist(companies, (watchlist_cost.TOPIC,))
    plainly = watchlist_cost.InTurn(companies)
    titles = headlines(100)[1]
    texts = [f"{company.name}: {title}" for company, title in zip(companies, titles, strict=False)]
    found = [set(watchlist.find(text, watchlist_cost.TOPIC)) for text in texts]
    assert [company.name in names for company, names in zip(companies, found, strict=False)] == [True] * 100
    assert found == [plainly.find(text) for text in texts]


def test_the_measurement_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    watchlist_cost.main(entities=20, texts=50)
    printed = capsys.readouterr().out
    assert "20 entities with 100 names and tickers" in printed
    assert "a body of 3,000 words" in printed
    assert printed.count(" ms ") == 4
