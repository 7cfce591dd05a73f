"""Small data sets as real files for the miniature families of ``tests/contract/own``: two cases per patient."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("normal", "bacterial", "viral")
WORDS = {"normal": "clear lungs", "bacterial": "dense opacity", "viral": "fine lines"}
PATIENTS = 36
SIDE = 20


def classes() -> list[tuple[str, str]]:
    """Return (patient, class) of each case."""
    return [(f"p{n:02d}", CLASSES[n % 3]) for n in range(PATIENTS) for _ in range(2)]


def grey(random: np.random.Generator, label: str, rank: int = 2) -> np.ndarray:
    """Return noise of ``rank`` dimensions with a bright block whose extent depends on the class."""
    result = random.integers(0, 90, (SIDE,) * rank)
    width = 4 + 5 * CLASSES.index(label)
    result[(slice(2, 2 + width),) * rank] += 120
    return result.astype(np.uint8)


def table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write ``cases.csv``."""
    path = folder / "cases.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def volumes(folder: Path) -> str:
    """Write ``.npy`` volumes, their classes and masks of half of each volume; return the source."""
    random, rows = np.random.default_rng(0), []
    mask = np.zeros((SIDE,) * 3, np.uint8)
    mask[: SIDE // 2] = 1
    np.save(folder / "mask.npy", mask)
    for n, (patient, label) in enumerate(classes()):
        np.save(folder / f"{n}.npy", grey(random, label, 3))
        rows.append((f"{n}.npy", label, patient, "mask.npy"))
    return f"table:{table(folder, ('path', 'label', 'patient_id', 'mask'), rows)}"


def colour(folder: Path) -> str:
    """Write RGB PNGs whose hue depends on the class, of one grey value; return the source."""
    random, rows = np.random.default_rng(1), []
    for n, (patient, label) in enumerate(classes()):
        pixels = random.integers(0, 90, (SIDE, SIDE, 3))
        pixels[4:16, 4:16, CLASSES.index(label)] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
        rows.append((f"{n}.png", label, patient))
    return f"table:{table(folder, ('path', 'label', 'patient_id'), rows)}"


def reports(folder: Path, text_of: Callable[[int, str], str] = lambda n, label: WORDS[label]) -> str:
    """Write PNGs independent of the class, and texts, of which one is missing; return the source.

    Args:
        folder: where to.
        text_of: a case's text by its number and class.
    """
    random, rows = np.random.default_rng(2), []
    for n, (patient, label) in enumerate(classes()):
        Image.fromarray(random.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)).save(folder / f"{n}.png")
        rows.append((f"{n}.png", label, patient, text_of(n, label) if n else ""))
    return f"table:{table(folder, ('path', 'label', 'patient_id', 'text'), rows)}"


def masks(folder: Path) -> str:
    """Write PNGs with masks of their bright block, no classes; one case has no mask. Return the source."""
    random, rows = np.random.default_rng(3), []
    for n, (patient, _) in enumerate(classes()):
        pixels, inside = random.integers(0, 90, (SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
        top, left = random.integers(1, 8, 2)
        inside[top : top + 11, left : left + 9] = 255
        Image.fromarray((pixels + inside // 2).astype(np.uint8)).save(folder / f"{n}.png")
        Image.fromarray(inside).save(folder / f"{n}_mask.png")
        rows.append((f"{n}.png", f"{n}_mask.png" if n else "", patient))
    return f"table:{table(folder, ('path', 'mask', 'patient_id'), rows)}"


def findings(folder: Path) -> str:
    """Write PNGs with three findings each, some unknown; return the source."""
    random, rows = np.random.default_rng(4), []
    for n, (patient, _) in enumerate(classes()):
        has = random.integers(0, 2, 3)
        pixels = random.integers(0, 90, (SIDE, SIDE))
        for place, present in zip(((2, 2), (2, 11), (11, 2)), has, strict=True):
            pixels[place[0] : place[0] + 7, place[1] : place[1] + 7] += 150 * present
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
        rows.append((f"{n}.png", patient, has[0], has[1], "" if n % 7 == 0 else has[2]))
    file = table(folder, ("path", "patient_id", "edema", "effusion", "nodule"), rows)
    return f"table:{file},labels=edema|effusion|nodule"


WRITERS: Mapping[str, Callable[[Path], str]] = {
    "volume_head": volumes,
    "colour_full": colour,
    "image_text_lora": reports,
    "mask_only": masks,
    "multilabel_head": findings,
}
"""Family -> function that writes its data."""
