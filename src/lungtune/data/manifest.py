"""The frozen split: which case is in which part, hashed, as one JSON file.

The hash covers classes, parts (case id, label, group, image sha1), left-out cases, seed and folds, and the masks'
sha1 if any case has a mask. It does not cover the source's spelling or where the files lie, so the same data in
another folder has the same hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lungtune.core.io import write_atomic
from lungtune.errors import DataError

PARTS = ("train", "validation", "test")
SCHEMA = 1


@dataclass(frozen=True)
class Entries:
    """The cases of one part: columns of equal length.

    Attributes:
        case_id: unique names.
        label: class names.
        group: group names (patient and duplicates joined).
        sha1: the image's digest (`images.digest`).
        path: absolute path of the image.
        mask: absolute path of the lung mask, or None.
        mask_sha1: of the mask file's bytes, or None.
    """

    case_id: tuple[str, ...]
    label: tuple[str, ...]
    group: tuple[str, ...]
    sha1: tuple[str, ...]
    path: tuple[str, ...]
    mask: tuple[str | None, ...] = ()
    mask_sha1: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mask", "mask_sha1"):  # manifests from before there were masks have neither column
            object.__setattr__(self, name, getattr(self, name) or (None,) * len(self.case_id))

    def __len__(self) -> int:
        return len(self.case_id)


@dataclass(frozen=True)
class Manifest:
    """A frozen split.

    Attributes:
        classes: in label order; a label's number is its position.
        parts: `train`, `validation`, `test`; a part may be empty.
        excluded: case id -> why it is in no part.
        seed: of the draw.
        folds: number of folds.
        fold: which fold is validation.
        source: the data source as the user wrote it.
        notes: one sentence per decision taken.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, Entries]
    excluded: Mapping[str, str]
    seed: int
    folds: int
    fold: int
    source: str
    notes: tuple[str, ...]

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the canonical content."""
        rows = {part: sorted(zip(e.case_id, e.label, e.group, e.sha1, strict=True)) for part, e in self.parts.items()}
        content = {
            "schema": SCHEMA,
            "classes": self.classes,
            "parts": rows,
            "excluded": dict(self.excluded),
            "seed": self.seed,
            "folds": self.folds,
            "fold": self.fold,
        }
        if self.masked:
            content["masks"] = {part: sorted(masks(entries).items()) for part, entries in self.parts.items()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def train_hash(self) -> str:
        """Hex SHA-256 of the classes and the training part alone: who may be seen by whatever is made from it."""
        train = self.parts["train"]
        rows = sorted(zip(train.case_id, train.label, train.group, train.sha1, strict=True))
        text = json.dumps({"classes": self.classes, "train": rows}, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def masked(self) -> bool:
        """Whether any case has a mask."""
        return any(masks(entries) for entries in self.parts.values())

    def matches(self, digest: str) -> bool:
        """Tell whether `digest` is this split's hash, or was before its masks were known."""
        return digest in (self.hash, self.without_masks().hash)

    def without_masks(self) -> Manifest:
        """Return the same split of the same images, without their masks."""
        return replace(self, parts={part: replace(e, mask=(), mask_sha1=()) for part, e in self.parts.items()})

    def save(self, path: Path, *, audit: Mapping[str, Any] | None = None) -> None:
        """Write JSON atomically, with the audit's `to_dict()` beside the split if given."""
        content = {"schema": SCHEMA, "hash": self.hash, **asdict(self), "audit": audit}
        write_atomic(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read and verify a saved manifest.

        Raises:
            DataError: see `read`.
        """
        return cls.read(path)[0]

    @classmethod
    def read(cls, path: Path) -> tuple[Manifest, dict[str, Any] | None]:
        """Read a saved manifest and the audit saved with it.

        Raises:
            DataError: no such file, not a manifest, or its content does not match its hash.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise DataError(f"{path} must be a split manifest of schema {SCHEMA}, but got {content['schema']!r}.")
            parts = {
                part: Entries(**{name: tuple(column) for name, column in content["parts"][part].items()})
                for part in PARTS
            }
            manifest = cls(
                classes=tuple(content["classes"]),
                parts=parts,
                excluded=content["excluded"],
                seed=content["seed"],
                folds=content["folds"],
                fold=content["fold"],
                source=content["source"],
                notes=tuple(content["notes"]),
            )
            claimed, audit = content["hash"], content.get("audit")
        except FileNotFoundError:
            raise DataError(f"The split manifest {path} does not exist.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} must be a split manifest, but it is not: {why}.") from error
        if claimed != manifest.hash:
            raise DataError(
                f"{path} must not be edited, but its content has hash {manifest.hash[:12]} not {str(claimed)[:12]}."
            )
        return manifest, audit

    def verify(self, other: Manifest) -> None:
        """Make sure that `other` is the same split of the same images, and has the same masks if this has any.

        Raises:
            DataError: it is not; the message names the first differences.
        """
        if self.hash == (other if self.masked else other.without_masks()).hash:
            return
        mine, theirs = self._images(), other._images()
        changed = sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])
        details = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (
                ("images are missing", sorted(mine.keys() - theirs.keys())),
                ("images are new", sorted(theirs.keys() - mine.keys())),
                ("images changed their content, label, group, part or mask", changed),
            )
            if names
        ]
        told = "; ".join(details) or "seed, folds, classes or left-out cases differ"
        raise DataError(
            f"The split must be the one the study began with ({self.hash[:12]}), but got {other.hash[:12]}: {told}."
        )

    def _images(self) -> dict[str, tuple[str | None, ...]]:
        return {
            name: (part, *rest)
            for part, e in self.parts.items()
            for name, *rest in zip(e.case_id, e.label, e.group, e.sha1, e.mask_sha1, strict=True)
        }


def masks(entries: Entries) -> dict[str, str]:
    """Return case id -> sha1 of its mask, for the cases that have one."""
    return {name: sha1 for name, sha1 in zip(entries.case_id, entries.mask_sha1, strict=True) if sha1}
