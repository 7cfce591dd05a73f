"""What the scripts share: clear last words and exit codes.

Exit codes: 0 done; 1 an error of ours; 2 a user's mistake; 3 stopped, resumable (``errors.STOPPED``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lungtune.core import yamlfile
from lungtune.errors import LungtuneError, SpaceError, UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An argument parser that explains a wrong flag in one sentence."""

    def __init__(self, doc: str) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print ``error: ...`` and exit with code 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            word = unknown.split()[0].split("=")[0]
            message = f"there is no flag or argument '{word}'.{did_you_mean(word, flags)}"
        self.exit(2, f"error: {message}\n")


def positive(text: str) -> int:
    """Read a whole number >= 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, but got '{text}'")
    return int(text)


def duration(text: str) -> float:
    """Read a time such as ``90s``, ``30m``, ``2h`` or ``1d`` in seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 30m, 2h or 1d, but got '{text}'")
    return seconds


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``--set`` pairs: ``key=value``, the value as in a space file.

    Raises:
        SpaceError: a pair has no ``=``, or its value is not readable.
    """
    chosen: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise SpaceError(f"--set takes KEY=VALUE, but got '{pair}'.")
        chosen[key] = yamlfile.parse(value, f"--set {key}")
    return chosen


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's ``main`` and leave with its exit code; a user's mistake ends in one sentence, no traceback."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except LungtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        code = 130
    sys.exit(code)
