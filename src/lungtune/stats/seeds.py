"""Mean and spread over several seeds of one recipe; the first seed's score was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample standard deviation over seeds; one run has no deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation}


def others(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """Return the :func:`spread` of the validation scores of all seeds but the first; None for fewer than three seeds.

    Args:
        runs: per seed ``value``, None where the run failed.
    """
    values = [run["value"] for run in runs[1:] if run["value"] is not None]
    return spread(values) if len(runs) >= 3 and values else None


def spread_text(spread: Mapping[str, float | None]) -> str:
    """Return ``mean 0.812 ± 0.010 (sd over seeds)``."""
    if spread["sd"] is None:
        return f"mean {spread['mean']:.3f}"
    return f"mean {spread['mean']:.3f} ± {spread['sd']:.3f} (sd over seeds)"


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on how to read a report of several seeds."""
    first, sentences = report["runs"][0]["seed"], []
    if not report["reproduction"]["edited"]:
        sentences.append(
            f"Seed {first} is the searched one: its score was selected, so a validation mean with it is biased upwards."
        )
    if report["spread_others"]:
        sentences.append(f"The other seeds alone, validation: {spread_text(report['spread_others'])}.")
    return [*sentences, f"Weights, metrics and intervals shown are those of seed {first}."]
