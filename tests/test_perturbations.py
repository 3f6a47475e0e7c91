import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.model.text import clean
from monitor.records import SENTIMENTS
from pipelines.perturbations import KINDS, LONG_BODY_WORDS, perturbed, without_hashes, without_leading_tickers
from pipelines.probes import EMPTY, NEGATIONS, TRANSLATIONS

HEADLINE = "Alba Motors shares rise as quarterly earnings beat forecasts despite higher costs"
TYPOS = "typing errors, 1 word in 10"
TICKERS = "tickers swapped for others"
CYRILLIC = "Cyrillic look-alikes, 1 word in 10"
ZERO_WIDTH = "zero-width spaces, 1 word in 10"
FULL_WIDTH = "full-width letters"
QUOTES = "quotation marks, straight or curly"
LONG_BODY = "a body of 3,000 words"


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("lower case", "alba raises outlook at ag"),
        ("UPPER CASE", "ALBA RAISES OUTLOOK AT AG"),
        ("Title Case", "Alba Raises Outlook At AG"),
        ("Reuters - ...", "Reuters - Alba raises outlook at AG"),
        ("BREAKING: ...", "BREAKING: Alba raises outlook at AG"),
        ("(Bloomberg) -- ...", "(Bloomberg) -- Alba raises outlook at AG"),
        ("UPDATE 1-...", "UPDATE 1-Alba raises outlook at AG"),
        ("... - CNBC", "Alba raises outlook at AG - CNBC"),
    ],
)
def test_letter_case_and_boilerplate_change_nothing_else(kind, changed):
    assert perturbed(kind, "Alba raises outlook at AG", 1) == changed


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("lower case", "all small"),
        ("UPPER CASE", "ALL LARGE"),
        ("Title Case", "All Begin Large"),
        (TYPOS, "Up 5% on QE4 $AAPL"),
        (TICKERS, "Apple rises $5 to $150"),
        ("tickers in front removed", "Apple $AAPL rises"),
        (CYRILLIC, "Fund flung"),  # no letter of it has a double
        (ZERO_WIDTH, "Up 5%"),
        (QUOTES, "No marks here"),
    ],
)
def test_a_change_that_does_not_apply_gives_nothing(kind, text):
    assert perturbed(kind, text, 1) is None


def test_typing_errors_are_in_a_tenth_of_the_words_and_never_in_a_first_letter():
    text = " ".join([HEADLINE] * 5)  # 60 words

    changed = perturbed(TYPOS, text, 1)

    pairs = list(zip(text.split(), changed.split(), strict=True))
    wrong = [(before, after) for before, after in pairs if before != after]
    assert len(wrong) == 6
    for before, after in wrong:
        assert after[0] == before[0]
        assert abs(len(before) - len(after)) <= 1


def test_each_way_of_mistyping_occurs():
    changed = [perturbed(TYPOS, "profit", seed) for seed in range(60)]

    assert {"pofit", "proft"} & set(changed), "a letter left out"
    assert {"porfit", "prfoit", "profti"} & set(changed), "two letters in the wrong order"
    assert {"peofit", "ptofit", "prifit", "propit", "prodit", "profut", "profot"} & set(changed), "a key beside it"
    assert all(word is not None and word != "profit" and word[0] == "p" for word in changed)


def test_a_symbol_is_swapped_everywhere_alike_for_one_that_the_text_does_not_name():
    changed = perturbed(TICKERS, "$AAPL $BRK.B - Apple up, $aapl at $150 and $MSFT?", 1)

    for seed in range(20):
        assert not {"AAPL", "MSFT"} & set(re.findall(r"\w+", perturbed(TICKERS, "$AAPL and $MSFT", seed)))
    match = re.fullmatch(r"\$(\S+) \$(\S+) - Apple up, \$(\S+) at \$150 and \$(\S+)\?", changed)
    assert match, changed
    first, second, again, last = match.groups()
    assert first == again
    assert len({first, second, last}) == 3
    assert not {"AAPL", "BRK.B", "MSFT"} & {first, second, last}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$AAPL - Apple rises", "Apple rises"),
        ("$CCL $RCL - Cruises fall", "Cruises fall"),
        ("$BRK.B, $T: Two rise", "Two rise"),
        ("$5 billion deal", None),
        ("Apple $AAPL rises", None),
        ("$CSX", None),
    ],
)
def test_tickers_in_front_are_removed_where_something_else_is_left(text, plain):
    assert without_leading_tickers(text) == plain


