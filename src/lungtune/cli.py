"""Flags, error sentences and exit codes shared by the commands.

Exit codes: 0 done; 1 an error of ours; 2 a user's mistake; 3 stopped, and can go on (``errors.STOPPED``).
"""

from __future__ import annotations

import atexit
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from lungtune.core import machine, stopping, streams, yamlfile
from lungtune.errors import STOPPED, LungtuneError, MachineError, SpaceError, UserError, did_you_mean

_TABLES = (".csv", ".csv.gz", ".tsv", ".xlsx")


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
            rest = super().parse_args(ctx, args)
        except typer.TyperException as error:
            raise UserError(self._sentence(error)) from error
        if rest:
            raise UserError(self._unknown(rest[0]))
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
            raise UserError(
                f"there is no flag '{word}' before a command.{did_you_mean(word, self.commands)}"
            ) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command.

        Raises:
            UserError: there is none of that name.
        """
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
    path, known = Path(word).expanduser(), sources.names()
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
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, but got '{text}'") from None


def positive(text: str) -> int:
    """Read a whole number >= 1."""
    if not str(text).isdigit() or int(text) < 1:
        raise typer.BadParameter(f"must be a whole number >= 1, but got '{text}'")
    return int(text)


def one_gpu(text: str) -> str:
    """Read the name of one GPU."""
    if "," in text:
        raise typer.BadParameter(f"must name one GPU, but got '{text}'; only a search uses several")
    return text


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
        SpaceError: a pair has no ``=``, or its value is not readable.
    """
    chosen: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise SpaceError(f"--set takes KEY=VALUE, but got '{pair}'.")
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
    except typer.Exit as left:
        code = left.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except MachineError as error:
        print(f"error: {error}", file=sys.stderr)
        code = STOPPED
    except LungtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        code = STOPPED if machine.kind(error) else 1
    except stopping.Stopped as stop:
        if not quiet:
            print(f"stopped ({stop.reason}). Give the same command again to go on.", file=sys.stderr)
        code = STOPPED
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        code = 130
    return code
