"""Memory-mapped stores of decoded images, volumes and masks, one per (field, list, size), shared by all processes.

`pixels/<name>-<size>-<hash>.u8` holds the raw uint8 array, a row per case: `(size, size)` gray images and masks of
images, `(3, size, size)` colour images, `(channels, size, size, size)` volumes, `(size, size, size)` masks of volumes;
opened arrays always have the channel axis. The sidecar of the same name with `.json` lists the images and the Adler-32
of each MiB. A store is built under a file lock into a temporary file and renamed when complete, its sidecar last. A
store that fails verification is rebuilt. Rows that another store of the same size holds are copied, so an image is
decoded once per size for all splits.

A mask's key is its own and its image's digest, because it is fitted to its image's letterbox; a row without a mask has
an empty key and is black.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lungtune.core import cache
from lungtune.core import paths as places
from lungtune.core.io import track
from lungtune.data import mask_files
from lungtune.data.readers.base import UnreadableImageError, read, sha1
from lungtune.data.readers.images import decoders, letterboxed, letterboxed_mask, reading
from lungtune.data.readers.volumes import cube, cube_mask
from lungtune.data.scan import forget
from lungtune.errors import DataError

VERSION = 1
"""Raise when decoding changes: older stores are then never opened."""

_REMEDY = (
    "Put it back, or start a new study on the data as they are now: run `lungtune data check` with --rescan first, "
    "which reads every file again."
)
_Decode = Callable[[int], np.ndarray]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Layout:
    """File name and row shape of a store.

    Attributes:
        name: what the file is called, such as `train` or `masks-train`.
        size: side in pixels.
        row: shape of a row in the file.
        doing: progress message while decoding.
        batch: rows decoded at once.
    """

    name: str
    size: int
    row: tuple[int, ...]
    doing: str
    batch: int = 256

    def store(self, hashes: Sequence[str], file: Path | None = None) -> cache.Shared:
        """Return the store of these rows: the one of its own name, or another file that may hold them."""
        plain = len(self.row) == 2  # gray images and masks keep the names of versions without other shapes
        shape = str(self.size) if plain else "x".join(map(str, self.row))
        key = hashlib.sha256("\n".join([str(VERSION), shape, *hashes]).encode()).hexdigest()[:16]
        own = places.cache() / "pixels" / f"{self.name}-{self.size}-{key}.u8"
        about = {"version": VERSION, "shape": [len(hashes), *self.row], "images": list(hashes)}
        return cache.Shared(file or own, "pixel store", about, len(hashes) * math.prod(self.row))


def open_images(paths: Sequence[str], hashes: Sequence[str], size: int, name: str, channels: int = 1) -> np.ndarray:
    """Open, or decode first, the pixels of some images.

    Args:
        paths: absolute paths, N of them; not touched when the store exists.
        hashes: each image's digest, which also encodes the use of a VOI window.
        size: side of the square images in pixels.
        name: what the files are called, e.g. `train`.
        channels: 1 gray, 3 RGB.

    Returns:
        Read-only uint8 memory map `(N, channels, size, size)`.

    Raises:
        DataError: `size` is below 1, an image is gone or changed since its hash was taken, or the cache cannot be
            written.
    """

    def decode(row: int) -> np.ndarray:
        data, options = _read("image", paths[row], hashes[row])
        more: dict[str, Any] = options if channels == 1 else {**options, "channels": channels}
        return _usable("image", paths[row], lambda: letterboxed(data, size, **more))

    pixels = _open(layout_of_images(name, size, channels), hashes, decode)
    return pixels.reshape(len(hashes), channels, size, size)


def layout_of_images(name: str, size: int, channels: int = 1) -> _Layout:
    """Return the layout of a store of images; arguments as in `open_images`."""
    row = (size, size) if channels == 1 else (channels, size, size)
    return _Layout(name, size, row, f"Decoding {name} images")


def open_volumes(paths: Sequence[str], hashes: Sequence[str], size: int, name: str, channels: int = 1) -> np.ndarray:
    """Open, or decode first, the voxels of some volumes; arguments and errors as in `open_images`.

    Returns:
        Read-only uint8 memory map `(N, channels, size, size, size)`.
    """

    def decode(row: int) -> np.ndarray:
        data, _ = _read("volume", paths[row], hashes[row])
        return _usable("volume", paths[row], lambda: cube(data, size, channels=channels))

    layout = _Layout(name, size, (channels, size, size, size), f"Decoding {name} volumes", batch=8)
    return _open(layout, hashes, decode)


def open_masks(
    masks: Sequence[str | None],
    mask_hashes: Sequence[str | None],
    paths: Sequence[str],
    hashes: Sequence[str],
    size: int,
    name: str,
    kind: str = "image",
) -> np.ndarray:
    """Open, or decode first, lung masks aligned with the letterboxes of their images or volumes.

    Args:
        masks: of each case, see `mask_files`; None where a case has no mask.
        mask_hashes: digest of each mask, None where there is none.
        paths: absolute paths of the images or volumes; not touched when the store exists.
        hashes: each image's or volume's digest.
        size: side of the masks in pixels.
        name: what the files are called, e.g. `train`.
        kind: `image` or `volume`.

    Returns:
        Read-only uint8 memory map `(N, 1, size, size[, size])`, 0 or 255, black rows where a case has no mask.

    Raises:
        DataError: see `open_images`; or see `mask_values.inside`.
    """
    rows = zip(mask_hashes, hashes, strict=True)
    names = [f"{mask_hash}@{hash_}" if mask_hash else "" for mask_hash, hash_ in rows]
    aligned = letterboxed_mask if kind == "image" else cube_mask

    def decode(row: int) -> np.ndarray:
        path, expected = str(masks[row]), str(mask_hashes[row])
        try:
            under = read(paths[row])
            _same(under, hashes[row], kind, paths[row])
            files = mask_files.files(path)
            pieces, values = [read(file) for file in files], mask_files.values_of(expected)
            if mask_files.digest([sha1(piece) for piece in pieces], values) != expected:
                raise _changed("mask", mask_files.shown(path), files)
            return np.maximum.reduce([aligned(piece, under, size, values) for piece in pieces])
        except UnreadableImageError as error:
            raise DataError(
                f"The mask {mask_files.shown(path)} of {paths[row]} must be usable, but it {error}. "
                "Mend it, or take it away."
            ) from error

    rank, batch = (2, 256) if kind == "image" else (3, 8)
    layout = _Layout(f"masks-{name}", size, (size,) * rank, f"Decoding {name} masks", batch)
    return _open(layout, names, decode).reshape(len(names), 1, *layout.row)


def _read(kind: str, path: str, expected: str) -> tuple[bytes, dict[str, Any]]:
    """Return a file's bytes and how it must be read; see `images.reading`."""
    data = _usable(kind, path, lambda: read(path))
    return data, {"rules": 1, **_same(data, expected, kind, path)}


