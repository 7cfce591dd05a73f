"""Records that are kept between suggestions: the same suggestions as from records built anew."""

from __future__ import annotations

import copy
from pathlib import Path

from lungtune import optuna_study
from lungtune.core.trial import History
from lungtune.search import sampler

empty = optuna_study.empty


def opaque(study):
    """Let Optuna copy each trial that is added."""
    storage = study._storage
    study._storage = type(
        "Opaque", (), {"__getattr__": lambda _, name: getattr(storage, name) if name != "_studies" else {}}
    )()
    return study


def test_kept_records_suggest_what_new_ones_do(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import long_run

    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    searched = long_run.space(45, "tpe")
    driver = long_run.Driver(tmp_path / "studies/long", searched, terminal=False)
    seen = []

    def both(space, history: History, seed: int, number: int):
        fresh = copy.deepcopy(history)
        for trial in fresh.trials.values():
            trial.derived.clear()
        with monkeypatch.context() as patched:
            patched.setattr(optuna_study, "empty", lambda *words: opaque(empty(*words)))
            expected = sampler.suggest(space, fresh, seed, number)
        found = sampler.suggest(space, history, seed, number)
        seen.append(found == expected)
        return found

    driver.controller.suggest = both
    while driver.step():
        pass
    assert seen == [True] * 45
    driver.study.release()
