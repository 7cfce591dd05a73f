"""Spaces and recipes as users mutilate them, drawn from a seed: files, and what is no file."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lungtune.core.paths import ROOT, SPACES
from tests.faults.inputs import DIGITS, Case, typo

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

Edit = Callable[[random.Random, str], str | bytes]
Change = tuple[str, Edit, bool | None]
"""Kind, function of the text of a right file, and if the result must be accepted (None: either)."""


def _line(key: str, line: str) -> Edit:
    """Replace the line of a top-level key, and what belongs to it, by ``line``; append it where there is none."""

    def change(rng: random.Random, text: str) -> str:
        changed, count = re.subn(rf"(?m)^{key}:.*\n(?:[ #].*\n|- .*\n)*", lambda _: line, text)
        return changed if count else text + line

    return change


def _entry(key: str, line: str) -> Edit:
    """Do as :func:`_line` with an entry of ``provenance``."""

    def change(rng: random.Random, text: str) -> str:
        head, block = text.split("provenance:\n")
        changed, count = re.subn(rf"(?m)^  {key}:.*\n(?:    .*\n)*", lambda _: line, block)
        return f"{head}provenance:\n{changed if count else block + line}"

    return change


def _append(text: str | bytes) -> Edit:
    more = text if isinstance(text, bytes) else text.encode()
    return lambda rng, before: before.encode() + more


def _whole(content: str | bytes) -> Edit:
    return lambda rng, before: content


def _flipped(rng: random.Random, text: str) -> bytes:
    raw = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        raw[rng.randrange(len(raw))] = rng.choice([*b"{}[]:,#&*!|>'\"%@`- \n\t\0", 0x80, 0xFF, 0x1B])
    return bytes(raw)


def _wrong(values: Mapping[str, Sequence[str]], edit: Callable[[str, str], Edit], indent: str = "") -> list[Change]:
    return [
        (f"{key}: {value[:30]}", edit(key, f"{indent}{key}: {value}\n"), False)
        for key, several in values.items()
        for value in several
    ]


FIDELITIES = (
    *("3", "{max: x}", "{max: .nan, min: 1}", "{max: 3, min: 0}", "{max: .inf, min: 1}", "{epochs: 3}"),
    *(f"{{max: {DIGITS}, min: 1}}", "{max: 3 passes, min: 1}", "{max: 1e5, min: 1e-9}", "{max: 3, min: 1, eta: 1}"),
)
ANY = {
    "summary": ("3", "[a]", "{a: b}", "null", "!!python/object/apply:os.system [true]"),
    "family": ("clip_lroa", '"[/x]\\e[2J"', "../../x", "3", "null", "[clip_lora]"),
    "params": ("3", "[lr]", "null", "{lr: }", "{lrr: 1}"),
    "base": ("x", "[1]", "{image_size: 1e9}", "{weights: {low: 1, high: 2}}"),
    "fidelity": FIDELITIES,
    "objective": ("auc", "3", "[macro_f1]", "''", "classification.", ".f1"),
    "seed": ("-1", "x", "1.5", "null", DIGITS),
}
OF_SPACE = {
    "trials": ("0", "-1", "1.5", "x", "true", "null", DIGITS, "9999999999"),
    "sampler": ("tpee", "3", "null", "[tpe]"),
    "start": ("3", "[3]", "{lr: 1}", "[{lrr: 1}]", "[{lr: .nan}]", "[[]]"),
    "profiles": ("3", "{full: 3}", "{full: {trials: x}}", "{full: {family: x}}"),
    "scheduler": ("ashaa", "3", "null", "[asha]", "{name: none, x: 1}", "{nam: asha}", "../asha"),
    "segments": ("[{params: {}, seed: 1, until: 1}]",),
}
OF_RECIPE = {
    "provenance": ("3", "{}", "null"),
    "segments": (
        *("3", "[3]", "[{}]", "[{params: 3, seed: 1, until: 1}]", "[{params: {}, seed: -1, until: 1}]"),
        *("[{params: {}, seed: 1, until: .nan}]", f"[{{params: {{}}, seed: 1, until: {DIGITS}}}]"),
    ),
}
ENTRIES = {
    "study": ("3", "[x]"),
    "study_id": ("3", "null"),
    "trial": ("-1", "x", "1.5", DIGITS),
    "split": ("3", "{}"),
    "fidelity": ("0.7", "x", ".nan", "-1", DIGITS, "1.5 passes"),
    "split_seed": ("-1", "x", DIGITS, "1.5"),
    "score": ("3", "{}", "{value: x}", "{value: .nan}", "{value: true}", "[0.4]"),
    "fingerprint": ("3", "null"),
    "bank": ("3", "{path: 3}", "{path: x, key: y, hash: z, counts: 3}"),
}
FILES: list[Change] = [
    ("as it is", lambda rng, text: text, True),
    ("byte-order mark", lambda rng, text: b"\xef\xbb\xbf" + text.encode(), True),
    ("CRLF", lambda rng, text: text.replace("\n", "\r\n").encode(), True),
    ("markup", _line("summary", 'summary: "[/x] [bold :smile: \\e[2J\\x9b31m \\u202e"\n'), True),
    ("UTF-8 comment", _append("# Größe 肺\n"), True),
    ("bytes flipped", _flipped, None),
    ("cut short", lambda rng, text: text[: rng.randrange(len(text))], None),
    ("UTF-16", lambda rng, text: text.encode("utf-16"), False),
    ("Latin-1", _append(b"# Gr\xf6\xdfe\n"), False),
    ("NUL", _append("# \0\n"), False),
    ("tab", _append("x:\n\ty: z\n"), False),
    ("key twice", _append("family: clip_lora\n"), False),
    ("aliases", _append(BOMB), False),
    ("alias", _line("summary", "summary: &a x\nobjective: *a\n"), False),
    ("nested", _append("x: " + "[" * 20_000), False),
    ("key mistyped", lambda rng, text: text + f"{typo(rng, 'objective', set())}: x\n", False),
    ("key is no text", _append("[1, 2]: x\n"), False),
    ("key is a number", _append("1: x\n"), False),
    ("empty", _whole(""), False),
    ("comment only", _whole("# nothing\n"), False),
    ("list", _whole("- a\n- b\n"), False),
    ("word", _whole("clip_lora"), False),
    ("binary", _whole(bytes(range(256)) * 20), False),
    ("two documents", lambda rng, text: text + "---\n" + text, False),
    ("large", _append("# x\n" * 100_000), False),
    ("no family", _line("family", ""), False),
    ("no params", _line("params", ""), False),
]
SPACE: list[Change] = _wrong(ANY | OF_SPACE, _line)
RECIPE: list[Change] = [
    *_wrong(ANY | OF_RECIPE, _line),
    *_wrong(ENTRIES, _entry, "  "),
    *((f"no {key}", _entry(key, ""), False) for key in ENTRIES if key != "bank"),
    ("no provenance", _line("provenance", ""), False),
    ("no seed", _line("seed", ""), False),
    ("a range", lambda rng, text: text.replace("  lr: ", "  lr: {low: 1e-5, high: 1e-3}  # "), False),
    ("a unit", lambda rng, text: text.replace("  lr: ", "  lr: 1e-4 per step  # "), False),
    ("a percentage", lambda rng, text: text.replace("  weight_decay: ", "  weight_decay: 3 %  # "), False),
    ("of a newer version", _append("  folds: 5\n"), True),
    ("of a newer version", _append("folds: 5\n"), False),
    ("study of markup", _entry("study", '  study: "[/x]\\e[2J"\n'), True),
    ("study is a path", _entry("study", "  study: ../../x\n"), True),
]


def spaces(rng: random.Random, folder: Path, count: int) -> Iterator[Case]:
    """Yield checks of changed space files, which are written to ``folder``."""
    shipped = sorted(SPACES.glob("*.yaml"))
    for number in range(count):
        kind, change, accepted = rng.choice([*FILES, *SPACE])
        text = rng.choice(shipped).read_text(encoding="utf-8")
        file = _written(folder / f"space {number}.yaml", change(rng, text))
        yield Case(kind, ("check", "--profile", "full", "--space", str(file)), accepted)


def recipes(rng: random.Random, folder: Path, count: int) -> Iterator[Case]:
    """Yield retrainings of changed recipes, which are written to ``folder``."""
    assert ROOT is not None
    old = sorted((ROOT / "tests" / "fixtures" / "recipes_0.1").glob("*.yaml"))
    for number in range(count):
        kind, change, accepted = rng.choice([*FILES, *RECIPE])
        text = rng.choice(old[-1:] if accepted else old).read_text(encoding="utf-8")  # the last one needs no bank
        yield Case(kind, ("retrain", str(_written(folder / f"recipe {number}.yaml", change(rng, text)))), accepted)


def places(folder: Path) -> Iterator[Case]:
    """Yield commands that name something else than a file."""
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "gone.yaml").symlink_to(folder / "nothing")
    (folder / "round.yaml").symlink_to(folder / "round.yaml")
    some = (
        "folder.yaml",
        "pipe.yaml",
        "gone.yaml",
        "round.yaml",
        "none.yml",
        "x" * 300,
        "[/x].yaml",
        "\x1b[2J",
        "a\nb",
    )
    for name in some:
        for words in (("check", "--space"), ("retrain",), ("synthesize",), ("search", "--space")):
            yield Case(f"place {name[:9]!r}", (*words, str(folder / name)))
    for device in ("/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem"):
        yield Case("device", ("check", "--space", device))
        yield Case("device", ("retrain", device))


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
