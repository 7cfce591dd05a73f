"""Synthetic chest X-rays, rendered once into the cache as PNG files and indexed from there.

The folder `<cache>/phantom/<hash of generator version and options>/` holds `images/<split>/<class>/*.png`, lung
masks under `masks/` and `table.csv`. It appears in one rename when it is complete; a damaged one is rendered again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.core.fields import UNCERTAIN
from lungtune.core.io import progress
from lungtune.data.sources._written import written
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.phantom import Domain, Settings

SUMMARY = "synthetic chest X-rays, rendered on first use: six classes, lung masks, captions; needs no files"
OPTIONS = {
    "n": "images for training and validation (default 1500)",
    "test": "images of the official test part, other patients (default 500)",
    "size": "width and height in px (default 96)",
    "seed": "another number, another population (default 0)",
    "domain": "A: the clinic the tiny base was pretrained on; B: the one to search on (default B)",
    "contrast": "gain on all lesions; 2 is easy, 0.5 hard (default 1)",
    "ambiguity": "share of sick patients with a second, weaker finding (default 0.06)",
    "label_noise": "share of wrong labels, never in test (default 0.02)",
    "nuisance": "gain on pose, haze and exposure (default 1)",
    "site_shortcut": "share of training films whose marker betrays the class (default 0)",
    "labels": "yes: nine findings, any number of them a film, in place of the class (default no)",
    "uncertain": "with labels=yes: share of the labels left open, never in test (default 0)",
}

COOCCURRENCE = 0.22
"""With ``labels=yes``: probability of the findings of each class: a third of the patients have none."""

_LATER = {"labels": "no", "uncertain": 0.0}
"""Options left out of the cache's key at these values, so that sets generated before they existed keep their folder."""


TEST_FIRST = 500_000
"""First patient number of the test part: the test patients do not depend on ``n``."""
PROCESSES = 2
_CHUNK = 25  # patients a task: about 0.3 s
_FIELDS = ("path", "label", "patient_id", "split", "mask", "text", "age", "sex")
_LISTED = ("present", "open")
"""Further fields with ``labels=yes``: present findings and uncertain ones, each joined by ``|``."""


@dataclass(frozen=True)
class Recipe:
    """Options, resolved; its hash names the cache folder."""

    n: int = 1500
    test: int = 500
    size: int = 96
    seed: int = 0
    domain: Domain = "B"
    contrast: float = 1.0
    ambiguity: float = 0.06
    label_noise: float = 0.02
    nuisance: float = 1.0
    site_shortcut: float = 0.0
    labels: str = "no"
    uncertain: float = 0.0

    @property
    def several(self) -> bool:
        """True if a film has labels, not a class."""
        return self.labels == "yes"

    def settings(self, split: str) -> Settings:
        """Return the generator's settings for ``train`` or ``test``; test labels are true and free of the shortcut."""
        from lungtune.data.phantom import Settings

        train = split == "train"
        return Settings(
            contrast=self.contrast,
            ambiguity=self.ambiguity,
            label_noise=self.label_noise if train else 0.0,
            nuisance=self.nuisance,
            site_shortcut=self.site_shortcut if train else 0.0,
            cooccurrence=COOCCURRENCE if self.several else 0.0,
        )


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set that ``options`` describe, rendering it first if the cache does not hold it.

    Raises:
        DataError: there is a path, or an option is unknown or out of its range.
    """
    from lungtune.data.cases import label_name, table
    from lungtune.data.phantom import CLASSES
    from lungtune.data.phantom.captions import FINDINGS

    chosen = check(path, options)
    root = ensure(chosen)
    rows = [
        {
            "case_id": row["path"],
            "path": str(root / row["path"]),
            "label": None if chosen.several else row["label"],
            "labels": _values(row) if chosen.several else None,
            "patient_id": row["patient_id"],
            "source": "phantom",
            "split": row["split"],
            "mask_path": str(root / row["mask"]),
            "text": row["text"],
        }
        for row in _read(root)
    ]
    if chosen.several:
        return table(rows, label_names=[label_name(name) for name in FINDINGS])
    return table(rows, classes=CLASSES)


def _values(row: dict[str, str]) -> tuple[float, ...]:
    """Return each finding's label."""
    from lungtune.data.phantom.captions import FINDINGS

    present, uncertain = (row[name].split("|") for name in _LISTED)
    return tuple(UNCERTAIN if name in uncertain else float(name in present) for name in FINDINGS)


