"""Summary of a study's best trial, corrected for selection of trial and report."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lungtune import summary
from lungtune.core.study import Study
from lungtune.core.trial import Objective, Report, Trial
from lungtune.stats import selection
from lungtune.tasks.classification import Classification

OBJECTIVE, PATIENTS, TASK = Objective("accuracy"), np.arange(150), Classification()


def searched(folder, trials=12, reports=9, seed=0):
    """Trials whose every report is right with probability 0.6; only each best checkpoint is left, as after pruning."""
    rng, labels, result = np.random.default_rng(seed), PATIENTS % 3, []
    study = Study(folder)
    for number in range(trials):
        trial = Trial(number, {}, {}, {}, 0, "sampled")
        study.checkpoints(number).mkdir(parents=True)
        tables = []
        for k in range(reports):
            wrong = (labels + rng.integers(1, 3, len(labels))) % 3
            predicted = np.where(rng.random(len(labels)) < 0.6, labels, wrong)
            tables.append((0.7 * np.eye(3)[predicted] + 0.1).astype(np.float32))
            score = {"accuracy": float((predicted == labels).mean())}
            path = study.checkpoints(number) / f"{k:012d}.safetensors"
            np.save(path.with_suffix(".npy"), tables[-1])
            trial.reports.append(Report(k + 1, k, score, str(path.relative_to(folder))))
        best = trial.best(OBJECTIVE)
        save_file({"labels": labels, "probabilities": tables[best.samples]}, folder / best.checkpoint)
        result.append(trial)
    return study, result


def test_all_reports_of_a_trial_are_read(tmp_path):
    study, (trial,) = searched(tmp_path, trials=1)
    assert [table.shape for table in summary.reported(study, trial, TASK)] == [(150, 3)] * 9


@pytest.mark.parametrize("torn", [False, True])
def test_without_tables_the_best_checkpoint_is_left(tmp_path, torn):
    study, (trial,) = searched(tmp_path, trials=1)
    for path in tmp_path.glob("checkpoints/*/*.npy"):
        path.write_bytes(b"torn") if torn else path.unlink()
    (table,) = summary.reported(study, trial, TASK)
    assert (table == summary.kept(study, trial.best(OBJECTIVE), TASK).probabilities).all()


def test_selection_of_the_report_is_corrected_too(tmp_path):
    """The truth is 0.6. One table per trial, its best, leaves the optimism of the maximum over the reports in."""
    result, partly = [], []
    for seed in range(8):
        study, trials = searched(tmp_path / str(seed), seed=seed)
        result.append(summary.corrected(study, trials, PATIENTS, OBJECTIVE, TASK).value)
        kept = [summary.kept(study, trial.best(OBJECTIVE), TASK) for trial in trials]
        partly.append(selection.expected(kept, PATIENTS, "accuracy").value)
    assert np.mean(partly) > 0.625
    assert np.mean(result) == pytest.approx(0.6, abs=0.015)


def test_lost_predictions_are_not_estimated(tmp_path):
    study, trials = searched(tmp_path, trials=2)
    assert summary.corrected(study, trials, np.zeros(150), OBJECTIVE, TASK) is None
    for path in tmp_path.glob("checkpoints/*/*.safetensors"):
        path.unlink()
    assert summary.corrected(study, trials, PATIENTS, OBJECTIVE, TASK) is None
