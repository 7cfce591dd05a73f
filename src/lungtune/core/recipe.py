"""Recipes: space files with a single value per parameter and a ``provenance`` block.

They are read by the same loader as spaces. This module writes them, and reads the provenance back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune.core import params as parameters
from lungtune.core import synthetic
from lungtune.core.family import Family
from lungtune.core.lineage import Segment
from lungtune.core.params import MOST
from lungtune.core.resource import LONGEST
from lungtune.core.space import SearchSpace
from lungtune.core.yamlfile import Document
from lungtune.errors import SpaceError

_NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "study": str,
    "study_id": str,
    "trial": int,
    "fidelity": (int, float),
    "split": str,
    "split_seed": int,
    "score": dict,
    "fingerprint": str,
}

_SEGMENTS = (
    "trained first, one after another, each from the state before it, until so many passes; from {:g} on with params "
    "and seed above. Parameters not named here are those of params"
)


@dataclass(frozen=True)
class Provenance:
    """Origin of a recipe.

    Attributes:
        study: name of the study.
        study_id: its id, by which the test-set ledger identifies it.
        trial: number of the trial.
        fidelity: passes over the training fold at the best report; the schedule spans ``fidelity.max`` of the recipe.
        split: hash of the split manifest.
        split_seed: seed the split was drawn with.
        score: the searched validation score, in the recipe's objective.
        fingerprint: of the recipe as it was exported.
        bank: the synthetic images its study trained on (``path``, ``key``, ``hash``, ``counts``); None without any.
        question: hash of how its study began, which copies of the study share (``core.ledger.question``); empty in
            recipes of version 0.1.
    """

    study: str
    study_id: str
    trial: int
    fidelity: float
    split: str
    split_seed: int
    score: float
    fingerprint: str
    bank: Mapping[str, Any] | None = None
    question: str = ""


def fingerprint(space: SearchSpace, fidelity: float, split: str, bank: Mapping[str, Any] | None = None) -> str:
    """Return a hash of everything the trained weights depend on, without comments, names and the data's location.

    Parameters that change nothing do not count either, see ``SearchSpace.acting``.

    Args:
        space: the recipe.
        fidelity: passes it trains.
        split: hash of the split manifest.
        bank: its synthetic images; they count where the recipe trains on any.
    """
    decides: dict[str, Any] = {
        "family": space.family,
        "objective": {"metric": space.objective.metric, "mode": space.objective.mode},
        "fidelity": dataclasses.asdict(space.fidelity),
        "base": space.acting(space.base),
        "params": synthetic.canonicalize(space.acting(space.fixed)),
        "seed": space.seed,
        "trained": fidelity,
        "split": split,
    }
    if space.segments:
        decides["segments"] = [
            {
                "params": synthetic.canonicalize(space.acting(segment.params)),
                "seed": segment.seed,
                "until": segment.until,
            }
            for segment in space.segments
        ]
    if bank and any(settings.ratio > 0 for settings in synthetic.settings(space)):
        decides["bank"] = bank["key"]
    return hashlib.sha256(json.dumps(_alike(decides), sort_keys=True).encode()).hexdigest()[:16]


def _alike(value: Any) -> Any:
    """Write 3 and 3.0 alike."""
    if isinstance(value, Mapping):
        return {key: _alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_alike(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def provenance(space: SearchSpace, path: Path) -> Provenance:
    """Return the provenance of a loaded recipe.

    Raises:
        SpaceError: the file is a search space, not a recipe, or an entry is missing or of the wrong kind.
    """
    if space.axes:
        ranges = ", ".join(space.axes)
        raise SpaceError(
            f"{path}: every parameter of a recipe must be one value, but these are ranges: {ranges}. "
            f"Search it with lungtune search --space {path}."
        )
    block = space.provenance
    for key, kind in _NEEDED.items():
        if key not in block or isinstance(block[key], bool) or not isinstance(block[key], kind):
            state = f"is {block[key]!r}" if key in block else "is missing"
            raise SpaceError(f"{path}: provenance.{key} {state}; write recipes with lungtune export.")
    for key, least, most in (("split_seed", 0, 2**32 - 1), ("trial", 0, MOST), ("fidelity", 0, LONGEST)):
        if not least <= block[key] <= most:
            raise SpaceError(f"{path}: provenance.{key} must be from {least} to {most}, but is {block[key]!r}.")
    if space.seed is None:
        raise SpaceError(f"{path}: 'seed:' is missing; write recipes with lungtune export.")
    value = block["score"].get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
        raise SpaceError(f"{path}: provenance.score.value must be a finite number, but got {value!r}.")
    fidelity = float(block["fidelity"])
    if not any(math.isclose(fidelity, level, rel_tol=1e-6) for level in space.fidelity.reports):
        levels = ", ".join(f"{level:g}" for level in space.fidelity.reports)
        raise SpaceError(
            f"{path}: provenance.fidelity must be one of the recipe's reports ({levels}), but is {fidelity:g}."
        )
    for segment in space.segments:
        assert segment.until is not None  # the loader saw to it
        level = any(math.isclose(segment.until, level, rel_tol=1e-6) for level in space.fidelity.reports)
        if not level or segment.until >= fidelity:
            raise SpaceError(
                f"{path}: segments: until must be one of the recipe's reports before {fidelity:g} passes, but is "
                f"{segment.until:g}."
            )
    bank = block.get("bank")
    wanted = {"path": str, "key": str, "hash": str, "counts": dict}
    known = bank if isinstance(bank, Mapping) else {}
    if bank is not None and not all(isinstance(known.get(key), kind) for key, kind in wanted.items()):
        raise SpaceError(f"{path}: provenance.bank must have {', '.join(wanted)}; write recipes with lungtune export.")
    plain = {key: block[key] for key in _NEEDED if key not in ("score", "fidelity")}
    question = str(block.get("question") or "")
    return Provenance(fidelity=fidelity, score=float(value), bank=bank, question=question, **plain)


def _row(segment: Segment, params: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in segment.params.items() if params.get(name) != value}
    return {"params": changed, "seed": segment.seed, "until": segment.until}


def dump(space: SearchSpace, family: Family[Any, Any], about: Mapping[str, Any], heading: str) -> str:
    """Return a recipe as commented YAML that the space loader reads back to an equal space.

    Args:
        space: no axes, ``data`` and ``seed`` set.
        family: its family, whose parameters' meanings become comments.
        about: the provenance block: plain values and mappings; a tuple ``(value, comment)`` carries a comment.
        heading: comment at the top, wrapped to the line.
    """
    document = Document()
    document.heading("\n".join(line for part in heading.splitlines() for line in textwrap.wrap(part, 112) or [""]))
    document.add("summary", space.summary)
    document.add("family", space.family)
    objective = space.objective
    short = objective.metric in family.metrics and objective.task != family.substitute
    document.add("objective", objective.metric if short else objective.full)
    document.add("data", space.data)
    document.add("seed", space.seed, "initial weights, order of the cases, dropout, augmentation")
    note = "passes over the training fold; the learning-rate schedule spans max"
    document.add("fidelity", dataclasses.asdict(space.fidelity), note, apart=True)
    for title, values, cls in (("base", space.base, family.Base), ("params", space.fixed, family.Params)):
        specs = parameters.specs(cls)
        block = Document()
        for name, value in values.items():
            spec = specs.get(name)
            block.add(name, value, spec.help + (f" [{spec.unit}]" if spec.unit else "") if spec else "")
        document.add(title, block, apart=True)
    if space.segments:
        begins = [0.0, *(float(segment.until or 0) for segment in space.segments)]
        rows = [
            (_row(segment, space.fixed), f"passes {begin:g} to {segment.until:g}")
            for begin, segment in zip(begins, space.segments, strict=False)
        ]
        document.rows("segments", rows, textwrap.fill(_SEGMENTS.format(begins[-1]), 112))
    origin = Document()
    for name, value in about.items():
        origin.add(name, *(value if isinstance(value, tuple) else (value,)))
    document.add("provenance", origin, apart=True)
    return document.text()
