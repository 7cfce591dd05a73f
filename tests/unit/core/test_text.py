"""Text of users is printed as it is, without what a terminal obeys."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from lungtune.core import terminal
from lungtune.core.text import brief, complain, printable

HOSTILE = "[/x] [bold]:smile: \x1b[2J\x9b31m\u202e"
SHOWN = "[/x] [bold]:smile: ␛[2J\ufffd31m\ufffd"


def test_control_characters_become_visible():
    assert printable(HOSTILE + "\r\x07") == SHOWN + "␍␇"


def test_lines_tabs_and_other_letters_stay():
    assert printable("größe\t肺\n") == "größe\t肺\n"


def test_long_word_is_cut_with_its_length():
    assert brief(f"seed {'9' * 5000} is too large") == f"seed {'9' * 40}...{'9' * 20} (5,000 characters) is too large"


def test_long_text_is_cut_with_its_length():
    text = "a b " * 5000
    assert brief(text) == f"{text[:4000]}... (20,000 characters)"


def test_ordinary_text_is_not_cut():
    text = f"/{'x' * 255} does not exist"
    assert brief(text) == text


def test_message_goes_to_stderr(capsys):
    complain(f"error: {HOSTILE}")
    assert capsys.readouterr() == ("", f"error: {SHOWN}\n")


@pytest.mark.parametrize("of", [str, Text])
def test_console_prints_text_as_it_is(capsys, monkeypatch, of):
    monkeypatch.setenv("COLUMNS", "100")
    table = Table("a")
    table.add_row(HOSTILE)
    console = terminal.console()
    console.print(of(HOSTILE))
    console.print(table)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 2
    console.print(Table(title=of(HOSTILE)))
    assert "\x1b" not in out + capsys.readouterr().out


@pytest.mark.parametrize("columns", ["0", "00", ""])
def test_console_has_a_width_whatever_columns_says(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    console = terminal.console()
    console.file = io.StringIO()
    assert console.width >= terminal.WIDTH