def check(path: Path | None, options: dict[str, str]) -> Recipe:
    """Return the resolved options; nothing is rendered.

    Raises:
        DataError: there is a path, or an option is unknown or out of its range.
    """
    if path is not None:
        raise DataError(f"The source 'phantom' takes no path, but got {path}. Write phantom or phantom,n=300.")
    return recipe(options)


def classes(path: Path | None, options: dict[str, str]) -> tuple[str, ...]:
    """Return the classes of the set that ``options`` describe, in label order; none where it has several labels.

    Raises:
        DataError: see :func:`check`.
    """
    from lungtune.data.cases import class_order
    from lungtune.data.phantom import CLASSES

    return () if check(path, options).several else class_order(CLASSES)


def traits(path: Path | None, options: dict[str, str]) -> frozenset[str]:
    """Return the traits of the set that ``options`` describe; nothing is rendered.

    Raises:
        DataError: see :func:`check`.
    """
    chosen = check(path, options)
    held = ("labels", *(["uncertain"] if chosen.uncertain else [])) if chosen.several else ("label",)
    return frozenset({"mask", "text", *held})


def recipe(options: dict[str, str]) -> Recipe:
    """Return the resolved options.

    Raises:
        DataError: naming every option that is unknown, not a number, or out of its range.
    """
    wrong, values = [], {}
    for key, text in options.items():
        if key not in OPTIONS:
            wrong.append(f"'{key}' is not an option of the source 'phantom'.{did_you_mean(key, OPTIONS)}")
            continue
        kind = type(getattr(Recipe, key))
        try:
            values[key] = kind(text)
        except ValueError:
            wrong.append(f"{key} must be {'a whole number' if kind is int else 'a number'}, but got '{text}'.")
    result = Recipe(**values)
    for key, low, high in (("n", 1, TEST_FIRST), ("test", 0, TEST_FIRST), ("size", 32, 1024), ("seed", 0, 2**31)):
        if not low <= getattr(result, key) <= high:
            wrong.append(f"{low} <= {key} <= {high} must hold, but got {getattr(result, key)}.")
    if result.domain not in ("A", "B"):
        wrong.append(f"domain must be A or B, but got '{result.domain}'.")
    if result.labels not in ("yes", "no"):
        wrong.append(f"labels must be yes or no, but got '{result.labels}'.")
    if not 0 <= result.uncertain < 1:
        wrong.append(f"0 <= uncertain < 1 must hold, but got {result.uncertain}.")
    elif result.uncertain and not result.several:
        wrong.append("uncertain needs labels=yes: a class is never left open.")
    if result.several and "ambiguity" in options:
        wrong.append("ambiguity is of sets with one class a film; leave it out with labels=yes.")
    try:
        result.settings("train")
    except ValueError as error:
        wrong.append(str(error))
    if wrong:
        raise DataError(" ".join(wrong))
    return result


def ensure(recipe: Recipe) -> Path:
    """Return the folder of a complete set, rendering it under a lock if it is absent or damaged.

    Raises:
        DataError: the cache cannot be written.
    """
    from lungtune.data.phantom import VERSION

    held = {name: value for name, value in asdict(recipe).items() if _LATER.get(name) != value}
    key = hashlib.sha256(json.dumps([VERSION, held], sort_keys=True).encode()).hexdigest()[:16]
    return written("phantom", key, partial(_complete, images=recipe.n + recipe.test), partial(_render, recipe))


def _complete(root: Path, images: int) -> bool:
    """True if ``table.csv`` lists that many images and every file it lists is there and not empty."""
    if not (root / "table.csv").is_file():
        return False
    try:
        rows = _read(root)
        return len(rows) == images and all((root / row[c]).stat().st_size > 0 for row in rows for c in ("path", "mask"))
    except (OSError, KeyError, TypeError, csv.Error):
        return False


