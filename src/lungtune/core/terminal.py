"""The console that all output is printed on which rich lays out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lungtune.core.text import printable

WIDTH = 80
"""Width where ``COLUMNS`` is no width."""


class _Console(Console):
    """Prints text as it is: no markup, no emoji codes, no control characters but rich's own."""

    def render_str(self, text: str, **more: Any) -> Text:
        return super().render_str(printable(text), **more)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console; styles are given as ``style=`` or as :class:`rich.text.Text`, never as markup.

    Args:
        stderr: print there.
        soft_wrap: leave the wrapping of lines to the terminal.
    """
    fixed: dict[str, Any] = {"width": WIDTH} if os.environ.get("COLUMNS", "1").strip("0") == "" else {}
    return _Console(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False, **fixed)
