"""The files of a bank of synthetic images: written so that nothing half-written ever counts, read as they are."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lungtune.core.io import fsync_folder, waiting, write_atomic
from lungtune.errors import DataError

_KINDS = {"key": str, "generator": dict, "classes": list, "train_hash": str, "size": int, "seed": int, "about": dict}
_LIST, _LOCK = "images.jsonl", ".lock"


@dataclass(frozen=True)
class Item:
    """An image to put in: class name, index, the caption it was made from, its seed, pixels uint8 `(H, W)`."""

    label: str
    index: int
    caption: str
    seed: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Entry:
    """A finished image.

    Attributes:
        label: class name.
        index: place within its class.
        file: relative to the bank.
        caption: what it was made from.
        seed: its own.
        sha256: of the file's bytes.
        sha1: of the same, by which the pixel store knows images.
    """

    label: str
    index: int
    file: str
    caption: str
    seed: int
    sha256: str
    sha1: str

    def flaw(self, folder: Path) -> str:
        """Read the file again and say what is wrong with it; empty when nothing is."""
        try:
            data = (folder / self.file).read_bytes()
        except OSError as error:
            return "it is gone" if isinstance(error, FileNotFoundError) else f"it can't be read: {error.strerror}"
        return "" if hashlib.sha256(data).hexdigest() == self.sha256 else "its content has changed"


def check(values: Mapping[str, Any]) -> None:
    """Make sure that a bank's description has values of the right kinds.

    Raises:
        KeyError, ValueError: it has not.
    """
    wrong = [name for name, kind in _KINDS.items() if not isinstance(values[name], kind)]
    if wrong or not values["classes"] or values["size"] < 1:
        raise ValueError(f"{', '.join(wrong) or 'classes, size'} can't be read")


def listed(folder: Path) -> list[Entry]:
    """Return the finished images in the order they were finished; a torn last line does not count.

    Raises:
        DataError: a line before the last is damaged.
    """
    lines = _sound(folder).split(b"\n")[:-1]
    return [_entry(folder, number, line) for number, line in enumerate(lines, start=1)]


def _sound(folder: Path) -> bytes:
    """The list up to the end of its last whole line."""
    try:
        raw = (folder / _LIST).read_bytes()
    except FileNotFoundError:
        return b""
    return raw[: raw.rfind(b"\n") + 1]


def _entry(folder: Path, number: int, line: bytes) -> Entry:
    try:
        content = json.loads(line)
        names = ("class", "index", "file", "caption", "seed", "sha256", "sha1")
        found = Entry(*(content[name] for name in names))
        if not isinstance(found.index, int) or not all(isinstance(t, str) for t in (found.label, found.file)):
            raise ValueError("class, index or file can't be read")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _LIST}:{number}: every line must describe a synthetic image, but this one does not; delete "
            "the line, and its image is made anew."
        ) from error
    return found


def add(folder: Path, classes: Sequence[str], items: Sequence[Item]) -> None:
    """Write images, then their lines; see `Bank.add`."""
    with writing(folder):
        sound = _sound(folder)
        known = {(entry.label, entry.index) for entry in listed(folder)}
        fresh = {(item.label, item.index): item for item in items if (item.label, item.index) not in known}
        made = [(item, f"images/{classes.index(item.label)}/{item.index}.png") for item in fresh.values()]
        files = {file: _png(item.pixels) for item, file in made}
        lines = b"".join(_line(item, file, files[file]) for item, file in made)
        with room(folder, f"{len(made)} images", sum(map(len, files.values())) + len(lines)):
            try:
                for file, data in files.items():
                    write_atomic(folder / file, data, sync_folder=False)
                for parent in {(folder / file).parent for file in files}:
                    fsync_folder(parent)
                _append(folder, len(sound), lines)
            except OSError:
                for file in files:
                    (folder / file).unlink(missing_ok=True)
                    for draft in (folder / file).parent.glob(f".{Path(file).name}.*.tmp"):
                        draft.unlink()
                raise


def _append(folder: Path, end: int, lines: bytes) -> None:
    """Add lines behind the last whole one; what was torn goes, and so do these when they can't be written."""
    with (folder / _LIST).open("ab") as stream:
        stream.truncate(end)
        try:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(end)
            raise
    fsync_folder(folder)


def remove(folder: Path, damaged: Callable[[Entry], bool]) -> list[Entry]:
    """Take the entries that `damaged` names off the list; return them."""
    with writing(folder):
        lines = _sound(folder).splitlines(keepends=True)
        judged = [(line, entry, damaged(entry)) for line, entry in zip(lines, listed(folder), strict=True)]
        dropped = [entry for _, entry, bad in judged if bad]
        if dropped:
            with room(folder, "its list", len(lines) * 256):
                write_atomic(folder / _LIST, b"".join(line for line, _, bad in judged if not bad))
        return dropped


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def _line(item: Item, file: str, data: bytes) -> bytes:
    content = {"file": file, "class": item.label, "index": item.index, "caption": item.caption, "seed": item.seed}
    content |= {"sha256": hashlib.sha256(data).hexdigest()}
    content |= {"sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a bank; others wait.

    Raises:
        DataError: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with room(folder, "its lock", 0):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(waiting(folder / _LOCK, f"writes to the bank {folder}", reentrant=True))
        yield


@contextlib.contextmanager
def room(folder: Path, what: str, size: int) -> Iterator[None]:
    """Turn an error of the disk into a sentence: what was to be written, how many bytes, how much is free."""
    try:
        yield
    except OSError as error:
        place = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(place).free
        raise DataError(
            f"the bank {folder} must take {size / 1e6:,.1f} MB for {what}, but: {error.strerror} ({free / 1e6:,.1f} MB "
            "are free there); nothing half-written counts: make room, then run the same command again."
        ) from error


def foreign(folder: Path) -> bool:
    """Whether a folder holds anything but what a bank begins with."""
    return any(each.name != _LOCK for each in folder.iterdir())
