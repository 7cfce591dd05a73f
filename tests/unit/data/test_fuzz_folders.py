"""Random folder trees, each with an oracle: read rightly, or refused with one sentence."""

from __future__ import annotations

import io
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungtune.data.inventory import Inventory
from lungtune.data.sources import index_source
from lungtune.errors import DataError

TREES = 120
CLASSES = (
    ("Normal", "normal"),
    ("COVID-19", "covid_19"),
    ("Viral Pneumonia", "viral_pneumonia"),
    ("TB", "tb"),
    ("Lungenentzündung", "lungenentzündung"),
    ("Non-COVID", "non_covid"),
    ("0", "0"),
    ("肺炎", "肺炎"),
)
PARTS = (
    ("train", "train"),
    ("Training Set", "train"),
    ("TRAIN", "train"),
    ("val", "validation"),
    ("Validation", "validation"),
    ("test", "test"),
    ("Test_Set", "test"),
    ("testing", "test"),
)
MASKS = ("masks", "Mask", "lung masks", "Lung_Mask", "segmentations", "labels", "manualMask")
IMAGES = ("images", "Image", "CXR_png", "x-rays")
SUFFIXES = (".png", ".jpg", ".JPEG", ".bmp", ".tif", ".gif", ".webp", ".jp2", "")
ODD = ("{}", "x {}", "Ä{}ö", "a,b={}", "[{}]", "{}'s", "n#{}", "{}.v2", "ᚠ{}", "%41{}", "-{}")
JUNK = ("@eaDir/{}.png", ".DS_Store", "Thumbs.db", "__MACOSX/._{}.png", "thumbnails/{}.jpg", ".hidden/{}.png")


@dataclass
class Tree:
    """A folder tree and what must be read from it.

    Attributes:
        files: relative path -> bytes.
        images: relative path -> label, part, relative path of the mask.
        refused: a piece of the sentence that must be raised instead, if it must.
        options: of the source.
    """

    files: dict[bytes, bytes] = field(default_factory=dict)
    images: dict[str, tuple[str | None, str | None, str | None]] = field(default_factory=dict)
    refused: str = ""
    options: str = ""

    def add(self, path: str, content: bytes) -> str:
        self.files[os.fsencode(path)] = content
        return path


def encoded() -> dict[str, bytes]:
    """Return the bytes of a small picture by suffix."""
    values = np.random.default_rng(0).integers(0, 256, (9, 8), dtype=np.uint8)
    held = {}
    kinds = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF", ".webp": "WEBP"}
    for suffix, kind in {**kinds, ".jp2": "JPEG2000"}.items():
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, kind)
        held[suffix] = stream.getvalue()
    return held | {".JPEG": held[".jpg"], "": held[".png"]}


PICTURES = encoded()


def grown(seed: int) -> Tree:
    """Return a random tree with its oracle."""
    draw = random.Random(seed)
    tree = Tree()
    names = draw.sample(CLASSES, draw.randint(2, 4))
    if draw.random() < 0.15:
        names = []
    by_part: dict[str, str] = {}
    for name, part in draw.sample(PARTS, len(PARTS)):
        by_part.setdefault(part, name)
    parts = draw.choice([[], [], ["train", "test"], ["train", "validation", "test"]])
    masked = draw.random() < 0.5 or not names
    holder = draw.choice(IMAGES) if masked or draw.random() < 0.2 else ""
    kept_in = draw.choice(MASKS)
    beside = masked and draw.random() < 0.3  # x_mask.png beside x.png
    outside = masked and not beside and draw.random() < 0.3  # masks of all classes in one folder
    part_above = draw.random() < 0.7
    odd, deep = draw.choice(ODD), draw.choice(["", "", "sub", "view one"]) if names else ""
    suffix = draw.choice(SUFFIXES if odd != "{}.v2" else SUFFIXES[:-1])
    for part in parts or [None]:
        for folder, label in names or [(None, None)]:
            levels = [by_part[part] if part else None, folder]
            levels = [level for level in (levels if part_above else levels[::-1]) if level]
            for i in range(draw.randint(1, 3)):
                stem = odd.format(f"{i}{label or ''}{part or ''}")
                below = [*([deep] if deep else []), stem]
                if beside:
                    image = "/".join([*levels, *below]) + suffix
                    mask = image.removesuffix(suffix) + draw.choice(["_mask", "-mask", " mask"]) + ".png"
                elif outside:
                    image = "/".join([holder, *levels, *below]) + suffix
                    mask = "/".join([kept_in, *levels, *below]) + ".png"
                else:
                    image = "/".join([*levels, *([holder] if holder else []), *below]) + suffix
                    mask = "/".join([*levels, kept_in, *below]) + ".png"
                tree.add(image, PICTURES[suffix])
                if masked and (i == 0 or draw.random() < 0.7):
                    tree.add(mask, PICTURES[".png"])
                    tree.images[image] = (label, part, mask)
                else:
                    tree.images[image] = (label, part, None)
    above = draw.choice(["", "", "archive/", "a,b/c d/"])
    for _ in range(draw.randint(0, 3)):
        tree.add(draw.choice(JUNK).format("1"), PICTURES[".png"])
    if draw.random() < 0.2:
        tree.add("README.txt", b"read me")
        tree.add("docs/paper.pdf", b"%PDF")
    spoiled(tree, draw, bool(names), bool(parts), masked)
    if above:
        tree.files = {os.fsencode(above) + path: content for path, content in tree.files.items()}
    tree.options = ",patient=none" + tree.options
    return tree


