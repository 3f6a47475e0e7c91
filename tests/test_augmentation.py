import random

import pytest

from pipelines.augmentation import body, dresses, plain, varied, wired
from pipelines.perturbations import KINDS

TEXTS = [f"$CO{chr(65 + n % 26)} - oil rises #{n} percent" for n in range(400)]


def dressed(**shares):
    given = {"plain_share": 0.3, "varied_share": 0.2, "wired_share": 0.1, "body_share": 0.0, "seed": 1}
    return list(dresses(TEXTS, **(given | shares)))


def test_the_last_dress_is_the_texts_own_and_the_others_come_as_often_as_asked():
    shown = dressed()

    assert [dress.share for dress in shown] == [0.3, 0.2, 0.1, 1.0]
    assert shown[-1].texts == TEXTS
    assert shown[0].texts[7] == "oil rises #7 percent"


def test_a_text_has_its_body_in_every_dress_so_that_its_length_stays():
    shown = dressed(body_share=0.25)
    bodies = [text[len(own) :] for text, own in zip(shown[-1].texts, TEXTS, strict=True)]

    assert 60 <= sum(map(bool, bodies)) <= 140
    for dress in shown:
        assert all(text.endswith(body) for text, body in zip(dress.texts, bodies, strict=True))


def test_the_same_seed_gives_the_same_dresses():
    assert dressed(body_share=0.2) == dressed(body_share=0.2)
    assert dressed(body_share=0.2) != dressed(body_share=0.2, seed=2)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("$AAPL - Apple rises", "Apple rises"),
        ("$CCL $RCL - Cruises fall", "Cruises fall"),
        ("$BRK.B, $T: Two rise", "Two rise"),
        ("$5 billion deal", "$5 billion deal"),
        ("Apple $AAPL rises", "Apple $AAPL rises"),
        ("$CSX", "$CSX"),
    ],
)
def test_ticker_symbols_in_front_are_dropped_unless_nothing_would_be_left(text, bare):
    assert plain(text) == bare


def test_a_text_is_varied_in_its_symbols_hash_signs_and_case():
    made = {varied("$AAPL - #Apple Rises", ["$MSFT"], random.Random(seed)) for seed in range(20)}

    assert made == {"$MSFT - APPLE RISES", "$msft - apple rises", "$MSFT - Apple Rises"}


def test_a_mark_stands_before_or_behind_and_the_text_stays_whole():
    marked = [wired("Oil rises", random.Random(n)) for n in range(200)]

    assert all("Oil rises" in text and text != "Oil rises" for text in marked)
    assert any(text.startswith("Oil rises") for text in marked)
    assert any(text.endswith("Oil rises") for text in marked)


@pytest.mark.parametrize("name", ["Reuters", "Bloomberg", "CNBC", "BREAKING", "UPDATE 1-"])
def test_the_marks_that_robustness_is_measured_with_are_never_trained_on(name):
    assert any(name in (KINDS[kind]("oil rises", random.Random(1)) or "") for kind in KINDS)
    assert not any(name in wired("oil rises", random.Random(n)) for n in range(3_000))


def test_a_body_is_boilerplate_or_other_news():
    bodies = [body(["Gold falls."], random.Random(n)) for n in range(50)]

    assert any(set(text.split(". ")) <= {"Gold falls", "Gold falls."} for text in bodies)
    assert any("Gold" not in text for text in bodies)
