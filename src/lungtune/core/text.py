"""Text of users and of files as it may be printed: control characters are visible, long words are cut."""

from __future__ import annotations

import re
import sys

_CONTROLS = {code: chr(0x2400 + code) for code in range(32)} | {0x7F: "\u2421"}
_CONTROLS |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]

_LONGEST = 320
"""Characters of a word that are printed; longer ones are cut. File names have at most 255 bytes."""

_MOST = 4000
"""Characters of a message that are printed."""


def printable(text: str) -> str:
    """Replace control characters, but for line breaks and tabs, and those that change the direction of writing.

    A terminal obeys them: they move the cursor, clear the screen, set titles and colours.
    """
    return text.translate(_CONTROLS)


def brief(text: str) -> str:
    """Cut words, and a text, that are too long to be read; the number of characters is named."""

    def cut(found: re.Match[str]) -> str:
        word = found.group()
        return f"{word[:40]}...{word[-20:]} ({len(word):,} characters)"

    short = re.sub(rf"\S{{{_LONGEST + 1},}}", cut, text[:1_000_000])
    return short if len(short) <= _MOST else f"{short[:_MOST]}... ({len(text):,} characters)"


def say(text: str) -> None:
    """Print lines on stdout."""
    print(printable(text))


def complain(text: str) -> None:
    """Print a message on stderr."""
    print(printable(brief(text)), file=sys.stderr, flush=True)
