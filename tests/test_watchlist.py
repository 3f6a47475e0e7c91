"""Which watched entities a text names: names, capitals, tickers, exclusions, context, topics and overlaps."""

import html
import json
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.config import ConfigError, Settings
from monitor.engine import Engine
from monitor.entities import EntitySettings
from monitor.metrics import Metrics
from monitor.records import Batch, PositionUpdate, RawRecord
from monitor.store import Store
from monitor.watchlist import Watchlist
from tests.support import WordScorer

TOPICS = ("Financials", "Energy | Oil")


def _found(text: str, *entities: EntitySettings, topic: str = "Financials") -> tuple[str, ...]:
    return Watchlist(entities, TOPICS).find(text, topic)


NAMES = (
    EntitySettings(name="Harrowgate Trust", aliases=("Harrowgate",), tickers=("HGT",)),
    EntitySettings(name="Allied Lines", tickers=("ALL",)),
    EntitySettings(name="Érable", aliases=("Erable Foods",)),
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
    assert _found(text, *NAMES) == names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Apple", "\uff21\uff50\uff50\uff4c\uff45 rises"),
        ("Apple", "Apple\u2019s margin"),
        ("Apple", "“Apple” falls"),
        ("Apple", "Apple™ and others"),
        ("Apple", "Ap\u00adple and a soft hyphen"),
        ("Apple Pay", "Apple® Pay is late"),
        ("Apple Inc.", "Apple Inc reports"),
        ("Apple Inc.", "Apple Inc."),
        ("Apple Inc", "Apple Inc. reports"),
        ("AT&T", "AT&amp;T raises"),
        ("McDonald's", "McDonald&#8217;s raises"),
        ("McDonald's", "McDonald\u00b4s raises"),
        ("Coca-Cola", "Coca\u2011Cola and Coca Cola"),
        ("Coca Cola", "Coca-Cola's year"),
        ("Bank of America", "Bank\nof  America"),
        ("Société Générale", unicodedata.normalize("NFD", "Société Générale")),
        ("Straßenbau AG", "STRASSENBAU AG"),
        ("İş Bankas\u0131", "İş Bankas\u0131 😀"),
        ("Bankas\u0131", "😀 İş Bankas\u0131"),
        ("トヨタ", "本日トヨタが発表"),
        ("Apple", "アップルAppleが"),
        ("Apple", "Apple-backed start-up"),
        ("Yahoo!", "Yahoo! rises"),
    ],
)
def test_a_name_is_found_however_its_text_is_spelled(name: str, text: str) -> None:
    assert _found(text, EntitySettings(name=name)) == (name,)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Apple", "see https://apple.com/apple now"),
        ("Apple", "snapple and apples, apple_pay"),
        ("Bank of America", "the bank of.America"),
        ("Bank of America", "Bank of\n\nAmerica"),
        ("AT&T", "at the T"),
        ("टाट", "टाटा"),
    ],
)
def test_what_only_looks_like_a_name_is_not_found(name: str, text: str) -> None:
    assert _found(text, EntitySettings(name=name)) == ()


def test_one_alias_may_mean_two_entities() -> None:
    twins = EntitySettings(name="A", aliases=("Twin",)), EntitySettings(name="B", aliases=("twin",))
    assert _found("Twin falls", *twins) == ("A", "B")