def spoiled(tree: Tree, draw: random.Random, classes: bool, parts: bool, masked: bool) -> None:
    """Add one fault to a third of the trees, with what must then happen."""
    first = next(iter(tree.images))
    kind = draw.choice(["latin", "ignored", "stranger", "format", "broken", "ambiguous", *["none"] * 12])
    if kind == "latin":
        tree.files[os.fsencode(os.path.dirname(first)) + b"/Thorax_\xe4.jpg"] = PICTURES[".jpg"]
        tree.refused = r"must be UTF-8, but .*Thorax_\\xe4\.jpg is not"
    elif kind == "ignored":
        tree.add("extra 1/figure 7.png", PICTURES[".png"])
        tree.options = ",ignore=extra 1"
    elif kind == "stranger" and parts and classes:
        tree.add("elsewhere/1.png", PICTURES[".png"])
        tree.refused = "must hold either|there must be only masks|must hold one folder|class folders|parts of its class"
        if not any(part == first.split("/")[0] for part, _ in PARTS):  # a class of its own, without parts
            tree.refused = ""
            tree.images["elsewhere/1.png"] = ("elsewhere", None, None)
            if masked and first.split("/")[0] in IMAGES:
                tree.refused = "there must be only masks"
    elif kind == "format" and classes and not parts and first.split("/")[0] not in IMAGES:
        tree.add("heic only/1.heic", b"?")
        tree.refused = r"heic only must hold images that can be read, but holds 1 files \(\.heic\)"
    elif kind == "broken":
        tree.files[os.fsencode(first)] = PICTURES[Path(first).suffix if Path(first).suffix in PICTURES else ""][:40]
    elif kind == "ambiguous" and masked and tree.images[first][2]:
        tree.add(os.path.splitext(str(tree.images[first][2]))[0] + ".bmp", PICTURES[".bmp"])
        tree.refused = "must have one mask, but"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Result of each tree: images and inventory, or the DataError's text."""
    results: list[tuple[Tree, dict[str, tuple[str | None, str | None, str | None]] | str, Inventory | None]] = []
    for seed in range(TREES):
        tree, root = grown(seed), tmp_path_factory.mktemp(f"tree{seed}")
        try:
            for path, content in tree.files.items():
                full = os.path.join(os.fsencode(root), path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "wb") as stream:
                    stream.write(content)
        except OSError:  # the file system allows UTF-8 names only
            continue
        try:
            cases = index_source(f"folder:{root}{tree.options}")
        except DataError as error:
            results.append((tree, str(error), None))
            continue
        base = os.path.commonpath([str(root), *cases["path"]]) if len(cases) == 1 else str(root)
        found = {}
        for path, label, split, mask in zip(
            cases["path"], cases["label"], cases["split"], cases["mask_path"], strict=True
        ):
            found[os.path.relpath(path, base)] = (label, split, mask and os.path.relpath(mask, base))
        results.append((tree, found, cases.attrs["inventory"]))
    return results


def expected(tree: Tree) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Return the oracle with the folders above the data."""
    some = os.fsencode(next(iter(tree.images)))
    above = os.fsdecode(next(path for path in tree.files if path.endswith(some)).removesuffix(some))
    return {above + path: (label, part, mask and above + mask) for path, (label, part, mask) in tree.images.items()}


def test_every_tree_is_read_rightly_or_refused(outcomes):
    assert len(outcomes) >= TREES - 20
    for number, (tree, found, _) in enumerate(outcomes):
        if tree.refused:
            assert isinstance(found, str), f"tree {number} must be refused"
            assert re.search(tree.refused, found), f"tree {number}: {found}"
            assert "\n" not in found
        else:
            assert found == expected(tree), f"tree {number}: {sorted(tree.files)}"


def test_most_trees_are_read(outcomes):
    read = [tree for tree, found, _ in outcomes if not isinstance(found, str)]
    assert len(read) > 0.8 * len(outcomes)
    assert sum(any(mask for _, _, mask in tree.images.values()) for tree in read) > 30
    assert sum(any(part for _, part, _ in tree.images.values()) for tree in read) > 30


def test_every_file_is_in_the_inventory(outcomes):
    for tree, found, inventory in outcomes:
        if inventory is None:
            continue
        left = sum(kinds.total() for kinds in inventory.left.values())
        masks = sum(mask is not None for _, _, mask in found.values())
        assert inventory.read.total() == len(found)
        assert inventory.read.total() + masks + left == len(tree.files)
