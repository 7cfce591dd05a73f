"""The trained generator of a bank: from lungtune's home, shipped, or trained now.

A shipped generator is `models/generators/<mark>.safetensors`: its trained weights (float32), without moments; its meta:
`fidelity`, `samples`, `steps`, `metrics`, `split`. The mark, also the name of its folder in lungtune's home, is a hash
of all that determines the trained weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lungtune import models
from lungtune.core.space import SearchSpace
from lungtune.engine import checkpoint, report_files
from lungtune.engine.capacity import set_reproducible_threads
from lungtune.errors import TrialError
from lungtune.retraining import runs

if TYPE_CHECKING:
    from lungtune.engine.session import Session

SHIPPED = Path(models.__file__).parent / "generators"
"""Folder of the shipped generators."""

_PROGRESS = "progress"


def trained(session: Session, space: SearchSpace, fidelity: float, work: Path, what: str) -> dict[str, float]:
    """Train a generator in its folder ``work``, unless it is trained already or shipped; return its scores.

    Args:
        session: of its family and base.
        space: no axes, a seed.
        fidelity: passes it is trained for.
        work: folder, named by the generator's mark.
        what: description for progress messages.

    Raises:
        TrialError: the training failed.
    """
    scores = _scores(work, fidelity)
    if scores is None and unpack(SHIPPED / f"{work.name}{checkpoint.SUFFIX}", work):
        scores = _scores(work, fidelity)
    if scores is not None:
        return scores
    assert space.seed is not None
    run = runs.Run(space.seed, work)
    set_reproducible_threads()
    runs.train(session, space, [run], fidelity, f"training {what}")
    if run.failure is not None:
        raise TrialError("error", f"{what} failed: {run.failure}")
    return run.scores


def _scores(work: Path, fidelity: float) -> dict[str, float] | None:
    """Return the scores of a generator that is trained to ``fidelity``; None of any other."""
    newest = report_files.latest(work)
    if newest is None or newest[2]["fidelity"] < fidelity - 1e-6:
        return None
    return {name: float(value) for name, value in newest[2]["metrics"].items()}


def pack(work: Path, split: str, file: Path) -> None:
    """Write the newest checkpoint of a generator's folder as a shipped generator.

    Args:
        work: the generator's folder.
        split: hash of the split.
        file: to write.
    """
    newest = report_files.latest(work)
    assert newest is not None
    _, state, meta = newest
    steps, _ = (int(number) for number in state[_PROGRESS])
    weights = {name: tensor[0] for name, tensor in state.items() if name != _PROGRESS}
    kept = {name: meta[name] for name in ("fidelity", "samples", "metrics")}
    checkpoint.save(file, weights, {**kept, "steps": steps, "split": split})


def unpack(file: Path, work: Path) -> bool:
    """Write a shipped generator as a checkpoint into its folder; return False if there is no such file."""
    if not file.is_file():
        return False
    weights, meta = checkpoint.load(file)
    state = {name: torch.stack([w, torch.zeros_like(w), torch.zeros_like(w)]) for name, w in weights.items()}
    state[_PROGRESS] = torch.tensor([meta["steps"], meta["samples"]])
    path = work / checkpoint.name(meta["samples"])
    about = {name: meta[name] for name in ("fidelity", "samples", "metrics")}
    report_files.keep(path, state, about | {"best": [float("nan"), path.name]})
    return True
