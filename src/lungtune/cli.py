"""Flags, error sentences and exit codes shared by the commands.

Exit codes: 0 done; 1 an error of ours; 2 a user's mistake; 3 stopped, and can go on (``errors.STOPPED``).
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from lungtune.core import machine, paths, space_index, stopping, streams, yamlfile
from lungtune.core.params import MOST
from lungtune.core.text import complain
from lungtune.errors import STOPPED, LungtuneError, MachineError, SpaceError, UserError, did_you_mean

_TABLES = (".csv", ".csv.gz", ".tsv", ".xlsx")

_OF_PATHS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)
"""Errors of a path that the user chose."""


class Command(TyperCommand):
    """A command that shows its help as it is written, and explains a wrong flag in one sentence."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring, its line breaks kept."""
        formatter.write_paragraph()
        formatter.write("".join(f"{line}\n" for line in (self.help or "").splitlines()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the flags.

        Raises:
            UserError: a flag or an argument is unknown, missing, or does not take the value.
        """
        ctx.allow_extra_args = True  # named below
        try:
            *_, given = self.make_parser(ctx).parse_args(list(args))
            rest = super().parse_args(ctx, args)
        except typer.TyperException as error:
            raise UserError(self._sentence(error)) from error
        if rest:
            raise UserError(self._left_over(rest[0], ctx.params))
        for param in given:
            if param.param_type_name == "option" and not param.multiple and given.count(param) > 1:
                times, help = given.count(param), getattr(param, "help", "")
                raise UserError(f"{param.opts[0]} must be given once, but is given {times} times ({help}).")
        return rest

    def _sentence(self, error: typer.TyperException) -> str:
        if hasattr(error, "possibilities"):
            return self._unknown(str(getattr(error, "option_name", "")))
        param = getattr(error, "param", None)
        if param is None:
            return error.format_message()
        name = param.opts[0] if param.opts[0].startswith("-") else param.metavar
        problem = error.message or "must be given, but is missing"
        return f"{name} {problem}{'' if problem.endswith(('.', '?')) else '.'}"

    def _left_over(self, word: str, given: Mapping[str, Any]) -> str:
        """Return the sentence on a word that belongs to no flag, beside the values that are given."""
        if word.startswith("-"):
            return self._unknown(word)
        if given.get("set_"):
            return f"--set takes KEY=VALUE in one word, so '{word}' is one too many; quote values with spaces."
        if given.get("resume"):
            return f"there is no argument '{word}'. Did you mean '--study {word}'?"
        return self._unknown(word)

    def _unknown(self, word: str) -> str:
        flags = [flag for param in self.params for flag in param.opts if flag.startswith("--")]
        return f"there is no flag or argument '{word}'.{written(word, flags) or did_you_mean(word, [*flags, '--help'])}"


class Group(TyperGroup):
    """The commands; an unknown one is explained in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the flags before the command's name.

        Raises:
            UserError: there is no such flag.
        """
        try:
            return super().parse_args(ctx, args or ["--help"])
        except typer.TyperException as error:
            word = str(getattr(error, "option_name", ""))
            owners = [name for name, command in self.commands.items() if any(word in p.opts for p in command.params)]
            hint = f" Write it after the command: lungtune {owners[0]} {word} ..." if owners else ""
            raise UserError(
                f"there is no flag '{word}' before a command.{hint or did_you_mean(word, self.commands)}"
            ) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command.

        Raises:
            UserError: there is none of that name.
        """
        if args[0] not in self.commands and args[0] in space_index.files():
            raise UserError(f"there is no command '{args[0]}'. Did you mean 'search --space {args[0]}'?")
        if args[0] not in self.commands:
            raise UserError(f"there is no command '{args[0]}'.{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def written(word: str, flags: Sequence[str]) -> str:
    """Return how a value without its flag is written: of ``--data`` a path or a source, of ``--space`` a space.

    Args:
        word: what was given.
        flags: of the command.

    Returns:
        A sentence after a blank; empty where the word is neither.
    """
    from lungtune import catalog
    from lungtune.data import sources

    if word.startswith("-"):
        return ""
    path, known = paths.expanded(word), sources.names()
    if "--space" in flags and (word in catalog.spaces() or path.suffix in (".yaml", ".yml")):
        return f" Write --space {shlex.quote(word)}."
    if "--data" not in flags:
        return ""
    if re.split("[:,]", word)[0] in known:
        return f" Write --data {shlex.quote(word)}."
    if "/" in word or path.exists():
        kind = "table" if path.name.lower().endswith(_TABLES) else "folder"
        return f" Write --data {shlex.quote(f'{kind}:{word}')}, or another source: lungtune data sources."
    return ""


def option(flag: str, metavar: str | None, text: str, **more: Any) -> Any:
    """Return a flag; its help text states the default. ``metavar`` names the value; None for a flag without value."""
    return typer.Option(flag, metavar=metavar, help=text, show_default=False, **more)


def argument(metavar: str, text: str, **more: Any) -> Any:
    """Return a positional argument."""
    return typer.Argument(metavar=metavar, help=text, show_default=False, **more)


def whole(text: str) -> int:
    """Read a whole number >= 0: a seed, a trial's number."""
    return _number(text, 0, 2**31 - 1)


def positive(text: str) -> int:
    """Read a whole number >= 1: a count."""
    return _number(text, 1, MOST)


def _number(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", str(text)) or int(text) < least:
        raise typer.BadParameter(f"must be a whole number >= {least}, but got '{text}'")
    if int(text) > most:
        raise typer.BadParameter(f"must be a whole number <= {most}, but got '{text}'")
    return int(text)


def one_gpu(text: str) -> str:
    """Read the name of one GPU."""
    if "," in text:
        raise typer.BadParameter(f"must name one GPU, but got '{text}'; only a search uses several")
    return text


def path(text: str) -> Path:
    """Read a path; ``~`` is the home folder."""
    if not str(text).strip():
        raise typer.BadParameter("must name a path, but is empty")
    return paths.expanded(text)


def duration(text: str) -> float:
    """Read a time such as ``90s``, ``30m``, ``2h`` or ``1d`` in seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"must be a time such as 90s, 30m, 2h or 1d, but got '{text}'")
    return seconds


def settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read ``--set`` pairs: ``key=value``, the value as in a space file.

    Raises:
        SpaceError: a pair has no ``=``, its value is not readable, or a key is given twice.
    """
    chosen: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise SpaceError(f"--set takes KEY=VALUE, but got '{pair}'.")
        if key in chosen:
            raise SpaceError(f"--set {key} must be given once, but is given twice; keep one.")
        chosen[key] = yamlfile.parse(value, f"--set {key}")
    return chosen


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and leave with its exit code; a user's mistake ends in one sentence, no traceback.

    SIGINT, SIGTERM and SIGHUP end it with ``STOPPED``; output that nobody reads any more is dropped.
    """
    streams.keep_going()
    parent = stopping.part_of()
    with stopping.stoppable():
        if parent is not None:
            stopping.end_with(parent)
        code = _code(main, quiet=parent is not None)
        atexit.register(stopping.ignore)
    sys.exit(code)


def _code(main: Callable[[], int | None], quiet: bool) -> int:
    """Run ``main``, print the sentence of an error, return the exit code; ``quiet``: no sentence on a stop."""
    try:
        code = main() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.Exit as left:
        code = left.exit_code
    except UserError as error:
        complain(f"error: {error}")
        code = 2
    except MachineError as error:
        complain(f"error: {error}")
        code = STOPPED
    except LungtuneError as error:
        complain(f"error: {error}")
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        what = error.strerror or str(error)
        complain(f"error: {f'{os.fsdecode(error.filename)}: ' if error.filename else ''}{what}.")
        code = STOPPED if machine.kind(error) else 2 if error.filename and error.errno in _OF_PATHS else 1
    except stopping.Stopped as stop:
        if not quiet:
            complain(f"stopped ({stop.reason}). Give the same command again to go on.")
        code = STOPPED
    except KeyboardInterrupt:
        complain("stopped.")
        code = 130
    return code
