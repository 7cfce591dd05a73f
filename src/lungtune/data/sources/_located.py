"""Files that a table names, located as they lie on this machine."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lungtune.data.sources._files import SUFFIXES


class Locator:
    """Maps paths as tables write them to files.

    Beyond the path as written it tries, folder by folder: `\\` as `/`, other Unicode forms of one name (`a` + umlaut),
    names stored in the table's own encoding, other case, and a name without suffix. A match must be unique.
    """

    def __init__(self, root: Path, encoding: str = "utf-8") -> None:
        self._root = root
        self._encoding = "cp1252" if encoding in ("xlsx", "utf-8") else encoding
        self._listings: dict[str, dict[str, list[str]]] = {}

    def name(self, text: str) -> str:
        """Return a path as a case id: with `/`, without `.` parts."""
        if "\\" in text and not os.path.lexists(self._root / text):
            text = text.replace("\\", "/")
        return Path(text).as_posix()

    def find(self, name: str) -> str | None:
        """Return the absolute path of the file that `name` means, or None."""
        plain = str(self._root / name)
        if os.path.exists(plain):
            return plain
        folder, *parts = ("/", *PurePosixPath(name).parts[1:]) if name.startswith("/") else (str(self._root), name)
        parts = [part for piece in parts for part in PurePosixPath(piece).parts]
        for depth, part in enumerate(parts):
            step = os.path.join(folder, part)
            if not os.path.exists(step):
                matches = self._matches(folder, part, last=depth == len(parts) - 1)
                if len(matches) != 1:
                    return None
                step = os.path.join(folder, matches[0])
            folder = step
        return folder

    def _matches(self, folder: str, part: str, last: bool) -> list[str]:
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                for entry in os.listdir(folder):
                    listing.setdefault(_plain(self._decoded(entry)), []).append(entry)
                    stem, suffix = os.path.splitext(entry)
                    if suffix.lower() in SUFFIXES:
                        listing.setdefault(f"{_plain(self._decoded(stem))}/", []).append(entry)
            except OSError:
                pass
            self._listings[folder] = listing
        known = self._listings[folder]
        return known.get(_plain(part)) or (known.get(f"{_plain(part)}/", []) if last else [])

    def _decoded(self, entry: str) -> str:
        try:
            entry.encode()
            return entry
        except UnicodeEncodeError:
            return os.fsencode(entry).decode(self._encoding, "replace")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def common_folders(names: Sequence[str]) -> list[str]:
    """Return the leading folders that all paths share, nearest to the root first."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders, default=()), max(folders, default=())
    return [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
