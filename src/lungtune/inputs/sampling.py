"""Parameters that inputs read of a trial."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Sampled(Protocol):
    """A trial whose next batch is being put together (:class:`lungtune.engine.trial_state.TrialState`)."""

    params: Any

    def augmentation(self) -> torch.Generator:
        """Return the generator of this step's augmentation."""

    def views(self, count: int) -> Tensor:
        """Return the view index in [0, ``count``) of each case of the next batch, ``(batch_size,)``."""