def _usable(kind: str, path: str, what: Callable[[], _T]) -> _T:
    try:
        return what()
    except UnreadableImageError as error:
        forget([path])
        raise DataError(
            f"The {kind} {path} could be read when it was scanned, but now it {error}. {_REMEDY}"
        ) from error


def _same(data: bytes, expected: str, kind: str, path: str) -> dict[str, Any]:
    """Return how a file must be read.

    Raises:
        DataError: the digest is of other bytes.
    """
    options = reading(data, expected)
    if options is None:
        raise _changed(kind, path, [path])
    return options


def _changed(kind: str, shown: str, files: Sequence[str]) -> DataError:
    """Return the error of files whose content is no longer what was scanned; their facts are dropped."""
    forget(files)
    return DataError(
        f"The {kind} {shown} must be the one that was scanned, but its content has changed since. {_REMEDY}"
    )


def _open(layout: _Layout, hashes: Sequence[str], decode: _Decode) -> np.ndarray:
    if layout.size < 1:
        raise DataError(f"The image size must be at least 1 pixel, but got {layout.size}.")
    shape = (len(hashes), *layout.row)
    if not hashes:
        return np.zeros(shape, np.uint8)
    file = layout.store(hashes).open(lambda draft: _fill(draft, layout, hashes, decode))
    return np.memmap(file, np.uint8, mode="r", shape=shape)


def _fill(draft: Path, layout: _Layout, hashes: Sequence[str], decode: _Decode) -> None:
    pixels = np.memmap(draft, np.uint8, mode="r+", shape=(len(hashes), *layout.row))
    missing = _copy_known(pixels, layout, hashes, draft.parent)
    with decoders() as pool:
        for row, image in track(_decoded(pool, missing, decode, layout.batch), len(missing), layout.doing):
            pixels[row] = image
    pixels.flush()


def _copy_known(pixels: np.ndarray, layout: _Layout, hashes: Sequence[str], folder: Path) -> list[int]:
    """Fill rows from sound stores of the same row shape; return the rows that must be decoded."""
    rows: dict[str, list[int]] = {}
    for row, named in enumerate(hashes):
        if named:
            rows.setdefault(named, []).append(row)
    for file in sorted(folder.glob(f"*-{layout.size}-*.u8")):
        about = cache.read_metadata(file)
        if about is None or about.get("version") != VERSION or about.get("shape", [])[1:] != list(layout.row):
            continue
        held = about.get("images", [])
        if rows.keys().isdisjoint(held) or not layout.store(held, file).sound:
            continue
        try:
            other = np.memmap(file, np.uint8, mode="r", shape=(len(held), *layout.row))
        except FileNotFoundError:  # another process has discarded it
            continue
        for position, named in enumerate(held):
            for row in rows.pop(named, ()):
                pixels[row] = other[position]
    return sorted(row for group in rows.values() for row in group)


def _decoded(
    pool: ThreadPoolExecutor, rows: Sequence[int], decode: _Decode, batch: int
) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        yield from zip(some, pool.map(decode, some))