def test_an_empty_watchlist_finds_nothing() -> None:
    assert _found("Harrowgate") == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Apple falls", True),
        ("APPLE FALLS", True),
        ("an apple a day", False),
        ("Bank Of America falls", True),
        ("bank of america falls", False),
        ("BANK OF AMERICA FALLS", True),
        ("the fruit company", True),
        ("The Fruit Company", True),
        ("Weiß: Apple falls", True),
        ("Weiß: apple falls, A", False),
    ],
)
def test_with_match_case_a_capital_in_the_name_must_be_one_in_the_text(text: str, found: bool) -> None:
    entity = EntitySettings(name="Apple", aliases=("Bank of America", "fruit company"), match_case=True)
    assert bool(_found(text, entity)) is found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("shares of ALL fell", True),
        ("ALL BANKS CLOSED", False),
        ("ALLIED ($ALL) CUT", True),
        ("ALLIED (ALL) CUT", True),
        ("ALLIED (NYSE: ALL) CUT", True),
        ("ALLIED (NYSE ARCA:ALL) CUT", True),
        ("ALL.N CUT", True),
        ("ALL:US CUT", True),
        ("ALL BANKS CLOSED\nALL fell", True),
        ("Quiet day\nALL RIGHTS RESERVED", False),
        ("Quiet day: " + "NOTHING " * 30 + "AT ALL IS NEW", False),
        ("ALL", True),
        ("\uff21\uff2c\uff2c fell", True),
        ("AT&ALL fell", False),
        ("ALL&T fell", False),
        ("0700.ALL fell", False),
        ("BALL fell", False),
        ("ALL-led bid", True),
    ],
)
def test_in_a_line_of_capitals_a_ticker_must_be_marked(text: str, found: bool) -> None:
    assert bool(_found(text, EntitySettings(name="Allied Lines", tickers=("ALL",)))) is found


@pytest.mark.parametrize(
    ("ticker", "text", "found"),
    [
        ("F", "F fell", False),
        ("F", "$F fell", True),
        ("F", "Ford (F) fell", True),
        ("F", "Ford (NYSE: F) fell", True),
        ("F", "F.N fell", True),
        ("F", "Plan F: wait", False),
        ("U", "U.S. stocks fell", False),
        ("U", "U.S STOCKS FELL", False),
        ("U", "U.N fell", True),
        ("C", "Rule 5635(C)(4)", False),
        ("T", "AT&T fell", False),
        ("O", "AAPL.O fell", False),
        ("7203", "7203 people", False),
        ("7203", "Toyota (7203.T)", True),
        ("7203", "Toyota (TYO: 7203)", True),
        ("BRK.B", "BRK.B fell", True),
        ("BF-B", "BF\u2011B fell", True),
        ("M&M", "M&amp;M fell", True),
    ],
)
def test_a_ticker_that_says_little_by_itself_must_be_marked(ticker: str, text: str, found: bool) -> None:
    assert bool(_found(text, EntitySettings(name="Some Company", tickers=(ticker,)))) is found


def test_a_ticker_with_its_dollar_sign_can_be_an_alias_where_it_is_an_abbreviation_too() -> None:
    entity = EntitySettings(name="C3.ai", aliases=("$AI",))
    assert [_found(text, entity) for text in ("AI is everywhere", "$AI fell", "$ai, says C3", "$AIR fell")] == [
        (),
        ("C3.ai",),
        ("C3.ai",),
        (),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Apple pie is popular", False),
        ("APPLE-PIE season", False),
        ("Apple pie, says Apple", True),
        ("Apple bakes no apple pie", True),
        ("apple pies rise", True),
        ("a CAT scan", False),
        ("CAT rises", True),
        ("the apple scan", True),
    ],
)
def test_a_name_inside_an_exclusion_does_not_count(text: str, found: bool) -> None:
    entity = EntitySettings(name="Apple", tickers=("CAT",), exclusions=("apple pie", "CAT scan"))
    assert bool(_found(text, entity)) is found


def test_an_exclusion_is_for_its_own_entity_alone() -> None:
    entities = EntitySettings(name="Apple", exclusions=("apple pie",)), EntitySettings(name="Pie")
    assert _found("apple pie", *entities) == ("Pie",)
    assert _found("pie", EntitySettings(name="Apple", exclusions=("apple pie",))) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Shell rises", False),
        ("Shell rises with oil", True),
        ("Shell rises\nThe Oil-major said", True),
        ("Shell rises with turmoil", False),
        ("Shell plc rises", True),
        ("Royal Dutch rises", True),
        ("SHEL rises", True),
    ],
)
def test_an_ambiguous_name_needs_a_word_that_makes_it_certain(text: str, found: bool) -> None:
    entity = EntitySettings(
        name="Shell",
        aliases=("Shell plc", "Royal Dutch"),
        tickers=("SHEL",),
        ambiguous=("Shell",),
        requires=("oil", "gas station"),
    )
    assert bool(_found(text, entity)) is found


