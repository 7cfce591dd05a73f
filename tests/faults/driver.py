"""``lungtune search`` with simulated training: ``driver.py FLAGS``, the flags those of the command.

Real: flags, exit codes, signals, driver, controller, Ray, journal, MLflow, summary. Simulated: data and training.
Environment of a new study: ``TRIALS``, ``SECONDS`` a report, ``FAULTS`` (kinds of ``simulated``, by commas), ``SLOTS``.
``LIMITS``: constants of modules of ``ray_hosts`` in this run, such as ``watch.SILENT=5,devices.FIRST=1``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import simulated
from lungtune import commands
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.search import driver
from lungtune.search.preparation import ENGINES, Options, Prepared

PATIENTS = np.array([f"p{number}" for number in range(10)])
"""A patient for each validation case."""


def prepare(
    options: Options,
    console: Any,
    likely: Callable[[SearchSpace], None],
    begun: Callable[[Study], None] = lambda study: None,
) -> Prepared:
    """Stand-in for ``preparation.prepare``."""
    if options.resume:
        study = Study.open(str(options.study))
        study.acquire()
        space = SearchSpace.from_dict(study.history().study["space"])
    else:
        faults = tuple(filter(None, os.environ.get("FAULTS", "none").split(",")))
        trials = options.trials or int(os.environ.get("TRIALS", "8"))
        seconds, slots = float(os.environ.get("SECONDS", "0.05")), int(os.environ.get("SLOTS", "0"))
        space = simulated.space(trials, faults, seconds, family="clip_lora", slots=slots)
        study = Study.new(options.study, "simulated")
        with study.claimed(None if options.study else "simulated"):
            simulated.begin(study.folder, space, options.seed or 0, study)
    begun(study)
    likely(space)
    validation = SimpleNamespace(patients=PATIENTS, unit="patients")
    return Prepared(study, space, SimpleNamespace(validation=validation))  # type: ignore[arg-type]


def limit() -> None:
    """Set what ``LIMITS`` says."""
    for each in filter(None, os.environ.get("LIMITS", "").split(",")):
        name, _, value = each.partition("=")
        module, _, constant = name.partition(".")
        loaded = importlib.import_module(f"lungtune.search.backends.ray_hosts.{module}")
        setattr(loaded, constant, type(getattr(loaded, constant))(value))


def main() -> None:
    """Run the command with simulated hosts."""
    limit()
    engines = {folder: name for name, folder in ENGINES.items()}
    driver.preparation.prepare = prepare  # type: ignore[assignment]
    driver.backends.get = lambda folder: lambda: simulated.backend(engines[folder])  # type: ignore[assignment,return-value]
    sys.argv = ["lungtune", "search", *sys.argv[1:]]
    commands.run()


if __name__ == "__main__":
    main()
