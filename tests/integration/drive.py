"""Driver of a simulated study with real Ray and a real tracker: ``drive.py STUDY_FOLDER TRIALS SECONDS [ENGINE]``.

Begins or resumes the study as a search's driver does, without training.
"""

import sys
from pathlib import Path

import simulated
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.search import tuner
from lungtune.search.controller import TrialController
from lungtune.tracking import Tracker

if __name__ == "__main__":
    folder, trials, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    study = Study(folder)
    if folder.exists() and study.history().study:
        study.acquire()
    else:
        study = simulated.begin(folder, simulated.space(trials, faults=("none",), seconds=seconds))
    space = SearchSpace.from_dict(study.history().study["space"])
    tracker = Tracker(folder)
    tracker.start()
    backend = simulated.backend(*sys.argv[4:])
    backend.start(space)
    tuner.run_trials(TrialController(study, space, 0), backend, lambda: None)
    backend.stop()
    study.append("stop", why="done")
    assert tracker.stop(timeout=60), tracker.state()