def test_the_signs_of_hashtags_go_and_their_words_stay():
    assert without_hashes("#Oil up, #earnings next; we are # 1") == "Oil up, earnings next; we are # 1"
    assert without_hashes("we are # 1") is None


def test_cyrillic_look_alikes_stand_in_a_tenth_of_the_words():
    changed = perturbed(CYRILLIC, HEADLINE, 1)

    wrong = [word for word in changed.split() if not word.isascii()]
    assert len(wrong) == 1
    assert all("\u0400" <= letter <= "\u04ff" for letter in wrong[0] if not letter.isascii())


def test_zero_width_spaces_cannot_be_seen_and_split_a_tenth_of_the_words():
    changed = perturbed(ZERO_WIDTH, HEADLINE, 1)

    assert changed.count("\u200b") == 1
    assert changed.replace("\u200b", "") == HEADLINE
    assert not re.search(r"\s\u200b|\u200b\s", changed)


def test_full_width_letters_are_the_same_letters_to_unicode():
    import unicodedata

    changed = perturbed(FULL_WIDTH, "Up 5%: AG's", 1)

    assert changed == "Ｕｐ ５％： ＡＧ＇ｓ"  # noqa: RUF001
    assert unicodedata.normalize("NFKC", changed) == "Up 5%: AG's"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("""It's "up" at ('AG')""", "It\u2019s \u201cup\u201d at (\u2018AG\u2019)"),
        ("It\u2019s \u201cup\u201d", """It's "up\""""),
    ],
)
def test_straight_marks_become_curly_and_curly_ones_straight(before, after):
    assert perturbed(QUOTES, before, 1) == after


def test_a_long_body_follows_the_title_on_the_next_line():
    title, body = perturbed(LONG_BODY, HEADLINE, 1).split("\n")

    assert title == HEADLINE
    assert len(body.split()) == LONG_BODY_WORDS == 3_000


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=80), st.integers(0, 5))
def test_any_text_is_changed_or_given_back_as_nothing_and_always_alike(kind, text, seed):
    text = clean(text)

    changed = perturbed(kind, text, seed)

    assert changed != text
    assert changed == perturbed(kind, text, seed)


def test_the_seed_alone_decides_what_is_changed():
    for kind in (TYPOS, TICKERS, CYRILLIC, ZERO_WIDTH):
        assert len({perturbed(kind, f"$KO - {HEADLINE}", 1) for _ in range(5)}) == 1
    assert perturbed(TYPOS, HEADLINE, 1) != perturbed(TYPOS, HEADLINE, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_applies_to_some_text(kind):
    text = "$ALBA - Alba Motors says it's cutting its outlook on weak demand"
    changed = KINDS[kind](text, Random(1))
    assert changed is not None
    assert changed != text


def test_probes_are_distinct_complete_and_empty_where_they_say_so():
    assert len(NEGATIONS) >= 25
    assert len({text for pair in NEGATIONS for text in pair}) == 2 * len(NEGATIONS)
    languages = {frozenset(headline.others) for headline in TRANSLATIONS}
    assert len(languages) == 1
    assert {"de", "fr", "es", "it", "pt"} <= next(iter(languages))
    assert {headline.sentiment for headline in TRANSLATIONS} == set(SENTIMENTS)
    for headline in TRANSLATIONS:
        assert len({headline.english, *headline.others.values()}) == 1 + len(headline.others)
    assert {clean(text) for text in EMPTY} == {""}
