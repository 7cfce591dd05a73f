"""Bank of synthetic images, sampled class by class from a generator of one training fold.

A bank is a folder. `bank.json` has everything the images depend on; written first, never changed.
`images/<class>/<index>.png` are 8-bit gray, square; an image is a function of the bank's seed, its class and its index.
`images.jsonl` has a line per finished image, appended once the image is durable on disk, so that generation can be
interrupted and resumed at any point.

Images of a class are used in order of their index, from 0 to the first missing one. Banks can therefore grow while
studies train on their first images, and a larger number of images includes a smaller one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lungtune.core import contained, paths
from lungtune.core.io import fsync_folder, waiting, write_atomic
from lungtune.data.manifest import Manifest
from lungtune.errors import DataError

SCHEMA = 1
DESCRIPTION = "bank.json"
_MAKE = "lungtune synthesize"
_OWN = ("folder", "limits")
"""Attributes that are not part of a description."""
_KINDS = {"key": str, "generator": dict, "classes": list, "train_hash": str, "size": int, "seed": int, "about": dict}
_LIST, _LOCK = "images.jsonl", ".lock"


@dataclass(frozen=True)
class Item:
    """An image to add.

    Attributes:
        label: class name.
        index: within its class, >= 0.
        caption: its text prompt.
        seed: of its noise.
        pixels: uint8 `(H, W)`.
    """

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
        index: within its class.
        file: path relative to the bank.
        caption: its text prompt.
        seed: of its noise.
        sha256: of the file's bytes.
        sha1: of the file's bytes; key of the image in the pixel store.
    """

    label: str
    index: int
    file: str
    caption: str
    seed: int
    sha256: str
    sha1: str

    def flaw(self, folder: Path) -> str:
        """Read and hash the file; return its flaw as a phrase, empty if there is none."""
        try:
            data = (folder / self.file).read_bytes()
        except OSError as error:
            return "it is gone" if isinstance(error, FileNotFoundError) else f"it can't be read: {error.strerror}"
        return "" if hashlib.sha256(data).hexdigest() == self.sha256 else "its content has changed"


