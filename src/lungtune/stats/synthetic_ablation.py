"""Effect of synthetic images against two controls: none, *and* as many repeated real images.

A gain over training without them alone may come from the balance of the classes, or from more of each rare image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.core.synthetic import DUPLICATES, GENERATED, NONE
from lungtune.core.trial import Objective
from lungtune.stats.ablation import Seeds, gain
from lungtune.stats.bootstrap import interval_text

_CONTROLS = {NONE: "training without them", DUPLICATES: "duplicating real images"}
_LEVEL = 0.95


def verdict(
    patients: Sequence[Any] | np.ndarray,
    arms: Mapping[str, Seeds],
    compared: Sequence[str],
    objective: Objective,
    unit: str = "patients",
) -> dict[str, Any]:
    """Compare the models that had synthetic images with both controls, on the same patients.

    Args:
        patients: an id per case ``(N,)``.
        arms: predictions of each seed's model, by what its further images were.
        compared: the parameter and the values to be trained.
        objective: the metric that decides, and its direction.
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``gains`` {control: interval, jointly right for both}, ``helped`` (both lower bounds are above 0;
        null if a missing control could change the verdict), ``sentence``, to stand after a comma.
    """
    joint, metric = 1 - (1 - _LEVEL) / len(_CONTROLS), objective.metric
    gains = {
        name: gain(patients, arms[name], arms[GENERATED], objective.own, objective.mode, level=joint).to_dict()
        for name in _CONTROLS
        if name in arms and GENERATED in arms
    }
    failed = [name for name, each in gains.items() if each["low"] is None or each["low"] <= 0]
    beaten = [name for name in gains if name not in failed]
    missing = [name for name in (GENERATED, *_CONTROLS) if name not in arms]
    gains_text = {name: f"{_CONTROLS[name]} (gain in {metric} {interval_text(each)})" for name, each in gains.items()}
    if failed:
        sentence = "synthetic images did not help here: no better than " + " and no better than ".join(
            gains_text[name] for name in failed
        )
        sentence += f", though better than {gains_text[beaten[0]]}" if beaten else ""
    elif missing:
        ended = "their training did not end" if set(missing) & set(compared) else "they were not requested"
        sentence = (
            f"whether synthetic images helped can't be decided: {', '.join(missing)} must be compared too, but {ended}"
        )
    else:
        sentence = "synthetic images helped: better than " + " and better than ".join(gains_text.values())
    if gains:
        seeds = min(len(each) for each in arms.values())
        trained = f"{seeds} trainings each" if seeds > 1 else "one training each, too few to trust: take --seeds 3"
        sentence += f"; {100 * _LEVEL:g} % over {unit}, jointly for both comparisons; {trained}"
    highs = [gains[name]["high"] or 0.0 for name in failed]
    open_ = [high for high in highs if high > 0]
    if failed and len(open_) == len(failed):
        sentence += f". A gain of up to {min(open_):.3f} can't be excluded"
    helped = False if failed else None if missing else True
    return {"gains": gains, "helped": helped, "sentence": sentence + "."}
