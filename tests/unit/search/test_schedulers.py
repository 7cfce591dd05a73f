"""Scheduler discovery by file name; one-sentence errors for unknown names and wrong settings."""

import subprocess
import sys
from pathlib import Path

import pytest

from lungtune import catalog, schedulers
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.space import SearchSpace
from lungtune.core.trial import State
from lungtune.errors import SpaceError
from lungtune.search.controller import TrialController

sys.path.insert(0, str(Path(__file__).parent))
from conducted import drive, simulated

FIRST = '''
"""Stops every trial at its n-th report."""
from dataclasses import dataclass

from lungtune.core.params import param
from lungtune.core.scheduler import Decision, Scheduler


@dataclass(frozen=True)
class Settings:
    reports: int = param(2, low=1)


class First(Scheduler[Settings]):
    Settings = Settings

    def record(self, trial, fidelity):
        seen = sum(report.fidelity <= fidelity for report in trial.reports)
        return Decision.STOP if seen >= self.settings.reports else Decision.CONTINUE

    def promotable(self, trials, last=False):
        return None


SCHEDULER = First
'''


@pytest.fixture
def first(tmp_path, monkeypatch):
    """A scheduler file dropped into the package."""
    (tmp_path / "schedulers").mkdir()
    (tmp_path / "schedulers" / "first.py").write_text(FIRST)
    monkeypatch.setattr(schedulers, "__path__", [*schedulers.__path__, str(tmp_path / "schedulers")])
    yield
    sys.modules.pop("lungtune.schedulers.first", None)


def test_scheduler_is_discovered_by_file_name(first, tmp_path):
    assert {"asha", "first", "none"} <= set(schedulers.names())
    space = catalog.space("clip_head", "demo", {"scheduler": "first", "scheduler.reports": 3})
    assert space.scheduler == SchedulerConfig("first", {"reports": 3})
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_discovered_scheduler_drives_a_search(first, tmp_path):
    space = simulated.space(5, scheduler=SchedulerConfig("first", {"reports": 3}))
    history = drive(simulated.begin(tmp_path / "s", space), space, lambda step: step).history()
    assert {(t.state, t.reason, len(t.reports)) for t in history.trials.values()} == {(State.PRUNED, "first", 3)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"scheduler": "fist"},
            r"scheduler\.name must be asha or .*, but got 'fist'\. Did you mean 'first'",
        ),
        ({"scheduler": "first", "scheduler.report": 1}, r"'report' is not a setting of scheduler 'first'.*'reports'"),
        ({"scheduler": "first", "scheduler.reports": 0}, r"scheduler\.reports >= 1 must hold, but got 0\."),
        (
            {"scheduler": "none", "scheduler.mode": "stop"},
            r"'mode' is not a setting of scheduler 'none'\. none has none",
        ),
        ({"schduler.mode": "stop"}, r"'schduler\.mode' can't be set\. Did you mean 'scheduler\.mode'"),
    ],
)
def test_wrong_setting_is_one_sentence(first, settings, sentence):
    with pytest.raises(SpaceError, match=sentence):
        catalog.space("clip_head", "demo", settings)


def test_setting_of_one_space_among_several():
    settings = {"vit_lora.scheduler.mode": "stop", "scheduler": "asha"}
    first, second = (catalog.space(names, "demo", settings) for names in ("vit_lora,clip_head", "clip_head,vit_lora"))
    assert (first.scheduler.settings, second.scheduler.settings) == ({"mode": "stop"}, {"mode": "promote"})


def test_journal_with_an_unknown_scheduler_is_refused(tmp_path):
    space = simulated.space(2, scheduler=SchedulerConfig("gone", {"x": 1}))
    study = simulated.begin(tmp_path / "s", space)
    with pytest.raises(SpaceError, match=r"scheduler\.name must be asha or .*, but got 'gone'"):
        TrialController(study, space, 0)


def test_schedulers_import_no_numpy():
    code = "import sys; import lungtune.core.scheduler as s; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
