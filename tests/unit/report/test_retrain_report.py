"""Frame of a retraining report: reproduction, seeds, sections."""

import pytest

from lungtune.report import retrain_report
from lungtune.stats import seeds
from lungtune.tasks.classification import Classification
from lungtune.tasks.generation import Generation


@pytest.mark.parametrize(
    ("retrained", "cases", "edited", "verdict"),
    [(0.8, 500, False, "yes"), (0.809, 500, False, "yes"), (0.78, 500, False, "no"), (0.78, 50, False, "yes"),
     (0.8, 500, True, "not compared")],
)  # fmt: skip
def test_scores_are_equal_within_a_hundredth_or_two_cases(retrained, cases, edited, verdict):
    result = retrain_report.reproduction("macro_f1", 0.8, retrained, Classification().tolerance(0.8, cases), edited, {})
    assert result["reproduced"] == verdict
    assert retrain_report.reproduction_text(result).startswith(f"reproduced: {verdict}, ")


@pytest.mark.parametrize(
    ("retrained", "verdict"), [(56.2, "yes"), (54.0, "yes"), (58.9, "yes"), (60.0, "no"), (50.0, "no")]
)
def test_distances_are_equal_within_a_twentieth(retrained, verdict):
    """Rounding grows over the steps of training and drawing."""
    tolerance = Generation().tolerance(56.2, 301)
    assert retrain_report.reproduction("cmmd", 56.2, retrained, tolerance, False, {})["reproduced"] == verdict


def test_a_failure_to_reproduce_names_what_changed():
    result = retrain_report.reproduction("macro_f1", 0.8, 0.5, 0.01, False, {"torch": ["2.13", "2.14"]})
    assert retrain_report.reproduction_text(result).endswith(
        "Look at: the pretrained weights, torch 2.13 then, 2.14 now"
    )


def test_spread_of_one_run_has_no_deviation():
    assert seeds.spread([0.5]) == {"mean": 0.5, "sd": None}
    assert seeds.spread([0.4, 0.6]) == {"mean": 0.5, "sd": pytest.approx(0.1414, abs=1e-4)}


def several(values, edited=False):
    runs = [{"seed": 7 + number, "value": value} for number, value in enumerate(values)]
    return {"runs": runs, "spread_others": seeds.others(runs), "reproduction": {"edited": edited}}


def test_searched_seed_is_named_apart_from_the_others():
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


PART = {
    "cases": 40,
    "patients": 20,
    "metrics": {"dice": {"value": 0.8, "low": 0.7, "high": 0.9, "level": 0.95}},
    "baselines": {"mean mask": {"dice": 0.5}, "other": {}},
    "collapsed": "",
    "measures": {"accuracy|": {"value": 0.6, "low": None, "high": None, "level": 0.95, "cases": 40}},
}


def test_section_shows_metrics_and_baselines():
    words = retrain_report.section_markdown("Test", PART)
    assert "40 cases of 20 patients" in words
    assert "| metric | recipe | mean mask | other |" in words
    assert "| dice | 0.800 (0.700 to 0.900) | 0.500 | - |" in words
    assert "| accuracy/ | 40 | 0.600 |" in words
    lines = retrain_report.section_text("test", PART)
    assert lines[1].endswith("0.800 (0.700 to 0.900); mean mask 0.500")


def test_collapse_is_in_bold_in_a_plain_section():
    assert "**all zero**" in retrain_report.section_markdown("Test", {**PART, "collapsed": "all zero"})
