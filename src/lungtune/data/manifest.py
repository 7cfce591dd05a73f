"""Frozen split: the part of every case, hashed, as one JSON file.

The hash covers classes, parts (case id, label, group, image sha1), left-out cases, seed and folds, and whatever of the
optional columns any case has: the masks' sha1, texts, labels and table values with their names. It does not cover the
source's spelling or where the files lie, so the same data in another folder has the same hash. Nor does it cover
metadata and the number of known patients, which decide no part.

An optional column enters the hash only where a case has it. So data without it keep the hash of before there was such a
column, and :meth:`Manifest.matches` accepts a digest taken before a column was known.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from lungtune.core.fields import UNCERTAIN
from lungtune.core.io import write_atomic
from lungtune.core.locked_part import LockedPart
from lungtune.data import patients
from lungtune.errors import DataError

PARTS = ("train", "validation", "test")
SCHEMA = 1
OPTIONAL = {"mask": ("mask", "mask_sha1"), "text": ("text",), "labels": ("labels",), "table": ("table",)}
"""Field kinds that some data lack -> the columns of ``Entries`` that hold them."""

_COLUMNS = tuple(column for columns in OPTIONAL.values() for column in columns)
Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Entries:
    """The cases of one part: columns of equal length.

    Attributes:
        case_id: unique names.
        label: class names; None in data without classes.
        group: group names (patient and duplicates joined).
        sha1: the digest of the image or volume (`images.digest`).
        path: absolute path of the image or volume.
        mask: absolute path of the lung mask, or None.
        mask_sha1: of the mask file's bytes, or None.
        text: caption or report, or None.
        labels: 0, 1, `UNCERTAIN` or None (unknown) per name in `Manifest.label_names`, or None.
        table: a number or None (unknown) per name in `Manifest.columns`, or None.
        metadata: name (of `lungtune.data.metadata`) -> a text, a number, or None (unknown) per case; without those that
            no case of the data has.
    """

    case_id: tuple[str, ...]
    label: tuple[str | None, ...]
    group: tuple[str, ...]
    sha1: tuple[str, ...]
    path: tuple[str, ...]
    mask: tuple[str | None, ...] = ()
    mask_sha1: tuple[str | None, ...] = ()
    text: tuple[str | None, ...] = ()
    labels: tuple[Numbers | None, ...] = ()
    table: tuple[Numbers | None, ...] = ()
    metadata: Mapping[str, tuple[str | float | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _COLUMNS:  # manifests from before there was a column lack it
            column = getattr(self, name) or (None,) * len(self.case_id)
            if name in ("labels", "table"):  # lists, as read from JSON
                column = tuple(None if row is None else tuple(row) for row in column)
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.case_id)

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """Return `(case id, values of the columns)` of the cases that have the first of them, sorted by case id."""
        every = zip(self.case_id, *(getattr(self, name) for name in columns), strict=True)
        return sorted((row for row in every if row[1] is not None), key=lambda row: row[0])


@dataclass(frozen=True)
class Manifest:
    """A frozen split.

    Attributes:
        classes: in label order; a label's number is its position. Empty in data without classes.
        parts: `train`, `validation`, `test`; a part may be empty.
        excluded: case id -> why it is in no part.
        seed: of the draw.
        folds: number of folds.
        fold: which fold is validation.
        source: the data source as the user wrote it.
        notes: one sentence per decision taken.
        label_names: of the column `labels`.
        columns: of the column `table`.
        kind: `image` or `volume`.
        channels: of a volume; images are read with any requested number.
        patients: number of cases in the parts whose patient is known; None in manifests that don't say.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, Entries]
    excluded: Mapping[str, str]
    seed: int
    folds: int
    fold: int
    source: str
    notes: tuple[str, ...]
    label_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    kind: str = "image"
    channels: int = 1
    patients: int | None = None

    @property
    def unit(self) -> str:
        """Units of parts and intervals: `patients`, `images`, `volumes`, or `patients or images`."""
        known, cases = self.patients, sum(len(entries) for entries in self.parts.values())
        if known is None:  # groups of unknown patients have the name of a case
            names = {*self.excluded, *(case for entries in self.parts.values() for case in entries.case_id)}
            known = sum(group not in names for entries in self.parts.values() for group in entries.group)
        return patients.unit(known, cases, self.kind)

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the canonical content."""
        rows = {
            part: sorted(zip(e.case_id, e.label, e.group, e.sha1, strict=True), key=lambda row: row[0])
            for part, e in self.parts.items()
        }
        content = {
            "schema": SCHEMA,
            "classes": self.classes,
            "parts": rows,
            "excluded": dict(self.excluded),
            "seed": self.seed,
            "folds": self.folds,
            "fold": self.fold,
        }
        if self.kind != "image":
            content |= {"kind": self.kind, "channels": self.channels}
        for name, key, names in (
            ("mask", "masks", None),
            ("text", "texts", None),
            ("labels", "labels", self.label_names),
            ("table", "table", self.columns),
        ):
            if self.has(name):
                columns = {part: entries.rows(OPTIONAL[name][-1]) for part, entries in self.parts.items()}
                content[key] = columns if names is None else {"names": names, **columns}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def train_hash(self) -> str:
        """Hex SHA-256 of the classes and the training part alone: it identifies a generator's training cases."""
        train = self.parts["train"]
        rows = sorted(zip(train.case_id, train.label, train.group, train.sha1, strict=True), key=lambda row: row[0])
        text = json.dumps({"classes": self.classes, "train": rows}, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def locked(self) -> LockedPart:
        """Identity of the test part: digests and labels of its images."""
        test = self.parts["test"]
        labels = (json.dumps(row) for row in zip(test.label, test.labels, strict=True))
        return LockedPart.of(zip(test.sha1, labels, strict=True))

    def has(self, kind: str, part: str | None = None) -> bool:
        """True if any case, of all parts or of one, has a field of this kind (see `OPTIONAL`)."""
        chosen = self.parts.values() if part is None else (self.parts[part],)
        column = OPTIONAL[kind][-1]
        return any(value is not None for entries in chosen for value in getattr(entries, column))

    @property
    def masked(self) -> bool:
        """True if any case has a mask."""
        return self.has("mask")

    def class_counts(self, part: str) -> dict[str, int]:
        """Return how many cases of each class a part has, in the order of `classes`."""
        counts = Counter(self.parts[part].label)
        return {name: counts[name] for name in self.classes}

    def matches(self, digest: str) -> bool:
        """True if `digest` is this split's hash, or one of a version that lacked masks, texts, labels, table, or what
        is uncertain."""
        return any(digest == known.hash for known in self._earlier())

    def _earlier(self) -> Iterator[Manifest]:
        """Yield this split with all its optional columns, then with ever fewer of them."""
        held = [kind for kind in OPTIONAL if self.has(kind)]
        for count in range(len(held) + 1):
            for left_out in combinations(held, count):
                yield self.without(*left_out) if left_out else self
        if any(UNCERTAIN in row for entries in self.parts.values() for row in entries.labels if row):
            yield from self._decided()._earlier()

    def _decided(self) -> Manifest:
        """Return this split with unknown in place of uncertain labels, as earlier versions read them."""

        def plain(row: Numbers | None) -> Numbers | None:
            return row if row is None else tuple(None if value == UNCERTAIN else value for value in row)

        return replace(
            self, parts={part: replace(e, labels=tuple(map(plain, e.labels))) for part, e in self.parts.items()}
        )

    def without(self, *kinds: str) -> Manifest:
        """Return the same split of the same cases, without these of their optional fields."""
        empty: dict[str, Any] = {column: () for kind in kinds for column in OPTIONAL[kind]}
        names: dict[str, Any] = {"label_names": ()} if "labels" in kinds else {}
        names |= {"columns": ()} if "table" in kinds else {}
        return replace(self, parts={part: replace(e, **empty) for part, e in self.parts.items()}, **names)

    def save(self, path: Path, *, audit: Mapping[str, Any] | None = None) -> None:
        """Write JSON atomically, including the audit's `to_dict()` if not None."""
        content = {"schema": SCHEMA, "hash": self.hash, **asdict(self), "audit": audit}
        lacking = [column for kind, columns in OPTIONAL.items() if not self.has(kind) for column in columns]
        for entries in content["parts"].values():
            for column in lacking:
                del entries[column]
            if not entries["metadata"]:
                del entries["metadata"]
        write_atomic(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def load(cls, path: Path, expected: str | None = None) -> Manifest:
        """Read and verify a saved manifest. Arguments and errors: see `read`."""
        return cls.read(path, expected)[0]

    @classmethod
    def read(cls, path: Path, expected: str | None = None) -> tuple[Manifest, dict[str, Any] | None]:
        """Read a saved manifest and the audit saved with it.

        Args:
            path: the file.
            expected: hash of the split that a study began with, from its journal; None: any split.

        Raises:
            DataError: no such file, not a manifest, its content does not match its hash, or it is another split.
        """
        back = " Put the study's own file back from a copy, or begin a new study." if expected else ""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise DataError(f"{path} must be a split manifest of schema {SCHEMA}, but got {content['schema']!r}.")
            parts = {part: _entries(content["parts"][part]) for part in PARTS}
            manifest = cls(
                classes=tuple(content["classes"]),
                parts=parts,
                excluded=content["excluded"],
                seed=content["seed"],
                folds=content["folds"],
                fold=content["fold"],
                source=content["source"],
                notes=tuple(content["notes"]),
                label_names=tuple(content.get("label_names", ())),
                columns=tuple(content.get("columns", ())),
                kind=content.get("kind", "image"),
                channels=content.get("channels", 1),
                patients=content.get("patients"),
            )
            claimed, audit = content["hash"], content.get("audit")
        except FileNotFoundError:
            raise DataError(f"The split manifest {path} does not exist.{back}") from None
        except OSError as error:
            raise DataError(f"{path} must be a file that can be read, but: {error.strerror}.{back}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} must be a split manifest, but it is not: {why}.{back}") from error
        if claimed != manifest.hash:
            raise DataError(
                f"{path} must not be edited, but its content has hash {manifest.hash[:12]} not {str(claimed)[:12]}."
                f"{back}"
            )
        if expected is not None and not manifest.matches(expected):
            raise DataError(
                f"{path} must be the split that the study began with ({expected[:12]}), but is another one "
                f"({manifest.hash[:12]}): scores on it can't be compared with the study's.{back}"
            )
        return manifest, audit

    def verify(self, other: Manifest) -> None:
        """Verify that `other` is the same split of the same images, and has the optional fields of this one.

        Raises:
            DataError: it is not; the message names the first differences.
        """
        held = [kind for kind in OPTIONAL if self.has(kind)]
        if self.hash == other.without(*(kind for kind in OPTIONAL if kind not in held)).hash:
            return
        mine, theirs = self._images(held), other._images(held)
        changed = sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])
        details = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (
                ("images are missing", sorted(mine.keys() - theirs.keys())),
                ("images are new", sorted(theirs.keys() - mine.keys())),
                (f"images changed their content, label, group, part or {' or '.join(held or ['mask'])}", changed),
            )
            if names
        ]
        why = "; ".join(details) or "seed, folds, classes or left-out cases differ"
        raise DataError(
            f"The split must be the one the study began with ({self.hash[:12]}), but got {other.hash[:12]}: {why}."
        )

    def _images(self, kinds: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        columns = ("label", "group", "sha1", *(OPTIONAL[kind][-1] for kind in kinds))
        return {
            name: (part, *rest)
            for part, e in self.parts.items()
            for name, *rest in zip(e.case_id, *(getattr(e, column) for column in columns), strict=True)
        }


def _entries(columns: Mapping[str, Any]) -> Entries:
    """Return the entries of one part as `Manifest.save` writes them."""
    metadata = {name: tuple(column) for name, column in columns.get("metadata", {}).items()}
    rest = {name: tuple(column) for name, column in columns.items() if name != "metadata"}
    return Entries(**rest, metadata=metadata)
