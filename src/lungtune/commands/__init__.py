"""The command ``lungtune``: one typer app. ``scripts/NAME.py`` is a door to its command NAME."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lungtune import __version__, cli
from lungtune.commands.clone import clone
from lungtune.commands.data import data
from lungtune.commands.export import export
from lungtune.commands.pretrain import pretrain
from lungtune.commands.retrain import retrain
from lungtune.commands.search import check, listing, search
from lungtune.commands.synthesize import synthesize
from lungtune.commands.ui import ui

__all__ = ["app", "run"]

app = typer.Typer(
    name="lungtune",
    cls=cli.Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
)
_COMMANDS: dict[str, Callable[..., Any]] = {
    "search": search,
    "check": check,
    "list": listing,
    "clone": clone,
    "export": export,
    "retrain": retrain,
    "synthesize": synthesize,
    "data": data,
    "ui": ui,
    "pretrain": pretrain,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=cli.Command, context_settings={"max_content_width": 120})(_function)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, cli.option("--version", None, "print the version and leave")] = False) -> None:
    """Honest, resumable hyperparameter search for chest-imaging models. COMMAND --help says more."""
    if version:
        print(__version__)
        raise typer.Exit


def run(name: str | None = None) -> NoReturn:
    """Run the command line of this process and leave with its exit code.

    Args:
        name: the command whose flags it holds; by default it names the command first.
    """
    group = typer.main.get_command(app)
    command = group if name is None else group.commands[name]  # type: ignore[attr-defined]
    title = "lungtune" if name is None else Path(sys.argv[0]).name

    def main() -> int | None:
        with command.make_context(title, sys.argv[1:]) as context:
            code: int | None = command.invoke(context)
            return code

    cli.run(main)
