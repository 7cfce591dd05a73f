"""Files of a report: checkpoint of weights, moments and predictions, and the part kept after pruning.

``<samples>.safetensors`` holds ``state.<name>`` (``Pack.state``) and the predictions' tensors; its meta: ``fidelity``,
``samples``, ``metrics``, ``best`` (score and file of the best report so far). ``<samples>.npy`` is the table,
``<samples>.png`` a picture where there is one.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lungtune.core.io import write_atomic
from lungtune.core.task import Predictions
from lungtune.engine import checkpoint
from lungtune.errors import CheckpointError

_STATE = "state."
INHERITED = "inherited.json"
"""File that marks a folder whose training began with a checkpoint of another one."""


def write(
    path: Path, state: Mapping[str, Tensor], kept: Predictions, picture: bytes | None, meta: Mapping[str, Any]
) -> None:
    """Write a report's files, the checkpoint last; older ones are pruned but for the two newest and the best.

    Args:
        path: of the checkpoint.
        state: what ``Pack.state`` returned.
        kept: the predictions on validation.
        picture: PNG, or None.
        meta: JSON-able; ``best`` is (score, file name).
    """
    predictions = {name: torch.from_numpy(np.ascontiguousarray(t)) for name, t in kept.tensors().items()}
    table = io.BytesIO()
    np.save(table, kept.table())
    write_atomic(path.with_suffix(".npy"), table.getvalue())
    if picture is not None:
        write_atomic(path.with_suffix(".png"), picture)
    keep(path, state, meta, predictions)
    checkpoint.prune(path.parent, keep=[meta["best"][1]])


def keep(
    path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any], further: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint alone: ``state`` and ``further`` tensors."""
    checkpoint.save(path, {**{_STATE + name: tensor for name, tensor in state.items()}, **(further or {})}, dict(meta))


def inherit(path: Path, folder: Path) -> Path:
    """Copy a checkpoint of another training into a folder, whose training goes on from it; return the copy.

    Only the state is copied, and the best report of the folder is not decided by it. From then on :func:`latest`
    refuses to find no checkpoint in the folder: without one the training would begin anew. Other checkpoints in the
    folder are removed.

    Args:
        path: the checkpoint; it stays.
        folder: of the training that goes on; created if missing.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it is damaged.
    """
    tensors, meta = checkpoint.load(path)
    target = folder / path.name
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"*{checkpoint.SUFFIX}"):  # of an earlier copy that a kill kept from being journalled
        stale.unlink()
    begin = {"fidelity": meta["fidelity"], "samples": meta["samples"]}
    state = {name: tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
    checkpoint.save(target, state, {**meta, "best": [math.nan, ""]})
    write_atomic(folder / INHERITED, json.dumps(begin).encode())
    return target


def latest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Return path, ``Pack.state`` and meta of the newest whole checkpoint of a folder; None where there is none.

    Raises:
        CheckpointError: there is none, but the training began with another one's checkpoint (:func:`inherit`).
    """
    loaded = checkpoint.latest(folder)
    if loaded is None:
        if (folder / INHERITED).exists():
            raise CheckpointError(
                f"{folder} must hold a whole checkpoint, because its training began with another one's, but has none."
            )
        return None
    path, tensors, meta = loaded
    return path, {name.removeprefix(_STATE): t for name, t in tensors.items() if name.startswith(_STATE)}, meta
