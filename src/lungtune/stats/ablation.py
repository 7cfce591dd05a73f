"""Effect of one parameter: its values against a control, on the same patients.

For a parameter whose 0 switches something off (``lambda2``, the weight of the segmentation loss), the models trained
with 0 are the control; elsewhere any value may be. Every other value gets a paired interval over patients of its gain,
jointly valid for all values (Bonferroni), because the best of them is selected on the same cases. Pass all models of a
value, or models not selected by their score: the best of ten against a single one looks like an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.core.comparison import shown
from lungtune.core.task import Predictions, Scorer
from lungtune.core.trial import Objective
from lungtune.data.patients import single
from lungtune.stats.bootstrap import Interval, SeedMean, between, groups_of, plain

Seeds = Sequence[Predictions]
"""Predictions on the same cases of models that differ in their seed only."""


def gain(
    patients: Sequence[Any] | np.ndarray,
    control: Seeds,
    treatment: Seeds,
    metric: Any,
    mode: str = "max",
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the score of ``treatment`` above that of ``control``, each the mean over its seeds, on the same draws.

    Positive is better: ``mode`` is the metric's direction.
    """
    groups = groups_of(patients, len(control[0]))
    one, two = (seed_mean(treatment, groups), seed_mean(control, groups))[:: 1 if mode == "max" else -1]
    return between(one, two, metric, draws, seed, level)


def seed_mean(seeds: Seeds, groups: np.ndarray) -> Scorer:
    """Return a scorer by the mean over seeds."""
    return SeedMean([each.scorer(groups) for each in seeds])


def effect(
    patients: Sequence[Any] | np.ndarray,
    control: Seeds,
    treatments: Mapping[Any, Seeds],
    axis: str,
    objective: Objective,
    by_class: Mapping[str, Any] | None = None,
    by_class_mode: str = "max",
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    against: Any = 0,
    unit: str = "patients",
) -> dict[str, Any]:
    """Compare a parameter's values with one of them.

    Args:
        patients: an id per case ``(N,)``.
        control: the models with ``against``.
        treatments: value -> the models with it.
        axis: the parameter's name.
        objective: the metric that decides, and its direction.
        by_class: class -> the scorer's name of a metric of that class; with it, the best value's gain in each.
        by_class_mode: direction of those.
        against: the control's value.
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``axis``, ``metric``, ``unit``, ``against``, ``control`` {score, seeds}, ``arms`` [{value, score,
        seeds, gain}], ``best`` (the value of the best mean score), ``helps`` (its gain is beyond chance), ``harms`` (no
        value helps, and the best one's loss is beyond chance), ``classes`` {name: gain}, ``sentence``.

    Raises:
        ValueError: there is no treatment, or shapes or the metric are wrong.
    """
    if not treatments:
        raise ValueError(f"At least one value of {axis} other than {shown(against)} must be given.")
    groups = groups_of(patients, len(control[0]))

    def score(seeds: Sequence[Predictions]) -> float:
        return plain(seed_mean(seeds, groups), objective.own)

    how = {"draws": draws, "seed": seed}
    joint = 1 - (1 - level) / len(treatments)
    arms, gains = [], {}
    for value, seeds in treatments.items():
        gains[value] = gain(patients, control, seeds, objective.own, objective.mode, level=joint, **how)
        arms.append({"value": value, "score": score(seeds), "seeds": len(seeds), "gain": gains[value].to_dict()})
    best = max(gains, key=lambda value: gains[value].value)
    where = {
        name: gain(patients, control, treatments[best], metric, by_class_mode, level=level, **how).to_dict()
        for name, metric in (by_class or {}).items()
    }
    result = {
        "axis": axis,
        "metric": objective.metric,
        "unit": unit,
        "level": level,
        "against": against,
        "control": {"score": score(control), "seeds": len(control)},
        "arms": arms,
        "best": best,
        "helps": gains[best].low > 0,
        "harms": gains[best].high < 0,
        "classes": where,
    }
    return {**result, "sentence": sentence(result)}


def sentence(effect: Mapping[str, Any]) -> str:
    """Return the verdict as sentences, with its limits."""
    axis, metric, control = effect["axis"], effect["metric"], effect["control"]
    unit = effect.get("unit", "patients")
    arm = next(arm for arm in effect["arms"] if arm["value"] == effect["best"])
    change = arm["gain"]
    verdict = "helps" if effect["helps"] else "harms" if effect["harms"] else "makes no difference beyond chance"
    best = "its best value" if len(effect["arms"]) > 1 else "its value"
    best += f" {shown(effect['best'])}"
    sentences = [
        f"{axis} {verdict}: {best} scores {arm['score']:.3f} {metric}, {shown(effect['against'])} scores "
        f"{control['score']:.3f}"
    ]
    if change["low"] is None:
        sentences[0] = (
            f"{axis}: {best} changes {metric} by {change['value']:+.3f}; one {single(unit)} gives no interval."
        )
        return sentences[0]
    joint = f", jointly for {len(effect['arms'])} values" if len(effect["arms"]) > 1 else ""
    sentences[0] += (
        f" (gain {change['value']:+.3f}, {100 * effect['level']:g} % interval {change['low']:+.3f} to "
        f"{change['high']:+.3f}{joint})."
    )
    known = {name: each for name, each in effect["classes"].items() if each["low"] is not None}
    up = [name for name, each in known.items() if each["low"] > 0]
    down = [name for name, each in known.items() if each["high"] < 0]
    if up:
        sentences.append(f"More cases are detected of: {', '.join(up)}.")
    if down:
        sentences.append(f"Fewer cases are detected of: {', '.join(down)}.")
    fewest = min(control["seeds"], arm["seeds"])
    sentences.append(
        "With one seed a side, another training may reverse it."
        if fewest == 1
        else f"Scores are means over {fewest} or more seeds; the interval is over {unit} only."
    )
    return " ".join(sentences)
