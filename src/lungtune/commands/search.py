"""``lungtune search``, ``check`` and ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lungtune import cli

_Space = Annotated[str | None, cli.option("--space", "NAME|FILE", "a shipped space or a YAML file; several: a,b,c")]
_Data = Annotated[
    str | None,
    cli.option("--data", "SOURCE[:PATH]", "phantom, chest_xray:DIR, folder:DIR, ... (lungtune data sources)"),
]
_Profile = Annotated[
    str | None, cli.option("--profile", "NAME", "demo or full (default: full on real data, else demo)")
]
_Trials = Annotated[
    int | None, cli.option("--trials", "N", "how many trials (default: the space's)", parser=cli.positive)
]
_Hosts = Annotated[
    int | None,
    cli.option("--hosts", "N", "at most N worker processes (default: one a GPU, else one a core)", parser=cli.positive),
]
_Gpus = Annotated[
    str | None, cli.option("--gpus", "0,2", "use these GPUs only, by nvidia-smi's numbers (default: all visible)")
]
_Set = Annotated[list[str] | None, cli.option("--set", "KEY=VALUE", "fix or change one setting")]


def search(
    space: _Space = None,
    data: _Data = None,
    profile: _Profile = None,
    trials: _Trials = None,
    budget: Annotated[
        float | None,
        cli.option("--budget", "30m", "wall time of this run: 90s, 30m, 2h, 1d", parser=cli.duration),
    ] = None,
    study: Annotated[
        str | None, cli.option("--study", "NAME", "the study's name (default: the space's, numbered)")
    ] = None,
    resume: Annotated[bool, cli.option("--resume", None, "go on with --study")] = False,
    seed: Annotated[
        int | None,
        cli.option("--seed", "N", "seed of suggestions, split and training (default 0)", parser=cli.whole),
    ] = None,
    set_: _Set = None,
    bank: Annotated[
        Path | None, cli.option("--bank", "DIR", "synthetic images, where synthetic_ratio is searched", parser=cli.path)
    ] = None,
    engine: Annotated[
        str | None,
        cli.option("--engine", "hosts|tune", "runs the trials (default: as the scheduler needs)"),
    ] = None,
    hosts: _Hosts = None,
    gpus: _Gpus = None,
    checked: Annotated[bool, cli.option("--check", None, "check the space and show its plan; nothing is run")] = False,
    listed: Annotated[bool, cli.option("--list", None, "list the shipped spaces")] = False,
) -> int:
    """Search a model family's hyperparameters.

    lungtune search --space clip_lora                          built-in phantoms, tiny base, CPU, offline
    lungtune search --space clip_lora --data chest_xray:DIR    your images, the real base
    lungtune search --space resnet50_full,vit_lora,clip_lora   one search over several: which model is best?
    lungtune search --resume --study NAME [--trials N]         go on, or extend
    lungtune search --list                                     spaces, one line each
    lungtune search --space NAME --check                       a space's parameters, rungs, planned work
    """
    if listed:
        return listing()
    if checked:
        return check(space, data, profile, trials, set_, hosts, gpus)
    settings = cli.settings(set_)
    from lungtune.core import terminal
    from lungtune.search import driver

    options = driver.Options(
        space=space,
        data=data,
        profile=profile,
        trials=trials,
        budget=budget,
        study=study,
        resume=resume,
        seed=seed,
        bank=bank,
        engine=engine,
        hosts=hosts,
        gpus=gpus,
        settings=settings,
    )
    return driver.run(options, terminal.console())


def check(
    space: _Space = None,
    data: _Data = None,
    profile: _Profile = None,
    trials: _Trials = None,
    set_: _Set = None,
    hosts: _Hosts = None,
    gpus: _Gpus = None,
) -> int:
    """Check a space and show its parameters, rungs and planned work; nothing is run.

    lungtune check --space NAME
    """
    from lungtune.search.ui import catalog_cli

    return catalog_cli.check(space, profile, cli.settings(set_), trials, data, hosts, gpus)


def listing() -> int:
    """List the spaces that can be searched, one line each."""
    from lungtune.search.ui import space_list

    return space_list.show()