@dataclass(frozen=True)
class SyntheticBank:
    """A bank, or a view of its first images (:meth:`first`), which are fixed while the bank grows.

    Attributes:
        folder: absolute path.
        key: hex hash of everything the images depend on.
        generator: its provenance: `recipe` (its name), `fingerprint`, `family`, `base`, `params`, ...
        classes: names, in the order of the data set's labels.
        train_hash: `Manifest.train_hash` of the generator's training fold.
        size: side of the images in pixels.
        seed: an image's noise is a function of it, the class and the index.
        about: further provenance, such as the source and the command.
        limits: largest number of images of each class; None for all.
    """

    folder: Path
    key: str
    generator: Mapping[str, Any]
    classes: tuple[str, ...]
    train_hash: str
    size: int
    seed: int
    about: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        key: str,
        generator: Mapping[str, Any],
        classes: Sequence[str],
        train_hash: str,
        size: int,
        seed: int,
        about: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> SyntheticBank:
        """Create a bank, or open the existing one of the same key.

        Raises:
            DataError: the folder has other content, or cannot be written.
        """
        folder = Path(folder).absolute()
        bank = cls(folder, key, dict(generator), tuple(classes), train_hash, size, seed, dict(about or {}))
        with _writing(folder):
            if (folder / DESCRIPTION).exists():
                existing = cls.open(folder)
                if existing.key != key:
                    raise DataError(
                        f"{folder} holds a bank of other synthetic images ({existing.key[:12]}, not {key[:12]}); name "
                        "another folder, or delete that one."
                    )
                return existing
            if _foreign(folder):
                raise DataError(f"{folder} must be empty to hold a bank of synthetic images, but holds other files.")
            plain = {f.name: getattr(bank, f.name) for f in dataclasses.fields(bank) if f.name not in _OWN}
            plain |= {"schema": SCHEMA, "created": time.strftime("%Y-%m-%d %H:%M:%S"), "versions": dict(versions or {})}
            with _room(folder, "its description", 4096):
                write_atomic(folder / DESCRIPTION, json.dumps(plain, indent=1, ensure_ascii=False).encode())
        return bank

    @classmethod
    def open(cls, folder: Path) -> SyntheticBank:
        """Open a bank for reading or for adding images.

        Raises:
            DataError: the folder is not a bank, its description is damaged, or a newer version wrote it.
        """
        folder = paths.expanded(folder).absolute()
        file = folder / DESCRIPTION
        if not file.is_file():
            what = "has no bank.json" if folder.is_dir() else "does not exist"
            raise DataError(f"{folder} must be a bank of synthetic images, but {what}; make one with: {_MAKE} RECIPE")
        try:
            content = json.loads(file.read_bytes())
            schema = content.get("schema")
            if schema != SCHEMA:
                raise DataError(f"{file} must be of schema {SCHEMA}, but is of schema {schema!r}; update lungtune.")
            values = {f.name: content[f.name] for f in dataclasses.fields(cls) if f.name not in _OWN}
            _check(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} must describe a bank of synthetic images, but is damaged ({type(error).__name__}: {error}); "
                f"put it back, or create the bank again in another folder with: {_MAKE} RECIPE"
            ) from error
        if (link := contained.link_out(folder)) is not None:
            raise DataError(f"{link} leads out of the bank {folder}, whose images must lie inside; copy them there.")
        return cls(folder, **{**values, "classes": tuple(values["classes"])})

    @classmethod
    def reopen(cls, about: Mapping[str, Any], folder: Path | None = None) -> SyntheticBank:
        """Open the images of an existing study or recipe; the bank may have grown since.

        Args:
            about: result of `to_dict` at that time.
            folder: current location of the bank, if it was moved.

        Raises:
            DataError: the bank is missing, is another one, or those images changed.
        """
        place = Path(folder or about["path"])
        if folder is None and not (place / DESCRIPTION).is_file():
            raise DataError(
                f"the bank of synthetic images {about['key'][:12]} must be at {place}, but is not there; put it back "
                "(lungtune retrain takes --bank DIR if it was moved)."
            )
        bank = cls.open(place)
        if bank.key != about["key"]:
            raise DataError(
                f"{place} must be the bank of synthetic images {about['key'][:12]}, but is {bank.key[:12]}: other "
                "images, so scores can't be compared."
            )
        bank.check_counts(about["counts"], "what was trained on")
        taken = bank.first(about["counts"])
        if taken.hash != about["hash"]:
            raise DataError(
                f"the images in the bank {place} must be those that were trained on ({about['hash'][:12]}), but some "
                f"were regenerated since ({taken.hash[:12]}): scores can't be compared."
            )
        return taken

    def to_dict(self) -> dict[str, Any]:
        """Return the identity of these images for a journal or a recipe; see `reopen`."""
        return {"path": str(self.folder), "key": self.key, "hash": self.hash, "counts": self.counts()}

    def first(self, counts: Mapping[str, int]) -> SyntheticBank:
        """Return a view of the bank's first `counts` images of each class."""
        return dataclasses.replace(self, limits=dict(counts))

    def entries(self, label: str) -> tuple[Entry, ...]:
        """Return the images of a class in order of their index, up to the first missing one, at most `limits`."""
        return self._entries[label]

    @cached_property
    def _entries(self) -> dict[str, tuple[Entry, ...]]:
        listed = {(entry.label, entry.index): entry for entry in _listed(self.folder)}
        entries: dict[str, tuple[Entry, ...]] = {}
        for label in self.classes:
            most = len(listed) if self.limits is None else self.limits.get(label, 0)
            index = next((index for index in range(most) if (label, index) not in listed), most)
            entries[label] = tuple(listed[label, each] for each in range(index))
        return entries

    def counts(self) -> dict[str, int]:
        """Return the number of usable images of each class."""
        return {label: len(self._entries[label]) for label in self.classes}

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the usable images, by class and index."""
        rows = [[label, entry.index, entry.sha256] for label in self.classes for entry in self._entries[label]]
        return hashlib.sha256(json.dumps([self.key, rows], ensure_ascii=True).encode()).hexdigest()

    def missing(self, per_class: int | Mapping[str, int]) -> list[tuple[str, int]]:
        """Return (class, index) of the images that `per_class` images of each class lack, class by class."""
        listed = {(entry.label, entry.index) for entry in _listed(self.folder)}
        most = {label: per_class if isinstance(per_class, int) else per_class.get(label, 0) for label in self.classes}
        wanted = ((label, index) for label in self.classes for index in range(most[label]))
        return [each for each in wanted if each not in listed]

    def add(self, items: Sequence[Item]) -> None:
        """Add a batch of finished images; existing images are unchanged. Concurrent writers are serialised.

        Raises:
            DataError: the disk is full or the folder can't be written; then none of the batch is added.
            ValueError: an unknown class, or pixels that are not uint8 `(size, size)`.
        """
        for item in items:
            if item.label not in self.classes or item.index < 0:
                raise ValueError(f"an image must be of {', '.join(self.classes)}, from 0 up, but got {item}")
            if item.pixels.shape != (self.size, self.size) or item.pixels.dtype != "uint8":
                got = f"{item.pixels.dtype} {item.pixels.shape}"
                raise ValueError(f"pixels must be uint8 ({self.size}, {self.size}), but got {got}")
        _add(self.folder, self.classes, items)
        self._forget()

    def verify(self) -> None:
        """Compare every usable image with its hash.

        Raises:
            DataError: one is missing or altered.
        """
        for label in self.classes:
            for entry in self._entries[label]:
                flaw = entry.flaw(self.folder)
                if flaw:
                    raise DataError(
                        f"the synthetic image {self.folder / entry.file} must be the generated one, but {flaw}; "
                        f"put it back, or regenerate it with '{self._command()}'."
                    )

    def drop_damaged(self) -> list[Entry]:
        """Remove missing or altered images from the list, so that they are regenerated; return them."""
        dropped = _remove(self.folder, lambda entry: bool(entry.flaw(self.folder)))
        self._forget()
        return dropped

    def take(self, manifest: Manifest, needed: Mapping[str, int], why: str) -> SyntheticBank:
        """Return the bank's first `needed` images of each class, verified.

        Args:
            manifest: the split of the study that trains on them.
            needed: number of images of each class.
            why: the setting that needs them, such as `synthetic_ratio 2`.

        Raises:
            DataError: they are of another training fold, too few, missing or altered.
        """
        self.check_training_fold(manifest)
        taken = self.first({label: needed.get(label, 0) for label in self.classes})
        self.check_counts(taken.limits or {}, why)
        taken.verify()
        return taken

    def check_training_fold(self, manifest: Manifest) -> None:
        """Verify that the images derive from this split's training part.

        Raises:
            DataError: they have other classes, or derive from images that may be in validation or test here.
        """
        if self.classes != manifest.classes:
            raise DataError(
                f"the bank {self.folder} must be of the data's classes ({', '.join(manifest.classes)}), but is of "
                f"{', '.join(self.classes)}; make one for this data with: {_MAKE} RECIPE"
            )
        if self.train_hash != manifest.train_hash:
            raise DataError(
                f"the bank {self.folder} is from another training fold ({self.train_hash[:12]}) than this "
                f"study's ({manifest.train_hash[:12]}), so its images may show validation or test patients; make one "
                f"for this data with: {_MAKE} RECIPE"
            )

    def check_counts(self, needed: Mapping[str, int], why: str) -> None:
        """Verify that there are at least `needed` images of each class.

        Args:
            needed: number of images by class.
            why: the setting that needs them, such as `synthetic_ratio 2`.

        Raises:
            DataError: there are fewer; the message has the numbers and the command that generates more.
        """
        held = self.counts()
        short = {label: count for label, count in needed.items() if held.get(label, 0) < count}
        if short:
            listed = ", ".join(f"{count} of {label} (it has {held.get(label, 0)})" for label, count in short.items())
            raise DataError(
                f"the bank {self.folder} holds too few synthetic images: {why} needs {listed}; make more with: "
                f"{self._command(max(needed.values()))}"
            )

    def _command(self, per_class: int | None = None) -> str:
        """Return the command that generates further images."""
        named = self.about.get("command") or f"{_MAKE} {self.generator.get('recipe') or 'RECIPE'} --out {self.folder}"
        return named if per_class is None else f"{named} --per-class {per_class}"

    def _forget(self) -> None:
        for name in ("_entries", "hash"):
            self.__dict__.pop(name, None)


def _check(values: Mapping[str, Any]) -> None:
    """Verify that a bank's description has values of the right types.

    Raises:
        KeyError: a value is missing.
        ValueError: a value has the wrong type or range.
    """
    wrong = [name for name, kind in _KINDS.items() if not isinstance(values[name], kind)]
    if wrong or not values["classes"] or values["size"] < 1:
        raise ValueError(f"{', '.join(wrong) or 'classes, size'} can't be read")


def _listed(folder: Path) -> list[Entry]:
    """Return the finished images in order of completion; an incomplete last line is ignored.

    Raises:
        DataError: a line before the last is damaged.
    """
    lines = _sound(folder).split(b"\n")[:-1]
    return [_read_entry(folder, number, line) for number, line in enumerate(lines, start=1)]


def _sound(folder: Path) -> bytes:
    """Return the list's bytes up to the end of its last complete line."""
    try:
        raw = (folder / _LIST).read_bytes()
    except FileNotFoundError:
        return b""
    return raw[: raw.rfind(b"\n") + 1]


