"""Command lines as users mistype them, drawn from a seed; each says if it must be accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import typer

from lungtune import catalog, commands
from lungtune.core import params as parameters
from lungtune.core.params import ParamSpec

DIGITS = "9" * 5000
NO_COUNT = ("0", "-1", "1.5", "x", "", "1e3", "١", "½", "0x10", "1,000", DIGITS, "10000000000")
NO_TIME = ("5", "0m", "-3h", "30 minutes", "h", "", "infh", "nanm", "1w", "1h30m")
NO_PATH = ("", "  ", "~nobody_of_that_name/x")
NO_NUMBER = (
    *(".nan", ".inf", "-.inf", "true", "null", "x", "[]", "[1]", "{}", "2026-01-31", "1_000", DIGITS, "'''"),
    "[[1], [2]]",
)

COUNTS = (("search", "--trials"), ("export", "--top"), ("retrain", "--seeds"), ("data", "--folds"), ("ui", "--port"))
PATHS = (("export", "--out"), ("export", "--optuna"), ("retrain", "--out"), ("search", "--bank"))
DO_NOT_FIT = (
    "export --study x --optuna y.db --top 2",
    "export --study x --optuna y.txt",
    "search --resume",
    "search --resume --study none",
    "search --resume --study none --space clip_lora",
    "search --space clip_lora,clip_lora",
    "search --space clip_head,sd_lora",
    "search --space clip_lora --engine hosts --set scheduler=pbt",
    "search --space clip_lora --engine ray",
    "search --space clip_lora --profile dmeo",
    "search --space clip_lora --data fodler:x",
    "search --space clip_lora --data folder:missing",
    "search --space clip_lora --data phantom,n=3,n=4",
    "search --space clip_lora --study ../x",
    "search --space clip_lora --bank missing",
    "search --space clip_lor",
    "search clip_lora",
    "search --space",
    "check",
    "check --space clip_lora.yml",
    "clone none 3 --set lr=1e-4",
    "clone none",
    "export --study none",
    "export --study ../../x",
    "ui --sync none",
    "retrain none",
    "retrain none.yaml --test",
    "retrain . --seeds 3",
    "synthesize none.yaml",
    "synthesize --per-class -3",
    "synthesize --per-class normal=1,=2",
    "data check --data folder",
    "data check --data nothing:x",
    "data check --data table:/dev/zero",
    "data look",
    "pretrain tiny_vitt",
    "pretrain demo_generator --seed 3",
)
RIGHT = (
    "--version",
    "list",
    "search --list",
    "data sources",
    "check --space clip_lora",
    "check --trials 9 --space res_unet",
    "check --profile full --space clip_head,vit_b16_head",
    "search --space vit_lora --check --trials 3",
)


class Case(NamedTuple):
    """A command line.

    Attributes:
        kind: of the mistake.
        words: of the command line.
        accepted: if it must be accepted; None where either may be.
    """

    kind: str
    words: tuple[str, ...]
    accepted: bool | None = False


def _commands() -> dict[str, typer.core.TyperCommand]:
    return typer.main.get_command(commands.app).commands  # type: ignore[attr-defined, no-any-return]


def typo(rng: random.Random, word: str, known: set[str]) -> str:
    """Return ``word`` with one letter lost, doubled or exchanged, which is none of ``known``."""
    while True:
        at = rng.randrange(2 if word.startswith("--") else 0, len(word) - 1)
        change = rng.choice(["lose", "double", "swap"])
        here, there = word[at], word[at + 1]
        middle = {"lose": there, "double": here + here + there, "swap": there + here}[change]
        result = word[:at] + middle + word[at + 2 :]
        if result not in known:
            return result


def lines(rng: random.Random, count: int) -> Iterator[Case]:
    """Yield command lines with a wrong flag, command, number, path or combination, and some right ones."""
    every = _commands()
    flags = {name: [o for p in command.params for o in p.opts if o.startswith("--")] for name, command in every.items()}
    for _ in range(count):
        name = rng.choice(sorted(every))
        flag = rng.choice(flags[name] or ["--help"])
        valued = [p.opts[0] for p in every[name].params if p.param_type_name == "option" and not p.is_flag]  # type: ignore[attr-defined]
        yield rng.choice(
            [
                Case("flag mistyped", (name, typo(rng, flag, {f for known in flags.values() for f in known}))),
                Case("command mistyped", (typo(rng, name, set(every)),)),
                Case("no value", (name, rng.choice(valued or ["--none"]))),
                Case("no count", (*rng.choice(COUNTS), rng.choice(NO_COUNT))),
                Case("no seed", ("search", "--space", "clip_lora", "--seed", rng.choice(NO_COUNT[1:]))),
                Case("no time", ("search", "--space", "clip_lora", "--budget", rng.choice(NO_TIME))),
                Case("no path", (*rng.choice(PATHS), rng.choice(NO_PATH))),
                Case("flag twice", ("check", "--space", "clip_lora", "--space", "vit_lora")),
                Case("one word more", ("list", "\x1b[2J[/x]")),
                Case("do not fit", tuple(rng.choice(DO_NOT_FIT).split())),
                Case("do not fit", tuple(rng.choice(DO_NOT_FIT).split())),
                Case("right", tuple(rng.choice(RIGHT).split()), True),
            ]
        )


def settings(rng: random.Random, count: int) -> Iterator[Case]:
    """Yield ``--set`` of a parameter of a shipped space: values, lists and ranges, inside and outside its bounds."""
    names = sorted(catalog.spaces())
    for _ in range(count):
        name = rng.choice(names)
        family = catalog.family(catalog.space(name).family)
        spec = rng.choice([s for s in parameters.specs(family.Params).values() if s.notation is None])
        kind, value, accepted = (_number if spec.choices is None and spec.type in (int, float) else _word)(rng, spec)
        yield Case(kind, ("check", "--space", name, "--set", f"{spec.name}={value}"), accepted)
    yield Case("no setting", ("check", "--space", "clip_lora", "--set", "lr"))
    yield Case("no key", ("check", "--space", "clip_lora", "--set", "=3"))
    yield Case("key twice", ("check", "--space", "clip_lora", "--set", "lr=1e-4", "--set", "lr=1e-3"))
    yield Case("nested", ("check", "--space", "clip_lora", "--set", "lr=" + "[" * 20_000))
    yield Case("nested", ("check", "--space", "clip_lora", "--set", "lr=" + "{a: " * 3_000))
    for key in ("trials", "slots", "max_slots", "fidelity.max", "fidelity.eta", "scheduler.grace"):
        yield Case("no number", ("check", "--space", "clip_lora", "--set", f"{key}={rng.choice(NO_NUMBER)}"))


def _number(rng: random.Random, spec: ParamSpec) -> tuple[str, str, bool]:
    low = spec.low if spec.low is not None else 1
    high = spec.high if spec.high is not None else low + 100
    if spec.type is int:
        low, high = math.ceil(low), math.floor(high)
        return rng.choice(_ranges(low, high, 1 if high > low else 0, str))
    return rng.choice(_ranges(low, high, (high - low) / 4, repr))


def _ranges(low: float, high: float, step: float, write: Callable[[float], str]) -> list[tuple[str, str, bool]]:
    a, b = write(low), write(high)
    span = f"low: {a}, high: {b}"
    return [
        ("value", a, True),
        ("value", b, True),
        ("range", f"{{{span}}}", low < high),
        ("log", f"{{{span}, log: true}}", 0 < low < high),
        ("log and step", f"{{{span}, log: true, step: {write(step or 1)}}}", False),
        ("reversed", f"{{low: {b}, high: {a}}}", False),
        ("half a range", f"{{low: {a}}}", False),
        ("unknown key", f"{{{span}, setp: 1}}", False),
        ("no list", f"[{a}]", False),
        ("list of equals", f"[{a}, {a}]", False),
        ("unclosed", f"{{low: {a}, high: {b}", False),
        ("arrow", f"{a}..{b}", False),
        *(("step", f"{{{span}, step: {wrong}}}", False) for wrong in ("0", "-1", ".nan", ".inf", "true", "x", DIGITS)),
        ("step too wide", f"{{{span}, step: {write((high - low) * 2 + 1)}}}", False),
        *(("bound", f"{{low: {a}, high: {wrong}}}", False) for wrong in NO_NUMBER),
        *(("no number", wrong, False) for wrong in NO_NUMBER),
        ("text", "many", False),
    ]


def _word(rng: random.Random, spec: ParamSpec) -> tuple[str, str, bool]:
    choices = ["true", "false"] if spec.type is bool else list(map(str, spec.choices or ("a", "b")))
    one = rng.choice(choices)
    return rng.choice(
        [
            ("choice", one, True),
            ("choices", f"[{', '.join(choices)}]", len(choices) > 1),
            ("choices of equals", f"[{one}, {one}]", False),
            ("no choices", "[]", False),
            ("nested choices", f"[[{one}], [{one}]]", False),
            ("range of choices", "{low: 0, high: 1}", False),
            *([("unknown choice", f"{one}[/x]\x1b]0;x\x07", False)] if spec.choices or spec.type is bool else []),
            *(("no choice", wrong, False) for wrong in (".nan", "null", "{}", "[true, null]") if wrong not in choices),
        ]
    )
