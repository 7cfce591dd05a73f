"""``scripts/search.py`` with a clock in its hosts: same arguments; the file named by ``MARKS`` takes the notes."""

from __future__ import annotations

import functools
import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.device_session import DeviceSession
from peer.marks import Clock, mark

SEARCH = Path(__file__).parents[2] / "scripts" / "search.py"


class TimedHost(PackHost):
    """A host that notes the seconds of each phase."""

    def open_session(self) -> DeviceSession:
        """Open the session, then put a clock around the parts that trials pass through."""
        self.clock = Clock()
        self.stepped = False
        with self.clock.of("imports"):
            from lungtune.engine import checkpoint, session
            from lungtune.models import clip_model  # noqa: F401
        with self.clock.of("model"):
            opened = super().open_session()
        made = next(iter(opened.sessions._open.values()))
        for owner, name, phase in (
            (session.Session, "start", "adapters"),
            (type(made.pack), "step", "train"),
            (type(made.evaluation), "predict", "evaluate"),
            (type(made.evaluation), "scores", "metrics"),
            (checkpoint, "save", "checkpoint"),
        ):
            self._time(owner, name, phase)
        return opened

    def train(self, assignment: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """Train to the next report, and note the seconds of each phase since the last."""
        outcome = super().train(assignment, fresh)
        mark(os.environ["MARKS"], "report", phases=self.clock.take())
        return outcome

    def _time(self, owner: Any, name: str, phase: str) -> None:
        """Add the time of all calls of ``owner.name`` in this process to a phase."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.clock.of(phase):
                result = function(*args, **kwargs)
            if phase == "train" and not self.stepped:
                self.stepped = True
                mark(os.environ["MARKS"], "first step")
            return result

        setattr(owner, name, timed)


def main() -> None:
    """Run the search with timed hosts."""
    from lungtune.search.backends.ray_hosts import RayHosts

    RayHosts.host = TimedHost
    runpy.run_path(str(SEARCH), run_name="__main__")


if __name__ == "__main__":
    from peer import timed_lungtune  # workers import the class by this name

    timed_lungtune.main()
