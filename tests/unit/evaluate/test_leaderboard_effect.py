"""Who wins, by how much, and whether that is chance; whether an axis helps, and where."""

import json

import numpy as np
import pytest

from lungtune.stats import ablation, leaderboard
from lungtune.stats.leaderboard import Contender, board
from lungtune.tasks.classification import metrics

CLASSES = ("normal", "bacterial", "viral")
LABELS, PATIENTS = np.arange(240) % 3, np.arange(240) // 2


def model(right, seed=0, least=None):
    """A model that is right with probability ``right``; in class ``least`` with 0.2 only."""
    rng = np.random.default_rng(seed)
    chance = np.where(least == LABELS, 0.2, right)
    said = np.where(rng.random(240) < chance, LABELS, (LABELS + rng.integers(1, 3, 240)) % 3)
    return 0.7 * np.eye(3)[said] + 0.1


def contenders(*rights):
    return [Contender(name, model(right, seed)) for seed, (name, right) in enumerate(zip("abcdef", rights))]


def test_rows_are_ranked_and_scored_as_the_metrics_do():
    found = board(LABELS, PATIENTS, contenders(0.5, 0.9, 0.7), draws=300)
    assert json.loads(json.dumps(found)) == found
    assert [(row["rank"], row["name"]) for row in found["rows"]] == [(1, "b"), (2, "c"), (3, "a")]
    for row, right, seed in zip(found["rows"], (0.9, 0.7, 0.5), (1, 2, 0)):
        expected = metrics.classification(LABELS, model(right, seed), CLASSES)["macro_f1"]
        assert row["value"] == row["interval"]["value"] == pytest.approx(expected)
    lead = found["rows"][1]["lead"]
    assert lead["value"] == pytest.approx(found["rows"][0]["value"] - found["rows"][1]["value"])
    assert (found["rows"][0]["lead"], found["rows"][0]["beyond_chance"]) == (None, None)
    assert found["rows"][1]["beyond_chance"]


def test_a_clear_winner_and_a_close_one_get_different_sentences():
    clear = board(LABELS, PATIENTS, contenders(0.9, 0.5), draws=300)["sentence"]
    assert clear.startswith("a wins; its lead of 0.")
    assert "over b is beyond chance (95 % interval 0." in clear
    close = board(LABELS, PATIENTS, [*contenders(0.7, 0.7), Contender("z", model(0.3, 9))], draws=300)
    assert "is not distinguishable from chance (95 % interval -0." in close["sentence"]
    assert "jointly for 2 comparisons)" in close["sentence"]
    assert close["sentence"].endswith("Its lead is beyond chance over z.")
    assert "do not tell what another seed" in close["claims"]


def test_more_rivals_make_intervals_wider():
    two, six = (board(LABELS, PATIENTS, contenders(*rights)) for rights in ((0.9, 0.7), (0.9, 0.7, 0.5, 0.5, 0.5, 0.5)))
    lead, wider = two["rows"][1]["lead"], six["rows"][1]["lead"]
    assert lead["value"] == wider["value"]
    assert wider["low"] < lead["low"]
    assert wider["level"] == pytest.approx(0.99)


def test_losses_rank_the_other_way_round_and_leads_stay_positive():
    found = board(LABELS, PATIENTS, contenders(0.5, 0.9), "nll", draws=300)
    assert found["rows"][0]["name"] == "b"
    assert found["rows"][1]["lead"]["low"] > 0


def test_a_lead_that_the_choice_among_many_explains_is_not_beyond_chance():
    """A family of one good trial against the luckiest of eighty blind ones."""
    blind = [model(1 / 3, seed) for seed in range(100, 180)]
    scores = [metrics.classification(LABELS, table, CLASSES)["macro_f1"] for table in blind]
    best, worst = blind[int(np.argmax(scores))], blind[int(np.argmin(scores))]
    pair = [Contender("many", best), Contender("one", worst)]
    assert board(LABELS, PATIENTS, pair, draws=300)["rows"][1]["beyond_chance"]
    chosen = {"many": blind, "one": [worst]}
    found = board(LABELS, PATIENTS, pair, candidates=chosen, draws=300)
    assert found["rows"][0]["corrected"]["value"] < found["rows"][0]["value"] - 0.04
    assert not found["rows"][1]["beyond_chance"]
    assert "the choice among many trials explains the lead" in found["sentence"]
    assert "Corrected for choosing the best of all trials" in found["sentence"]