def test_an_entity_with_topics_takes_only_their_items() -> None:
    entity = EntitySettings(name="Shell", topics=("Energy | Oil",))
    assert _found("Shell rises", entity, topic="Energy | Oil") == ("Shell",)
    assert _found("Shell rises", entity, topic="Financials") == ()


def test_the_engine_asks_with_the_topic_that_the_model_named() -> None:
    listed = EntitySettings(name="Shell", topics=("Macro",)), EntitySettings(name="Rises")
    titles = "Financials: Shell rises", "Macro: Shell falls"
    records = tuple(
        RawRecord(0, i, json.dumps({"title": title, "published_at": "2023-03-10T12:00:00Z"}).encode())
        for i, title in enumerate(titles)
    )
    with Store("sqlite://") as store:
        engine = Engine(
            Settings(watchlist=listed),
            store,
            WordScorer(),
            Metrics(),
            source="test",
            reject=lambda record, error: None,
        )
        stored = engine.process(
            Batch(records, (PositionUpdate(0, None, 2),)), datetime(2023, 3, 10, 12, 1, tzinfo=UTC)
        )
    assert [entry.entities for entry in stored] == [("Rises",), ("Shell",)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Bank of America falls", ("Bank of America",)),
        ("America falls", ("America",)),
        ("Bank of America falls, America too", ("America", "Bank of America")),
        ("Apple Hospitality falls", ("Apple Hospitality",)),
        # The one that begins first, though the other is longer.
        ("Bank of America Merrill Lynch falls", ("Bank of America",)),
        ("America Merrill Lynch falls", ("America Merrill Lynch",)),
        # A match that does not count hides nothing.
        ("Bank of Americans and America", ("America",)),
        ("Apple Hospitality ball", ("Apple",)),
    ],
)
def test_of_overlapping_names_the_first_and_longest_counts(text: str, names: tuple[str, ...]) -> None:
    entities = (
        EntitySettings(name="America"),
        EntitySettings(name="Bank of America"),
        EntitySettings(name="America Merrill Lynch"),
        EntitySettings(name="Apple"),
        EntitySettings(name="Apple Hospitality", exclusions=("Apple Hospitality ball",)),
    )
    assert _found(text, *entities) == names


def test_a_name_hides_others_inside_it_even_where_its_topics_leave_the_item_out() -> None:
    entities = EntitySettings(name="America"), EntitySettings(name="Bank of America", topics=("Energy | Oil",))
    assert _found("Bank of America falls", *entities) == ()


