"""Shared cache folder for large derived files.

A file `x.<kind>` is built under a lock (`x.lock`) into `x.tmp` and renamed when complete. Its sidecar `x.json` is
written last and records the file's content and the Adler-32 of each MiB. A file that fails verification is rebuilt.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune.core.io import log_stderr, waiting, write_atomic
from lungtune.errors import DataError

HINT = "LUNGTUNE_CACHE moves the cache; it must name a folder that can be written."
_BLOCK = 1 << 20
_FULL_CHECK = 256  # blocks; a larger file has this many, evenly spread, checked at opening


def ensure_writable(folder: Path) -> None:
    """Create a folder of the cache and check that files can be written there.

    Raises:
        DataError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"The cache {folder} must be a folder that can be written, but: {error.strerror}. {HINT}"
        ) from error


def read_metadata(file: Path) -> dict[str, Any] | None:
    """Return the content of a file's JSON sidecar; None when it is missing or torn."""
    try:
        content = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class Shared:
    """A file of the cache.

    Attributes:
        file: its path.
        noun: what it is called in messages, such as `pixel store`.
        about: what it must hold; JSON.
        size: its length in bytes.
    """

    file: Path
    noun: str
    about: Mapping[str, Any]
    size: int

    @property
    def sound(self) -> bool:
        """True if it exists, has the expected content and is undamaged."""
        return self._flaw() == ""

    def open(self, build: Callable[[Path], None]) -> Path:
        """Return the file, building it first if it is missing or damaged (reported in one line).

        Args:
            build: fills the file at a path; the file already has its full length.

        Raises:
            DataError: the cache cannot be written, the disk is full or failing, or `build` raises it.
        """
        if self.sound:
            return self.file
        ensure_writable(self.file.parent)
        with waiting(self.file.with_suffix(".lock"), f"makes the {self.noun} {self.file.stem}"):
            wrong = self._flaw()
            if wrong:
                log_stderr(f"The {self.noun} {self.file.name} is damaged ({wrong}); rebuilding it.")
            if wrong != "":
                self._build(build)
                if self._flaw(checksums=False) != "":
                    raise DataError(
                        f"The {self.noun} just written to {self.file} cannot be read back: is the disk full or failing?"
                    )
        return self.file

    def _flaw(self, checksums: bool = True) -> str | None:
        """Return what is wrong with the file: empty when nothing is, None when it does not exist.

        Args:
            checksums: read the file and compare its checksums.
        """
        if not self.file.exists() and not self.file.with_suffix(".json").exists():
            return None
        held = read_metadata(self.file)
        if held is None:
            return "its description is missing or torn"
        if any(held.get(key) != value for key, value in self.about.items()):
            return "its description is of another content"
        try:
            if self.file.stat().st_size != self.size:
                return "it has the wrong length"
            sums = held.get("adler32", []) if checksums else []
            with self.file.open("rb") as stream:
                for block in sample(len(sums)):
                    stream.seek(block * _BLOCK)
                    if zlib.adler32(stream.read(_BLOCK)) != sums[block]:
                        return "its checksum is wrong"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        return ""

    def _build(self, build: Callable[[Path], None]) -> None:
        sidecar, temporary = self.file.with_suffix(".json"), self.file.with_suffix(".tmp")
        sidecar.unlink(missing_ok=True)
        self._reserve(temporary)
        build(temporary)
        with temporary.open("r+b") as stream:
            sums = []
            while block := stream.read(_BLOCK):
                sums.append(zlib.adler32(block))
            os.fsync(stream.fileno())
        os.replace(temporary, self.file)
        write_atomic(sidecar, json.dumps({**self.about, "adler32": sums}).encode())

    def _reserve(self, file: Path) -> None:
        """Allocate all blocks of a file: writing through a memory map to a full disk would kill the process.

        Raises:
            DataError: the disk is full or the cache may not be written.
        """
        try:
            with file.open("wb") as stream:
                stream.truncate(self.size)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, self.size)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise DataError(
                f"The cache {file.parent} must take {self.size / 1e6:,.0f} MB for the {self.noun}, but: "
                f"{error.strerror}. {HINT}"
            ) from error


def sample(blocks: int) -> Iterator[int]:
    """Yield the blocks that are checked of so many: all of them, or 256 evenly spread."""
    count = min(blocks, _FULL_CHECK)
    return (round(i * (blocks - 1) / max(1, count - 1)) for i in range(count))