def _read_entry(folder: Path, number: int, line: bytes) -> Entry:
    try:
        content = json.loads(line)
        names = ("class", "index", "file", "caption", "seed", "sha256", "sha1")
        entry = Entry(*(content[name] for name in names))
        if not isinstance(entry.index, int) or not all(isinstance(t, str) for t in (entry.label, entry.file)):
            raise ValueError("class, index or file can't be read")
        contained.relative(entry.file)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _LIST}:{number}: every line must describe a synthetic image in the folder, but this one "
            f"does not ({error}); delete the line, and its image is regenerated."
        ) from error
    return entry


def _add(folder: Path, classes: Sequence[str], items: Sequence[Item]) -> None:
    """Write images, then their lines; see `SyntheticBank.add`."""
    with _writing(folder):
        sound = _sound(folder)
        known = {(entry.label, entry.index) for entry in _listed(folder)}
        fresh = {(item.label, item.index): item for item in items if (item.label, item.index) not in known}
        named = [(item, f"images/{classes.index(item.label)}/{item.index}.png") for item in fresh.values()]
        files = {file: _png(item.pixels) for item, file in named}
        lines = b"".join(_line(item, file, files[file]) for item, file in named)
        with _room(folder, f"{len(named)} images", sum(map(len, files.values())) + len(lines)):
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
    """Append lines at offset `end`, removing an incomplete line there; undo if writing fails."""
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


