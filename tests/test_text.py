"""What is left of a text before the model reads it."""

import pytest

from monitor.model.text import MAX_CHARS, clean


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("  Oil\n\tfalls  2% ", "Oil falls 2%"),
        ("AT&amp;T &lt;T&gt; falls", "AT&T <T> falls"),
        ("Oil falls https://t.co/x1 on glut www.example.com/a", "Oil falls on glut"),
        ("https://t.co/x1", ""),
        ("\uff2f\uff49\uff4c \uff46\uff41\uff4c\uff4c\uff53", "Oil falls"),
        ("pro\ufb01t of 2\u00a0bn", "profit of 2 bn"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("sales of 10\u00b2 Acme\u2122 don\u00b4t 1\u00bd", "sales of 10\u00b2 Acme\u2122 don\u00b4t 1\u00bd"),
        ("\uff48ttps://t.co/x1 falls", "falls"),
    ],
    ids=[
        "white space",
        "entities",
        "links",
        "only a link",
        "full width",
        "ligature",
        "composed",
        "kept marks",
        "full-width link",
    ],
)
def test_what_says_nothing_is_removed_and_letters_have_their_usual_form(text: str, left: str) -> None:
    assert clean(text) == left
    assert clean(left) == left


def test_no_more_is_looked_at_than_any_model_reads() -> None:
    assert len(clean("a" * (MAX_CHARS + 5))) == MAX_CHARS
    assert len(clean("\ufdfa" * MAX_CHARS)) <= MAX_CHARS, "a letter that stands for eighteen"
