"""A bank of synthetic images: made from one training fold, class by class, for trials to train on beside real ones.

A folder. `bank.json` says what decides the images; it is written first and never changed. `images/<class>/<index>.png`
are 8-bit gray, square; an image is a function of the bank's seed, its class and its index. `images.jsonl` has a line
for each finished image, appended once the image itself is safe on disk, so that making images can stop anywhere and go
on.

Images of a class are taken in the order of their index, from 0 up to the first one that is missing. So a bank can grow
under studies that train on its first images, and larger amounts hold smaller ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lungtune.core import synthetic
from lungtune.core.io import write_atomic
from lungtune.core.space import SearchSpace
from lungtune.data import bank_files
from lungtune.data.bank_files import Entry, Item
from lungtune.data.manifest import Manifest
from lungtune.errors import DataError

SCHEMA = 1
_DESCRIPTION = "bank.json"
_MAKE = "python scripts/synthesize.py"


@dataclass(frozen=True)
class Bank:
    """A bank as it is, or its first images (:meth:`first`), which later ones do not change.

    Attributes:
        folder: where it lies.
        key: hex, of all that decides the images.
        generator: what made them: `recipe` (its name), `fingerprint`, `family`, `base`, `params`, ...
        classes: names, in the order of the data set's labels.
        train_hash: `Manifest.train_hash` of the fold the generator learned from.
        size: side of the images in pixels.
        seed: everything random follows from it, the class and the index.
        about: whatever else should be known, such as the style of the captions.
        limits: most images of each class that are taken; None: all.
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
    ) -> Bank:
        """Begin a bank, or open the one of the same key that is there already.

        Raises:
            DataError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder).absolute()
        made = cls(folder, key, dict(generator), tuple(classes), train_hash, size, seed, dict(about or {}))
        with bank_files.writing(folder):
            if (folder / _DESCRIPTION).exists():
                found = cls.open(folder)
                if found.key != key:
                    raise DataError(
                        f"{folder} holds a bank of other synthetic images ({found.key[:12]}, not {key[:12]}); name "
                        "another folder, or delete that one."
                    )
                return found
            if bank_files.foreign(folder):
                raise DataError(f"{folder} must be empty to hold a bank of synthetic images, but holds other files.")
            plain = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.name not in _OWN}
            plain |= {"schema": SCHEMA, "created": time.strftime("%Y-%m-%d %H:%M:%S"), "versions": dict(versions or {})}
            with bank_files.room(folder, "its description", 4096):
                write_atomic(folder / _DESCRIPTION, json.dumps(plain, indent=1, ensure_ascii=False).encode())
        return made

    @classmethod
    def open(cls, folder: Path) -> Bank:
        """Open a bank for reading or for more images.

        Raises:
            DataError: the folder is no bank, its description is damaged, or a newer version wrote it.
        """
        folder = Path(folder).expanduser().absolute()
        file = folder / _DESCRIPTION
        if not file.is_file():
            what = "has no bank.json" if folder.is_dir() else "does not exist"
            raise DataError(f"{folder} must be a bank of synthetic images, but {what}; make one with: {_MAKE} RECIPE")
        try:
            content = json.loads(file.read_bytes())
            schema = content.get("schema")
            if schema != SCHEMA:
                raise DataError(f"{file} must be of schema {SCHEMA}, but is of schema {schema!r}; update lungtune.")
            values = {f.name: content[f.name] for f in dataclasses.fields(cls) if f.name not in _OWN}
            bank_files.check(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} must describe a bank of synthetic images, but is damaged ({type(error).__name__}: {error}); "
                f"put it back, or make the bank anew in another folder with: {_MAKE} RECIPE"
            ) from error
        return cls(folder, **{**values, "classes": tuple(values["classes"])})

    @classmethod
    def again(cls, about: Mapping[str, Any], folder: Path | None = None) -> Bank:
        """Open the images that a study or a recipe trains on; the bank may have grown since.

        Args:
            about: what `to_dict` returned then.
            folder: where the bank lies now, if not where it was.

        Raises:
            DataError: there is no such bank any more, it is another one, or those images changed.
        """
        place = Path(folder or about["path"])
        if folder is None and not (place / _DESCRIPTION).is_file():
            raise DataError(
                f"the bank of synthetic images {about['key'][:12]} must be at {place}, but is not there; put it back "
                "(scripts/retrain.py takes --bank DIR where it lies elsewhere)."
            )
        found = cls.open(place)
        if found.key != about["key"]:
            raise DataError(
                f"{place} must be the bank of synthetic images {about['key'][:12]}, but is {found.key[:12]}: other "
                "images, so scores can't be compared."
            )
        found.refuse_fewer(about["counts"], "what was trained on")
        taken = found.first(about["counts"])
        if taken.hash != about["hash"]:
            raise DataError(
                f"the images in the bank {place} must be those that were trained on ({about['hash'][:12]}), but some "
                f"were made anew since ({taken.hash[:12]}): scores can't be compared."
            )
        return taken

    def to_dict(self) -> dict[str, Any]:
        """Return what names these very images, for a journal or a recipe; see `again`."""
        return {"path": str(self.folder), "key": self.key, "hash": self.hash, "counts": self.counts()}

    def first(self, counts: Mapping[str, int]) -> Bank:
        """Return the bank's first so many images of each class."""
        return dataclasses.replace(self, limits=dict(counts))

    def entries(self, label: str) -> tuple[Entry, ...]:
        """Return the images of a class in the order of their index, up to the first one that is missing."""
        return self._entries[label]

    @cached_property
    def _entries(self) -> dict[str, tuple[Entry, ...]]:
        listed = {(entry.label, entry.index): entry for entry in bank_files.listed(self.folder)}
        found: dict[str, tuple[Entry, ...]] = {}
        for label in self.classes:
            most = len(listed) if self.limits is None else self.limits.get(label, 0)
            index = next((index for index in range(most) if (label, index) not in listed), most)
            found[label] = tuple(listed[label, each] for each in range(index))
        return found

    def counts(self) -> dict[str, int]:
        """Return how many images of each class can be taken."""
        return {label: len(self._entries[label]) for label in self.classes}

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the images that can be taken, by class and index."""
        rows = [[label, entry.index, entry.sha256] for label in self.classes for entry in self._entries[label]]
        return hashlib.sha256(json.dumps([self.key, rows], ensure_ascii=True).encode()).hexdigest()

    def missing(self, per_class: int | Mapping[str, int]) -> list[tuple[str, int]]:
        """Return (class, index) of the images that are still to be made, class by class."""
        listed = {(entry.label, entry.index) for entry in bank_files.listed(self.folder)}
        most = {label: per_class if isinstance(per_class, int) else per_class.get(label, 0) for label in self.classes}
        wanted = ((label, index) for label in self.classes for index in range(most[label]))
        return [each for each in wanted if each not in listed]

    def add(self, items: Sequence[Item]) -> None:
        """Put a batch of finished images in; what is there already stays as it is. Writers wait for one another.

        Raises:
            DataError: the disk is full or the folder can't be written; then none of the batch counts.
            ValueError: an unknown class, or pixels that are not uint8 `(size, size)`.
        """
        for item in items:
            if item.label not in self.classes or item.index < 0:
                raise ValueError(f"an image must be of {', '.join(self.classes)}, from 0 up, but got {item}")
            if item.pixels.shape != (self.size, self.size) or item.pixels.dtype != "uint8":
                got = f"{item.pixels.dtype} {item.pixels.shape}"
                raise ValueError(f"pixels must be uint8 ({self.size}, {self.size}), but got {got}")
        bank_files.add(self.folder, self.classes, items)
        self._forget()

    def verify(self) -> None:
        """Read every image that can be taken and compare it with its hash.

        Raises:
            DataError: one is gone or altered.
        """
        for label in self.classes:
            for entry in self._entries[label]:
                flaw = entry.flaw(self.folder)
                if flaw:
                    raise DataError(
                        f"the synthetic image {self.folder / entry.file} must be the one that was made, but {flaw}; "
                        f"put it back, or let '{self._command()}' make it anew."
                    )

    def drop_damaged(self) -> list[Entry]:
        """Strike the images that are gone or altered off the list, so that they are made anew; return them."""
        dropped = bank_files.remove(self.folder, lambda entry: bool(entry.flaw(self.folder)))
        self._forget()
        return dropped

    def take(self, manifest: Manifest, space: SearchSpace) -> Bank:
        """Return the images that trials of a search, or of a recipe, may want, after making sure of them.

        Raises:
            DataError: they are of another training fold, too few, gone or altered.
        """
        self.refuse_unless(manifest)
        real = Counter(manifest.parts["train"].label)
        needed = synthetic.needed(space, [real[label] for label in self.classes])
        taken = self.first(dict(zip(self.classes, needed, strict=True)))
        self.refuse_fewer(taken.limits or {}, f"synthetic_ratio {synthetic.wanted(space):g}")
        taken.verify()
        return taken

    def refuse_unless(self, manifest: Manifest) -> None:
        """Make sure that the images were made from this split's training part.

        Raises:
            DataError: they were made for other classes, or from images that may be validation's or test's here.
        """
        if self.classes != manifest.classes:
            raise DataError(
                f"the bank {self.folder} must be of the data's classes ({', '.join(manifest.classes)}), but is of "
                f"{', '.join(self.classes)}; make one for this data with: {_MAKE} RECIPE"
            )
        if self.train_hash != manifest.train_hash:
            raise DataError(
                f"the bank {self.folder} was made from another training fold ({self.train_hash[:12]}) than this "
                f"study's ({manifest.train_hash[:12]}), so its images may show validation or test patients; make one "
                f"for this data with: {_MAKE} RECIPE"
            )

    def refuse_fewer(self, needed: Mapping[str, int], why: str) -> None:
        """Make sure that there are so many images of each class.

        Args:
            needed: by class.
            why: what needs them, such as `synthetic_ratio 2`.

        Raises:
            DataError: there are fewer; the message has the numbers and the command that makes more.
        """
        held = self.counts()
        short = {label: count for label, count in needed.items() if held.get(label, 0) < count}
        if short:
            told = ", ".join(f"{count} of {label} (it has {held.get(label, 0)})" for label, count in short.items())
            raise DataError(
                f"the bank {self.folder} holds too few synthetic images: {why} needs {told}; make more with: "
                f"{self._command(max(needed.values()))}"
            )

    def _command(self, per_class: int | None = None) -> str:
        """The command that goes on making images."""
        named = self.about.get("command") or f"{_MAKE} {self.generator.get('recipe') or 'RECIPE'} --out {self.folder}"
        return named if per_class is None else f"{named} --per-class {per_class}"

    def _forget(self) -> None:
        for name in ("_entries", "hash"):
            self.__dict__.pop(name, None)


_OWN = ("folder", "limits")
"""What a description does not hold."""
