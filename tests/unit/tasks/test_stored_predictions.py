"""Predictions round-trip through a checkpoint and a table."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lungtune.stats.case_metrics import CaseMeasures
from lungtune.tasks import stored_predictions
from lungtune.tasks.classification import Classification
from lungtune.tasks.classification.predictions import Probabilities
from lungtune.tasks.generation import Generation
from lungtune.tasks.generation.sample_metrics import Samples, scores
from lungtune.tasks.segmentation import Segmentation
from tests.unit.tasks.generation import generated


def probabilities():
    rng = np.random.default_rng(0)
    return Probabilities(np.arange(9) % 3, rng.dirichlet(np.ones(3), 9))


def measures():
    dice = np.where(np.arange(9) % 4, np.random.default_rng(1).random(9), np.nan)
    return CaseMeasures({"dice": dice, "iou": dice / (2 - dice)})


MADE = {
    "classification": (Classification(), probabilities(), "nll"),
    "segmentation": (Segmentation(), measures(), "dice"),
    "generation": (Generation(), generated.samples_of(0, classes=3), "cmmd"),
}
every = pytest.mark.parametrize(("task", "kept", "metric"), MADE.values(), ids=MADE)


@every
def test_predictions_go_through_a_checkpoint(tmp_path, task, kept, metric):
    path = tmp_path / "000000000010.safetensors"
    save_file({**kept.tensors(), "state.weight": np.zeros(3)}, path)
    read = stored_predictions.load(path, task)
    assert type(read) is type(kept)
    assert len(read) == len(kept)
    groups, ones = np.arange(len(kept)), np.ones((1, len(kept)), int)
    assert read.scorer(groups).score(metric, ones) == pytest.approx(kept.scorer(groups).score(metric, ones), abs=1e-3)
    assert task.predictions(kept.tensors()).tensors().keys() == kept.tensors().keys()


@every
def test_a_table_makes_another_report_on_the_same_cases(task, kept, metric):
    table = kept.table()
    assert table.dtype == np.float32
    other = kept.with_table(table[::-1])
    np.testing.assert_array_equal(other.table(), table[::-1])
    assert len(other) == len(kept)
    if task.name != "segmentation":  # which has no labels
        assert other.labels is kept.labels


@every
def test_no_task_reads_anothers_checkpoint(tmp_path, task, kept, metric):
    path = tmp_path / "other.safetensors"
    save_file({"state.weight": np.zeros(3), **kept.tensors()}, path)
    for name, (other, _, _) in MADE.items():
        assert (stored_predictions.load(path, other) is None) == (name != task.name)


@every
def test_every_scorer_name_of_a_task_is_scored(task, kept, metric):
    scorer = kept.scorer(np.arange(len(kept)))
    ones = np.ones((1, len(kept)), int)
    for shown, name in task.scorer_names(generated.CLASSES).items():
        assert scorer.score(name, ones).shape == (1,), shown
        assert scorer.cases(name).shape == (len(kept),)


def test_a_generators_checkpoint_holds_what_scoring_it_needs():
    samples = generated.samples_of(0, classes=3)
    held = samples.tensors()
    assert {name: each.shape for name, each in held.items()} == {
        "real": (60, 8), "labels": (60,), "samples": (45, 8), "drawn": (45,), "sigma": (1,)
    }  # fmt: skip
    for sigma in (held["sigma"], held["sigma"][0]):
        read = Generation().predictions({**held, "sigma": sigma})
        assert isinstance(read, Samples)
        assert read.sigma == samples.sigma
    assert scores(read, generated.CLASSES)["cmmd"] == pytest.approx(
        scores(samples, generated.CLASSES)["cmmd"], abs=1e-3
    )


def test_checkpoint_of_a_version_without_generators_is_read(tmp_path):
    built = probabilities()
    path = tmp_path / "old.safetensors"
    save_file({"labels": built.labels, "probabilities": built.probabilities.astype(np.float32)}, path)
    read = stored_predictions.load(path, Classification())
    assert isinstance(read, Probabilities)
    assert read.probabilities == pytest.approx(built.probabilities, abs=1e-6)


def test_only_a_classifier_collapses_onto_a_class():
    one = Probabilities(np.arange(9) % 3, np.tile(np.eye(3)[1], (9, 1)))
    assert "it predicts 'bacterial' for 100.0 %" in one.collapsed(generated.CLASSES)
    assert probabilities().collapsed(generated.CLASSES) == ""
    assert generated.samples_of(0, spread=0.01).collapsed(generated.CLASSES) == ""


def test_missing_or_damaged_checkpoint_has_no_predictions(tmp_path):
    path = tmp_path / "x.safetensors"
    for task, _, _ in MADE.values():
        assert stored_predictions.load(path, task) is None
    path.write_bytes(b"torn")
    assert stored_predictions.load(path, Classification()) is None
    save_file({"labels": np.arange(3), "real": np.zeros((3, 2))}, path)
    for task, _, _ in MADE.values():
        assert stored_predictions.load(path, task) is None
