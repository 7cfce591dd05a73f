"""A run's wall-time budget."""

from __future__ import annotations

import time

from lungtune.search.controller import TrialController


class Budget:
    """Begins to run when it is made.

    Args:
        seconds: None or 0 for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._deadline = time.monotonic() + seconds if seconds else None

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def check(self, controller: TrialController) -> None:
        """Ask the controller to stop if the time is over."""
        if self.spent:
            controller.request_stop("the time budget is spent")
