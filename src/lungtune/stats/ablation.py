"""Does an axis help, and where? Its values against a control, on the same patients.

For an axis whose 0 switches something off (``lambda2``, the weight of the segmentation loss), the models trained with
0 are the control; elsewhere any value may be. Every other value gets a paired interval over patients of its gain,
jointly right for all values (Bonferroni), as the best of them is looked for on the same cases. Give all models of a
value, or none chosen for its score: the best of ten against a single one looks like an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.core import objectives
from lungtune.core.comparison import shown
from lungtune.stats.bootstrap import Interval, Scorer, _interval, draw, groups_of

Seeds = np.ndarray | Sequence[np.ndarray]
"""Probabilities ``(N, C)`` of one model, or of several trained with different seeds."""


def gain(
    labels: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    control: Seeds,
    treatment: Seeds,
    metric: str = "macro_f1",
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the score of ``treatment`` above that of ``control``, each the mean over its seeds, on the same draws.

    Positive is better, whatever the metric.
    """
    groups = groups_of(patients, len(labels))
    count = int(groups.max()) + 1
    weights = np.vstack([np.ones((1, count), np.int64), draw(count, draws, seed)])
    one, other = (
        np.mean([Scorer(labels, table, groups).score(metric, weights) for table in _seeds(tables)], axis=0)
        for tables in (treatment, control)
    )
    difference = objectives.sign(metric) * (one - other)
    return _interval(difference[0], difference[1:], count, level)


def effect(
    labels: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    control: Seeds,
    treatments: Mapping[Any, Seeds],
    axis: str,
    classes: Sequence[str] = (),
    metric: str = "macro_f1",
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    against: Any = 0,
) -> dict[str, Any]:
    """Compare an axis's values with one of them.

    Args:
        labels: whole numbers ``(N,)``.
        patients: an id per case ``(N,)``.
        control: the models with ``against``.
        treatments: value -> the models with it.
        axis: its name, for the words.
        classes: the C names; with them, where it helps is told too: the best value's gain in each class's recall.
        against: the control's value.

    Returns:
        JSON-able: ``axis``, ``metric``, ``against``, ``control`` {score, seeds}, ``arms`` [{value, score, seeds,
        gain}], ``best`` (the value of the best mean score), ``helps`` (its gain is beyond chance), ``harms`` (no value
        helps, and the best one's loss is beyond chance), ``classes`` {name: gain in recall}, ``sentence``.

    Raises:
        ValueError: there is no treatment, or shapes or the metric are wrong.
    """
    if not treatments:
        raise ValueError(f"At least one value of {axis} other than {shown(against)} must be given.")
    given = {"metric": metric, "draws": draws, "seed": seed}
    joint = 1 - (1 - level) / len(treatments)
    base = _score(labels, patients, control, metric)
    arms, found = [], {}
    for value, tables in treatments.items():
        found[value] = gain(labels, patients, control, tables, level=joint, **given)
        score = _score(labels, patients, tables, metric)
        arms.append({"value": value, "score": score, "seeds": len(_seeds(tables)), "gain": found[value].to_dict()})
    best = max(found, key=lambda value: found[value].value)
    where = {
        name: gain(labels, patients, control, treatments[best], f"recall_{k}", draws, seed, level).to_dict()
        for k, name in enumerate(classes)
    }
    result = {
        "axis": axis,
        "metric": metric,
        "level": level,
        "against": against,
        "control": {"score": base, "seeds": len(_seeds(control))},
        "arms": arms,
        "best": best,
        "helps": found[best].low > 0,
        "harms": found[best].high < 0,
        "classes": where,
    }
    return {**result, "sentence": sentence(result)}


def sentence(found: Mapping[str, Any]) -> str:
    """Return the answer in plain words, and what it leaves open."""
    axis, metric, control = found["axis"], found["metric"], found["control"]
    arm = next(arm for arm in found["arms"] if arm["value"] == found["best"])
    change = arm["gain"]
    verdict = "helps" if found["helps"] else "harms" if found["harms"] else "makes no difference beyond chance"
    best = "its best value" if len(found["arms"]) > 1 else "its value"
    best += f" {shown(found['best'])}"
    told = [
        f"{axis} {verdict}: {best} scores {arm['score']:.3f} {metric}, {shown(found['against'])} scores "
        f"{control['score']:.3f}"
    ]
    if change["low"] is None:
        told[0] = f"{axis}: {best} changes {metric} by {change['value']:+.3f}; one patient tells no more."
        return told[0]
    joint = f", jointly for {len(found['arms'])} values" if len(found["arms"]) > 1 else ""
    told[0] += (
        f" (gain {change['value']:+.3f}, {100 * found['level']:g} % interval {change['low']:+.3f} to "
        f"{change['high']:+.3f}{joint})."
    )
    known = {name: each for name, each in found["classes"].items() if each["low"] is not None}
    up = [name for name, each in known.items() if each["low"] > 0]
    down = [name for name, each in known.items() if each["high"] < 0]
    if up:
        told.append(f"More is found of: {', '.join(up)}.")
    if down:
        told.append(f"Less is found of: {', '.join(down)}.")
    fewest = min(control["seeds"], arm["seeds"])
    told.append(
        "With one seed a side, another training may turn it round."
        if fewest == 1
        else f"Scores are means over {fewest} or more seeds; the interval is over patients only."
    )
    return " ".join(told)


def _seeds(tables: Seeds) -> list[np.ndarray]:
    return [np.asarray(tables)] if np.ndim(tables[0]) == 1 else [np.asarray(table) for table in tables]


def _score(labels: np.ndarray, patients: Sequence[Any] | np.ndarray, tables: Seeds, metric: str) -> float:
    groups = groups_of(patients, len(labels))
    ones = np.ones((1, int(groups.max()) + 1), np.int64)
    return float(np.mean([Scorer(labels, table, groups).score(metric, ones)[0] for table in _seeds(tables)]))
