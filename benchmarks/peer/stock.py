"""Trainables of Ray Tune: a function (baseline i) or a reused class (baseline ii). The driver imports no torch."""

from __future__ import annotations

import tempfile
from typing import Any

from ray import tune

from peer.marks import Clock, mark


def trial(config: dict[str, Any], job: dict[str, Any]) -> None:
    """Train one trial; its process ends with it."""
    clock = Clock()
    with clock.of("imports"):
        from peer.trial import Training
    training = Training(job, config, tune.get_context().get_trial_id(), None)
    mark(job["marks"], "begin", phases={**clock.take(), **training.clock.take()})
    saved = tune.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            training.load(folder)
    while not training.finished:
        metrics = training.until_report()
        with tempfile.TemporaryDirectory() as folder:
            with clock.of("checkpoint"):
                training.save(folder)
            mark(job["marks"], "saved", phases=clock.take())
            with clock.of("report"):
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


class Reused(tune.Trainable):
    """Trains one trial after another on the same frozen CLIP."""

    def setup(self, config: dict[str, Any], job: dict[str, Any]) -> None:
        """Load the base and begin the first trial."""
        self.job = job
        clock = Clock()
        with clock.of("imports"):
            from peer.trial import Training
        self.training = Training(job, config, self.trial_id, None)
        mark(job["marks"], "begin", phases={**clock.take(), **self.training.clock.take()})

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial on the same base."""
        clip = self.training.release()
        self.training = type(self.training)(self.job, new_config, self.trial_id, clip)
        mark(self.job["marks"], "begin", phases=self.training.clock.take())
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report."""
        return {**self.training.until_report(), "done": self.training.finished}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """See ``Training.save``."""
        clock = Clock()
        with clock.of("checkpoint"):
            self.training.save(checkpoint_dir)
        mark(self.job["marks"], "saved", phases=clock.take())

    def load_checkpoint(self, checkpoint: str) -> None:
        """See ``Training.load``."""
        self.training.load(checkpoint)
