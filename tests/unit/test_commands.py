"""The command line's mistakes are one sentence with a remedy, exit code 2; scripts are the same commands."""

import sys

import pytest

from lungtune import __version__, commands


@pytest.fixture
def left(monkeypatch, capsys):
    """Return a function that runs the command line and returns exit code, output and errors."""

    def run(*words, name=None):
        monkeypatch.setattr(sys, "argv", ["scripts/door.py", *words])
        with pytest.raises(SystemExit, match=r"^\d$") as exit:
            commands.run(name)
        return int(str(exit.value)), *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("serach", "there is no command 'serach'. Did you mean 'search'?"),
        ("--lsit", "there is no flag '--lsit' before a command. Did you mean 'list'?"),
        ("search --spcae x", "there is no flag or argument '--spcae'. Did you mean '--space'?"),
        ("search resume", "there is no flag or argument 'resume'. Did you mean '--resume'?"),
        (
            "data check /x/films",
            "there is no flag or argument '/x/films'. Write --data folder:/x/films, or another source: lungtune data "
            "sources.",
        ),
        (
            "search /x/t.CSV",
            "there is no flag or argument '/x/t.CSV'. Write --data table:/x/t.CSV, or another source: lungtune data "
            "sources.",
        ),
        (
            "data /x/films",
            "check|sources must be one of these, but got '/x/films'. Write lungtune data check --data folder:/x/films, "
            "or another source: lungtune data sources.",
        ),
        ("search clip_lora", "there is no flag or argument 'clip_lora'. Write --space clip_lora."),
        ("search nih:/x", "there is no flag or argument 'nih:/x'. Write --data nih:/x."),
        ("data check phantom,n=30", "there is no flag or argument 'phantom,n=30'. Write --data phantom,n=30."),
        (
            "data check --data /x/films",
            "A data source must be SOURCE:PATH, but got the path '/x/films'. Write folder:/x/films, or name the source "
            "of its data set (lungtune data sources).",
        ),
        ("clip_lora", "there is no command 'clip_lora'. Did you mean 'search --space clip_lora'?"),
        (
            "--space clip_lora search",
            "there is no flag '--space' before a command. Write it after the command: lungtune search --space ...",
        ),
        (
            "search --space clip_lora --set lr 1e-4",
            "--set takes KEY=VALUE in one word, so '1e-4' is one too many; quote values with spaces.",
        ),
        ("search --resume x-1", "there is no argument 'x-1'. Did you mean '--study x-1'?"),
        (
            "check --space a --space b",
            "--space must be given once, but is given 2 times (a shipped space or a YAML file; several: a,b,c).",
        ),
        ("check --space clip_lora --set lr=1 --set lr=2", "--set lr must be given once, but is given twice; keep one."),
        ("export --study x --out ~nobody-x", "there is no home folder for '~nobody-x'; write the path out."),
        ("search --seed -1", "--seed must be a whole number >= 0, but got '-1'."),
        ("search --seed 4294967296", "--seed must be a whole number <= 2147483647, but got '4294967296'."),
        ("search --trials 0", "--trials must be a whole number >= 1, but got '0'."),
        ("search --trials -3", "--trials must be a whole number >= 1, but got '-3'."),
        ("search --seed x", "--seed must be a whole number >= 0, but got 'x'."),
        ("search --budget 5", "--budget must be a time such as 90s, 30m, 2h or 1d, but got '5'."),
        ("search --trials", "Option '--trials' requires an argument."),
        ("export", "--study must be given, but is missing."),
        ("retrain", "RECIPE.yaml must be given, but is missing."),
        ("data chek", "check|sources must be one of these, but got 'chek'. Did you mean 'check'?"),
        ("synthesize --per-class A=x", "--per-class takes a whole number, or CLASS=NUMBER,..., but got 'A=x'."),
    ],
)
def test_a_wrong_command_line_is_one_sentence(left, words, sentence):
    command, *rest = words.split()
    assert left(command, *rest) == (2, "", f"error: {sentence}\n")
    if command in ("search", "export", "retrain", "data", "synthesize"):
        assert left(*rest, name=command) == (2, "", f"error: {sentence}\n")


def test_flags_may_stand_before_the_argument(left):
    code, out, _ = left("--json", "sources", name="data")
    assert code == 0
    assert "phantom" in out


def test_a_command_without_words_shows_help(left):
    code, out, _ = left()
    assert code == 0
    assert out.startswith("Usage: lungtune [OPTIONS] COMMAND")


def test_help_keeps_the_lines_of_its_text(left):
    code, out, _ = left("--help", name="search")
    assert code == 0
    assert out.startswith("Usage: door.py [OPTIONS]\n")
    assert "\nlungtune search --resume --study NAME [--trials N]         go on, or extend\n" in out


def test_version_is_the_packages(left):
    assert left("--version") == (0, f"{__version__}\n", "")
