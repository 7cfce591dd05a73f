"""Common input of both sides: one folder of images, one split, one space."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from PIL import Image

from lungtune import catalog
from lungtune.core import synthetic
from lungtune.core.space import SearchSpace
from lungtune.data import dataset
from lungtune.data.sources import index_source
from lungtune.errors import DataError, SpaceError
from lungtune.models import clip_weights
from lungtune.models.clip_prompts import STYLES, prompts
from lungtune.trainables import clip_lora


def images(source: str, limit: int | None, folder: Path) -> str:
    """Return a ``--data`` of JPEG files: the source itself, or a table of copies when it is cut or made of phantoms."""
    if limit is None and not source.startswith("phantom"):
        return source
    cases = index_source(source)
    cases["split"] = cases["split"].fillna("")
    share = min(1.0, limit / len(cases)) if limit else 1.0
    # The first patients of every part and class, whole: cutting through patients would change the split's difficulty.
    cases = cases.sort_values("path").groupby(["split", "label"], observed=True, group_keys=False)
    kept = [part.head(max(1, round(share * len(part)))) for _, part in cases]
    folder.mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["path", "label", "patient_id", "split"])
        for number, row in enumerate(row for part in kept for row in part.itertuples()):
            name = f"{number:05d}.jpeg"
            if row.path.lower().endswith((".jpg", ".jpeg")):
                (folder / name).write_bytes(Path(row.path).read_bytes())
            else:
                Image.open(row.path).convert("L").save(folder / name, quality=95)
            table.writerow([name, row.label, row.patient_id, row.split])
    return f"table:{folder / 'table.csv'},leaks=drop"


def space(name: str, profile: str, passes: float | None) -> tuple[SearchSpace, dict[str, float]]:
    """Return the space, and the ``--set`` options that make it what all sides search.

    No side trains on synthetic images: the peers have none. ``passes`` is the longest training, with reports at its
    ninths as shipped.
    """
    settings: dict[str, float] = {synthetic.RATIO: 0.0}
    if passes is not None:
        settings |= {"fidelity.min": round(passes / 9, 8), "fidelity.max": passes}
    return catalog.space(name, profile, settings), settings


def make(searched: SearchSpace, source: str, seed: int) -> dict[str, Any]:
    """Return all that the stock search needs, as JSON-able data; the split is lungtune's own."""
    found = dataset.inspect(source, seed=seed)
    if found.audit.problems:
        raise DataError(" ".join(found.audit.problems))
    lacking = [name for point in searched.start for name in searched.axes if name not in point]
    if lacking:
        raise SpaceError(
            f"each start point must name every axis, as the peers have no defaults, but {searched.name} lacks "
            f"{', '.join(lacking)}; fix the axis with --set in peer/job.py."
        )
    classes = found.manifest.classes
    parts = {
        name: [[path, classes.index(label)] for path, label in zip(entries.path, entries.label, strict=True)]
        for name, entries in found.manifest.parts.items()
        if name != "test"
    }
    weights = clip_weights.find(searched.base["model"], searched.base["weights"], fetch=False)
    levels = searched.fidelity
    if len(levels.reports) != 9 or levels.eta != 3:
        raise DataError("Ray's ASHA gets lungtune's rungs only with nine reports and eta 3.")
    return {
        "split": found.manifest.hash,
        "classes": list(classes),
        **parts,
        "base": {
            "model": weights.model,
            "pretrained": str(weights.file) if weights.file else None,
            "image_size": searched.base["image_size"],
            "settings": weights.settings,
        },
        "axes": {name: distribution_to_json(axis) for name, axis in searched.axes.items()},
        "points": [dict(point) for point in searched.start],
        "captions": {style: prompts(classes, style) for style in STYLES},
        "targets": {name: pattern(name) for name in clip_lora._PROJECTIONS},
        "warmup": searched.fixed["warmup"],
        "metric": searched.objective.metric,
        "reports": list(levels.reports),
        "eta": levels.eta,
        "seed": seed,
    }


def pattern(targets: str) -> str:
    """Return the regular expression of the Linears that a choice of ``lora_targets`` adapts in the image tower."""
    names = "|".join(name.replace(".", r"\.") for name in clip_lora._PROJECTIONS[targets])
    return rf"visual\.transformer\.resblocks\.\d+\.({names})"
