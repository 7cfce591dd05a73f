"""The Ray Tune trainable: a reused worker process that trains one trial after another over one backbone."""

from __future__ import annotations

import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import TrialError


class TrialActor(tune.Trainable):
    """One Ray Tune trial is one lungtune trial; one Ray Tune iteration is one report.

    Whatever a trial raises becomes a report of its failure, so that Ray retries dead processes only.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Keep the assignment; the backbone is built in the first :meth:`step`."""
        _die_with_the_driver(config["driver"])
        self._session: Any = None
        self._number: int | None = None
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; backbone and pixels stay."""
        if self._session is not None and self._number in self._session.runs:
            self._session.leave(self._number)
        self._number = None
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._assignment = {name: config[name] for name in ("study", "number", "params", "seed", "known")}

    def step(self) -> dict[str, Any]:
        """Train to the next report."""
        number = self._assignment["number"]
        began = time.perf_counter()
        try:
            if self._number != number:
                self._begin()
            _, due = self._session.until_report()[0]
            if isinstance(due, TrialError):
                raise due
        except TrialError as error:
            return {"number": number, "failure": {"reason": error.reason, "message": _trace(error)}}
        except Exception as error:  # a trial may raise anything; the study goes on
            out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            self._session = None  # what it left behind is not trusted: the next trial begins with a fresh one
            reason = "oom" if out_of_memory else "error"
            return {"number": number, "failure": {"reason": reason, "message": _trace(error)}}
        return {
            "number": number,
            "fidelity": due.fidelity,
            "samples": due.samples,
            "metrics": dict(due.metrics),
            "checkpoint": os.path.relpath(due.checkpoint, self._assignment["study"]),
            "seconds": time.perf_counter() - began,
        }

    def _begin(self) -> None:
        study = Study(Path(self._assignment["study"]))
        if self._session is None:
            self._session = self.open_session(study)
        number = self._assignment["number"]
        folder = study.checkpoints(number)
        self._session.start(
            number, self._assignment["params"], self._assignment["seed"], folder, self._assignment["known"]
        )
        self._number = number

    def open_session(self, study: Study) -> Any:
        """Return the session in which this process trains its trials."""
        import torch

        from lungtune.data import dataset
        from lungtune.training import Session

        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        space = SearchSpace.from_dict(study.history().study["space"])
        trainable = catalog.family(space.family)
        base = parameters.build(trainable.Base, space.base)
        data = dataset.load(study.split_path, base.image_size)
        return Session(trainable, base, data, space.fidelity, space.objective)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-8000:]


def _die_with_the_driver(pid: int) -> None:
    """Leave when the driver of this node is gone: a worker that lives on would train for nobody."""
    if os.environ.get("RAY_ADDRESS"):  # the driver may be on another node
        return

    def watch() -> None:
        while True:
            time.sleep(1.0)
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
