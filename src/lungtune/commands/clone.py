"""``lungtune clone``."""

from __future__ import annotations

from typing import Annotated

from lungtune import cli


def clone(
    study: Annotated[str, cli.argument("STUDY", "name of the study")],
    number: Annotated[int, cli.argument("NUMBER", "the trial to clone", parser=cli.whole)],
    set_: Annotated[list[str] | None, cli.option("--set", "KEY=VALUE", "a changed parameter; may be repeated")] = None,
    from_scratch: Annotated[
        bool, cli.option("--from-scratch", None, "train it from the beginning, not on from the trial's checkpoint")
    ] = False,
) -> None:
    """Add a trial to a study: the parameters of trial NUMBER, but for the changes.

    lungtune clone STUDY NUMBER --set lr=1e-4 [--set ...]

    It goes on from the trial's newest checkpoint before the full length, where the changes leave that loadable
    (a rank does not), else it begins from scratch. A running search takes it in and trains it next; a study that
    nobody runs gets it as its next trial.
    """
    from lungtune.core.text import say
    from lungtune.search.cloning import clone

    done = clone(study, number, cli.settings(set_), from_scratch)
    changed = ", ".join(f"{name}={value}" for name, value in done.plan.changes.items())
    donor = done.plan.request.donor
    how = f"from the checkpoint at {donor.fidelity:.4g} passes" if donor else "from scratch"
    if done.plan.why:
        how += f" ({done.plan.why})"
    what = f"trial {number} with {changed}, {how}"
    if done.number is None:
        say(f"asked for {what}. The search that holds '{study}' has not answered; it takes it in when it goes on.")
        return
    say(f"trial {done.number}: {what}.")
    if done.running:
        say("the running search trains it next.")
    else:
        say(f"run it:\n  lungtune search --resume --study {study}")
