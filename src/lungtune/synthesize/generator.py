"""Trained generator of a bank: loaded from lungtune's home, unpacked from a shipped file, or trained.

A shipped generator is `models/generators/<mark>.safetensors`: trained weights (float32) without optimiser moments;
metadata `fidelity`, `samples`, `steps`, `metrics`, `split`. The mark is a hash of everything the trained weights depend
on; it also names the generator's folder in lungtune's home.
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
        space: its configuration: no axes, a seed.
        fidelity: passes of its training.
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
    """Return the scores of a generator; None if it is not trained to ``fidelity`` passes."""
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
    """Convert a shipped generator to a checkpoint in the folder ``work``; return False if ``file`` does not exist."""
    if not file.is_file():
        return False
    weights, meta = checkpoint.load(file)
    state = {name: torch.stack([w, torch.zeros_like(w), torch.zeros_like(w)]) for name, w in weights.items()}
    state[_PROGRESS] = torch.tensor([meta["steps"], meta["samples"]])
    path = work / checkpoint.name(meta["samples"])
    about = {name: meta[name] for name in ("fidelity", "samples", "metrics")}
    report_files.keep(path, state, about | {"best": [float("nan"), path.name]})
    return True