def test_the_whole_choice_is_corrected_only_with_everyones_candidates():
    pair = contenders(0.9, 0.5)
    found = board(LABELS, PATIENTS, pair, candidates={"a": [model(0.9)]}, draws=100)
    assert found["corrected"] is None
    assert found["rows"][0]["corrected"]["value"] == pytest.approx(found["rows"][0]["value"], abs=0.02)
    assert found["rows"][1]["corrected"] is None


def test_the_value_of_the_journal_ranks_where_it_is_given():
    found = board(LABELS, PATIENTS, [Contender("a", model(0.7), 0.6), Contender("b", model(0.7), 0.8)], draws=50)
    assert [row["value"] for row in found["rows"]] == [0.8, 0.6]


def test_one_contender_and_one_patient():
    assert "nothing to compare" in board(LABELS, PATIENTS, contenders(0.9), draws=50)["sentence"]
    found = board(LABELS, np.zeros(240), contenders(0.9, 0.5), draws=50, candidates={"a": [model(0.9)]})
    assert "can't be told from one patient" in found["sentence"]
    assert not found["rows"][1]["beyond_chance"]


@pytest.mark.parametrize("given", [[], [Contender("a", model(0.5))] * 2])
def test_contenders_need_names_of_their_own(given):
    with pytest.raises(ValueError, match="Contenders of different names must be given"):
        board(LABELS, PATIENTS, given)


def test_tables_hold_a_line_a_contender():
    found = board(LABELS, PATIENTS, [Contender("a|<b>", model(0.9)), Contender("c", model(0.5))], draws=50)
    words = leaderboard.markdown(found)
    assert "| 1 | a/(b) | 0." in words
    assert "<" not in words
    assert leaderboard.text(found).splitlines()[1].startswith(" 2  c      0.")
    assert leaderboard.text(found).endswith(f"{found['sentence']}\n{found['claims']}")


def test_an_axis_that_helps_says_by_how_much_and_where():
    found = ablation.effect(
        LABELS, PATIENTS, model(0.8, 1, least=2), {0.1: model(0.8, 2, least=2), 0.5: model(0.8, 1)}, "lambda2", CLASSES
    )
    assert json.loads(json.dumps(found)) == found
    assert (found["best"], found["helps"], found["harms"]) == (0.5, True, False)
    assert found["classes"]["viral"]["low"] > 0
    assert found["sentence"].startswith("lambda2 helps: its best value 0.5 scores 0.")
    assert "jointly for 2 values" in found["sentence"]
    assert "More is found of: viral." in found["sentence"]
    assert "With one seed a side" in found["sentence"]


def test_an_axis_that_does_nothing_or_harm_says_so():
    none = ablation.effect(LABELS, PATIENTS, model(0.7, 1), {1: model(0.7, 2)}, "lambda2", draws=300)
    assert "lambda2 makes no difference beyond chance: its value 1 scores" in none["sentence"]
    harm = ablation.effect(LABELS, PATIENTS, model(0.9, 1), {1: model(0.4, 2)}, "lambda2", CLASSES, draws=300)
    assert harm["sentence"].startswith("lambda2 harms")
    assert "Less is found of: normal" in harm["sentence"]


def test_seeds_are_averaged_by_score():
    control, treatment = [model(0.6, seed) for seed in (1, 2)], [model(0.8, seed) for seed in (3, 4, 5)]
    found = ablation.effect(LABELS, PATIENTS, control, {1: treatment}, "lambda2", metric="nll", draws=300)
    scores = [
        np.mean([metrics.classification(LABELS, t, CLASSES)["nll"] for t in each]) for each in (control, treatment)
    ]
    assert found["control"] == {"score": pytest.approx(scores[0]), "seeds": 2}
    assert found["arms"][0]["gain"]["value"] == pytest.approx(scores[0] - scores[1])  # positive is better
    assert found["helps"]
    assert "means over 2 or more seeds" in found["sentence"]


def test_a_gain_over_itself_is_nothing():
    found = ablation.gain(LABELS, PATIENTS, model(0.6), [model(0.6), model(0.6)], draws=50)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert not found.beyond_chance


def test_an_axis_without_values_is_named():
    with pytest.raises(ValueError, match="At least one value of lambda2 other than 0"):
        ablation.effect(LABELS, PATIENTS, model(0.6), {}, "lambda2")
