"""What a report says, in numbers and in words."""

import json

import numpy as np
import pytest

from lungtune.report import retrain_report
from lungtune.stats import seeds

CLASSES = ("normal", "a|b<script>")


def section(share_of_first=0.5):
    labels = np.arange(100) % 2
    said = (np.arange(100) >= 100 * share_of_first).astype(int)
    return retrain_report.section(labels, 0.8 * np.eye(2)[said] + 0.1, np.arange(100) // 2, CLASSES, labels)


def test_a_section_is_plain_data():
    assert json.loads(json.dumps(section())) == section()
    assert section()["patients"] == 50


def test_collapse_is_said_in_words():
    words = retrain_report.section_markdown("Test", section(share_of_first=0.99), CLASSES)
    assert "**The model has collapsed: it predicts 'normal' for 99.0 % of the cases.**" in words
    assert "collapsed" not in retrain_report.section_markdown("Test", section(), CLASSES)


def test_names_break_no_table_and_no_page():
    words = retrain_report.section_markdown("Test", section(), CLASSES)
    assert "<script>" not in words
    assert "| a/b(script) | 50 |" in words


@pytest.mark.parametrize(
    ("retrained", "cases", "edited", "verdict"),
    [(0.8, 500, False, "yes"), (0.809, 500, False, "yes"), (0.78, 500, False, "no"), (0.78, 50, False, "yes"),
     (0.8, 500, True, "not compared")],
)  # fmt: skip
def test_scores_are_equal_within_a_hundredth_or_two_cases(retrained, cases, edited, verdict):
    found = retrain_report.reproduction("macro_f1", 0.8, retrained, cases, edited, {})
    assert found["reproduced"] == verdict
    assert retrain_report.reproduction_text(found).startswith(f"reproduced: {verdict}, ")


@pytest.mark.parametrize(
    ("retrained", "verdict"), [(56.2, "yes"), (54.0, "yes"), (58.9, "yes"), (60.0, "no"), (50.0, "no")]
)
def test_distances_are_equal_within_a_twentieth(retrained, verdict):
    """Rounding grows over the steps of training and drawing."""
    assert retrain_report.reproduction("cmmd", 56.2, retrained, 301, False, {})["reproduced"] == verdict


def test_a_failure_to_reproduce_names_what_changed():
    found = retrain_report.reproduction("macro_f1", 0.8, 0.5, 500, False, {"torch": ["2.13", "2.14"]})
    assert retrain_report.reproduction_text(found).endswith(
        "Look at: the pretrained weights, torch 2.13 then, 2.14 now"
    )


def test_spread_of_one_run_has_no_deviation():
    assert retrain_report.spread([0.5]) == {"mean": 0.5, "sd": None}
    assert retrain_report.spread([0.4, 0.6]) == {"mean": 0.5, "sd": pytest.approx(0.1414, abs=1e-4)}


def several(values, edited=False):
    runs = [{"seed": 7 + number, "value": value} for number, value in enumerate(values)]
    return {"runs": runs, "spread_others": seeds.others(runs), "reproduction": {"edited": edited}}


def test_the_searched_seed_is_named_and_the_others_are_told_apart():
    notes = seeds.notes(several([0.9, 0.6, 0.8]))
    assert notes[0].startswith("Seed 7 is the searched one: its score was selected")
    assert notes[1] == "The other seeds alone, validation: mean 0.700 ± 0.141 (sd over seeds)."
    assert notes[2] == "Weights, metrics and intervals shown are those of seed 7."


@pytest.mark.parametrize(("values", "others"), [([0.9, 0.6], None), ([0.9, None, None], None),
                                                ([0.9, 0.5, None], {"mean": 0.5, "sd": None})])  # fmt: skip
def test_few_other_seeds(values, others):
    assert several(values)["spread_others"] == others


def test_the_seed_of_an_edited_recipe_was_not_selected():
    assert len(seeds.notes(several([0.9, 0.6], edited=True))) == 1


def test_only_an_interval_that_is_a_point_is_called_one():
    """A class without a case has no interval."""
    labels = np.arange(100) % 2
    said = np.eye(3)[np.where(np.arange(100) % 7, labels, 1 - labels)]
    names = ("a", "b", "c")
    part = retrain_report.section(labels, said, np.arange(100), names, labels)
    assert part["metrics"]["recall_c"]["low"] is None
    assert "is a single point" not in retrain_report.section_markdown("Test", part, names)
    part = retrain_report.section(labels, np.eye(3)[labels], np.arange(100), names, labels)
    assert "is a single point" in retrain_report.section_markdown("Test", part, names)
