"""Additional heads of a classifier, and metrics of other tasks, in its report section."""

import json

import numpy as np
import pytest

from lungtune.stats import case_metrics
from lungtune.tasks.classification import METRICS, evaluation, metrics
from lungtune.tasks.classification.report_markdown import section_markdown

CLASSES = ("normal", "bacterial")


def prediction():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    dice = np.where(np.arange(60) < 40, rng.random(60), np.nan)
    return labels, {
        "probabilities": 0.8 * np.eye(2)[labels] + 0.1,
        "dice": dice,
        "none": np.full(60, np.nan),
        "transformer|": rng.dirichlet(np.ones(2), 60),
    }


def section(labels, found):
    measures = {}
    for name in ("dice", "none"):
        value = case_metrics.mean(found[name], np.arange(60)).to_dict()
        measures[name] = {**value, "cases": int(np.isfinite(found[name]).sum())}
    heads = {"transformer|": found["transformer|"]}
    return evaluation.section(
        labels, found["probabilities"], np.arange(60), CLASSES, labels, heads=heads, measures=measures
    )


@pytest.mark.filterwarnings("error")
def test_a_section_holds_measures_and_heads():
    labels, result = prediction()
    part = section(labels, result)
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert part["measures"]["dice"]["value"] == pytest.approx(np.nanmean(result["dice"]))
    assert part["measures"]["dice"]["cases"] == 40
    assert part["measures"]["none"]["value"] is None
    assert set(part["heads"]) == {"transformer|"}
    expected = metrics.classification(labels, result["transformer|"], CLASSES)
    head = part["heads"]["transformer|"]
    assert {name: each["value"] for name, each in head.items()} == pytest.approx({n: expected[n] for n in METRICS})
    words = section_markdown("Test", part, CLASSES)
    assert f"| dice | 40 | {part['measures']['dice']['value']:.3f} (" in words
    assert "| none | 0 | - |" in words
    assert "| transformer/ | " in words


def test_report_omits_absent_outputs():
    labels, result = prediction()
    part = evaluation.section(labels, result["probabilities"], np.arange(60), CLASSES, labels)
    assert (part["measures"], part["heads"]) == ({}, {})
    assert "| measure |" not in section_markdown("Test", part, CLASSES)
