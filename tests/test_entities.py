"""Watched entities as they are configured: what is refused, and the CSV file that may list them."""

import re
from pathlib import Path

import pytest

from monitor import config
from monitor.config import ConfigError
from monitor.entities import EntitySettings, read_entities
from monitor.model import checkpoint
from monitor.watchlist import Watchlist

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "entities.csv"


def _load(file: Path, more: str = "") -> config.Settings:
    toml = file.with_name("monitor.toml")
    toml.write_text(f'[entities]\nfile = "{file}"\n{more}', encoding="utf-8")
    return config.load(toml)


def test_a_row_says_what_an_entry_says(file: Path) -> None:
    file.write_text(
        "tickers,name,aliases,exclusions,ambiguous,requires,match_case,nested,topics\n"
        "AAPL;APC.DE,Apple Inc, Apple Computer ;the fruit company,apple pie,"
        "Apple,iPhone;shares,yes,no,Energy | Oil;IPO\n"
    )
    assert read_entities(file) == (
        EntitySettings(
            name="Apple Inc",
            aliases=("Apple Computer", "the fruit company"),
            tickers=("AAPL", "APC.DE"),
            exclusions=("apple pie",),
            ambiguous=("Apple",),
            requires=("iPhone", "shares"),
            match_case=True,
            nested=False,
            topics=("Energy | Oil", "IPO"),
        ),
    )


def test_a_spreadsheets_marks_blank_rows_and_html_are_no_trouble(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfname, aliases,match_case\r\n\r\nAT&amp;T,ATT;AT &amp; T,\r\n,,\r\nB\r\n")
    assert read_entities(file) == (EntitySettings(name="AT&T", aliases=("ATT", "AT & T")), EntitySettings(name="B"))


def test_entries_come_first_and_rows_after_them(file: Path) -> None:
    file.write_text("name\nB\nC\n")
    settings = _load(file, '[[watchlist]]\nname = "A"\n')
    assert [entity.name for entity in settings.watchlist] == ["A", "B", "C"]


def test_the_file_can_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("name\nA\n")
    monkeypatch.setenv("SENTIMENT_ENTITIES__FILE", str(file))
    assert config.load().watchlist == (EntitySettings(name="A"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"FILE: is empty; its first row names the columns: name, aliases"),
        ("name,alias\nA,b\n", r"FILE, row 1: unknown column 'alias', expected one of .*; did you mean 'aliases'\?"),
        ("aliases\nA\n", r"FILE, row 1: there is no column 'name'"),
        ("name,name\nA\n", r"FILE, row 1: column 'name' is there twice; keep one"),
        ("name;aliases\nA;b\n", r"FILE, row 1: its columns are separated by ';'; separate them by commas"),
        ("name\taliases\nA\tb\n", r"FILE, row 1: its columns are separated by '\\t'; separate them by commas"),
        ("name,aliases\nA,\n,b\n", r"FILE, row 3, column name: '': empty; give a text, or take the entry out"),
        ("name,aliases\nA,\n\nB,c;;d\n", r"FILE, row 4, column aliases: '': empty; give a text"),
        ("name,aliases\nA,?\n", r"FILE, row 2, column aliases: '\?': has no letter or digit"),
        ('name\n"A\nB"\n', r"FILE, row 2, column name: 'A\\nB': holds a line break"),
        ("name\n" + "A" * 101, r"FILE, row 2, column name: 'A+': string should have at most 100 characters"),
        ("name,tickers\nA,AAPL;msft\n", r"FILE, row 2, column tickers: 'msft': a ticker is given in capitals"),
        ("name,tickers\nA,$AAPL\n", r"FILE, row 2, column tickers: '\$AAPL': .* without \$ and exchange"),
        ("name,match_case\nA,maybe\n", r"FILE, row 2, column match_case: 'maybe': input should be a valid boolean"),
        ("name,requires\nA,b\n", r"FILE, row 2: requires is given without ambiguous"),
        ("name,ambiguous\nA,A\n", r"FILE, row 2: ambiguous is given without requires"),
        ("name,tickers\nA,a\nB,b\n,C\n", r"FILE, row 2, column tickers: 'a': .* \(and 2 more\)"),
        ("name\nApple\nB\nAPPLE\n", r"FILE, row 4, column name: 'APPLE': is the name in row 2 too; merge"),
        (
            "name,aliases\nA,b,c\n",
            r"FILE, row 2: has 3 cells, but there are 2 columns; put a cell that holds a comma",
        ),
        ('name,aliases\nA,"b\n', r"FILE, row 2: not CSV: unexpected end of data"),
        (b"name\nA\nCaf\xe9\n", r"FILE, line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("name\nA\n".encode("utf-16"), r"FILE: is UTF-16; save the file as UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_row_column_value_and_what_was_expected(
    file: Path, content: str | bytes, message: str
) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match="^" + message.replace("FILE", re.escape(str(file)))):
        _load(file)


def test_the_readmes_examples_are_valid(file: Path) -> None:
    section = README.split("\n## Watched entities\n", 1)[1].split("\n## ", 1)[0]
    toml, rows = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[0] for kind in ("toml", "csv"))
    file.write_text(rows, encoding="utf-8")
    listed = _load(file, toml).watchlist
    assert [entity.name for entity in listed] == ["Shell", "Banks", "Apple", "Harrowgate Trust Bank"]
    watchlist = Watchlist(listed, checkpoint.read("default").info.tasks["topic"])
    assert watchlist.find("Shell lifts gas output, says Harrowgate Trust Bank", "Earnings") == (
        "Shell",
        "Banks",
        "Harrowgate Trust Bank",
    )


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"entities\.csv: cannot be read \(No such file.*entities\.file names a CSV"
    ):
        _load(file)


def test_a_name_in_the_file_and_in_an_entry_is_refused(file: Path) -> None:
    file.write_text("name\nApple\n")
    with pytest.raises(ConfigError, match=r"entities\.csv: 'Apple' is named by \[\[watchlist\]\] too; merge the two"):
        _load(file, '[[watchlist]]\nname = "apple"\n')
