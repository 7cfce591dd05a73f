"""What a report keeps goes through a checkpoint and a table, and tells by itself what it is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lungtune.tasks import stored_predictions
from lungtune.tasks.generation.sample_metrics import Samples, scores
from lungtune.tasks.stored_predictions import Probabilities
from tests.unit.evaluate import generated


def probabilities():
    rng = np.random.default_rng(0)
    return Probabilities(np.arange(9) % 3, rng.dirichlet(np.ones(3), 9))


@pytest.mark.parametrize("made", [probabilities(), generated.evidence(0, classes=3)], ids=["classifier", "generator"])
def test_it_goes_through_a_checkpoint(tmp_path, made):
    path = tmp_path / "000000000010.safetensors"
    save_file({**made.tensors(), "state.weight": np.zeros(3)}, path)
    read = stored_predictions.load(path)
    assert type(read) is type(made)
    groups, ones = np.arange(len(made.labels)), np.ones((1, len(made.labels)), int)
    metric = "nll" if isinstance(made, Probabilities) else "cmmd"
    assert read.scorer(groups).score(metric, ones) == pytest.approx(made.scorer(groups).score(metric, ones), abs=1e-3)
    assert stored_predictions.of(made.tensors()).tensors().keys() == made.tensors().keys()


@pytest.mark.parametrize("made", [probabilities(), generated.evidence(0, classes=3)], ids=["classifier", "generator"])
def test_a_table_makes_another_report_on_the_same_cases(made):
    table = made.table()
    assert table.dtype == np.float32
    other = made.with_table(table[::-1])
    assert (other.table() == table[::-1]).all()
    assert other.labels is made.labels


def test_a_generators_checkpoint_holds_what_scoring_it_needs():
    made = generated.evidence(0, classes=3)
    held = made.tensors()
    assert {name: each.shape for name, each in held.items()} == {
        "real": (60, 8), "labels": (60,), "samples": (45, 8), "drawn": (45,), "sigma": (1,)
    }  # fmt: skip
    for sigma in (held["sigma"], held["sigma"][0]):
        read = stored_predictions.of({**held, "sigma": sigma})
        assert isinstance(read, Samples)
        assert read.sigma == made.sigma
    assert scores(read, generated.CLASSES)["cmmd"] == pytest.approx(scores(made, generated.CLASSES)["cmmd"], abs=1e-3)


def test_a_checkpoint_from_before_there_were_generators_is_read(tmp_path):
    made = probabilities()
    path = tmp_path / "old.safetensors"
    save_file({"labels": made.labels, "probabilities": made.probabilities.astype(np.float32)}, path)
    read = stored_predictions.load(path)
    assert isinstance(read, Probabilities)
    assert read.probabilities == pytest.approx(made.probabilities, abs=1e-6)


def test_only_a_classifier_collapses_onto_a_class():
    one = Probabilities(np.arange(9) % 3, np.tile(np.eye(3)[1], (9, 1)))
    assert "it predicts 'bacterial' for 100.0 %" in one.collapsed(generated.CLASSES)
    assert probabilities().collapsed(generated.CLASSES) == ""
    assert generated.evidence(0, spread=0.01).collapsed(generated.CLASSES) == ""


def test_what_is_gone_damaged_or_something_else_is_no_evidence(tmp_path):
    path = tmp_path / "x.safetensors"
    assert stored_predictions.load(path) is None
    path.write_bytes(b"torn")
    assert stored_predictions.load(path) is None
    save_file({"labels": np.arange(3), "real": np.zeros((3, 2))}, path)
    assert stored_predictions.load(path) is None