def _read(root: Path) -> list[dict[str, str]]:
    with (root / "table.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _tasks(recipe: Recipe, part: Path) -> Iterator[tuple[Recipe, Path, str, list[tuple[int, int]]]]:
    """Yield tasks of up to ``_CHUNK`` patients: (patient number, how many of its pictures) each."""
    from lungtune.data.phantom import draw_patient
    from lungtune.data.phantom.settings import resolve

    for split, first, wanted in (("train", 0, recipe.n), ("test", TEST_FIRST, recipe.test)):
        settings = resolve(recipe.domain, recipe.settings(split))
        number, chunk = first, []
        while wanted > 0:
            images = min(wanted, draw_patient(recipe.seed, recipe.domain, number, settings).images)
            chunk.append((number, images))
            wanted -= images
            number += 1
            if len(chunk) == _CHUNK or wanted == 0:
                yield recipe, part, split, chunk
                chunk = []


def _draw(task: tuple[Recipe, Path, str, list[tuple[int, int]]]) -> list[dict[str, str | int]]:
    """Render one task's patients to PNG files; return their rows of the table."""
    import numpy as np
    from PIL import Image

    from lungtune.data.phantom import CLASSES, draw_patient, draw_shot, render
    from lungtune.data.phantom.settings import resolve

    recipe, part, split, patients = task
    settings = resolve(recipe.domain, recipe.settings(split))
    rows: list[dict[str, str | int]] = []
    for number, images in patients:
        patient = draw_patient(recipe.seed, recipe.domain, number, settings)
        for i in range(images):
            phantom = render(patient, draw_shot(patient, i, settings), size=recipe.size, settings=settings)
            label = CLASSES[phantom.label]
            place = split if recipe.several else f"{split}/{label}"
            names = [f"{kind}/{place}/{phantom.patient_id}_{i}.png" for kind in ("images", "masks")]
            for name, pixels in zip(names, (phantom.image, phantom.lung_mask.astype(np.uint8) * 255), strict=True):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(part / name, compress_level=1)
            values = (names[0], label, phantom.patient_id, split, names[1], phantom.caption, phantom.age, phantom.sex)
            rows.append(dict(zip(_FIELDS, values, strict=True)))
            if recipe.several:
                rows[-1] |= _claimed(recipe, split, number, i, [str(f["finding"]) for f in phantom.latent["findings"]])
    return rows


def _claimed(recipe: Recipe, split: str, patient: int, picture: int, drawn: Sequence[str]) -> dict[str, str]:
    """Return the stated findings of a film: in training some labels are wrong, and some are uncertain."""
    import numpy as np

    from lungtune.data.phantom.captions import FINDINGS

    wrong, uncertain = (recipe.label_noise, recipe.uncertain) if split == "train" else (0.0, 0.0)
    chances = np.random.default_rng([recipe.seed, patient, picture, 401]).random((2, len(FINDINGS)))
    present = [name for name, chance in zip(FINDINGS, chances[0], strict=True) if (name in drawn) != (chance < wrong)]
    still = [name for name, chance in zip(FINDINGS, chances[1], strict=True) if chance < uncertain]
    return dict(zip(_LISTED, ("|".join(present), "|".join(still)), strict=True))


def _render(recipe: Recipe, part: Path) -> None:
    """Fill the folder ``part``, with a progress bar on a terminal and a line in a pipe."""
    total = recipe.n + recipe.test
    rows: list[dict[str, str | int]] = []
    line = f"Rendering {total} phantoms, once, into {part.parent}"
    with (
        progress("Rendering phantoms", total, line=line) as update,
        closing(_results(list(_tasks(recipe, part)))) as results,
    ):
        for done in results:
            rows.extend(done)
            update(len(rows))
    with (part / "table.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, (*_FIELDS, *_LISTED) if recipe.several else _FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _results(
    tasks: list[tuple[Recipe, Path, str, list[tuple[int, int]]]],
) -> Generator[list[dict[str, str | int]], None, None]:
    """Run the tasks in order, in ``PROCESSES`` fresh processes if there is enough work (their start takes a second)."""
    if len(tasks) < 8:
        yield from map(_draw, tasks)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Forking a process that may hold threads (torch, ray) can deadlock; fresh ones cannot.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_end_with_parent)
    try:
        yield from pool.map(_draw, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when it does, however it ends."""
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
