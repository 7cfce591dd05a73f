"""Decoded pixels in memory-mapped files, one per (list of images, size), shared by all processes.

`pixels/<name>-<size>-<hash>.u8` holds the raw uint8 array `(N, size, size)`; the sidecar of the same name with
`.json` says which images it holds and the Adler-32 of each MiB. A store is built under a file lock into a temporary
file and renamed when complete, its sidecar last. Whatever does not match at opening is rebuilt. Rows that another
store of the same size holds already are copied, so an image is decoded once per size whatever the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lungtune.core import cache
from lungtune.core import paths as places
from lungtune.data.images import UnreadableImageError, decoders, letterboxed, read, sha1
from lungtune.data.progress import track
from lungtune.errors import DataError

VERSION = 1
"""Raise when decoding changes: older stores are then never opened."""


def open_pixels(paths: Sequence[str], hashes: Sequence[str], size: int, name: str) -> np.ndarray:
    """Open, or decode first, the gray pixels of some images.

    Args:
        paths: absolute paths, N of them; not touched when the store exists.
        hashes: hex SHA-1 of each file's bytes.
        size: side of the square images in pixels.
        name: what the files are called, e.g. `train`.

    Returns:
        Read-only uint8 memory map `(N, size, size)`.

    Raises:
        DataError: `size` is below 1, an image is gone or changed since its hash was taken, or the cache cannot be
            written.
    """
    if size < 1:
        raise DataError(f"The image size must be at least 1 pixel, but got {size}.")
    if not paths:
        return np.zeros((0, size, size), np.uint8)
    store = _store(_file(hashes, size, name), hashes, size)
    file = store.open(lambda draft: _fill(draft, paths, hashes, size, name))
    return np.memmap(file, np.uint8, mode="r", shape=(len(hashes), size, size))


def _file(hashes: Sequence[str], size: int, name: str) -> Path:
    key = hashlib.sha256("\n".join([str(VERSION), str(size), *hashes]).encode()).hexdigest()[:16]
    return places.cache() / "pixels" / f"{name}-{size}-{key}.u8"


def _store(file: Path, hashes: Sequence[str], size: int) -> cache.Shared:
    about = {"version": VERSION, "shape": [len(hashes), size, size], "images": list(hashes)}
    return cache.Shared(file, "pixel store", about, len(hashes) * size * size)


def _fill(draft: Path, paths: Sequence[str], hashes: Sequence[str], size: int, name: str) -> None:
    pixels = np.memmap(draft, np.uint8, mode="r+", shape=(len(paths), size, size))
    missing = _copy_known(pixels, hashes, size, draft.parent)
    with decoders() as pool:
        for row, image in track(_decode(pool, paths, hashes, size, missing), len(missing), f"Decoding {name} images"):
            pixels[row] = image
    pixels.flush()


def _copy_known(pixels: np.ndarray, hashes: Sequence[str], size: int, shelf: Path) -> list[int]:
    """Fill rows from sound stores of the same size; return the rows that must be decoded."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(hashes):
        rows.setdefault(digest, []).append(row)
    for file in sorted(shelf.glob(f"*-{size}-*.u8")):
        about = cache.about(file)
        if about is None or about.get("version") != VERSION or rows.keys().isdisjoint(held := about.get("images", [])):
            continue
        if not _store(file, held, size).sound:
            continue
        other = np.memmap(file, np.uint8, mode="r", shape=(len(held), size, size))
        for position, digest in enumerate(held):
            for row in rows.pop(digest, ()):
                pixels[row] = other[position]
    return sorted(row for group in rows.values() for row in group)


def _decode(
    pool: ThreadPoolExecutor, paths: Sequence[str], hashes: Sequence[str], size: int, rows: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    def one(row: int) -> tuple[int, np.ndarray]:
        try:
            data = read(paths[row])
            if sha1(data) != hashes[row]:
                raise DataError(
                    f"The image {paths[row]} must be the one that was scanned, but its content has changed since. "
                    "Put it back, or start a new study on the changed data."
                )
            return row, letterboxed(data, size)
        except UnreadableImageError as error:
            raise DataError(
                f"The image {paths[row]} could be read when it was scanned, but now it {error}. "
                "Put it back, or start a new study without it."
            ) from error

    for start in range(0, len(rows), 256):
        yield from pool.map(one, rows[start : start + 256])
