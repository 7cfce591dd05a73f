"""Checkpoints that survive a kill, a power cut and a full disk.

A checkpoint is a safetensors file whose metadata carry JSON and a checksum of everything in it. It is written
atomically: a name always holds a whole checkpoint, the old or the new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lungtune.core.io import write_atomic
from lungtune.errors import CheckpointError
from lungtune.layers.state import digest

SUFFIX = ".safetensors"
_META, _SUM = "lungtune", "blake2b"
_log = logging.getLogger(__name__)


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write a checkpoint; a reader sees the old file or the whole new one.

    Args:
        path: file to write; its folder is created if missing.
        tensors: what to keep, on any device.
        meta: anything JSON holds.

    Raises:
        OSError: the disk is full or not writable; what stood at ``path`` is untouched.
    """
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    data = safetensors.torch.save(host, metadata={_META: text, _SUM: digest(host, text)})
    write_atomic(path, data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors (on the CPU) and meta of a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is truncated, damaged or not a checkpoint.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} must be a whole checkpoint, but it is truncated or damaged ({error})."
        ) from error
    text = header.get(_META)
    if text is None or header.get(_SUM) != digest(tensors, text):
        raise CheckpointError(f"{path} must carry a checksum that fits its content, but it does not: it is damaged.")
    return tensors, json.loads(text)


def latest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest checkpoint of a folder that is whole, or None; damaged ones are skipped and logged.

    Names sort by age: see ``name``.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            return path, *load(path)
        except CheckpointError as error:
            _log.warning("passing over a checkpoint: %s", error)
    return None


def name(samples: int) -> str:
    """Return the file name of a checkpoint after so many samples; names sort as the numbers do."""
    return f"{samples:012d}{SUFFIX}"


def prune(folder: Path, keep: Iterable[str] = (), newest: int = 2) -> None:
    """Remove checkpoints except the ``newest`` ones and those named in ``keep``, and drafts a kill left behind."""
    kept = set(keep)
    old = sorted(folder.glob(f"*{SUFFIX}"))[: -newest or None]
    for path in (*(p for p in old if p.name not in kept), *folder.glob(f".*{SUFFIX}.*.tmp")):
        path.unlink(missing_ok=True)
        path.with_suffix(".png").unlink(missing_ok=True)  # its picture
