"""Decoded pixels of images and masks in memory-mapped files, one per (list, size), shared by all processes.

`pixels/<name>-<size>-<hash>.u8` holds the raw uint8 array `(N, size, size)`; the sidecar of the same name with
`.json` says which images it holds and the Adler-32 of each MiB. A store is built under a file lock into a temporary
file and renamed when complete, its sidecar last. Whatever does not match at opening is rebuilt. Rows that another
store of the same size holds already are copied, so an image is decoded once per size whatever the split.

A mask is named by its own and its image's digest, because it is laid into its image's letterbox; a row without a mask
is named by nothing and black.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lungtune.core import cache
from lungtune.core import paths as places
from lungtune.core.io import track
from lungtune.data.readers.images import (
    UnreadableImageError,
    decoders,
    digest,
    letterboxed,
    letterboxed_mask,
    read,
    sha1,
)
from lungtune.errors import DataError

VERSION = 1
"""Raise when decoding changes: older stores are then never opened."""

_Decode = Callable[[int], np.ndarray]


def open_pixels(paths: Sequence[str], hashes: Sequence[str], size: int, name: str) -> np.ndarray:
    """Open, or decode first, the gray pixels of some images.

    Args:
        paths: absolute paths, N of them; not touched when the store exists.
        hashes: each image's digest, which also says whether a VOI window is applied.
        size: side of the square images in pixels.
        name: what the files are called, e.g. `train`.

    Returns:
        Read-only uint8 memory map `(N, size, size)`.

    Raises:
        DataError: `size` is below 1, an image is gone or changed since its hash was taken, or the cache cannot be
            written.
    """

    def decode(row: int) -> np.ndarray:
        try:
            data = read(paths[row])
            voi = _same(data, hashes[row], f"image {paths[row]}")
            return letterboxed(data, size, voi=True) if voi else letterboxed(data, size)
        except UnreadableImageError as error:
            raise DataError(
                f"The image {paths[row]} could be read when it was scanned, but now it {error}. "
                "Put it back, or start a new study without it."
            ) from error

    return _open(hashes, size, name, "images", decode)


def open_masks(
    masks: Sequence[str | None],
    mask_hashes: Sequence[str | None],
    images: Sequence[str],
    hashes: Sequence[str],
    size: int,
    name: str,
) -> np.ndarray:
    """Open, or decode first, lung masks laid over their images' letterboxes.

    Args:
        masks: absolute paths, N of them, None where a case has no mask.
        mask_hashes: SHA-1 of each mask file, None where there is none.
        images: absolute paths of the images; not touched when the store exists.
        hashes: each image's digest.
        size: side of the square masks in pixels.
        name: what the files are called, e.g. `train`.

    Returns:
        Read-only uint8 memory map `(N, size, size)`, 0 or 255, black rows where a case has no mask.

    Raises:
        DataError: see `open_pixels`; or a mask is dark everywhere without being black.
    """
    rows = zip(mask_hashes, hashes, strict=True)
    names = [f"{mask_hash}@{image_hash}" if mask_hash else "" for mask_hash, image_hash in rows]

    def decode(row: int) -> np.ndarray:
        path = str(masks[row])
        try:
            image = read(images[row])
            _same(image, hashes[row], f"image {images[row]}")
            data = read(path)
            _same(data, str(mask_hashes[row]), f"mask {path}")
            return letterboxed_mask(data, image, size)
        except UnreadableImageError as error:
            raise DataError(
                f"The mask {path} of {images[row]} must be usable, but it {error}. Mend it, or take it away."
            ) from error

    return _open(names, size, f"masks-{name}", "masks", decode)


def _same(data: bytes, expected: str, noun: str) -> bool:
    """Return whether the digest says that a VOI window is applied.

    Raises:
        DataError: the digest is of other bytes.
    """
    if sha1(data) == expected:
        return False
    if digest(data, voi=True) == expected:
        return True
    raise DataError(
        f"The {noun} must be the one that was scanned, but its content has changed since. "
        "Put it back, or start a new study on the changed data."
    )


def _open(hashes: Sequence[str], size: int, name: str, what: str, decode: _Decode) -> np.ndarray:
    if size < 1:
        raise DataError(f"The image size must be at least 1 pixel, but got {size}.")
    if not hashes:
        return np.zeros((0, size, size), np.uint8)
    store = _store(_file(hashes, size, name), hashes, size)
    file = store.open(
        lambda draft: _fill(draft, hashes, size, f"Decoding {name.removeprefix('masks-')} {what}", decode)
    )
    return np.memmap(file, np.uint8, mode="r", shape=(len(hashes), size, size))


def _file(hashes: Sequence[str], size: int, name: str) -> Path:
    key = hashlib.sha256("\n".join([str(VERSION), str(size), *hashes]).encode()).hexdigest()[:16]
    return places.cache() / "pixels" / f"{name}-{size}-{key}.u8"


def _store(file: Path, hashes: Sequence[str], size: int) -> cache.Shared:
    about = {"version": VERSION, "shape": [len(hashes), size, size], "images": list(hashes)}
    return cache.Shared(file, "pixel store", about, len(hashes) * size * size)


def _fill(draft: Path, hashes: Sequence[str], size: int, doing: str, decode: _Decode) -> None:
    pixels = np.memmap(draft, np.uint8, mode="r+", shape=(len(hashes), size, size))
    missing = _copy_known(pixels, hashes, size, draft.parent)
    with decoders() as pool:
        for row, image in track(_decoded(pool, missing, decode), len(missing), doing):
            pixels[row] = image
    pixels.flush()


def _copy_known(pixels: np.ndarray, hashes: Sequence[str], size: int, folder: Path) -> list[int]:
    """Fill rows from sound stores of the same size; return the rows that must be decoded."""
    rows: dict[str, list[int]] = {}
    for row, named in enumerate(hashes):
        if named:
            rows.setdefault(named, []).append(row)
    for file in sorted(folder.glob(f"*-{size}-*.u8")):
        about = cache.read_metadata(file)
        if about is None or about.get("version") != VERSION or rows.keys().isdisjoint(held := about.get("images", [])):
            continue
        if not _store(file, held, size).sound:
            continue
        other = np.memmap(file, np.uint8, mode="r", shape=(len(held), size, size))
        for position, named in enumerate(held):
            for row in rows.pop(named, ()):
                pixels[row] = other[position]
    return sorted(row for group in rows.values() for row in group)


def _decoded(pool: ThreadPoolExecutor, rows: Sequence[int], decode: _Decode) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        yield from zip(some, pool.map(decode, some))
