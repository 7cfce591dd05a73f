"""Reading of predictions stored in checkpoints."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from lungtune.core.task import Predictions, Task

STATE = "state."
"""Prefix of a checkpoint's tensors for resuming training."""


def load(path: Path, task: Task) -> Predictions | None:
    """Return a task's predictions in a checkpoint file, None if the file is gone, damaged or holds none of it."""
    try:
        with safe_open(path, framework="np") as file:
            held = file.keys()  # the file itself is no iterable
            names = [name for name in held if not name.startswith(STATE)]
            return task.predictions({name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError):
        return None
