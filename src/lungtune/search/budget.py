"""Wall-time budget of a run."""

from __future__ import annotations

import time

from lungtune.search.controller import TrialController


class Budget:
    """Wall-time budget that starts when the object is created.

    Args:
        seconds: the budget; None or 0 for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._deadline = time.monotonic() + seconds if seconds else None

    @property
    def spent(self) -> bool:
        """True if the time is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def check(self, controller: TrialController) -> None:
        """Request a stop of the controller if the time is over."""
        if self.spent:
            controller.request_stop("the time budget is spent")
