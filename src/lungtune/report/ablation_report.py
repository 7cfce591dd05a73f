"""Report section on one parameter: the models of every value against the control, per data part.

The recipe was chosen with one of the values, which biases the comparison towards that value; ``notes`` say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.core import synthetic
from lungtune.core.comparison import Comparison, shown
from lungtune.core.synthetic import IMAGES
from lungtune.core.task import Predictions
from lungtune.core.trial import Objective
from lungtune.report.formatting import cell
from lungtune.stats import ablation, synthetic_ablation
from lungtune.stats.bootstrap import groups_of, interval_text, plain, scored
from lungtune.stats.seeds import spread

Arms = Mapping[Any, Mapping[int, Predictions]]
"""value -> seed -> predictions on the part."""


def part(
    patients: Sequence[Any] | np.ndarray,
    compared: Comparison,
    arms: Arms,
    objective: Objective,
    *,
    by_class: Mapping[str, Any] | None = None,
    by_class_mode: str = "max",
    measures: Mapping[str, tuple[Any, Arms]] | None = None,
    unit: str = "patients",
) -> dict[str, Any]:
    """Compare the values on the cases of one part, with the seeds that ended with all of them.

    Args:
        patients: an id per case ``(N,)``.
        compared: the parameter and its values.
        arms: of every training that ended. A value none of whose seeds did is left out.
        objective: the metric that decides, and its direction.
        by_class, by_class_mode: as in :func:`lungtune.stats.ablation.effect`.
        measures: display name -> (the scorer's name of a metric, predictions of its task), shown next to the objective.
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``problem`` (why nothing could be compared; empty when it could), and then ``seeds``, ``values``
        [{value, score {mean, sd}, gain (null for the control), above (seeds whose score is better than the control's
        of the same seed), measures {name: {value, low, high, level, cases}}}], ``effect``
        (:func:`lungtune.stats.ablation.effect`), ``sentence``, ``synthetic``
        (:func:`lungtune.stats.synthetic_ablation.verdict`, null for other parameters).
    """
    scored = {value: arms[value] for value in compared.values if arms.get(value)}
    if compared.control not in scored or len(scored) < 2:
        return {"problem": f"Not computed: trainings with {compared.axis} {shown(compared.control)} and with another "
                "value must end, but did not."}  # fmt: skip
    seeds = sorted(set.intersection(*(set(each) for each in scored.values())))
    if not seeds:
        return {"problem": "Not computed: no seed's training ended with all values; give more --seeds."}
    models = {value: [each[seed] for seed in seeds] for value, each in scored.items()}
    asked = compared.axis == IMAGES
    verdict = synthetic_ablation.verdict(patients, models, compared.values, objective, unit) if asked else None
    treatments = {value: each for value, each in models.items() if value != compared.control}
    effect = ablation.effect(
        patients, models[compared.control], treatments, compared.axis, objective, by_class, by_class_mode,
        against=compared.control, unit=unit,
    )  # fmt: skip
    groups = groups_of(patients, len(models[compared.control][0]))
    gains = {arm["value"]: arm["gain"] for arm in effect["arms"]}
    scores = {value: [plain(each.scorer(groups), objective.own) for each in models[value]] for value in scored}
    rows = [
        {
            "value": value,
            "score": spread(scores[value]),
            "gain": gains.get(value),
            "above": sum(objective.sign * (a - b) > 0 for a, b in zip(scores[value], scores[compared.control])),
            "measures": {
                name: _measure([each[value][seed] for seed in seeds], metric, groups)
                for name, (metric, each) in (measures or {}).items()
            },
        }
        for value in scored
    ]
    sentence = effect["sentence"]
    if len(seeds) > 1:
        best = next(row for row in rows if row["value"] == effect["best"])
        sentence += f" Seed by seed, {shown(effect['best'])} is above the control in {best['above']} of {len(seeds)}."
        if effect["helps"] and best["above"] < len(seeds):
            sentence += (
                f" The interval over {unit} shows a gain, but the seeds disagree: another training may reverse it."
            )
    result = {"problem": "", "seeds": seeds, "values": rows, "effect": effect, "sentence": sentence}
    return {**result, "synthetic": verdict}


def _measure(seeds: Sequence[Predictions], metric: Any, groups: np.ndarray) -> dict[str, Any]:
    """Return the mean over seeds of a metric, with its interval and how many cases it is over."""
    scorer = ablation.seed_mean(seeds, groups)
    return {**scored(scorer, metric).to_dict(), "cases": int(scorer.cases(metric).sum())}


def confirmed(compared: Comparison, validation: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Return a sentence with the test gain of the value that was best on validation."""
    if validation["problem"] or test["problem"]:
        return ""
    best, control = validation["effect"]["best"], shown(compared.control)
    rows = {row["value"]: row for row in validation["values"]}
    if rows[best]["gain"]["value"] <= 0:
        return f"On validation no value was better than {control}: there is nothing to confirm here."
    gain = next((row["gain"] for row in test["values"] if row["value"] == best), None)
    if gain is None:
        return ""
    unit = test["effect"].get("unit", "patients")
    return (
        f"The value that was best on validation, {shown(best)}, has a gain of {interval_text(gain)} over "
        f"{control} here. A value picked by these test scores has to be confirmed on new {unit}."
    )


def notes(
    compared: Comparison, searched: int, left_out: bool, edited: bool, failed: Sequence[tuple[Any, int]]
) -> list[str]:
    """Return the caveats of a comparison, a sentence each.

    Args:
        compared: the axis and its values.
        searched: the recipe's seed, whose score was selected by the search.
        left_out: True if that seed is left out.
        edited: True if the recipe was changed after its export, so that the selection history is not known.
        failed: (value, seed) of the trainings that failed.
    """
    axis, own = compared.axis, shown(compared.own)
    chosen = "its score was selected" if edited else f"its score with {axis} {own} was selected"
    sentences = [
        f"Seed {searched} is the searched one: {chosen} and is biased upwards"
        + (", so it is left out of this." if left_out else "; it counts in this. --seeds 3 or more leave it out.")
    ]
    sentences.append(
        "The recipe was edited after its export: which value its other parameters suit is not known."
        if edited
        else f"All else, the length of training too, was chosen on the validation cases with {axis} {own}: that "
        f"favours {own}; another value might do better with parameters of its own."
    )
    if axis == IMAGES:
        sentences.append(
            "The generator, too, was chosen by its distance to the validation images: only the test part took no part "
            "in any choice."
        )
    elif axis in synthetic.NAMES:
        sentences.append(
            "This does not measure the effect of synthetic images: more images of any kind may help. Compare with a "
            f"recipe of {synthetic.RATIO} > 0: --compare {synthetic.QUESTION}."
        )
    if failed:
        listed = ", ".join(f"{axis} {shown(value)} with seed {seed}" for value, seed in failed)
        sentences.append(
            f"Failed: {listed}. Compared are the seeds that ended with every value left; that spares those that fail."
        )
    return sentences


def markdown(section: Mapping[str, Any]) -> str:
    """Return a report's section as Markdown: notes, then a table and a sentence a part."""
    axis = cell(section["axis"])
    lines = [f"## Effect of {axis}", "", "The same recipe with other values of one parameter; all else is equal. "]
    lines[-1] += f"The control is {axis} {cell(shown(section['control']))}, the recipe's value "
    lines[-1] += f"{cell(shown(section['recipe_value']))}. " + cell(" ".join(section["notes"]))
    for name in ("validation", "test"):
        if section[name]:
            lines += ["", f"### On {name}", "", *_table(axis, section, section[name])]
            lines += ["", cell(section["confirmed"])] if name == "test" and section["confirmed"] else []
    verdicts = _verdicts(section)
    lines += ["", "## Synthetic images", "", *(cell(line) for line in verdicts)] if verdicts else []
    return "\n".join(lines) + "\n"


def _verdicts(section: Mapping[str, Any]) -> list[str]:
    """Verdicts on synthetic images, one sentence per data part; empty for other axes."""
    parts = [(name, section[name].get("synthetic")) for name in ("validation", "test") if section[name]]
    return [f"On {name}, {verdict['sentence']}" for name, verdict in parts if verdict]


def _table(axis: str, section: Mapping[str, Any], each: Mapping[str, Any]) -> list[str]:
    if each["problem"]:
        return [each["problem"]]
    names = list(dict.fromkeys(name for row in each["values"] for name in row["measures"]))
    head = [axis, section["metric"], f"gain over {cell(shown(section['control']))}", "seeds above", *map(cell, names)]
    lines = [cell(each["sentence"]), "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in each["values"]:
        control = row["gain"] is None
        shares = [row["measures"].get(name) for name in names]
        cells = [shown(row["value"]) + (" (control)" if control else ""), _score(row["score"])]
        cells += ["-", "-"] if control else [interval_text(row["gain"]), f"{row['above']} of {len(each['seeds'])}"]
        cells += ["-" if share is None else interval_text(share) for share in shares]
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    count = len(each["effect"]["arms"])
    level = f"{100 * each['effect']['level']:g} % over {each['effect'].get('unit', 'patients')}" + (
        f", jointly for {count} values" if count > 1 else ""
    )
    return [*lines, "", f"Seeds {', '.join(map(str, each['seeds']))}; intervals of gains: {level}; ± is over seeds."]


def _score(score: Mapping[str, float | None]) -> str:
    return f"{score['mean']:.3f}" + ("" if score["sd"] is None else f" ± {score['sd']:.3f}")


def text(section: Mapping[str, Any]) -> list[str]:
    """Return the same in a few lines for the terminal."""
    lines = [f"effect of {section['axis']} (control {shown(section['control'])}):"]
    for name in ("validation", "test"):
        each = section[name]
        if not each:
            continue
        lines.append(f"  {name}: {each['problem'] or each['sentence']}")
        for row in [] if each["problem"] else each["values"]:
            gain = "control" if row["gain"] is None else f"gain {interval_text(row['gain'])}"
            more = "".join(f"; {key} {interval_text(value)}" for key, value in row["measures"].items())
            lines.append(f"    {shown(row['value']):>10}  {_score(row['score'])}; {gain}{more}")
        lines += [f"  {section['confirmed']}"] if name == "test" and section["confirmed"] else []
    lines += [f"  {verdict}" for verdict in _verdicts(section)]
    return [*lines, *(f"  {note}" for note in section["notes"])]
