"""Lineages: which parameters and seeds led to a report, over perturbations, clones and returns to earlier passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune.core.lineage import Segment, cut
from lungtune.core.resource import TOLERANCE
from lungtune.core.trial import History, Objective

OBJECTIVE = Objective("m")


class Script:
    """Writes events as a journal would."""

    def __init__(self, trials=2):
        self.events = [{"event": "study", "schema": 2, "space": {"objective": OBJECTIVE.to_dict(), "trials": trials}}]
        for number in range(trials):
            self.add("trial", trial=number, params={"lr": number + 1.0, "rank": 4}, sampled={}, distributions={},
                     seed=10 + number, origin="sampler")  # fmt: skip

    def add(self, event, **fields):
        self.events.append({"event": event, "time": 0.0, **fields})

    def report(self, trial, fidelity, value):
        self.add("report", trial=trial, fidelity=fidelity, samples=round(fidelity * 100), metrics={"m": value},
                 checkpoint=f"checkpoints/{trial}/{len(self.events)}")  # fmt: skip
        return self.events[-1]["checkpoint"]

    def perturb(self, trial, donor, donor_fidelity, fidelity, lr, checkpoint=None):
        self.add("perturb", trial=trial, donor=donor, donor_fidelity=donor_fidelity, fidelity=fidelity,
                 params={"lr": lr, "rank": 4}, checkpoint=checkpoint)  # fmt: skip

    @property
    def history(self):
        return History(self.events)


def shape(lineage):
    return [(segment.params["lr"], segment.seed, segment.until) for segment in lineage]


def test_a_trial_without_perturbation_has_one_open_segment():
    script = Script()
    script.report(0, 1.0, 0.5)
    trial = script.history.trials[0]
    assert trial.lineage == (Segment(trial.params, 10),)
    assert (trial.segment, trial.fidelity, trial.work, trial.donor) == (0, 1.0, 1.0, None)


def test_perturbation_takes_the_donors_lineage():
    script = Script()
    script.report(0, 2.0, 0.5)
    taken = script.report(1, 1.0, 0.7)
    script.report(1, 3.0, 0.8)
    script.perturb(0, 1, 1.0, 2.0, 9.0, taken)
    trial = script.history.trials[0]
    assert shape(trial.lineage) == [(2.0, 11, 1.0), (9.0, 10, None)]
    assert (trial.params["lr"], trial.fidelity, trial.reached, trial.segment) == (9.0, 1.0, 2.0, 1)
    assert trial.stretches[1].donor.checkpoint == taken


def test_the_best_report_has_the_parameters_it_was_made_with():
    script = Script()
    script.report(0, 2.0, 0.9)
    script.report(1, 1.0, 0.7)
    script.perturb(0, 1, 1.0, 2.0, 9.0)
    script.report(0, 2.0, 0.6)
    trial = script.history.trials[0]
    first, last = trial.reports
    assert trial.best(OBJECTIVE) is first
    assert [trial.params_at(report)["lr"] for report in trial.reports] == [1.0, 9.0]
    assert trial.best_params(OBJECTIVE)["lr"] == 1.0
    assert trial.best_params(Objective("m", "min"))["lr"] == 9.0
    assert shape(trial.lineage_at(last)) == [(2.0, 11, 1.0), (9.0, 10, None)]
    assert shape(trial.lineage_at(first)) == [(1.0, 10, None)]


def test_work_is_what_trials_trained_themselves():
    script = Script()
    script.report(0, 3.0, 0.5)
    script.report(1, 1.0, 0.7)
    script.perturb(0, 1, 1.0, 3.0, 9.0)
    assert script.history.work == pytest.approx(3.0 + 1.0)
    script.report(0, 2.5, 0.6)
    assert script.history.trials[0].work == pytest.approx(3.0 + 1.5)
    assert script.history.work == pytest.approx(5.5)


def test_the_donor_may_have_been_perturbed_since():
    """Its checkpoint belongs to the lineage of its report, not to the one it has now."""
    script = Script(3)
    taken = script.report(1, 2.0, 0.7)
    script.report(2, 1.0, 0.9)
    script.perturb(1, 2, 1.0, 2.0, 7.0)
    script.report(1, 2.0, 0.8)
    script.perturb(0, 1, 2.0, 0.0, 9.0, taken)
    assert shape(script.history.trials[0].lineage) == [(2.0, 11, 2.0), (9.0, 10, None)]
    script.perturb(0, 1, 2.0, 2.0, 9.0)  # not named: the newest at 2 passes
    assert shape(script.history.trials[0].lineage) == [(3.0, 12, 1.0), (7.0, 11, 2.0), (9.0, 10, None)]


def test_a_trial_may_go_back_to_its_own_checkpoint():
    script = Script(1)
    script.report(0, 1.0, 0.5)
    script.report(0, 2.0, 0.4)
    script.perturb(0, 0, 1.0, 2.0, 9.0)
    assert shape(script.history.trials[0].lineage) == [(1.0, 10, 1.0), (9.0, 10, None)]


def test_a_perturbation_without_a_donors_training_is_a_new_start():
    script = Script()
    script.report(0, 1.0, 0.5)
    script.perturb(0, 1, 0.0, 1.0, 9.0)
    trial = script.history.trials[0]
    assert (shape(trial.lineage), trial.fidelity, trial.work) == ([(9.0, 10, None)], 0.0, 1.0)


def test_a_trial_that_begins_with_a_checkpoint_has_its_lineage():
    script = Script()
    taken = script.report(1, 2.0, 0.7)
    script.add("trial", trial=2, params={"lr": 5.0, "rank": 4}, sampled={}, distributions={}, seed=12, origin="clone",
               donor={"trial": 1, "fidelity": 2.0, "checkpoint": taken})  # fmt: skip
    history = script.history
    trial = history.trials[2]
    assert shape(trial.lineage) == [(2.0, 11, 2.0), (5.0, 12, None)]
    assert (trial.segment, trial.fidelity, trial.work, trial.donor.trial) == (0, 2.0, 0.0, 1)
    assert history.target == 3
    script.report(2, 3.0, 0.8)
    assert script.history.trials[2].work == 1.0


def test_a_trial_as_of_a_report_knows_nothing_later():
    script = Script()
    script.report(0, 2.0, 0.4)
    script.report(1, 1.0, 0.7)
    script.perturb(0, 1, 1.0, 2.0, 9.0)
    script.report(0, 1.5, 0.9)
    trial = script.history.trials[0]
    then = trial.as_of(trial.reports[0])
    assert (then.params["lr"], then.score(OBJECTIVE, up_to=2.0), then.segment, then.fidelity) == (1.0, 0.4, 0, 2.0)
    assert trial.score(OBJECTIVE, up_to=2.0) == 0.9


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=5), st.floats(0, 30))
def test_a_cut_lineage_ends_where_it_is_cut(lengths, at):
    ends, whole = 0.0, []
    for number, length in enumerate(lengths):
        ends += length
        whole.append(Segment({"n": number}, number, ends))
    whole[-1] = Segment({"n": len(lengths) - 1}, len(lengths) - 1)
    left = cut(tuple(whole), at)
    assert [segment.seed for segment in left] == list(range(len(left)))
    assert abs(left[-1].until - at) <= TOLERANCE if left else at <= TOLERANCE
    untils = [segment.until for segment in left]
    assert untils == sorted(untils)
    assert cut(left, at) == left


def test_reference_keeps_the_score_before_perturbation() -> None:
    events = [
        {
            "event": "trial",
            "trial": n,
            "params": {"lr": 0.1 * n},
            "sampled": {},
            "distributions": {},
            "seed": n,
            "origin": "start",
        }
        for n in (1, 2)
    ]
    report = {"event": "report", "samples": 1, "checkpoint": "c", "time": 0.0}
    events += [{**report, "trial": n, "fidelity": 1.0, "metrics": {"macro_f1": 0.3 * n}} for n in (1, 2)]
    events.append(
        {
            "event": "perturb", "trial": 1, "donor": 2, "donor_fidelity": 1.0, "fidelity": 1.0, "params": {"lr": 9.0},
            "checkpoint": "c",
        }
    )  # fmt: skip
    events.append({**report, "trial": 1, "fidelity": 2.0, "metrics": {"macro_f1": 0.9}})
    trial = History(events).trials[1]
    assert trial.value(Objective("macro_f1")) == 0.9
    assert trial.as_begun().value(Objective("macro_f1")) == 0.3
    assert trial.as_begun().params == {"lr": 0.1}
