"""Wrong command lines, spaces and recipes end in one sentence and exit code 2; right ones are accepted."""

from __future__ import annotations

import random
import re
import shutil
import sys

import pytest

from lungtune import commands
from lungtune.errors import DataError
from tests.faults import input_files, inputs

STOP = "the recipe is right."


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return an empty home; what would train, or read data, stops at once."""

    def stop(*args, **more):
        raise DataError(STOP)

    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("lungtune.retrain.inspect", stop)
    monkeypatch.setattr("lungtune.reopen.inspect", stop)
    monkeypatch.setattr("lungtune.data.sources.phantom.index", stop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def problem(home, monkeypatch, capsys):
    """Return a function that runs a case and returns what is wrong with its end; empty: nothing."""

    def judge(case):
        monkeypatch.setattr(sys, "argv", ["lungtune", *case.words])
        capsys.readouterr()
        try:
            commands.run()
        except SystemExit as left:
            code = left.code
        except Exception as error:  # what a user would see as a traceback
            return f"{type(error).__name__}: {error}"
        out, err = capsys.readouterr()
        err = re.sub(r"(?m)^.* \.\.\.\n", "", err)  # what it does, on a slow machine
        if any(sign in out + err for sign in ("\x1b", "\x9b", "Traceback")):
            return f"control characters or a traceback: {out[-300:]!r} {err[-300:]!r}"
        if STOP in err:
            code, err = 0, ""
        if code == 0:
            return "accepted" if case.accepted is False else err
        if code != 2 or case.accepted:
            return f"exit code {code}: {err}"
        if not re.match(r"error: (?!.*error: ).*([.?)]|lungtune [^.]*)\n\Z", err, re.DOTALL):
            return f"not one sentence: {out!r} {err!r}"
        if len(err) > 5000:
            return f"{len(err)} characters: {err[:200]}"
        left = sorted(home.rglob("*"))
        shutil.rmtree(home)
        home.mkdir()
        return f"left in the home: {left}" if left else ""

    return judge


@pytest.mark.parametrize("kind", ["lines", "settings", "spaces", "recipes", "places"])
def test_wrong_input_is_one_sentence(problem, fault, tmp_path, kind):
    rng = random.Random(kind)
    cases = {
        "lines": lambda: inputs.lines(rng, 90),
        "settings": lambda: inputs.settings(rng, 60),
        "spaces": lambda: input_files.spaces(rng, tmp_path, 60),
        "recipes": lambda: input_files.recipes(rng, tmp_path, 60),
        "places": lambda: input_files.places(tmp_path),
    }[kind]()
    with fault(f"wrong input: {kind}, generated", "one sentence, exit code 2, nothing left behind"):
        wrong = [f"{case.kind}: {str(case.words)[:300]}: {why}" for case in cases if (why := problem(case))]
    assert not wrong, "\n".join(wrong)
