"""Small finished study on phantoms with a random miniature CLIP, built without Ray."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study

SOURCE = "phantom,n=84,test=36,size=32"
FIDELITY = Fidelity(max=1.5, min=0.5, eta=3)
TRIALS: tuple[dict[str, Any], ...] = (
    {"lr": 1e-3, "batch_size": 8, "lora_rank": 4},
    {"lr": 1e-2, "batch_size": 16, "lora_rank": 2, "augmentation": 2, "lora_targets": "qv"},
)


def begin(name: str, weights: Path, trials: tuple[dict[str, Any], ...] = ()) -> tuple[Study, Any, SearchSpace]:
    """Begin a study and hold it; return it with a session of its only base, and its space.

    Args:
        name: of the study.
        weights: folder of the random base; created.
        trials: start points.
    """
    from dataclasses import asdict

    from lungtune.data import dataset
    from lungtune.engine.session import Session

    family = catalog.family("clip_lora")
    base = family.miniature(weights)
    inspection = dataset.inspect(SOURCE, seed=3)
    assert not inspection.audit.problems, inspection.audit.problems
    data = dataset.load(inspection, family.fields, base.image_size)
    study = Study.new(name, "clip_lora")
    study.acquire()
    data.manifest.save(study.split_path)
    counts = {"train": len(data.train), "validation": len(data.validation)}
    about = {"source": data.source, "hash": data.manifest.hash, "classes": list(data.classes), "counts": counts}
    defaults = {name: spec.default for name, spec in parameters.specs(family.Params).items()}
    axes = {"lr": FloatDistribution(1e-4, 1e-1, log=True)} if trials else {}
    space = SearchSpace(
        name="clip_lora", family="clip_lora", summary="CLIP: LoRA", profile="full",
        objective=family.objective("macro_f1"), sampler="random", trials=2, fidelity=FIDELITY, base=asdict(base),
        fixed={name: value for name, value in defaults.items() if name not in axes}, axes=axes, start=trials,
        inert=parameters.inert(family.Base, family.Params),
    )  # fmt: skip
    study.begin(space, data=about, seed=3, about={"command": "", "versions": {"torch": "2"}, "git": {"commit": "abc"}})
    return study, Session(family, base, data, FIDELITY, space.objective), space


def make(name: str, weights: Path) -> Study:
    """Search two configurations to the end and leave the study as a search leaves it."""
    study, session, space = begin(name, weights)
    defaults = dict(space.fixed)
    for number, chosen in enumerate(TRIALS):
        study.append("trial", trial=number, params=defaults | chosen, sampled={}, distributions={}, seed=3 + number,
                     origin="start")  # fmt: skip
        session.start(number, defaults | chosen, 3 + number, study.checkpoints(number))
        fidelity = 0.0
        while fidelity < FIDELITY.max:
            _, report = session.until_report()[0]
            fidelity = report.fidelity
            place = os.path.relpath(report.checkpoint, study.folder)
            study.append("report", trial=number, fidelity=fidelity, samples=report.samples, metrics=report.metrics,
                         checkpoint=place)  # fmt: skip
        session.leave(number)
        study.append("end", trial=number, state="COMPLETE", reason="", message="")
    study.release()
    return study


@functools.cache
def shared() -> Path:
    """Return the home of a study ``mini`` that no test may change: copy it."""
    home = Path(tempfile.mkdtemp(prefix="lungtune-retrain-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    import torch

    before = {name: os.environ.get(name) for name in ("LUNGTUNE_HOME", "LUNGTUNE_CACHE")}
    os.environ.update(LUNGTUNE_HOME=str(home), LUNGTUNE_CACHE=str(home / "cache"))
    torch.set_num_threads(1)  # for so small a model, waiting for a second thread costs more than it gives
    try:
        make("mini", home / "tiny")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return home


def copy(home: Path, environment: Callable[[str, str], None]) -> Path:
    """Copy the shared study to ``home`` and point lungtune there; caches stay shared."""
    environment("OMP_NUM_THREADS", "1")
    shutil.copytree(shared() / "studies", home / "studies")
    environment("LUNGTUNE_HOME", str(home))
    environment("LUNGTUNE_CACHE", str(shared() / "cache"))
    return home


PERTURBED: tuple[dict[str, Any], ...] = (
    {"lr": 1e-3, "batch_size": 8, "lora_rank": 4},
    {"lr": 3e-3, "batch_size": 8, "lora_rank": 4, "augmentation": 2},
)
"""Begin of the two trials of a study whose second goes on from the first one's weights, twice."""


def perturb(name: str, weights: Path) -> Study:
    """Search as population-based training does: the second trial takes the first one's checkpoint, and is best.

    Trial 1 trains to 0.5 passes; takes trial 0's weights at 0.5 and trains with a third batch size and rate to 1.0;
    returns to its own checkpoint at 1.0 with another rate, and trains to the end.
    """
    from lungtune.engine import report_files
    from lungtune.search.controller import TrialController

    study, session, space = begin(name, weights, PERTURBED)
    controller = TrialController(study, space, 3)
    # the sampler's suggestions: the start points
    taken = [controller.next() for _ in PERTURBED]
    places: dict[tuple[int, int, float], str] = {}

    def train(number: int, params: Any, segment: int, until: float) -> None:
        folder = study.checkpoints(number, segment)
        known = controller.history.trials[number].fidelity
        session.start(number, params, 3 + number, folder, known)
        while known < until:
            _, report = session.until_report()[0]
            known = report.fidelity
            place = os.path.relpath(report.checkpoint, study.folder)
            places[number, segment, known] = place
            made = {"fidelity": known, "samples": report.samples, "metrics": report.metrics, "checkpoint": place}
            controller.report(number, made)
        session.leave(number)

    def take(donor: int, segment: int, fidelity: float, **changes: Any) -> Any:
        place = places[donor, segment, fidelity]
        params = {**controller.history.trials[donor].params, **changes}
        assigned = controller.perturb(1, donor, fidelity, params, place)
        report_files.inherit(study.folder / place, study.checkpoints(1, assigned.segment))
        return assigned

    for assigned in taken:
        assert assigned is not None
        train(assigned.number, assigned.params, 0, 0.5)
    assigned = take(0, 0, 0.5, lr=4e-3, batch_size=12, lora_dropout=0.05)
    train(1, assigned.params, 1, 1.0)
    assigned = take(1, 1, 1.0, lr=2e-3)
    train(1, assigned.params, 2, 1.5)
    study.release()
    return study