def test_a_nested_entity_counts_inside_the_names_of_others_and_hides_none() -> None:
    entities = (
        EntitySettings(name="Banks", aliases=("bank", "the bank"), nested=True),
        EntitySettings(name="Bank of America"),
        EntitySettings(name="Bank Audi"),
    )
    assert _found("Bank of America falls", *entities) == ("Banks", "Bank of America")
    assert _found("the Bank Audi falls", *entities) == ("Banks", "Bank Audi")


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (
            EntitySettings(name="Apple", topics=("Financial",)),
            r"watchlist, 'Apple': topics: 'Financial' is not a topic of the model, expected one of Financials, .*"
            r"did you mean 'Financials'\?",
        ),
        (
            EntitySettings(name="Apple", exclusions=("pie",)),
            r"'Apple': exclusions: 'pie' holds none of its names.*such as 'Apple pie'",
        ),
        (EntitySettings(name="Apple", exclusions=("pineapple",)), r"exclusions: 'pineapple' holds none of its names"),
        (EntitySettings(name="Apple", aliases=("https://apple.com",)), r"'https://apple\.com' cannot be found"),
        (EntitySettings(name="Apple", aliases=("²",)), r"'²' cannot be found"),
    ],
)
def test_an_entity_that_could_never_match_as_meant_is_refused(entity: EntitySettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Watchlist([entity], TOPICS)


# Few words, so that names overlap, repeat and lie inside exclusions often.
WORDS = st.sampled_from(["Apple", "apple", "APPLE", "pie", "Pie", "Inc", "of", "pieof"])
NAME = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
NAME_LISTS = st.lists(NAME, max_size=2).map(tuple)


@st.composite
def entities(draw: st.DrawFn, name: str) -> EntitySettings:
    ambiguous = draw(NAME_LISTS)
    aliases = (draw(NAME), *draw(NAME_LISTS))
    around = st.tuples(st.sampled_from(["", "pie ", "of "]), st.sampled_from(aliases), st.sampled_from(["", " Inc"]))
    return EntitySettings(
        name=name,
        aliases=aliases,
        ambiguous=ambiguous,
        requires=draw(st.lists(NAME, min_size=1, max_size=2).map(tuple)) if ambiguous else (),
        exclusions=tuple(draw(st.lists(around.map("".join), max_size=2))),
        match_case=draw(st.booleans()),
        nested=draw(st.booleans()),
        topics=draw(st.sampled_from([(), ("Financials",), TOPICS[1:]])),
    )


WATCHLISTS = st.tuples(*[entities(name) for name in ("First", "Second", "Third")])
TEXTS = st.lists(
    st.tuples(WORDS, st.sampled_from([" ", " ", " ", "-", "\n", ", ", ".", "'s ", "_"])), max_size=12
).map(lambda parts: "".join(map("".join, parts)))


def _obviously(listed: tuple[EntitySettings, ...], text: str, topic: str) -> tuple[str, ...]:
    """What `find` gives, by the rules one after the other, a regular expression at a time."""
    plain = re.sub(r"[-\n]", " ", text)

    def spans(phrase: str) -> set[tuple[int, int]]:
        return {
            (place, place + len(phrase))
            for place in range(len(plain))
            if re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE).match(plain, place)
        }

    valid: set[tuple[int, int, EntitySettings]] = set()
    for entity in listed:
        excluded = [span for phrase in entity.exclusions for span in spans(phrase)]
        certain = any(spans(phrase) for phrase in entity.requires)
        for name in (entity.name, *entity.aliases, *entity.ambiguous):
            if name in entity.ambiguous and not certain:
                continue
            for start, end in spans(name):
                cased = all(
                    mine.isupper() <= theirs.isupper() for mine, theirs in zip(name, text[start:], strict=False)
                )
                if (cased or not entity.match_case) and not any(a <= start and end <= b for a, b in excluded):
                    valid.add((start, end, entity))

    taken = {entity.name for *_, entity in valid if entity.nested}
    contest = [match for match in valid if not match[2].nested]
    place = 0
    while place < len(text):
        here = [match for match in contest if match[0] == place]
        longest = max((end for _, end, _ in here), default=place + 1)
        taken |= {entity.name for _, end, entity in here if end == longest}
        place = longest
    return tuple(e.name for e in listed if e.name in taken and (not e.topics or topic in e.topics))


@settings(max_examples=400, deadline=None)
@given(listed=WATCHLISTS, text=TEXTS, topic=st.sampled_from(TOPICS))
def test_entities_are_found_as_by_one_rule_after_the_other(
    listed: tuple[EntitySettings, ...], text: str, topic: str
) -> None:
    assert Watchlist(listed, TOPICS).find(text, topic) == _obviously(listed, text, topic)


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: "".join(f"&#{ord(c)};" for c in text),
        "\u200b".join,
        lambda text: text.replace("'", "\u2019").replace("-", "\u2010"),
        html.escape,
    ],
    ids=["full-width", "HTML", "zero-width spaces", "typographic", "escaped"],
)
@settings(deadline=None)
@given(listed=WATCHLISTS, text=TEXTS)
def test_another_spelling_of_a_text_names_the_same(
    respell: Callable[[str], str], listed: tuple[EntitySettings, ...], text: str
) -> None:
    watchlist = Watchlist(listed, TOPICS)
    assert watchlist.find(respell(text), "Financials") == watchlist.find(text, "Financials")
