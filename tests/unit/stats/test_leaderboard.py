"""Leaderboard: winner, lead and its interval."""

import json

import numpy as np
import pytest

from lungtune.core.trial import Objective
from lungtune.report import leaderboard
from lungtune.stats.case_metrics import CaseMeasures
from lungtune.stats.leaderboard import Contender, board
from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import Probabilities

CLASSES = ("normal", "bacterial", "viral")
LABELS, PATIENTS = np.arange(240) % 3, np.arange(240) // 2
MACRO_F1, NLL = Objective("macro_f1"), Objective("nll", "min")


def model(right, seed=0, least=None):
    """A model that is right with probability ``right``; in class ``least`` with 0.2 only."""
    rng = np.random.default_rng(seed)
    chance = np.where(least == LABELS, 0.2, right)
    predicted = np.where(rng.random(240) < chance, LABELS, (LABELS + rng.integers(1, 3, 240)) % 3)
    return Probabilities(LABELS, 0.7 * np.eye(3)[predicted] + 0.1)


def contenders(*rights):
    return [Contender(name, model(right, seed)) for seed, (name, right) in enumerate(zip("abcdef", rights))]


def test_rows_are_ranked_and_scored_as_the_metrics_do():
    ranking = board(PATIENTS, contenders(0.5, 0.9, 0.7), MACRO_F1, draws=300)
    assert json.loads(json.dumps(ranking)) == ranking
    assert [(row["rank"], row["name"]) for row in ranking["rows"]] == [(1, "b"), (2, "c"), (3, "a")]
    for row, right, seed in zip(ranking["rows"], (0.9, 0.7, 0.5), (1, 2, 0)):
        expected = metrics.classification(LABELS, model(right, seed).probabilities, CLASSES)["macro_f1"]
        assert row["value"] == row["interval"]["value"] == pytest.approx(expected)
    lead = ranking["rows"][1]["lead"]
    assert lead["value"] == pytest.approx(ranking["rows"][0]["value"] - ranking["rows"][1]["value"])
    assert (ranking["rows"][0]["lead"], ranking["rows"][0]["beyond_chance"]) == (None, None)
    assert ranking["rows"][1]["beyond_chance"]


def test_a_clear_winner_and_a_close_one_get_different_sentences():
    clear = board(PATIENTS, contenders(0.9, 0.5), MACRO_F1, draws=300)["sentence"]
    assert clear.startswith("a wins; its lead of 0.")
    assert "over b is beyond chance (95 % interval 0." in clear
    close = board(PATIENTS, [*contenders(0.7, 0.7), Contender("z", model(0.3, 9))], MACRO_F1, draws=300)
    assert "is not distinguishable from chance (95 % interval -0." in close["sentence"]
    assert "jointly for 2 comparisons)" in close["sentence"]
    assert close["sentence"].endswith("Its lead is beyond chance over z.")
    assert "do not cover the effects of another seed" in close["claims"]


def test_more_rivals_make_intervals_wider():
    two, six = (
        board(PATIENTS, contenders(*rights), MACRO_F1) for rights in ((0.9, 0.7), (0.9, 0.7, 0.5, 0.5, 0.5, 0.5))
    )
    lead, wider = two["rows"][1]["lead"], six["rows"][1]["lead"]
    assert lead["value"] == wider["value"]
    assert wider["low"] < lead["low"]
    assert wider["level"] == pytest.approx(0.99)


def test_losses_rank_the_other_way_and_leads_stay_positive():
    ranking = board(PATIENTS, contenders(0.5, 0.9), NLL, draws=300)
    assert ranking["rows"][0]["name"] == "b"
    assert ranking["rows"][1]["lead"]["low"] > 0


def test_lead_explained_by_the_choice_is_not_beyond_chance():
    """A family of one good trial against the luckiest of eighty blind ones."""
    blind = [model(1 / 3, seed) for seed in range(100, 180)]
    scores = [metrics.classification(LABELS, table.probabilities, CLASSES)["macro_f1"] for table in blind]
    best, worst = blind[int(np.argmax(scores))], blind[int(np.argmin(scores))]
    pair = [Contender("many", best), Contender("one", worst)]
    assert board(PATIENTS, pair, MACRO_F1, draws=300)["rows"][1]["beyond_chance"]
    chosen = {"many": blind, "one": [worst]}
    ranking = board(PATIENTS, pair, MACRO_F1, candidates=chosen, draws=300)
    assert ranking["rows"][0]["corrected"]["value"] < ranking["rows"][0]["value"] - 0.04
    assert not ranking["rows"][1]["beyond_chance"]
    assert "the choice among many trials explains the lead" in ranking["sentence"]
    assert "Corrected for choosing the best of all trials" in ranking["sentence"]


def test_correction_requires_candidates_of_all_contenders():
    pair = contenders(0.9, 0.5)
    ranking = board(PATIENTS, pair, MACRO_F1, candidates={"a": [model(0.9)]}, draws=100)
    assert ranking["corrected"] is None
    assert ranking["rows"][0]["corrected"]["value"] == pytest.approx(ranking["rows"][0]["value"], abs=0.02)
    assert ranking["rows"][1]["corrected"] is None


def test_journal_value_decides_the_rank():
    ranking = board(PATIENTS, [Contender("a", model(0.7), 0.6), Contender("b", model(0.7), 0.8)], MACRO_F1, draws=50)
    assert [row["value"] for row in ranking["rows"]] == [0.8, 0.6]


def test_one_contender_and_one_patient():
    assert "nothing to compare" in board(PATIENTS, contenders(0.9), MACRO_F1, draws=50)["sentence"]
    ranking = board(np.zeros(240), contenders(0.9, 0.5), MACRO_F1, draws=50, candidates={"a": [model(0.9)]})
    assert "can't be decided from one patient" in ranking["sentence"]
    assert not ranking["rows"][1]["beyond_chance"]


@pytest.mark.parametrize("given", [[], [Contender("a", model(0.5))] * 2])
def test_contenders_need_names_of_their_own(given):
    with pytest.raises(ValueError, match="Contenders of different names must be given"):
        board(PATIENTS, given, MACRO_F1)


def test_tables_hold_a_line_a_contender():
    ranking = board(PATIENTS, [Contender("a|<b>", model(0.9)), Contender("c", model(0.5))], MACRO_F1, draws=50)
    words = leaderboard.markdown(ranking)
    assert "| 1 | a/(b) | 0." in words
    assert "<" not in words
    assert leaderboard.text(ranking).splitlines()[1].startswith(" 2  c      0.")
    assert leaderboard.text(ranking).endswith(f"{ranking['sentence']}\n{ranking['claims']}")


def test_any_tasks_objective_ranks():
    """The metric's key in reports has the task's name, the scorer's has not."""
    rng = np.random.default_rng(0)
    built = {name: CaseMeasures({"dice": rng.normal(mean, 0.1, 240)}) for name, mean in (("a", 0.6), ("b", 0.8))}
    pair = [Contender(name, each) for name, each in built.items()]
    ranking = board(PATIENTS, pair, Objective("segmentation.dice", task="segmentation"), draws=300)
    assert ranking["metric"] == "segmentation.dice"
    assert [row["name"] for row in ranking["rows"]] == ["b", "a"]
    assert ranking["rows"][1]["beyond_chance"]
