"""MedMNIST sets: one npz file each, unpacked once into the cache as PNG files.

`medmnist:pneumoniamnist_224` names a set and its side in pixels (28 without a number). Its file is looked for in
`root`, else in the cache and in `~/.medmnist`, else the medmnist package fetches it into the cache.
`medmnist:FILE.npz` names the file itself. Colour becomes gray. The folder `<cache>/medmnist/<name>-<hash of the file>/`
holds `<part>/<class>/<number>.png` and `table.csv`; it appears in one rename when it is complete.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import cache, paths
from lungtune.core.io import log_stderr, track
from lungtune.data.sources._files import SPLIT_NAMES, require_file, require_folder
from lungtune.data.sources._written import written
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SUMMARY = "MedMNIST, a set by name (pneumoniamnist_224) or its npz file; 2-D sets with one label an image"
OPTIONS = {"root": "folder that holds the npz files (default: the cache, then ~/.medmnist, then they are fetched)"}
PATHS = ("root",)
_SIZES = ("", "_64", "_128", "_224")
_FIELDS = ("path", "label", "split")


def located(path: Path) -> Path:
    """Return a file absolute and the name of a set as it is."""
    return path if _is_name(path) else path.resolve()


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set that `path` names, writing its pictures first if the cache does not hold them.

    Raises:
        DataError: no such set, it is 3-D or has several labels an image, or its file is missing, damaged or cannot
            be fetched.
    """
    from lungtune.data.cases import table

    if path is None:
        raise DataError("The source 'medmnist' needs a set: write medmnist:pneumoniamnist_224 or medmnist:FILE.npz.")
    stem = path.name.removesuffix(".npz").lower()
    classes = _classes(stem)
    file = _find(stem, options.get("root")) if _is_name(path) else require_file(path, "medmnist", "FILE.npz")
    with file.open("rb") as stream:
        key = f"{stem}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
    root = written("medmnist", key, _complete, partial(_write, file, classes))
    rows = [
        {**row, "case_id": row["path"], "path": str(root / row["path"]), "source": "medmnist"} for row in _read(root)
    ]
    return table(rows, classes=classes)


def _is_name(path: Path) -> bool:
    return path.suffix != ".npz" and path.name == str(path)


def _classes(stem: str) -> list[str]:
    """Return the class names of a set in the order of its numbers.

    Raises:
        DataError: there is no such set, or it is of a kind that cannot be used.
    """
    info = _info()
    name, _, size = stem.partition("_")
    about = info.get(name)
    if about is None:
        usable = [key for key, value in info.items() if not _unusable(key, value)]
        raise DataError(
            f"A MedMNIST file must have the name of a set, but '{stem}' is none.{did_you_mean(name, usable)}"
        )
    if why := _unusable(name, about):
        raise DataError(f"A MedMNIST set must be 2-D with one label an image, but {name} {why}.")
    if (f"_{size}" if size else "") not in _SIZES:
        raise DataError(f"MedMNIST has {name} with 28, 64, 128 and 224 pixels, but not '{stem}': write {name}_224.")
    labels = [about["label"][str(number)] for number in range(len(about["label"]))]
    return [re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_") for label in labels]


def _unusable(name: str, about: dict[str, Any]) -> str:
    if name.endswith("3d"):
        return "is 3-D"
    return "has several labels an image" if about["task"].startswith("multi-label") else ""


def _info() -> dict[str, dict[str, Any]]:
    """Return the package's table of sets, read and not imported: that would import torch and make a folder in HOME."""
    package = importlib.util.find_spec("medmnist")
    assert package is not None
    tree = ast.parse(Path(str(package.origin)).with_name("info.py").read_text(encoding="utf-8"))
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.literal_eval(values["INFO"])


def _find(stem: str, root: str | None) -> Path:
    """Return the file of a set, fetching it if need be.

    Raises:
        DataError: `root` does not hold it, or it cannot be fetched.
    """
    if root is not None:
        folder = require_folder(paths.expanded(root), "root", option=True)
        if not (folder / f"{stem}.npz").is_file():
            raise DataError(f"root must hold {stem}.npz, but {folder} does not.")
        return folder / f"{stem}.npz"
    cached = paths.cache() / "medmnist"
    for folder in (cached, Path.home() / ".medmnist"):
        if (folder / f"{stem}.npz").is_file():
            return folder / f"{stem}.npz"
    cache.ensure_writable(cached)
    part = Path(tempfile.mkdtemp(prefix=f"{stem}.", suffix=".part", dir=cached))
    try:
        _fetch(stem, part)
        os.replace(part / f"{stem}.npz", cached / f"{stem}.npz")
    except Exception as error:  # the package raises RuntimeError, whatever went wrong
        raise DataError(
            f"medmnist:{stem} needs {stem}.npz, which could not be fetched from {_address(stem)}: put it at "
            f"{cached / f'{stem}.npz'}, or write medmnist:FILE.npz."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return cached / f"{stem}.npz"


def _address(stem: str) -> str:
    name, _, size = stem.partition("_")
    return _info()[name][f"url_{size}" if size else "url"]


def _fetch(stem: str, folder: Path) -> None:
    """Fetch a file into `folder` with the medmnist package, which verifies it."""
    import socket

    import medmnist

    name, _, size = stem.partition("_")
    log_stderr(f"Fetching {stem}.npz from {_address(stem)} ...")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        kind = getattr(medmnist, medmnist.INFO[name]["python_class"])
        kind(split="val", download=True, root=str(folder), size=int(size or 28))
    finally:
        socket.setdefaulttimeout(timeout)


def _complete(root: Path) -> bool:
    try:
        rows = _read(root)
        return bool(rows) and all((root / row["path"]).stat().st_size > 0 for row in rows)
    except (OSError, KeyError, TypeError, csv.Error):
        return False


def _read(root: Path) -> list[dict[str, str]]:
    with (root / "table.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _write(file: Path, classes: list[str], part: Path) -> None:
    """Write all pictures of an npz file and their table into the folder `part`.

    Raises:
        DataError: the file is damaged or does not hold what the set should.
    """
    from PIL import Image

    rows: list[dict[str, str]] = []
    for split in ("train", "val", "test"):
        pictures, labels = _arrays(file, split, len(classes))
        for number, pixels in enumerate(track(pictures, len(pictures), f"Writing {file.stem} {split} images")):
            label = classes[labels[number]]
            name = f"{SPLIT_NAMES[split]}/{label}/{number:06d}.png"
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert("L").save(part / name, compress_level=1)
            rows.append(dict(zip(_FIELDS, (name, label, SPLIT_NAMES[split]), strict=True)))
    with (part / "table.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, _FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _arrays(file: Path, split: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures uint8 `(N, H, W[, 3])` and class numbers `(N,)`.

    Raises:
        DataError: the file does not hold such arrays.
    """
    import numpy as np

    try:
        with np.load(file) as held:
            pictures, labels = held[f"{split}_images"], held[f"{split}_labels"]
    except Exception as error:  # zipfile, zlib and numpy raise anything on damaged files
        raise DataError(f"{file} must be a MedMNIST file, but it is not: {error}. Fetch it again.") from error
    flat = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] == 3)
    if (
        not flat
        or pictures.dtype != np.uint8
        or labels.size != len(pictures)
        or np.any((labels < 0) | (labels >= classes))
    ):
        raise DataError(
            f"{file} must hold 8-bit pictures with one of {classes} labels each, but its part '{split}' has pictures "
            f"{pictures.dtype} {pictures.shape} and labels {labels.shape}. Fetch it again."
        )
    return pictures, labels.reshape(-1)
