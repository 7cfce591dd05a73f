"""Ranking of model families, with an interval for the winner's lead.

The winner's lead over each other contender gets a paired interval over patients, jointly valid for all of them
(Bonferroni), because the winner is compared with all. A contender's own score is that of its best report, chosen on
the same patients; with all its candidates, also the score expected on new patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtune.core.task import Predictions
from lungtune.core.trial import Objective
from lungtune.data.patients import single
from lungtune.stats import bootstrap, selection

CLAIMS = (
    "Intervals cover the variation over {unit} like these, for these trained models. They do not cover the effects "
    "of another seed, more trials, or another hospital."
)
_ALL = ""


@dataclass(frozen=True)
class Contender:
    """One family's best model: its name, its predictions on validation, and the score it was chosen by."""

    name: str
    predictions: Predictions
    value: float | None = None


def board(
    patients: Sequence[Any] | np.ndarray,
    contenders: Sequence[Contender],
    objective: Objective,
    candidates: Mapping[str, Sequence[Predictions]] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: str = "patients",
) -> dict[str, Any]:
    """Rank contenders on the same cases.

    Args:
        patients: an id per case ``(N,)``.
        contenders: ranked by ``value``, where there is none by the score of the predictions.
        objective: the metric and its direction.
        candidates: contender -> the predictions of everything its best was chosen from, e.g. all reports of all its
            trials.
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``metric``, ``unit``, ``rows``, ``corrected`` (the winner's score corrected for the selection among
        all candidates, or null), ``sentence``, ``claims``. A row: ``rank``, ``name``, ``value``, ``interval`` {value,
        low, high, level}, ``corrected`` (the same after the choice among its own candidates, or null), ``lead`` of the
        winner over it ({value, low, high, level}, positive is better whatever the metric; jointly ``level``; null for
        the winner), ``optimism`` (part of that lead due to the winner's selection from its candidates; 0
        where they are not known) and ``beyond_chance`` (null for the winner): the lead's interval, moved down by the
        optimism, leaves out 0.

    Raises:
        ValueError: there is no contender, names repeat, or shapes or the metric are wrong.
    """
    names = [each.name for each in contenders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Contenders of different names must be given, but got {names or 'none'}.")
    sign, metric = objective.sign, objective.own
    groups = bootstrap.groups_of(patients, len(contenders[0].predictions))
    scorers = {each.name: each.predictions.scorer(groups) for each in contenders}
    own = {name: bootstrap.scored(scorer, metric, draws, seed, level) for name, scorer in scorers.items()}
    score = {c.name: own[c.name].value if c.value is None else float(c.value) for c in contenders}
    ranked = sorted(contenders, key=lambda c: -sign * score[c.name])
    known = {name: (candidates or {}).get(name, ()) for name in names}
    honest = _corrected(patients, known, objective, seed, level)
    joint = 1 - (1 - level) / max(1, len(ranked) - 1)

    def gained(name: str) -> float:
        return own[name].value - honest[name].value

    winner, rows = ranked[0], []
    for rank, each in enumerate(ranked, 1):
        row: dict[str, Any] = {"rank": rank, "name": each.name, "value": score[each.name]}
        row |= {"interval": own[each.name].to_dict(), "corrected": None, "lead": None, "optimism": None}
        row["beyond_chance"] = None
        if each.name in honest:
            row["corrected"] = honest[each.name].to_dict()
        if each is not winner:
            one, two = (scorers[winner.name], scorers[each.name])[::sign]
            lead = bootstrap.between(one, two, metric, draws, seed, joint)
            shift = 0.0
            if winner.name in honest and each.name in honest:  # difference of the selection effects
                shift = sign * (gained(winner.name) - gained(each.name))
            row |= {"lead": lead.to_dict(), "optimism": shift, "beyond_chance": lead.low - max(0.0, shift) > 0}
        rows.append(row)
    whole = honest.get(_ALL)
    table = {"metric": objective.metric, "level": level, "rows": rows, "corrected": whole.to_dict() if whole else None}
    table["unit"] = unit
    return {**table, "sentence": sentence(table), "claims": CLAIMS.format(unit=unit)}


def _corrected(
    patients: Sequence[Any] | np.ndarray,
    candidates: Mapping[str, Sequence[Predictions]],
    objective: Objective,
    seed: int,
    level: float,
) -> dict[str, bootstrap.Interval]:
    """Return the expected score of the best candidate on new patients, per contender and over all of them."""
    if len(set(map(str, patients))) < 2:
        return {}
    known = {name: list(each) for name, each in candidates.items() if len(each)}
    if len(known) == len(candidates):  # without everyone's candidates, the choice of the winner can't be repeated
        known[_ALL] = [one for each in known.values() for one in each]
    chosen = objective.own, objective.mode
    return {name: selection.expected(each, patients, *chosen, seed=seed, level=level) for name, each in known.items()}


def sentence(board: Mapping[str, Any]) -> str:
    """Return sentences on the winner and its lead over each other contender."""
    metric, level, unit = board["metric"], f"{100 * board['level']:g} %", board.get("unit", "patients")
    winner, *others = board["rows"]
    if not others:
        return f"{winner['name']} is the only contender ({metric} {winner['value']:.3f}): there is nothing to compare."
    second, sentences = others[0], []
    lead = second["lead"]
    if lead["low"] is None:
        return (
            f"{winner['name']} has the best {metric}, {lead['value']:.3f} ahead of {second['name']}; whether that is "
            f"chance can't be decided from one {single(unit)}."
        )
    interval = f"{level} interval {lead['low']:.3f} to {lead['high']:.3f}"
    interval += f", jointly for {len(others)} comparisons" if len(others) > 1 else ""
    verdict = "beyond chance" if second["beyond_chance"] else "not distinguishable from chance"
    sentences.append(
        f"{winner['name']} wins; its lead of {lead['value']:.3f} over {second['name']} is {verdict} ({interval})."
    )
    if not second["beyond_chance"] and lead["low"] > 0:
        sentences.append("The interval leaves out 0, but the choice among many trials explains the lead.")
    equals = [row["name"] for row in others[1:] if not row["beyond_chance"]]
    beaten = [row["name"] for row in others[1:] if row["beyond_chance"]]
    if beaten:
        sentences.append(f"Its lead is beyond chance over {_listed(beaten)}.")
    if equals:
        sentences.append(
            f"It can't be distinguished from {_listed(equals)} either."
            if not second["beyond_chance"]
            else f"Over {_listed(equals)} it is not."
        )
    if board["corrected"]:
        sentences.append(
            f"Corrected for choosing the best of all trials, the winner can be expected to score "
            f"{board['corrected']['value']:.3f} on new {unit}."
        )
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
