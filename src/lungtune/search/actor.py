"""The Ray Tune trainable: a light process that stands for a trial and waits for what its host reports."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from lungtune.search.host import die_with


class TrialActor(tune.Trainable):
    """One Ray Tune trial is one stretch of a lungtune trial on one host; one iteration is one report.

    It knows nothing of models: no torch here. Whatever happens to the trial comes back as a result, so Ray sees a
    failure only when this process itself dies.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Keep the assignment."""
        if config["driver"] is not None:
            die_with(config["driver"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next assignment; the process stays."""
        self._assignment = {name: new_config[name] for name in ("number", "params", "seed", "known")}
        self._host, self._fresh = new_config["host"], True
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next report."""
        try:
            host = ray.get_actor(self._host)
            outcome = ray.get(host.train.remote(self._assignment, self._fresh))
        except ValueError:  # Ray knows no actor of that name: the host is dead, and was before this trial began
            return {"unplaced": True}
        except ray.exceptions.RayError as error:
            return {"lost": " ".join(str(error).split())[:500]}
        self._fresh = False
        return dict(outcome)
