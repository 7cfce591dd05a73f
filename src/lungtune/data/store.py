"""Decoded pixels in memory-mapped files, one per (list of images, size), shared by all processes.

`pixels/<name>-<size>-<hash>.u8` holds the raw uint8 array `(N, size, size)`; the sidecar of the same name with
`.json` says which images it holds and the Adler-32 of each MiB. A store is built under a file lock into a temporary
file and renamed when complete, its sidecar last. Whatever does not match at opening is rebuilt. Rows that another
store of the same size holds already are copied, so an image is decoded once per size whatever the split.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lungtune.core import paths as places
from lungtune.data import cache
from lungtune.data.images import UnreadableImageError, decoders, letterboxed, read, sha1
from lungtune.data.manifest import write_atomically
from lungtune.data.progress import note, track
from lungtune.errors import DataError

VERSION = 1
"""Raise when decoding changes: older stores are then never opened."""

_BLOCK = 1 << 20
_FULL_CHECK = 256  # blocks; a larger store has this many, evenly spread, checked at opening


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
    file = _file(hashes, size, name)
    pixels = _open(file, hashes, size, quiet=True)
    if pixels is not None:
        return pixels
    cache.ready(file.parent)
    with _locked(file):
        pixels = _open(file, hashes, size, quiet=False)
        if pixels is None:
            _build(file, paths, hashes, size, name)
            pixels = _open(file, hashes, size, quiet=False)
    if pixels is None:
        raise DataError(f"The pixels just written to {file} cannot be read back: is the disk full or failing?")
    return pixels


def _file(hashes: Sequence[str], size: int, name: str) -> Path:
    key = hashlib.sha256("\n".join([str(VERSION), str(size), *hashes]).encode()).hexdigest()[:16]
    return places.cache() / "pixels" / f"{name}-{size}-{key}.u8"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        note(f"Waiting for another process that decodes {file.stem} ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(file: Path, hashes: Sequence[str], size: int, *, quiet: bool) -> np.ndarray | None:
    """Return the memory map, or None when there is none or it is damaged (said once, when not `quiet`)."""
    wrong = _flaw(file, hashes, size)
    if wrong == "":
        return np.memmap(file, np.uint8, mode="r", shape=(len(hashes), size, size))
    if wrong is not None and not quiet:
        note(f"The pixel store {file.name} is damaged ({wrong}); decoding it anew.")
    return None


def _flaw(file: Path, hashes: Sequence[str], size: int) -> str | None:
    """Return what is wrong with a store: empty when nothing is, None when it does not exist."""
    sidecar = file.with_suffix(".json")
    if not file.exists() and not sidecar.exists():
        return None
    about = _about(sidecar)
    if about is None:
        return "its description is missing or torn"
    want = {"version": VERSION, "shape": [len(hashes), size, size], "images": list(hashes)}
    if any(about.get(key) != value for key, value in want.items()):
        return "it describes other images"
    try:
        if file.stat().st_size != len(hashes) * size * size:
            return "it has the wrong length"
        sums = about.get("adler32", [])
        with file.open("rb") as stream:
            for block in _sample(len(sums)):
                stream.seek(block * _BLOCK)
                if zlib.adler32(stream.read(_BLOCK)) != sums[block]:
                    return "its checksum is wrong"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def _sample(blocks: int) -> Iterator[int]:
    count = min(blocks, _FULL_CHECK)
    return (round(i * (blocks - 1) / max(1, count - 1)) for i in range(count))


def _about(sidecar: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _build(file: Path, paths: Sequence[str], hashes: Sequence[str], size: int, name: str) -> None:
    sidecar, temporary = file.with_suffix(".json"), file.with_suffix(".tmp")
    sidecar.unlink(missing_ok=True)
    _reserve(temporary, len(paths) * size * size)
    pixels = np.memmap(temporary, np.uint8, mode="r+", shape=(len(paths), size, size))
    missing = _copy_known(pixels, hashes, size, file)
    with decoders() as pool:
        for row, image in track(_decode(pool, paths, hashes, size, missing), len(missing), f"Decoding {name} images"):
            pixels[row] = image
    pixels.flush()
    del pixels
    with temporary.open("r+b") as stream:
        sums = []
        while block := stream.read(_BLOCK):
            sums.append(zlib.adler32(block))
        os.fsync(stream.fileno())
    os.replace(temporary, file)
    about = {"version": VERSION, "shape": [len(paths), size, size], "adler32": sums, "images": list(hashes)}
    write_atomically(sidecar, json.dumps(about).encode())


def _reserve(file: Path, length: int) -> None:
    """Make a file of `length` bytes whose blocks exist: writing through a map to a full disk would kill the process.

    Raises:
        DataError: the disk is full or the cache may not be written.
    """
    try:
        with file.open("wb") as stream:
            stream.truncate(length)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, length)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise DataError(
            f"The cache {file.parent} must take {length / 1e6:,.0f} MB of decoded pixels, but: {error.strerror}. "
            f"{cache.HINT}"
        ) from error


def _copy_known(pixels: np.ndarray, hashes: Sequence[str], size: int, file: Path) -> list[int]:
    """Fill rows from sound stores of the same size; return the rows that must be decoded."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(hashes):
        rows.setdefault(digest, []).append(row)
    for sidecar in sorted(file.parent.glob(f"*-{size}-*.json")):
        about = _about(sidecar)
        if about is None or about.get("version") != VERSION or rows.keys().isdisjoint(held := about.get("images", [])):
            continue
        other = _open(sidecar.with_suffix(".u8"), held, size, quiet=True)
        if other is None:
            continue
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
