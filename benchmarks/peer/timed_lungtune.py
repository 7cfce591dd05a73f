"""``scripts/search.py`` with a clock in its workers: same arguments; the file named by ``MARKS`` takes the notes."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lungtune.search.backends.ray_hosts.host import PackHost
from peer.marks import Clock, mark

SEARCH = Path(__file__).parents[2] / "scripts" / "search.py"


class TimedHost(PackHost):
    """A host that notes where its time goes."""

    def open_session(self) -> Any:
        """Build the session and put a clock around its parts."""
        self.clock = Clock()
        with self.clock.of("imports"):
            from lungtune.engine import session
            from lungtune.models import clip_model  # noqa: F401
        with self.clock.of("model"):
            session = super().open_session()
        session.start = self._timed("adapters", session.start)
        session.pack.predict = self._timed("evaluate", session.pack.predict)
        session.pack.step = self._timed("train", session.pack.step)
        session.metrics.classification = self._timed("metrics", session.metrics.classification)
        session.checkpoint.save = self._timed("checkpoint", session.checkpoint.save)
        self.stepped = False
        return session

    def train(self, assignment: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """Train to the next report, and note the seconds of each phase since the last."""
        outcome = super().train(assignment, fresh)
        mark(os.environ["MARKS"], "report", phases=self.clock.take())
        return outcome

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.clock.of(phase):
                result = function(*args, **kwargs)
            if phase == "train" and not self.stepped:
                self.stepped = True
                mark(os.environ["MARKS"], "first step")
            return result

        return timed


def main() -> None:
    """Run the search with timed workers."""
    from lungtune.search import tuner

    tuner.run_trials = partial(tuner.run_trials, host=TimedHost)
    runpy.run_path(str(SEARCH), run_name="__main__")


if __name__ == "__main__":
    from peer import timed_lungtune  # workers import the class by this name

    timed_lungtune.main()
