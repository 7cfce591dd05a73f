"""What the scripts share: clear last words and exit codes.

Exit codes: 0 done; 1 an error of ours; 2 a user's mistake; 3 stopped, resumable.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from lungtune.errors import LungtuneError, UserError, did_you_mean

STOPPED = 3


class Parser(argparse.ArgumentParser):
    """An argument parser that explains a wrong flag in one sentence."""

    def __init__(self, doc: str) -> None:
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Print ``error: ...`` and exit with code 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            word = unknown.split()[0].split("=")[0]
            message = f"there is no flag or argument '{word}'.{did_you_mean(word, flags)}"
        self.exit(2, f"error: {message}\n")


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
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