def _remove(folder: Path, damaged: Callable[[Entry], bool]) -> list[Entry]:
    """Remove the entries for which `damaged` is True from the list; return them."""
    with _writing(folder):
        lines = _sound(folder).splitlines(keepends=True)
        checked = [(line, entry, damaged(entry)) for line, entry in zip(lines, _listed(folder), strict=True)]
        dropped = [entry for _, entry, bad in checked if bad]
        if dropped:
            with _room(folder, "its list", len(lines) * 256):
                write_atomic(folder / _LIST, b"".join(line for line, _, bad in checked if not bad))
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
def _writing(folder: Path) -> Iterator[None]:
    """Hold a bank's write lock in the ``with`` block; other writers wait.

    Raises:
        DataError: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with _room(folder, "its lock", 0):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(waiting(folder / _LOCK, f"writes to the bank {folder}", reentrant=True))
        yield


@contextlib.contextmanager
def _room(folder: Path, what: str, size: int) -> Iterator[None]:
    """Convert an ``OSError`` in the ``with`` block to a DataError with bank, size (bytes) and free space."""
    try:
        yield
    except OSError as error:
        place = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(place).free
        raise DataError(
            f"the bank {folder} must take {size / 1e6:,.1f} MB for {what}, but: {error.strerror} ({free / 1e6:,.1f} MB "
            "are free there); nothing half-written counts: make room, then run the same command again."
        ) from error


def _foreign(folder: Path) -> bool:
    """True if a folder holds anything but the initial files of a bank."""
    return any(each.name != _LOCK for each in folder.iterdir())
